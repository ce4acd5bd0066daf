"""From a catalogue to a file of posteriors, streamed."""

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from sedcast.data.artifacts import atomic_path, reserve
from sedcast.data.catalog import Catalog
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.data.outputs import refuse_foreign
from sedcast.data.provenance import provenance
from sedcast.data.threads import one_blas_thread, usable_cores
from sedcast.emulator.histories import DERIVED_NAMES, derived_properties
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import ExactSampler, Refined
from sedcast.posterior.outlier_training import OutlierScorer
from sedcast.posterior.posterior_catalog import (
    FORMAT,
    PERCENTILES,
    REFINEMENT_NAMES,
    WEIGHT_NAMES,
    all_quantity_names,
)
from sedcast.posterior.quantities import description
from sedcast.posterior.resampling import FEW_EFFECTIVE, n_draws
from sedcast.posterior.summary_tables import TABLE_SUFFIXES

__all__ = [
    "AT_EDGE",
    "count_reasons",
    "infer_catalog",
    "joined_flags",
    "quantity_names",
    "redshift_at_edge",
    "warn_of_flags",
]

logger = logging.getLogger(__name__)

AT_EDGE = "redshift at the edge of its prior"
"""Flag of rows whose inferred redshift lies there: the galaxy may well be beyond."""

