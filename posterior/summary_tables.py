"""Tables of summaries, one row a galaxy, and of one galaxy's samples: FITS, Parquet, ECSV or CSV, written run by run.

Units, descriptions and provenance are in them. What a kind of file cannot hold of a text is escaped as Python does it.
"""

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
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
from sedcast.posterior.posterior_catalog import (
    PERCENTILES,
    REFINEMENT_NAMES,
    WEIGHT_NAMES,
    all_quantity_names,
    held_quantities,
)
from sedcast.posterior.quantities import column_unit, description, percentile_column

__all__ = ["TABLE_SUFFIXES", "check_table", "described", "held_texts", "summary_columns", "text_types", "write_table"]

logger = logging.getLogger(__name__)

Columns = Mapping[str, np.ndarray]
"""A run of rows, by column; texts are bytes in UTF-8."""

_FITS_BLOCK = 2880
_SPECIAL = re.compile(r"[#,\"\r\n]")
# In a table of lines, whatever some reader takes for the end of one.
_NO_LINES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_HELD = {".fits": re.compile(r"[^ -~]"), ".ecsv": _NO_LINES, ".csv": _NO_LINES}
_PRINTABLE = bytes([0, *range(ord(" "), ord("~") + 1)])
_TEXTS = ("id", "status", "flags", "refinement/step")
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
    if path.suffix not in TABLE_SUFFIXES:
        raise ParameterError(
            f"output {path} ends in {path.suffix!r}: expected one of {', '.join(TABLE_SUFFIXES)} for summaries"
        )
    if path.suffix == ".parquet":
        _import_parquet()


def summary_columns(file: h5py.File) -> dict[str, np.ndarray]:
    """The summaries in a file that `infer_catalog` wrote, (n,) a column.

    Raises
    ------
    KeyError, ValueError : if the file is damaged.
    """
    names = held_quantities(file)
    if unknown := set(file["summary"]) - set(names):
        raise ValueError(f"unknown quantities {sorted(unknown)}")
    columns = {name: read_whole(file[name]) for name in ("id", "zred", "status", "flags")}
    unknown_figure = np.full(len(columns["id"]), np.nan)
    # Told by a column of its own, for empty texts come back masked from some readers of tables.
    columns["good"] = (columns["status"] == b"") & (columns["flags"] == b"")
    # Files of before do not have it, nor the weights.
    columns["score"] = read_whole(file["score"]) if "score" in file else unknown_figure
    for name in names:
        values = read_whole(file["summary"][name])
        columns |= {percentile_column(name, percentile): values[:, column] for column, percentile in enumerate(PERCENTILES)}
    if "refinement" in file:
        return columns | {name: read_whole(file["refinement"][name]) for name in (*REFINEMENT_NAMES, "step")}
    return columns | {name: read_whole(file[name]) if name in file else unknown_figure for name in WEIGHT_NAMES}


def text_types(path: Path, files: Iterable[h5py.File]) -> dict[str, np.dtype]:
    """Types of the columns of texts of one table of all these files; warns of texts that it cannot hold as they are."""
    types: dict[str, np.dtype] = {}
    escaped = ""
    for file in files:
        for place in _TEXTS:
            if place not in file or (texts := read_whole(file[place])).dtype.kind != "S":
                continue
            name, held = place.rpartition("/")[2], held_texts(path, texts)
            types[name] = max(held.dtype, types.get(name, held.dtype), key=lambda dtype: dtype.itemsize)
            if not escaped and (other := np.flatnonzero(held != texts)).size:
                escaped = held[other[0]].decode()
    if escaped:
        logger.warning(
            "%s: what %s cannot hold of a text is written as Python escapes it, such as %s; .parquet holds it as it is",
            *(path, path.suffix, escaped),
        )
    return types


def held_texts(path: Path, texts: np.ndarray) -> np.ndarray:
    """Texts (n,), bytes in UTF-8, as a table of that name holds them: FITS has printable ASCII only, lines have no breaks."""
    unheld = _NOT_HELD.get(Path(str(path).removesuffix(".gz")).suffix)
    if unheld is None or _all_printable(texts):
        return texts
    words = [text.decode() for text in texts.tolist()]
    return np.array([unheld.sub(lambda found: found[0].encode("unicode_escape").decode(), word).encode() for word in words])


def _all_printable(texts: np.ndarray) -> bool:
    """Whether texts (n,) are printable ASCII, as nearly all are, followed by the zeros that fill them up."""
    data = texts.tobytes()
    n_there = np.count_nonzero(np.frombuffer(data, np.uint8))
    return not data.translate(None, _PRINTABLE) and n_there == int(np.char.str_len(texts).sum())


def described(columns: Columns) -> Table:
    """A run as astropy's table, which has texts, descriptions and units."""
    return _with_words(
        {name: np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values for name, values in columns.items()}
    )


