"""One interface to many processes: those of this machine, or the workers of a Dask cluster.

Tasks are independent calls of a function that a module defines, and results carry their task's number, so that what is
made of them does not depend on where and in which order they ran. Every process runs one task at a time, on one thread of
BLAS, and so may hold an FSPS of its own. A worker that dies (killed, out of memory, taken back by a batch system) costs
its task another attempt.
"""

import contextlib
import functools
import logging
import os
import signal
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from sedcast.data.artifacts import software_versions
from sedcast.data.errors import ConfigError, MissingDependencyError, ParameterError, SedcastError
from sedcast.data.threads import usable_cores

__all__ = ["LOST", "Session", "TaskPool", "call", "forget", "share", "task_pool"]

logger = logging.getLogger(__name__)

R = TypeVar("R")

_TASKS_PER_WORKER = 2
_ATTEMPTS = 3
_SHARED: dict[str, tuple[Any, ...]] = {}
_EXPECTED: dict[str, dict[str, str]] = {}
_ONE_AT_A_TIME = threading.RLock()
LOST = "the Dask scheduler was lost: start it again and repeat the command to go on"
_DIED = (
    "a worker process died each time that it ran the same task: out of memory, or the simulator ended it (FSPS does when a "
    "data file is missing). What was finished is kept, and the same call goes on from there; with one worker and no "
    "scheduler the work is done in the main process, where its own message is seen"
)


class TaskPool(ABC):
    """Processes that run tasks; made by `task_pool`."""

    @property
    @abstractmethod
    def n_workers(self) -> int:
        """Processes that run tasks now."""

    @property
    def window(self) -> int:
        """Tasks that may be under way, or finished and waiting for their turn."""
        return _TASKS_PER_WORKER * max(1, self.n_workers)

    @abstractmethod
    def _session(self, shared: tuple[Any, ...]) -> contextlib.AbstractContextManager["Session"]:
        """What runs the tasks of one call, after every process has got `shared`."""

    def map_unordered(
        self, function: Callable[..., R], tasks: Iterable[Any], *, shared: tuple[Any, ...] = ()
    ) -> Generator[tuple[int, R], None, None]:
        """Call ``function(*shared, task)`` for every task and yield (its number, the result) as results come.

        Parameters
        ----------
        function : defined by a module, so that other processes find it by its name.
        tasks : their arguments, small ones; taken as they are needed, so that there may be more than memory holds. Two for
            each process are under way.
        shared : arguments of every call, sent to each process once.

        Raises
        ------
        ConfigError : if a worker has other versions of the software than this process.
        SedcastError : if a task's process died in every attempt, or the scheduler was lost.
        """
        return self._run(function, tasks, shared, ordered=False)

    def map(
        self, function: Callable[..., R], tasks: Iterable[Any], *, shared: tuple[Any, ...] = ()
    ) -> Generator[R, None, None]:
        """As `map_unordered`, but yield the results alone and in the order of the tasks."""
        for _, result in self._run(function, tasks, shared, ordered=True):
            yield result

    def _run(
        self, function: Callable[..., R], tasks: Iterable[Any], shared: tuple[Any, ...], *, ordered: bool
    ) -> Generator[tuple[int, R], None, None]:
        waiting: dict[Future[R], tuple[int, Any]] = {}
        finished: dict[int, R] = {}
        remaining, turn = enumerate(tasks), 0
        with self._session(shared) as session:
            try:
                while True:
                    # Results that wait for their turn count: memory stays bounded.
                    room = self.window - len(finished)
                    while len(waiting) < room and (numbered := next(remaining, None)):
                        waiting[session.submit(function, numbered[1])] = numbered
                    if not waiting and not finished:
                        return
                    ready = [turn] if ordered else sorted(finished)
                    for number in ready:
                        if number in finished:
                            yield number, finished.pop(number)
                            turn += 1
                    if waiting and not (ordered and turn in finished):
                        session.collect(function, waiting, finished)
            finally:
                for future in waiting:
                    future.cancel()


class Session:
    """Runs the tasks of one call on an executor."""

    def __init__(self, executor: Executor, token: str) -> None:
        self.executor, self.token = executor, token

    def submit(self, function: Callable[..., R], task: Any) -> Future[R]:
        """Begin a task."""
        return self.executor.submit(call, self.token, function, task)

    def collect(self, _: Callable[..., R], waiting: dict[Future[R], tuple[int, Any]], finished: dict[int, R]) -> None:
        """Move at least one result from `waiting` to `finished`."""
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            number, _task = waiting[future]
            try:
                finished[number] = future.result()
            except CancelledError as error:
                raise SedcastError(LOST) from error
            except Exception as error:
                if type(error).__name__ == "KilledWorker":
                    raise SedcastError(_DIED) from error
                raise
            del waiting[future]


