"""Photometry with astropy units, as nanomaggies."""

import functools
import re
from typing import Any

import numpy as np

from sedcast.data.asinh import POGSON
from sedcast.data.checks import as_floats, floats_of
from sedcast.data.errors import ParameterError

__all__ = ["NANOMAGGIES_PER_UNIT", "as_nanomaggies", "contradicts", "known_unit", "unknown_unit"]

NANOMAGGIES_PER_UNIT = {
    "nanomaggies": 1.0,
    "maggies": 1e9,
    "nJy": 1e-3 / 3.631,
    "uJy": 1.0 / 3.631,
    "mJy": 1e3 / 3.631,
    "Jy": 1e6 / 3.631,
}
"""Nanomaggies per unit of flux: a maggie is 3631 Jy."""

_MAGNITUDES = ("AB", "asinh")
# What astropy calls otherwise, by itself and within a unit such as that of an inverse variance.
_WORDS = {name: "nmgy" for name in ("nanomaggies", "nanomaggie", "nmaggy", "nmaggies", "nmgy")}
_WORDS |= {name: "mgy" for name in ("maggies", "maggie", "mgy")} | {name: "mag" for name in ("mag", "magnitude", "magnitudes")}
_WORDS |= {"jy": "Jy", "njy": "nJy", "ujy": "uJy", "mujy": "uJy", "microjy": "uJy", "counts": "ct"}
# It takes "AB" for a flux, and reads "ab mag" as attobits times magnitudes.
_AB = frozenset(("ab", "ab mag", "abmag", "ab_mag", "mag_ab", "mag ab", "abit mag"))
_NOTHING = frozenset(("", "-", "--", "?", "none", "null", "n/a", "unknown"))


def as_nanomaggies(flux: Any, flux_ivar: Any) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes in nanomaggies and their inverse variances in nanomaggies^-2, from numbers or from astropy Quantities and Columns.

    Numbers without a unit are taken to be nanomaggies already. With units, `flux` may be a flux density per frequency
    (Jy, nJy, erg/s/cm²/Hz …), maggies, or AB magnitudes (``u.ABmag``); `flux_ivar` may be the inverse variance
    (``u.nJy**-2``) or, as its unit tells, the error (``u.nJy``, ``u.mag``). Masked values become NaN.

    Parameters
    ----------
    flux, flux_ivar : arrays of the same shape.

    Returns
    -------
    flux, flux_ivar : float64 arrays; an error that is not positive has the inverse variance 0, which is "not measured".

    Raises
    ------
    ParameterError : if one has a unit and the other has none, a unit is that of something else, shapes differ, or these are no
        numbers.
    """
    units = [getattr(values, "unit", None) for values in (flux, flux_ivar)]
    if units == [None, None]:
        return _of_one_shape(as_floats("flux", flux), as_floats("flux_ivar", flux_ivar))
    if None in units:
        raise ParameterError(
            f"flux has the unit {units[0]} and flux_ivar {units[1]}: give both with units, or both as numbers of nanomaggies"
        )
    return _converted(*_of_one_shape(_quantity(flux), _quantity(flux_ivar)))


def _of_one_shape(flux: Any, flux_ivar: Any) -> tuple[Any, Any]:
    if flux.shape != flux_ivar.shape:
        raise ParameterError(f"flux has shape {flux.shape}, flux_ivar {flux_ivar.shape}: expected the same")
    return flux, flux_ivar


@functools.cache
def known_unit(stated: Any) -> Any:
    """Astropy's unit for the text or unit that a column states; None if it says nothing, or nothing that is known."""
    from astropy import units as u

    text = str(stated or "").strip()
    if text.lower() in _NOTHING:
        return None
    if text.lower() in _AB:
        return u.Unit("mag(AB)")
    if isinstance(stated, u.UnitBase | u.FunctionUnitBase) and not isinstance(stated, u.UnrecognizedUnit):
        return stated
    text = re.sub(r"[A-Za-z]+", lambda word: _WORDS.get(word[0].lower(), word[0]), re.sub(r"\^\{(-?\d+)\}", r"^\1", text))
    if text.lower() in _AB:
        return u.Unit("mag(AB)")
    unit = u.Unit(text, parse_strict="silent")
    return None if isinstance(unit, u.UnrecognizedUnit | u.StructuredUnit) else unit


