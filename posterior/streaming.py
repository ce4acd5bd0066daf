"""From a catalogue of any length to a table of summaries, and a file of samples: a run of rows at a time, resumable.

Each run of rows is a task of its own, which reads its rows and writes them to a segment: here, in the threads of this process,
or in the processes of a `TaskPool`, which then need the same files (a shared file system).
"""

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sedcast.data.artifacts import FULL, atomic_path, error_number, output_path, software_versions
from sedcast.data.catalog import Catalog
from sedcast.data.checks import check_kind, whole_number
from sedcast.data.errors import ArtifactError, CatalogError, ConfigError, ParameterError
from sedcast.data.executors import TaskPool
from sedcast.data.invocation import describe_file
from sedcast.data.mapping import CatalogMapping, map_rows
from sedcast.data.provenance import provenance, read_provenance
from sedcast.data.tables import open_table
from sedcast.emulator.segments import Segments, array_digest, open_segments, partial_folder, write_segment
from sedcast.posterior.conditional_flow import check_threads
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import ExactSampler
from sedcast.posterior.infer import check_output, check_sample_type, infer_catalog, quantity_names, zero_point_figures
from sedcast.posterior.joined_posteriors import dataset_types, join_samples, join_summaries
from sedcast.posterior.outlier_training import OutlierScorer, warn_of_limits
from sedcast.posterior.resampling import SAMPLES_VERSION
from sedcast.posterior.summary_tables import check_table

__all__ = ["ROWS_PER_SEGMENT", "SampleOptions", "infer_file"]

ROWS_PER_SEGMENT, _REFINED_ROWS = 16_384, 64

# Of a table of any length; for zero points.
_ROWS_LOOKED_AT = 4_096

SampleOptions = tuple[Path, Literal["float16", "float32"], Literal["gzip", "lzf"] | None]
"""Where samples are written, their type, their compression."""


