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

from sedcast.data.errors import ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.emulator.simulate import PhotometrySimulator, masses_within_reach
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow import usable_cores
from sedcast.posterior.prior_edges import EdgeRanks, EdgeResult
from sedcast.posterior.ranks import LEVELS, TarpResult, coverage, holm, ks_p_values, rank_statistics, tarp

__all__ = ["CALIBRATED_NAMES", "CalibrationResult", "Check", "Mocks", "calibrate", "draw_mocks", "measured_bands"]

logger = logging.getLogger(__name__)

_DERIVED_NAMES = ("log_sfr_1gyr", "log_z_mw", "t_mw_gyr")
CALIBRATED_NAMES = (*FREE_PARAMETER_NAMES, *_DERIVED_NAMES)
"""Quantities whose ranks are tested: the free parameters and three derived ones; ``zred`` between them where it is inferred."""

_JOINT = "joint (TARP)"
_N_QUARTILE = 4
_MIN_MOCKS = 20
_MAX_TRIES = 1000
_GALAXIES_PER_BLOCK = 64
_KS_BAR, _SUBSET_BAR, _TARP_BAR = 0.05, 0.01, 0.015
_ULTRAVIOLET = ("FUV", "NUV")


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
        """Median signal-to-noise ratio over the measured bands, (n,)."""
        ratio = self.flux * np.sqrt(self.flux_ivar)
        return np.asarray(np.nanmedian(np.where(self.flux_ivar > 0, ratio, np.nan), axis=1))


def draw_mocks(
    n_mocks: int,
    simulator: PhotometrySimulator,
    estimator: PosteriorEstimator,
    noise: NoiseModel,
    *,
    seed: int,
    measured: np.ndarray | None = None,
) -> Mocks:
    """Draw mocks from the joint that the estimator was trained on, with a seed of their own.

    Which bands are measured is settled first, and each mock is tried anew until it is accepted by its measured bands, as in
    `GalaxyStream`; but every mock has a spectrum of its own.

    Parameters
    ----------
    n_mocks : how many.
    simulator, noise : of the estimator's bands, in their order.
    estimator : gives prior, redshifts and the training set's seed.
    seed : of every random draw.
    measured : (n_mocks, n_band) bool, for an estimator that takes any subset of its bands; all by default.

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
    rng = np.random.default_rng([seed, 4])
    n_band = len(estimator.bands)
    measured = np.ones((n_mocks, n_band), dtype=bool) if measured is None else measured
    theta, zred = np.empty((n_mocks, len(PARAMETER_NAMES))), np.empty(n_mocks)
    flux, sigma = np.empty((2, n_mocks, n_band))
    pending = np.arange(n_mocks)
    for _ in range(_MAX_TRIES):
        tried = _observe(simulator, estimator, noise, measured[pending], rng)
        rows = pending[tried[0]]
        theta[rows], zred[rows], flux[rows], sigma[rows] = tried[1:]
        pending = np.delete(pending, tried[0])
        if not len(pending):
            return Mocks(theta, estimator.prior.to_unbounded(theta), flux, sigma**-2.0, zred)
    raise ParameterError(
        f"{len(pending)} of {n_mocks} mocks were outside the noise model's range in {_MAX_TRIES} tries: "
        "prior, redshifts and noise do not belong together"
    )


def _observe(
    simulator: PhotometrySimulator,
    estimator: PosteriorEstimator,
    noise: NoiseModel,
    measured: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One try for each row of `measured` (n, n_band): rows accepted, and their theta, zred, flux and sigma."""
    mass = PARAMETER_NAMES.index("log_mstar")
    redshifts = estimator.redshift_prior or RedshiftPrior(min=estimator.zred_range[0], max=estimator.zred_range[1])
    theta, zred = estimator.prior.sample(len(measured), rng), redshifts.sample(len(measured), rng)
    with np.errstate(divide="ignore"):
        unit_flux = np.log10(simulator.flux(theta, zred, n_threads=usable_cores())) - theta[:, mass, None]
    lightest, heaviest, probability = masses_within_reach(unit_flux, estimator.prior, noise, measured=measured)
    kept = np.flatnonzero(rng.random(len(theta)) < probability)
    theta[kept, mass] = lightest[kept] + rng.random(len(kept)) * (heaviest - lightest)[kept]
    true_flux = 10 ** (unit_flux[kept] + theta[kept, mass, None])
    flux, sigma, log_weight = noise.draw(true_flux, rng, measured=measured[kept])
    accepted = noise.accept(log_weight, rng) & noise.in_range(flux, sigma)
    kept = kept[accepted]
    return kept, theta[kept], zred[kept], flux[accepted], sigma[accepted]


