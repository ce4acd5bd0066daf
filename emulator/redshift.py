"""The distribution that redshifts are drawn from, and its map to the real line."""

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator
from scipy.special import gammainc, gammaincinv, ndtr, ndtri

from sedcast.data.checks import as_floats, whole_number
from sedcast.data.config import Config
from sedcast.data.errors import ParameterError

__all__ = ["RedshiftPrior"]

# As for the parameters: the farthest that the real line reaches is ±7.03.
_UNIT_EDGE = 1e-12


class RedshiftPrior(Config):
    """Redshifts in min … max: uniform, or of the form or the table given.

    Attributes
    ----------
    min, max : range.
    z0 : with it, n(z) ∝ z² exp[-(z/z0)^1.5], which describes samples limited in magnitude (Baugh & Efstathiou 1993,
        doi:10.1093/mnras/265.1.145); the median is 1.412 z0.
    table : pairs (z, n) of a tabulated n(z) of any normalisation, linear between them; from min or below to max or above.
    """

    min: float = Field(default=0.005, gt=0)
    max: float = Field(default=0.3, gt=0)
    z0: Annotated[float, Field(gt=0)] | None = None
    table: Annotated[tuple[tuple[float, float], ...], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _usable(self) -> "RedshiftPrior":
        if self.min >= self.max:
            raise ValueError(f"zred.min={self.min} must be below zred.max={self.max}")
        if self.z0 is not None and self.table is not None:
            raise ValueError("zred.z0 and zred.table are two forms of n(z): give one of them")
        if self.z0 is not None and self._gamma(np.array(self.min)) > 1 - 1e-6:
            raise ValueError(f"zred.z0={self.z0} leaves no galaxies above zred.min={self.min}: is z0 in units of redshift?")
        if self.table is not None:
            zred, density = np.array(self.table).T
            if (np.diff(zred) <= 0).any() or zred[0] > self.min or zred[-1] < self.max:
                raise ValueError(f"zred.table must increase in z, from {self.min} or below to {self.max} or above")
            if not np.isfinite(density).all() or (density < 0).any() or self._nodes()[2][-1] <= 0:
                raise ValueError("zred.table must have n >= 0, finite, and not zero everywhere in min … max")
        return self

    def in_range(self, zred: float | np.ndarray) -> np.ndarray:
        """Redshifts of any shape as floats; in half precision, those that only its rounding moved out of the range moved back.

        Raises
        ------
        ParameterError : if one is outside min … max, or NaN.
        """
        half = getattr(zred, "dtype", None) == np.float16
        zred = as_floats("zred", zred)
        inside = np.clip(zred, self.min, self.max)
        if half:
            zred = np.where(inside.astype(np.float16) == zred, inside, zred)
        outside = ~(zred == inside)
        if outside.any():
            raise ParameterError(
                f"zred has {np.count_nonzero(outside)} values, first {zred[outside][0]:.6g}, beyond its prior's range, "
                f"{self.min:.4g} to {self.max:.4g}: leave those out"
            )
        return zred

    def cdf(self, zred: np.ndarray) -> np.ndarray:
        """Share of galaxies below `zred`, of any shape."""
        zred = np.clip(as_floats("zred", zred), self.min, self.max)
        if self.z0 is not None:
            low, high = self._gamma(np.array([self.min, self.max]))
            return np.asarray((self._gamma(zred) - low) / (high - low))
        if self.table is None:
            return np.asarray((zred - self.min) / (self.max - self.min))
        nodes, density, below = self._nodes()
        k = np.clip(np.searchsorted(nodes, zred, side="right") - 1, 0, len(nodes) - 2)
        step = zred - nodes[k]
        slope = np.diff(density) / np.diff(nodes)
        return np.asarray((below[k] + density[k] * step + slope[k] / 2 * step**2) / below[-1])

    def log_density(self, zred: np.ndarray) -> np.ndarray:
        """Log of the normalised density at redshifts of any shape; -inf outside min … max."""
        zred = as_floats("zred", zred)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.z0 is not None:
                low, high = self._gamma(np.array([self.min, self.max]))
                # The integral of z² exp[-(z/z0)^1.5] over all z is 2/3 z0³.
                log_n = 2 * np.log(zred) - (zred / self.z0) ** 1.5 - np.log(2 / 3 * self.z0**3 * (high - low))
            elif self.table is None:
                log_n = np.full(zred.shape, -np.log(self.max - self.min))
            else:
                nodes, density, below = self._nodes()
                log_n = np.log(np.interp(zred, nodes, density) / below[-1])
        return np.where((zred >= self.min) & (zred <= self.max), log_n, -np.inf)

    def quantile(self, unit: np.ndarray) -> np.ndarray:
        """The inverse of `cdf`."""
        unit = as_floats("unit", unit)
        if self.z0 is not None:
            low, high = self._gamma(np.array([self.min, self.max]))
            zred = self.z0 * gammaincinv(2, low + unit * (high - low)) ** (2 / 3)
        elif self.table is None:
            zred = self.min + unit * (self.max - self.min)
        else:
            nodes, density, below = self._nodes()
            k = np.clip(np.searchsorted(below, unit * below[-1], side="right") - 1, 0, len(nodes) - 2)
            slope = np.diff(density) / np.diff(nodes)
            rest = unit * below[-1] - below[k]
            # The root of slope/2 s² + n s = rest, in the form without cancellation.
            root = density[k] + np.sqrt(np.maximum(density[k] ** 2 + 2 * slope[k] * rest, 0))
            zred = nodes[k] + np.divide(2 * rest, root, out=np.zeros_like(rest), where=root > 0)
        return np.asarray(np.clip(zred, self.min, self.max))

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw redshifts, (n,)."""
        n = whole_number("n", n, least=0)
        if self.z0 is None and self.table is None:
            return rng.uniform(self.min, self.max, n)
        return self.quantile(rng.random(n))

    def to_unbounded(self, zred: np.ndarray) -> np.ndarray:
        """The probit of the cumulative distribution: a standard normal variable, of the shape of `zred`."""
        return np.asarray(ndtri(np.clip(self.cdf(zred), _UNIT_EDGE, 1 - _UNIT_EDGE)))

    def from_unbounded(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `to_unbounded`, in min … max."""
        return self.quantile(ndtr(np.asarray(points, dtype=float)))

    def _gamma(self, zred: np.ndarray) -> np.ndarray:
        # With t = (z/z0)^1.5 the integral of z² exp(-t) dz is one of t exp(-t) dt.
        assert self.z0 is not None
        return np.asarray(gammainc(2, (zred / self.z0) ** 1.5))

    def _nodes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The table cut to min … max: redshifts, densities, and integrals up to each node."""
        zred, density = np.array(self.table).T
        nodes = np.concatenate([[self.min], zred[(zred > self.min) & (zred < self.max)], [self.max]])
        density = np.interp(nodes, zred, density)
        return nodes, density, np.concatenate([[0.0], np.cumsum(np.diff(nodes) * (density[1:] + density[:-1]) / 2)])
