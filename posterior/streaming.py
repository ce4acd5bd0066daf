"""From a catalogue of any length to files of posteriors: a run of rows at a time, resumable, in constant memory.

Each run of rows is a task of its own, which reads its rows and writes them to a segment: here, in the threads of this process,
or in the processes of a `TaskPool`, which then need the same files (a shared file system).
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from astropy.io import fits

from sedcast.data.artifacts import FULL, atomic_path
from sedcast.data.errors import ArtifactError, MissingDependencyError, ParameterError
from sedcast.data.executors import TaskPool
from sedcast.data.mapping import CatalogMapping, map_rows
from sedcast.data.provenance import provenance
from sedcast.data.tables import TableFile, open_table
from sedcast.emulator.segments import Segments, open_segments, partial_folder, write_segment
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import ExactSampler
from sedcast.posterior.infer import count_reasons, infer_catalog, warn_of_flags
from sedcast.posterior.posterior_catalog import PERCENTILES, QUANTITY_NAMES

__all__ = ["DATA_MODEL_NAMES", "ROWS_PER_SEGMENT", "SampleOptions", "infer_file"]

DATA_MODEL_NAMES = {
    "beta1_sfh": "beta1",
    "beta2_sfh": "beta2",
    "beta3_sfh": "beta3",
    "beta4_sfh": "beta4",
    "gamma1_zh": "gamma1",
    "gamma2_zh": "gamma2",
    "log_z_mw": "log_Z_MW",
}
"""Names of the paper's data model, where they are not those of `sedcast.posterior.posterior_catalog.QUANTITY_NAMES`."""

_FITS_BLOCK = 2880
ROWS_PER_SEGMENT, _REFINED_ROWS = 16_384, 256
_SUFFIXES = (".fits", ".parquet")

SampleOptions = tuple[Path, Literal["float16", "float32"], Literal["gzip", "lzf"] | None]
"""Where samples are written, their type, their compression."""


