import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import stats

from sedcast.data.config import parse_config
from sedcast.data.errors import ConfigError, ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, Prior
from sedcast.emulator.simulate import (
    PhotometrySimulator,
    RedshiftRange,
    SimulationConfig,
    _within_reach,
    draw_galaxies,
    noise_model,
    simulate,
)
from sedcast.emulator.sps import SPSModel

BANDS = ("u", "g", "r", "i", "z")


@pytest.fixture(scope="module")
def simulator() -> PhotometrySimulator:
    model = SPSModel(SSPLibrary.popstar().trimmed(2000.0, 12_000.0), dtype=np.float32)
    return PhotometrySimulator(model, BANDS, 0.3)


def test_photometry_does_not_depend_on_batching_or_threads(simulator: PhotometrySimulator) -> None:
    theta = Prior().sample(1200, 1)
    zred = np.random.default_rng(2).uniform(0.01, 0.3, 1200)
    together = simulator.flux(theta, zred, n_threads=2)
    assert np.allclose(together, simulator.flux(theta, zred), rtol=1e-5)
    one_by_one = np.vstack([simulator.flux(theta[i : i + 1], zred[i : i + 1]) for i in range(0, 1200, 200)])
    assert np.allclose(together[::200], one_by_one, rtol=1e-5)


def test_flux_is_that_of_the_full_spectrum(simulator: PhotometrySimulator) -> None:
    theta, zred = Prior().sample(5, 3), np.full(5, 0.1)
    assert np.allclose(
        simulator.flux(theta, zred), simulator.projection.flux(simulator.model.spectra(theta, zred), zred), rtol=1e-5
    )


def test_masses_within_reach_give_the_prior_cut_to_what_is_observed(simulator: PhotometrySimulator) -> None:
    """The short cut over masses against plain rejection: the same distribution of what is kept."""
    prior, noise = Prior(), NoiseModel.sdss(BANDS)
    n = 60_000
    rng = np.random.default_rng(8)
    theta, zred = prior.sample(n, 4), rng.uniform(0.01, 0.3, n)
    flux = simulator.flux(theta, zred, n_threads=2)

    def kept(theta: np.ndarray, zred: np.ndarray, flux: np.ndarray) -> np.ndarray:
        observed, sigma, log_weight = noise.draw(flux, rng)
        keep = noise.accept(log_weight, rng) & noise.in_range(observed, sigma)
        return np.column_stack([prior.to_unbounded(theta[keep]), zred[keep], np.log(flux[keep, 2])])

    plain = kept(theta, zred, flux)
    quick = kept(*_within_reach(theta, zred, flux, prior, noise, rng))
    assert len(quick) > 1.5 * len(plain)
    pvalues = [stats.ks_2samp(plain[:, k], quick[:, k]).pvalue for k in range(plain.shape[1])]
    assert min(pvalues) * len(pvalues) > 1e-2, dict(zip((*FREE_PARAMETER_NAMES, "zred", "flux"), pvalues, strict=True))


def test_stream_does_not_depend_on_workers(simulator: PhotometrySimulator) -> None:
    noise = NoiseModel.sdss(BANDS)
    streams = [
        next(iter(draw_galaxies(simulator, Prior(), noise, RedshiftRange(), seed=3, n_workers=workers)))[1]
        for workers in (1, 2)
    ]
    assert np.array_equal(streams[0].zred, streams[1].zred)
    assert np.allclose(streams[0].flux, streams[1].flux, rtol=1e-5)


def test_simulated_file_holds_what_was_asked(simulator: PhotometrySimulator, tmp_path: Path) -> None:
    config = SimulationConfig(n_galaxies=700, seed=5, bands=BANDS)
    figures = simulate(config, tmp_path / "mocks.h5", simulator=simulator)
    assert figures["n_galaxies"] == 700
    noise = NoiseModel.sdss(BANDS)
    with h5py.File(tmp_path / "mocks.h5") as file:
        theta, zred, flux, ivar, true = (file[k][:] for k in ("theta", "zred", "flux", "flux_ivar", "flux_true"))
        assert file["theta_unbounded"].shape == (700, 11)
        assert json.loads(file.attrs["config"])["seed"] == 5
        assert list(file.attrs["bands"]) == list(BANDS)
    assert np.allclose(simulator.flux(theta, zred), true, rtol=2e-3)
    # A row on the edge of the range may leave it by the rounding to float32.
    assert noise.in_range(flux.astype(float), ivar.astype(float) ** -0.5).mean() > 0.99
    pull = (flux - true) * np.sqrt(ivar)
    assert 0.9 < pull.std() < 1.1
    assert list(tmp_path.iterdir()) == [tmp_path / "mocks.h5"]


def test_galex_bands_are_simulated_with_the_bundled_noise() -> None:
    assert noise_model(SimulationConfig(n_galaxies=1, bands=("FUV", "NUV", "u"))).bands == ("FUV", "NUV", "u")


def test_a_failure_leaves_no_file(simulator: PhotometrySimulator, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(SimulationConfig(n_galaxies=10**6), tmp_path / "mocks.h5", simulator=simulator, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"n_galaxies": 0}, "n_galaxies"),
        ({"n_galaxies": 10, "bands": ["u", "q"]}, "unknown band 'q'"),
        ({"n_galaxies": 10, "zred": {"min": 0.3, "max": 0.1}}, "must be below"),
        ({"n_galaxies": 10, "prior": {"dust3": [0, 1]}}, "dust3"),
        ({"n_galaxies": "many"}, "n_galaxies"),
        ({"n_galaxies": 10, "galaxies": 10}, "unknown key 'galaxies'"),
    ],
)
def test_bad_configuration_names_the_key(values: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_config(values, SimulationConfig)


def test_filters_beyond_the_spectra_are_refused() -> None:
    model = SPSModel(SSPLibrary.popstar().trimmed(3000.0, 12_000.0), dtype=np.float32)
    with pytest.raises(ParameterError, match="'u' covers rest frame"):
        PhotometrySimulator(model, BANDS, 0.3)
