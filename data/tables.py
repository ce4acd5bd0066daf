"""Tables on disk read a run of rows at a time: FITS, HDF5, Parquet, ECSV, CSV; none of them is ever held whole.

Files that end in .gz are unpacked to a temporary file first.
"""

import contextlib
import gzip
import io
import os
import re
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import h5py
import numpy as np
from astropy.io import fits
from astropy.table.meta import get_header_from_yaml

from sedcast.data.artifacts import FULL
from sedcast.data.checks import floats_of
from sedcast.data.errors import CatalogError, MissingDependencyError
from sedcast.data.hdf5 import check_size, open_hdf5

__all__ = ["ColumnsInHdf5", "RowsInHdf5", "TableFile", "open_table", "reading", "units_in"]

_BATCH_ROWS = 65_536
_BUFFER_BYTES = 1 << 20
# No real catalogue packs that well: beyond it a file is made to fill the disk or the memory.
_MOST_PACKED = 300
_MOST_FIELDS = 999
_VARIABLE_LENGTH = ("P", "Q")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file is damaged: the readers raise many unrelated classes.

    Raises
    ------
    CatalogError : for whatever the body raises, but for sedcast's own errors.
    """
    try:
        yield
    except (CatalogError, MissingDependencyError):
        raise
    except Exception as error:
        raise CatalogError(f"{path} cannot be read: {error}") from error


class TableFile(ABC):
    """A table whose columns are read by runs of rows; another process that is sent one opens the file itself.

    Attributes
    ----------
    path : of the file.
    source : the file that is read: the same, or what a compressed one was unpacked to, for as long as the table is open.
    names : of the columns.
    units : of those columns of which the file says it.
    n_rows : number of rows.
    tables : columns of every table in the file by its name, or number where it has none; of FITS alone, else empty.
    hdu : which of them it is.
    """

    path: Path
    source: Path
    names: tuple[str, ...]
    n_rows: int
    units: Mapping[str, str] = MappingProxyType({})
    tables: Mapping[str | int, tuple[str, ...]] = MappingProxyType({})
    hdu: str | int | None = None

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a column, (n, ...); missing numbers are NaN.

        Raises
        ------
        CatalogError : if the file is damaged there.
        """
        with reading(self.path):
            values = self._read(name, start, stop)
            if len(values) != stop - start:
                raise CatalogError(f"{self.path}: column {name!r} has {len(values)} values in rows {start} to {stop - 1}")
            # Astropy writes masked columns to HDF5 and Parquet as two, the mask as truths.
            if (mask := f"{name}.mask") in self.names:
                hidden = self._read(mask, start, stop)
                if hidden.dtype.kind == "b" and hidden.any():
                    return _hidden(values, hidden)
            return values

    def hold(self, names: Collection[str], texts: Collection[str], start: int, stop: int) -> None:  # noqa: B027
        """Say which columns are read next, of which rows: where a row is a line, they are read together.

        Texts become numbers where all of a column are, as `as_numbers` reads them, but for the columns of `texts`.
        """

    @abstractmethod
    def _read(self, name: str, start: int, stop: int) -> np.ndarray: ...

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open_table, (self.path.absolute(), self.hdu)


