"""Principal components by passes over chunks, against a dense decomposition of all rows."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from sedcast.data.errors import ParameterError
from sedcast.emulator.pca import Moments, n_components_for, principal_components


def _rows(n: int, rng: np.random.Generator, n_wave: int = 300) -> np.ndarray:
    """Smooth rows whose variances fall by a factor of 3 from one component to the next."""
    vectors, _ = np.linalg.qr(rng.standard_normal((n_wave, 40)))
    rows = rng.standard_normal((n, 40)) * 3.0 ** -(np.arange(40) / 2) @ vectors.T
    return rows - rows.mean(axis=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_components_are_those_of_the_dense_decomposition(rng: np.random.Generator, dtype: type) -> None:
    rows = _rows(1000, rng).astype(dtype)
    components = principal_components(lambda: np.array_split(rows, 7), 12)
    _, _, dense = np.linalg.svd(rows.astype(float), full_matrices=False)
    assert np.allclose(components @ components.T, np.eye(12), atol=1e-6)
    assert np.allclose(np.abs(np.sum(components * dense[:12], axis=1)), 1, atol=1e-4)


def test_moments_are_those_of_all_rows(rng: np.random.Generator) -> None:
    rows = rng.normal(1e4, 3, (500, 4)).astype(np.float32)
    rows[:, 3] = 7
    moments = Moments()
    for part in np.array_split(rows, 11):
        moments.add(part)
    assert np.allclose(moments.mean, rows.mean(axis=0, dtype=float), rtol=1e-12)
    assert np.allclose(moments.std[:3], rows.std(axis=0, dtype=float)[:3], rtol=1e-6)
    assert moments.std[3] == 1


def test_memory_is_that_of_a_chunk_whatever_the_number_of_rows() -> None:
    """Ten times as many rows, made as they are asked for, take no more memory."""

    def peak(n_chunk: int) -> int:
        largest = 0

        def chunks() -> Iterator[np.ndarray]:
            nonlocal largest
            for k in range(n_chunk):
                chunk = np.random.default_rng(k).random((100, 2000), dtype=np.float32)
                largest = max(largest, len(chunk))
                yield chunk

        tracemalloc.start()
        moments = Moments()
        for chunk in chunks():
            moments.add(chunk)
        principal_components(chunks, 10)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert largest == 100
        return most

    few, many = peak(4), peak(40)
    assert many < 1.1 * few
    # All rows of the longer run are 32 MB, a matrix of wavelengths by wavelengths as well.
    assert many < 12e6


def test_fewest_components_within_the_tolerance() -> None:
    tried = []

    def error_of(n: int) -> float:
        tried.append(n)
        return 2.0**-n

    assert n_components_for(error_of, 1e-3, 64) == (10, 2.0**-10)
    assert len(tried) <= 7
    assert n_components_for(error_of, 1e-9, 5) == (5, 2.0**-5)
    assert n_components_for(error_of, 0.6, 40) == (1, 0.5)


def test_nothing_to_decompose() -> None:
    with pytest.raises(ParameterError, match="no rows"):
        principal_components(lambda: [], 3)
    with pytest.raises(ParameterError, match="n_components"):
        principal_components(lambda: [np.ones((3, 3))], 0)
    assert principal_components(lambda: [np.diag([3.0, 2.0, 1.0])], 9).shape == (3, 3)
