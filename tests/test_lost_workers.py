"""A worker of a real Dask cluster killed in the middle of simulations and of a comparison: the results are the same."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from test_compare import galaxy, setting

from sedcast.baselines.compare import Comparison, compare_galaxies
from sedcast.data.executors import TaskPool, task_pool
from sedcast.emulator.mass_simulation import simulate
from sedcast.emulator.simulation import SimulationConfig

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Creating scratch directories")]


class Killer:
    """A callback for progress that kills one worker once, as soon as something is done and something is left."""

    def __init__(self, run_everywhere: Callable[..., dict[str, int]]) -> None:
        self._run, self.before = run_everywhere, set(run_everywhere(os.getpid).values())
        self.killed: list[int] = []

    def __call__(self, done: int, total: int) -> None:
        if not self.killed and 0 < done < total:
            self.killed.append(min(self.before))
            os.kill(self.killed[0], signal.SIGKILL)

    def struck(self) -> bool:
        """Whether the worker that was killed is gone, from a cluster of two."""
        return len(self.before) == 2 and self.killed != [] and self.killed[0] not in self._run(os.getpid).values()


@pytest.fixture
def cluster() -> Iterator[tuple[TaskPool, Killer]]:
    distributed = pytest.importorskip("distributed", reason="needs dask and distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as started,
        distributed.Client(started) as client,
        task_pool(started.scheduler_address) as pool,
    ):
        yield pool, Killer(client.run)


def test_simulations_are_the_same_bytes(
    cluster: tuple[TaskPool, Killer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    pool, killer = cluster
    config = SimulationConfig(n_galaxies=100_000, seed=4, bands=("g", "r"))
    simulate(config, tmp_path / "alone.h5")
    simulate(config, tmp_path / "many.h5", pool=pool, progress=killer)
    assert killer.struck()
    assert (tmp_path / "alone.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()


def test_comparisons_are_the_same_numbers(cluster: tuple[TaskPool, Killer], tmp_path: Path) -> None:
    pool, killer = cluster
    galaxies = [galaxy(0), galaxy(1), galaxy(2, 0.05, mock=True)]
    alone = compare_galaxies(setting(), galaxies, tmp_path / "alone", n_workers=1)
    many = compare_galaxies(setting(), galaxies, tmp_path / "many", pool=pool, progress=killer)
    assert killer.struck()
    assert numbers(alone).keys() == numbers(many).keys()
    for name, values in numbers(alone).items():
        np.testing.assert_array_equal(values, numbers(many)[name], err_msg=name)


def numbers(comparison: Comparison) -> dict[str, np.ndarray]:
    """Every number of a comparison but for the seconds that it took."""
    found = {}
    for one in comparison.galaxies:
        for method, outcome in one.outcomes.items():
            assert not outcome.failed
            for name in ("draws", "quantiles", "physical", "n_evaluations"):
                found[f"{one.galaxy.name} {method} {name}"] = np.asarray(getattr(outcome, name))
        for pair, figures in one.pairs.items():
            found |= {f"{one.galaxy.name} {pair} {name}": np.asarray(value) for name, value in vars(figures).items()}
        found |= {f"{one.galaxy.name} {method} ranks": ranks for method, ranks in one.ranks.items()}
    return found
