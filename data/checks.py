"""Checks of arguments that every layer shares: what is wrong is named, with what was expected and what came."""

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from sedcast.data.errors import ParameterError

__all__ = ["as_floats", "as_names", "check_kind", "floats_of", "in_own_precision", "one_per_galaxy", "whole_number"]


def floats_of(values: Any) -> np.ndarray:
    """A copy as float64, masked values, and pandas' NA, as NaN; what are no numbers raises TypeError or ValueError."""
    if isinstance(values, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(values), np.nan, np.asarray(values.data, dtype=float))
    if hasattr(values, "mask") and hasattr(values, "unmasked"):
        return np.where(values.mask, np.nan, np.asarray(values.unmasked, dtype=float))
    try:
        return np.array(values, dtype=float)
    except TypeError:
        if not hasattr(values, "to_numpy"):
            raise
        return np.array(values.to_numpy(dtype=float, na_value=np.nan))


def as_floats(name: str, values: Any) -> np.ndarray:
    """An argument's values as float64, masked ones as NaN.

    Raises
    ------
    ParameterError : if they are not real numbers, rows of different lengths, or have a unit.
    """
    if getattr(values, "unit", None) is not None and (hasattr(values, "to_value") or hasattr(values, "quantity")):
        values = _without_unit(name, values)
    kind = getattr(getattr(values, "dtype", None), "kind", "")
    if values is None or kind in ("b", "c", "m", "M") or isinstance(values, bool | complex):
        raise ParameterError(f"{name}: expected real numbers, got {getattr(values, 'dtype', values)}")
    try:
        return floats_of(values)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name} must be an array of numbers, got {type(values).__name__}: {error}") from error


def in_own_precision(name: str, values: Any) -> np.ndarray:
    """An argument's values: an array of floats of any precision as it is, all else by `as_floats`."""
    if type(values) is np.ndarray and values.dtype.kind == "f":
        return values
    return as_floats(name, values)


def _without_unit(name: str, values: Any) -> Any:
    """The numbers of a Quantity or a Column that has no unit but one, or per cent, or astropy's of redshifts."""
    from astropy import units as u

    if str(values.unit) == "redshift":
        return values.value
    try:
        if hasattr(values, "to_value"):
            return values.to_value(u.dimensionless_unscaled)
        return floats_of(values) * values.unit.to(u.dimensionless_unscaled)
    except ValueError as error:
        raise ParameterError(
            f"{name} has the unit {values.unit}, expected numbers without one: give its values in the unit that {name} is "
            "documented in, such as x.to_value(u.AA)"
        ) from error


def as_names(name: str, values: Iterable[str]) -> tuple[str, ...]:
    """Several names as a tuple, of text.

    Raises
    ------
    ParameterError : if they are one text, which would be read letter by letter, or not text.
    """
    if isinstance(values, str | bytes):
        raise ParameterError(f"{name}={values!r} is one text: expected a sequence of names, such as [{values!r}]")
    try:
        names = tuple(values)
    except TypeError as error:
        raise ParameterError(f"{name}={values!r}: expected a sequence of names, such as ['g', 'r']") from error
    if wrong := [one for one in names if not isinstance(one, str)]:
        raise ParameterError(f"{name} has {wrong[0]!r}, of type {type(wrong[0]).__name__}: expected names, as text")
    return tuple(str(one) for one in names)


def whole_number(name: str, value: Any, *, least: int = 1, bits: int | None = None) -> int:
    """An argument that counts or names, as an int.

    Raises
    ------
    ParameterError : if it is no integer (2.0 is none), less than `least`, or of more than `bits`.
    """
    try:
        found = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least or (bits is not None and found >= 2**bits):
        wanted = f"an integer of at least {least}" + ("" if bits is None else f" and below 2^{bits}")
        raise ParameterError(f"{name}={value!r}: must be {wanted}")
    return found


def check_kind(name: str, value: object, kind: type, hint: str) -> None:
    """Refuse an argument that is no `kind`; the hint says how one is made.

    Raises
    ------
    ParameterError : if it is not.
    """
    if not isinstance(value, kind):
        raise ParameterError(f"{name} is a {type(value).__name__}, expected a {kind.__name__}: {hint}")


def one_per_galaxy(zred: np.ndarray | float, n: int, name: str = "zred") -> np.ndarray:
    """Redshifts, or what `name` says, of `n` galaxies, float64 (n,), from as many or from one.

    Raises
    ------
    ParameterError : for another shape, or values that are not numbers.
    """
    zred = as_floats(name, zred)
    if zred.shape not in ((), (n,), (1,)):
        raise ParameterError(f"{name} must have shape ({n},) as theta has, got {zred.shape}: one value per galaxy")
    return np.broadcast_to(zred, (n,))
