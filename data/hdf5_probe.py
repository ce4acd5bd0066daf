"""The process that reads a stranger's HDF5 file first: where the HDF5 library loops, crashes or fills the memory, only it ends.

`sedcast.data.hdf5.open_hdf5` starts and asks it. It touches every structure on which readers depend later: names, types,
attributes, the index of chunks, and texts of variable length, which lie in heaps of their own. Numbers are not read.
"""

import contextlib
import json
import math
import resource
import signal
import sys
from pathlib import Path

import h5py

from sedcast.data.hdf5 import check_size

__all__ = ["serve"]

_MEMORY = 1 << 30
_TEXTS_AT_A_TIME = 65_536


class _Elsewhere(Exception):
    """A file whose contents are in others, which nobody has looked at."""


def _touch_texts(dataset: h5py.Dataset) -> None:
    check_size(dataset)
    if dataset.ndim == 0:
        dataset[()]
        return
    step = max(1, _TEXTS_AT_A_TIME // max(1, math.prod(dataset.shape[1:])))
    for start in range(0, len(dataset), step):
        dataset[start : start + step]


def _touch(_: str, item: h5py.Group | h5py.Dataset) -> None:
    # What raises is the reader's to explain, should it be of interest to it.
    with contextlib.suppress(ValueError, TypeError, OSError, RuntimeError, LookupError):
        for name in item.attrs:
            with contextlib.suppress(ValueError, TypeError, OSError, RuntimeError, LookupError):
                item.attrs[name]
        if isinstance(item, h5py.Group):
            for name in item:
                if isinstance(item.get(name, getlink=True), h5py.ExternalLink):
                    raise _Elsewhere(f"{item.name}/{name} is a link to another file")
        elif isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise _Elsewhere(f"the values of {item.name} are in another file")
            if item.chunks is not None:
                item.id.get_num_chunks()
            if item.dtype.hasobject:
                _touch_texts(item)


def look(path: str) -> str:
    """Why a file is refused, or nothing: what is merely damaged raises an error where it is read."""
    try:
        with h5py.File(path, "r") as file:
            _touch("/", file)
            file.visititems(_touch)
    except _Elsewhere as error:
        return f"{error}: give a file that holds its values itself (h5repack writes one)"
    except MemoryError:
        return f"it asks for more than {_MEMORY} bytes of memory to be looked at: damaged"
    except (ValueError, TypeError, OSError, RuntimeError, LookupError):
        pass
    return ""


def serve() -> None:
    """Look at the files that standard input names, each with a limit of computing seconds, and answer a line for each."""
    # Interruptions are the main process's; the end of its time ends this one, wherever it is.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    size = Path("/proc/self/statm")
    # Other systems than Linux neither tell the memory claimed so far nor keep to the limit.
    if size.is_file():
        limit = int(size.read_text(encoding="ascii").split()[0]) * resource.getpagesize() + _MEMORY
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for line in sys.stdin:
        path, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        said = look(path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(said), flush=True)
