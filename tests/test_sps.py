"""The matrix-product model against an explicit sum over bins with scipy's interpolation."""

from typing import Any

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.dust import attenuation_curve
from sedcast.emulator.histories import HistoryGrid
from sedcast.emulator.prior import Prior
from sedcast.emulator.sps import SPSModel


@pytest.fixture
def library() -> SSPLibrary:
    rng = np.random.default_rng(11)
    log_age = np.array([6.3, 7.0, 8.0, 8.2, 9.0, 9.7, 10.0])
    flux = rng.uniform(0.1, 1, (3, 7, 20))
    return SSPLibrary(np.geomspace(1000, 3e4, 20), log_age, np.array([-4.0, -2.3, -1.5]), flux, name="toy")


@pytest.fixture
def bases() -> SFHBases:
    return SFHBases.default()


def explicit_spectrum(theta: np.ndarray, t_age: float, library: SSPLibrary, grid: HistoryGrid) -> np.ndarray:
    """One galaxy: SSPs one by one, young and old nodes apart by masking the library."""
    grids = (library.log_z, library.log_age)
    young_node = (library.log_age <= 8.0)[None, :, None]
    ssp = [RegularGridInterpolator(grids, np.where(mask, library.flux.astype(float), 0)) for mask in (young_node, ~young_node)]
    beta, gamma = theta[None, 1:5], theta[None, 7:9]
    index, centre = grid.closing_bin(np.array([t_age]))
    ages = np.append(grid.centres_gyr[: index[0]], centre)
    f_burst = theta[5] if theta[6] <= t_age else 0.0
    masses = (1 - f_burst) * grid.masses(beta, np.array([t_age]))[0]
    parts = np.zeros((2, library.wave_rest.size))
    populations = [(mass, age, grid.metallicity_at(gamma, np.array([age]))[0]) for mass, age in zip(masses, ages, strict=False)]
    populations.append((f_burst, theta[6], grid.metallicity_at(gamma, theta[6:7])[0]))
    for mass, age, z in populations:
        point = (
            np.clip(np.log10(z), library.log_z[0], library.log_z[-1]),
            np.clip(np.log10(age) + 9, library.log_age[0], library.log_age[-1]),
        )
        for part, interpolator in zip(parts, ssp, strict=True):
            part += mass * interpolator([point])[0]
    birth_cloud = np.exp(-theta[9] * 5500 / library.wave_rest)
    diffuse = np.exp(-theta[10] * attenuation_curve(library.wave_rest, theta[11])[0])
    return 10 ** theta[0] * (parts[0] * birth_cloud + parts[1]) * diffuse


def test_spectra_are_sums_over_bins(library: SSPLibrary, bases: SFHBases, rng: np.random.Generator) -> None:
    model = SPSModel(library, bases)
    theta, zred = Prior().sample(30, 7), rng.uniform(0, 0.5, 30)
    expected = [
        explicit_spectrum(row, age, library, HistoryGrid(bases))
        for row, age in zip(theta, Cosmology().age_gyr(zred), strict=True)
    ]
    np.testing.assert_allclose(model.spectra(theta, zred), expected, rtol=1e-10)


def test_single_precision_is_enough(bases: SFHBases) -> None:
    library = SSPLibrary.popstar().trimmed(1500, 6e4)
    theta = Prior(dust1=(0, 1), dust2=(0, 1)).sample(50, 8)
    double = SPSModel(library, bases).spectra(theta, 0.1)
    single = SPSModel(library, bases, dtype=np.float32).spectra(theta, 0.1)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=1e-5)


