"""Is the posterior calibrated? Ranks, coverage and TARP on fresh mock galaxies.

If (theta, x) is drawn from the joint and theta_s from the true posterior p(theta | x), the rank of theta among the theta_s is
uniform: for each parameter (Talts et al. 2018, arXiv:1804.06788), for any function of the parameters, on any subset
selected by x; and for the distance to a random point (TARP, Lemos et al. 2023, arXiv:2302.03026).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kstest

from sedcast.data.errors import ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.emulator.simulate import PhotometrySimulator, RedshiftRange, draw_galaxies
from sedcast.posterior.estimator import PosteriorEstimator

__all__ = [
    "CALIBRATED_NAMES",
    "CalibrationResult",
    "Mocks",
    "TarpResult",
    "calibrate",
    "draw_mocks",
    "holm_minimum",
    "rank_statistics",
    "tarp",
]

logger = logging.getLogger(__name__)

_DERIVED_NAMES = ("log_sfr_1gyr", "log_z_mw", "t_mw_gyr")
CALIBRATED_NAMES = (*FREE_PARAMETER_NAMES, *_DERIVED_NAMES)
"""Quantities whose ranks are tested: the free parameters and three derived ones."""

LEVELS = np.linspace(0, 1, 101)
"""Credibility levels of the coverage curves."""

_N_QUARTILE = 4
_MIN_MOCKS = 20
_GALAXIES_PER_BLOCK = 64
_BOOTSTRAPS = 200


def rank_statistics(truth: np.ndarray, samples: np.ndarray, *, seed: int | Sequence[int]) -> np.ndarray:
    """Ranks of the truth among samples, as numbers uniform in (0, 1) if the posterior is calibrated.

    The rank r in 0 … n_samples (ties, and what they leave of a discrete distribution, broken at random) becomes
    (r + U) / (n_samples + 1) with U uniform: exactly uniform for calibrated samples, however few.

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
    rng = np.random.default_rng(seed)
    below = np.count_nonzero(samples < truth[:, None], axis=1)
    equal = np.count_nonzero(samples == truth[:, None], axis=1)
    rank = below + rng.integers(0, equal + 1)
    return (rank + rng.random(len(rank))) / (samples.shape[1] + 1)


@dataclass(frozen=True)
class TarpResult:
    """Coverage of random regions (Lemos et al. 2023).

    Attributes
    ----------
    levels : (n_level,) credibility α.
    ecp : (n_level,) expected coverage probability: the share of mocks within the region of credibility α.
    ecp_error : (n_level,) its bootstrap standard deviation.
    max_dev : largest abs(ECP - α) over all α.
    max_dev_error : its bootstrap standard deviation.
    p_value : Kolmogorov-Smirnov probability of a deviation at least as large if the posterior is calibrated.
    """

    levels: np.ndarray
    ecp: np.ndarray
    ecp_error: np.ndarray
    max_dev: float
    max_dev_error: float
    p_value: float


def tarp(closer: np.ndarray, *, seed: int) -> TarpResult:
    """TARP's coverage from `closer` (n,), the ranks of the truth's distance to the reference among the samples' distances.

    Reference points must not depend on the truth. If they do not depend on the data either, as those of `calibrate`, the
    test cannot tell the posterior from the prior; the ranks and what is known of the training tell these apart.

    Parameters
    ----------
    closer : (n,) from `rank_statistics` of distances.
    seed : of the bootstrap over mocks.
    """
    closer = np.asarray(closer, dtype=float)
    test = kstest(closer, "uniform")
    rng = np.random.default_rng(seed)
    curves, deviations = np.empty((_BOOTSTRAPS, len(LEVELS))), np.empty(_BOOTSTRAPS)
    for k in range(_BOOTSTRAPS):
        again = rng.choice(closer, len(closer))
        curves[k], deviations[k] = _coverage(again), kstest(again, "uniform").statistic
    return TarpResult(
        LEVELS, _coverage(closer), curves.std(axis=0), float(test.statistic), float(deviations.std()), float(test.pvalue)
    )


