"""The work of `sedcast validate`: an estimator tested on mocks in each class of measured bands, and the files written."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sedcast.data.artifacts import atomic_path
from sedcast.data.noise import NoiseModel
from sedcast.emulator.simulate import PhotometrySimulator
from sedcast.plotting_calibration import edge_plot, pp_plot, sbc_plot, tarp_plot
from sedcast.posterior.calibration import CalibrationResult, calibrate, draw_mocks, measured_bands
from sedcast.posterior.estimator import PosteriorEstimator

__all__ = ["ALL_BANDS", "validate_estimator", "validation_figures", "write_validation"]

ALL_BANDS = "all bands"

_PICTURES: dict[str, Callable[[CalibrationResult], Any]] = {
    "pp": lambda result: pp_plot(result.pit, result.names),
    "sbc": lambda result: sbc_plot(result.pit, result.names),
    "tarp": lambda result: tarp_plot(result.tarp.levels, result.tarp.ecp, len(result.pit)),
    "edges": lambda result: edge_plot(result.edges),
}


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
    seed : of the first class, those after it have the numbers that follow.
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

        mocks = draw_mocks(n_mocks, simulator, estimator, noise, seed=seed + index, measured=measured)
        results[name] = calibrate(estimator, mocks, n_samples=n_samples, seed=seed + index, progress=report)
    return results


def validation_figures(results: Mapping[str, CalibrationResult]) -> dict[str, Any]:
    """Figures as JSON-serialisable values: those with all bands, those of the other classes under ``by_bands``."""
    figures = {name: result.to_json_dict() for name, result in results.items()}
    every = all(figure["passes"] for figure in figures.values())
    return figures.pop(ALL_BANDS) | {"passes": every, "by_bands": figures}


def write_validation(results: Mapping[str, CalibrationResult], folder: Path) -> list[str]:
    """Write p-p, rank, TARP and edge plots of each class, and ``validation.json``; returns the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, result in results.items():
        suffix = "" if name == ALL_BANDS else f"_{name.replace(' ', '-')}"
        for kind, draw in _PICTURES.items():
            written.append(f"{kind}{suffix}.png")
            draw(result).savefig(folder / written[-1])
    written.append("validation.json")
    with atomic_path(folder / written[-1]) as path:
        path.write_text(json.dumps(validation_figures(results), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return written
