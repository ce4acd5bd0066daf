"""What a catalogue's errors are in each band: the tables of a `NoiseModel`, and the softening of its magnitudes."""

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sedcast.data.asinh import (
    SOFTENING,
    asinh_flux,
    asinh_flux_error,
    asinh_magnitude,
    asinh_magnitude_error,
    softening_nanomaggies,
)
from sedcast.data.catalog import Catalog
from sedcast.data.errors import CatalogError, ParameterError

__all__ = ["SCATTER_FLOOR", "faint_error", "learn_band", "measured_errors", "softenings"]

logger = logging.getLogger(__name__)

SCATTER_FLOOR = 0.15
"""Least scatter of ln sigma: wider than some catalogues', so that a network conditioned on sigma serves others too."""

# Lupton et al.'s optimum, in units of the noise of a faint source; and which sources are faint.
_SOFTENING_PER_SIGMA, _FAINTEST = 1.042, 0.1
_TOO_SOFT = 5.0
_GALAXIES_PER_BIN = 150
_MAX_BINS = 40
_MIN_GALAXIES = 100
_PERCENTILES = (0.1, 99.9)
_WIDEN_MAGNITUDE = 0.1
_WIDEN_LN_SIGMA = 0.1


def measured_errors(catalog: Catalog, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes and errors of a catalogue's band number `b`, nanomaggies, where it is measured.

    Raises
    ------
    CatalogError : if it has fewer than 100 measurements.
    """
    measured = catalog.flux_ivar[:, b] > 0
    if measured.sum() < _MIN_GALAXIES:
        raise CatalogError(
            f"band {catalog.bands[b]!r} has {measured.sum()} measurements, a noise model needs {_MIN_GALAXIES}: select other "
            "bands, or pass a larger catalogue"
        )
    return catalog.flux[measured, b], catalog.sigma[measured, b]


def faint_error(flux: np.ndarray, sigma: np.ndarray) -> float:
    """The median error of the faintest tenth of a band's fluxes, nanomaggies."""
    return float(np.median(sigma[flux <= np.quantile(flux, _FAINTEST)]))


def softenings(bands: Sequence[str], faint_errors: Iterable[float], given: Mapping[str, float]) -> np.ndarray:
    """Softening of each band, (n_band,) nanomaggies: the usual one if there is, else the one given, else by faint errors.

    Raises
    ------
    ParameterError : if one that is given is not positive, or of a band that is not there or has a usual one.
    """
    for band, value in given.items():
        if band not in bands or band in SOFTENING:
            why = "has a fixed one" if band in SOFTENING else f"is not in the catalogue, which has {', '.join(bands)}"
            raise ParameterError(f"softening: {band} {why}; give it for other bands only")
        if not 0 < value < np.inf:
            raise ParameterError(f"softening of {band} must be finite and positive, nanomaggies, got {value!r}")
    values = softening_nanomaggies(bands)
    for b, (band, error) in enumerate(zip(bands, faint_errors, strict=True)):
        optimum = _SOFTENING_PER_SIGMA * error
        if band not in SOFTENING:
            values[b] = given.get(band, optimum)
        elif values[b] > _TOO_SOFT * optimum:
            logger.warning(
                "band %s: faint errors are %.0f times smaller than the fixed softening of its asinh magnitudes is for, and "
                "these hardly tell faint fluxes apart: name the survey's own curve, whose softening is then learnt",
                band,
                values[b] / optimum,
            )
    return values


def learn_band(
    flux: np.ndarray, sigma: np.ndarray, softening: float, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Median and scatter of ln sigma on the grid, and the observed ranges of magnitude and ln sigma, of one band."""
    magnitude = asinh_magnitude(flux, softening)
    ln_error = np.log(asinh_magnitude_error(flux, sigma, softening))
    n_bin = int(np.clip(len(flux) // _GALAXIES_PER_BIN, 2, _MAX_BINS))
    fractions = np.arange(1, n_bin) / n_bin
    if n_bin == _MAX_BINS:
        # Short bins at both ends carry the table as far as a large catalogue reaches.
        fractions = np.concatenate([[0.25 / n_bin], fractions, [1 - 0.25 / n_bin]])
    bins = np.split(np.argsort(magnitude), (fractions * len(flux)).astype(int))
    centre = np.array([np.median(magnitude[rows]) for rows in bins])
    middle = np.array([np.median(ln_error[rows]) for rows in bins])
    grid_flux = asinh_flux(grid, softening)
    median = np.log(asinh_flux_error(grid_flux, np.exp(np.interp(grid, centre, middle)), softening))
    faint = centre[-1] < grid
    median[faint] = np.log(asinh_flux_error(asinh_flux(centre[-1], softening), np.exp(middle[-1]), softening))
    residual = np.log(sigma) - np.interp(magnitude, grid, median)
    # A quarter of the central 95.45%: a Gaussian's standard deviation, and wide enough for the two depths of GALEX's surveys.
    spread = np.array([0.25 * np.diff(np.percentile(residual[rows], (2.275, 97.725)))[0] for rows in bins])
    scatter = np.interp(grid, centre, np.maximum(spread, SCATTER_FLOOR))
    magnitude_range = np.percentile(magnitude, _PERCENTILES) + np.array([-1, 1]) * _WIDEN_MAGNITUDE
    ln_sigma_range = np.percentile(np.log(sigma), _PERCENTILES) + np.array([-1, 1]) * _WIDEN_LN_SIGMA
    return median, scatter, magnitude_range, ln_sigma_range
