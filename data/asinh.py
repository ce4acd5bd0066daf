"""Asinh magnitudes (Lupton, Gunn & Szalay 1999, AJ 118, 1406): magnitudes that stay finite at zero and negative flux.

m = -(2.5 / ln 10) [asinh((f / f0) / 2b) + ln b], with f0 = 1e9 nanomaggies and a softening b per band, about the noise of a
faint source: brighter than f / f0 = 10 b it is an ordinary magnitude within 1%.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sedcast.data.checks import as_floats, as_names
from sedcast.data.errors import ParameterError

__all__ = [
    "DEFAULT_SOFTENING",
    "POGSON",
    "SOFTENING",
    "asinh_flux",
    "asinh_flux_error",
    "asinh_magnitude",
    "asinh_magnitude_error",
    "softening_nanomaggies",
]

POGSON = 2.5 / np.log(10.0)

SOFTENING = {
    "FUV": 1.9e-10,
    "NUV": 1.7e-10,
    "u": 1.4e-10,
    "g": 0.9e-10,
    "r": 1.2e-10,
    "i": 1.8e-10,
    "z": 7.4e-10,
    "J": 4.5e-8,
    "H": 5.5e-8,
    "Ks": 7.5e-8,
}
"""Softening b in maggies. ugriz: SDSS's published values (Stoughton et al. 2002, Table 21). The others follow Lupton's
optimum, b = 1.042 times the noise of a faint source: GALEX from the 5 sigma depths of its medium survey, 22.6 and 22.7 AB;
2MASS from the 10 sigma limits of its extended sources, 15.0, 14.3 and 13.5 Vega."""

DEFAULT_SOFTENING = 1.2e-10
"""Softening of any other band where nothing is known of its errors: that of r."""

_LN10_9 = 9.0 * np.log(10.0)


def softening_nanomaggies(bands: str | Sequence[str]) -> np.ndarray:
    """Usual softening b of a band () or of several bands (n_band,), in nanomaggies; a noise model may have its own."""
    if isinstance(bands, str):
        return np.asarray(1e9 * SOFTENING.get(bands, DEFAULT_SOFTENING))
    return np.array([1e9 * SOFTENING.get(band, DEFAULT_SOFTENING) for band in as_names("bands", bands)])


def asinh_magnitude(flux: np.ndarray, softening: npt.ArrayLike) -> np.ndarray:
    """Asinh magnitude of a flux (Lupton et al. 1999, Eq. 3).

    Parameters
    ----------
    flux : (..., n_band) nanomaggies, any sign; any shape if `softening` is one number.
    softening : (n_band,) b of each band, or one number for all, nanomaggies; see `softening_nanomaggies`.

    Returns
    -------
    magnitude : as `flux`, AB.

    Raises
    ------
    ParameterError : for what are no numbers, shapes that do not fit, or a softening that is not positive.
    """
    flux, b = _checked("flux", flux, softening)
    return -POGSON * (np.arcsinh(flux / (2.0 * b)) + np.log(b) - _LN10_9)


def asinh_flux(magnitude: np.ndarray, softening: npt.ArrayLike) -> np.ndarray:
    """Flux in nanomaggies of an asinh magnitude, the inverse of `asinh_magnitude`; arguments as there."""
    magnitude, b = _checked("magnitude", magnitude, softening)
    return np.asarray(2.0 * b * np.sinh(-magnitude / POGSON - np.log(b) + _LN10_9))


def _checked(name: str, values: npt.ArrayLike, softening: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes or magnitudes, and the softening that goes with them, as floats."""
    found, b = as_floats(name, values), as_floats("softening", softening)
    if b.ndim > 1 or (b.ndim and found.shape[-1:] != b.shape):
        raise ParameterError(
            f"{name} has shape {found.shape} and softening {b.shape}: expected (..., n_band) and (n_band,), or one softening"
        )
    if not ((b > 0) & (b < np.inf)).all():
        raise ParameterError(f"softening={b}: must be positive and finite, nanomaggies; see softening_nanomaggies")
    return found, b


def _slope(flux: np.ndarray, softening: npt.ArrayLike) -> np.ndarray:
    """``|dm/df|`` in magnitudes per nanomaggie."""
    flux, b = _checked("flux", flux, softening)
    return np.asarray(POGSON / np.hypot(flux, 2.0 * b))


def _spread(name: str, values: npt.ArrayLike, slope: np.ndarray) -> np.ndarray:
    """Errors of what has these slopes, as floats."""
    spread = as_floats(name, values)
    if spread.shape not in ((), slope.shape):
        raise ParameterError(f"{name} has shape {spread.shape}, expected {slope.shape}, that of flux")
    return spread


def asinh_magnitude_error(flux: np.ndarray, sigma: np.ndarray, softening: npt.ArrayLike) -> np.ndarray:
    """Error of the asinh magnitude, ``|dm/df|`` sigma; shapes as in `asinh_magnitude`, `sigma` in nanomaggies."""
    slope = _slope(flux, softening)
    return slope * _spread("sigma", sigma, slope)


def asinh_flux_error(flux: np.ndarray, magnitude_error: np.ndarray, softening: npt.ArrayLike) -> np.ndarray:
    """Error in nanomaggies of an asinh magnitude's error: the inverse of `asinh_magnitude_error`; as `asinh_flux`."""
    slope = _slope(flux, softening)
    return _spread("magnitude_error", magnitude_error, slope) / slope
