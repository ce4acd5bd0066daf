"""Locks that keep two runs off one output; the system lets go of them when a process ends, however it ends."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sedcast.data.errors import ConfigError

__all__ = ["lock_handle", "output_lock"]

logger = logging.getLogger(__name__)


def lock_handle(handle: IO[str], output: Path) -> None:
    """Lock an open file on behalf of `output`, until it is closed.

    Raises
    ------
    ConfigError : if another process holds it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"another process is writing {output}: wait for it, or choose another output") from error
    except OSError as error:
        logger.warning("%s cannot be locked (%s): no two runs may write it at once", output, error.strerror)


@contextlib.contextmanager
def output_lock(output: str | Path) -> Iterator[None]:
    """Hold the lock of an output, the file ``.NAME.lock`` beside it, which is deleted in the end.

    That of a folder is in the folder where nothing can be written beside it, as with a home or a disk that is mounted.

    Raises
    ------
    ConfigError : if another process holds it.
    """
    output = Path(output)
    # The working folder, "." or "", and that above it have a name only in full.
    full = output.resolve() if output.name in ("", "..") else output
    inside = full.is_dir() and not os.access(full.parent, os.W_OK)
    path = (full if inside else full.parent) / f".{full.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as handle:
            lock_handle(handle, output)
            # Whoever had it before may have deleted the file between its opening and its locking here.
            if not path.exists() or os.fstat(handle.fileno()).st_ino != path.stat().st_ino:
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