def unknown_unit(stated: Any) -> bool:
    """Whether a column states a unit, but none that is known."""
    return str(stated or "").strip().lower() not in _NOTHING and known_unit(stated) is None


@functools.cache
def contradicts(stated: Any, unit: str, *, inverse_variance: bool = False, counts: bool = False) -> bool:
    """Whether the unit that a column states is known and not that in which it is to be read.

    Parameters
    ----------
    stated : by the column.
    unit : to read it in, a key of `NANOMAGGIES_PER_UNIT`, ``"AB"`` or ``"asinh"``.
    inverse_variance : of the unit's inverse square.
    counts : those are allowed, an offset of magnitudes being what makes fluxes of them.
    """
    from astropy import units as u

    own = known_unit(stated)
    if own is None:
        return False
    if isinstance(own, u.FunctionUnitBase) or own.is_equivalent(u.mag) or unit in _MAGNITUDES:
        return unit not in _MAGNITUDES or own not in (u.mag, u.Unit("mag(1)"), u.Unit("mag(AB)"))
    if inverse_variance:
        own = own**-0.5
    try:
        size = float(_in_nanomaggies(1 * own, 1, "flux"))
    except ParameterError:
        counted = (u.ct, u.ct / u.s, u.electron, u.electron / u.s, u.adu)
        return not (counts and any(own.is_equivalent(count) for count in counted))
    return not np.isclose(size, NANOMAGGIES_PER_UNIT[unit], rtol=1e-3, atol=0)


def _quantity(values: Any) -> Any:
    """A Column as a Quantity, masked values as NaN; magnitudes stay magnitudes."""
    from astropy import units as u

    if hasattr(values, "mask") and hasattr(values, "unmasked"):
        values = np.where(values.mask, np.nan, values.unmasked.value) * values.unit
    if isinstance(values, u.Quantity | u.Magnitude):
        return values
    return floats_of(values) << (known_unit(values.unit) or u.Unit(values.unit))


def _converted(flux: Any, spread: Any) -> tuple[np.ndarray, np.ndarray]:
    from astropy import units as u

    if isinstance(flux.unit, u.MagUnit):
        try:
            fluxes = 10 ** (0.4 * (22.5 - flux.to_value(u.ABmag)))
        except u.UnitConversionError as error:
            raise ParameterError(f"flux has the unit {flux.unit}: expected AB magnitudes or fluxes ({error})") from error
    else:
        fluxes = _in_nanomaggies(flux, 1, "flux")
    # An error of magnitudes that is called AB, as they are, is one in magnitudes, and no flux.
    if isinstance(spread.unit, u.MagUnit):
        sigma = fluxes * spread.value / POGSON
    elif spread.unit.is_equivalent(u.mag):
        sigma = fluxes * spread.to_value(u.mag) / POGSON
    elif any(spread.unit.is_equivalent(unit**-2) for unit in (u.Jy, u.maggy)):
        return fluxes, _in_nanomaggies(spread, -2, "flux_ivar")
    else:
        sigma = _in_nanomaggies(spread, 1, "flux_ivar")
    with np.errstate(divide="ignore", invalid="ignore"):
        return fluxes, np.where(sigma > 0, sigma**-2.0, 0.0)


def _in_nanomaggies(values: Any, power: int, name: str) -> np.ndarray:
    from astropy import units as u

    for unit, size in ((u.Jy, NANOMAGGIES_PER_UNIT["Jy"]), (u.maggy, NANOMAGGIES_PER_UNIT["maggies"])):
        if values.unit.is_equivalent(unit**power):
            return np.asarray(values.to_value(unit**power), dtype=float) * size**power
    wanted = "a flux per frequency such as nJy, maggies, or AB magnitudes (u.ABmag; in a file, by unit = 'AB' in a mapping)"
    if name == "flux_ivar":
        wanted = "an inverse variance such as nJy^-2, or an error such as nJy or mag"
    raise ParameterError(f"{name} has the unit {values.unit}: expected {wanted}; a flux per wavelength must be converted first")
