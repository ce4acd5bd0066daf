"""The work of `sedcast validate`: an estimator tested on mocks in each class of measured bands, and the files written."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.noise import NoiseModel
from sedcast.data.outputs import write_text
from sedcast.data.threads import one_blas_thread, usable_cores
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.plotting import save_figure
from sedcast.plotting_calibration import edge_plot, pp_plot, sbc_plot, tarp_plot
from sedcast.posterior.calibration import CalibrationResult, calibrate
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import ExactSampler, Refined
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.mocks import Mocks, draw_mocks, measured_bands
from sedcast.posterior.resampling import PosteriorDraws

__all__ = [
    "ALL_BANDS",
    "FILES",
    "RefinedCalibration",
    "validate_estimator",
    "validate_refined",
    "validation_figures",
    "write_validation",
]

ALL_BANDS = "all bands"
# A file's name has room for some 250 bytes, many bands with long names have more.
_LONGEST_SUFFIX = 50

_PICTURES: dict[str, Callable[[CalibrationResult], Any]] = {
    "pp": lambda result: pp_plot(result.pit, result.names),
    "sbc": lambda result: sbc_plot(result.pit, result.names),
    "tarp": lambda result: tarp_plot(result.tarp, len(result.pit)),
    "edges": lambda result: edge_plot(result.edges),
}

FILES = ("validation.json", *(f"{kind}{rest}.png" for kind in _PICTURES for rest in ("", "_*")))
"""Patterns of the names that `write_validation` writes."""


def validate_estimator(
    estimator: PosteriorEstimator,
    simulator: PhotometrySimulator,
    noise: NoiseModel,
    *,
    n_mocks: int,
    n_samples: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, CalibrationResult]:
    """Calibration on mocks with every band measured and, if the estimator takes any subset, in each class of measured bands.

    Parameters
    ----------
    estimator, n_samples : as in `calibrate`.
    simulator, noise : as in `draw_mocks`.
    n_mocks : in each class.
    seed : of the first class, and of those that the others have.
    progress : called as (mocks done, mocks in all classes).

    Returns
    -------
    results : by class, "all bands" first.
    """
    classes = measured_bands(estimator.bands, n_mocks, seed=seed)
    if not estimator.context.mask:
        classes = {ALL_BANDS: classes[ALL_BANDS]}
    results = {}
    for index, (name, measured) in enumerate(classes.items()):

        def report(done: int, total: int, before: int = index * n_mocks) -> None:
            if progress is not None:
                progress(before + done, len(classes) * total)

        # Numbers that follow would be those of the next seed's classes.
        own = seed if index == 0 else int(np.random.SeedSequence((seed, index)).generate_state(1)[0])
        mocks = draw_mocks(n_mocks, simulator, estimator, noise, seed=own, measured=measured)
        results[name] = calibrate(estimator, mocks, n_samples=n_samples, seed=own, progress=report)
    return results


@dataclass(frozen=True)
class RefinedCalibration:
    """Calibration of refined samples beside that of samples as they come, on the same mocks.

    Attributes
    ----------
    refined, flow : ranks and what follows, of refined samples and of those of `PosteriorEstimator.draw`.
    excess_nats : (n,) log density of the truth under the exact posterior minus that under the flow, NaN where the evidence is
        not known; its mean is the Kullback-Leibler divergence of the flow from the exact posterior, what the loss could still
        fall by.
    approximate : share of the mocks for which refinement fell short.
    """

    refined: CalibrationResult
    flow: CalibrationResult
    excess_nats: np.ndarray
    approximate: float

    def to_json_dict(self) -> dict[str, Any]:
        """Figures as JSON-serialisable values."""
        figures: dict[str, Any] = {
            "n_mocks": len(self.refined.pit),
            "efficiency_median": float(np.median(self.refined.efficiency)),
            "efficiency_p5": float(np.quantile(self.refined.efficiency, 0.05)),
            "approximate": self.approximate,
        }
        known = self.excess_nats[np.isfinite(self.excess_nats)]
        if len(known) > 1:
            figures["flow_excess_loss_nats"] = float(known.mean())
            figures["flow_excess_loss_error_nats"] = float(known.std(ddof=1) / np.sqrt(len(known)))
        for name, result in (("refined", self.refined), ("flow", self.flow)):
            figures[name] = {
                "ks_p": dict(zip(result.names, result.ks_p.tolist(), strict=True)),
                "ks_p_min_holm": result.ks_p_min_holm,
                "tarp_p": result.tarp.p_value,
                "tarp_max_dev": result.tarp.max_dev,
                "tarp_max_dev_error": result.tarp.max_dev_error,
            }
        return figures


@dataclass(frozen=True)
class _RefinedSampler:
    """Draws refined samples in place of an estimator's own, galaxies in threads."""

    refiner: ExactSampler
    results: list[Refined] = field(default_factory=list)

    def __call__(
        self, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray, n: int, *, seed: int, row_keys: np.ndarray
    ) -> PosteriorDraws:
        def refine(row: int) -> Refined:
            galaxy = flux[row], flux_ivar[row], float(zred[row])
            return self.refiner(*galaxy, n, seed=seed, key=int(row_keys[row]), n_threads=1)

        with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
            refined = list(pool.map(refine, range(len(zred))))
        self.results.extend(refined)
        figures = (np.array([getattr(one, name) for one in refined]) for name in PosteriorDraws._fields[1:])
        return PosteriorDraws(np.stack([one.theta_unbounded for one in refined]), *figures)


