"""From a catalogue to a file of posteriors, streamed."""

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sedcast.data.artifacts import atomic_path, output_path
from sedcast.data.catalog import Catalog
from sedcast.data.checks import check_kind, check_memory, whole_number
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.data.provenance import provenance
from sedcast.data.threads import one_blas_thread, usable_cores
from sedcast.emulator.histories import DERIVED_NAMES, derived_properties
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES
from sedcast.posterior.conditional_flow import check_threads
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import ExactSampler, Refined
from sedcast.posterior.outlier_training import OutlierScorer, warn_of_limits
from sedcast.posterior.posterior_catalog import FORMAT, WEIGHT_NAMES, all_quantity_names
from sedcast.posterior.posterior_file import (
    create_datasets,
    describe,
    new_file,
    write_refinement,
    write_rows,
    write_texts,
)
from sedcast.posterior.resampling import n_draws
from sedcast.posterior.row_reasons import (
    AT_EDGE,
    NOT_FINITE,
    joined_flags,
    redshift_at_edge,
    row_figures,
    warn_of_excluded,
    warn_of_flags,
    weight_figures,
)
from sedcast.posterior.summary_tables import TABLE_SUFFIXES
from sedcast.posterior.zero_points import warn_of_offsets, zero_point_offsets

__all__ = ["check_output", "check_sample_type", "infer_catalog", "quantity_names", "zero_point_figures"]

logger = logging.getLogger(__name__)

_SAMPLES_PER_BLOCK = 65_536
_ROWS_PER_REFINED_BLOCK = 4
_NOTHING = np.empty(0)


