"""The small emulator of a few bands."""

from dataclasses import replace

import numpy as np
import pytest
from small_bands import BANDS, SMALL, ZRED_RANGE, galaxies, small_band_emulator, trained

from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.emulator.band_emulator import BandEmulator
from sedcast.emulator.band_training import BandGalaxies
from sedcast.emulator.dust import attenuation_at, attenuation_curve
from sedcast.emulator.histories import column
from sedcast.emulator.prior import Prior


def test_it_learns_the_photometry():
    emulator, figures = small_band_emulator()
    fresh = galaxies(1000, 9)
    expected = 10 ** fresh.theta[:, :1] * fresh.unit_flux
    error = np.abs(2.5 * np.log10(emulator.flux(fresh.theta, fresh.zred) / expected))
    # The recipes of the bundled posteriors train networks four times as wide ten times as long.
    assert np.median(error) < 0.05
    assert figures["chi2"] == pytest.approx(np.mean(np.sum((error * 30 / 1.0857) ** 2, axis=1)), rel=2)
    assert figures["n_galaxies"] == SMALL.n_galaxies


def test_fluxes_are_linear_in_the_five_amplitudes():
    emulator, _ = small_band_emulator()
    theta = emulator.prior.sample(50, 3)
    theta[:, column("tburst")] = np.minimum(theta[:, column("tburst")], 9.0)
    zred = np.random.default_rng(4).uniform(*ZRED_RANGE, 50)
    light = emulator.components(theta, zred)
    assert light.shape == (50, 5, len(BANDS))
    f = theta[:, column("fburst"), None]
    beta = theta[:, column("beta1_sfh") : column("beta4_sfh") + 1]
    expected = 10 ** theta[:, :1] * ((1 - f) * np.einsum("nc,ncb->nb", beta, light[:, :4]) + f * light[:, 4])
    np.testing.assert_allclose(emulator.flux(theta, zred), expected, rtol=1e-5)
    # A burst before the beginning of the galaxy adds nothing.
    theta[:, column("tburst")] = 13.2
    early = emulator.flux(theta, np.full(50, 0.29))
    theta[:, column("fburst")] = 0.0
    np.testing.assert_allclose(emulator.flux(theta, np.full(50, 0.29)), early, rtol=1e-6)


def test_redshifts_may_be_fewer_than_parameters():
    emulator, _ = small_band_emulator()
    theta = emulator.prior.sample(12, 5)
    zred = np.array([0.02, 0.1, 0.25])
    np.testing.assert_allclose(emulator.components(theta, zred), emulator.components(theta, np.repeat(zred, 4)), rtol=1e-5)


def test_dust_at_single_wavelengths_is_that_of_the_curve():
    wave = np.array([[1500.0, 2175.0, 5500.0], [6400.0, 9000.0, 3000.0]])
    index = np.array([[-1.0, 0.3], [0.0, 0.9]])
    found = attenuation_at(wave, index)
    for k in range(2):
        np.testing.assert_allclose(found[k], attenuation_curve(wave[k], index[k]), rtol=1e-12)


@pytest.mark.parametrize("ages", [(0.0, 13.27), (0.0, 5e-6), (14.0, 20.0)])
def test_bursts_beyond_the_ages_of_the_library(ages):
    data, prior = galaxies(300, 2), Prior(tburst=ages)
    data.theta[:, column("tburst")] = np.linspace(*ages, 300)
    emulator, _ = trained(SMALL.model_copy(update={"steps": 2}), data, prior=prior)
    assert np.isfinite(emulator.components(data.theta, data.zred)).all()


def test_arrays_make_the_same_emulator():
    emulator, _ = small_band_emulator()
    again = BandEmulator.from_arrays(emulator.to_arrays())
    assert (again.bands, again.prior, again.cosmology) == (emulator.bands, emulator.prior, emulator.cosmology)
    theta = emulator.prior.sample(5, 6)
    np.testing.assert_array_equal(again.flux(theta, np.full(5, 0.1)), emulator.flux(theta, np.full(5, 0.1)))


def test_training_repeats_with_its_seed():
    short, data = SMALL.model_copy(update={"steps": 5}), galaxies(600, 2)
    one, two = (trained(short, data)[0] for _ in range(2))
    for name, array in one.arrays.items():
        np.testing.assert_allclose(two.arrays[name], array, rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_filter_curve_of_ones_own(tmp_path):
    wave = np.linspace(5600.0, 7000.0, 50)
    np.savetxt(tmp_path / "wide.txt", np.column_stack([wave, np.exp(-(((wave - 6300) / 350) ** 2))]))
    bands = ("g", str(tmp_path / "wide.txt"))
    data = galaxies(300, 2)
    two = replace(data, unit_flux=data.unit_flux[:, 1:3], signal_to_noise=data.signal_to_noise[:, 1:3])
    emulator, _ = trained(SMALL.model_copy(update={"steps": 2}), two, bands)
    assert emulator.bands == ("g", "wide")
    assert emulator.arrays["wave"][1] == pytest.approx(6300, abs=10)


def test_bad_input_is_refused():
    emulator, _ = small_band_emulator()
    theta = emulator.prior.sample(2, 0)
    with pytest.raises(ParameterError, match=r"zred=0.5: this emulator of bands serves 0.005 … 0.3"):
        emulator.flux(theta, np.array([0.1, 0.5]))
    theta[1, column("dust2")] = 7
    with pytest.raises(ParameterError, match="dust2"):
        emulator.flux(theta, np.array([0.1, 0.2]))
    arrays = emulator.to_arrays()
    for changed, message in (
        ({"base": np.zeros(3)}, "'base'"),
        ({"base": np.full(5, np.nan)}, "non-finite"),
        ({"burst_kernel_1": np.zeros((3, 16), np.float32)}, "'burst'"),
        ({"history_kernel_0": np.zeros((3, 16), np.float32)}, "'history'"),
        ({"zh": np.zeros((2, 3))}, "'zh'"),
        ({"age_nodes": np.array([8.0])}, "'age_nodes'"),
        ({"config": np.frombuffer(b"{}", dtype=np.uint8)}, "config"),
    ):
        with pytest.raises(ArtifactError, match=message):
            BandEmulator.from_arrays(arrays | changed)
    with pytest.raises(ArtifactError, match="age_nodes"):
        BandEmulator.from_arrays({name: array for name, array in arrays.items() if name != "age_nodes"})
    with pytest.raises(ArtifactError, match="burst_bias_2"):
        BandEmulator.from_arrays({name: array for name, array in arrays.items() if name != "burst_bias_2"})
    few = galaxies(200, 2)
    with pytest.raises(ParameterError, match=r"expected \(200, 4\) of both"):
        trained(SMALL, few, BANDS[:4])
    with pytest.raises(ParameterError, match="no galaxy has light in u, z"):
        trained(SMALL, replace(few, unit_flux=few.unit_flux * [0, 1, 1, 1, 0]))
    with pytest.raises(ParameterError, match=r"expected \(0, 5\)"):
        trained(SMALL, BandGalaxies(*(values[:0] for values in vars(few).values())))
    with pytest.raises(ArtifactError, match="do not fit"):
        replace(emulator, bands=("u", "g", "r", "i"), arrays=dict(emulator.arrays) | {"base": np.zeros(4), "wave": np.ones(4)})
