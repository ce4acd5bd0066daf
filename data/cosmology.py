"""Ages and luminosity distances for an astropy cosmology, by splines: a mass simulation asks for millions of them."""

import threading
from dataclasses import dataclass
from functools import lru_cache

import astropy.cosmology
import numpy as np
from scipy.interpolate import CubicSpline

from sedcast.data.checks import as_floats
from sedcast.data.errors import ParameterError

__all__ = ["CM_PER_MPC", "ZRED_MAX", "Cosmology"]

ZRED_MAX = 10.0
"""Largest redshift that the splines cover."""

CM_PER_MPC = 3.0856775814913673e24
_N_NODE = 400
_STEP = float(np.log1p(ZRED_MAX)) / (_N_NODE - 1)
_ASTROPY_LOCK = threading.Lock()


@dataclass(frozen=True)
class Cosmology:
    """A cosmology of astropy, by name, tabulated over redshifts 0 … `ZRED_MAX`.

    Cubic splines in ln(1 + z) through 400 of astropy's own values; relative error below 1e-6 (tested for z in 0 … 3).

    Parameters
    ----------
    name : one of ``astropy.cosmology.available``, for example ``"Planck13"`` (Planck Collaboration 2014, A&A 571, A16).

    Raises
    ------
    ParameterError : if astropy knows no such cosmology.
    """

    name: str = "Planck13"

    def __post_init__(self) -> None:
        if self.name not in astropy.cosmology.available:
            known = ", ".join(sorted(astropy.cosmology.available))
            raise ParameterError(f"cosmology name={self.name!r} is unknown to astropy: use one of {known}")

    def age_gyr(self, zred: np.ndarray | float) -> np.ndarray:
        """Age of the Universe at redshift `zred`, Gyr, in the shape of `zred`.

        Raises
        ------
        ParameterError : if a redshift is not finite, negative, or above `ZRED_MAX`.
        """
        return _evaluate(_splines(self.name)[0], np.log1p(_check_zred(zred)))

    def luminosity_distance_cm(self, zred: np.ndarray | float) -> np.ndarray:
        """Luminosity distance at redshift `zred`, cm, in the shape of `zred`.

        Raises
        ------
        ParameterError : if a redshift is not finite, negative, or above `ZRED_MAX`.
        """
        zred = _check_zred(zred)
        return _evaluate(_splines(self.name)[1], np.log1p(zred)) * (1 + zred)


def _check_zred(zred: np.ndarray | float) -> np.ndarray:
    zred = as_floats("zred", zred)
    # What is not a number compares as false.
    good = (zred >= 0) & (zred <= ZRED_MAX)
    if not good.all():
        bad = zred[~good].ravel()[0]
        raise ParameterError(f"zred must be finite and lie in 0 … {ZRED_MAX:g}, got {bad}: mask galaxies without a redshift")
    return zred


def _evaluate(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A cubic spline on evenly spaced nodes from 0: for one galaxy a seventh of the time of SciPy's evaluation."""
    index = np.minimum((x / _STEP).astype(np.intp), coefficients.shape[1] - 1)
    cubic, square, linear, constant = coefficients[:, index]
    step = x - index * _STEP
    return np.asarray(((cubic * step + square) * step + linear) * step + constant)


@lru_cache(maxsize=8)
def _splines(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (4, n_interval) of age [Gyr] and transverse comoving distance [cm] as functions of ln(1 + z)."""
    # astropy reads a cosmology from its file at first use; two threads at once got, once, one without massive neutrinos.
    with _ASTROPY_LOCK:
        cosmology = getattr(astropy.cosmology, name)
        nodes = np.arange(_N_NODE) * _STEP
        zred = np.expm1(nodes)
        distance = cosmology.comoving_transverse_distance(zred).to_value("Mpc") * CM_PER_MPC
        return CubicSpline(nodes, cosmology.age(zred).to_value("Gyr")).c, CubicSpline(nodes, distance).c
