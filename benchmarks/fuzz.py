"""A seeded fuzzer of everything that sedcast reads: worker processes with little memory, a clock, and an audit of what they do.

``python -m benchmarks.fuzz FOLDER SEED START STOP STEP`` is one such worker; `run_fuzzer` starts, watches and restarts them.
To have the file of case N of seed S again: ``python -m benchmarks.fuzz FOLDER S N N+1 1``.
"""

import gc
import itertools
import json
import logging
import os
import queue
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note
from benchmarks.fuzz_targets import Target, make_targets
from sedcast.data.errors import SedcastError
from sedcast.data.hdf5 import PROBE

__all__ = ["run_fuzzer"]

SECONDS_PER_CASE = 10
_MEMORY = 1 << 30
# A case has its seconds of computing; on a busy machine they may take long, and the first one waits for the valid files.
_SILENCE_AT_FIRST, _SILENCE = 1200, 300
_FORBIDDEN = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.remove", "os.rename", "os.rmdir", "os.kill"),
    *("subprocess.Popen", "socket.connect", "pickle.find_class", "shutil.rmtree", "shutil.unpack_archive", "ctypes.dlopen"),
    *("os.symlink", "os.link"),
}


class _Late(BaseException):
    """The clock rang; no reader catches it."""


class _Watch:
    """An audit hook that notes what no reader may do, while `on`."""

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or isinstance(arguments[0], int):
            # The number of a file or pipe that is open already.
            return
        if event == "subprocess.Popen" and PROBE in arguments[1]:
            # Started again after a file that it did not survive.
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        # Compressed tables are unpacked to temporary files.
        if (event in _FORBIDDEN or writes) and tempfile.gettempdir() not in (
            str(arguments[0]),
            os.path.dirname(str(arguments[0])),
        ):
            self.seen.append(f"{event} {arguments[:2]!r}")


def _memory_error(error: BaseException | None) -> BaseException | None:
    """The MemoryError that is behind an error: sizes are to be checked before."""
    while error is not None and not isinstance(error, MemoryError) and "nable to allocate" not in str(error):
        error = error.__cause__ or error.__context__
    return error


def _ring(*_: object) -> None:
    raise _Late


def _one(target: Target, path: Path, seed: int, case: int, watch: _Watch) -> str:
    """What reading a spoilt file came to: ``read``, ``refused``, or what should not have happened."""
    shutil.copyfile(target.seed, path)
    target.mutate(path, np.random.default_rng([seed, case]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_CASE)
    try:
        watch.on = target.name != "segment"
        target.read(path)
        outcome = "read"
    except SedcastError as error:
        outcome = "refused" if str(error) and len(str(error)) < 5000 else f"a message of {len(str(error))} characters"
        if (asked := _memory_error(error)) is not None:
            outcome = f"memory was asked for: {asked}"
    except _Late:
        outcome = f"no end after {SECONDS_PER_CASE} s of computing"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if "sedcast" in frame.filename or "/data/" in frame.filename] or where
        outcome = f"{type(error).__name__}: {str(error)[:200]} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        watch.on = False
    if watch.seen:
        outcome = f"forbidden: {watch.seen[0][:200]}"
        watch.seen.clear()
    return outcome


def work(folder: Path, seed: int, cases: range) -> None:
    """Run cases, saying each one's number before it and its outcome after it."""
    targets = make_targets(folder)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _ring)
    for target in targets:
        # A file that is whole is read; and what is imported at first use is imported before memory is short.
        shutil.copyfile(target.seed, copy := folder / f"case{_suffix(target.seed)}")
        target.read(copy)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, resource.RLIM_INFINITY))
    watch = _Watch()
    for case in cases:
        target = targets[case % len(targets)]
        path = folder / f"case{_suffix(target.seed)}"
        print(json.dumps([case, target.name]), flush=True)
        outcome = _one(target, path, seed, case, watch)
        print(json.dumps(outcome), flush=True)
        if case % 50 == 0:
            gc.collect()


