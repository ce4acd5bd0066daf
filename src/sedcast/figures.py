"""The work of `sedcast figures`: the pictures of Hahn & Melchior 2022 (arXiv:2203.07391) for a posterior of ours."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sedcast.baselines.outcomes import PHYSICAL_NAMES, physical, run_draws, run_path
from sedcast.data.catalog import Catalog
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.emulator.simulation import PhotometrySimulator, noise_model
from sedcast.plotting import save_figure
from sedcast.plotting_calibration import pp_plot, sbc_plot
from sedcast.plotting_paper import posterior_figure, training_figure, training_labels
from sedcast.posterior.calibration import CalibrationResult, calibrate
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import rows_at_most
from sedcast.posterior.mocks import draw_mocks
from sedcast.posterior.outlier_training import training_simulation, training_simulator
from sedcast.sampled_seds import sampled_seds

__all__ = ["FILES", "ComparisonRecord", "galaxies_to_show", "make_figures", "read_comparison"]

logger = logging.getLogger(__name__)

FORMATS = ("png", "pdf")
FILES = tuple(f"{name}.{form}" for name in ("fig1_training", "fig2_posterior", "fig3_pp", "fig4_sbc*") for form in FORMATS)
"""Patterns of the names that `make_figures` writes."""

_N_TRAINING = 10_000
_N_PREDICTED = 500
_MIN_MOCKS = 20
_CHAINS = ("emcee", "zeus")


@dataclass(frozen=True)
class ComparisonRecord:
    """What `sedcast compare` wrote.

    Attributes
    ----------
    folder : where the runs are.
    record : the contents of ``comparison.json``.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def chain(self) -> str:
        """The MCMC that the flow is compared with.

        Raises
        ------
        ParameterError : if there was none.
        """
        methods = self.record["config"]["methods"]
        found = next((name for name in _CHAINS if name in methods), None)
        if found is None:
            raise ParameterError(f"{self.folder} was made with {', '.join(methods)}: run 'sedcast compare' with emcee or zeus")
        return found

    def galaxy(self, row: int | None) -> dict[str, Any]:
        """A real galaxy on which the chain did not fail, by its row number; the first by default.

        Raises
        ------
        ParameterError : if there is none.
        """
        real = [one for one in self.record["galaxies"] if one["group"] == "real" and not one["methods"][self.chain]["failed"]]
        chosen = [one for one in real if row is None or one["row"] == row]
        if not chosen:
            if not real:
                raise ParameterError(
                    f"{self.folder} has no real galaxy with {self.chain}'s samples: compare some, 'sedcast compare -n 1'"
                )
            rows = ", ".join(str(one["row"]) for one in real)
            raise ParameterError(f"--row {row}: the real galaxies in {self.folder} are rows {rows}")
        return dict(chosen[0])

    def ranks(self, names: tuple[str, ...]) -> np.ndarray:
        """Ranks of the mocks' truths (n_mock, n_name) in the chain's posteriors.

        Raises
        ------
        ParameterError : if a name is none of those that were compared.
        """
        compared = list(self.record["compared"])
        if missing := [name for name in names if name not in compared]:
            raise ParameterError(
                f"{self.folder} compares {', '.join(compared)}, not {', '.join(missing)}: run 'sedcast compare' again"
            )
        columns = [compared.index(name) for name in names]
        rows = [one["ranks"][self.chain] for one in self.record["galaxies"] if self.chain in one["ranks"]]
        return np.array(rows, dtype=float).reshape(-1, len(compared))[:, columns]


def read_comparison(folder: Path, estimator: PosteriorEstimator) -> ComparisonRecord:
    """Read a folder of `sedcast compare`.

    Raises
    ------
    ArtifactError : if there is no comparison, it is damaged, or it is another posterior's.
    """
    path = folder / "comparison.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        model, _ = record["about"]["model"], record["compared"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is not readable as a comparison ({error}): make it with 'sedcast compare'") from error
    if str(estimator.card.get("sha256", ""))[:12] not in model:
        raise ArtifactError(
            f"{folder} compares another posterior, {model}: give its file with --model, or another --comparison"
        )
    return ComparisonRecord(folder, record)


