"""Is the posterior calibrated? Ranks, coverage and TARP on fresh mock galaxies.

If (theta, x) is drawn from the joint and theta_s from the true posterior p(theta | x), the rank of theta among the theta_s is
uniform: for each parameter (Talts et al. 2018, arXiv:1804.06788), for any function of the parameters, on any subset
selected by x; and for the distance to a random point (TARP, Lemos et al. 2023, arXiv:2302.03026). A burst before the
beginning of a galaxy changes nothing, so that posteriors have a plateau there: ranks do not mind.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sedcast.data.checks import check_kind, whole_number
from sedcast.data.errors import ParameterError
from sedcast.data.provenance import jsonable
from sedcast.emulator.histories import DERIVED_NAMES, SURVIVING_NAME, derived_properties
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.mocks import Mocks
from sedcast.posterior.prior_edges import EdgeRanks, EdgeResult
from sedcast.posterior.ranks import TarpResult, holm, ks_p_values, rank_statistics, smallest, tarp
from sedcast.posterior.resampling import PosteriorDraws

__all__ = ["LEAST_MOCKS", "CalibrationResult", "Check", "calibrate"]

logger = logging.getLogger(__name__)

_FIRST_DERIVED = ("log_sfr_1gyr", "log_z_mw", "t_mw_gyr")
_OTHER_DERIVED = tuple(name for name in (*DERIVED_NAMES, SURVIVING_NAME) if name not in _FIRST_DERIVED)

_JOINT = "joint (TARP)"
_EFFICIENCIES = {"median": 50, "p5": 5, "p1": 1}
_N_QUARTILE = 4
LEAST_MOCKS = 20
"""With fewer, quartiles would be all but empty."""
_GALAXIES_PER_BLOCK = 64
_DRAWS_PER_SAMPLE = 4
_N_REFERENCE = 16
_KS_BAR, _SUBSET_BAR, _TARP_BAR, _TARP_MOCKS = 0.05, 0.01, 0.015, 10_000
_MOST_EXCLUDED = 1e-3


@dataclass(frozen=True)
class Check:
    """One figure against its bar: at least `bar` if it is a p-value, at most if a deviation; NaN if it was not tested."""

    name: str
    value: float
    bar: float
    at_least: bool = True

    @property
    def passes(self) -> bool | None:
        """None if it was not tested."""
        if not np.isfinite(self.value):
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def as_row(self) -> tuple[str, float | str, str, str]:
        """Name, value, bar and verdict, for a table."""
        verdict = {True: "pass", False: "MISS", None: "not tested"}[self.passes]
        return self.name, "" if self.passes is None else self.value, f"{'≥' if self.at_least else '≤'} {self.bar:.3g}", verdict


@dataclass(frozen=True)
class CalibrationResult:
    """Ranks of mock galaxies' parameters within their posteriors, and what follows.

    Attributes
    ----------
    names : quantities, n_quantity of them: the free parameters, three derived ones, then `others`.
    others : the derived quantities that are tested by themselves, not within quartiles nor at the prior's edges.
    pit : (n_mocks, n_quantity), uniform in each column if calibrated; see `rank_statistics`.
    ks_p : (n_quantity,) Kolmogorov-Smirnov p-values of uniformity.
    tarp : coverage of random regions in the joint probit space of the free parameters.
    quartiles : by observable (magnitude instead of redshift where that is inferred), the edges (5,) of its quartiles and the
        p-values (4, n_quantity - n_other + 1) within them, TARP's (of one reference) last.
    edges : truths at the prior's edges.
    efficiency : (n_mocks,) of the importance weights that the samples were drawn by, see `PosteriorDraws`.
    n_samples : posterior samples per mock.
    n_excluded : mocks whose samples were not finite, left out.
    seed : of mocks and samples.
    """

    names: tuple[str, ...]
    others: tuple[str, ...]
    pit: np.ndarray
    ks_p: np.ndarray
    tarp: TarpResult
    quartiles: dict[str, tuple[np.ndarray, np.ndarray]]
    edges: EdgeResult
    efficiency: np.ndarray
    n_samples: int
    n_excluded: int
    seed: int

    @property
    def ks_p_min_holm(self) -> float:
        """The smallest p-value of all quantities but `others`, after Holm's correction for testing several."""
        return smallest(self.ks_p[: self._n_first])

    @property
    def _n_first(self) -> int:
        return len(self.names) - len(self.others)

    @property
    def _tarp_bar(self) -> float:
        """With fewer mocks a deviation that is as improbable of a calibrated posterior as the bar with 10,000."""
        return _TARP_BAR * max(1.0, (_TARP_MOCKS / len(self.pit)) ** 0.5)

    def checks(self) -> tuple[Check, ...]:
        """The figures that calibration is judged by; each family of tests has Holm's correction of its own."""
        edges = self.edges.to_json_dict()
        left_out = self.n_excluded / (self.n_excluded + len(self.pit))
        return (
            Check("share of mocks without samples", left_out, _MOST_EXCLUDED, at_least=False),
            Check("smallest KS p after Holm's correction", self.ks_p_min_holm, _KS_BAR),
            Check("KS p of the other derived quantities", smallest(self.ks_p[self._n_first :]), _KS_BAR),
            Check("TARP, largest deviation", self.tarp.max_dev, self._tarp_bar, at_least=False),
            *(
                Check(f"KS p within quartiles of {observable}", smallest(p), _SUBSET_BAR)
                for observable, (_, p) in self.quartiles.items()
            ),
            *(
                Check(name, float("nan") if edges[key] is None else edges[key], _SUBSET_BAR)
                for name, key in (
                    ("KS p of truths at the prior's edges", "ks_p_min_holm"),
                    ("p of the number of truths at these edges", "count_p_min_holm"),
                )
            ),
        )

    def _efficiency_figures(self) -> dict[str, float]:
        known = self.efficiency[np.isfinite(self.efficiency)]
        if not known.size:
            return {}
        return {f"efficiency_{name}": float(np.percentile(known, q)) for name, q in _EFFICIENCIES.items()}

    def to_json_dict(self) -> dict[str, Any]:
        """Figures as JSON-serialisable values, each family of p-values also with Holm's correction over all of it."""
        n_first = self._n_first
        corrected = np.concatenate([holm(self.ks_p[:n_first]), holm(self.ks_p[n_first:])])
        figures = {
            "n_mocks": len(self.pit),
            "n_samples": self.n_samples,
            "n_excluded": self.n_excluded,
            "seed": self.seed,
            "passes": all(check.passes is not False for check in self.checks()),
            "checks": [
                {
                    "name": check.name,
                    "value": check.value,
                    "at_least" if check.at_least else "at_most": check.bar,
                    "passes": check.passes,
                }
                for check in self.checks()
            ],
            "ks_p": dict(zip(self.names, self.ks_p.tolist(), strict=True)),
            "ks_p_holm": dict(zip(self.names, corrected.tolist(), strict=True)),
            "ks_p_min_holm": self.ks_p_min_holm,
            "tarp_max_dev": self.tarp.max_dev,
            "tarp_max_dev_error": self.tarp.max_dev_error,
            "tarp_p": self.tarp.p_value,
            **self._efficiency_figures(),
            "ks_p_by_quartile": {
                observable: {
                    "edges": edges.tolist(),
                    "ks_p": {name: p[:, k].tolist() for k, name in enumerate((*self.names[:n_first], _JOINT))},
                    "ks_p_min_holm": smallest(p),
                }
                for observable, (edges, p) in self.quartiles.items()
            },
            "prior_edges": self.edges.to_json_dict(),
        }
        return dict(jsonable(figures))