def measured_bands(bands: tuple[str, ...], n: int, *, seed: int) -> dict[str, np.ndarray]:
    """Classes of measured bands to test an estimator on that takes any subset: which bands (n, n_band) each has of each mock.

    All bands; all without FUV and NUV, and without FUV alone, if the estimator has them; and for every mock a random
    non-empty subset, all subsets being equally probable. Which bands are measured does not depend on the mock's values.
    """
    every = np.array(bands)
    columns = {"all bands": np.full(len(bands), True)}
    for missing in (_ULTRAVIOLET, _ULTRAVIOLET[:1]):
        kept = ~np.isin(every, missing)
        if kept.any() and not any((kept == other).all() for other in columns.values()):
            columns[f"{' '.join(every[kept])} only"] = kept
    classes = {name: np.tile(kept, (n, 1)) for name, kept in columns.items()}
    subset = np.random.default_rng([seed, 3]).integers(1, 2 ** len(bands), n)
    return classes | {"random subsets": (subset[:, None] >> np.arange(len(bands))) % 2 == 1}


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
        return self.name, "" if self.passes is None else self.value, f"{'≥' if self.at_least else '≤'} {self.bar:g}", verdict


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
    quartiles : by observable (magnitude instead of redshift where that is inferred), the edges (5,) of its quartiles and the
        p-values (4, n_quantity + 1) within them, TARP's last.
    edges : truths at the prior's edges.
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
    edges: EdgeResult
    n_samples: int
    n_excluded: int
    seed: int

    @property
    def ks_p_min_holm(self) -> float:
        """The smallest p-value after Holm's correction for testing several quantities."""
        return float(holm(self.ks_p).min())

    def checks(self) -> tuple[Check, ...]:
        """The figures that calibration is judged by; each family of tests has Holm's correction of its own."""
        edges = self.edges.to_json_dict()
        return (
            Check("KS p, smallest of all quantities", self.ks_p_min_holm, _KS_BAR),
            Check("TARP, largest deviation", self.tarp.max_dev, _TARP_BAR, at_least=False),
            *(
                Check(f"KS p within quartiles of {observable}", float(holm(p).min()), _SUBSET_BAR)
                for observable, (_, p) in self.quartiles.items()
            ),
            *(
                Check(name, float("nan") if edges[key] is None else edges[key], _SUBSET_BAR)
                for name, key in (
                    ("KS p of truths at the prior's edges", "ks_p_min_holm"),
                    ("p of their number", "count_p_min_holm"),
                )
            ),
        )

    def to_json_dict(self) -> dict[str, Any]:
        """Figures as JSON-serialisable values, each family of p-values also with Holm's correction over all of it."""
        return {
            "n_mocks": len(self.pit),
            "n_samples": self.n_samples,
            "n_excluded": self.n_excluded,
            "seed": self.seed,
            "passes": all(check.passes is not False for check in self.checks()),
            "checks": [
                {
                    "name": check.name,
                    "value": None if check.passes is None else check.value,
                    "at_least" if check.at_least else "at_most": check.bar,
                    "passes": check.passes,
                }
                for check in self.checks()
            ],
            "ks_p": dict(zip(self.names, self.ks_p.tolist(), strict=True)),
            "ks_p_holm": dict(zip(self.names, holm(self.ks_p).tolist(), strict=True)),
            "ks_p_min_holm": self.ks_p_min_holm,
            "tarp_max_dev": self.tarp.max_dev,
            "tarp_max_dev_error": self.tarp.max_dev_error,
            "tarp_p": self.tarp.p_value,
            "ks_p_by_quartile": {
                observable: {
                    "edges": edges.tolist(),
                    "ks_p": {name: p[:, k].tolist() for k, name in enumerate((*self.names, _JOINT))},
                    "ks_p_min_holm": float(holm(p).min()),
                }
                for observable, (edges, p) in self.quartiles.items()
            },
            "prior_edges": self.edges.to_json_dict(),
        }


