"""CSV and ECSV read a run of rows at a time, by the places of every few thousandth line in the file."""

import csv
import itertools
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from astropy.table import Table

from sedcast.data.catalog_columns import as_numbers
from sedcast.data.checks import floats_of
from sedcast.data.errors import CatalogError
from sedcast.data.tables import TableFile, reading, units_in

__all__ = ["CsvTable", "EcsvTable"]

_LINES = 8192
_MAX_LINE = 1 << 20
# As an id is written: 007, 1_0 and 1e3 are texts.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_MOST_DIGITS = 18


class _Lines(TableFile):
    """A file in which a row is a line: a cell may not hold a line break. Blank lines do not count."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path, self._source, self._offsets = path, source, list[int]()
        self.n_rows = 0
        self._state = _state(source)
        self._run: tuple[int, Any] | None = None
        self._held: dict[str, np.ndarray] = {}
        self._held_from = 0
        with self._opened() as handle:
            self._head = self._read_head(handle)
            while True:
                offset = handle.tell()
                if not (lines := list(itertools.islice(self._numbered(handle), _LINES))):
                    break
                self._look_at(lines)
                self._offsets.append(offset)
                self.n_rows += len(lines)

    def _opened(self) -> TextIO:
        """Whatever ends its lines."""
        return self._source.open(encoding="utf-8-sig", newline=None)

    def _line(self, handle: TextIO) -> str:
        try:
            return handle.readline(_MAX_LINE)
        except UnicodeDecodeError as error:
            raise CatalogError(f"{self.path} is not in UTF-8 ({error}): save it so") from error

    def _numbered(self, handle: TextIO) -> Iterator[str]:
        """The lines that are not blank, without reading beyond the one that is asked for."""
        while line := self._line(handle):
            if len(line) == _MAX_LINE:
                raise CatalogError(f"{self.path} has a line of more than {_MAX_LINE} characters: is it a table?")
            if line.strip():
                yield line.rstrip("\n")

    def _check_rows(self, n_rows: int, lines: list[str], first: int) -> None:
        if n_rows != len(lines):
            raise CatalogError(
                f"{self.path}: rows {first} to {first + len(lines) - 1} have line breaks within quotes, or of ECSV lines that "
                "begin with '#' and so are comments, expected one line for each row: take them out, or quote the '#'"
            )

    @abstractmethod
    def _read_head(self, handle: TextIO) -> list[str]:
        """The lines up to the one of the columns' names, which become `names`."""

    def _look_at(self, lines: list[str]) -> None:
        """Check a run of lines when the file is opened."""

    @abstractmethod
    def _parsed(self, lines: list[str], first: int) -> Any:
        """What `_column` takes columns from, of the lines from row `first` on."""

    @abstractmethod
    def _column(self, run: Any, name: str) -> np.ndarray: ...

    def _parsed_run(self, number: int) -> Any:
        if _state(self._source) != self._state:
            raise CatalogError(f"{self.path} changed while it was being read: repeat the command when it is complete")
        with self._opened() as handle:
            handle.seek(self._offsets[number])
            return self._parsed(list(itertools.islice(self._numbered(handle), _LINES)), number * _LINES)

    def hold(self, names: Collection[str], texts: Collection[str], start: int, stop: int) -> None:
        """The cells of a run are parsed once for all columns, and let go of: as texts they take many times the memory."""
        self._held = {}
        parts: dict[str, list[np.ndarray]] = {
            column: [] for name in names for column in (name, f"{name}.mask") if column in self.names
        }
        for first in range(start - start % _LINES, stop, _LINES):
            for name in list(parts):
                values = self.read(name, max(first, start), min(first + _LINES, stop))
                if values.dtype.kind == "U" and name in names and name not in texts:
                    try:
                        values = as_numbers(name, values)
                    except CatalogError:
                        # Whoever needs it reads it as it is, and says what is wrong.
                        del parts[name]
                        continue
                parts[name].append(values)
        self._held_from = start
        while parts:
            name, found = parts.popitem()
            self._held[name] = np.concatenate(found)

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        if name in self._held and self._held_from <= start and stop <= self._held_from + len(self._held[name]):
            return self._held[name][start - self._held_from : stop - self._held_from].copy()
        parts = []
        for number in range(start // _LINES, -(-stop // _LINES)):
            # Columns are read one after the other: what one has parsed serves the others.
            if self._run is None or self._run[0] != number:
                self._run = (number, self._parsed_run(number))
            parts.append(self._column(self._run[1], name)[max(start - number * _LINES, 0) : stop - number * _LINES])
        return np.concatenate(parts)


class CsvTable(_Lines):
    """Comma-separated values under a line of names; a column is of integers, if all its cells are, or of text."""

    def __init__(self, path: Path, source: Path) -> None:
        self._integers: list[bool] = []
        super().__init__(path, source)

    def _read_head(self, handle: TextIO) -> list[str]:
        for text in self._numbered(handle):
            start = handle.tell()
            following = next(self._numbered(handle), "")
            handle.seek(start)
            # Names may stand behind a "#", and comments above them.
            if text.startswith("#") and (following.startswith("#") or len(_cells([text])[0]) != len(_cells([following])[0])):
                continue
            for sign, called in ((";", "semicolons"), ("\t", "tabs")):
                if sign in text and "," not in text:
                    raise CatalogError(f"{self.path} has {called} between its cells, expected commas: save it with commas")
            self.names = _names_in(text, self.path)
            self._integers = [True] * len(self.names)
            return [text]
        raise CatalogError(f"{self.path} is empty: expected a line of column names, then rows")

    def _look_at(self, lines: list[str]) -> None:
        # The kind of a column is settled by all its rows, so that it is the same in every run.
        for number, column in enumerate(self._parsed(lines, self.n_rows)):
            self._integers[number] = self._integers[number] and all(map(_is_integer, column))

    def _parsed(self, lines: list[str], first: int) -> Sequence[Sequence[str]]:
        width = len(self.names)
        if (columns := _plain_columns(lines, width)) is not None:
            return columns
        rows = _cells(lines)
        self._check_rows(len(rows), lines, first)
        for number, row in enumerate(rows, start=first):
            if len(row) != width:
                raise CatalogError(
                    f"{self.path}: row {number} has {len(row)} cells, the line of names has {width}: "
                    "expected commas between cells"
                )
        return list(zip(*rows, strict=True))

    def _column(self, run: Sequence[Sequence[str]], name: str) -> np.ndarray:
        number = self.names.index(name)
        texts = np.array(run[number], dtype=str)
        return texts.astype(np.int64) if self._integers[number] else texts


def _state(path: Path) -> tuple[int, int]:
    """What tells a file from one that was written in its place."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _is_integer(text: str) -> bool:
    """Whether a text is an integer of 64 bits with a sign, as it is written."""
    return _INTEGER.fullmatch(text) is not None and (len(text) <= _MOST_DIGITS or -(2**63) <= int(text) < 2**63)


def _plain_columns(lines: list[str], width: int) -> list[list[str]] | None:
    """The cells by columns, in a third of the time, of lines without quotes and blanks that are all of `width` cells."""
    text = "\n".join(lines)
    if '"' in text or max(map(len, lines)) > csv.field_size_limit() or text.split() != lines:
        return None
    if any(line.count(",") != width - 1 for line in lines):
        return None
    cells = text.replace("\n", ",").split(",")
    return [cells[number::width] for number in range(width)]


def _cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(lines, strict=True, skipinitialspace=True)]


def _names_in(head: str, path: Path) -> tuple[str, ...]:
    names = tuple(_cells([head.removeprefix("#").lstrip()])[0])
    if twice := [name for name, n in Counter(names).items() if name and n > 1]:
        raise CatalogError(f"{path} has two columns of the name {twice[0]!r}: rename one")
    return names


class EcsvTable(_Lines):
    """Astropy's ECSV, whose head says the type of each column."""

    def _read_head(self, handle: TextIO) -> list[str]:
        head = []
        for text in self._numbered(handle):
            head.append(text)
            if not text.startswith("#"):
                # Astropy would want a row for the shapes of vector columns.
                comma = any(line.replace(" ", "").startswith("#delimiter:','") for line in head)
                self.names = tuple(next(csv.reader([text], delimiter="," if comma else " ")))
                with reading(self.path):
                    self.units = units_in([line[2:] for line in head[1:-1]])
                return head
        raise CatalogError(f"{self.path} is not ECSV: expected a head of lines that begin with '#', then the columns' names")

    def _parsed(self, lines: list[str], first: int) -> Table:
        with reading(self.path):
            rows = Table.read([*self._head, *lines], format="ascii.ecsv")
        self._check_rows(len(rows), lines, first)
        return rows

    def _column(self, run: Table, name: str) -> np.ndarray:
        values = run[name]
        if isinstance(values, np.ma.MaskedArray) and values.dtype.kind in "iuf" and values.mask.any():
            return floats_of(values)
        if isinstance(values, np.ma.MaskedArray) and values.dtype.kind == "U":
            return np.asarray(values.filled(""))
        return np.asarray(getattr(values, "value", values))
