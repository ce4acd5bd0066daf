"""The flow, the refined flow and MCMC on the same galaxies, likelihood and prior: how far apart, and at what cost."""

import contextlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.baselines.outcomes import (
    COMPARED_NAMES,
    SAMPLERS,
    CompareConfig,
    Galaxy,
    Outcome,
    Setting,
    load_kept,
    load_outcome,
    quantities,
    run_key,
    run_path,
)
from sedcast.baselines.runs import RunTask, run_task
from sedcast.baselines.two_sample_tests import TwoSamples, two_samples
from sedcast.data.artifacts import save_artifact
from sedcast.data.catalog import Catalog
from sedcast.data.errors import ParameterError
from sedcast.data.executors import TaskPool, task_pool
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.mocks import Mocks
from sedcast.posterior.ranks import rank_statistics

__all__ = [
    "FLOOR",
    "Comparison",
    "GalaxyComparison",
    "Pair",
    "compare_galaxies",
    "galaxies_of_catalog",
    "galaxies_of_mocks",
]

Pair = tuple[str, str]
FLOOR = "halves"
"""Second of the pair of which the first is a chain: half of its independent groups of walkers against the other."""

PAIRS_KIND = "comparison-pairs"
_REFERENCES = ("emcee", "zeus", "nautilus", "refined")
_N_FREE = len(FREE_PARAMETER_NAMES)
_PRIOR_DRAWS = 4000
_MIN_DRAWS = 4


@dataclass(frozen=True)
class GalaxyComparison:
    """All methods on one galaxy.

    Attributes
    ----------
    galaxy : the data.
    outcomes : by method.
    pairs : figures by (method, reference), where neither failed; (reference, `FLOOR`) is the reference against itself.
    ranks : by method, the rank of the truth (16,) among the draws of each quantity, uniform in (0, 1); of mocks only.
    """

    galaxy: Galaxy
    outcomes: dict[str, Outcome]
    pairs: dict[Pair, TwoSamples]
    ranks: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All methods on all galaxies.

    Attributes
    ----------
    galaxies : real ones, then mocks.
    config : what was run.
    about : what it was run with, for the record: estimator, simulator, what an FSPS call costs, the command.
    """

    galaxies: tuple[GalaxyComparison, ...]
    config: CompareConfig
    about: dict[str, Any]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The (method, reference) pairs that are compared."""
        return compared_pairs(self.config.methods)

    def group(self, name: str) -> tuple[GalaxyComparison, ...]:
        """Galaxies of a group, ``"real"`` or ``"mock"``."""
        return tuple(one for one in self.galaxies if one.galaxy.group == name)

    def mock_ranks(self, method: str) -> np.ndarray:
        """Ranks of the mocks' truths (n_mock, 16) in a method's posteriors; those where it failed are left out."""
        rows = [one.ranks[method] for one in self.group("mock") if method in one.ranks]
        return np.array(rows).reshape(-1, len(COMPARED_NAMES))


def compared_pairs(methods: Sequence[str]) -> tuple[Pair, ...]:
    """The reference against itself, then every other method against it.

    The reference is emcee where it runs, else zeus, nautilus or the refined flow.
    """
    reference = next((name for name in _REFERENCES if name in methods), None)
    if reference is None:
        return ()
    floor: tuple[Pair, ...] = ((reference, FLOOR),) if reference in SAMPLERS else ()
    return floor + tuple((name, reference) for name in methods if name != reference)


def galaxies_of_catalog(catalog: Catalog, rows: np.ndarray) -> list[Galaxy]:
    """Some rows of a catalogue, to compare methods on."""
    return [
        Galaxy("real", int(row), str(catalog.ids[row]), catalog.flux[row], catalog.flux_ivar[row], float(catalog.zred[row]))
        for row in rows
    ]


