"""What zeus does to a process, contained: it draws from global generators and takes the root logger's handlers away."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np

__all__ = ["GlobalGenerators", "legacy_state", "root_logger_kept"]


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Put the root logger's handlers and level back: zeus replaces them on construction."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _not_from_zeus(record: logging.LogRecord) -> bool:
    return record.module != "ensemble"


def legacy_state(seed: np.random.SeedSequence) -> tuple[Any, ...]:
    """The state of NumPy's old generator, which emcee and zeus draw from, seeded with all that there is of a seed."""
    return tuple(np.random.RandomState(np.random.MT19937(seed)).get_state())


class GlobalGenerators:
    """Context manager that seeds the global generators of NumPy and `random`, silences zeus, and puts everything back.

    Parameters
    ----------
    seed : of both, each with a stream of its own.
    """

    def __init__(self, seed: np.random.SeedSequence) -> None:
        self.seed = seed

    def __enter__(self) -> "GlobalGenerators":
        self._before: Any = np.random.get_state(), random.getstate()  # noqa: NPY002 - the generator that zeus uses
        of_numpy, of_python = self.seed.spawn(2)
        np.random.set_state(legacy_state(of_numpy))  # noqa: NPY002
        random.seed(of_python.generate_state(4).tobytes())
        logging.getLogger().addFilter(_not_from_zeus)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        logging.getLogger().removeFilter(_not_from_zeus)
        np.random.set_state(self._before[0])  # noqa: NPY002
        random.setstate(self._before[1])

    def get(self) -> tuple[tuple[Any, ...], list[Any]]:
        """State of NumPy's generator, and of Python's as JSON knows it."""
        version, internal, gauss = random.getstate()
        return tuple(np.random.get_state()), [version, list(internal), gauss]  # noqa: NPY002

    def set(self, numpy_state: tuple[Any, ...], python_state: list[Any]) -> None:
        """Go on from states that `get` gave."""
        version, internal, gauss = python_state
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate((version, tuple(internal), gauss))