NOT_FINITE = "no draw of the flow has a posterior: the photometry is far outside the training set"
# By words of a flag, the first that fit; as docs/quantities.md has it.
_ADVICE = {
    AT_EDGE: "the galaxies may be beyond it, and need a model with a wider prior",
    FEW_EFFECTIVE: "make them exact with --refine, if the model is one for known redshifts",
    "importance": "refinement fell short, let MCMC go on from there with --fallback mcmc",
    "MCMC": "look at these galaxies; longer chains may converge",
    "star": "keep to galaxies, which their sizes or spectra tell from stars",
    "bad fit": "the model has no such galaxies (AGN, emission lines, blends), or the unit of the fluxes is wrong",
    "error": "check the unit and the errors of the fluxes, which need the floors of the calibration",
    "": "check the unit of the fluxes, their calibration and extinction",
}
_SAMPLES_PER_BLOCK = 65_536
_ROWS_PER_REFINED_BLOCK = 4
_EDGE_SHARE = 0.02
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
    first_row : number of the first row, if these are part of a longer catalogue, for which `warn_of_flags` is the caller's.
    sample_type : of ``samples``; None leaves them out.
    compression : of ``samples``.
    command : the command that asked for it, for the provenance.
    progress : called as (rows done, rows).

    Returns
    -------
    figures : ``galaxies``, ``inferred``, ``excluded`` (number of rows by reason), ``flagged``, ``seconds``, ``galaxies_per_s``;
        where it is known of a row, also ``efficiency_median``, ``efficiency_p5`` and ``approximate``, the number of rows whose
        samples are; where a refiner refined a row, also ``by_mcmc``.

    Raises
    ------
    CatalogError : if the catalogue is empty, or lacks a band of the estimator.
    ParameterError : if a number is no positive integer, the refiner is another estimator's, or `output` is there and no output
        of sedcast, or has the name of a table (.fits, .parquet, .ecsv).
    """
    if len(catalog) == 0:
        raise CatalogError("the catalogue has no rows: nothing to infer")
    numbers = {"n_samples": n_samples, "rows_per_block": rows_per_block, "n_threads": n_threads}
    wrong = [
        f"{name}={number!r}"
        for name, number in numbers.items()
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1)
    ]
    if wrong or seed < 0:
        expected = "positive and an integer" if wrong else "zero or more"
        raise ParameterError(f"{', '.join(wrong) or f'seed={seed}'}: must be {expected}")
    if refiner is not None and refiner.estimator is not estimator:
        raise ParameterError("refiner holds another estimator than the one given: make it as Refiner(estimator, simulator)")
    if Path(output).suffix in TABLE_SUFFIXES:
        raise ParameterError(
            f"output {output}: this is written as HDF5, expected a name that ends in .h5; `infer_file` writes summaries as "
            f"{', '.join(TABLE_SUFFIXES)}, and so does `PosteriorCatalog.write_summary`"
        )
    refuse_foreign(Path(output))
    started, offset = time.perf_counter(), first_row or 0
    if catalog.bands != estimator.bands or estimator.context.mask or estimator.infers_redshift:
        catalog = estimator.select(catalog)
    status = estimator.status(catalog)
    excluded = status.excluded.astype(object)
    if rows_per_block is None:
        rows_per_block = max(1, _SAMPLES_PER_BLOCK // n_draws(n_samples)) if refiner is None else _ROWS_PER_REFINED_BLOCK
    refined: dict[int, Refined] = {}
    scorer, score, flags = OutlierScorer(estimator), np.full(len(catalog), np.nan), status.flags.astype(object)
    weights = {name: np.full(len(catalog), np.nan) for name in WEIGHT_NAMES}
    starts = range(0, len(catalog), rows_per_block)
    blocks = [start + np.flatnonzero(status.ok[start : start + rows_per_block]) for start in starts]
    done = 0
    # Compressed samples may take any share of their size.
    kept = 0 if sample_type is None or compression is not None else n_samples * np.dtype(sample_type).itemsize

    def work(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        observed = estimator.observed(catalog, rows)
        if refiner is None:
            draws = estimator.draw(*observed, n_samples, seed=seed, row_keys=rows + offset, n_threads=1)
            points, weights["efficiency"][rows], weights["log_evidence"][rows] = draws
        else:
            draws, points = None, np.empty((len(rows), n_samples, len(FREE_PARAMETER_NAMES)))
            for into, row in zip(points, rows.tolist(), strict=True):
                galaxy = catalog.flux[row], catalog.flux_ivar[row], float(catalog.zred[row])
                result = refiner(*galaxy, n_samples, seed=seed, key=row + offset, n_threads=1)
                into[:] = result.theta_unbounded
                refined[row] = replace(result, theta=_NOTHING, theta_unbounded=_NOTHING)
        judged = scorer(*observed, draws, seed=seed, row_keys=rows + offset)
        score[rows] = judged.score
        values = _quantities(estimator, points, observed[2])
        edge = np.full(len(rows), "")
        if estimator.infers_redshift:
            edge = np.where(redshift_at_edge(estimator.zred_range, values[-1]), AT_EDGE, "")
        far = np.full(len(rows), "") if draws is None else draws.flags
        flags[rows] = [joined_flags(reasons) for reasons in zip(judged.flags, status.flags[rows], edge, far, strict=True)]
        return rows, values

    with atomic_path(output) as temporary, _new_file(temporary, len(catalog), kept, len(quantity_names(estimator))) as file:
        datasets = _create(file, catalog, n_samples, quantity_names(estimator), sample_type, compression)
        for rows, values in _in_order(work, blocks, n_threads or usable_cores()):
            finite = np.isfinite(values).all(axis=(0, 2))
            excluded[rows[~finite]] = NOT_FINITE
            values[:, ~finite] = np.nan
            if len(rows):
                _write(datasets, rows, values)
            done = min(done + rows_per_block, len(catalog))
            if progress is not None:
                progress(done, len(catalog))
        reasons = excluded.astype(str)
        refined = {row: result for row, result in refined.items() if not reasons[row]}
        if refiner is not None:
            flags = _write_refinement(file, refined, flags)
            for row, result in refined.items():
                weights["efficiency"][row] = result.efficiency
        else:
            for name, values in weights.items():
                file[name] = np.where(reasons == "", values, np.nan)
        flags = np.where(reasons == "", flags, "").astype(str)
        file["score"] = np.where(reasons == "", score, np.nan)
        file["status"] = np.char.encode(reasons, "utf-8")
        file["flags"] = np.char.encode(flags, "utf-8")
        file.visititems(_describe)
        seconds = time.perf_counter() - started
        figures = _figures(reasons, flags, seconds) | _weight_figures(weights["efficiency"][reasons == ""], flags)
        if refined:
            figures["by_mcmc"] = sum(result.step in ("mcmc", "emcee") for result in refined.values())
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


def _new_file(path: Path, n_rows: int, row_bytes: int, n_quantities: int) -> h5py.File:
    """A new HDF5 file with room on the disk for samples (`row_bytes` of each quantity) and summaries."""
    reserve(path, n_rows * n_quantities * (row_bytes + 4 * len(PERCENTILES)))
    return h5py.File(path, "w")


def count_reasons(reasons: np.ndarray) -> Counter[str]:
    """Rows by the reason in their ``status`` (n,), "" among them; reasons with numbers in them are counted by their words."""
    return Counter("redshift beyond the training range" if r.startswith("redshift ") and "beyond" in r else r for r in reasons)


def warn_of_excluded(inferred: int, excluded: Mapping[str, int]) -> None:
    """Warn if most rows have no posterior, naming the commonest reason; `excluded` are rows by reason."""
    n_rows = inferred + sum(excluded.values())
    if inferred < n_rows / 2:
        commonest = max(excluded, key=lambda reason: excluded[reason])
        logger.warning("%d of %d rows have no posterior, most often for: %s", n_rows - inferred, n_rows, commonest)


def warn_of_flags(inferred: int, rows_by_flags: Counter[str]) -> None:
    """Warn if most posteriors are flagged, naming the commonest reason and what to do about it.

    Parameters
    ----------
    inferred : number of posteriors.
    rows_by_flags : number of rows by their flags, "" among them.
    """
    flagged = rows_by_flags.total() - rows_by_flags[""]
    if flagged <= inferred / 2:
        return
    reasons: Counter[str] = Counter()
    for flags, n_rows in rows_by_flags.items():
        reasons.update({flag: n_rows for flag in flags.split("; ") if flag})
    commonest = reasons.most_common(1)[0][0]
    advice = next(advice for words, advice in _ADVICE.items() if words in commonest)
    logger.warning("%d of %d posteriors are flagged, most often for %r: %s", flagged, inferred, commonest, advice)


def quantity_names(estimator: PosteriorEstimator) -> tuple[str, ...]:
    """The quantities that an estimator gives samples of."""
    return all_quantity_names(surviving=estimator.surviving is not None, zred=estimator.infers_redshift)


def redshift_at_edge(zred_range: tuple[float, float], zred: np.ndarray) -> np.ndarray:
    """(n_rows,) bool: whether most of the samples `zred` (n_rows, n_samples) lie in the first or last 2% of their range."""
    low, high = zred_range
    margin = _EDGE_SHARE * (high - low)
    return np.asarray(np.maximum((zred < low + margin).mean(axis=1), (zred > high - margin).mean(axis=1)) > 0.5)


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


def joined_flags(reasons: tuple[str, ...]) -> str:
    """One row's flags by several tests as one text, each reason once."""
    return "; ".join(dict.fromkeys(reason for part in reasons for reason in part.split("; ") if reason))


