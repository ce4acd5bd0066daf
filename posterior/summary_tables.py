"""Tables of summaries, one row a galaxy, with units, descriptions and provenance: FITS, Parquet or ECSV, written run by run."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.table.meta import get_yaml_from_table

from sedcast.data.artifacts import atomic_path
from sedcast.data.errors import MissingDependencyError, ParameterError
from sedcast.data.hdf5 import read_whole
from sedcast.posterior.posterior_catalog import PERCENTILES, WEIGHT_NAMES, all_quantity_names
from sedcast.posterior.quantities import column_unit, description, percentile_column

__all__ = ["TABLE_SUFFIXES", "check_table", "summary_rows", "write_table"]

_FITS_BLOCK = 2880
_FITS_TYPES = {np.dtype(bool): np.dtype("i1")}
_SPECIAL = re.compile(r"[#,\"\r\n]")
_PERCENTILES_OF = {
    percentile_column(name, percentile): (name, f"{percentile:g}")
    for name in all_quantity_names(surviving=True, zred=True)
    for percentile in PERCENTILES
}


def check_table(path: Path) -> None:
    """Refuse, before the work, a table that could not be written.

    Raises
    ------
    MissingDependencyError : for Parquet without pyarrow.
    ParameterError : if the kind of file is unknown.
    """
    if path.suffix not in _WRITERS:
        raise ParameterError(f"output {path} ends in {path.suffix!r}: expected one of {', '.join(_WRITERS)} for summaries")
    if path.suffix == ".parquet":
        _import_parquet()


def summary_rows(file: h5py.File, dtypes: Mapping[str, np.dtype] | None = None) -> np.ndarray:
    """The summaries in a file that `infer_catalog` wrote, as structured rows (n,).

    Parameters
    ----------
    file : open.
    dtypes : types of texts by dataset, where they are to be those of more files than this one.
    """

    def texts_and_numbers(name: str) -> np.ndarray:
        values = read_whole(file[name])
        return values if dtypes is None else values.astype(dtypes[name])

    columns = {name: texts_and_numbers(name) for name in ("id", "zred", "status", "flags")}
    # Files of before do not have it.
    columns["score"] = texts_and_numbers("score") if "score" in file else np.full(len(file["id"]), np.nan)
    # Told by a column of its own, for empty texts come back masked from some readers of tables.
    columns["good"] = (columns["status"] == b"") & (columns["flags"] == b"")
    for name in sorted(file["summary"], key=all_quantity_names(surviving=True, zred=True).index):
        values = read_whole(file["summary"][name])
        columns |= {percentile_column(name, percentile): values[:, column] for column, percentile in enumerate(PERCENTILES)}
    columns |= {name: read_whole(file[name]) for name in WEIGHT_NAMES if name in file}
    columns |= {name: texts_and_numbers(f"refinement/{name}") for name in file.get("refinement", {})}
    rows = np.empty(len(file["id"]), dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows


def write_table(path: Path, runs: Iterator[np.ndarray], n_rows: int, header: Mapping[str, Any]) -> None:
    """Write runs of `summary_rows`, all of one type, to one table; it has its name when it is whole.

    Parameters
    ----------
    path : ends in ``.fits``, ``.parquet`` or ``.ecsv``, see `check_table`.
    runs : one after the other.
    n_rows : in all of them.
    header : the provenance.
    """
    with atomic_path(path) as temporary:
        _WRITERS[path.suffix](temporary, runs, n_rows, json.dumps(header))


def _import_parquet() -> Any:
    """The modules ``pyarrow`` and ``pyarrow.parquet``; a MissingDependencyError where they are not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet needs pyarrow: install it with 'pip install pyarrow', or write .fits or .ecsv"
        ) from error
    return pyarrow, parquet


def _about(name: str) -> tuple[str, str | None]:
    """The description and the unit of a column."""
    quantity, percent = _PERCENTILES_OF.get(name, (name, ""))
    return description(quantity, percent), column_unit(quantity)