def infer_file(
    estimator: PosteriorEstimator,
    catalog: str | Path,
    mapping: CatalogMapping,
    output: str | Path,
    *,
    samples: SampleOptions | None = None,
    n_samples: int = 1000,
    seed: int = 0,
    refiner: ExactSampler | None = None,
    rows_per_segment: int | None = None,
    n_threads: int | None = None,
    pool: TaskPool | None = None,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write summaries of the posterior of every row of a catalogue, and its samples if they are wanted.

    Every input row is there, in order. Columns of the summaries: ``id``, ``zred``, ``status``, ``flags``, ``score`` and
    ``<name>_p2.5`` and so on, as `PosteriorCatalog.summary` has them. The file of samples is one that `read_posteriors` opens;
    its datasets bear the names of the paper's data model too (`DATA_MODEL_NAMES`). Finished segments are kept in
    ``OUTPUT.partial`` until all are there: an interrupted run goes on from there when it is repeated, to the same bytes.

    Parameters
    ----------
    estimator : the trained posterior.
    catalog : a table that `sedcast.data.tables.open_table` reads.
    mapping : its columns.
    output : ``.fits`` or ``.parquet``.
    samples : where samples are written; None leaves them out.
    n_samples, seed : samples per galaxy, and their seed.
    refiner : of the same estimator, as in `infer_catalog`; its figures are columns of the summaries.
    rows_per_segment : rows read and written at a time, 16,384 by default (256 with a refiner); the results do not depend on it.
    n_threads : threads without a pool; the number of usable cores by default.
    pool : processes that share the work; they need the catalogue and the output's folder under the same names. The results do
        not depend on it where processors and libraries are alike.
    command : the command that asked for it, for the provenance.
    progress : called as (rows done, rows).

    Returns
    -------
    figures : ``galaxies``, ``inferred``, ``flagged``, ``excluded`` (number of rows by reason), ``resumed`` rows, ``seconds``;
        with a refiner also ``efficiency_median``.

    Raises
    ------
    ArtifactError : if a file cannot be written.
    CatalogError : if the catalogue cannot be read as the mapping says.
    ConfigError : if another run writes this output, or an interrupted run of something else is in its place.
    MissingDependencyError : for Parquet without pyarrow.
    ParameterError : if a number is not positive, or the output's kind is unknown.
    """
    started, output, table = time.perf_counter(), Path(output), open_table(catalog)
    rows_per_segment = (
        (ROWS_PER_SEGMENT if refiner is None else _REFINED_ROWS) if rows_per_segment is None else rows_per_segment
    )
    _check(output, samples, n_samples, seed, rows_per_segment)
    manifest = _manifest(estimator, Path(catalog), mapping, n_samples, seed, rows_per_segment, samples, refiner)
    n_threads = 1 if pool is not None else n_threads
    n_segments = -(-table.n_rows // rows_per_segment)
    try:
        with open_segments(output, manifest) as segments:
            absent = segments.absent(n_segments)
            job = _Job(estimator, table, mapping, segments, rows_per_segment, n_samples, seed, samples, n_threads, refiner)
            resumed = table.n_rows - sum(len(job.rows(number)) for number in absent)
            _fill(job, absent, pool, resumed, progress)
            segments.count()
            artifacts = {"estimator": manifest["estimator"]["sha256"]}
            header = provenance(config=manifest, artifacts=artifacts, command=command)
            header |= {name: manifest[name] for name in ("estimator", "n_samples", "seed")}
            dtypes = _dtypes(segments)
            if samples is not None:
                _join_samples(segments, samples[0], dtypes, header)
            figures = _join_summaries(segments, output, dtypes, header)
            segments.discard()
    except (OSError, RuntimeError) as error:
        # HDF5 raises RuntimeError where a file cannot be written when it is closed.
        if isinstance(error, RuntimeError) and "errno = " not in str(error):
            raise
        full = getattr(error, "errno", None) in FULL or "errno = 28" in str(error)
        raise ArtifactError(
            f"{output} cannot be written: {'the disk is full' if full else error}. "
            f"Finished rows are kept in {partial_folder(output)}: repeat the command to go on"
        ) from error
    return figures | {"resumed": resumed, "seconds": time.perf_counter() - started}


@dataclass(frozen=True)
class _Job:
    """What every segment of an output has in common; goes to each process once."""

    estimator: PosteriorEstimator
    table: TableFile
    mapping: CatalogMapping
    segments: Segments
    rows_per_segment: int
    n_samples: int
    seed: int
    samples: SampleOptions | None
    n_threads: int | None
    refiner: ExactSampler | None

    def rows(self, number: int) -> range:
        """The rows of a segment."""
        start = number * self.rows_per_segment
        return range(start, min(start + self.rows_per_segment, self.table.n_rows))


def _infer_segment(job: _Job, number: int) -> int:
    """Infer the rows of a segment and put it on disk; returns how many they are."""
    rows = job.rows(number)
    catalog = map_rows(job.table, job.mapping, rows.start, rows.stop)

    def write(path: Path) -> None:
        infer_catalog(
            job.estimator,
            catalog,
            path,
            n_samples=job.n_samples,
            seed=job.seed,
            refiner=job.refiner,
            n_threads=job.n_threads,
            first_row=rows.start,
            sample_type=None if job.samples is None else job.samples[1],
            compression=None if job.samples is None else job.samples[2],
        )

    write_segment(job.segments.path(number), number, len(rows), write)
    return len(rows)


def _fill(job: _Job, absent: list[int], pool: TaskPool | None, done: int, progress: Callable[[int, int], None] | None) -> None:
    """Make the absent segments; `done` rows are there."""
    if pool is None:
        made: Iterable[int] = (_infer_segment(job, number) for number in absent)
    else:
        made = (n_rows for _, n_rows in pool.map_unordered(_infer_segment, absent, shared=(job,)))
    for n_rows in made:
        done += n_rows
        if progress is not None:
            progress(done, job.table.n_rows)


def _check(output: Path, samples: SampleOptions | None, n_samples: int, seed: int, rows_per_segment: int) -> None:
    if output.suffix not in _SUFFIXES:
        raise ParameterError(f"output {output} ends in {output.suffix!r}: expected one of {', '.join(_SUFFIXES)} for summaries")
    if n_samples < 1 or rows_per_segment < 1 or seed < 0:
        raise ParameterError(
            f"n_samples={n_samples}, rows_per_segment={rows_per_segment} must be positive, seed={seed} not negative"
        )
    if samples is not None and (samples[1] not in ("float16", "float32") or samples[2] not in (None, "gzip", "lzf")):
        raise ParameterError(f"samples as {samples[1:]}: expected float16 or float32, and no compression, gzip or lzf")
    if output.suffix == ".parquet":
        _parquet()


def _parquet() -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError("Parquet needs pyarrow: install it with 'pip install pyarrow', or write .fits") from error
    return pyarrow, parquet


def _manifest(
    estimator: PosteriorEstimator,
    catalog: Path,
    mapping: CatalogMapping,
    n_samples: int,
    seed: int,
    rows_per_segment: int,
    samples: SampleOptions | None,
    refiner: ExactSampler | None,
) -> dict[str, Any]:
    """All that decides the output; a catalogue is known by its name, size and time, as a digest would mean to read it all."""
    about, card = catalog.stat(), json.dumps(estimator.card, sort_keys=True, default=str)
    return {
        "catalog": {"name": str(catalog.resolve()), "bytes": about.st_size, "modified_ns": about.st_mtime_ns},
        "mapping": mapping.model_dump(mode="json"),
        "estimator": {
            "name": estimator.name,
            "sha256": estimator.card.get("sha256") or hashlib.sha256(card.encode()).hexdigest(),
        },
        "n_samples": n_samples,
        "seed": seed,
        "rows_per_segment": rows_per_segment,
        "samples": None if samples is None else {"path": str(samples[0]), "type": samples[1], "compression": samples[2]},
        "refinement": None if refiner is None else refiner.settings(),
    }


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    found: list[tuple[str, h5py.Dataset]] = []
    file.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
    return iter(found)


def _dtypes(segments: Segments) -> dict[str, np.dtype]:
    """The type of each dataset that holds those of all segments: texts are of different widths."""
    widest: dict[str, np.dtype] = {}
    for path in segments.paths:
        with h5py.File(path, "r") as file:
            for name, item in _datasets(file):
                widest[name] = max(item.dtype, widest.get(name, item.dtype), key=lambda dtype: dtype.itemsize)
    return widest


def _join_samples(segments: Segments, path: Path, dtypes: dict[str, np.dtype], header: dict[str, Any]) -> None:
    start = 0
    with atomic_path(path) as temporary, segments.joined_file(temporary) as joined:
        for segment in segments.paths:
            with h5py.File(segment, "r") as file:
                for name, item in _datasets(file):
                    if name not in joined:
                        shape = (segments.n_rows, *item.shape[1:])
                        chunks = item.chunks if item.chunks is None or item.chunks[0] <= shape[0] else None
                        joined.create_dataset(name, shape, dtypes[name], chunks=chunks, compression=item.compression)
                    joined[name][start : start + len(item)] = item[:]
                if start == 0:
                    joined.attrs.update({name: file.attrs[name] for name in ("format", "bands")})
                    joined["summary"].attrs["percentiles"] = PERCENTILES
                start += len(file["id"])
        for name in joined["samples"]:
            # The same data under a second name, not a copy.
            joined[DATA_MODEL_NAMES.get(name, name) if name != "zred" else "zred_inferred"] = joined[f"samples/{name}"]
        joined.attrs["provenance"] = json.dumps(header)


def _summary(file: h5py.File, dtypes: dict[str, np.dtype]) -> np.ndarray:
    """The summaries of a segment, as rows of one type for all segments."""
    columns = {name: file[name][:].astype(dtypes[name]) for name in ("id", "zred", "status", "flags", "score")}
    order = {name: place for place, name in enumerate(QUANTITY_NAMES)}
    for name in sorted(file["summary"], key=lambda name: order.get(name, len(order))):
        values = file["summary"][name][:]
        columns |= {f"{name}_p{percentile:g}": values[:, column] for column, percentile in enumerate(PERCENTILES)}
    for name, item in file.get("refinement", {}).items():
        columns[name] = item[:].astype(dtypes[f"refinement/{name}"])
    rows = np.empty(len(file["id"]), dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows


def _join_summaries(segments: Segments, output: Path, dtypes: dict[str, np.dtype], header: dict[str, Any]) -> dict[str, Any]:
    flagged, reasons = Counter[str](), Counter[str]()
    efficiencies: list[np.ndarray] = []

    def rows() -> Iterator[np.ndarray]:
        for path in segments.paths:
            with h5py.File(path, "r") as file:
                run = _summary(file, dtypes)
            flagged.update(np.char.decode(run["flags"], "utf-8").tolist())
            reasons.update(count_reasons(np.char.decode(run["status"], "utf-8")))
            if "efficiency" in (run.dtype.names or ()):
                efficiencies.append(run["efficiency"][np.isfinite(run["efficiency"])].astype(np.float32))
            yield run

    with atomic_path(output) as temporary:
        write = _write_parquet if output.suffix == ".parquet" else _write_fits
        write(temporary, rows(), segments.n_rows, header)
    inferred = reasons.pop("", 0)
    warn_of_flags(inferred, flagged)
    excluded = dict(reasons.most_common())
    figures = {
        "galaxies": segments.n_rows,
        "inferred": inferred,
        "flagged": flagged.total() - flagged[""],
        "excluded": excluded,
    }
    if efficiencies:
        figures["efficiency_median"] = float(np.median(np.concatenate(efficiencies)))
    return figures


def _write_fits(path: Path, runs: Iterator[np.ndarray], n_rows: int, header: dict[str, Any]) -> None:
    """A binary table written run by run: astropy would hold it whole."""
    written = 0
    with path.open("wb") as handle:
        for run in runs:
            if not written:
                cards = fits.BinTableHDU(run[:0], name="POSTERIORS").header
                cards["NAXIS2"] = n_rows
                cards["HISTORY"] = json.dumps(header)
                handle.write(fits.PrimaryHDU().header.tostring().encode("ascii") + cards.tostring().encode("ascii"))
            kept = [(name, run.dtype[name].newbyteorder(">")) for name in run.dtype.names or ()]
            written += handle.write(run.astype(kept).tobytes())
        handle.write(b"\0" * (-written % _FITS_BLOCK))


def _write_parquet(path: Path, runs: Iterator[np.ndarray], _: int, header: dict[str, Any]) -> None:
    pyarrow, parquet = _parquet()
    writer = None
    try:
        for run in runs:
            columns = {
                name: np.char.decode(run[name], "utf-8") if run.dtype[name].kind == "S" else np.ascontiguousarray(run[name])
                for name in run.dtype.names or ()
            }
            table = pyarrow.table(columns).replace_schema_metadata({"sedcast": json.dumps(header)})
            writer = writer or parquet.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