def _suffix(path: Path) -> str:
    name = path.name
    return "".join(Path(name).suffixes[-2:]) if name.endswith(".gz") else path.suffix


def _lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    """Lines of a worker, until it ends or is silent for too long."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        patience = _SILENCE_AT_FIRST
        while selector.select(patience):
            patience = _SILENCE
            line = process.stdout.readline()
            if not line:
                break
            yield line


def _watched(folder: Path, seed: int, cases: range, stop: threading.Event) -> Iterator[tuple[int, str, str]]:
    """(case, target, outcome) of every case, through deaths of the worker."""
    start = cases.start
    while start < cases.stop and not stop.is_set():
        arguments = [sys.executable, "-m", "benchmarks.fuzz", str(folder), *map(str, (seed, start, cases.stop, cases.step))]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            under_way: tuple[int, str] | None = None
            for line in itertools.takewhile(lambda _: not stop.is_set(), _lines(process)):
                said = json.loads(line)
                if isinstance(said, list):
                    under_way = (said[0], said[1])
                elif under_way is not None:
                    yield *under_way, said
                    start, under_way = under_way[0] + cases.step, None
            process.kill()
            process.wait()
            error = process.stderr.read() if process.stderr else ""
        if under_way is not None:
            yield *under_way, f"the process died with status {process.returncode}"
            start = under_way[0] + cases.step
        elif start < cases.stop and not stop.is_set():
            raise RuntimeError(f"the fuzzer's worker failed: {error[-2000:]}")


def run_fuzzer(folder: Path, n_cases: int, *, seed: int = 0, n_workers: int = 2) -> dict[str, Any]:
    """Feed `n_cases` spoilt files to sedcast's readers.

    Parameters
    ----------
    folder : for the files; emptied first.

    Returns
    -------
    figures : ``inputs``, ``read`` (harmlessly), ``refused`` (with an error of sedcast's own), ``unhandled``, ``failures`` (what
        they were, with the number of each), ``by_target``.
    """
    outcomes, failures, by_target = Counter[str](), Counter[str](), Counter[str]()
    stop = threading.Event()
    streams = [_watched(folder / str(worker), seed, range(worker, n_cases, n_workers), stop) for worker in range(n_workers)]
    started = time.perf_counter()
    for case, target, outcome in _interleaved(streams, stop):
        kind = outcome if outcome in ("read", "refused") else "unhandled"
        if sum(outcomes.values()) % 1000 == 999:
            note(f"  {sum(outcomes.values()) + 1} inputs, {outcomes['unhandled']} unhandled")
        outcomes[kind] += 1
        by_target[target] += 1
        if kind == "unhandled":
            failures[f"{target}: {outcome}"] += 1
            print(f"case {case}, {target}: {outcome}", file=sys.stderr, flush=True)
    figures: dict[str, Any] = {"inputs": sum(outcomes.values()), "unhandled": outcomes["unhandled"]}
    figures |= {"read": outcomes["read"], "refused": outcomes["refused"], "fuzz_seconds": time.perf_counter() - started}
    return figures | {"failures": dict(failures.most_common()), "by_target": dict(by_target)}


def _interleaved(streams: list[Iterator[tuple[int, str, str]]], stop: threading.Event) -> Iterator[tuple[int, str, str]]:
    """What all of them give, as it comes."""
    found: queue.SimpleQueue[tuple[int, str, str] | BaseException | None] = queue.SimpleQueue()

    def drain(stream: Iterator[tuple[int, str, str]]) -> None:
        try:
            for item in stream:
                found.put(item)
        except BaseException as error:
            found.put(error)
        finally:
            found.put(None)

    with ThreadPoolExecutor(len(streams)) as pool:
        for stream in streams:
            pool.submit(drain, stream)
        left = len(streams)
        while left:
            item = found.get()
            if isinstance(item, BaseException):
                stop.set()
                raise item
            if item is None:
                left -= 1
            else:
                yield item


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work(Path(sys.argv[1]), int(sys.argv[2]), range(int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
