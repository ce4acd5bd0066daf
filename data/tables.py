"""Tables on disk read a run of rows at a time: FITS, HDF5, Parquet; ECSV and CSV, which are held in memory."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from astropy.io import fits
from astropy.table import Table

from sedcast.data.errors import CatalogError, MissingDependencyError

__all__ = ["TableFile", "open_table"]

_TEXT = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".csv.gz": "ascii.csv"}
_FITS, _HDF5, _PARQUET = (".fits", ".fit", ".fits.gz"), (".hdf5", ".h5"), (".parquet", ".pq")


class TableFile(ABC):
    """A table whose columns are read by runs of rows.

    Attributes
    ----------
    names : of the columns.
    n_rows : number of rows.
    """

    names: tuple[str, ...]
    n_rows: int

    @abstractmethod
    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a column, (n, ...); missing numbers are NaN."""


class _Fits(TableFile):
    """A binary table, read by its place in the file: memory mapped pages would count as the process's memory."""

    def __init__(self, path: Path) -> None:
        with fits.open(path, memmap=True) as hdus:
            tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
            if not tables:
                raise CatalogError(f"{path} has no binary table: expected one in an extension")
            self._columns, self._offset = tables[0].columns, tables[0].fileinfo()["datLoc"]
            self.n_rows = int(tables[0].header["NAXIS2"])
            self._dtype = self._columns.dtype.newbyteorder(">")
        self.names, self._path = tuple(self._columns.names), path
        self._run: tuple[int, int, np.ndarray] | None = None

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        if self._run is None or self._run[:2] != (start, stop):
            offset = self._offset + start * self._dtype.itemsize
            rows = np.fromfile(self._path, self._dtype, count=stop - start, offset=offset)
            if len(rows) != stop - start:
                raise CatalogError(f"{self._path} is truncated: it ends before row {stop} of {self.n_rows}")
            self._run = (start, stop, rows)
        column, values = self._columns[name], self._run[2][name]
        values = values.astype(values.dtype.newbyteorder("="))
        scale, zero = column.bscale or 1, column.bzero or 0
        if values.dtype.kind == "i" and column.null is not None:
            values = np.where(values == column.null, np.nan, values)
        if scale == 1 and zero == 2**63:
            return np.asarray(values.view(np.uint64) ^ np.uint64(2**63))
        if scale == 1 and values.dtype.kind == "i" and float(zero).is_integer():
            # Offsets stand for unsigned integers, which may need all their bits.
            return np.asarray(values.astype(np.int64) + np.int64(zero) if zero else values)
        return np.asarray(values if (scale, zero) == (1, 0) else values * scale + zero)


class _Hdf5(TableFile):
    """Either one dataset of rows, or one dataset a column."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "r")
        found = {name: item for name, item in self._file.items() if isinstance(item, h5py.Dataset) and item.ndim > 0}
        rows = [item for item in found.values() if item.dtype.names]
        self._rows = rows[0] if rows else None
        if self._rows is not None:
            self.names, self.n_rows = tuple(self._rows.dtype.names), len(self._rows)
            return
        lengths = {len(item) for item in found.values()}
        if len(lengths) != 1:
            raise CatalogError(
                f"{path}: its datasets have {len(lengths)} lengths, expected columns of one length at the top level"
            )
        self.names, self.n_rows, self._found = tuple(found), lengths.pop(), found

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        return np.asarray(self._found[name][start:stop] if self._rows is None else self._rows[start:stop][name])


class _Parquet(TableFile):
    """Row groups, one of them held at a time."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise MissingDependencyError(f"{path}: Parquet needs pyarrow: install it with 'pip install pyarrow'") from error
        self._file = parquet.ParquetFile(path)
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self.names, self.n_rows = tuple(self._file.schema_arrow.names), int(self._starts[-1])
        self._held: dict[str, tuple[int, np.ndarray]] = {}

    def _group(self, name: str, group: int) -> np.ndarray:
        if self._held.get(name, (-1,))[0] != group:
            column = self._file.read_row_group(group, columns=[name]).column(0)
            values = column.to_numpy()
            self._held[name] = (group, np.stack(values) if values.dtype == object and not _is_text(values) else values)
        return self._held[name][1]

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        parts = []
        for group, first in enumerate(self._starts[:-1]):
            if first < stop and self._starts[group + 1] > start:
                parts.append(self._group(name, group)[max(start - first, 0) : stop - first])
        return np.concatenate(parts)


def _is_text(values: np.ndarray) -> bool:
    return any(isinstance(value, str) for value in values[:1])


class _InMemory(TableFile):
    def __init__(self, path: Path, kind: str) -> None:
        self._table = Table.read(path, format=kind)
        self.names, self.n_rows = tuple(self._table.colnames), len(self._table)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        values = self._table[name][start:stop]
        if isinstance(values, np.ma.MaskedArray) and values.dtype.kind in "iuf" and values.mask.any():
            return np.asarray(np.ma.MaskedArray(values, dtype=float).filled(np.nan))
        return np.asarray(getattr(values, "value", values))


def open_table(path: str | Path) -> TableFile:
    """Open a table by its name's ending.

    Raises
    ------
    CatalogError : if it is missing, of an unknown kind, damaged or empty.
    MissingDependencyError : for Parquet without pyarrow.
    """
    path = Path(path)
    if not path.is_file():
        raise CatalogError(f"no catalogue at {path}: check the path")
    name = path.name.lower()
    try:
        table = _open(path, name)
    except (CatalogError, MissingDependencyError):
        raise
    except Exception as error:
        # The readers raise many unrelated classes on damaged files.
        raise CatalogError(f"{path} cannot be read: {error}") from error
    if table.n_rows == 0:
        raise CatalogError(f"{path} has no rows: a catalogue needs at least one galaxy")
    return table


def _open(path: Path, name: str) -> TableFile:
    if name.endswith(".fits.gz"):
        return _InMemory(path, "fits")
    if name.endswith(_FITS):
        return _Fits(path)
    if name.endswith(_HDF5):
        return _Hdf5(path)
    if name.endswith(_PARQUET):
        return _Parquet(path)
    kinds: Sequence[str] = [kind for suffix, kind in _TEXT.items() if name.endswith(suffix)]
    if not kinds:
        known = ", ".join((*_FITS, *_HDF5, *_PARQUET, *_TEXT))
        raise CatalogError(f"{path}: unknown kind of file {path.suffix!r}; expected one of {known}")
    return _InMemory(path, kinds[0])