def calibrate(
    estimator: PosteriorEstimator,
    mocks: Mocks,
    *,
    n_samples: int = 400,
    seed: int,
    sampler: Callable[..., np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationResult:
    """Test an estimator on mocks, for example those of `draw_mocks`.

    Parameters
    ----------
    estimator : to test.
    mocks : drawn from the joint of its prior, model and noise; bands may be unmeasured if the estimator allows it.
    n_samples : posterior samples per mock. The ranks are exactly uniform for any number; one of 400 resolves a quarter of a
        per cent, a fifth of what 10,000 mocks can tell from uniform.
    seed : of the samples, of TARP's reference points (drawn from the prior, in probit space) and of the breaking of ties.
    sampler : draws the samples in place of the estimator's own `sample_unbounded`, called in the same way.
    progress : called as (mocks done, mocks).

    Raises
    ------
    ParameterError : if there are fewer than 20 mocks, or a mock lies outside the estimator's range of redshift.
    """
    if len(mocks) < _MIN_MOCKS:
        raise ParameterError(f"{len(mocks)} mocks: expected at least {_MIN_MOCKS} to fill quartiles; draw more")
    # The truths are rounded as the samples are: where a quantity is clipped, both must meet the same value.
    sample = sampler or estimator.sample_unbounded
    names = (*estimator.free_names, *_DERIVED_NAMES)
    points = estimator.joint_points(mocks.theta_unbounded, mocks.zred).astype(np.float32)
    truths = _quantities(estimator, points[:, None], mocks.zred)[:, 0]
    reference = np.random.default_rng([seed, 1]).standard_normal(points.shape)
    distance = np.linalg.norm(points - reference, axis=1)
    n = len(mocks)
    pit, closer = np.full(truths.shape, np.nan), np.full(n, np.nan)
    edges = EdgeRanks(names, seed=seed, parameters=estimator.free_names)
    for start in range(0, n, _GALAXIES_PER_BLOCK):
        rows = np.arange(start, min(start + _GALAXIES_PER_BLOCK, n))
        done = int(rows[-1]) + 1
        zred = None if estimator.infers_redshift else mocks.zred[rows]
        drawn = sample(mocks.flux[rows], mocks.flux_ivar[rows], zred, n_samples, seed=seed, row_keys=rows)
        finite = np.isfinite(drawn).all(axis=(1, 2))
        rows, drawn = rows[finite], drawn[finite]
        samples = _quantities(estimator, drawn, mocks.zred[rows])
        for k in range(truths.shape[1]):
            pit[rows, k] = rank_statistics(truths[rows, k], samples[..., k], seed=[seed, start, k])
        far = np.linalg.norm(drawn - reference[rows, None], axis=2)
        closer[rows] = rank_statistics(distance[rows], far, seed=[seed, start, truths.shape[1]])
        edges.add(drawn, samples, points[rows], truths[rows])
        if progress is not None:
            progress(done, n)
    kept = np.isfinite(closer)
    if not kept.all():
        logger.warning("%d of %d mocks have non-finite samples and are left out", np.count_nonzero(~kept), n)
    pit, closer = pit[kept], closer[kept]
    observables = _observables(estimator, mocks)
    all_ranks = np.column_stack([pit, closer])
    return CalibrationResult(
        names=names,
        pit=pit,
        ks_p=ks_p_values(pit),
        coverage=np.stack([coverage(column) for column in pit.T]),
        levels=LEVELS,
        tarp=tarp(closer, seed=seed),
        quartiles={name: _by_quartile(all_ranks, values[kept]) for name, values in observables.items()},
        edges=edges.result(),
        n_samples=n_samples,
        n_excluded=int(np.count_nonzero(~kept)),
        seed=seed,
    )


def _observables(estimator: PosteriorEstimator, mocks: Mocks) -> dict[str, np.ndarray]:
    """What quartiles are made of, (n,) each: observed values only, since galaxies chosen by their truth are not calibrated."""
    first = {"zred": mocks.zred}
    if estimator.infers_redshift:
        mean = estimator.context.names.index("mag_mean")
        first = {"magnitude": estimator.context(mocks.flux, mocks.flux_ivar, None)[:, mean]}
    return first | {"signal_to_noise": mocks.signal_to_noise}


def _quantities(estimator: PosteriorEstimator, points: np.ndarray, zred: np.ndarray) -> np.ndarray:
    """The calibrated quantities (n, m, n_quantity) of points (n, m, dim) in probit space."""
    theta = estimator.to_theta(points)
    redshifts = estimator.redshifts(points, zred).ravel()
    derived = derived_properties(theta.reshape(-1, theta.shape[-1]), redshifts, estimator.bases, estimator.cosmology)
    added = [derived[name].reshape(*points.shape[:2], 1) for name in _DERIVED_NAMES]
    return np.concatenate([points, *added], axis=2)


def _by_quartile(ranks: np.ndarray, observable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    limits = np.quantile(observable, np.linspace(0, 1, _N_QUARTILE + 1))
    quartile = np.clip(np.searchsorted(limits, observable, side="right") - 1, 0, _N_QUARTILE - 1)
    return limits, np.stack([ks_p_values(ranks[quartile == k]) for k in range(_N_QUARTILE)])