def _hidden(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Numbers with NaN, texts with empty ones, where they are hidden."""
    if values.dtype.kind in "fiub":
        return floats_of(np.ma.MaskedArray(values, hidden))
    values = values.copy()
    values[hidden] = b"" if values.dtype.kind == "S" else ""
    return values


class _Fits(TableFile):
    """A binary table, read by its place in the file: memory mapped pages would count as the process's memory."""

    def __init__(self, path: Path, source: Path, hdu: str | int | None = None) -> None:
        # Opened here, because astropy leaves a file open that it cannot make sense of.
        with source.open("rb") as handle:
            _check_headers(handle, path)
        with source.open("rb") as handle, fits.open(handle, memmap=False) as hdus:
            found = {number: table for number, table in enumerate(hdus) if isinstance(table, fits.BinTableHDU)}
            if not found:
                raise CatalogError(f"{path} has no binary table: expected one in an extension")
            times = Counter(table.name.lower() for table in found.values())
            keys = {
                number: table.name if table.name and times[table.name.lower()] == 1 else number
                for number, table in found.items()
            }
            self.tables = {keys[number]: tuple(table.columns.names) for number, table in found.items()}
            number = _chosen(keys, hdu, path)
            table, self.hdu = found[number], keys[number]
            self._columns, self._offset = table.columns, table.fileinfo()["datLoc"]
            self.n_rows = int(table.header["NAXIS2"])
            self._dtype = self._columns.dtype.newbyteorder(">")
        if source.stat().st_size < self._offset + self.n_rows * self._dtype.itemsize:
            raise CatalogError(f"{path} is truncated: it ends before row {self.n_rows}, the last of its header")
        self.names, self.path, self._source = tuple(self._columns.names), path, source
        self.units = {column.name: column.unit for column in self._columns if column.unit}
        self._run: tuple[int, int, np.ndarray] | None = None

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        column = self._columns[name]
        if str(column.format).lstrip("01").startswith(_VARIABLE_LENGTH):
            raise CatalogError(f"column {name!r} of {self.path} is of variable length ({column.format}), expected a fixed one")
        if self._run is None or self._run[:2] != (start, stop):
            offset = self._offset + start * self._dtype.itemsize
            rows = np.fromfile(self._source, self._dtype, count=stop - start, offset=offset)
            if len(rows) != stop - start:
                raise CatalogError(f"{self.path} is truncated: it ends before row {stop} of {self.n_rows}")
            self._run = (start, stop, rows)
        values = self._run[2][name]
        values = values.astype(values.dtype.newbyteorder("="))
        if values.dtype.kind == "S":
            return np.char.rstrip(values)
        if str(column.format).endswith("L"):
            return np.asarray(values == ord("T"))
        scale, zero = column.bscale or 1, column.bzero or 0
        null = np.zeros(values.shape, dtype=bool)
        if values.dtype.kind in "iu" and column.null is not None:
            null = values == column.null
            if scale == 1 and zero == 2 ** (8 * values.dtype.itemsize - 1):
                # Astropy writes that of an unsigned number as it is meant, not as it is stored.
                null |= values == column.null - zero
        if scale == 1 and zero == 2**63:
            values = values.view(np.uint64) ^ np.uint64(2**63)
        elif scale == 1 and values.dtype.kind in "iu" and float(zero).is_integer():
            # Offsets stand for unsigned integers, which may need all their bits.
            values = values.astype(np.int64) + np.int64(zero) if zero else values
        elif (scale, zero) != (1, 0):
            values = values.astype(float) * scale + zero
        # Floats would round the last digits of a column without any.
        return np.where(null, np.nan, values) if null.any() else np.asarray(values)


def _chosen(keys: Mapping[int, str | int], hdu: str | int | None, path: Path) -> int:
    """The number of the table that `hdu` means, by default the first, among tables by number with their names."""
    if hdu is None:
        return min(keys)
    for number, key in keys.items():
        if hdu == number or (isinstance(hdu, str) and hdu.lower() == str(key).lower()):
            return number
    listed = ", ".join(repr(key) if key == number else f"{key!r} ({number})" for number, key in keys.items())
    raise CatalogError(f"{path} has no table {hdu!r}: expected as hdu a name, if no other table has it, or number of {listed}")


def _check_headers(handle: BinaryIO, path: Path) -> None:
    """Refuse headers with more axes or columns than FITS allows: astropy would go through all of them.

    What is no header ends the search, as it does astropy's.
    """
    size = os.fstat(handle.fileno()).st_size
    while handle.tell() < size:
        try:
            header = fits.Header.fromfile(handle)
            counts = [int(header.get(name, 0)) for name in ("NAXIS", "TFIELDS")]
        except Exception:
            return
        if not all(0 <= count <= _MOST_FIELDS for count in counts):
            raise CatalogError(f"{path} claims {counts[0]} axes and {counts[1]} columns, FITS allows {_MOST_FIELDS}: damaged")
        try:
            n_bytes = header.data_size_padded
            if n_bytes < 0:
                return
            handle.seek(n_bytes, os.SEEK_CUR)
        except Exception:
            return


def units_in(described: list[str]) -> dict[str, str]:
    """Of the columns that astropy describes beside a table, in the words of ECSV."""
    return {column["name"]: str(column["unit"]) for column in get_header_from_yaml(described)["datatype"] if column.get("unit")}


class RowsInHdf5(TableFile):
    """One dataset of rows, which stands in the file at `place`."""

    def __init__(self, path: Path, file: h5py.File, rows: h5py.Dataset) -> None:
        self.path, self._file, self._rows = path, file, rows
        self.place = str(rows.name)
        described = file.get(f"{self.place}.__table_column_meta__")
        self.units = {} if described is None else units_in([line.decode() for line in described[:]])
        self.names, self.n_rows = tuple(rows.dtype.names), len(rows)

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        return np.asarray(self._rows.fields(name)[start:stop])


class ColumnsInHdf5(TableFile):
    """One dataset a column."""

    def __init__(self, path: Path, file: h5py.File, columns: Mapping[str, h5py.Dataset]) -> None:
        lengths = {len(item) for item in columns.values()}
        if len(lengths) != 1:
            raise CatalogError(
                f"{path}: its datasets have {len(lengths)} lengths, expected columns of one length at the top level, or in its "
                f"only group; it has: {', '.join(file) or 'nothing'}"
            )
        self.path, self._file, self._columns = path, file, columns
        self.names, self.n_rows = tuple(columns), lengths.pop()
        stated = {name: item.attrs.get("unit", item.attrs.get("units")) for name, item in columns.items()}
        texts = {name: unit.decode() if isinstance(unit, bytes) else unit for name, unit in stated.items()}
        self.units = {name: str(unit) for name, unit in texts.items() if isinstance(unit, str) and unit}

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        return np.asarray(self._columns[name][start:stop])


def _open_hdf5(path: Path, source: Path) -> TableFile:
    file = open_hdf5(source)
    within: h5py.Group = file
    while len(within) == 1 and isinstance(only := next(iter(within.values())), h5py.Group):
        within = only
    found = {name: item for name, item in within.items() if isinstance(item, h5py.Dataset) and item.ndim > 0}
    for item in found.values():
        check_size(item)
    rows = [item for item in found.values() if item.dtype.names]
    return RowsInHdf5(path, file, rows[0]) if rows else ColumnsInHdf5(path, file, found)


class _Parquet(TableFile):
    """Each column is decoded in batches, one of them held at a time, however long the row groups are."""

    def __init__(self, path: Path, source: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise MissingDependencyError(f"{path}: Parquet needs pyarrow: install it with 'pip install pyarrow'") from error
        self.path, self._file = path, parquet.ParquetFile(source, buffer_size=_BUFFER_BYTES)
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        schema, self.n_rows = self._file.schema_arrow, int(self._starts[-1])
        self._held: dict[str, tuple[int, np.ndarray, Iterator[Any]]] = {}
        self._counted = _counted_columns(schema.pandas_metadata or {}, self.n_rows)
        self.names, self.units = (*schema.names, *self._counted), _parquet_units(schema)

    def _batches_from(self, name: str, row: int) -> tuple[int, np.ndarray, Iterator[Any]]:
        """Before the first batch of the row group that a row is in."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        groups = list(range(group, len(self._starts) - 1))
        batches = self._file.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, columns=[name])
        return int(self._starts[group]), np.empty(0), batches

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        if name in self._counted:
            return np.array(self._counted[name][start:stop])
        first, values, batches = self._held.get(name) or self._batches_from(name, start)
        if start < first or start >= first + len(values) + 4 * _BATCH_ROWS:
            first, values, batches = self._batches_from(name, start)
        parts = []
        while True:
            if len(part := values[max(start - first, 0) : max(stop - first, 0)]):
                parts.append(part)
            if first + len(values) >= stop:
                break
            first, values = first + len(values), _as_array(next(batches).column(0), name)
        self._held[name] = first, values, batches
        whole = np.ma.concatenate(parts)
        return floats_of(whole) if np.ma.is_masked(whole) else whole.data


def _counted_columns(metadata: Mapping[str, Any], n_rows: int) -> dict[str, range]:
    """Indices that pandas does not write but describes, for they go by even steps."""
    found = {}
    for index in metadata.get("index_columns", []):
        if isinstance(index, Mapping) and index.get("kind") == "range" and index["name"] is not None:
            values = range(index["start"], index["stop"], index["step"])
            # Tables that were joined or cut since have the description of one.
            if len(values) == n_rows:
                found[str(index["name"])] = values
    return found


def _parquet_units(schema: Any) -> dict[str, str]:
    """As Rubin's tables state them, beside each column; astropy's, in one text for all; and the IVOA's, in a VOTable."""
    stated = {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in schema}
    metadata = schema.metadata or {}
    if described := metadata.get(b"IVOA.VOTable-Parquet.content"):
        from astropy.io.votable import parse

        fields = parse(io.BytesIO(described), verify="ignore").get_first_table().fields
        stated |= {field.name: str(field.unit or "") for field in fields}
    if described := metadata.get(b"table_meta_yaml"):
        stated |= units_in(described.decode().splitlines())
    return {name: unit for name, unit in stated.items() if unit}


def _as_array(column: Any, name: str) -> np.ndarray:
    from pyarrow import types

    if types.is_null(column.type):
        return np.full(len(column), np.nan)
    if types.is_decimal(column.type):
        column = column.cast("float64")
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count and types.is_integer(column.type):
        # Among its rows may be such as are read without the null ones: floats would round their last digits.
        return np.ma.MaskedArray(
            column.fill_null(0).to_numpy(zero_copy_only=False), column.is_null().to_numpy(zero_copy_only=False)
        )
    values = column.to_numpy(zero_copy_only=False)
    if not types.is_nested(column.type):
        return np.asarray(values)
    known = [_whole(value) for value in values if value is not None]
    if not known:
        return np.asarray(values)
    if len({np.shape(value) for value in known}) != 1 or np.shape(known[0]) == ():
        raise CatalogError(f"column {name!r} holds {column.type}, expected numbers, texts or vectors of one length")
    nothing = np.full(np.shape(known[0]), np.nan)
    rows = iter(known)
    return np.stack([nothing if value is None else next(rows) for value in values])


def _whole(value: Any) -> Any:
    """Vectors of vectors of one length, which pyarrow nests, as an array, None if lengths differ; any other value as it is."""
    if not isinstance(value, np.ndarray) or value.dtype != object or not any(isinstance(one, np.ndarray) for one in value):
        return value
    parts = [_whole(one) for one in value]
    return np.stack(parts) if len({np.shape(part) for part in parts}) == 1 else None


def _in_text(kind: str) -> Callable[[Path, Path], TableFile]:
    def open_text(path: Path, source: Path) -> TableFile:
        from sedcast.data import text_tables

        return text_tables.CsvTable(path, source) if kind == "csv" else text_tables.EcsvTable(path, source)

    return open_text


_FITS = (".fits", ".fit")
_READERS: dict[str, Callable[[Path, Path], TableFile]] = {
    ".hdf5": _open_hdf5,
    ".h5": _open_hdf5,
    ".parquet": _Parquet,
    ".pq": _Parquet,
    ".ecsv": _in_text("ecsv"),
    ".csv": _in_text("csv"),
}


def no_catalog(path: Path) -> CatalogError:
    """The error that no file is there."""
    # Path has made one slash of a URL's two.
    if re.match(r"[a-z][a-z0-9+]+:/", str(path)):
        return CatalogError(f"{path} is a URL, expected a file: download it first")
    return CatalogError(f"no catalogue at {path}: check the path")


def unknown_kind(path: Path, suffix: str, known: Iterable[str]) -> CatalogError:
    """The error that a file's name ends in none of the `known` suffixes."""
    return CatalogError(
        f"{path}: unknown kind of file {suffix!r}; expected one of {', '.join(known)}, and .gz after it. Rename a "
        "table with commas to .csv; others astropy converts: Table.read(name, format=...).write('catalogue.ecsv')"
    )


def open_table(path: str | Path, hdu: str | int | None = None) -> TableFile:
    """Open a table by its name's ending; ``.gz`` may follow it.

    Parameters
    ----------
    path : of the file.
    hdu : which table of a FITS file, by its name (EXTNAME, in any capitals) or number (1 is the first extension); by default
        the first that there is.

    Raises
    ------
    CatalogError : if it is missing, of an unknown kind, damaged or empty, or has no table `hdu`.
    MissingDependencyError : for Parquet without pyarrow.
    """
    path = Path(path)
    if not path.is_file():
        raise no_catalog(path)
    packed = path.name.lower().endswith(".gz")
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    if suffix not in (*_FITS, *_READERS):
        raise unknown_kind(path, suffix, (*_FITS, *_READERS))
    if hdu is not None and suffix not in _FITS:
        raise CatalogError(f"{path}: hdu = {hdu!r} is which table of a FITS file, and this is none: leave it out")
    with reading(path):
        source = _unpacked(path) if packed else path
        try:
            table = _Fits(path, source, hdu) if suffix in _FITS else _READERS[suffix](path, source)
            table.source = source
        except BaseException:
            if packed:
                source.unlink()
            raise
        if packed:
            weakref.finalize(table, source.unlink, missing_ok=True)
    if table.n_rows == 0:
        raise CatalogError(f"{path} has no rows: a catalogue needs at least one galaxy")
    return table


def _unpacked(path: Path) -> Path:
    """A temporary file with the contents of a compressed one."""
    try:
        return _unpack(path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f"{path} is unpacked to {tempfile.gettempdir()}, where the disk is full"
        raise CatalogError(f"{where}: free some space, set TMPDIR to another folder, or unpack it yourself") from error


def _unpack(path: Path) -> Path:
    with gzip.open(path, "rb") as packed, tempfile.NamedTemporaryFile(suffix=Path(path.stem).suffix, delete=False) as unpacked:
        try:
            limit = _MOST_PACKED * path.stat().st_size + _BUFFER_BYTES
            while chunk := packed.read(_BUFFER_BYTES):
                if (limit := limit - len(chunk)) < 0:
                    raise CatalogError(f"{path} unpacks to more than {_MOST_PACKED} times its size: refused")
                unpacked.write(chunk)
            unpacked.flush()
        except BaseException:
            Path(unpacked.name).unlink()
            raise
    return Path(unpacked.name)