def galaxies_to_show(catalog: Catalog, estimator: PosteriorEstimator) -> Catalog:
    """Those for the first picture: every band measured, and a posterior.

    Raises
    ------
    ParameterError : if they are fewer than the panels on a side.
    """
    chosen = estimator.select(catalog)
    chosen = chosen.subset(estimator.status(chosen).ok & (chosen.flux_ivar > 0).all(axis=1))
    least = len(training_labels(chosen.bands))
    if len(chosen) < least:
        raise ParameterError(
            f"{len(chosen)} of {len(catalog)} galaxies have every band measured and can be inferred: the picture of the "
            f"training set needs {least} or more"
        )
    return chosen


def make_figures(
    estimator: PosteriorEstimator,
    catalog: Catalog,
    comparison: ComparisonRecord,
    folder: Path,
    *,
    row: int | None = None,
    n_mocks: int = 2000,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Draw all pictures, each as PNG and PDF; returns the files' names.

    Parameters
    ----------
    estimator : the flow.
    catalog : the real galaxies of the first picture, as `galaxies_to_show` has them.
    comparison : of the same posterior.
    folder : to write into.
    row : of the second picture's galaxy; the first compared one by default.
    n_mocks : mocks for the flow's ranks.
    seed : of mocks and samples.
    progress : called with (mocks done, mocks).
    """
    simulator, settings = training_simulator(estimator), training_simulation(estimator)
    noise = noise_model(settings)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[str] = []

    def save(name: str, figure: Figure) -> None:
        for form in FORMATS:
            written.append(f"{name}.{form}")
            save_figure(figure, folder / written[-1], overwrite=True)

    save("fig2_posterior", _posterior(estimator, simulator, comparison, row))
    training = draw_mocks(_N_TRAINING, simulator, estimator, noise, seed=seed)
    save("fig1_training", training_figure(training, catalog, estimator.context.softening))
    mocks = draw_mocks(n_mocks, simulator, estimator, noise, seed=seed + 1)
    result = calibrate(estimator, mocks, seed=seed + 1, progress=progress)
    for name, figure in _calibration(result, comparison).items():
        save(name, figure)
    return sorted(written)


def _posterior(
    estimator: PosteriorEstimator, simulator: PhotometrySimulator, comparison: ComparisonRecord, row: int | None
) -> Figure:
    galaxy = comparison.galaxy(row)
    draws, zred = {}, galaxy["zred"]
    for name, label in (("flow", "sedcast"), (comparison.chain, comparison.chain)):
        if name in galaxy["methods"]:
            draws[label] = run_draws(run_path(comparison.folder, "real", galaxy["row"], name))
    first = next(iter(draws.values()))
    theta = estimator.prior.from_unbounded(first[rows_at_most(len(first), _N_PREDICTED)])
    return posterior_figure(
        {label: physical(points, zred, estimator) for label, points in draws.items()},
        np.array(galaxy["flux"]),
        np.array(galaxy["flux_ivar"]),
        predicted=sampled_seds(simulator, theta, zred),
        names=PHYSICAL_NAMES,
        title=f"galaxy {galaxy['name']}, z = {zred:.4f}",
    )


def _calibration(result: CalibrationResult, comparison: ComparisonRecord) -> dict[str, Figure]:
    """p–p plot with MCMC in grey and rank histograms; MCMC is left out where too few mocks were compared."""
    # Not all derived quantities are compared.
    names = tuple(name for name in result.names if name not in result.others)
    pit, chain, ranks = result.pit[:, : len(names)], comparison.chain, comparison.ranks(names)
    if len(ranks) < _MIN_MOCKS:
        logger.warning(
            "%s has %d mocks, fewer than %d: MCMC is left out of the p–p plot; 'sedcast compare --mocks 100' adds them",
            comparison.folder,
            len(ranks),
            _MIN_MOCKS,
        )
        return {"fig3_pp": pp_plot(pit, names), "fig4_sbc": sbc_plot(pit, names)}
    return {
        "fig3_pp": pp_plot(pit, names, others=(f"{chain}, {len(ranks)} mocks", ranks)),
        "fig4_sbc": sbc_plot(pit, names),
        f"fig4_sbc_{chain}": sbc_plot(ranks, names, n_bins=10),
    }