class _LocalSession(Session):
    """Processes of this machine; when one dies, all are started anew, for that is how the executor is made."""

    def __init__(self, n_workers: int, shared: tuple[Any, ...]) -> None:
        self.n_workers, self.shared, self.deaths = n_workers, shared, 0
        token = uuid.uuid4().hex
        super().__init__(self._start(token), token)

    def _start(self, token: str) -> ProcessPoolExecutor:
        # Not forked: a child must not inherit this process's FSPS, threads or TensorFlow.
        arguments = (token, self.shared, _versions())
        return ProcessPoolExecutor(
            self.n_workers, mp_context=get_context("spawn"), initializer=_begin_process, initargs=arguments
        )

    def collect(self, function: Callable[..., R], waiting: dict[Future[R], tuple[int, Any]], finished: dict[int, R]) -> None:
        n_before = len(finished)
        try:
            super().collect(function, waiting, finished)
            self.deaths = 0
        except BrokenProcessPool as error:
            again = []
            for future, numbered in list(waiting.items()):
                if future.done() and future.exception() is None:
                    finished[numbered[0]] = future.result()
                else:
                    again.append(numbered)
            # Nobody knows whose death it was: the work ends when nothing at all gets done between several.
            self.deaths = 1 if len(finished) > n_before else self.deaths + 1
            if self.deaths >= _ATTEMPTS:
                raise SedcastError(_DIED) from error
            logger.warning("a worker process died: %d tasks are begun again", len(again))
            self.stop()
            self.executor = self._start(self.token)
            waiting.clear()
            for numbered in again:
                waiting[self.submit(function, numbered[1])] = numbered

    def stop(self) -> None:
        """End the processes, whatever they are doing: nobody waits for it any more."""
        executor = self.executor
        processes = list((getattr(executor, "_processes", None) or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        executor.shutdown(wait=True)


class _Here(TaskPool):
    """The process itself, where FSPS's own messages are seen."""

    n_workers = 1
    window = 1

    @contextlib.contextmanager
    def _session(self, shared: tuple[Any, ...]) -> Iterator[Session]:
        token = uuid.uuid4().hex
        share(token, shared, _versions())
        try:
            yield Session(_Immediate(), token)
        finally:
            forget(token)


class _Immediate(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class _Processes(TaskPool):
    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers

    @property
    def n_workers(self) -> int:
        return self._n_workers

    @contextlib.contextmanager
    def _session(self, shared: tuple[Any, ...]) -> Iterator[Session]:
        session = _LocalSession(self._n_workers, shared)
        try:
            yield session
        finally:
            session.stop()


@contextlib.contextmanager
def task_pool(scheduler: str | None = None, n_workers: int | None = None) -> Iterator[TaskPool]:
    """Processes to run tasks on.

    Scripts that call this need the guard ``if __name__ == "__main__"``, as for any processes that Python starts.

    Parameters
    ----------
    scheduler : address of a Dask scheduler, such as ``tcp://node1:8786``; ``"local"`` starts a Dask cluster on this machine;
        None takes processes of this machine without Dask (and with one worker this process itself).
    n_workers : processes; the number of usable cores by default. Those of a scheduler that runs already are as they are.

    Raises
    ------
    ConfigError : if no scheduler answers at that address.
    MissingDependencyError : for a scheduler without Dask.
    ParameterError : if `n_workers` is not positive.
    """
    n_workers = usable_cores() if n_workers is None else n_workers
    if n_workers < 1:
        raise ParameterError(f"n_workers={n_workers} must be positive")
    if scheduler is None:
        yield _Processes(n_workers) if n_workers > 1 else _Here()
        return
    try:
        from sedcast.data.dask_pool import dask_pool
    except ImportError as error:
        raise MissingDependencyError(
            f"scheduler {scheduler!r} needs Dask ({error}): install it with 'pip install dask distributed'"
        ) from error
    with dask_pool(scheduler, n_workers) as pool:
        yield pool


def share(token: str, shared: tuple[Any, ...], versions: dict[str, str]) -> None:
    """Keep the arguments that all calls under a token have; called once in every process that runs tasks."""
    _SHARED[token] = shared
    _EXPECTED[token] = versions


def forget(token: str) -> None:
    """Let go of what `share` keeps."""
    _SHARED.pop(token, None)
    _EXPECTED.pop(token, None)


def call(token: str, function: Callable[..., R], task: Any) -> R:
    """Run one task in this process."""
    with _ONE_AT_A_TIME, threadpool_limits(1):
        if (here := _versions()) != (expected := _EXPECTED[token]):
            different = [name for name in sorted(here | expected) if here.get(name) != expected.get(name)]
            listed = ", ".join(f"{name} {here.get(name)} instead of {expected.get(name)}" for name in different)
            raise ConfigError(f"a worker has other software than this process: {listed}. Install the same there")
        return function(*_SHARED[token], task)


@functools.cache
def _versions() -> dict[str, str]:
    return software_versions()


def _begin_process(token: str, shared: tuple[Any, ...], versions: dict[str, str]) -> None:
    # An interruption is the main process's to deal with.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    share(token, shared, versions)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when its parent has ended, however that was: nobody else would tell it."""
    connection.wait([sentinel])
    os._exit(1)
