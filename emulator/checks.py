"""Checks of arguments that every model shares."""

import numpy as np

from sedcast.data import units
from sedcast.data.errors import ParameterError

__all__ = ["as_floats", "one_per_galaxy"]


def as_floats(name: str, values: object) -> np.ndarray:
    """`values` as float64, masked ones as NaN.

    Raises
    ------
    ParameterError : if they are not numbers, or rows of different lengths.
    """
    try:
        return units.as_floats(values)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name} must be an array of numbers, got {type(values).__name__}: {error}") from error


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
