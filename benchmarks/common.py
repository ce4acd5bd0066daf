"""What the benchmarks share: timing in rounds, the machine's matrix-multiply rate, cores, and what is printed."""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from sedcast.data.artifacts import software_versions
from sedcast.data.provenance import jsonable, processor_name
from sedcast.emulator.prior import Prior
from sedcast.emulator.simulation import SpectrumModel
from sedcast.emulator.spectrum_emulator import SpectrumEmulator

BUNDLED = "bundled"
ZRED_MIN = 0.005

_SETTLE_SECONDS = 0.1
_GEMM_SIZE = 2048
_GEMM = "float32 matrix product"
_ROWS_PER_CALL = 512


def note(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns on standard error, the first to the left."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        first, *rest = (
            cell.ljust(width) if k == 0 else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        note("  ".join([first, *rest]).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def verdict(good: bool) -> str:
    return "pass" if good else "MISS"


def as_json(figures: Mapping[str, Any]) -> str:
    """One line of strict JSON: NumPy's numbers as Python's, what is not finite as null."""
    return json.dumps(jsonable(figures), allow_nan=False)


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    return {"threads": threads, "cpu": processor_name(), "load_average": os.getloadavg()[0], "versions": software_versions()}


@contextmanager
def on_cores(n: int) -> Iterator[None]:
    """Hold the process, and every thread that starts meanwhile, to n cores, and BLAS to n threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:n])
    try:
        with threadpool_limits(n, "blas"):
            yield
    finally:
        os.sched_setaffinity(0, before)


def time_rounds(tasks: Mapping[str, Callable[[], object]], *, repeats: int, min_seconds: float = 0.2) -> dict[str, list[float]]:
    """Seconds per call of each task in each of `repeats` rounds, every round running every task in turn.

    Whatever else the machine does meanwhile falls on all tasks alike, so that their ratios mean something. A short task
    is called as often as `min_seconds` needs. Each is warmed up before.
    """
    n_calls = {}
    for name, task in tasks.items():
        note(f"  warming up: {name}")
        task()
        n_calls[name] = max(1, math.ceil(min_seconds / max(_seconds(task, 1), 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for done in range(1, repeats + 1):
        for name, task in tasks.items():
            # The threads of the task before wait busily for more work.
            time.sleep(_SETTLE_SECONDS)
            seconds[name].append(_seconds(task, n_calls[name]) / n_calls[name])
        note(f"  round {done} of {repeats}")
    return seconds


def _seconds(task: Callable[[], object], n: int) -> float:
    started = time.perf_counter()
    for _ in range(n):
        task()
    return time.perf_counter() - started


class Stopwatch:
    """Times tasks beside a float32 matrix product on the same cores, in the same rounds.

    Attributes
    ----------
    seconds : median seconds per call by task.
    least : least seconds per call by task.
    gemm_flop_per_s : the machine's rate in a product of two 2048 × 2048 matrices, the median of the same rounds.
    """

    def __init__(self, tasks: Mapping[str, Callable[[], object]], *, repeats: int) -> None:
        square = np.random.default_rng(0).standard_normal((_GEMM_SIZE, _GEMM_SIZE), dtype=np.float32)
        product = np.empty_like(square)
        everything = {_GEMM: lambda: np.matmul(square, square, out=product)} | dict(tasks)
        rounds = time_rounds(everything, repeats=repeats)
        self.seconds = {name: statistics.median(times) for name, times in rounds.items()}
        self.least = {name: min(times) for name, times in rounds.items()}
        self.gemm_flop_per_s = 2 * _GEMM_SIZE**3 / self.seconds[_GEMM]
        rows = [(name, self.seconds[name], min(times), max(times)) for name, times in rounds.items()]
        table(("seconds a call", "median", "least", "most"), rows)


def spectra_in_threads(model: SpectrumModel, theta: np.ndarray, zred: np.ndarray, threads: int) -> int:
    """Compute spectra block by block over threads of one BLAS thread each, and drop them: memory stays bounded.

    Returns
    -------
    n : how many.
    """
    blocks = [slice(start, start + _ROWS_PER_CALL) for start in range(0, len(theta), _ROWS_PER_CALL)]
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda rows: len(model.spectra(theta[rows], zred[rows])), blocks))


def draw(prior: Prior, n: int, zred_max: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (n, 12) from the prior and redshifts (n,), uniform from 0.005 to `zred_max`."""
    rng = np.random.default_rng(seed)
    return prior.sample(n, rng), rng.uniform(ZRED_MIN, zred_max, n)


def positive(text: str) -> int:
    """A whole number above zero, as the type of an option."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return value


def add_emulator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--emulator", default=BUNDLED, metavar="FILE", help="artifact of a spectrum emulator")


def load_emulator(name: str) -> SpectrumEmulator:
    return SpectrumEmulator.default() if name == BUNDLED else SpectrumEmulator.load(name)


def provabgs_folder(folder: Path) -> Path:
    """The folder of PROVABGS's published files: the one named, or its part of a folder of all published files."""
    inner = Path(folder) / "provabgs"
    return inner if inner.is_dir() else Path(folder)


def add_repeats(parser: argparse.ArgumentParser, default: int = 5) -> None:
    parser.add_argument("--repeats", type=positive, default=default, help="rounds of timing; figures are medians over them")
