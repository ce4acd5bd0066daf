"""Importance resampling: what a flow draws, weighted by likelihood and prior, becomes draws of the posterior itself.

A flow that knows the likelihood of what it draws (`FlowDraws`) knows how wrong it is: each draw has the importance weight
w = p(x | theta) p(theta) / q(theta | x), and drawing by these weights corrects the flow where it is too wide, too narrow or
shifted. What the weights say about the flow comes with it: their effective sample size, and the evidence.

References
----------
Rubin 1988 (sampling importance resampling); Kitagawa 1996 (systematic resampling); Dax et al. 2023, arXiv:2210.05686
(importance sampling of amortized posteriors).
"""

from typing import NamedTuple

import numpy as np

from sedcast.posterior.conditional_flow import FlowDraws, row_stream
from sedcast.posterior.likelihood import UNBOUNDED_LIMIT
from sedcast.posterior.psis import systematic_rows, tempered

__all__ = [
    "FEW_EFFECTIVE",
    "LEAST_DRAWS",
    "LEAST_EFFICIENCY",
    "SAMPLES_VERSION",
    "PosteriorDraws",
    "n_draws",
    "resample",
    "weigh",
]

LEAST_EFFICIENCY = 0.1
"""Weights of a lower efficiency are tempered until they have it: the samples are then between the flow and the posterior."""

LEAST_DRAWS = 100
"""So many draws are weighed, however few samples are asked for."""

FEW_EFFECTIVE = "flow far from the posterior: samples approximate"
"""The flag of rows whose weights are tempered."""

SAMPLES_VERSION = 2
"""Of what samples are, for work that is gone on from: those of 1 were the flow's draws."""

_LN_2PI = float(np.log(2 * np.pi))


class PosteriorDraws(NamedTuple):
    """Equally weighted samples of posteriors, and what the weights of the flow's draws say.

    Attributes
    ----------
    points : (n, n_samples, dim) float32 in probit space; the lower the efficiency, the more of them are copies of others.
    efficiency : (n,) the effective share of the flow's draws, (Σw)² / (m Σw²), before any tempering; 1 if the flow is the
        posterior; 0 where no draw has a posterior, the samples then being NaN; NaN where the flow does not know the likelihood,
        the samples then being its draws as they are.
    log_evidence : (n,) log p(x | model), nats, x in nanomaggies; NaN in both cases.
    """

    points: np.ndarray
    efficiency: np.ndarray
    log_evidence: np.ndarray

    @property
    def flags(self) -> np.ndarray:
        """(n,) `FEW_EFFECTIVE` where the weights are tempered, "" elsewhere."""
        return np.where(self.efficiency < LEAST_EFFICIENCY, FEW_EFFECTIVE, "")


def n_draws(n_samples: int) -> int:
    """Draws of the flow from which so many samples are resampled."""
    return max(n_samples, LEAST_DRAWS)


def resample(draws: FlowDraws, n_samples: int, *, seed: int, keys: np.ndarray) -> PosteriorDraws:
    """Equally weighted samples (n, n_samples, dim) of weighted draws, each as often as its weight asks for.

    Systematic resampling: a draw of weight w times the mean is taken floor(w) or ceil(w) times, so that equal weights leave as
    many draws as they are. Draws that are not finite, or beyond `UNBOUNDED_LIMIT`, have no weight, unless the likelihood is
    unknown; a row of nothing else has no samples.

    Parameters
    ----------
    draws : at least `n_samples` of each row.
    n_samples : per row.
    seed, keys : (n,) of the rows' random streams, beyond what the draws took of them.
    """
    weight, efficiency, log_evidence = weigh(draws)
    offset = np.array([row_stream(seed, key, 2).random() for key in keys]).reshape(-1, 1)
    rows = systematic_rows(weight, n_samples, offset)
    n, m, dim = draws.theta.shape
    # Of all rows' draws at once, which NumPy takes several times as fast.
    taken = draws.theta.reshape(n * m, dim).take((rows + m * np.arange(n)[:, None]).ravel(), axis=0)
    points = taken.reshape(n, n_samples, dim)
    points[efficiency == 0] = np.nan
    return PosteriorDraws(points, efficiency, log_evidence)


def weigh(draws: FlowDraws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (n, m) of draws by which they are resampled, their sum 1 in each row; efficiency and log evidence (n,).

    Tempered where their efficiency is below `LEAST_EFFICIENCY`; equal in rows whose likelihood is not known, or zero.
    """
    log_weight = _log_weights(draws)
    n, m = log_weight.shape
    known = np.isfinite(log_weight).any(axis=1)
    efficiency, log_evidence = np.full((2, n), np.nan)
    efficiency[~known & ~np.isnan(draws.log_likelihood).all(axis=1)] = 0
    weight = np.full((n, m), 1 / m)
    if known.any():
        some = log_weight[known]
        largest = some.max(axis=1, keepdims=True)
        share = np.exp(some - largest)
        total = share.sum(axis=1, keepdims=True)
        log_evidence[known] = (largest + np.log(total))[:, 0] - np.log(m)
        share /= total
        efficiency[known] = 1 / (m * np.einsum("nm,nm->n", share, share))
        for row in np.flatnonzero(efficiency[known] < LEAST_EFFICIENCY):
            share[row] = tempered(some[row], LEAST_EFFICIENCY * m)
        weight[known] = share
    return weight, efficiency, log_evidence


def _log_weights(draws: FlowDraws) -> np.ndarray:
    """Log of w (n, m); -inf where a draw is not finite or absurdly far out, or its likelihood is not known."""
    theta = draws.theta
    with np.errstate(over="ignore", invalid="ignore"):
        inside = (np.abs(theta) <= UNBOUNDED_LIMIT).all(axis=2)
        log_prior = -0.5 * np.einsum("nmd,nmd->nm", theta, theta) - 0.5 * theta.shape[2] * _LN_2PI
        log_weight = draws.log_likelihood + log_prior - draws.log_q
    return np.where(inside & np.isfinite(log_weight), log_weight, -np.inf)
