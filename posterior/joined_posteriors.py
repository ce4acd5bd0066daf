"""Segments of a catalogue's posteriors, joined to one file of samples and one of summaries."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.io import fits

from sedcast.data.artifacts import atomic_path
from sedcast.data.errors import MissingDependencyError
from sedcast.emulator.segments import Segments
from sedcast.posterior.infer import count_reasons, warn_of_excluded, warn_of_flags
from sedcast.posterior.posterior_catalog import PERCENTILES, QUANTITY_NAMES, WEIGHT_NAMES
from sedcast.posterior.quantities import column_unit, description

__all__ = ["DATA_MODEL_NAMES", "dataset_types", "import_parquet", "join_samples", "join_summaries"]

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
_FITS_TYPES = {np.dtype(bool): np.dtype("i1")}
_PERCENTS = {f"{percentile:g}" for percentile in PERCENTILES}


def import_parquet() -> Any:
    """The modules ``pyarrow`` and ``pyarrow.parquet``; a MissingDependencyError where they are not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError("Parquet needs pyarrow: install it with 'pip install pyarrow', or write .fits") from error
    return pyarrow, parquet


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    found: list[tuple[str, h5py.Dataset]] = []
    file.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
    return iter(found)


def dataset_types(segments: Segments) -> dict[str, np.dtype]:
    """The type of each dataset that holds those of all segments: texts are of different widths."""
    widest: dict[str, np.dtype] = {}
    for path in segments.paths:
        with h5py.File(path, "r") as file:
            for name, item in _datasets(file):
                widest[name] = max(item.dtype, widest.get(name, item.dtype), key=lambda dtype: dtype.itemsize)
    return widest


def join_samples(segments: Segments, path: Path, dtypes: dict[str, np.dtype], header: dict[str, Any]) -> None:
    """Write the samples of all segments to one HDF5 file, the layout that `infer_catalog` writes.

    Parameters
    ----------
    segments : all of them, complete.
    path : of the file to write.
    dtypes : of the datasets, by `dataset_types`.
    header : the provenance.
    """
    start = 0
    with atomic_path(path) as temporary, segments.joined_file(temporary) as joined:
        for segment in segments.paths:
            with h5py.File(segment, "r") as file:
                for name, item in _datasets(file):
                    if name not in joined:
                        shape = (segments.n_rows, *item.shape[1:])
                        chunks = item.chunks if item.chunks is None or item.chunks[0] <= shape[0] else None
                        joined.create_dataset(name, shape, dtypes[name], chunks=chunks, compression=item.compression)
                        joined[name].attrs.update(item.attrs)
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
    # Told by a column of its own, for empty texts come back masked from some readers of tables.
    columns["good"] = (columns["status"] == b"") & (columns["flags"] == b"")
    order = {name: place for place, name in enumerate(QUANTITY_NAMES)}
    for name in sorted(file["summary"], key=lambda name: order.get(name, len(order))):
        values = file["summary"][name][:]
        columns |= {f"{name}_p{percentile:g}": values[:, column] for column, percentile in enumerate(PERCENTILES)}
    columns |= {name: file[name][:] for name in WEIGHT_NAMES if name in file}
    for name, item in file.get("refinement", {}).items():
        columns[name] = item[:].astype(dtypes[f"refinement/{name}"])
    rows = np.empty(len(file["id"]), dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows


def join_summaries(segments: Segments, output: Path, dtypes: dict[str, np.dtype], header: dict[str, Any]) -> dict[str, Any]:
    """Write the summaries of all segments to one table, FITS or Parquet by the output's name, and count what they say.

    Parameters
    ----------
    segments : all of them, complete.
    output : the file to write.
    dtypes : of the datasets, by `dataset_types`.
    header : the provenance.

    Returns
    -------
    figures : ``galaxies``, ``inferred``, ``flagged``, ``excluded`` (rows by reason); if known, ``efficiency_median``.
    """
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
    warn_of_excluded(inferred, reasons)
    warn_of_flags(inferred, flagged)
    excluded = dict(reasons.most_common())
    figures = {
        "galaxies": segments.n_rows,
        "inferred": inferred,
        "flagged": flagged.total() - flagged[""],
        "excluded": excluded,
    }
    if any(len(some) for some in efficiencies):
        figures["efficiency_median"] = float(np.median(np.concatenate(efficiencies)))
    return figures


def _write_fits(path: Path, runs: Iterator[np.ndarray], n_rows: int, header: dict[str, Any]) -> None:
    """A binary table written run by run: astropy would hold it whole."""
    written = 0
    with path.open("wb") as handle:
        for run in runs:
            fields = {name: run.dtype[name] for name in run.dtype.names or ()}
            if not written:
                cards = fits.BinTableHDU(run[:0], name="POSTERIORS").header
                cards["NAXIS2"] = n_rows
                for number, name in enumerate(fields, start=1):
                    quantity, _, percent = name.rpartition("_p")
                    if percent not in _PERCENTS:
                        quantity, percent = name, ""
                    cards[f"TCOMM{number}"] = description(quantity, percent)
                    if unit := column_unit(quantity):
                        cards.set(f"TUNIT{number}", unit, after=f"TFORM{number}")
                cards["HISTORY"] = json.dumps(header)
                handle.write(fits.PrimaryHDU().header.tostring().encode("ascii") + cards.tostring().encode("ascii"))
            packed = run.astype([(name, _FITS_TYPES.get(kind, kind.newbyteorder(">"))) for name, kind in fields.items()])
            for name in (name for name, kind in fields.items() if kind in _FITS_TYPES):
                packed[name] = np.where(run[name], ord("T"), ord("F"))
            written += handle.write(packed.tobytes())
        handle.write(b"\0" * (-written % _FITS_BLOCK))


def _write_parquet(path: Path, runs: Iterator[np.ndarray], _: int, header: dict[str, Any]) -> None:
    pyarrow, parquet = import_parquet()
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
