"""Is the posterior right where the truth lies at the prior's edge? Ranks and counts that are valid there.

A posterior is *not* calibrated among galaxies chosen by their truth: given that the truth lies at the lower edge of a
parameter, it ranks low, as it must. Two tests of the edge region E (the outer 5% of one parameter's prior, on one side) hold
nevertheless.

- Ranks within E. If the truths are drawn from the prior cut to E, which is what choosing the mocks with a truth in E does,
  their exact posterior is the full posterior cut to E and renormalised: p(θ | x, E) ∝ p(θ | x) 1[θ ∈ E], an importance
  correction whose weights are 0 and 1. So the truth is exchangeable with those of the samples that lie in E, however many
  these are, and its rank among them is uniform, of every quantity.
- Counts. The number of truths in E must be the sum over all mocks of the posterior's mass in E.

The first sees a wrong shape at the edge (a density that falls off before it, or piles up at it), the second a wrong amount.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from sedcast.data.provenance import jsonable
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.ranks import ks_p_values, smallest, uniform_ranks

__all__ = ["EDGE_LIMIT", "EDGE_SHARE", "EdgeRanks", "EdgeResult"]

EDGE_SHARE = 0.05
"""Share of a parameter's prior that its lower edge takes, and its upper edge."""

EDGE_LIMIT = float(norm.isf(EDGE_SHARE))
"""The same in probit space: beyond it, and below minus it, are the edges."""
_MIN_TRUTHS = 20
# Below this error a count of truths is too far from normal, and has an exact test.
_MIN_ERROR = 10.0**0.5


@dataclass(frozen=True)
class EdgeResult:
    """Tests at both edges of each free parameter: n_edge = 22 of them, 24 where the redshift is one.

    Attributes
    ----------
    edges : names, such as ``"dust2 low"``.
    names : of the quantities ranked.
    n_truth : (n_edge,) mocks with the truth in the edge.
    n_expected : (n_edge,) as many as the posteriors say.
    n_error : (n_edge,) standard deviation of the difference if the posteriors are calibrated.
    count_p : (n_edge,) two-sided p-values of the difference; NaN where neither a truth nor a sample is in the edge.
    ks_p : (n_edge, n_quantity) p-values of the ranks within the edge; NaN where fewer than 20 truths are.
    """

    edges: tuple[str, ...]
    names: tuple[str, ...]
    n_truth: np.ndarray
    n_expected: np.ndarray
    n_error: np.ndarray
    count_p: np.ndarray
    ks_p: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        """(n_edge,) bool: as many are expected as it takes for their number to be normal, with `n_error`."""
        return _normal(self.n_error)

    def to_json_dict(self) -> dict[str, Any]:
        """Figures as JSON-serialisable values, Holm's correction over all ranks and over all counts; null if not tested."""
        figures = {
            "share_of_prior": EDGE_SHARE,
            "ks_p_min_holm": smallest(self.ks_p),
            "count_p_min_holm": smallest(self.count_p),
            "edges": {
                edge: {
                    "n_truth": int(self.n_truth[k]),
                    "n_expected": float(self.n_expected[k]),
                    "count_p": self.count_p[k],
                    "ks_p": dict(zip(self.names, self.ks_p[k], strict=True)),
                }
                for k, edge in enumerate(self.edges)
            },
        }
        return dict(jsonable(figures))


class EdgeRanks:
    """Collects ranks and counts at the edges, block of mocks after block.

    Parameters
    ----------
    names : the quantities whose ranks are collected.
    seed : breaks ties.
    parameters : the coordinates of probit space.
    """

    def __init__(self, names: tuple[str, ...], *, seed: int, parameters: tuple[str, ...] = FREE_PARAMETER_NAMES) -> None:
        self.names = names
        self.edges = tuple(f"{name} {side}" for name in parameters for side in ("low", "high"))
        self._rng = np.random.default_rng([seed, 2])
        self._ranks: list[list[np.ndarray]] = [[] for _ in self.edges]
        self._n_truth, self._n_inside, self._n_expected, self._variance = np.zeros((4, len(self.edges)))
        self._n_samples = 0

    def add(self, points: np.ndarray, samples: np.ndarray, true_points: np.ndarray, truths: np.ndarray) -> None:
        """Take up mocks with their posterior samples.

        Parameters
        ----------
        points : (n, n_samples, dim) samples in probit space, in which the prior is a standard normal; as many in every block.
        samples : (n, n_samples, n_quantity) the quantities of the same samples.
        true_points, truths : (n, dim) and (n, n_quantity), the same of the truths.
        """
        n_samples = self._n_samples = points.shape[1]
        for index in range(len(self.edges)):
            inside, true_inside = (_in_edge(values[..., index // 2], index % 2) for values in (points, true_points))
            count = inside.sum(axis=1)
            mass = count / n_samples
            self._n_truth[index] += true_inside.sum()
            self._n_inside[index] += count.sum()
            self._n_expected[index] += mass.sum()
            # Of the truth's own 0 or 1, and of the mass as estimated from the samples.
            self._variance[index] += (mass * (1 - mass)).sum() * (n_samples + 1) / max(n_samples - 1, 1)
            for row in np.flatnonzero(true_inside):
                among = samples[row, inside[row]]
                below, equal = (among < truths[row]).sum(axis=0), (among == truths[row]).sum(axis=0)
                self._ranks[index].append(uniform_ranks(below, equal, int(count[row]), self._rng))

    def result(self) -> EdgeResult:
        """The tests of everything taken up."""
        ks_p = np.full((len(self.edges), len(self.names)), np.nan)
        for index, ranks in enumerate(self._ranks):
            if len(ranks) >= _MIN_TRUTHS:
                ks_p[index] = ks_p_values(np.stack(ranks))
        error = np.sqrt(self._variance)
        normal = _normal(error)
        deviation = np.abs(self._n_truth - self._n_expected) / np.where(normal, error, 1.0)
        count_p = 2 * norm.sf(deviation)
        for index in np.flatnonzero(~normal).tolist():
            count_p[index] = _rare_p(int(self._n_truth[index]), int(self._n_inside[index]), self._n_samples)
        return EdgeResult(self.edges, self.names, self._n_truth.astype(int), self._n_expected, error, count_p, ks_p)


def _normal(error: np.ndarray) -> np.ndarray:
    return np.asarray(error >= _MIN_ERROR)


def _rare_p(n_truth: int, n_inside: int, n_samples: int) -> float:
    """Two-sided p-value of a few truths beside the samples in the same edge, also where these are none.

    Rare events are Poisson: given the sum of both counts, the truths' is binomial, each being one of n_samples + 1 draws. Where
    the events are not that rare, counts scatter by less.
    """
    if n_truth + n_inside == 0:
        return float("nan")
    return float(binomtest(n_truth, n_truth + n_inside, 1 / (n_samples + 1)).pvalue)


def _in_edge(points: np.ndarray, high: int) -> np.ndarray:
    return np.asarray(points > EDGE_LIMIT if high else points < -EDGE_LIMIT)