def infer_catalog(
    estimator: PosteriorEstimator,
    catalog: Catalog,
    output: str | Path,
    *,
    n_samples: int = 1000,
    seed: int = 0,
    refiner: ExactSampler | None = None,
    rows_per_block: int | None = None,
    n_threads: int | None = None,
    first_row: int | None = None,
    sample_type: Literal["float16", "float32"] | None = "float32",
    compression: Literal["gzip", "lzf"] | None = None,
    command: str = "",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the posterior of every row of a catalogue to an HDF5 file.

    Every input row is there, in order. Datasets: ``samples/<name>`` (n, n_samples) and ``summary/<name>`` (n, 5), float32,
    columns `PERCENTILES`, for each of `QUANTITY_NAMES`; ``id``, ``zred``, ``flux``, ``flux_ivar``; ``status``, "" or why the
    row has no posterior; ``score`` (n,), how unusual it is (see `OutlierScores`; NaN if the estimator has no outlier model);
    ``efficiency`` and ``log_evidence`` (n,), see `PosteriorDraws`; ``flags``, "" or why its posterior is not to be trusted:
    unusual at 1% false alarms, an extrapolation, or a flow that is far from the posterior. Samples and
    summaries of a row are NaN if and only if ``status`` says why. With a `refiner`, samples are those of the exact posterior,
    ``refinement/<name>`` (n,) holds `REFINEMENT_NAMES` and ``step`` (see `Refined`), among them the two figures of before, and
    ``flags`` names rows whose samples remain approximate.
    Where the estimator knows the mass that survives, `SURVIVING_NAME` is one of the quantities.
    If the estimator infers the redshift, the catalogue need not have any (the dataset ``zred`` is the catalogue's): ``zred`` is
    the last of the quantities, derived properties are those at each sample's redshift, and `AT_EDGE` is one of the flags.
    Attributes: ``format``, ``bands``, ``provenance`` (JSON). The file appears when it is complete. A row's samples depend on
    `seed`, its number in the catalogue and its data, not on blocks or threads.

    Parameters
    ----------
    estimator : the trained posterior.
    catalog : with at least the estimator's bands.
    output : path of the file to write.
    n_samples : samples per galaxy.
    seed : of the samples.
    refiner : of the same estimator, to make each row's samples exact; None writes those of `PosteriorEstimator.draw`.
    rows_per_block : rows worked on at a time; by default about 65,000 samples' worth, few with a refiner.
    n_threads : the number of usable cores by default.
    first_row : number of the first row, if these are part of a longer catalogue, of which to warn is the caller's.
    sample_type : of ``samples``; None leaves them out.
    compression : of ``samples``.
    command : the command that asked for it, for the provenance.
    overwrite : whether files that are there may be replaced.
    progress : called as (rows done, rows).

    Returns
    -------
    figures : ``galaxies``, ``inferred``, ``excluded`` (number of rows by reason), ``flagged``, ``seconds``, ``galaxies_per_s``;
        where it is known of a row, also ``efficiency_median``, ``efficiency_p5`` and ``approximate``, the number of rows whose
        samples are; where a refiner refined a row, also ``by_mcmc``; of 50 galaxies or more ``zero_points``, by band, as
        `ZeroPointOffsets.to_json_dict` has them.

    Raises
    ------
    CatalogError : if the catalogue is empty, or lacks a band of the estimator.
    ParameterError : if a number is no positive integer, the refiner is another estimator's, or `output` is there already and
        `overwrite` is not true, or has the name of a table (.fits, .parquet, .ecsv).
    """
    check_kind("estimator", estimator, PosteriorEstimator, "such as PosteriorEstimator.default()")
    check_kind("catalog", catalog, Catalog, "read_catalog makes one, of a file or a Table")
    if len(catalog) == 0:
        raise CatalogError("the catalogue has no rows: nothing to infer")
    n_samples, seed = whole_number("n_samples", n_samples), whole_number("seed", seed, least=0, bits=64)
    n_threads = check_threads(n_threads)
    if rows_per_block is not None:
        rows_per_block = whole_number("rows_per_block", rows_per_block)
    if first_row is not None:
        first_row = whole_number("first_row", first_row, least=0)
    check_sample_type(sample_type, compression)
    if refiner is not None and getattr(refiner, "estimator", None) is not estimator:
        raise ParameterError("refiner holds another estimator than the one given: make it as Refiner(estimator, simulator)")
    # Those of one row at least are in memory at once, as draws and as quantities.
    held = n_draws(n_samples) * len(estimator.free_names) + n_samples * len(quantity_names(estimator))
    check_memory(f"{n_samples:,} samples of a galaxy", held)
    output = check_output(output, overwrite=overwrite)
    started, n_rows = time.perf_counter(), len(catalog)
    if catalog.bands != estimator.bands or estimator.context.mask or estimator.infers_redshift:
        catalog = estimator.select(catalog)
    status, scorer = estimator.status(catalog), OutlierScorer(estimator)
    if first_row is None:
        warn_of_limits(scorer.limits)
    part = _Rows(estimator, catalog, status.flags, scorer, refiner, n_samples, seed, first_row or 0)
    if rows_per_block is None:
        rows_per_block = max(1, _SAMPLES_PER_BLOCK // n_draws(n_samples)) if refiner is None else _ROWS_PER_REFINED_BLOCK
    starts = range(0, n_rows, rows_per_block)
    blocks = [start + np.flatnonzero(status.ok[start : start + rows_per_block]) for start in starts]
    excluded, flags = status.excluded.astype(object), np.full(n_rows, "", dtype=object)
    figures_of = {name: np.full(n_rows, np.nan) for name in ("score", *WEIGHT_NAMES)}
    refined: dict[int, Refined] = {}
    names = quantity_names(estimator)
    form = n_samples, names, sample_type, compression
    with atomic_path(output) as temporary, new_file(temporary, catalog, *form) as file:
        datasets = create_datasets(file, catalog, *form)
        inferred = _in_order(part.infer, blocks, n_threads or usable_cores())
        for start, (rows, values, found, raised, steps) in zip(starts, inferred, strict=True):
            finite = np.isfinite(values).all(axis=(0, 2))
            excluded[rows[~finite]], values[:, ~finite] = NOT_FINITE, np.nan
            if len(rows):
                write_rows(file, datasets, rows, values)
            flags[rows[finite]] = raised[finite]
            for name, numbers_found in found.items():
                figures_of[name][rows[finite]] = numbers_found[finite]
            refined |= {row: steps[row] for row in rows[finite].tolist() if row in steps}
            if progress is not None:
                progress(min(start + rows_per_block, n_rows), n_rows)
        reasons = excluded.astype(str)
        if refiner is not None:
            flags = write_refinement(file, refined, flags)
        for name, values in figures_of.items():
            if refiner is None or name not in WEIGHT_NAMES:
                file[name] = values
        flags = flags.astype(str)
        write_texts(file, reasons, flags)
        file.visititems(describe)
        seconds = time.perf_counter() - started
        figures = row_figures(reasons, flags, seconds) | weight_figures(figures_of["efficiency"], flags)
        if refined:
            figures["by_mcmc"] = sum(result.step in ("mcmc", "emcee") for result in refined.values())
        if first_row is None:
            figures |= zero_point_figures(scorer, catalog, seed)
        file.attrs["format"] = FORMAT
        file.attrs["bands"] = list(catalog.bands)
        header = _provenance(estimator, n_samples, seed, command) | {"figures": figures, "outlier_limits": scorer.limits}
        if refiner is not None:
            header["refinement"] = refiner.settings()
        file.attrs["provenance"] = json.dumps(header)
    if first_row is None:
        warn_of_excluded(figures["inferred"], figures["excluded"])
        warn_of_flags(figures["inferred"], Counter(flags.tolist()))
    logger.info("%s: posteriors of %d of %d galaxies", output, figures["inferred"], figures["galaxies"])
    return figures


def zero_point_figures(scorer: OutlierScorer, catalog: Catalog, seed: int) -> dict[str, Any]:
    """``zero_points`` of a catalogue that was inferred, with a warning of one that is off; {} where nothing is known."""
    if scorer.simulator is None:
        return {}
    offsets = zero_point_offsets(scorer.estimator, scorer.simulator, catalog, seed=seed)
    warn_of_offsets(offsets)
    known = offsets.to_json_dict()
    return {"zero_points": known} if known else {}


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """The path of a file of posteriors that is to be written.

    Raises
    ------
    ParameterError : as `output_path`, or if it has the name of a table.
    """
    path = output_path(path, overwrite=overwrite)
    if path.suffix in TABLE_SUFFIXES:
        raise ParameterError(
            f"output {path}: this is written as HDF5, expected a name that ends in .h5; `infer_file` writes summaries as "
            f"{', '.join(TABLE_SUFFIXES)}, and so does `PosteriorCatalog.write_summary`"
        )
    return path


def check_sample_type(sample_type: str | None, compression: str | None) -> None:
    """Refuse a type or a compression of samples that files of posteriors do not have."""
    if sample_type not in (None, "float16", "float32") or compression not in (None, "gzip", "lzf"):
        raise ParameterError(
            f"sample_type={sample_type!r}, compression={compression!r}: expected 'float16', 'float32' or None (no samples), "
            "and 'gzip', 'lzf' or None"
        )


class _Inferred(NamedTuple):
    """What was inferred of rows (n,) of a catalogue.

    Attributes
    ----------
    rows : their numbers.
    values : (n_quantity, n, n_samples), NaN of a row without samples.
    found : ``score``, and the `WEIGHT_NAMES` where they are known, (n,) each.
    flags : (n,) but for those of refinement.
    refined : by row, without its samples.
    """

    rows: np.ndarray
    values: np.ndarray
    found: dict[str, np.ndarray]
    flags: np.ndarray
    refined: dict[int, Refined]


@dataclass(frozen=True)
class _Rows:
    """The inference of any rows of a catalogue, which depends on no others; arguments are those of `infer_catalog`.

    `flags` (n_rows,) are those of the rows' status.
    """

    estimator: PosteriorEstimator
    catalog: Catalog
    flags: np.ndarray
    scorer: OutlierScorer
    refiner: ExactSampler | None
    n_samples: int
    seed: int
    first_row: int

    def infer(self, rows: np.ndarray) -> _Inferred:
        """What is inferred of rows (n,) that have a posterior."""
        observed, keys = self.estimator.observed(self.catalog, rows), rows + self.first_row
        found: dict[str, np.ndarray] = {}
        refined: dict[int, Refined] = {}
        if self.refiner is None:
            draws = self.estimator.draw(*observed, self.n_samples, seed=self.seed, row_keys=keys, n_threads=1)
            points, far = draws.points, draws.flags
            found |= {name: getattr(draws, name) for name in WEIGHT_NAMES}
        else:
            draws, far = None, np.full(len(rows), "")
            points = np.empty((len(rows), self.n_samples, len(FREE_PARAMETER_NAMES)))
            for into, row in zip(points, rows.tolist(), strict=True):
                galaxy = self.catalog.flux[row], self.catalog.flux_ivar[row], float(self.catalog.zred[row])
                result = self.refiner(*galaxy, self.n_samples, seed=self.seed, key=row + self.first_row, n_threads=1)
                into[:] = result.theta_unbounded
                refined[row] = replace(result, theta=_NOTHING, theta_unbounded=_NOTHING)
            found["efficiency"] = np.array([refined[row].efficiency for row in rows.tolist()], dtype=float)
        judged = self.scorer(*observed, draws, seed=self.seed, row_keys=keys)
        values = _quantities(self.estimator, points, observed[2])
        edge = np.full(len(rows), "")
        if self.estimator.infers_redshift:
            edge = np.where(redshift_at_edge(self.estimator.zred_range, values[-1]), AT_EDGE, "")
        reasons = zip(judged.flags, self.flags[rows], edge, far, strict=True)
        flags = np.array([joined_flags(each) for each in reasons], dtype=object)
        return _Inferred(rows, values, found | {"score": judged.score}, flags, refined)


def quantity_names(estimator: PosteriorEstimator) -> tuple[str, ...]:
    """The quantities that an estimator gives samples of."""
    return all_quantity_names(surviving=estimator.surviving is not None, zred=estimator.infers_redshift)


def _quantities(estimator: PosteriorEstimator, points: np.ndarray, zred: np.ndarray | None) -> np.ndarray:
    """All quantities, (n_quantity, n_rows, n_samples) float32, of points (n_rows, n_samples, dim); NaN rows stay NaN."""
    n_rows, n_samples = points.shape[:2]
    names = quantity_names(estimator)
    values = np.full((len(names), n_rows, n_samples), np.nan, dtype=np.float32)
    finite = np.isfinite(points).all(axis=(1, 2))
    theta = estimator.to_theta(points[finite], n_threads=1)
    flat = theta.reshape(-1, theta.shape[-1])
    redshifts = estimator.redshifts(points[finite], None if zred is None else zred[finite])
    if estimator.infers_redshift:
        values[-1, finite] = redshifts
    derived = derived_properties(flat, redshifts.ravel(), estimator.bases, estimator.cosmology, surviving=estimator.surviving)
    values[: len(PARAMETER_NAMES), finite] = np.moveaxis(theta, 2, 0)
    for row, name in enumerate(derived, start=len(PARAMETER_NAMES)):
        values[row, finite] = derived[name].reshape(-1, n_samples)
    return values


def _in_order(work: Callable[[np.ndarray], _Inferred], blocks: list[np.ndarray], n_threads: int) -> Iterator[_Inferred]:
    """Results of `work` on the blocks in their order, a few blocks ahead of the reader and no more."""
    waiting: deque[Future[_Inferred]] = deque()
    with one_blas_thread(), ThreadPoolExecutor(n_threads) as pool:
        try:
            for block in blocks:
                waiting.append(pool.submit(work, block))
                if len(waiting) > n_threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _provenance(estimator: PosteriorEstimator, n_samples: int, seed: int, command: str) -> dict[str, Any]:
    decided = {"seed": seed, "n_samples": n_samples}
    return provenance(config=decided, artifacts={"estimator": estimator.digest}, command=command) | {
        "estimator": {"name": estimator.name, "sha256": estimator.digest},
        "prior": estimator.prior.to_dict(),
        "cosmology": estimator.cosmology.name,
        "bases": estimator.bases.name,
        "seed": seed,
        "n_samples": n_samples,
        "parameter_names": list(PARAMETER_NAMES),
        "derived_names": list(DERIVED_NAMES),
        "redshift_prior": None if estimator.redshift_prior is None else estimator.redshift_prior.model_dump(mode="json"),
    }
