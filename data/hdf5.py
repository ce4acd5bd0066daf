"""HDF5 datasets read whole, but not beyond what their file can hold."""

import itertools
import math
import os

import h5py
import numpy as np

from sedcast.data.artifacts import MAX_DEFLATE_RATIO

__all__ = ["check_size", "check_type", "read_whole"]


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
