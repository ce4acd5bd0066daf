"""The SDSS + GALEX + 2MASS table layout: from raw columns to AB fluxes corrected for Galactic extinction.

The layout is that of the public sample bundled with kcorrect (10,000 galaxies, one row each):

- ``MODELFLUX``, ``MODELFLUX_IVAR``, ``EXTINCTION`` (n, 5): SDSS u g r i z, nanomaggies as observed; extinction in magnitudes.
- ``Z`` (n,): redshift.
- ``FUV_FLUX_AUTO``, ``FUV_FLUXERR_AUTO``, ``NUV_FLUX_AUTO``, ``NUV_FLUXERR_AUTO`` (n,): GALEX counts per second;
  0 where GALEX has no source, -99 where it has one in the other band only. The unit follows from the GALEX pipeline's column
  descriptions (upper-case columns are SExtractor's, in counts/s, -99 if unfilled) and from the colours: with zero points 18.82
  and 20.08 the sample's blue galaxies have NUV-r = 2.2 and FUV-NUV = 0.5, its red ones NUV-r = 4.8 (medians); read as
  nanomaggies or microjansky they would have NUV-r = 4.6 or 6.0 and 7.2 or 8.6, redder than any population.
- ``J_M_EXT``, ``J_MSIG_EXT`` and so on for H, K (n,): 2MASS extended-source magnitudes, Vega; 0 where unmeasured.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sedcast.data.asinh import POGSON

__all__ = ["AB_OFFSETS", "ERROR_FLOORS", "SDSS_BANDS", "is_sdss_layout", "needed_sdss_columns", "sdss_photometry"]

SDSS_BANDS = ("u", "g", "r", "i", "z")

AB_OFFSETS = {"u": -0.036, "g": 0.012, "r": 0.010, "i": 0.028, "z": 0.040}
"""m_AB - m_SDSS, magnitudes, as kcorrect applies them."""

ERROR_FLOORS = {
    "FUV": 0.052,
    "NUV": 0.026,
    "u": 0.05,
    "g": 0.02,
    "r": 0.02,
    "i": 0.02,
    "z": 0.03,
    "J": 0.03,
    "H": 0.03,
    "Ks": 0.03,
}
"""Calibration floors, magnitudes. ugriz: kcorrect's minimum errors. GALEX: Morrissey et al. 2007. 2MASS: 0.03, a choice
of this project, of the order of the calibration of its extended sources."""

_R_SDSS_R = 2.751
_EXTINCTION_PER_EBV = {"FUV": 8.24, "NUV": 8.20, "J": 0.902, "H": 0.576, "Ks": 0.367}
"""A / E(B-V): GALEX from Wyder et al. 2007; r and 2MASS from Schlegel et al. 1998, Table 6."""

_GALEX_ZERO_POINT = {"FUV": 18.82, "NUV": 20.08}
_VEGA_TO_AB = {"J": 0.91, "H": 1.39, "Ks": 1.85}
_TWOMASS_PREFIX = {"J": "J", "H": "H", "Ks": "K"}

Columns = Mapping[str, np.ndarray]


def is_sdss_layout(names: Sequence[str]) -> bool:
    """Whether a table with these column names is in this layout."""
    return {"MODELFLUX", "MODELFLUX_IVAR", "EXTINCTION"} <= set(names)


def needed_sdss_columns(bands: Sequence[str]) -> list[str]:
    """The columns of this layout that the bands need."""
    needed = ["MODELFLUX", "MODELFLUX_IVAR", "EXTINCTION", "Z"]
    for band in bands:
        if band in _GALEX_ZERO_POINT:
            needed += [f"{band}_FLUX_AUTO", f"{band}_FLUXERR_AUTO"]
        elif band in _TWOMASS_PREFIX:
            needed += [f"{_TWOMASS_PREFIX[band]}_M_EXT", f"{_TWOMASS_PREFIX[band]}_MSIG_EXT"]
    return needed


def sdss_photometry(columns: Columns, bands: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes corrected for Galactic extinction, without AB offsets and floors.

    Parameters
    ----------
    columns : the raw columns by name.
    bands : names among FUV NUV u g r i z J H Ks.

    Returns
    -------
    flux, flux_ivar : (n, n_band) nanomaggies and nanomaggies^-2, 0 and 0 where a band is not measured.
    """
    extinction = np.asarray(columns["EXTINCTION"], dtype=float)
    ebv = extinction[:, SDSS_BANDS.index("r")] / _R_SDSS_R
    fluxes, errors = [], []
    for band in bands:
        if band in SDSS_BANDS:
            index = SDSS_BANDS.index(band)
            flux = np.asarray(columns["MODELFLUX"][:, index], dtype=float)
            ivar = np.asarray(columns["MODELFLUX_IVAR"][:, index], dtype=float)
            measured = (ivar > 0) & np.isfinite(ivar)
            error = 1.0 / np.sqrt(np.where(measured, ivar, 1.0))
            absorbed = extinction[:, index]
        elif band in _GALEX_ZERO_POINT:
            to_nanomaggies = 10.0 ** (0.4 * (22.5 - _GALEX_ZERO_POINT[band]))
            flux = to_nanomaggies * np.asarray(columns[f"{band}_FLUX_AUTO"], dtype=float)
            error = to_nanomaggies * np.asarray(columns[f"{band}_FLUXERR_AUTO"], dtype=float)
            measured = error > 0
            absorbed = _EXTINCTION_PER_EBV[band] * ebv
        else:
            magnitude = np.asarray(columns[f"{_TWOMASS_PREFIX[band]}_M_EXT"], dtype=float)
            magnitude_error = np.asarray(columns[f"{_TWOMASS_PREFIX[band]}_MSIG_EXT"], dtype=float)
            flux = 10.0 ** (0.4 * (22.5 - magnitude - _VEGA_TO_AB[band]))
            error = flux * magnitude_error / POGSON
            measured = (magnitude > 0) & (magnitude_error > 0)
            absorbed = _EXTINCTION_PER_EBV[band] * ebv
        brighter = 10.0 ** (0.4 * absorbed)
        measured &= np.isfinite(flux * error * brighter)
        fluxes.append(np.where(measured, flux * brighter, 0.0))
        errors.append(np.where(measured, error * brighter, np.inf))
    return np.stack(fluxes, axis=1), np.stack(errors, axis=1) ** -2.0
