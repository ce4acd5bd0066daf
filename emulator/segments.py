"""Rows that long work makes in order, kept in segments beside its output until all are there, so that it can be interrupted.

The folder ``OUTPUT.partial`` holds ``manifest.json``, which says what is being made, and one HDF5 file a segment. Each file is
written under another name, flushed to disk and then renamed, so whatever the moment at which a process is killed, a
file that bears a segment's name is whole. It ends in a digest of the rest, for HDF5 does not notice altered values: what was
damaged since is made again. The last step joins the segments, moves the result onto the output and deletes the folder.
"""

import contextlib
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sedcast.data.artifacts import atomic_path
from sedcast.data.errors import ConfigError
from sedcast.data.hdf5 import NewHDF5
from sedcast.data.locks import lock_handle

__all__ = ["Segments", "array_digest", "differences", "open_segments", "partial_folder", "write_segment"]

logger = logging.getLogger(__name__)

_CHUNK_ROWS, _CHUNK_COLUMNS, _CHUNK_ELEMENTS = 8192, 1024, 2**18
_HEAD_BYTES, _PIECE = 65_536, 2**20
_MANIFEST = "manifest.json"
_LOCK = "lock"
_PATTERN = "segment-*.h5"


def array_digest(*arrays: np.ndarray) -> str:
    """SHA-256 over the shapes, types and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class Segments:
    """The segments of one output; made by `open_segments`.

    Attributes
    ----------
    n_rows, n_proposed, next_chunk : rows kept, proposals drawn for them, and the chunk of random numbers to go on from.
    """

    def __init__(self, folder: Path) -> None:
        # Absolute, for processes that run in other folders.
        self.folder = folder.absolute()
        self.count()

    def count(self) -> None:
        """Look again which segments there are, from the first one up to the first that is not there."""
        self.n_rows = self.n_proposed = self.next_chunk = 0
        self._files: list[Path] = []
        while (path := self.path(self.next_chunk)).exists():
            try:
                with h5py.File(path, "r") as file:
                    n_rows, n_proposed, next_chunk = (int(file.attrs[name]) for name in ("n_rows", "n_proposed", "next_chunk"))
            except (OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
                raise ConfigError(f"{path} is damaged ({error}): delete the folder {self.folder} to start anew") from error
            self._add(path, n_rows, n_proposed, next_chunk)

    def path(self, first_chunk: int) -> Path:
        """The file of the segment that begins with a chunk."""
        return self.folder / f"segment-{first_chunk:09d}.h5"

    def _add(self, path: Path, n_rows: int, n_proposed: int, next_chunk: int) -> None:
        self._files.append(path)
        self.n_rows += n_rows
        self.n_proposed += n_proposed
        self.next_chunk = next_chunk

    def append(self, columns: Mapping[str, Sequence[np.ndarray]], *, n_proposed: int, n_chunks: int) -> None:
        """Put a segment on disk: by column, the rows of `n_chunks` chunks, stored as float32."""
        path, next_chunk = self.path(self.next_chunk), self.next_chunk + n_chunks
        joined = {name: np.concatenate(parts).astype("f4") for name, parts in columns.items()}
        n_rows = len(next(iter(joined.values())))
        with atomic_path(path) as temporary:
            with NewHDF5(temporary, sum(values.nbytes for values in joined.values()) + _HEAD_BYTES) as file:
                for name, values in joined.items():
                    file[name] = values
                file.attrs.update({"n_rows": n_rows, "n_proposed": n_proposed, "next_chunk": next_chunk})
            _seal(temporary)
        self._add(path, n_rows, n_proposed, next_chunk)

    def absent(self, n_segments: int) -> list[int]:
        """Which of the first `n_segments` segments, of one chunk each, `write_segment` has not yet made."""
        there = {path.name for path in self.folder.glob(_PATTERN)}
        return [number for number in range(n_segments) if self.path(number).name not in there]

    def join(
        self,
        output: Path,
        n_rows: int,
        attributes: Mapping[str, Any],
        *,
        tables: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Write the first `n_rows` rows of all segments, and `tables` as they are, to one HDF5 file; delete the segments.

        Columns are chunked along their rows, wide ones along their second axis too, so that a part of either is read cheaply.
        """
        with atomic_path(output, folder=self.folder) as temporary, self.joined_file(temporary) as joined:
            for name, table in (tables or {}).items():
                joined.make_room(0, rest=table.nbytes)
                joined[name] = table
            start = 0
            for path in self._files:
                with h5py.File(path, "r") as file:
                    take = min(int(file.attrs["n_rows"]), n_rows - start)
                    for name, values in file.items():
                        if name not in joined:
                            width = [min(size, _CHUNK_COLUMNS) for size in values.shape[1:]]
                            chunk = (min(_CHUNK_ROWS, n_rows, max(1, _CHUNK_ELEMENTS // math.prod(width))), *width)
                            joined.create_dataset(name, (n_rows, *values.shape[1:]), dtype="f4", chunks=chunk)
                        # The last chunks are as large as the others.
                        joined.make_room(values.nbytes)
                        joined[name][start : start + take] = values[:take]
                start += take
            joined.attrs.update(attributes)
        self.discard()

    def joined_file(self, path: Path) -> NewHDF5:
        """A new HDF5 file with room on the disk for what the segments hold."""
        return NewHDF5(path, sum(segment.stat().st_size for segment in self._files))

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in the order of their rows."""
        return tuple(self._files)

    def discard(self) -> None:
        """Delete the segments, and with them what could be resumed."""
        # The manifest last but for the lock: what a kill leaves here is still known for what it is.
        for path in [*sorted(self.folder.glob(_PATTERN), reverse=True), self.folder / _MANIFEST]:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder)


def write_segment(path: Path, number: int, n_rows: int, write: Callable[[Path], None]) -> None:
    """Put a segment of one chunk on disk, whose HDF5 file `write` makes at the path it is given; in any order, by any process.

    Parameters
    ----------
    path : that of `Segments`, `number` the segment's.
    n_rows : rows that it holds.
    """
    with atomic_path(path) as temporary:
        write(temporary)
        with h5py.File(temporary, "a") as file:
            file.attrs.update({"n_rows": n_rows, "n_proposed": n_rows, "next_chunk": number + 1})
        _seal(temporary)


def _digest(path: Path, n_bytes: int) -> bytes:
    digest, left = hashlib.sha256(), n_bytes
    with path.open("rb") as handle:
        while piece := handle.read(min(left, _PIECE)):
            digest.update(piece)
            left -= len(piece)
    return digest.digest()


def _seal(path: Path) -> None:
    """Append its digest to a segment; HDF5 does not look beyond its own end."""
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as handle:
        handle.write(digest)


def _is_sealed(path: Path) -> bool:
    """Whether a segment holds what was written."""
    try:
        n_bytes = path.stat().st_size - hashlib.sha256().digest_size
        with path.open("rb") as handle:
            handle.seek(max(n_bytes, 0))
            return n_bytes > 0 and handle.read() == _digest(path, n_bytes)
    except OSError:
        # A disk that cannot read it back.
        return False


def partial_folder(output: Path) -> Path:
    """The folder that holds the segments of an output until it is whole."""
    return output.with_name(f"{output.name}.partial")


@contextlib.contextmanager
def open_segments(output: Path, manifest: Mapping[str, Any]) -> Iterator[Segments]:
    """The segments of `output`: those of an interrupted run of the same manifest, or none yet.

    Parameters
    ----------
    output : the file being made; the segments are in the folder ``OUTPUT.partial``.
    manifest : all that decides the rows, as JSON has it.

    Raises
    ------
    ConfigError : if the interrupted run's manifest differs, naming where; if another process is at work on this output, or
        the folder is not one of ours.
    """
    folder = partial_folder(output)
    if folder.exists() and not (folder / _LOCK).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} is in the way, which sedcast did not make: move it, or choose another output")
    folder.mkdir(parents=True, exist_ok=True)
    # The system lets go of the lock when the process ends, however it ends.
    with (folder / _LOCK).open("w") as lock:
        lock_handle(lock, output)
        path = folder / _MANIFEST
        wanted = json.loads(json.dumps(manifest))
        begun = any(folder.glob(_PATTERN))
        if begun and (different := differences(_read(path), wanted)):
            raise ConfigError(
                f"{folder} holds an interrupted run of something else, {'; '.join(different)}: "
                "repeat what it was begun with to resume it, or delete the folder to start anew"
            )
        for left in folder.glob(".*.part"):
            left.unlink()
        for segment in sorted(folder.glob(_PATTERN)):
            if not _is_sealed(segment):
                logger.warning("%s is damaged: its rows are made again", segment)
                segment.unlink()
        segments = Segments(folder)
        if not begun:
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        else:
            logger.info("resuming %s after %d rows", output, segments.n_rows)
        yield segments


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): delete the folder {path.parent} to start anew") from error


def differences(there: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, as ``section.key was A and is now B``."""
    found = []
    for key in sorted(there.keys() | now.keys()):
        old, new = there.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {json.dumps(old)} and is now {json.dumps(new)}")
    return found
