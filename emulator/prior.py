"""The prior of the 12-parameter PROVABGS model, and the map that turns it into a standard normal."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, get_type_hints

import numpy as np
from scipy.special import ndtr, ndtri

from sedcast.data.checks import as_floats, check_memory, in_own_precision, whole_number
from sedcast.data.errors import ParameterError

__all__ = [
    "BETA_TOLERANCE",
    "FREE_PARAMETER_NAMES",
    "PARAMETER_LABELS",
    "PARAMETER_NAMES",
    "Prior",
    "sfh_sticks",
    "sfh_weights",
]

PARAMETER_NAMES = (
    "log_mstar",
    "beta1_sfh",
    "beta2_sfh",
    "beta3_sfh",
    "beta4_sfh",
    "fburst",
    "tburst",
    "gamma1_zh",
    "gamma2_zh",
    "dust1",
    "dust2",
    "dust_index",
)
"""Order of the columns of every ``theta`` array."""

FREE_PARAMETER_NAMES = (
    "log_mstar",
    "beta_stick1",
    "beta_stick2",
    "beta_stick3",
    "fburst",
    "tburst",
    "gamma1_zh",
    "gamma2_zh",
    "dust1",
    "dust2",
    "dust_index",
)
"""Order of the columns of every ``theta_unbounded`` array; the four SFH weights become three stick-breaking coordinates."""

PARAMETER_LABELS = {
    "log_mstar": r"$\log_{10} M_\ast$ formed [M$_\odot$]",
    "beta1_sfh": r"$\beta_1$",
    "beta2_sfh": r"$\beta_2$",
    "beta3_sfh": r"$\beta_3$",
    "beta4_sfh": r"$\beta_4$",
    "beta_stick1": r"$u_1(\beta)$",
    "beta_stick2": r"$u_2(\beta)$",
    "beta_stick3": r"$u_3(\beta)$",
    "fburst": r"$f_{\rm burst}$",
    "tburst": r"$t_{\rm burst}$ [Gyr]",
    "gamma1_zh": r"$\gamma_1$",
    "gamma2_zh": r"$\gamma_2$",
    "dust1": r"$\tau_{\rm BC}$",
    "dust2": r"$\tau_{\rm ISM}$",
    "dust_index": r"$n_{\rm dust}$",
}

BETA_TOLERANCE = 1e-5
"""How far the sum of SFH weights may be from one."""
_BETA_TOLERANCE_IN_HALF_PRECISION = 2.0**-11
_UNIT_EDGE = 1e-12


@dataclass(frozen=True)
class Prior:
    """Independent priors of the PROVABGS parameters (Hahn et al. 2022, Table 1), as (low, high) ranges.

    Uniform in each range, log-uniform for `gamma1_zh` and `gamma2_zh`, flat Dirichlet for the four SFH weights.

    Attributes
    ----------
    log_mstar : log10 of the stellar mass formed, Msun.
    fburst : fraction of the mass formed in the burst.
    tburst : lookback time of the burst, Gyr.
    gamma1_zh, gamma2_zh : weights of the two metallicity-history bases.
    dust1, dust2 : birth-cloud and diffuse optical depth at 5500 Å.
    dust_index : slope offset from the Calzetti curve.

    Raises
    ------
    ParameterError : if a range is not finite and increasing, or a log-uniform or fraction range leaves its domain.
    """

    log_mstar: tuple[float, float] = (7.0, 12.5)
    fburst: tuple[float, float] = (0.0, 1.0)
    tburst: tuple[float, float] = (1e-2, 13.27)
    gamma1_zh: tuple[float, float] = (4.5e-5, 1.5e-2)
    gamma2_zh: tuple[float, float] = (4.5e-5, 1.5e-2)
    dust1: tuple[float, float] = (0.0, 3.0)
    dust2: tuple[float, float] = (0.0, 3.0)
    dust_index: tuple[float, float] = (-2.0, 1.0)

    def __post_init__(self) -> None:
        for name, ends in self.to_dict().items():
            values = as_floats(name, ends)
            if values.shape != (2,):
                raise ParameterError(f"prior range {name}={ends!r}: expected (low, high)")
            low, high = values.tolist()
            object.__setattr__(self, name, (low, high))
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise ParameterError(f"prior range {name}=({low}, {high}): expected finite low < high")
            if name.startswith("gamma") and low <= 0:
                raise ParameterError(f"prior range {name}=({low}, {high}): a log-uniform range must be positive")
            if name == "fburst" and not (low >= 0 and high <= 1):
                raise ParameterError(f"prior range {name}=({low}, {high}): a mass fraction lies in 0 … 1")
            if name in ("tburst", "dust1", "dust2") and low < 0:
                raise ParameterError(f"prior range {name}=({low}, {high}): must not be negative")

    def to_dict(self) -> dict[str, tuple[float, float]]:
        """The ranges by parameter name, for an artifact's card."""
        return {range_field.name: getattr(self, range_field.name) for range_field in fields(self)}

    @classmethod
    def from_dict(cls, ranges: Mapping[str, Any]) -> "Prior":
        """The prior that `to_dict` described; a missing name takes its default, an unknown one is refused."""
        known = get_type_hints(cls)
        unknown = sorted(set(ranges) - set(known))
        if unknown:
            raise ParameterError(f"prior has unknown parameters {unknown}; known are {sorted(known)}")
        return cls(**{name: (float(low), float(high)) for name, (low, high) in ranges.items()})

    def sample(self, n: int, seed: int | np.random.Generator) -> np.ndarray:
        """Draw `n` parameter vectors, shape (n, 12).

        Raises
        ------
        ParameterError : if `n` or `seed` is no integer, or negative.
        """
        rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(whole_number("seed", seed, least=0))
        n = whole_number("n", n, least=0)
        check_memory(f"{n:,} draws of the prior", n * (len(FREE_PARAMETER_NAMES) + len(PARAMETER_NAMES)), n_bytes=8)
        return self.from_unit(rng.random((n, len(FREE_PARAMETER_NAMES))))

    def from_unit(self, unit: np.ndarray) -> np.ndarray:
        """Map points of the unit cube (n, 11) to theta (n, 12): the inverse of the prior's CDF.

        The Dirichlet weights follow Betancourt (2013, arXiv:1010.3436).
        """
        unit = np.clip(_rows("unit", unit, len(FREE_PARAMETER_NAMES)), _UNIT_EDGE, 1 - _UNIT_EDGE)
        theta = np.empty((len(unit), len(PARAMETER_NAMES)))
        theta[:, 0] = self._uniform("log_mstar", unit[:, 0])
        theta[:, 1:5] = sfh_weights(unit[:, 1:4] ** (1 / 3, 1 / 2, 1))
        for column, name in enumerate(PARAMETER_NAMES[5:], start=5):
            theta[:, column] = self._uniform(name, unit[:, column - 1])
        return theta

    def to_unit(self, theta: np.ndarray) -> np.ndarray:
        """Map theta (n, 12), which is in the prior (see `validate`), to the unit cube (n, 11): the prior's CDF, NaN of NaN."""
        theta = _rows("theta", theta, len(PARAMETER_NAMES))
        unit = np.empty((len(theta), len(FREE_PARAMETER_NAMES)))
        unit[:, 0] = self._cdf("log_mstar", theta[:, 0])
        unit[:, 1:4] = sfh_sticks(theta[:, 1:5]) ** (3, 2, 1)
        # The first weight enters no stick, and a stick of NaN weights is taken for an open one.
        unit[np.isnan(theta[:, 1:5]).any(axis=1), 1:4] = np.nan
        for column, name in enumerate(PARAMETER_NAMES[5:], start=5):
            unit[:, column - 1] = self._cdf(name, theta[:, column])
        return np.clip(unit, _UNIT_EDGE, 1 - _UNIT_EDGE)

    def from_unbounded(self, theta_unbounded: np.ndarray) -> np.ndarray:
        """Map probit-space points (n, 11) to theta (n, 12); every real point lands inside the prior."""
        return self.from_unit(ndtr(_rows("theta_unbounded", theta_unbounded, len(FREE_PARAMETER_NAMES))))

    def to_unbounded(self, theta: np.ndarray) -> np.ndarray:
        """Map theta (n, 12), which is in the prior (see `validate`), to probit space (n, 11): there a standard normal."""
        return ndtri(self.to_unit(theta))

    def log_mstar_to_unbounded(self, log_mstar: np.ndarray) -> np.ndarray:
        """Map masses (n,) to their probit coordinate (n,), the first of `to_unbounded`."""
        return np.asarray(ndtri(np.clip(self._cdf("log_mstar", log_mstar), _UNIT_EDGE, 1 - _UNIT_EDGE)))

    def log_prob_unbounded(self, theta_unbounded: np.ndarray) -> np.ndarray:
        """Log density of the prior in probit space, shape (n,): a standard normal."""
        x = in_own_precision("theta_unbounded", theta_unbounded).astype(float, copy=False)
        return -0.5 * np.sum(x**2, axis=-1) - 0.5 * x.shape[-1] * np.log(2 * np.pi)

    def contains(self, theta: np.ndarray) -> np.ndarray:
        """Whether each parameter vector lies inside the prior, shape (n,); non-finite ones do not."""
        theta = _rows("theta", theta, len(PARAMETER_NAMES))
        low, high = self._bounds
        inside = ((theta >= low) & (theta <= high)).all(axis=1)
        inside &= np.abs(theta[:, 1:5].sum(axis=1) - 1) <= BETA_TOLERANCE
        return inside

    def _from_half_precision(self, theta: np.ndarray) -> np.ndarray:
        """Parameters (n, 12) that were float16: what but for the rounding would be in the prior is moved into it."""
        low, high = self._bounds
        near = (theta >= low.astype(np.float16)) & (theta <= high.astype(np.float16))
        theta = np.where(near, np.clip(theta, low, high), theta)
        total = theta[:, 1:5].sum(axis=1, keepdims=True)
        theta[:, 1:5] /= np.where(np.abs(total - 1) <= _BETA_TOLERANCE_IN_HALF_PRECISION, total, 1)
        return theta

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest value of each column of theta, (12,) each."""
        ranges = [getattr(self, name, (0.0, np.inf)) for name in PARAMETER_NAMES]
        low, high = np.array(ranges).T
        return low, high

    def validate(self, theta: np.ndarray) -> np.ndarray:
        """Return theta as a float array of shape (n, 12), or raise naming the first parameter that is wrong.

        Parameters in half precision, which keeps neither ranges nor sums, are put right within its rounding.

        Raises
        ------
        ParameterError : wrong shape, non-finite values, SFH weights that do not sum to one, or a value outside its range.
        """
        half = getattr(theta, "dtype", None) == np.float16
        theta = np.atleast_2d(as_floats("theta", theta))
        if theta.ndim != 2 or theta.shape[1] != len(PARAMETER_NAMES):
            raise ParameterError(
                f"theta has shape {theta.shape}, expected (n_galaxy, {len(PARAMETER_NAMES)}) in the order {PARAMETER_NAMES}"
            )
        if half:
            theta = self._from_half_precision(theta)
        if self.contains(theta).all():
            return theta
        if not np.isfinite(theta).all():
            row, column = np.argwhere(~np.isfinite(theta))[0]
            raise ParameterError(
                f"theta[{row}] has {PARAMETER_NAMES[column]}={theta[row, column]}: must be finite, leave the galaxy out"
            )
        total = theta[:, 1:5].sum(axis=1)
        if (np.abs(total - 1) > BETA_TOLERANCE).any() or (theta[:, 1:5] < 0).any():
            row = int(np.argmax((np.abs(total - 1) > BETA_TOLERANCE) | (theta[:, 1:5] < 0).any(axis=1)))
            raise ParameterError(
                f"theta[{row}] has SFH weights {theta[row, 1:5]}: must be non-negative and sum to 1, normalise them"
            )
        for name, (low, high) in self.to_dict().items():
            value = theta[:, PARAMETER_NAMES.index(name)]
            outside = (value < low) | (value > high)
            if outside.any():
                row = int(np.argmax(outside))
                raise ParameterError(
                    f"theta[{row}] has {name}={value[row]}, outside the prior range {low} … {high}: leave the galaxy out "
                    "(Prior.contains tells which are inside), or train with a wider prior"
                )
        return theta

    def log_density(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Log density (n,) of independent parameters inside their ranges: uniform, or log-uniform for the metallicities.

        Parameters
        ----------
        columns : by name, (n,) each; any of those but the SFH weights.
        """
        total = np.zeros(len(next(iter(columns.values()))))
        for name, values in columns.items():
            low, high = getattr(self, name)
            total -= np.log(values * np.log(high / low)) if name.startswith("gamma") else np.log(high - low)
        return total

    def _uniform(self, name: str, unit: np.ndarray) -> np.ndarray:
        low, high = getattr(self, name)
        if name.startswith("gamma"):
            return np.clip(np.exp(np.log(low) + unit * np.log(high / low)), low, high)
        return low + unit * (high - low)

    def _cdf(self, name: str, value: np.ndarray) -> np.ndarray:
        low, high = getattr(self, name)
        if name.startswith("gamma"):
            return np.log(value / low) / np.log(high / low)
        return (value - low) / (high - low)