def validate_refined(
    refiner: ExactSampler,
    simulator: PhotometrySimulator,
    noise: NoiseModel,
    *,
    n_mocks: int,
    n_samples: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> RefinedCalibration:
    """Calibration of refined samples, on mocks with every band measured; `simulator` and `noise` as in `draw_mocks`.

    Ranks are uniform as far as each mock's effective sample size is large: mocks for which refinement falls short are part of
    the test, and counted.
    """
    estimator, sampler = refiner.estimator, _RefinedSampler(refiner)
    mocks = draw_mocks(n_mocks, simulator, estimator, noise, seed=seed)
    refined = calibrate(estimator, mocks, n_samples=n_samples, seed=seed, sampler=sampler, progress=progress)
    return RefinedCalibration(
        refined=refined,
        flow=calibrate(estimator, mocks, n_samples=n_samples, seed=seed),
        excess_nats=_excess_nats(estimator, simulator, mocks, np.array([one.log_evidence for one in sampler.results])),
        approximate=float(np.mean([bool(one.flag) for one in sampler.results])),
    )


def _excess_nats(
    estimator: PosteriorEstimator, simulator: PhotometrySimulator, mocks: Mocks, log_evidence: np.ndarray
) -> np.ndarray:
    """As `RefinedCalibration.excess_nats`."""
    excess = -log_evidence - estimator.flow.log_prob(
        mocks.theta_unbounded, estimator.context(mocks.flux, mocks.flux_ivar, mocks.zred)
    )
    for row in range(len(mocks)):
        galaxy = {"flux": mocks.flux[row], "flux_ivar": mocks.flux_ivar[row], "zred": float(mocks.zred[row])}
        likelihood = GaussianLikelihood(simulator, estimator.prior, **galaxy)
        excess[row] += likelihood.log_posterior_unbounded(mocks.theta_unbounded[row])[0]
    return np.where(np.isfinite(excess), excess, np.nan)


def validation_figures(results: Mapping[str, CalibrationResult], refined: RefinedCalibration | None = None) -> dict[str, Any]:
    """Figures as JSON-serialisable values: those with all bands, those of the other classes under ``by_bands``.

    Those of refined samples, if there are any, under ``refined``; they do not count for ``passes``.
    """
    figures = {name: result.to_json_dict() for name, result in results.items()}
    every = all(figure["passes"] for figure in figures.values())
    exact = {} if refined is None else {"refined": refined.to_json_dict()}
    return figures.pop(ALL_BANDS) | {"passes": every, "by_bands": figures} | exact


def write_validation(
    results: Mapping[str, CalibrationResult], folder: Path, refined: RefinedCalibration | None = None
) -> list[str]:
    """Write ``validation.json``, and p-p, rank, TARP and edge plots of each class; returns the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    written = ["validation.json"]
    text = json.dumps(validation_figures(results, refined), indent=1, allow_nan=False)
    write_text(folder / written[0], text + "\n")
    pictured = dict(results) if refined is None else dict(results) | {"refined": refined.refined}
    for number, (name, result) in enumerate(pictured.items()):
        suffix = "" if name == ALL_BANDS else f"_{name.replace(' ', '-')}"
        if len(suffix) > _LONGEST_SUFFIX:
            suffix = f"{suffix[:_LONGEST_SUFFIX]}-{number}"
        for kind, draw in _PICTURES.items():
            written.append(f"{kind}{suffix}.png")
            save_figure(draw(result), folder / written[-1], overwrite=True)
    return written
