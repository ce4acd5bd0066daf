"""The posterior of a galaxy's two amplitudes, burst fraction and mass, at fixed other parameters: known without a network.

In every band the flux is M [(1 - f) S + f B], with S the flux per solar mass formed of the star-formation history and B that
of the burst. With fluxes in units of their errors, the likelihood depends on f and M by five numbers: the coordinates of S, B
and the observed fluxes in the plane of S and B. At each f the mass has its matched filter's density (`MassConditional`), and is
integrated out in closed form; what is left, a density of f alone, is tabulated, after two coarser grids have found where it is.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from sedcast.emulator.prior import Prior
from sedcast.posterior.flow_kernel import amplitude_densities, vector_floats
from sedcast.posterior.mass import MassConditional
from sedcast.posterior.tabulated import TabulatedDensity

__all__ = ["BRIGHTEST", "AmplitudePosterior"]

# The logit of the burst fraction's prior CDF: beyond are 3e-8 of the prior, in which the density of that CDF is flat.
_MAX_LOGIT = 18.0
_N_COARSE, _N_MIDDLE, _N_FINE, _N_MASS = 37, 41, 96, 64
# Below the highest density by so many nats, it does not count.
_DEEP = 18.0
_IMPOSSIBLE = 3e38
_ROOT_2PI = float(np.sqrt(2 * np.pi))
_LN_ROOT_2PI = float(np.log(_ROOT_2PI))
_LN10 = float(np.log(10))
_LN_LN10 = float(np.log(_LN10))
_TINY = float(np.finfo(np.float32).tiny)
BRIGHTEST = 1e15
"""Of fluxes over their errors, whose square float32 can hold."""


class _Plane(NamedTuple):
    """Coordinates in the plane of S and B, the first axis along S, (n, 1) each: S, B (both per reference mass) and the data."""

    s1: np.ndarray
    b1: np.ndarray
    b2: np.ndarray
    d1: np.ndarray
    d2: np.ndarray

    @classmethod
    def of(cls, history: np.ndarray, burst: np.ndarray, observed: np.ndarray) -> "_Plane":
        s1 = np.linalg.norm(history, axis=1, keepdims=True)
        first = history / np.maximum(s1, _TINY)
        b1, d1 = (np.sum(first * values, axis=1, keepdims=True) for values in (burst, observed))
        rest = burst - b1 * first
        b2 = np.linalg.norm(rest, axis=1, keepdims=True)
        d2 = np.sum(rest * observed, axis=1, keepdims=True) / np.maximum(b2, _TINY)
        return cls(*(np.clip(part, -BRIGHTEST, BRIGHTEST).astype(np.float32) for part in (s1, b1, b2, d1, d2)))


class AmplitudePosterior:
    """p(f, log M | other parameters, fluxes) of n parameter vectors, each with a galaxy's fluxes.

    Densities are with respect to the probit coordinates of f and log M, in which the prior is a standard normal. Light that is
    not finite, as of a network far outside its training, counts as none, which leaves the prior.

    Parameters
    ----------
    history, burst : (n, n_band), S and B over the errors of the observed fluxes, per solar mass; 0 where not measured.
    observed : (n, n_band) observed fluxes over their errors, likewise.
    prior : the ranges of burst fraction and mass.

    Attributes
    ----------
    compiled : whether the C library does the work; NumPy does the same.
    """

    def __init__(self, history: np.ndarray, burst: np.ndarray, observed: np.ndarray, prior: Prior) -> None:
        self._prior = prior
        # Per so many solar masses, lest squares underflow.
        self._reference = 0.5 * sum(prior.log_mstar)
        light = np.stack([history, burst]).astype(float) * 10**self._reference
        light[:, ~np.isfinite(light).all(axis=(0, 2))] = 0
        self._light, self._observed = light, observed
        self._plane = _Plane.of(light[0], light[1], observed.astype(float))
        self.compiled = vector_floats() > 0

    def draw(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probit coordinates (n, 2) of f and log M that base noise (n, 2) gives, and their log density (n,)."""
        share = ndtr(noise.astype(float))
        if self.compiled:
            logit, ln_mass, *log_density = amplitude_densities(self._ranges, self._stacked, share=share.T)
            log_mstar = self._reference + ln_mass.astype(float) / _LN10
        else:
            logit = self._fraction.quantile(share[:, 0].astype(np.float32))
            mass = self._mass(logit)
            log_mstar = mass.quantile(share[:, 1])
            log_density = [self._fraction.log_density(logit), mass.log_density(log_mstar) - _LN_LN10]
        fraction, mass_probit = ndtri(_expit(logit.astype(float))), self._prior.log_mstar_to_unbounded(log_mstar)
        points = np.stack([fraction, mass_probit], axis=1)
        return points, self._in_probits(points, logit, log_density)

    def log_likelihood(self, points: np.ndarray) -> np.ndarray:
        """-χ²/2 (n,) at probit coordinates (n, 2) of f and log M."""
        share = ndtr(points.astype(float))
        (least, most), (low, high) = self._prior.fburst, self._prior.log_mstar
        f = (least + (most - least) * share[:, :1]).astype(np.float32)
        mass = 10 ** (low + (high - low) * share[:, 1:] - self._reference)
        history, burst = self._light
        misfit = mass * (history + f * (burst - history)) - self._observed
        return np.asarray(-0.5 * np.einsum("nb,nb->n", misfit, misfit))

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Log density (n,) of what `draw` draws, at probit coordinates (n, 2) of f and log M."""
        points = points.astype(float)
        logit = np.clip(_logit(ndtr(points[:, 0])), -_MAX_LOGIT, _MAX_LOGIT).astype(np.float32)
        low, high = self._prior.log_mstar
        log_mstar = low + (high - low) * ndtr(points[:, 1])
        if self.compiled:
            at = logit, _LN10 * (log_mstar - self._reference)
            log_density = list(amplitude_densities(self._ranges, self._stacked, at=at)[2:])
        else:
            log_density = [self._fraction.log_density(logit), self._mass(logit).log_density(log_mstar) - _LN_LN10]
        return self._in_probits(points, logit, log_density)

    def _in_probits(self, points: np.ndarray, logit: np.ndarray, log_density: list[np.ndarray]) -> np.ndarray:
        """Log density of probit coordinates from those of the logit and the natural logarithm of the mass."""
        low, high = self._prior.log_mstar
        log_normal = -0.5 * np.sum(points**2, axis=1) - 2 * _LN_ROOT_2PI
        # The logit's slope is one over u (1 - u).
        ln_slope = np.abs(logit) + 2 * np.log1p(np.exp(-np.abs(logit.astype(float))))
        return log_density[0] + ln_slope + log_density[1] + np.log((high - low) * _LN10) + log_normal

    @property
    def _ranges(self) -> tuple[float, ...]:
        return (*self._prior.fburst, *(10 ** (end - self._reference) for end in self._prior.log_mstar))

    @property
    def _stacked(self) -> np.ndarray:
        return np.concatenate(self._plane, axis=1).T

    @cached_property
    def _fraction(self) -> TabulatedDensity:
        """The density of the logit of f's prior CDF."""
        best = self._best_fit()
        high = np.full(len(best), _MAX_LOGIT, np.float32)
        low = -high
        for n_node in (_N_COARSE, _N_MIDDLE):
            low, high = self._narrowed(low, high, best, n_node)
        height = self._log_height(_nodes(low, high, _N_FINE))
        height -= height.max(axis=1, keepdims=True)
        return TabulatedDensity(low, high, np.exp(height, out=height))

    def _narrowed(self, low: np.ndarray, high: np.ndarray, best: np.ndarray, n_node: int) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n,) between which the density counts, a step on either side included."""
        nodes = np.concatenate([_nodes(low, high, n_node), best], axis=1)
        height = self._log_height(nodes)
        counts = height > height.max(axis=1, keepdims=True) - _DEEP
        step = (high - low) / np.float32(n_node - 1)
        least = np.min(nodes, axis=1, where=counts, initial=_MAX_LOGIT)
        most = np.max(nodes, axis=1, where=counts, initial=-_MAX_LOGIT)
        return np.maximum(least - step, low), np.minimum(most + step, high)

    def _best_fit(self) -> np.ndarray:
        """The logit at which both components fit the fluxes best, (n, 1): where a narrow density has its peak."""
        s1, b1, b2, d1, d2 = self._plane
        burst = np.maximum(d2 / np.maximum(b2, _TINY), 0)
        history = np.maximum((d1 - burst * b1) / np.maximum(s1, _TINY), 0)
        low, high = self._prior.fburst
        with np.errstate(over="ignore", invalid="ignore"):
            f = np.nan_to_num(burst / np.maximum(history + burst, _TINY))
        return np.clip(_logit(np.clip((f - low) / (high - low), 0, 1)), -_MAX_LOGIT, _MAX_LOGIT).astype(np.float32)

    def _log_height(self, logit: np.ndarray) -> np.ndarray:
        """Log density (n, n_node), not normalised, at logits (n, n_node), the mass integrated out."""
        u = _expit(logit)
        # One minus it, with all its digits.
        rest = u * np.exp(-logit)
        signal, peak, off = self._filter(u, rest)
        low, high = (signal * np.float32(end) for end in self._ranges[2:])
        best = np.clip(peak, low, high)
        beyond = np.abs(peak - best)
        width = np.where(beyond > 0, _tail(beyond), _ROOT_2PI - _cut(high - peak) - _cut(peak - low))
        # The integral over the mass of exp(t K - t²/2), over its value where the model goes through the data in the plane.
        of_peak = -0.5 * (off * off + beyond * beyond) + np.log(np.maximum(width, _TINY)) - 0.5 * np.log1p(best * best)
        # Where nothing is detected, all masses that are too faint to see are equally good.
        seen = 1 / np.maximum(1, -peak)
        faint = np.log(np.maximum(np.minimum(high, seen) / low, 1))
        deepest = 0.5 * (self._plane.d1**2 + self._plane.d2**2)
        # None is, if the least of them can be seen.
        of_faint = np.where(faint > 0, np.log(np.maximum(faint, _TINY)) - deepest, -np.float32(_IMPOSSIBLE))
        return np.log(np.maximum(u * rest, _TINY)) + np.logaddexp(of_peak, of_faint)

    def _filter(self, u: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The model's signal-to-noise ratio at the reference mass, the matched filter's, and what is left in the plane."""
        low, high = self._prior.fburst
        f, other = low + (high - low) * u, (1 - high) + (high - low) * rest
        s1, b1, b2, d1, d2 = self._plane
        m1, m2 = other * s1 + f * b1, f * b2
        signal = np.sqrt(np.maximum(m1 * m1 + m2 * m2, _TINY))
        return signal, (m1 * d1 + m2 * d2) / signal, (m1 * d2 - m2 * d1) / signal

    def _mass(self, logit: np.ndarray) -> MassConditional:
        u = _expit(logit[:, None].astype(float))
        signal, peak, _ = self._filter(u, 1 - u)
        ln_signal = np.log(signal[:, 0]) - self._reference * _LN10
        return MassConditional(peak[:, 0], ln_signal, self._prior.log_mstar, n_node=_N_MASS)


def _nodes(low: np.ndarray, high: np.ndarray, n: int) -> np.ndarray:
    return np.asarray(low[:, None] + (high - low)[:, None] * np.linspace(0, 1, n, dtype=np.float32))


def _tail(start: np.ndarray) -> np.ndarray:
    """The integral of exp(-start x - x²/2) over x > 0, within 3%."""
    return 2 / (start + np.sqrt(start * start + np.float32(8 / np.pi)))


def _cut(start: np.ndarray) -> np.ndarray:
    """The integral of exp(-x²/2) over x > start, where that is positive."""
    start = np.maximum(start, 0)
    return np.exp(-0.5 * start * start) * _tail(start)


def _expit(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def _logit(u: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(u) - np.log1p(-u)