@dataclass(frozen=True)
class Mocks:
    """Mock galaxies with known parameters: theta (n, 12), theta_unbounded (n, 11), flux, flux_ivar (n, n_band), zred (n,)."""

    theta: np.ndarray
    theta_unbounded: np.ndarray
    flux: np.ndarray
    flux_ivar: np.ndarray
    zred: np.ndarray

    def __len__(self) -> int:
        return len(self.zred)

    @property
    def signal_to_noise(self) -> np.ndarray:
        """Median signal-to-noise ratio over the bands, (n,)."""
        return np.asarray(np.median(self.flux * np.sqrt(self.flux_ivar), axis=1))


def draw_mocks(
    n_mocks: int, simulator: PhotometrySimulator, estimator: PosteriorEstimator, noise: NoiseModel, *, seed: int
) -> Mocks:
    """Draw mocks from the joint that the estimator was trained on, with a seed of their own.

    Raises
    ------
    ParameterError : if the seed is that of the training set, whose galaxies would be drawn again, or bands disagree.
    """
    trained_on = (estimator.card.get("simulation") or {}).get("seed")
    if seed == trained_on:
        raise ParameterError(f"seed={seed} is that of the estimator's training set: choose another for mocks")
    for name, bands in (("simulator", simulator.bands), ("noise", noise.bands)):
        if tuple(bands) != estimator.bands:
            raise ParameterError(f"{name} has bands {bands}, the estimator {estimator.bands}: they must agree")
    low, high = estimator.zred_range
    parts, n = [], 0
    for _, draws in draw_galaxies(simulator, estimator.prior, noise, RedshiftRange(min=low, max=high), seed=seed):
        parts.append(draws)
        n += len(draws)
        if n >= n_mocks:
            break
    columns = ("theta", "theta_unbounded", "flux", "flux_ivar", "zred")
    return Mocks(*(np.concatenate([getattr(part, name) for part in parts])[:n_mocks] for name in columns))


@dataclass(frozen=True)
class CalibrationResult:
    """Ranks of mock galaxies' parameters within their posteriors, and what follows.

    Attributes
    ----------
    names : quantities, n_quantity of them.
    pit : (n_mocks, n_quantity), uniform in each column if calibrated; see `rank_statistics`.
    ks_p : (n_quantity,) Kolmogorov-Smirnov p-values of uniformity.
    coverage : (n_quantity, n_level) share of mocks whose rank is below each of `levels`: the p-p plot.
    levels : (n_level,).
    tarp : coverage of random regions in the joint probit space of the free parameters.
    quartiles : by observable, the edges (5,) of its quartiles and the p-values (4, n_quantity) within them.
    n_samples : posterior samples per mock.
    n_excluded : mocks whose samples were not finite, left out.
    seed : of mocks and samples.
    """

    names: tuple[str, ...]
    pit: np.ndarray
    ks_p: np.ndarray
    coverage: np.ndarray
    levels: np.ndarray
    tarp: TarpResult
    quartiles: dict[str, tuple[np.ndarray, np.ndarray]]
    n_samples: int
    n_excluded: int
    seed: int

    @property
    def ks_p_min_holm(self) -> float:
        """The smallest p-value after Holm's correction for testing several quantities."""
        return holm_minimum(self.ks_p)

    def to_json_dict(self) -> dict[str, Any]:
        """Figures as JSON-serialisable values; quartile tests carry Holm's correction over quartiles and quantities."""
        return {
            "n_mocks": len(self.pit),
            "n_samples": self.n_samples,
            "n_excluded": self.n_excluded,
            "seed": self.seed,
            "ks_p": dict(zip(self.names, self.ks_p.tolist(), strict=True)),
            "ks_p_min_holm": self.ks_p_min_holm,
            "tarp_max_dev": self.tarp.max_dev,
            "tarp_max_dev_error": self.tarp.max_dev_error,
            "tarp_p": self.tarp.p_value,
            "ks_p_by_quartile": {
                observable: {
                    "edges": edges.tolist(),
                    "ks_p": {name: p[:, k].tolist() for k, name in enumerate(self.names)},
                    "ks_p_min_holm": holm_minimum(p.ravel()),
                }
                for observable, (edges, p) in self.quartiles.items()
            },
        }