def calibrate(
    estimator: PosteriorEstimator,
    mocks: Mocks,
    *,
    n_samples: int = 100,
    seed: int,
    sampler: Callable[..., PosteriorDraws] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationResult:
    """Test an estimator on mocks, for example those of `draw_mocks`.

    Parameters
    ----------
    estimator : to test.
    mocks : drawn from the joint of its prior, model and noise; bands may be unmeasured if the estimator allows it.
    n_samples : posterior samples per mock, each one of four draws, so that hardly any is a copy of another. The ranks are
        exactly uniform for any number; one of 100 resolves a per cent, less than what 10,000 mocks can tell from uniform.
    seed : of the samples, of TARP's 16 reference points for each mock (drawn from the prior, in probit space) and of the
        breaking of ties.
    sampler : draws the samples in place of the estimator, called as its `draw`; they must be independent.
    progress : called as (mocks done, mocks).

    Raises
    ------
    ParameterError : if there are fewer than 20 mocks, or so few have samples, or one is outside the estimator's redshifts.
    """
    n_samples, seed = whole_number("n_samples", n_samples), whole_number("seed", seed, least=0)
    check_kind("estimator", estimator, PosteriorEstimator, "such as PosteriorEstimator.default()")
    check_kind("mocks", mocks, Mocks, "draw_mocks makes them")
    if sampler is not None and not callable(sampler):
        raise ParameterError(f"sampler is a {type(sampler).__name__}, expected a function as PosteriorEstimator.draw, or None")
    if len(mocks) < LEAST_MOCKS:
        raise ParameterError(f"{len(mocks)} mocks: expected at least {LEAST_MOCKS} to fill quartiles; draw more")
    estimator.check_redshift(mocks.zred)
    # The truths are rounded as the samples are: where a quantity is clipped, both must meet the same value.
    draw = sampler or _Thinned(estimator)
    first = (*estimator.free_names, *_FIRST_DERIVED)
    others = tuple(name for name in _OTHER_DERIVED if name != SURVIVING_NAME or estimator.surviving is not None)
    names, n_first = (*first, *others), len(first)
    points = estimator.joint_points(mocks.theta_unbounded, mocks.zred).astype(np.float32)
    truths = _quantities(estimator, points[:, None], mocks.zred, names)[:, 0]
    references = np.random.default_rng([seed, 1]).standard_normal((_N_REFERENCE, *points.shape)).astype(np.float32)
    n = len(mocks)
    pit, closer, efficiency = np.full(truths.shape, np.nan), np.full((n, _N_REFERENCE), np.nan), np.full(n, np.nan)
    edges = EdgeRanks(first, seed=seed, parameters=estimator.free_names)
    for start in range(0, n, _GALAXIES_PER_BLOCK):
        rows = np.arange(start, min(start + _GALAXIES_PER_BLOCK, n))
        done = int(rows[-1]) + 1
        zred = None if estimator.infers_redshift else mocks.zred[rows]
        drawn, efficiency[rows], _ = draw(mocks.flux[rows], mocks.flux_ivar[rows], zred, n_samples, seed=seed, row_keys=rows)
        finite = np.isfinite(drawn).all(axis=(1, 2))
        rows, drawn = rows[finite], drawn[finite]
        samples = _quantities(estimator, drawn, mocks.zred[rows], names)
        for k in range(len(names)):
            # Those of the references come between.
            stream = k if k < n_first else k + _N_REFERENCE
            pit[rows, k] = rank_statistics(truths[rows, k], samples[..., k], seed=[seed, start, stream])
        for k, reference in enumerate(references[:, rows]):
            distance = np.linalg.norm(points[rows] - reference, axis=1)
            far = np.linalg.norm(drawn - reference[:, None], axis=2)
            closer[rows, k] = rank_statistics(distance, far, seed=[seed, start, n_first + k])
        edges.add(drawn, samples[..., :n_first], points[rows], truths[rows, :n_first])
        if progress is not None:
            progress(done, n)
    kept = np.isfinite(closer[:, 0])
    if np.count_nonzero(kept) < LEAST_MOCKS:
        raise ParameterError(
            f"{np.count_nonzero(~kept)} of {n} mocks have non-finite samples, which leaves too few: train the estimator anew"
        )
    if not kept.all():
        logger.warning("%d of %d mocks have non-finite samples and are left out", np.count_nonzero(~kept), n)
    pit, closer = pit[kept], closer[kept]
    observables = _observables(estimator, mocks)
    all_ranks = np.column_stack([pit[:, :n_first], closer[:, 0]])
    return CalibrationResult(
        names=names,
        others=others,
        pit=pit,
        ks_p=ks_p_values(pit),
        tarp=tarp(closer, seed=seed),
        quartiles={name: _by_quartile(all_ranks, values[kept]) for name, values in observables.items()},
        edges=edges.result(),
        efficiency=efficiency[kept],
        n_samples=n_samples,
        n_excluded=int(np.count_nonzero(~kept)),
        seed=seed,
    )


@dataclass(frozen=True)
class _Thinned:
    """An estimator's samples, one of several draws each: ranks among copies of one draw would not be uniform."""

    estimator: PosteriorEstimator

    def __call__(
        self, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray | None, n: int, *, seed: int, row_keys: np.ndarray
    ) -> PosteriorDraws:
        drawn = self.estimator.draw(flux, flux_ivar, zred, _DRAWS_PER_SAMPLE * n, seed=seed, row_keys=row_keys)
        return drawn._replace(points=drawn.points[:, ::_DRAWS_PER_SAMPLE])


def _observables(estimator: PosteriorEstimator, mocks: Mocks) -> dict[str, np.ndarray]:
    """What quartiles are made of, (n,) each: observed values only, since galaxies chosen by their truth are not calibrated."""
    first = {"zred": mocks.zred}
    if estimator.infers_redshift:
        mean = estimator.context.names.index("mag_mean")
        first = {"magnitude": estimator.context(mocks.flux, mocks.flux_ivar, None)[:, mean]}
    return first | {"signal_to_noise": mocks.signal_to_noise}


def _quantities(estimator: PosteriorEstimator, points: np.ndarray, zred: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Points (n, m, dim) in probit space, then the derived quantities of `names`: (n, m, n_quantity)."""
    theta = estimator.to_theta(points)
    redshifts = estimator.redshifts(points, zred).ravel()
    flat = theta.reshape(-1, theta.shape[-1])
    derived = derived_properties(flat, redshifts, estimator.bases, estimator.cosmology, surviving=estimator.surviving)
    added = [derived[name].reshape(*points.shape[:2], 1) for name in names[points.shape[2] :]]
    return np.concatenate([points, *added], axis=2)


def _by_quartile(ranks: np.ndarray, observable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    limits = np.quantile(observable, np.linspace(0, 1, _N_QUARTILE + 1))
    quartile = np.clip(np.searchsorted(limits, observable, side="right") - 1, 0, _N_QUARTILE - 1)
    return limits, np.stack([ks_p_values(ranks[quartile == k]) for k in range(_N_QUARTILE)])
