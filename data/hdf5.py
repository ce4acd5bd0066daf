"""HDF5 files of others: looked at by a process of its own before they are opened, and read not beyond what they can hold.

The HDF5 library trusts the structures of a file: a damaged one can make it loop for ever, which nothing in the same process can
interrupt (a heap of texts with an object of no size), or crash. So `open_hdf5` asks another process to go through them first.
It crashes too where the disk does not take what it writes. So a `NewHDF5` has the room before.
"""

import atexit
import contextlib
import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np

from sedcast.data.artifacts import MAX_DEFLATE_RATIO, reserve

__all__ = ["PROBE", "NewHDF5", "check_size", "check_type", "open_hdf5", "padded_size", "read_whole"]

PROBE = "import sys; sys.path[:] = sys.argv[1:]; from sedcast.data.hdf5_probe import serve; serve()"
"""The program of the process that looks at files; it imports from where this one does."""

_SECONDS, _BYTES_PER_SECOND = 5.0, 50_000_000
# What the library keeps of each chunked dataset before it writes, at most, and what it writes beside values.
_CHUNK_CACHE, _INDEX_BYTES = 2**20, 2**18
_LOCK = threading.Lock()
# By the number of the process that started it: a forked one has to start its own.
_PROBES: dict[int, "subprocess.Popen[str]"] = {}


def open_hdf5(path: str | Path) -> h5py.File:
    """Open a file for reading that may be damaged or hostile.

    Raises
    ------
    OSError : if it is no HDF5 file.
    ValueError : if the HDF5 library comes to no end or crashes over it, or its values are in other files.
    """
    path = Path(path).absolute()
    seconds = _SECONDS + (path.stat().st_size / _BYTES_PER_SECOND if path.is_file() else 0)
    with _LOCK:
        said = _ask(path, seconds)
    if said:
        raise ValueError(said)
    return h5py.File(path, "r")


class NewHDF5(h5py.File):  # type: ignore[misc]
    """A new HDF5 file that holds the room on the disk which it needs, until it is closed.

    Parameters
    ----------
    path : of the file; what is there is replaced.
    n_bytes : that are written to it at most, but for those that `make_room` is told of.

    Raises
    ------
    OSError : if there is no room, with ENOSPC, EDQUOT or EFBIG.
    """

    def __init__(self, path: Path, n_bytes: int) -> None:
        # Made in memory and opened with its room: the library could not even close a file that finds no room for its head.
        with io.BytesIO() as head:
            h5py.File(head, "w").close()
            path.write_bytes(head.getvalue())
        reserve(path, n_bytes)
        self._path = path
        super().__init__(path, "r+")

    def make_room(self, n_bytes: int, *, rest: int = 0) -> None:
        """Hold room for `n_bytes` that are about to be written to datasets, and for `rest` that come after them.

        For compressed values, which may take any share of their size, and for chunks that are not filled.

        Raises
        ------
        OSError : if there is no room, with ENOSPC, EDQUOT or EFBIG.
        """
        unwritten = whole = 0

        def count(_: str, item: h5py.Dataset | h5py.Group) -> None:
            nonlocal unwritten, whole
            if not isinstance(item, h5py.Dataset):
                return
            if item.chunks is not None:
                stored = padded_size(item.shape, item.chunks) * item.dtype.itemsize
                unwritten += min(stored, _CHUNK_CACHE)
            else:
                stored = item.nbytes
                unwritten += stored if item.id.get_offset() is None else 0
            whole += stored

        self.visititems(count)
        reserve(self._path, min(self.id.get_filesize() + unwritten + n_bytes, whole) + _INDEX_BYTES + rest)

    def close(self) -> None:
        """Close the file, and give back the room that it did not need."""
        if not self.id:
            return
        self.flush()
        n_bytes = self.id.get_filesize()
        super().close()
        if self._path.stat().st_size > n_bytes:
            os.truncate(self._path, n_bytes)


def padded_size(shape: tuple[int, ...], chunk: tuple[int, ...]) -> int:
    """The number of values that chunks store of a dataset: the last ones are as large as the others."""
    return math.prod(-(-size // step) * step for size, step in zip(shape, chunk, strict=True))


def _ask(path: Path, seconds: float) -> str:
    """What the other process says against a file; its computing seconds are limited."""
    probe = _PROBES.get(os.getpid())
    if probe is None or probe.poll() is not None:
        probe = _PROBES[os.getpid()] = _start()
    assert probe.stdin is not None
    assert probe.stdout is not None
    try:
        probe.stdin.write(json.dumps([str(path), seconds]) + "\n")
        probe.stdin.flush()
        answer = probe.stdout.readline()
    except OSError:
        answer = ""
    except BaseException:
        # Interrupted: its answer must not be taken for that of the next file.
        probe.kill()
        _stop()
        raise
    if answer:
        return str(json.loads(answer))
    status = _stop()
    if status == -signal.SIGPROF:
        return f"the HDF5 library is not done with it after {seconds:.0f} s of computing: damaged"
    if status < 0:
        return f"the HDF5 library crashes over it (signal {-status}): damaged"
    return f"the process that looks at HDF5 files ended with status {status}: try 'python -c \"import h5py\"'"


def _start() -> "subprocess.Popen[str]":
    # Threads of BLAS are of no use there and claim memory.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-I", "-c", PROBE, *sys.path],
        stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, encoding="utf-8", env=environment,
    )  # fmt: skip


@atexit.register
def _stop() -> int:
    """End the process that looks at files, if there is one; returns its status."""
    probe = _PROBES.pop(os.getpid(), None)
    if probe is None:
        return 0
    assert probe.stdin is not None
    assert probe.stdout is not None
    with contextlib.suppress(OSError):
        probe.stdin.close()
    probe.stdout.close()
    return probe.wait()


def check_size(dataset: h5py.Dataset) -> None:
    """Refuse a dataset whose values, or one of whose chunks, cannot be in its file, or are neither numbers nor text.

    Raises
    ------
    ValueError : naming it.
    """
    check_type(dataset)
    largest = max(dataset.size or 0, math.prod(dataset.chunks or ())) * max(dataset.dtype.itemsize, 1)
    # A dataset that was never written takes no room at all, whatever shape it claims.
    if largest > MAX_DEFLATE_RATIO * os.stat(dataset.file.filename).st_size:
        raise ValueError(f"{dataset.name} claims {largest} bytes, more than the file can hold")


def check_type(dataset: h5py.Dataset) -> None:
    """Refuse a dataset that is neither of numbers nor of text, or whose type is damaged, which may crash the process.

    Raises
    ------
    ValueError : naming it.
    """
    dtype = dataset.dtype
    if dtype.kind == "O" and h5py.check_string_dtype(dtype) is None:
        raise ValueError(f"{dataset.name} holds {dtype} of variable length, expected numbers or text")
    if dtype.names:
        # A type that has no like in NumPy becomes a wider one, which the next field's place does not allow for.
        spans = sorted((offset, offset + part.itemsize) for part, offset, *_ in dtype.fields.values())
        if spans[-1][1] > dtype.itemsize or any(end > start for (_, end), (start, _) in itertools.pairwise(spans)):
            raise ValueError(f"{dataset.name} has fields that overlap: damaged")


def read_whole(dataset: h5py.Dataset) -> np.ndarray:
    """All values of a dataset with at least one axis.

    Raises
    ------
    ValueError : as `check_size`, or if it is a group or has no axis.
    """
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim == 0:
        raise ValueError(f"{dataset.name} is no array")
    check_size(dataset)
    return np.asarray(dataset[:])