def calibrate(
    estimator: PosteriorEstimator,
    mocks: Mocks,
    *,
    n_samples: int = 1000,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationResult:
    """Test an estimator on mocks, for example those of `draw_mocks`.

    Parameters
    ----------
    estimator : to test.
    mocks : drawn from the joint of its prior, model and noise.
    n_samples : posterior samples per mock.
    seed : of the samples, of TARP's reference points (drawn from the prior, in probit space) and of the breaking of ties.
    progress : called as (mocks done, mocks).

    Raises
    ------
    ParameterError : if there are fewer than 20 mocks, or a mock lies outside the estimator's range of redshift.
    """

    if len(mocks) < _MIN_MOCKS:
        raise ParameterError(f"{len(mocks)} mocks: expected at least {_MIN_MOCKS} to fill quartiles; draw more")
    truth = _quantities(estimator, mocks.theta_unbounded, mocks.theta, mocks.zred)
    reference = np.random.default_rng([seed, 1]).standard_normal(mocks.theta_unbounded.shape)
    distance = np.linalg.norm(mocks.theta_unbounded - reference, axis=1)
    n = len(mocks)
    pit, closer = np.full((n, len(CALIBRATED_NAMES)), np.nan), np.full(n, np.nan)
    for start in range(0, n, _GALAXIES_PER_BLOCK):
        rows = np.arange(start, min(start + _GALAXIES_PER_BLOCK, n))
        done = int(rows[-1]) + 1
        points = estimator.sample_unbounded(
            mocks.flux[rows], mocks.flux_ivar[rows], mocks.zred[rows], n_samples, seed=seed, row_keys=rows
        )
        finite = np.isfinite(points).all(axis=(1, 2))
        rows, points = rows[finite], points[finite]
        samples = _quantities(estimator, points, estimator.to_theta(points), mocks.zred[rows])
        for k, (true, drawn) in enumerate(zip(truth, samples, strict=True)):
            pit[rows, k] = rank_statistics(true[rows], drawn, seed=[seed, start, k])
        far = np.linalg.norm(points - reference[rows, None], axis=2)
        closer[rows] = rank_statistics(distance[rows], far, seed=[seed, start, len(truth)])
        if progress is not None:
            progress(done, n)
    kept = np.isfinite(closer)
    if not kept.all():
        logger.warning("%d of %d mocks have non-finite samples and are left out", np.count_nonzero(~kept), n)
    pit = pit[kept]
    observables = {"zred": mocks.zred[kept], "signal_to_noise": mocks.signal_to_noise[kept]}
    return CalibrationResult(
        names=CALIBRATED_NAMES,
        pit=pit,
        ks_p=_ks_p(pit),
        coverage=np.stack([_coverage(column) for column in pit.T]),
        levels=LEVELS,
        tarp=tarp(closer[kept], seed=seed),
        quartiles={name: _by_quartile(pit, values) for name, values in observables.items()},
        n_samples=n_samples,
        n_excluded=int(np.count_nonzero(~kept)),
        seed=seed,
    )


def holm_minimum(p_values: np.ndarray) -> float:
    """The smallest of several p-values after Holm's correction (Holm 1979, Scand. J. Statist. 6, 65)."""
    p_values = np.asarray(p_values)
    return float(min(1.0, p_values.size * p_values.min()))


def _quantities(
    estimator: PosteriorEstimator, theta_unbounded: np.ndarray, theta: np.ndarray, zred: np.ndarray
) -> list[np.ndarray]:
    """The calibrated quantities of points (n, 11) or (n, m, 11): an array (n,) or (n, m) each."""
    shape = theta_unbounded.shape[:-1]
    zred = np.repeat(zred, int(np.prod(shape[1:])))
    derived = derived_properties(theta.reshape(-1, theta.shape[-1]), zred, estimator.bases, estimator.cosmology)
    return [*np.moveaxis(theta_unbounded, -1, 0), *(derived[name].reshape(shape) for name in _DERIVED_NAMES)]


def _ks_p(pit: np.ndarray) -> np.ndarray:
    return np.array([kstest(column, "uniform").pvalue for column in pit.T])


def _coverage(pit: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(pit), LEVELS, side="right") / len(pit)


def _by_quartile(pit: np.ndarray, observable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    edges = np.quantile(observable, np.linspace(0, 1, _N_QUARTILE + 1))
    quartile = np.clip(np.searchsorted(edges, observable, side="right") - 1, 0, _N_QUARTILE - 1)
    return edges, np.stack([_ks_p(pit[quartile == k]) for k in range(_N_QUARTILE)])