def _rows(name: str, values: np.ndarray, n_column: int) -> np.ndarray:
    """Points as floats (n, n_column), of one point (n_column,) a row."""
    values = np.atleast_2d(in_own_precision(name, values)).astype(float, copy=False)
    if values.ndim != 2 or values.shape[1] != n_column:
        raise ParameterError(f"{name} has shape {values.shape}, expected (n, {n_column})")
    return values


def sfh_sticks(beta: np.ndarray) -> np.ndarray:
    """Stick-breaking coordinates (n, 3) of SFH weights (n, 4): β1 = 1-u1, β2 = u1(1-u2), β3 = u1 u2 (1-u3), β4 = u1 u2 u3.

    A coordinate that the weights leave open, because those after it are all zero, is 0.5.
    """
    # Sums from the far end keep full precision where a weight is tiny.
    rest = np.cumsum(beta[:, ::-1], axis=1)[:, ::-1]
    sticks = np.empty((len(beta), 3))
    sticks[:, 0] = rest[:, 1]
    for k in (1, 2):
        sticks[:, k] = np.divide(rest[:, k + 1], rest[:, k], out=np.full(len(beta), 0.5), where=rest[:, k] > 0)
    return sticks


def sfh_weights(sticks: np.ndarray) -> np.ndarray:
    """SFH weights (n, 4) of stick-breaking coordinates (n, 3), each 0 … 1; the inverse of `sfh_sticks`."""
    first, second, third = sticks.T
    return np.column_stack([1 - first, first * (1 - second), first * second * (1 - third), first * second * third])