def _write_refinement(file: h5py.File, refined: Mapping[int, Refined], flags: np.ndarray) -> np.ndarray:
    """Write the figures of the refined rows, and add their flags (n,) to those given."""
    for name in REFINEMENT_NAMES:
        values = np.full(len(flags), np.nan)
        for row, result in refined.items():
            values[row] = getattr(result, name)
        file[f"refinement/{name}"] = values
    file["refinement/step"] = np.char.encode(
        [refined[row].step if row in refined else "" for row in range(len(flags))], "utf-8"
    )
    both = flags.astype(object)
    for row, result in refined.items():
        both[row] = "; ".join(filter(None, (both[row], result.flag)))
    return both.astype(str)


def _in_order(
    work: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], blocks: list[np.ndarray], n_threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Results of `work` on the blocks in their order, a few blocks ahead of the reader and no more."""
    waiting: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
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


def _create(
    file: h5py.File,
    catalog: Catalog,
    n_samples: int,
    names: tuple[str, ...],
    sample_type: str | None,
    compression: str | None,
) -> list[tuple[h5py.Dataset | None, h5py.Dataset]]:
    ids = catalog.ids if catalog.ids.dtype.kind in "iu" else np.char.encode(catalog.ids.astype(str), "utf-8")
    file["id"] = ids
    for name in ("zred", "flux", "flux_ivar"):
        file[name] = getattr(catalog, name)
    n = len(catalog)
    # Chunks of about 256 kB along galaxies: one galaxy's samples are one read.
    chunk = (min(n, max(1, 65_536 // n_samples)), n_samples)
    datasets = []
    for name in names:
        samples = None
        if sample_type is not None:
            options = {"chunks": chunk, "fillvalue": np.nan, "compression": compression}
            samples = file.create_dataset(f"samples/{name}", (n, n_samples), sample_type, **options)
        summary = file.create_dataset(f"summary/{name}", (n, len(PERCENTILES)), "f4", fillvalue=np.nan)
        datasets.append((samples, summary))
    file["summary"].attrs["percentiles"] = PERCENTILES
    return datasets


def _describe(name: str, item: h5py.Dataset | h5py.Group) -> None:
    if isinstance(item, h5py.Dataset):
        item.attrs["description"] = description(name.rpartition("/")[2])


def _write(datasets: list[tuple[h5py.Dataset | None, h5py.Dataset]], rows: np.ndarray, values: np.ndarray) -> None:
    # h5py writes a slice much faster than a list of rows; rows between are excluded ones and hold NaN anyway.
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    filled = np.full((values.shape[0], span.stop - span.start, values.shape[2]), np.nan, dtype=np.float32)
    filled[:, rows - rows[0]] = values
    for (samples, summary), quantity in zip(datasets, filled, strict=True):
        if samples is not None:
            # HDF5's own rounding to half precision halves values just below 2^-14, where metallicities are.
            samples[span] = quantity.astype(samples.dtype)
        summary[span] = _percentiles(quantity)


def _percentiles(samples: np.ndarray) -> np.ndarray:
    """Percentiles (n, 5) of each row, interpolated linearly as `numpy.percentile` does; NaN rows stay NaN."""
    ordered = np.sort(samples, axis=1)
    position = np.array(PERCENTILES) / 100 * (samples.shape[1] - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, samples.shape[1] - 1)
    return ordered[:, below] + (position - below) * (ordered[:, above] - ordered[:, below])


def _figures(reasons: np.ndarray, flags: np.ndarray, seconds: float) -> dict[str, Any]:
    kinds = count_reasons(reasons)
    inferred = kinds.pop("", 0)
    return {
        "galaxies": len(reasons),
        "inferred": inferred,
        "excluded": dict(kinds.most_common()),
        "flagged": int(np.count_nonzero(flags != "")),
        "seconds": seconds,
        "galaxies_per_s": inferred / max(seconds, 1e-9),
    }


def _weight_figures(efficiency: np.ndarray, flags: np.ndarray) -> dict[str, Any]:
    known = efficiency[np.isfinite(efficiency)]
    if not known.size:
        return {}
    return {
        "efficiency_median": float(np.median(known)),
        "efficiency_p5": float(np.quantile(known, 0.05)),
        "approximate": int(np.count_nonzero(np.char.find(flags, "samples approximate") >= 0)),
    }


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
