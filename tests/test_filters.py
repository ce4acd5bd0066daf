from pathlib import Path

import numpy as np
import pytest
import speclite.filters
from astropy import units as u

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.filters import BANDS, FilterProjection, band_name, flux_density, load_filter

WAVE = np.geomspace(800.0, 40_000.0, 3000)


def bumpy_spectra(n: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    slope = rng.uniform(-2, 1, (n, 1))
    wiggle = 1 + 0.3 * np.sin(np.log(WAVE) * rng.uniform(20, 80, (n, 1)) + rng.uniform(0, 6, (n, 1)))
    return 1e6 * (WAVE / 5500.0) ** slope * wiggle


def observed(row_spectrum: np.ndarray, zred: float, cosmology: Cosmology) -> tuple[np.ndarray, np.ndarray]:
    distance = cosmology.luminosity_distance_cm(np.array([zred]))[0]
    # A solar luminosity is 3.839e33 erg/s, as in FSPS.
    return WAVE * (1 + zred), row_spectrum * 3.839e33 / (4 * np.pi * distance**2 * (1 + zred))


def test_fluxes_agree_with_fine_quadrature() -> None:
    n, bands, cosmology = 25, tuple(BANDS), Cosmology()
    spectra = bumpy_spectra(n)
    zred = np.random.default_rng(1).uniform(0.003, 0.3, n)
    flux = FilterProjection(bands, WAVE, 0.3, cosmology).flux(spectra, zred)
    for row in range(n):
        wave_obs, density = observed(spectra[row], zred[row], cosmology)
        for column, band in enumerate(bands):
            curve = load_filter(band)
            fine = np.linspace(curve.wave[0], curve.wave[-1], 200_001)
            response = np.interp(fine, curve.wave, curve.response)
            photons = np.trapezoid(fine * response * np.interp(fine, wave_obs, density), fine)
            reference = np.trapezoid(response / fine, fine) * 2.99792458e18 * 3.631e-20
            assert flux[row, column] * 1e-9 == pytest.approx(photons / reference, rel=1e-4), band


def test_fluxes_agree_with_speclite() -> None:
    # speclite integrates on the filter's own nodes, up to 25 Å apart: hence smooth spectra and 1e-3 here.
    n, bands, cosmology = 10, tuple(BANDS), Cosmology()
    spectra = 1e6 * (WAVE / 5500.0) ** np.linspace(-2, 1, n)[:, None]
    zred = np.linspace(0.01, 0.3, n)
    flux = FilterProjection(bands, WAVE, 0.3, cosmology).flux(spectra, zred)
    for row in range(n):
        wave_obs, density = observed(spectra[row], zred[row], cosmology)
        for column, band in enumerate(bands):
            response = speclite.filters.load_filter(BANDS[band])
            expected = response.get_ab_maggies(density * u.erg / u.s / u.cm**2 / u.AA, wave_obs * u.AA)
            assert flux[row, column] * 1e-9 == pytest.approx(expected, rel=1e-3), band


def test_flux_densities_have_the_fluxes_of_the_bands() -> None:
    bands, zred, cosmology = ("g", "r", "z"), np.array([0.02, 0.3]), Cosmology()
    spectra = bumpy_spectra(2)
    wave, density = flux_density(spectra, WAVE, zred, cosmology)
    one_wave, one = flux_density(spectra[1:], WAVE, 0.3, cosmology)
    np.testing.assert_allclose(one_wave, wave[1], rtol=1e-12)
    np.testing.assert_allclose(one[0], density[1], rtol=1e-12)
    flux = FilterProjection(bands, WAVE, 0.3, cosmology).flux(spectra, zred)
    for row in range(2):
        for column, band in enumerate(bands):
            # The mean of f_nu, by photons.
            curve = load_filter(band)
            fine = np.linspace(curve.wave[0], curve.wave[-1], 100_001)
            weight = np.interp(fine, curve.wave, curve.response) / fine
            mean = np.trapezoid(weight * np.interp(fine, wave[row], density[row]), fine) / np.trapezoid(weight, fine)
            assert flux[row, column] == pytest.approx(mean, rel=1e-4), band


def test_a_curve_that_ends_at_once_counts_up_to_its_ends(tmp_path: Path) -> None:
    (tmp_path / "box.txt").write_text("5000 1\n6000 1\n", encoding="utf-8")
    coarse, zred = WAVE[::40], np.array([1e-5])
    spectra = np.ones((1, len(coarse)))
    flux = FilterProjection((str(tmp_path / "box.txt"),), coarse, 1e-5).flux(spectra, zred)
    # Of a constant f_λ: the mean of λ over that of c/λ.
    _, one = flux_density(spectra[:, :1], np.array([5500.0]), zred, Cosmology())
    shape = (6000**2 - 5000**2) / 2 / np.log(6000 / 5000) / (5500 * (1 + 1e-5)) ** 2
    np.testing.assert_allclose(flux, one * shape, rtol=1e-4)


def test_flat_ab_source_has_the_same_flux_in_every_band() -> None:
    projection = FilterProjection(("u", "g", "r", "i", "z"), WAVE, 0.2)
    flux = projection.flux((1e10 / WAVE**2)[None], np.array([0.1]))
    assert np.allclose(flux / flux[0, 0], 1, atol=2e-4)


def test_restricted_columns_give_the_same_fluxes() -> None:
    projection = FilterProjection(("g", "r"), WAVE, 0.1)
    spectra = bumpy_spectra(4)
    zred = np.array([0.01, 0.02, 0.05, 0.1])
    assert np.array_equal(projection.flux(spectra, zred), projection.flux(spectra[:, projection.used], zred))


def test_bad_input_is_named() -> None:
    with pytest.raises(ParameterError, match="unknown band 'q'"):
        load_filter("q")
    with pytest.raises(ParameterError, match="repetition"):
        FilterProjection(("g", "g"), WAVE, 0.1)
    with pytest.raises(ParameterError, match=r"'FUV' covers rest frame.* wavelengths in Å"):
        FilterProjection(("FUV",), WAVE, 1.5)
    with pytest.raises(ParameterError, match=r"'Ks' covers rest frame.*, but the spectra cover 800–19\d\d\d Å"):
        FilterProjection(("Ks",), WAVE[WAVE < 2e4], 0.1)
    projection = FilterProjection(("g",), WAVE, 0.1)
    for zred in (0.0, -0.1, 0.2, np.nan):
        with pytest.raises(ParameterError, match="zred="):
            projection.flux(bumpy_spectra(1), np.array([zred]))
    with pytest.raises(ParameterError, match="wavelengths, expected"):
        projection.flux(np.ones((1, 7)), np.array([0.05]))


def test_own_curve_is_read_and_projected(tmp_path: Path) -> None:
    """A box in photons: the flux of a flat AB source is the same through it as through any filter."""
    path = tmp_path / "box.dat"
    path.write_text("# wavelength response\n5000 0\n5001 80  # per cent\n\n6000 80\n6001 0\n")
    curve = load_filter(str(path))
    assert curve.name == band_name(str(path)) == "box"
    assert curve.effective_wave == pytest.approx(5500.5)
    projection = FilterProjection((str(path), "r"), WAVE, 0.2)
    assert projection.bands == ("box", "r")
    flux = projection.flux((1e10 / WAVE**2)[None], np.array([0.1]))
    assert flux[0, 0] == pytest.approx(flux[0, 1], rel=2e-4)
    with pytest.raises(ParameterError, match="repetition"):
        FilterProjection(("r", str(tmp_path / "box.dat"), str(tmp_path / "box.dat")), WAVE, 0.1)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("5000 1\n4000 1\n", "do not increase"),
        ("5000 1\n5000 1\n", "do not increase"),
        ("5000 1\n6000 -0.1\n", "negative response"),
        ("5000 1\n6000 nan\n", "not finite"),
        ("inf 1\n6000 1\n", "not finite"),
        ("-5000 1\n6000 1\n", "not positive"),
        ("5000 0\n6000 0\n", "no positive response"),
        ("5000 1\n", "1 rows"),
        ("", "0 rows"),
        ("5000 1 2\n6000 1 2\n", r"\[3\] numbers"),
        ("5000 1\n6000\n", r"\[1, 2\] numbers"),
        ("wave response\n5000 1\n", "could not convert.*expected two columns"),
        (b"\xff\xfe\x00", "not text"),
    ],
)
def test_bad_curves_are_named(tmp_path: Path, text: str | bytes, named: str) -> None:
    path = tmp_path / "curve.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParameterError, match=named):
        load_filter(str(path))
    with pytest.raises(ParameterError, match="cannot read filter curve"):
        load_filter(str(tmp_path / "absent.txt"))
