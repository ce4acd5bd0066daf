"""Long catalogues: a million rows' memory and speed, one process beside two, and on paper 10^9 rows on 1,000 cores."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from benchmarks.common import note, positive, table
from sedcast.data.artifacts import load_artifact
from sedcast.data.errors import SedcastError
from sedcast.data.executors import TaskPool, task_pool
from sedcast.data.mapping import load_mapping
from sedcast.emulator.mass_simulation import simulate
from sedcast.emulator.simulation import PROPOSALS_PER_CHUNK, SimulationConfig, default_simulator
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.streaming import ROWS_PER_SEGMENT, infer_file

_MAPPING = "kcorrect-sdss"
_COLUMNS = ("MODELFLUX", "MODELFLUX_IVAR", "EXTINCTION", "Z")
_ROWS_PER_PIECE = 100_000
_SEGMENTS, _EMPTY_TASKS, _WRITTEN_BYTES = 8, 300, 1 << 28
_LINK_BYTES_PER_S = 1.25e9
"""A link of 10 Gbit/s, of a node or of the file system: assumed, for it is not measured here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=positive, default=1_000_000, help="length of the catalogue")
    parser.add_argument("--samples", type=positive, default=50, help="samples per galaxy of the long catalogue")
    parser.add_argument("--paper-samples", type=positive, default=1000, help="samples per galaxy of the costs on paper")
    parser.add_argument("--shared-rows", type=positive, default=32_768, help="rows that one process and two infer")
    parser.add_argument("--cost-rows", type=positive, default=4096, help="rows that the costs on paper are measured on")


