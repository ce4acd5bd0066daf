"""Rest-frame magnitudes against speclite and astropy, and against photometry of a galaxy that is hardly redshifted."""

from pathlib import Path

import numpy as np
import pytest
import speclite.filters
from astropy import units as u
from astropy.cosmology import Planck13

from sedcast.data.errors import ParameterError
from sedcast.data.filters import BANDS, LSUN_ERG_S
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.posterior import PosteriorEstimator, rest_frame_magnitudes
from sedcast.posterior.exact import rows_at_most

RED_BLUE = ("NUV", "r", "bessell-U", "bessell-V", "J")


@pytest.fixture(scope="module")
def emulator() -> SpectrumEmulator:
    return SpectrumEmulator.default()


@pytest.fixture(scope="module")
def estimator() -> PosteriorEstimator:
    return PosteriorEstimator.default()


def draws(estimator: PosteriorEstimator, n_row: int, n: int) -> dict[str, np.ndarray]:
    """Samples by name, (n_row, n)."""
    theta = estimator.prior.sample(n_row * n, 4).reshape(n_row, n, -1)
    return {name: theta[..., column] for column, name in enumerate(PARAMETER_NAMES)}


def test_magnitudes_are_those_by_hand(estimator: PosteriorEstimator, emulator: SpectrumEmulator) -> None:
    samples, zred = draws(estimator, 3, 8), np.array([0.02, 0.1, 0.28])
    found = rest_frame_magnitudes(samples, RED_BLUE, estimator=estimator, zred=zred, n_samples=8)
    assert tuple(found) == RED_BLUE
    wave = np.arange(913.0, 30_000.0)
    area = 4 * np.pi * (10 * u.pc).to(u.cm) ** 2
    for row in range(3):
        theta = np.stack([samples[name][row] for name in PARAMETER_NAMES], axis=1)
        spectra = emulator.spectra(theta, np.full(8, zred[row]))
        dense = np.stack([np.interp(wave, emulator.wave_rest, one) for one in spectra]) * LSUN_ERG_S
        for band in RED_BLUE:
            response = speclite.filters.load_filter(BANDS.get(band, band))
            expected = response.get_ab_magnitude(dense * u.erg / u.s / u.AA / area, wave * u.AA)
            np.testing.assert_allclose(found[band][row], expected, atol=2e-3, err_msg=band)


def test_a_galaxy_next_door_has_its_apparent_magnitude_less_the_distance_modulus(emulator: SpectrumEmulator) -> None:
    theta = PosteriorEstimator.default().prior.sample(50, 5)
    simulator = PhotometrySimulator(emulator, RED_BLUE, 0.3)
    zred = 1e-5
    apparent = 22.5 - 2.5 * np.log10(simulator.flux(theta, np.full(50, zred)))
    modulus = Planck13.distmod(zred).value
    np.testing.assert_allclose(simulator.absolute_magnitudes(theta, zred), apparent - modulus, atol=1e-3)


def test_the_redshift_sets_the_age_and_no_more(emulator: SpectrumEmulator, estimator: PosteriorEstimator) -> None:
    """A galaxy of one burst has the same spectrum at every redshift."""
    samples = {name: np.repeat(values[:, :1], 2, axis=0) for name, values in draws(estimator, 1, 1).items()}
    samples |= {"fburst": np.ones((2, 1)), "tburst": np.full((2, 1), 3.0)}
    found = rest_frame_magnitudes(samples, ("r",), estimator=estimator, zred=np.array([0.01, 0.3]), model=emulator)["r"]
    assert found[0, 0] == pytest.approx(found[1, 0], abs=1e-5)
    samples["fburst"][:] = 0
    found = rest_frame_magnitudes(samples, ("r",), estimator=estimator, zred=np.array([0.01, 0.3]), model=emulator)["r"]
    assert abs(found[0, 0] - found[1, 0]) > 0.01


