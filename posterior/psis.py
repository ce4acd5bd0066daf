"""Pareto-smoothed importance weights and the diagnostic k-hat; tempered weights."""

import numpy as np
from scipy.special import logsumexp

from sedcast.data.errors import ParameterError

__all__ = ["effective_sample_size", "pareto_smooth", "systematic_rows", "tempered"]

_SMALLEST_TAIL = 5
# The prior on k of Vehtari et al. (2024), Sec. 6 and App. G: ten observations' worth at 0.5.
_PRIOR_COUNT, _PRIOR_K = 10, 0.5


def effective_sample_size(log_weights: np.ndarray) -> float:
    """(Σw)² / Σw² of weights (n,) given by their logarithms; 0 if all are zero."""
    if not np.isfinite(log_weights).any():
        return 0.0
    weight = np.exp(log_weights - log_weights.max())
    return float(weight.sum() ** 2 / (weight @ weight))


def systematic_rows(weights: np.ndarray, n: int, offset: np.ndarray) -> np.ndarray:
    """Which draws systematic resampling takes, (n_rows, n) in ascending order, of m in each row.

    Parameters
    ----------
    weights : (n_rows, m), not negative, with a positive sum in each row; one of w times the mean weight is taken floor(w n / m)
        or ceil(w n / m) times.
    offset : (n_rows, 1) random numbers from 0 to below 1.
    """
    n_rows, m = weights.shape
    cumulative = np.cumsum(weights, axis=1)
    # Rounding may bring a sum above the whole.
    last = np.minimum(np.ceil(cumulative * (n / cumulative[:, -1:]) - offset), n)
    last[:, -1] = n
    times = np.diff(last, axis=1, prepend=0).astype(np.intp)
    return np.repeat(np.tile(np.arange(m), n_rows), times.ravel()).reshape(n_rows, n)


def tempered(log_weights: np.ndarray, target: float) -> np.ndarray:
    """Normalised weights (n,) raised to the largest power up to 1 that makes their effective sample size `target`.

    Parameters
    ----------
    log_weights : (n,), -inf for zero, up to a constant; not all -inf.
    target : effective sample size.
    """
    low, high = 0.0, 1.0
    possible = np.isfinite(log_weights)
    finite = log_weights[possible] - log_weights.max()
    if effective_sample_size(finite) < target:
        for _ in range(30):
            power = 0.5 * (low + high)
            low, high = (power, high) if effective_sample_size(power * finite) >= target else (low, power)
    else:
        low = 1.0
    weight = np.zeros(len(log_weights))
    weight[possible] = np.exp(low * finite)
    return np.asarray(weight / weight.sum())


def pareto_smooth(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Replace the largest weights by the quantiles of a generalised Pareto distribution fitted to them.

    Parameters
    ----------
    log_weights : (n,), -inf for zero, up to a constant.

    Returns
    -------
    smoothed : (n,) log weights that sum to one.
    khat : shape of the tail. Below 0.5 the weights have a finite variance; up to 0.7, or 1 - 1 / log10(n) where that is less,
        their averages are reliable. 0 where the largest weights are all equal, else infinite where fewer than five draws make
        the tail.

    Raises
    ------
    ParameterError : if a weight is NaN or infinite, or none is positive.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao & Gabry 2024 (JMLR 25, 72), arXiv:1507.02646; Zhang & Stephens 2009 (Technometrics 51, 316).
    """
    smoothed = np.array(log_weights, dtype=float)
    if smoothed.ndim != 1 or np.isnan(smoothed).any() or not np.isfinite(smoothed.max(initial=-np.inf)):
        raise ParameterError(f"log_weights {smoothed.shape} must be (n,), without NaN or inf, and not all -inf")
    smoothed -= smoothed.max()
    n = len(smoothed)
    n_tail = int(np.ceil(min(0.2 * n, 3 * np.sqrt(n))))
    order = np.argsort(smoothed, kind="stable")
    cutoff = max(smoothed[order[-n_tail - 1]] if n_tail < n else -np.inf, np.log(np.finfo(float).tiny))
    tail = order[smoothed[order] > cutoff]
    long_enough = len(tail) >= _SMALLEST_TAIL
    equal = cutoff == 0 or (long_enough and smoothed[tail[-1]] - smoothed[tail[0]] < np.finfo(float).eps)
    khat = 0.0 if equal else np.inf
    if long_enough and not equal:
        excess = np.exp(cutoff) * np.expm1(smoothed[tail] - cutoff)
        khat, scale = _fit_pareto(excess)
        level = (np.arange(len(tail)) + 0.5) / len(tail)
        with np.errstate(over="ignore"):
            quantile = -scale * np.log1p(-level) if khat == 0 else scale * np.expm1(-khat * np.log1p(-level)) / khat
            smoothed[tail] = np.minimum(np.log(quantile + np.exp(cutoff)), 0.0)
    return smoothed - logsumexp(smoothed), float(khat)


def _fit_pareto(x: np.ndarray) -> tuple[float, float]:
    """Shape k and scale of a generalised Pareto distribution of x (n,), positive and ascending (Zhang & Stephens 2009)."""
    n = len(x)
    n_grid = 30 + int(np.sqrt(n))
    b = 1 - np.sqrt(n_grid / (np.arange(n_grid) + 0.5))
    b = b / (3 * x[int(n / 4 + 0.5) - 1]) + 1 / x[-1]
    b = b[b != 0]  # the exponential distribution, whose likelihood is a limit
    k = np.log1p(-b[:, None] * x).mean(axis=1)
    log_profile = n * (np.log(-b / k) - k - 1)
    weight = np.exp(log_profile - logsumexp(log_profile))
    mean = float(np.sum(b * weight))
    shape = float(np.log1p(-mean * x).mean())
    return (n * shape + _PRIOR_COUNT * _PRIOR_K) / (n + _PRIOR_COUNT), -shape / mean