@dataclass(frozen=True)
class Costs:
    """What one row costs, measured; CPU seconds on one core, bytes, seconds."""

    cpu_s: float
    join_s: float
    input_bytes: float
    summary_bytes: float
    sample_bytes: float
    task_s: float
    write_bytes_per_s: float
    rows_per_task: int


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Infer catalogues made of the bundled sample, in one process of its own, in pools, and row by row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        estimator = PosteriorEstimator.default()
        short = _stream(folder, max(1, options.rows // 10), options)
        long = _stream(folder, options.rows, options)
        shared = write_catalog(folder / "shared.fits", options.shared_rows, seed=options.seed)
        one, two = (_in_pool(estimator, shared, options, n_workers=n) for n in (1, 2))
        costs = measure_costs(estimator, folder, options, empty_task_s=two["empty_task_s"])
    paper = {f"paper_{key}": value for key, value in on_paper(costs, n_rows=10**9, n_cores=1000, n_files=1000).items()}
    rows = [(key, one[key], two[key]) for key in one]
    table(("processes", "1", "2"), rows)
    return {
        "rows": options.rows,
        "samples": options.samples,
        "rows_per_s": options.rows / long["seconds"],
        "cpu_us_per_row": 1e6 * long["cpu_s"] / options.rows,
        "peak_gib": long["peak_gib"],
        "peak_gib_of_a_tenth": short["peak_gib"],
        "speedup_2_processes": two["rows_per_s"] / one["rows_per_s"],
        "speedup_2_processes_simulating": two["galaxies_per_s"] / one["galaxies_per_s"],
        "rows_per_s_1_process": one["rows_per_s"],
        "rows_per_s_2_processes": two["rows_per_s"],
        **{f"cost_{key}": value for key, value in vars(costs).items()},
        **paper,
    }


def write_catalog(path: Path, n_rows: int, *, seed: int) -> Path:
    """A table in the layout of kcorrect's sample: its galaxies drawn again and again, with new noise of their own errors."""
    arrays, _ = load_artifact(Path(str(files("sedcast.data").joinpath("bundled", "sdss_sample.npz"))), "sdss-sample")
    sample = {name: arrays[name] for name in _COLUMNS}
    with np.errstate(divide="ignore"):
        sigma = np.where(sample["MODELFLUX_IVAR"] > 0, sample["MODELFLUX_IVAR"], np.inf) ** -0.5
    columns = [
        fits.Column(name, f"{values[0].size if values.ndim > 1 else ''}E", array=values[:1]) for name, values in sample.items()
    ]
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header["NAXIS2"] = n_rows
    dtype = hdu.columns.dtype.newbyteorder(">")
    with path.open("wb") as handle:
        for header in (fits.PrimaryHDU().header, hdu.header):
            handle.write(header.tostring().encode("ascii"))
        for start in range(0, n_rows, _ROWS_PER_PIECE):
            rng = np.random.default_rng((seed, start))
            chosen = rng.integers(len(sigma), size=min(_ROWS_PER_PIECE, n_rows - start))
            piece = np.empty(len(chosen), dtype)
            for name, values in sample.items():
                piece[name] = values[chosen]
            piece["MODELFLUX"] += sigma[chosen] * rng.standard_normal(sigma[chosen].shape)
            handle.write(piece.tobytes())
        handle.write(b"\0" * (-handle.tell() % 2880))
    return path


def _stream(folder: Path, n_rows: int, options: argparse.Namespace) -> dict[str, float]:
    """Run `sedcast infer` as a program; its wall time, CPU time and the most memory that it ever held."""
    catalog, output = write_catalog(folder / "long.fits", n_rows, seed=options.seed), folder / f"{n_rows}-summaries.fits"
    note(f"  sedcast infer, {n_rows:,} rows, {options.samples} samples each")
    command = [sys.executable, "-c", "from sedcast.cli import main; main()", "infer", str(catalog), "-o", str(output)]
    command += ["--mapping", _MAPPING, "--n-samples", str(options.samples), "--seed", str(options.seed), "--json", "-q"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        figures = json.loads(process.stdout.read() or "{}")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or figures.get("galaxies") != n_rows:
        raise SedcastError(f"'sedcast infer' ended with status {process.returncode} on {n_rows} rows")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_gib": usage.ru_maxrss / 2**20,
    }


def _nothing(number: int) -> int:
    return number


def _in_pool(estimator: PosteriorEstimator, catalog: Path, options: argparse.Namespace, *, n_workers: int) -> dict[str, float]:
    """Throughput on a Dask cluster of this machine, after a warm-up in which workers start and import."""
    note(f"  a Dask cluster of {n_workers} processes")
    rows = -(-options.shared_rows // (_SEGMENTS * n_workers * 2))
    with task_pool("local", n_workers) as pool:
        _infer(estimator, write_catalog(catalog.with_name("warm.fits"), 64, seed=1), pool, options.samples, 16)
        started = time.perf_counter()
        _infer(estimator, catalog, pool, options.samples, rows)
        inferred = time.perf_counter() - started
        config = SimulationConfig(n_galaxies=1, seed=options.seed)
        simulator = default_simulator(config)
        output = catalog.with_name("simulated.h5")
        simulate(config, output, simulator=simulator, pool=pool, overwrite=True)
        wanted = config.model_copy(update={"n_galaxies": PROPOSALS_PER_CHUNK * max(1, options.shared_rows // 8192)})
        started = time.perf_counter()
        simulate(wanted, output, simulator=simulator, pool=pool, overwrite=True)
        simulated = time.perf_counter() - started
        started = time.perf_counter()
        for _ in pool.map_unordered(_nothing, range(_EMPTY_TASKS)):
            pass
        empty = (time.perf_counter() - started) / _EMPTY_TASKS
    return {
        "rows_per_s": options.shared_rows / inferred,
        "galaxies_per_s": wanted.n_galaxies / simulated,
        "empty_task_s": empty,
    }


def _infer(estimator: PosteriorEstimator, catalog: Path, pool: TaskPool, n_samples: int, rows_per_segment: int) -> None:
    output, mapping = catalog.with_suffix(".out.fits"), load_mapping(_MAPPING)
    options: dict[str, Any] = {"n_samples": n_samples, "rows_per_segment": rows_per_segment}
    infer_file(estimator, catalog, mapping, output, **options, pool=pool, overwrite=True)


def measure_costs(estimator: PosteriorEstimator, folder: Path, options: argparse.Namespace, *, empty_task_s: float) -> Costs:
    """CPU time, bytes and joining of each row with as many samples as the paper keeps, in one thread."""
    note(f"  costs of a row with {options.paper_samples} samples")
    n_rows = options.cost_rows
    catalog, output = write_catalog(folder / "cost.fits", n_rows, seed=options.seed), folder / "cost-summaries.fits"
    kept, last = folder / "cost.h5", [0.0]

    def segment_done(done: int, total: int) -> None:
        last[0] = time.process_time()

    started = time.process_time()
    infer_file(
        estimator,
        catalog,
        load_mapping(_MAPPING),
        output,
        n_samples=options.paper_samples,
        samples=(kept, "float16", None),
        n_threads=1,
        progress=segment_done,
    )
    ended = time.process_time()
    return Costs(
        cpu_s=(last[0] - started) / n_rows,
        join_s=(ended - last[0]) / n_rows,
        input_bytes=catalog.stat().st_size / n_rows,
        summary_bytes=output.stat().st_size / n_rows,
        sample_bytes=kept.stat().st_size / n_rows,
        task_s=empty_task_s,
        write_bytes_per_s=_write_rate(folder / "written"),
        rows_per_task=ROWS_PER_SEGMENT,
    )


def _write_rate(path: Path) -> float:
    piece = np.random.default_rng(0).bytes(1 << 24)
    started = time.perf_counter()
    with path.open("wb") as handle:
        for _ in range(_WRITTEN_BYTES // len(piece)):
            handle.write(piece)
        handle.flush()
        os.fsync(handle.fileno())
    return _WRITTEN_BYTES / (time.perf_counter() - started)


def on_paper(costs: Costs, *, n_rows: int, n_cores: int, n_files: int) -> dict[str, Any]:
    """Hours that each part of a survey would take alone, and which of them takes the longest.

    The survey comes in `n_files` files, each inferred by a run of its own and its segments joined by one process. All nodes
    share one link to the file system, over which results go three times: written as segments, read and written when joined.
    """
    n_tasks = n_rows / costs.rows_per_task
    written = n_rows * (costs.summary_bytes + costs.sample_bytes)
    hours = {
        "compute": n_rows * costs.cpu_s / n_cores,
        "scheduler": n_tasks * costs.task_s,
        "network": (n_rows * costs.input_bytes + 3 * written) / _LINK_BYTES_PER_S,
        "join": n_rows * costs.join_s / n_files,
    }
    figures: dict[str, Any] = {f"{name}_h": seconds / 3600 for name, seconds in hours.items()}
    return figures | {
        "read_bytes": n_rows * costs.input_bytes,
        "summary_bytes": n_rows * costs.summary_bytes,
        "sample_bytes": n_rows * costs.sample_bytes,
        "tasks": n_tasks,
        "bottleneck": max(hours, key=lambda name: hours[name]),
        "hours": max(hours.values()) / 3600,
        "core_hours": n_rows * (costs.cpu_s + costs.join_s) / 3600,
    }