def _described(run: np.ndarray) -> Table:
    """A run as astropy's table, which has texts, descriptions and units."""
    table = Table()
    for name in run.dtype.names or ():
        table[name] = np.char.decode(run[name], "utf-8") if run.dtype[name].kind == "S" else run[name]
        table[name].description, table[name].unit = _about(name)
    return table


def _write_fits(path: Path, runs: Iterator[np.ndarray], n_rows: int, header: str) -> None:
    """A binary table written run by run: astropy would hold it whole."""
    written = 0
    with path.open("wb") as handle:
        for run in runs:
            fields = {name: run.dtype[name] for name in run.dtype.names or ()}
            if not written:
                cards = fits.BinTableHDU(run[:0], name="POSTERIORS").header
                cards["NAXIS2"] = n_rows
                for number, name in enumerate(fields, start=1):
                    cards[f"TCOMM{number}"], unit = _about(name)
                    if unit:
                        cards.set(f"TUNIT{number}", unit, after=f"TFORM{number}")
                cards["HISTORY"] = header
                handle.write(fits.PrimaryHDU().header.tostring().encode("ascii") + cards.tostring().encode("ascii"))
            packed = run.astype([(name, _FITS_TYPES.get(kind, kind.newbyteorder(">"))) for name, kind in fields.items()])
            for name in (name for name, kind in fields.items() if kind in _FITS_TYPES):
                packed[name] = np.where(run[name], ord("T"), ord("F"))
            written += handle.write(packed.tobytes())
        handle.write(b"\0" * (-written % _FITS_BLOCK))


def _write_parquet(path: Path, runs: Iterator[np.ndarray], _: int, header: str) -> None:
    """Descriptions and units are beside each field, as Rubin's tables have them, and in astropy's own text for all."""
    pyarrow, parquet = _import_parquet()
    writer = None
    try:
        for run in runs:
            columns = _described(run)
            table = pyarrow.table({name: np.ascontiguousarray(columns[name]) for name in columns.colnames})
            if writer is None:
                about = {"sedcast": header, "table_meta_yaml": "\n".join(get_yaml_from_table(columns[:0]))}
                # Astropy looks for the lengths of texts, which Parquet has none of.
                texts = [name for name in columns.colnames if run.dtype[name].kind == "S"]
                about |= {f"table::len::{name}": str(run.dtype[name].itemsize) for name in texts}
                fields = [field.with_metadata(_field_metadata(field.name)) for field in table.schema]
                writer = parquet.ParquetWriter(path, pyarrow.schema(fields, metadata=about), compression="zstd")
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


def _field_metadata(name: str) -> dict[str, str]:
    told, unit = _about(name)
    return {"description": told} | ({"unit": unit} if unit else {})


def _write_ecsv(path: Path, runs: Iterator[np.ndarray], _: int, header: str) -> None:
    head = ""
    with path.open("w", encoding="utf-8", newline="") as handle:
        for run in runs:
            table, text = _described(run), io.StringIO()
            table.meta["sedcast"] = header
            if not head:
                table[:0].write(text, format="ascii.ecsv", delimiter=",")
                head = text.getvalue()
                handle.write(head)
                text = io.StringIO()
            table.write(text, format="ascii.ecsv", delimiter=",")
            handle.write(_without_comments(text.getvalue()[len(head) :]))


def _without_comments(rows: str) -> str:
    """Rows of which none is taken for a comment: astropy skips a line that begins with ``#``, pandas what follows one."""
    if "#" not in rows:
        return rows
    cells = csv.reader(io.StringIO(rows, newline=""))
    return "".join(",".join(map(_quoted, row)) + "\n" for row in cells)


def _quoted(cell: str) -> str:
    return f'"{cell.replace(chr(34), 2 * chr(34))}"' if _SPECIAL.search(cell) else cell


_WRITERS = {".fits": _write_fits, ".parquet": _write_parquet, ".ecsv": _write_ecsv}

TABLE_SUFFIXES = tuple(_WRITERS)
"""Ends of the names of files that are tables of summaries."""
