"""Tasks on processes of this machine and on a real Dask cluster of two, workers killed in the middle."""

import contextlib
import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from sedcast.data.errors import ConfigError, ParameterError, SedcastError
from sedcast.data.executors import task_pool
from sedcast.data.threads import usable_cores

# On a busy machine Dask wonders about the time that its folders take.
pytestmark = pytest.mark.filterwarnings("ignore:Creating scratch directories")


def power(base: int, exponent: int) -> int:
    return base**exponent


def process_of(_: int) -> int:
    return os.getpid()


def die_once(folder: Path, number: int) -> int:
    """Kills its own process the first time that task 3 runs."""
    if number == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> int:
    if number == 2:
        raise ParameterError("task 2 is wrong")
    return number


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="needs dask and distributed")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0")
    with cluster:
        yield cluster.scheduler_address


@pytest.fixture(params=["this process", "processes", "dask"])
def where(request: pytest.FixtureRequest) -> tuple[str | None, int]:
    if request.param == "dask":
        return request.getfixturevalue("address"), 2
    return None, 1 if request.param == "this process" else 2


def test_results_are_those_of_the_calls(where: tuple[str | None, int]) -> None:
    with task_pool(*where) as pool:
        assert dict(pool.map_unordered(power, range(20), shared=(2,))) == {n: 2**n for n in range(20)}
        assert list(pool.map(power, range(20), shared=(3,))) == [3**n for n in range(20)]
        assert list(pool.map(power, [], shared=(3,))) == []


def test_endless_tasks_are_drawn_as_needed_and_can_be_left(where: tuple[str | None, int]) -> None:
    with task_pool(*where) as pool:
        results = pool.map(power, count(), shared=(2,))
        assert [next(results) for _ in range(7)] == [2**n for n in range(7)]
        results.close()


def test_an_error_keeps_its_class_and_words(where: tuple[str | None, int]) -> None:
    with task_pool(*where) as pool, pytest.raises(ParameterError, match="task 2 is wrong"):
        list(pool.map_unordered(fail, range(5)))


@pytest.mark.parametrize("where", ["processes", "dask"], indirect=True)
def test_a_killed_worker_costs_nothing_but_time(where: tuple[str | None, int], tmp_path: Path) -> None:
    with task_pool(*where) as pool:
        assert list(pool.map(die_once, range(12), shared=(tmp_path,))) == [n * 10 for n in range(12)]
    assert (tmp_path / "died").exists()


def test_a_task_that_kills_every_worker_is_given_up() -> None:
    with task_pool(None, 2) as pool, pytest.raises(SedcastError, match="a worker process died"):
        list(pool.map_unordered(die, range(3)))


def test_work_is_done_elsewhere() -> None:
    with task_pool("local", 1) as pool:
        assert os.getpid() not in set(pool.map(process_of, range(3)))


def test_a_system_that_does_not_say_which_cores_are_usable_has_a_pool_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()
    with task_pool(None) as pool:
        assert list(pool.map(abs, (-1, 2))) == [1, 2]


def test_wrong_numbers_and_addresses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="n_workers=0"), task_pool(None, 0):
        pass
    monkeypatch.setattr("sedcast.data.dask_pool._CONNECT_SECONDS", 0.5)
    for wrong in ("tcp://127.0.0.1:9", "nowhere"):
        with pytest.raises(ConfigError, match="no Dask scheduler"), task_pool(wrong):
            pass


class _Failing:
    """A client whose connections close a few times."""

    def __init__(self, times: int, status: str) -> None:
        self.times, self.status, self.calls = times, status, 0

    def nthreads(self) -> dict[str, int]:
        if self.status != "running":
            raise OSError("ConnectionPool closing.")
        return {"one": 1}

    def register_plugin(self, _: object) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise OSError("Stream is closed")

    def get_executor(self, pure: bool) -> None:
        assert not pure


def test_a_worker_that_dies_while_it_gets_what_is_shared_is_not_the_scheduler() -> None:
    pytest.importorskip("distributed", reason="needs Dask")
    from sedcast.data.dask_pool import DaskPool

    for client, calls in ((_Failing(2, "running"), 3), (_Failing(3, "running"), 3)):
        expected = contextlib.nullcontext() if client.times < calls else pytest.raises(SedcastError, match="scheduler was lost")
        with expected, DaskPool(client)._session(()):  # type: ignore[arg-type]
            pass
        assert client.calls == calls
    with pytest.raises(SedcastError, match="scheduler was lost"):
        _ = DaskPool(_Failing(0, "closed")).n_workers  # type: ignore[arg-type]
    with pytest.raises(SedcastError, match="scheduler was lost"):
        list(DaskPool(_Failing(3, "running")).map(power, [2], shared=(3,)))  # type: ignore[arg-type]