def test_chunks_do_not_show(library: SSPLibrary, bases: SFHBases, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SPSModel(library, bases)
    theta, zred = Prior().sample(100, 9), np.linspace(0, 0.3, 100)
    whole = model.spectra(theta, zred)
    monkeypatch.setattr("sedcast.emulator.sps._CHUNK_ELEMENTS", 400)
    np.testing.assert_allclose(model.spectra(theta, zred), whole, rtol=1e-12)
    np.testing.assert_allclose(model.spectra(theta[:1], zred[:1]), whole[:1], rtol=1e-12)


def test_basis_and_burst_spectra_compose_the_model(library: SSPLibrary, bases: SFHBases) -> None:
    model = SPSModel(library, bases)
    theta = Prior(dust1=(0, 1e-12), dust2=(0, 1e-12), tburst=(0.01, 12)).sample(20, 10)
    t_age = model.cosmology.age_gyr(np.full(20, 0.05))
    total = model.histories.total(t_age)
    amount = theta[:, 1:5] / total.T
    n_bin = model.histories.n_complete(t_age.min()) - 3
    young, old = model.basis_spectra(theta[:, 7:9], n_bin)
    late = model.histories.later_bins(n_bin, amount, theta[:, 7:9], t_age, total)
    late_young, late_old = np.zeros((2, 20, 20))
    model.add_ssps(late_young, late_old, *late)
    assert not late_young.any()
    z = model.histories.metallicity_at(theta[:, 7:9], theta[:, 6])
    burst_young, burst_old = model.ssp_spectra(theta[:, 6], z)
    assert young.shape == old.shape == (20, 4, 20)
    smooth = np.einsum("ni,niw->nw", amount, young + old) + late_old
    f_burst = theta[:, 5:6]
    expected = 10 ** theta[:, :1] * ((1 - f_burst) * smooth + f_burst * (burst_young + burst_old))
    np.testing.assert_allclose(model.spectra(theta, 0.05), expected, rtol=1e-9)


def test_an_ssp_on_a_node_is_the_library_and_beyond_the_grid_the_nearest(library: SSPLibrary, bases: SFHBases) -> None:
    model = SPSModel(library, bases)
    age, z = 10 ** np.array([7.0, 9.0, 2.0, 10.2]) / 1e9, 10 ** np.array([-2.3, -4.0, -6.0, -1.0])
    young, old = model.ssp_spectra(age, z)
    np.testing.assert_allclose(young[0], library.flux[1, 1], rtol=1e-6)
    np.testing.assert_allclose(old[1], library.flux[0, 4], rtol=1e-6)
    np.testing.assert_allclose(young[2], library.flux[0, 0], rtol=1e-6)
    np.testing.assert_allclose(old[3], library.flux[2, 6], rtol=1e-6)
    assert not old[[0, 2]].any()
    assert not young[[1, 3]].any()
    # Between the last age in birth clouds and the next, half of the light is veiled.
    young, old = model.ssp_spectra(10 ** np.array([8.1]) / 1e9, 10 ** np.array([-4.0]))
    np.testing.assert_allclose(young[0], library.flux[0, 2] / 2, rtol=1e-6)
    np.testing.assert_allclose(old[0], library.flux[0, 3] / 2, rtol=1e-6)


def test_birth_clouds_may_hold_no_or_all_stars(library: SSPLibrary, bases: SFHBases) -> None:
    theta = Prior(dust1=(2, 3)).sample(5, 12)
    none = SPSModel(library, bases, t_birth_cloud_gyr=1e-6).spectra(theta, 0.1)
    every = SPSModel(library, bases, t_birth_cloud_gyr=100.0).spectra(theta, 0.1)
    cloud = np.exp(-theta[:, 9:10] * 5500 / library.wave_rest)
    np.testing.assert_allclose(every, none * cloud, rtol=1e-10)


def test_no_galaxies_give_no_spectra(library: SSPLibrary, bases: SFHBases) -> None:
    assert SPSModel(library, bases).spectra(np.empty((0, 12)), np.empty(0)).shape == (0, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t_birth_cloud_gyr": 0.0}, "t_birth_cloud_gyr must be positive"),
        ({"t_birth_cloud_gyr": np.nan}, "t_birth_cloud_gyr must be positive"),
        ({"dtype": np.int32}, "dtype must be"),
    ],
)
def test_impossible_settings_are_refused(library: SSPLibrary, bases: SFHBases, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SPSModel(library, bases, **arguments)


def test_impossible_input_is_refused(library: SSPLibrary, bases: SFHBases) -> None:
    model = SPSModel(library, bases)
    theta = Prior().sample(2, 1)
    for zred in (-0.1, np.nan, 50.0):
        with pytest.raises(ParameterError, match="zred must be finite"):
            model.spectra(theta, zred)
    with pytest.raises(ParameterError, match="gamma must have shape"):
        model.basis_spectra(np.ones((2, 3)), 40)
    with pytest.raises(ParameterError, match="gamma must be finite"):
        model.basis_spectra(np.array([[-1.0, 1.0]]), 40)
    for n_bin in (0, 43):
        with pytest.raises(ParameterError, match="n_bin must be 1"):
            model.basis_spectra(np.ones((1, 2)), n_bin)
    with pytest.raises(ParameterError, match="both have shape"):
        model.ssp_spectra(np.ones(2), np.ones(3))
    with pytest.raises(ParameterError, match="age_gyr must be positive"):
        model.ssp_spectra(np.zeros(1), np.ones(1))


@pytest.mark.published
def test_the_published_bases_drive_the_model(published_dir: Any) -> None:
    model = SPSModel(SSPLibrary.popstar(), SFHBases.from_published(published_dir / "provabgs"))
    spectra = model.spectra(Prior().sample(20, 2), np.linspace(0.01, 0.2, 20))
    assert spectra.shape == (20, 1229)
    assert np.isfinite(spectra).all()
    assert (spectra[:, model.wave_rest > 3000] > 0).all()
