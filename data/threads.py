"""How many threads there are to use, and BLAS kept to one where threads share the work."""

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread", "usable_cores"]

_lock = threading.Lock()
_holders, _limit = 0, ExitStack()


def usable_cores() -> int:
    """Cores that this process may use; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Holds BLAS to one thread: more cost more than they give on small products, and stall when the cores are busy.

    The limit is the process's: the first to ask for it sets it, and the last to leave lifts it, in whatever thread they are.
    """
    global _holders
    with _lock:
        if not _holders:
            _limit.enter_context(_controller().limit(limits=1, user_api="blas"))
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                _limit.close()


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
