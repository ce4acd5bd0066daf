"""Ranks of truths among posterior samples, and tests that they are uniform: the statistics of `posterior.calibration`.

References
----------
Talts et al. 2018, arXiv:1804.06788 (ranks); Lemos et al. 2023, arXiv:2302.03026 (TARP); Holm 1979, Scand. J. Statist. 6, 65.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kstest

from sedcast.data.errors import ParameterError

__all__ = ["LEVELS", "TarpResult", "holm", "ks_p_values", "rank_statistics", "smallest", "tarp", "uniform_ranks"]

LEVELS = np.linspace(0, 1, 101)
"""Credibility levels of the coverage curves."""

_BOOTSTRAPS = 200


def uniform_ranks(below: np.ndarray, equal: np.ndarray, n_samples: np.ndarray | int, rng: np.random.Generator) -> np.ndarray:
    """Ranks as numbers uniform in (0, 1) if the truth is exchangeable with the samples, exactly, however few these are.

    The rank r in 0 … n_samples (a tie broken at random among the places it leaves) becomes (r + U) / (n_samples + 1) with
    U uniform.

    Parameters
    ----------
    below, equal : number of samples below the truth, and equal to it.
    n_samples : number of samples; a shape that broadcasts with these. Zero samples give U itself.
    rng : breaks ties.
    """
    rank = below + rng.integers(0, equal + 1)
    return np.asarray((rank + rng.random(np.shape(rank))) / (n_samples + 1))


def rank_statistics(truth: np.ndarray, samples: np.ndarray, *, seed: int | Sequence[int]) -> np.ndarray:
    """Ranks of the truth among samples, see `uniform_ranks`.

    Parameters
    ----------
    truth : (n,).
    samples : (n, n_samples).
    seed : of the random breaking of ties.

    Returns
    -------
    pit : (n,).

    Raises
    ------
    ParameterError : if shapes disagree or a value is not finite.
    """
    truth, samples = np.asarray(truth), np.asarray(samples)
    if truth.ndim != 1 or samples.ndim != 2 or len(samples) != len(truth) or samples.shape[1] < 1:
        raise ParameterError(f"truth {truth.shape} and samples {samples.shape}: expected (n,) and (n, n_samples)")
    bad = int(np.count_nonzero(~np.isfinite(truth))) + int(np.count_nonzero(~np.isfinite(samples).all(axis=1)))
    if bad:
        raise ParameterError(f"truth or samples are not finite in {bad} rows: leave them out and count them")
    below = np.count_nonzero(samples < truth[:, None], axis=1)
    equal = np.count_nonzero(samples == truth[:, None], axis=1)
    return uniform_ranks(below, equal, samples.shape[1], np.random.default_rng(seed))


@dataclass(frozen=True)
class TarpResult:
    """Coverage of random regions (Lemos et al. 2023).

    Attributes
    ----------
    levels : (n_level,) credibility α.
    ecp : (n_level,) expected coverage probability: the share of mocks within the region of credibility α, mean over references.
    ecp_error : (n_level,) its bootstrap standard deviation over mocks.
    max_dev : largest abs(ECP - α) over all α.
    max_dev_error : its bootstrap standard deviation.
    p_value : Kolmogorov-Smirnov probability of the first references' deviation, or more, if the posterior is calibrated.
    """

    levels: np.ndarray
    ecp: np.ndarray
    ecp_error: np.ndarray
    max_dev: float
    max_dev_error: float
    p_value: float


def tarp(closer: np.ndarray, *, seed: int) -> TarpResult:
    """TARP's coverage from the ranks of the truth's distances to reference points among the samples' distances.

    Coverage is an expectation over reference points too: the more of them each mock has, the less noise is in it, while what
    is wrong with a posterior stays.

    Reference points must not depend on the truth. If they do not depend on the data either, as those of `calibrate`, the
    test cannot tell the posterior from the prior; the ranks and what is known of the training tell these apart.

    Parameters
    ----------
    closer : (n, n_reference), from `rank_statistics` of the distances to each mock's references.
    seed : of the bootstrap over mocks.
    """
    closer, n = np.asarray(closer, dtype=float), len(closer)
    # Of each mock the share of references within whose region it is.
    inside = np.stack([(closer <= level).mean(axis=1) for level in LEVELS], axis=1)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), _BOOTSTRAPS)
    repeated = times @ inside / n
    return TarpResult(
        levels=LEVELS,
        ecp=inside.mean(axis=0),
        ecp_error=repeated.std(axis=0),
        max_dev=float(kstest(closer.ravel(), "uniform", method="asymp").statistic),
        max_dev_error=float(np.abs(repeated - LEVELS).max(axis=1).std()),
        # Ranks of one mock are not independent: the test is that of one reference.
        p_value=float(kstest(closer[:, 0], "uniform").pvalue),
    )


def ks_p_values(pit: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov p-values of uniformity of each column of ranks (n, n_quantity), NaN if there are none."""
    if not len(pit):
        return np.full(pit.shape[1], np.nan)
    return np.array([kstest(column, "uniform").pvalue for column in pit.T])


def smallest(p_values: np.ndarray) -> float:
    """The smallest of p-values after Holm's correction for testing all of them; NaN if none was tested."""
    p_values = holm(p_values)
    tested = p_values[np.isfinite(p_values)]
    return float(tested.min()) if tested.size else float("nan")


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values after Holm's correction for testing all of them, in the same shape; NaN (not tested) does not count."""
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    tested = np.isfinite(p_values)
    p = p_values[tested]
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    corrected = np.empty(p.size)
    corrected[order] = np.minimum(stepped, 1.0)
    adjusted[tested] = corrected
    return adjusted