def write_table(
    path: Path,
    runs: Iterator[Columns],
    n_rows: int,
    header: Mapping[str, Any],
    *,
    types: Mapping[str, np.dtype] | None = None,
    extension: str = "POSTERIORS",
) -> None:
    """Write runs of rows, all of the same columns, to one table; it has its name when it is whole.

    Parameters
    ----------
    path : ends in one of `TABLE_SUFFIXES`, see `check_table`, or in ``.csv``, which has names only.
    runs : one after the other.
    n_rows : in all of them.
    header : the provenance.
    types : of texts, by `text_types`.
    extension : name of the table in FITS.
    """
    types = types or {}

    def held(run: Columns) -> Columns:
        texts = {
            name: (held_texts(path, run[name]) if run[name].dtype.kind == "S" else run[name]).astype(dtype)
            for name, dtype in types.items()
        }
        return {**run, **texts}

    with atomic_path(path) as temporary:
        _WRITERS[path.suffix](temporary, map(held, runs), n_rows, json.dumps(header), extension)


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


def _with_words(columns: Columns) -> Table:
    table = Table(dict(columns))
    for column in table.itercols():
        column.description, column.unit = _about(column.name)
    return table


def _write_fits(path: Path, runs: Iterator[Columns], n_rows: int, header: str, extension: str) -> None:
    """A binary table written run by run: astropy would hold it whole."""
    written = 0
    with path.open("wb") as handle:
        for run in runs:
            if not written:
                cards = _fits_header(run, n_rows, header, extension)
                handle.write(fits.PrimaryHDU().header.tostring().encode("ascii") + cards.tostring().encode("ascii"))
            kinds = [(name, "i1" if values.dtype == bool else values.dtype.newbyteorder(">")) for name, values in run.items()]
            packed = np.empty(len(next(iter(run.values()))), dtype=kinds)
            for name, values in run.items():
                packed[name] = np.where(values, ord("T"), ord("F")) if values.dtype == bool else values
            written += handle.write(packed.tobytes())
        handle.write(b"\0" * (-written % _FITS_BLOCK))


def _fits_header(run: Columns, n_rows: int, header: str, extension: str) -> fits.Header:
    """Descriptions are TCOMM, and what astropy writes and reads instead."""
    empty, buffer = _with_words({name: values[:0] for name, values in run.items()}), io.BytesIO()
    empty.meta["EXTNAME"] = extension
    empty.write(buffer, format="fits")
    buffer.seek(0)
    cards = fits.getheader(buffer, 1)
    cards["NAXIS2"] = n_rows
    for number, column in enumerate(empty.itercols(), start=1):
        cards.set(f"TCOMM{number}", column.description, after=f"TFORM{number}")
    cards["HISTORY"] = header
    return cards


def _write_parquet(path: Path, runs: Iterator[Columns], _: int, header: str, __: str) -> None:
    """Descriptions and units are beside each field, as Rubin's tables have them, and in astropy's own text for all."""
    pyarrow, parquet = _import_parquet()
    writer = None
    # Opened here, for pyarrow takes no path whose bytes are not UTF-8.
    with path.open("wb") as handle:
        try:
            for run in runs:
                columns = described(run)
                table = pyarrow.table({name: np.ascontiguousarray(columns[name]) for name in columns.colnames})
                if writer is None:
                    about = {"sedcast": header, "table_meta_yaml": "\n".join(get_yaml_from_table(columns[:0]))}
                    # Astropy looks for the lengths of texts, which Parquet has none of.
                    texts = [name for name, values in run.items() if values.dtype.kind == "S"]
                    about |= {f"table::len::{name}": str(run[name].dtype.itemsize) for name in texts}
                    fields = [field.with_metadata(_field_metadata(field.name)) for field in table.schema]
                    writer = parquet.ParquetWriter(handle, pyarrow.schema(fields, metadata=about), compression="zstd")
                writer.write_table(table.cast(writer.schema))
        finally:
            if writer is not None:
                writer.close()


def _field_metadata(name: str) -> dict[str, str]:
    told, unit = _about(name)
    return {"description": told} | ({"unit": unit} if unit else {})


def _write_ecsv(path: Path, runs: Iterator[Columns], _: int, header: str, __: str) -> None:
    _write_lines(path, runs, header, first=0)


def _write_csv(path: Path, runs: Iterator[Columns], _: int, header: str, __: str) -> None:
    """The line of names and the rows of an ECSV table."""
    _write_lines(path, runs, header, first=-1)


def _write_lines(path: Path, runs: Iterator[Columns], header: str, *, first: int) -> None:
    """ECSV from that line of its head on."""
    head = ""
    with path.open("w", encoding="utf-8", newline="") as handle:
        for run in runs:
            table, text = described(run), io.StringIO()
            table.meta["sedcast"] = header
            if not head:
                table[:0].write(text, format="ascii.ecsv", delimiter=",")
                head = text.getvalue()
                handle.writelines(head.splitlines(keepends=True)[first:])
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


TABLE_SUFFIXES = (".fits", ".parquet", ".ecsv")
"""Ends of the names of files that are tables of summaries."""

_WRITERS = {".fits": _write_fits, ".parquet": _write_parquet, ".ecsv": _write_ecsv, ".csv": _write_csv}
