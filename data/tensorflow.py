"""Importing TensorFlow: late, once, and without its start-up lines."""

import functools
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sedcast.data.errors import MissingDependencyError

__all__ = ["import_tensorflow"]


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    # TensorFlow's C++ code writes to file descriptor 2 before any of its own switches is read.
    sys.stderr.flush()
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(sink)
        os.close(saved)


@functools.cache
def import_tensorflow() -> tuple[Any, Any]:
    """The modules (tensorflow, tensorflow_probability), imported at the first call (about 4 s).

    Raises
    ------
    MissingDependencyError : if either cannot be imported.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow as tf
            import tensorflow_probability as tfp

            tf.zeros(1)
            # TFP loads its parts at first use, with deprecation warnings of its own.
            _ = tfp.distributions.TransformedDistribution, tfp.bijectors.MaskedAutoregressiveFlow
    except ImportError as error:
        raise MissingDependencyError(
            f"training needs TensorFlow, TensorFlow Probability and tf_keras: {error}; install them with 'pip install sedcast'"
        ) from error
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    return tf, tfp