def test_samples_are_thinned_and_rows_without_a_posterior_stay(
    estimator: PosteriorEstimator, emulator: SpectrumEmulator, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("5000 1\n6000 1\n", encoding="utf-8")
    bands = ("r", str(tmp_path / "mine.txt"))
    samples = {name: values.copy() for name, values in draws(estimator, 3, 30).items()}
    for values in samples.values():
        values[1] = np.nan
    zred = np.array([0.1, np.nan, 0.2])
    every = rest_frame_magnitudes(samples, bands, estimator=estimator, zred=zred, model=emulator)
    assert tuple(every) == ("r", "mine")
    assert {values.shape for values in every.values()} == {(3, 30)}
    some = rest_frame_magnitudes(samples, bands, estimator=estimator, zred=zred, n_samples=7, model=emulator)
    last = {name: values[2] for name, values in samples.items()}
    one = rest_frame_magnitudes(last, bands, estimator=estimator, zred=0.2, model=emulator)
    for band, values in every.items():
        np.testing.assert_array_equal(np.isnan(values), np.isnan(zred)[:, None].repeat(30, axis=1))
        np.testing.assert_allclose(some[band], values[:, rows_at_most(30, 7)], atol=1e-5)
        np.testing.assert_allclose(one[band], values[2], atol=1e-5)
    nothing = {name: values[1] for name, values in samples.items()}
    assert np.isnan(rest_frame_magnitudes(nothing, bands, estimator=estimator, zred=np.nan, model=emulator)["r"]).all()


def test_inferred_redshifts_and_half_precision(emulator: SpectrumEmulator) -> None:
    estimator = PosteriorEstimator.find("sdss-photoz")
    assert estimator.redshift_prior is not None
    samples = draws(estimator, 2, 20)
    zred = estimator.redshift_prior.sample(40, np.random.default_rng(6)).reshape(2, 20)
    zred[0, 0] = estimator.redshift_prior.max
    found = rest_frame_magnitudes(samples | {"zred": zred}, ("r",), estimator=estimator, model=emulator)["r"]
    half = {name: values.astype(np.float16) for name, values in (samples | {"zred": zred}).items()}
    close = rest_frame_magnitudes(half, ("r",), estimator=estimator, model=emulator)["r"]
    assert np.median(np.abs(found - close)) < 0.02
    theta = np.stack([samples[name][1] for name in PARAMETER_NAMES], axis=1)
    expected = PhotometrySimulator(emulator, ("r",), 0.3).absolute_magnitudes(theta, zred[1])[:, 0]
    np.testing.assert_allclose(found[1], expected, atol=1e-5)
    # Of samples that are thinned, the redshifts are their own.
    some = rest_frame_magnitudes(samples | {"zred": zred}, ("r",), estimator=estimator, n_samples=6, model=emulator)["r"]
    np.testing.assert_allclose(some, found[:, rows_at_most(20, 6)], atol=1e-5)


def test_bad_input_is_named(estimator: PosteriorEstimator, emulator: SpectrumEmulator) -> None:
    samples = {name: values[0] for name, values in draws(estimator, 1, 5).items()}
    lacking = {name: values for name, values in samples.items() if name != "dust2"}
    two_rows = draws(estimator, 2, 5)
    cases = [
        (samples, ("wise2010-W2",), {"zred": 0.1}, r"'wise2010-W2' covers rest frame 38900–55400 Å, but .* 912–49900 Å: drop"),
        (samples, ("q",), {"zred": 0.1}, "unknown band 'q'"),
        (samples, ("r", "r"), {"zred": 0.1}, "repetition"),
        (samples, ("r",), {}, "redshift must be given once"),
        (samples | {"zred": np.full(5, 0.1)}, ("r",), {"zred": 0.1}, "redshift must be given once"),
        (samples, ("r",), {"zred": np.full(5, 0.1)}, r"zred has shape \(5,\), expected one redshift or \(\)"),
        (samples, ("r",), {"zred": np.nan}, "zred"),
        (samples, ("r",), {"zred": 0.5}, "zred=0.5: the emulator serves"),
        (samples, ("r",), {"zred": "near"}, "zred must be an array of numbers"),
        # What lies below a mask is no redshift.
        (two_rows, ("r",), {"zred": np.ma.array([0.1, 0.2], mask=[False, True])}, "zred"),
        (samples, ("r",), {"zred": 0.1, "n_samples": 0}, "n_samples=0: must be an integer of at least 1"),
        (lacking, ("r",), {"zred": 0.1}, "samples lack dust2"),
        (samples | {"dust2": np.full(5, 7.0)}, ("r",), {"zred": 0.1}, "dust2"),
        (dict.fromkeys(PARAMETER_NAMES, 0.1), ("r",), {"zred": 0.1}, r"arrays of shape \(\), expected \(n,\)"),
    ]
    for given, bands, options, message in cases:
        with pytest.raises(ParameterError, match=message):
            rest_frame_magnitudes(given, bands, estimator=estimator, model=emulator, **options)
