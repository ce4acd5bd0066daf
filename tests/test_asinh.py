import numpy as np
import pytest

from sedcast.data.asinh import (
    SOFTENING,
    asinh_flux,
    asinh_flux_error,
    asinh_magnitude,
    asinh_magnitude_error,
    softening_nanomaggies,
)

B = softening_nanomaggies(tuple(SOFTENING))


@pytest.mark.parametrize(
    ("band", "zero_flux", "ten_b"),
    [("u", 24.63, 22.12), ("g", 25.11, 22.60), ("r", 24.80, 22.29), ("i", 24.36, 21.85), ("z", 22.83, 20.32)],
)
def test_sdss_published_table(band: str, zero_flux: float, ten_b: float) -> None:
    # Stoughton et al. 2002, Table 21: magnitude of zero flux, and of f/f0 = 10 b
    b = softening_nanomaggies(band)
    assert asinh_magnitude(np.array(0.0), b) == pytest.approx(zero_flux, abs=0.006)
    assert asinh_magnitude(10 * b, b) == pytest.approx(ten_b, abs=0.006)


@pytest.mark.parametrize(
    ("band", "depth", "n_sigma"),
    [("FUV", 22.6, 5), ("NUV", 22.7, 5), ("J", 15.0 + 0.91, 10), ("H", 14.3 + 1.39, 10), ("Ks", 13.5 + 1.85, 10)],
)
def test_the_other_surveys_softening_is_lupton_s_optimum_at_their_depth(band: str, depth: float, n_sigma: int) -> None:
    # Depths are AB: those of 2MASS are Vega with the offsets of Blanton & Roweis 2007.
    assert softening_nanomaggies(band) == pytest.approx(1.042 * 10 ** (0.4 * (22.5 - depth)) / n_sigma, rel=0.02)


def test_bright_limit_is_pogson() -> None:
    flux = np.full((3, len(B)), 1e6)
    np.testing.assert_allclose(asinh_magnitude(flux, B), 7.5, atol=1e-6)


def test_inverse_at_any_sign() -> None:
    flux = np.array([-50.0, -0.1, 0.0, 1e-3, 3.0, 1e4])[:, None] * np.ones(len(B))
    np.testing.assert_allclose(asinh_flux(asinh_magnitude(flux, B), B), flux, rtol=1e-9, atol=1e-9)


def test_error_is_the_derivative() -> None:
    flux = np.array([-5.0, 0.0, 0.2, 3.0, 400.0])[:, None] * np.ones(len(B))
    step = 1e-5
    numeric = (asinh_magnitude(flux - step, B) - asinh_magnitude(flux + step, B)) / (2 * step)
    error = asinh_magnitude_error(flux, np.full_like(flux, 0.3), B)
    np.testing.assert_allclose(error, 0.3 * numeric, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(asinh_flux_error(flux, error, B), 0.3, rtol=1e-12)


def test_a_band_without_a_published_softening_has_that_of_r() -> None:
    np.testing.assert_array_equal(softening_nanomaggies(("decam2014-g", "r")), softening_nanomaggies("r").repeat(2))
    assert np.isfinite(asinh_magnitude(np.array([-1.0, 0.0, 1.0]), softening_nanomaggies("decam2014-g"))).all()


def test_error_of_an_absurd_flux_is_not_zero() -> None:
    assert 0 < asinh_magnitude_error(np.array(1e200), np.array(1.0), softening_nanomaggies("r")) < 1e-199
