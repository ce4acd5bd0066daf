"""Checks of arguments that every layer shares: what is wrong is named, with what was expected and what came."""

import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.errors import ParameterError

__all__ = [
    "as_floats",
    "as_names",
    "as_path",
    "check_kind",
    "check_memory",
    "check_simulator",
    "floats_of",
    "in_own_precision",
    "one_number",
    "one_per_galaxy",
    "whole_number",
]


def floats_of(values: Any) -> np.ndarray:
    """A copy as float64, masked values, and pandas' NA, as NaN; what are none raises TypeError, ValueError or OverflowError."""
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
    except (TypeError, ValueError, OverflowError) as error:
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


def check_simulator(simulator: object, bands: tuple[str, ...] | None = None) -> None:
    """Refuse what has no method ``flux(theta, zred)``, or says that its bands are others than these, or in another order.

    Raises
    ------
    ParameterError : if it does.
    """
    if not callable(getattr(simulator, "flux", None)):
        raise ParameterError(
            f"simulator is a {type(simulator).__name__}, expected what has a method flux(theta, zred), such as a "
            "PhotometrySimulator of the galaxies' bands"
        )
    own = tuple(getattr(simulator, "bands", None) or ())
    if bands is not None and own and own != bands:
        raise ParameterError(f"simulator has bands {' '.join(own)}, the estimator {' '.join(bands)}: they must agree, in order")


def check_memory(what: str, n_values: int, *, n_bytes: int = 4) -> None:
    """Refuse work that must hold more numbers of `n_bytes` each than this machine has memory for.

    Raises
    ------
    ParameterError : with the memory that it needs.
    """
    needed, there = n_values * n_bytes, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ParameterError(
            f"{what} need {needed / 2**30:,.0f} GiB of memory at least, this machine has {there / 2**30:,.1f}: ask for fewer, "
            "or for a part at a time"
        )


def as_path(name: str, value: Any) -> Path:
    """An argument that names a file, as a Path.

    Raises
    ------
    ParameterError : if it is neither a text nor a Path.
    """
    if not isinstance(value, str | Path):
        raise ParameterError(f"{name}={value!r} is no name of a file: expected a text or a Path")
    return Path(value)


def one_number(name: str, value: Any) -> float:
    """An argument that is one number, which may be NaN, also in an array of one.

    Raises
    ------
    ParameterError : if it is not.
    """
    found = as_floats(name, value)
    if found.size != 1:
        raise ParameterError(f"{name} has shape {found.shape}, expected one number")
    return float(found.item())


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
