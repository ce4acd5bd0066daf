"""How many threads there are to use, and BLAS kept to one where threads share the work."""

import functools
import os
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread", "usable_cores"]


def usable_cores() -> int:
    """Cores that this process may use; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_blas_thread() -> AbstractContextManager[object]:
    """Holds BLAS to one thread: more cost more than they give on small products, and stall when the cores are busy.

    It belongs around all threads that share some work: limits that threads set and lift by themselves undo each other.
    """
    return _controller().limit(limits=1, user_api="blas")


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
