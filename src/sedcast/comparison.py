"""The work of `sedcast compare`: which galaxies, with which likelihood, and the files written."""

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from sedcast._version import __version__
from sedcast.baselines.compare import Comparison, galaxies_of_catalog, galaxies_of_mocks
from sedcast.baselines.fsps_cost import fsps_cost
from sedcast.baselines.outcomes import CompareConfig, Galaxy, Setting, physical
from sedcast.baselines.report_tables import to_json, to_markdown
from sedcast.data.catalog import Catalog
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.data.outputs import write_text
from sedcast.data.provenance import processor_name, provenance
from sedcast.emulator.simulation import PhotometrySimulator, noise_model
from sedcast.plotting import save_figure
from sedcast.plotting_compare import c2st_plot, corner_of, difference_plot
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.mocks import draw_mocks
from sedcast.posterior.outlier_training import training_simulation, training_simulator

__all__ = ["FILES", "about", "choose_galaxies", "mock_galaxies", "setting_of", "write_comparison"]

FILES = ("comparison.json", "comparison.md", "c2st.png", "differences.png", "corner_*.png")
"""Patterns of the names that `write_comparison` writes."""

_MOCKS_PER_CHUNK = 100
_MOCK_SEED = 77_000_000
_MAX_CORNERS = 3


def setting_of(estimator: PosteriorEstimator, config: CompareConfig, *, direct: bool = False) -> Setting:
    """The likelihood that the estimator was trained for, by its emulator, or by the direct model that this learnt."""
    simulator, settings = training_simulator(estimator), training_simulation(estimator)
    emulator = simulator.model
    digest = str(getattr(emulator, "card", {}).get("sha256", ""))[:12]
    name = f"emulator ({settings.emulator}, sha256 {digest})"
    if direct:
        model = getattr(emulator, "model", None)
        if model is None:
            raise ParameterError(
                "--simulator direct: the posterior was trained without an emulator that holds its direct model"
            )
        simulator = PhotometrySimulator(model, simulator.bands, simulator.zred_max)
        name = f"direct model (that of the emulator {settings.emulator}, sha256 {digest})"
    return Setting(estimator, simulator, name, config)


def about(setting: Setting, command: str, *, zred: float) -> dict[str, Any]:
    """What the comparison was run with, for the record; times one FSPS model at `zred` where FSPS runs."""
    cost = fsps_cost(zred)
    card = setting.estimator.card
    artifacts = {"estimator": str(card.get("sha256", "")), "simulator": setting.simulator_name}
    return {
        "command": command,
        "version": __version__,
        "model": f"{card.get('name')} (sha256 {str(card.get('sha256', ''))[:12]})",
        "bands": list(setting.estimator.bands),
        "simulator": setting.simulator_name,
        "machine": f"{platform.machine()}, {processor_name()}",
        "provenance": provenance(config=setting.config.model_dump(mode="json"), artifacts=artifacts, command=command),
        "fsps": {"seconds_per_model": cost.seconds_per_model, "measured": cost.measured, "label": cost.label},
    }


def choose_galaxies(
    catalog: Catalog, estimator: PosteriorEstimator, *, rows: str | None, ids: str | None, n: int, seed: int
) -> list[Galaxy]:
    """Galaxies by row numbers or ids (with commas between them), else n of those that can be inferred, picked by the seed.

    Of the same seed, more galaxies hold the fewer.

    Raises
    ------
    CatalogError : if a galaxy is not there or cannot be inferred.
    ParameterError : if rows are no numbers, or rows and ids are both given.
    """
    if rows is not None and ids is not None:
        raise ParameterError("--rows and --ids cannot both be given: use one of them")
    excluded = estimator.status(catalog).excluded
    if ids is not None:
        of_id: dict[str, list[int]] = {name.strip(): [] for name in ids.split(",")}
        for row, galaxy in enumerate(catalog.ids):
            of_id.get(str(galaxy), []).append(row)
        for name, found in of_id.items():
            if len(found) != 1:
                raise CatalogError(f"--ids: galaxy {name} is in {len(found)} rows of the catalogue; --rows takes their numbers")
        chosen = [row for found in of_id.values() for row in found]
    elif rows is not None:
        chosen = _parse_rows(rows, len(catalog))
    else:
        chosen = np.random.default_rng(seed).permutation(np.flatnonzero(excluded == ""))[:n].tolist()
        if len(chosen) < n:
            raise CatalogError(
                f"-n {n}: only {len(chosen)} rows of the catalogue can be inferred; 'sedcast infer' writes each one's reason"
            )
    for row in chosen:
        if excluded[row]:
            raise CatalogError(f"row {row} (id {catalog.ids[row]}) cannot be inferred: {excluded[row]}")
    return galaxies_of_catalog(estimator.select(catalog), np.array(list(dict.fromkeys(chosen)), dtype=int))


def _parse_rows(rows: str, n: int) -> list[int]:
    try:
        chosen = [int(row) for row in rows.split(",")]
    except ValueError as error:
        raise ParameterError(f"--rows {rows!r}: expected row numbers with commas between them, such as 0,5,12") from error
    for row in chosen:
        if not 0 <= row < n:
            raise CatalogError(f"--rows: there is no row {row}, the catalogue has rows 0 … {n - 1}")
    return chosen


def mock_galaxies(estimator: PosteriorEstimator, n: int, *, seed: int) -> list[Galaxy]:
    """Mocks from the joint that the estimator was trained on; of the same seed, more hold the fewer."""
    if n == 0:
        return []
    simulator, settings = training_simulator(estimator), training_simulation(estimator)
    noise = noise_model(settings)
    galaxies: list[Galaxy] = []
    for first in range(0, n, _MOCKS_PER_CHUNK):
        drawn = draw_mocks(_MOCKS_PER_CHUNK, simulator, estimator, noise, seed=_MOCK_SEED + 100_000 * seed + first)
        galaxies += galaxies_of_mocks(drawn, min(_MOCKS_PER_CHUNK, n - first), first=first)
    return galaxies


def write_comparison(comparison: Comparison, setting: Setting, folder: Path) -> list[str]:
    """Write ``comparison.json``, ``comparison.md`` and pictures; returns the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "comparison.json": json.dumps(to_json(comparison), indent=1, allow_nan=False) + "\n",
        "comparison.md": to_markdown(comparison),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    figures = {}
    if any(one.pairs for one in comparison.galaxies):
        figures = {"c2st": c2st_plot(comparison), "differences": difference_plot(comparison)}
    for one in comparison.galaxies[:_MAX_CORNERS]:
        if any(not outcome.failed for outcome in one.outcomes.values()):
            figures[f"corner_{one.galaxy.group}_{one.galaxy.row}"] = corner_of(
                one, lambda points, zred: physical(points, zred, setting.estimator)
            )
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png", overwrite=True)
    return [*texts, *(f"{name}.png" for name in figures)]