def galaxies_of_mocks(mocks: Mocks, n: int, *, first: int = 0) -> list[Galaxy]:
    """The first n mocks, with their true parameters; numbered from `first` on."""
    return [
        Galaxy(
            "mock",
            first + row,
            f"mock {first + row}",
            mocks.flux[row],
            mocks.flux_ivar[row],
            float(mocks.zred[row]),
            mocks.theta_unbounded[row],
        )
        for row in range(n)
    ]


def compare_galaxies(
    setting: Setting,
    galaxies: Sequence[Galaxy],
    folder: str | Path,
    *,
    n_workers: int | None = None,
    pool: TaskPool | None = None,
    about: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Run every method on every galaxy in parallel processes, and set the posteriors side by side.

    Finished runs are kept in ``folder/runs``: the same call goes on where an interrupted one stopped, and runs of the same data
    and settings are not repeated when galaxies or methods are added. A method that fails on a galaxy is recorded with its
    reason, and everything else goes on; it is tried again by the next call.

    Parameters
    ----------
    setting : estimator, simulator, and what to run.
    galaxies : in the estimator's bands; see `galaxies_of_catalog` and `galaxies_of_mocks`.
    folder : where runs are kept.
    n_workers : processes; the number of usable cores by default.
    pool : processes to use instead, such as those of a cluster, which need the folder under the same name.
    about : for the record, kept as it is.
    overwrite : whether finished runs of the same rows by other data or settings may be replaced.
    progress : called with (runs and comparisons done, all of them).

    Raises
    ------
    ConfigError : if finished runs of something else would be replaced without `overwrite`.
    ParameterError : if there is no galaxy, one has other bands than the estimator, or the estimator infers the redshift.
    """
    if isinstance(setting.estimator, PosteriorEstimator):
        setting.estimator.refuse_inferred_redshift("the comparison with MCMC")
    if not galaxies:
        raise ParameterError("galaxies is empty: nothing to compare")
    n_band = len(setting.estimator.bands)
    for galaxy in galaxies:
        if galaxy.flux.shape != (n_band,):
            raise ParameterError(
                f"galaxy {galaxy.name} has fluxes of shape {galaxy.flux.shape}, expected ({n_band},) for the estimator's bands "
                f"{' '.join(setting.estimator.bands)}: select and order them"
            )
    runs = Path(folder).absolute() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    session, methods = uuid.uuid4().hex, setting.config.methods
    tasks = [
        RunTask(galaxy, method, run_path(folder, galaxy.group, galaxy.row, method), session)
        for galaxy in galaxies
        for method in methods
    ]
    keys = [run_key(setting, task.galaxy, task.method) for task in tasks]
    outcomes = [load_outcome(task.path, key, overwrite=overwrite) for task, key in zip(tasks, keys, strict=True)]
    missing = [index for index, outcome in enumerate(outcomes) if outcome is None]
    total, done = len(tasks) + len(galaxies), len(tasks) - len(missing)

    def report(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    report(0)
    with _processes(pool, n_workers, missing) as processes:
        for number, outcome in processes.map_unordered(run_task, (tasks[index] for index in missing), shared=(setting,)):
            outcomes[missing[number]] = outcome
            report(1)
    found = [dict(zip(methods, outcomes[k * len(methods) :], strict=False)) for k in range(len(galaxies))]
    pair_tasks = [_PairTask(galaxy, one, Path(folder)) for galaxy, one in zip(galaxies, found, strict=True)]  # type: ignore[arg-type]
    pairs = [_load_pairs(task.path, task.key(setting)) for task in pair_tasks]
    missing = [index for index, one in enumerate(pairs) if one is None]
    report(len(pairs) - len(missing))
    with _processes(pool, n_workers, missing) as processes:
        for number, one in processes.map_unordered(_compare_pairs, (pair_tasks[k] for k in missing), shared=(setting,)):
            pairs[missing[number]] = one
            report(1)
    compared = [
        GalaxyComparison(task.galaxy, task.outcomes, one or {}, _ranks(setting, task))
        for task, one in zip(pair_tasks, pairs, strict=True)
    ]
    return Comparison(tuple(compared), setting.config, about or {})


def _processes(
    pool: TaskPool | None, n_workers: int | None, tasks: Sequence[Any]
) -> contextlib.AbstractContextManager[TaskPool]:
    """The pool, or processes of this machine: none for one task."""
    if pool is not None:
        return contextlib.nullcontext(pool)
    return task_pool(None, 1 if len(tasks) <= 1 else n_workers)


@dataclass(frozen=True)
class _PairTask:
    """A galaxy with all its runs, to be set side by side."""

    galaxy: Galaxy
    outcomes: dict[str, Outcome]
    folder: Path

    @property
    def path(self) -> Path:
        return run_path(self.folder, self.galaxy.group, self.galaxy.row, "pairs")

    @property
    def good(self) -> dict[str, Outcome]:
        return {name: one for name, one in self.outcomes.items() if not one.failed}

    def key(self, setting: Setting) -> str:
        return "".join(run_key(setting, self.galaxy, name) for name in self.good)  # type: ignore[arg-type]


def _compare_pairs(setting: Setting, task: _PairTask) -> dict[Pair, TwoSamples]:
    """Figures of all pairs, kept too; Wasserstein distances in the prior's standard deviations at the galaxy's redshift."""
    galaxy, good = task.galaxy, task.good
    wanted = [pair for pair in compared_pairs(tuple(task.outcomes)) if all(name in good for name in pair if name != FLOOR)]
    if not wanted:
        return {}
    prior_draws = np.random.default_rng(0).standard_normal((_PRIOR_DRAWS, _N_FREE))
    unit = quantities(prior_draws, galaxy.zred, setting.estimator).std(axis=0)
    unit[:_N_FREE] = 1.0
    columns = {name: quantities(one.draws, galaxy.zred, setting.estimator) for name, one in good.items()}
    pairs = {}
    for a, b in wanted:
        if len(columns[a]) < _MIN_DRAWS:
            continue
        if b == FLOOR:
            half = len(columns[a]) // 2
            first, second, quantiles = columns[a][:half], columns[a][half:], None
        else:
            first, second, quantiles = columns[a], columns[b], (good[a].quantiles, good[b].quantiles)
        pairs[a, b] = two_samples(
            first, second, unit=unit, n_joint=_N_FREE, seed=galaxy.seed(setting.config.seed), quantiles=quantiles
        )
    arrays = {
        f"{a} {b} {name}": np.asarray(value) for (a, b), figures in pairs.items() for name, value in vars(figures).items()
    }
    save_artifact(
        task.path, PAIRS_KIND, arrays, {"key": task.key(setting), "pairs": [list(pair) for pair in pairs]}, overwrite=True
    )
    return pairs


def _ranks(setting: Setting, task: _PairTask) -> dict[str, np.ndarray]:
    galaxy = task.galaxy
    if galaxy.truth is None:
        return {}
    # The truth is rounded as the draws are: where a quantity is clipped, both must meet the same value.
    truth = quantities(galaxy.truth[None].astype(np.float32), galaxy.zred, setting.estimator)[0]
    return {
        name: rank_statistics(
            truth, quantities(one.draws, galaxy.zred, setting.estimator).T, seed=[setting.config.seed, galaxy.row, index]
        )
        for index, (name, one) in enumerate(task.good.items())
    }


def _load_pairs(path: Path, key: str) -> dict[Pair, TwoSamples] | None:
    if (kept := load_kept(path, PAIRS_KIND, key)) is None:
        return None
    arrays, card = kept
    return {
        (a, b): TwoSamples(
            float(arrays[f"{a} {b} c2st"]),
            int(arrays[f"{a} {b} n"]),
            *(arrays[f"{a} {b} {name}"] for name in ("wasserstein", "shift", "width_ratio")),
        )
        for a, b in card["pairs"]
    }