def infer_file(
    estimator: PosteriorEstimator,
    catalog: str | Path | Catalog,
    mapping: CatalogMapping | None,
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
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write summaries of the posterior of every row of a catalogue, and its samples if they are wanted.

    Every input row is there, in order. Columns of the summaries: ``id``, ``zred``, ``status``, ``flags``, ``score`` and
    ``<name>_p2_5`` and so on, as `PosteriorCatalog.summary` has them. The file of samples is one that `read_posteriors` opens;
    its datasets bear the names of the paper's data model too (`DATA_MODEL_NAMES`). Finished segments are kept in
    ``OUTPUT.partial`` until all are there: an interrupted run goes on from there when it is repeated, to the same bytes.

    Parameters
    ----------
    estimator : the trained posterior.
    catalog : a table that `sedcast.data.tables.open_table` reads; or a catalogue in memory, as `read_catalog` has it.
    mapping : the table's columns; None with a catalogue in memory.
    output : ``.fits``, ``.parquet`` or ``.ecsv``.
    samples : where samples are written; None leaves them out.
    n_samples, seed : samples per galaxy, and their seed.
    refiner : of the same estimator, as in `infer_catalog`; its figures are columns of the summaries.
    rows_per_segment : rows read and written at a time, 16,384 by default (64 with a refiner); the results do not depend on it.
    n_threads : threads without a pool; the number of usable cores by default.
    pool : processes that share the work; they need the table and the output's folder under the same names (a catalogue in
        memory is sent to each). The results do not depend on it where processors and libraries are alike.
    command : the command that asked for it, for the provenance.
    overwrite : whether files that are there may be replaced.
    progress : called as (rows done, rows).

    Returns
    -------
    figures : ``galaxies``, ``inferred``, ``flagged``, ``excluded`` (number of rows by reason), ``resumed`` rows, ``seconds``;
        where they are known, ``efficiency_median`` and ``zero_points``, as `infer_catalog`, of a table by its first rows.

    Raises
    ------
    ArtifactError : if a file cannot be written, or finished rows are deleted meanwhile.
    CatalogError : if the catalogue cannot be read as the mapping says, is empty, lacks a band of the estimator, or changes
        meanwhile.
    ConfigError : if the mapping lacks the redshift that the estimator needs, another run writes this output, or an interrupted
        run of something else is in its place.
    MissingDependencyError : for Parquet without pyarrow.
    ParameterError : if a number is not positive, the output's kind is unknown, a table comes without a mapping or a catalogue
        in memory with one, or an output is the catalogue, or is there already and `overwrite` is not true.
    """
    started, output = time.perf_counter(), output_path(output, overwrite=overwrite)
    check_kind("estimator", estimator, PosteriorEstimator, "such as PosteriorEstimator.default()")
    source = _source(catalog, mapping, estimator)
    if rows_per_segment is None:
        rows_per_segment = ROWS_PER_SEGMENT if refiner is None else _REFINED_ROWS
    n_samples, seed = whole_number("n_samples", n_samples), whole_number("seed", seed, least=0, bits=64)
    rows_per_segment, n_threads = whole_number("rows_per_segment", rows_per_segment), check_threads(n_threads)
    _check(output, samples)
    for path in (output, *([] if samples is None else [samples[0]])):
        if not isinstance(catalog, Catalog) and path.exists() and path.samefile(catalog):
            raise ParameterError(f"{path} is the catalogue itself, and would be overwritten: give another name")
    if samples is not None:
        check_output(samples[0], overwrite=overwrite)
    manifest = _manifest(estimator, source.about, n_samples, seed, rows_per_segment, samples, refiner)
    n_threads = 1 if pool is not None else n_threads
    n_segments = -(-source.n_rows // rows_per_segment)
    try:
        with open_segments(output, manifest) as segments:
            absent = segments.absent(n_segments)
            job = _Job(estimator, source, segments, rows_per_segment, n_samples, seed, samples, n_threads, refiner)
            resumed = source.n_rows - sum(len(job.rows(number)) for number in absent)
            scorer = OutlierScorer(estimator)
            if absent:
                warn_of_limits(scorer.limits)
            first = range(min(source.n_rows, _ROWS_LOOKED_AT))
            looked_at = catalog if isinstance(catalog, Catalog) else source.rows(first)
            try:
                _fill(job, absent, pool, resumed, progress)
            except CatalogError:
                # A file that was written anew can rarely be read from the middle on.
                _check_unchanged(catalog, source, segments)
                raise
            _check_unchanged(catalog, source, segments)
            figures = _join(job, output, manifest, command)
            segments.discard()
        figures |= zero_point_figures(scorer, looked_at, seed)
    except (OSError, RuntimeError) as error:
        # HDF5 raises RuntimeError where a file cannot be written when it is closed.
        if (number := error_number(error)) is None and isinstance(error, RuntimeError):
            raise
        kept = partial_folder(output)
        raise ArtifactError(
            f"{output} cannot be written: {'the disk is full' if number in FULL else error}. "
            + (f"Finished rows are kept in {kept}" if kept.is_dir() else f"{kept}, where finished rows were, is gone")
            + ": repeat the command to go on"
        ) from error
    return figures | {"resumed": resumed, "seconds": time.perf_counter() - started}


def mapping_for(mapping: CatalogMapping, estimator: PosteriorEstimator) -> CatalogMapping:
    """The mapping of the bands that an estimator has; of all, if it has none of them or needs others, which it will say.

    Raises
    ------
    ConfigError : if the mapping lacks the redshift that the estimator needs.
    """
    if mapping.redshift is None and not estimator.infers_redshift:
        raise ConfigError(
            f"the mapping names no redshift, which {estimator.name!r} needs: add redshift = 'its column' (to edit a bundled "
            "mapping: sedcast init mapping --like its name); or let 'sedcast infer' find it with a posterior that infers it, "
            "such as the bundled sdss-photoz"
        )
    shared = [band for band in mapping.bands if band in estimator.bands]
    if not shared or (len(shared) < len(estimator.bands) and not estimator.context.mask):
        return mapping
    return mapping.only(shared)


@dataclass(frozen=True)
class _Source:
    """Where rows come from.

    Attributes
    ----------
    n_rows : how many there are.
    read : those from one to before another.
    about : the entries of the manifest by which they are known.
    path : the file, if it is one, and `modified_ns` its time.
    """

    n_rows: int
    read: Callable[[int, int], Catalog]
    about: dict[str, Any]
    path: Path | None = None
    modified_ns: int = 0

    def rows(self, rows: range) -> Catalog:
        """The same as `read`, of a file that is still what it was.

        Raises
        ------
        CatalogError : if it is another by now.
        """
        if self.path is None:
            return self.read(rows.start, rows.stop)
        # A file may be touched, or copied anew, while it is read.
        for _ in range(2):
            now = _modified_ns(self.path)
            catalog = self.read(rows.start, rows.stop)
            if _modified_ns(self.path) != now:
                continue
            if now == self.modified_ns or _known_at(self.path, now) == self.about["catalog"]:
                return catalog
        raise _changed(self.path)


def _source(catalog: str | Path | Catalog, mapping: CatalogMapping | None, estimator: PosteriorEstimator) -> _Source:
    if isinstance(catalog, Catalog):
        if mapping is not None:
            raise ParameterError("mapping is that of a table's columns, and the catalogue is in memory: give mapping=None")
        if len(catalog) == 0:
            raise CatalogError("the catalogue has no rows: nothing to infer")
        ids = catalog.ids if catalog.ids.dtype.kind in "iu" else catalog.ids.astype(str)
        digest = array_digest(ids, catalog.flux, catalog.flux_ivar, catalog.zred, catalog.status)
        about = {"catalog": {"rows": len(catalog), "bands": list(catalog.bands), "sha256": digest}, "mapping": None}
        return _Source(len(catalog), functools.partial(_rows_of, catalog), about)
    if mapping is None:
        raise ParameterError(f"mapping is None, expected that of {catalog}'s columns; or give read_catalog({str(catalog)!r})")
    used = mapping_for(mapping, estimator)
    path, modified_ns = Path(catalog).absolute(), _modified_ns(Path(catalog))
    table = open_table(catalog, mapping.hdu)
    about = {"catalog": _known(catalog), "mapping": mapping.model_dump(mode="json")}
    return _Source(table.n_rows, functools.partial(map_rows, table, used), about, path, modified_ns)


def _check_unchanged(catalog: str | Path | Catalog, source: _Source, segments: Segments) -> None:
    """Discard what was made of a file that is another by now, and say so."""
    if isinstance(catalog, Catalog):
        return
    if _known(catalog) != source.about["catalog"]:
        segments.discard()
        raise _changed(catalog)


def _changed(catalog: str | Path) -> CatalogError:
    return CatalogError(f"{catalog} changed while it was being inferred: repeat the command when it is complete")


def _modified_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def _known(table: str | Path) -> dict[str, Any]:
    """What tells a table from others: its contents, for an edited one may have the size and the time of the former."""
    try:
        described = describe_file(Path(table))
    except OSError as error:
        raise CatalogError(f"{table} cannot be read any more ({error.strerror}): put it back and repeat the command") from error
    return {"name": str(Path(table).resolve())} | {name: value for name, value in described.items() if name != "text"}


@functools.lru_cache(maxsize=1)
def _known_at(path: Path, _: int) -> dict[str, Any]:
    # A large file takes seconds: it is looked at as a whole once for each time that it bears, not for every segment.
    return _known(path)


def _rows_of(catalog: Catalog, start: int, stop: int) -> Catalog:
    return catalog.subset(slice(start, stop))


@dataclass(frozen=True)
class _Job:
    """What every segment of an output has in common; goes to each process once."""

    estimator: PosteriorEstimator
    source: _Source
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
        return range(start, min(start + self.rows_per_segment, self.source.n_rows))


def _infer_segment(job: _Job, number: int, progress: Callable[[int, int], None] | None = None) -> int:
    """Infer the rows of a segment and put it on disk; returns how many they are, and tells `progress` of those done."""
    rows = job.rows(number)
    catalog = job.source.rows(rows)

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
            overwrite=True,
            progress=progress,
        )

    write_segment(job.segments.path(number), number, len(rows), write)
    return len(rows)


def _fill(job: _Job, absent: list[int], pool: TaskPool | None, done: int, progress: Callable[[int, int], None] | None) -> None:
    """Make the absent segments; `done` rows are there."""

    def report(more: int, _: int) -> None:
        if progress is not None:
            progress(done + more, job.source.n_rows)

    if pool is None:
        for number in absent:
            done += _infer_segment(job, number, report)
    else:
        for _, n_rows in pool.map_unordered(_infer_segment, absent, shared=(job,)):
            done += n_rows
            report(0, n_rows)


def _join(job: _Job, output: Path, manifest: dict[str, Any], command: str) -> dict[str, Any]:
    """Write the outputs from the finished segments; returns the figures of `join_summaries`.

    Raises
    ------
    ArtifactError : if finished rows are deleted meanwhile.
    """
    job.segments.count()
    if job.segments.n_rows != job.source.n_rows:
        raise ArtifactError(
            f"{partial_folder(output)} lost finished rows meanwhile: repeat the command, which makes them again, and "
            "leave that folder alone until it ends"
        )
    header = provenance(config=manifest, artifacts={"estimator": job.estimator.digest}, command=command)
    header |= {name: manifest[name] for name in ("estimator", "n_samples", "seed")}
    header["outlier_limits"] = read_provenance(job.segments.paths[0])["outlier_limits"]
    # No file gets its name before both are whole: what is there already may be in the way of a repeated call.
    with contextlib.ExitStack() as unfinished:
        if job.samples is not None:
            temporary = unfinished.enter_context(atomic_path(job.samples[0]))
            join_samples(job.segments, temporary, dataset_types(job.segments), header)
        return join_summaries(job.segments, output, header)


def _check(output: Path, samples: SampleOptions | None) -> None:
    check_table(output)
    if samples is None:
        return
    if not isinstance(samples, tuple) or len(samples) != 3 or not isinstance(samples[0], Path) or samples[1] is None:
        raise ParameterError(f"samples={samples!r}: expected a Path, a type and a compression: (Path('a.h5'), 'float32', None)")
    check_sample_type(*samples[1:])
    if samples[0].resolve() == output.resolve():
        raise ParameterError(f"{output} is to hold both the summaries and the samples: give two names")


def _manifest(
    estimator: PosteriorEstimator,
    about: dict[str, Any],
    n_samples: int,
    seed: int,
    rows_per_segment: int,
    samples: SampleOptions | None,
    refiner: ExactSampler | None,
) -> dict[str, Any]:
    """All that decides the output; `about` its catalogue."""
    return about | {
        "estimator": {"name": estimator.name, "sha256": estimator.digest},
        "quantities": list(quantity_names(estimator)),
        "n_samples": n_samples,
        "samples_version": SAMPLES_VERSION,
        "seed": seed,
        "rows_per_segment": rows_per_segment,
        "samples": None if samples is None else {"path": str(samples[0]), "type": samples[1], "compression": samples[2]},
        "refinement": None if refiner is None else refiner.settings(),
        "versions": software_versions(),
    }
