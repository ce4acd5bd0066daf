"""Principal components of more spectra than fit in memory: passes over chunks, of which one is held at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from sedcast.data.errors import ParameterError

__all__ = ["Moments", "n_components_for", "principal_components"]

_OVERSAMPLING = 10
_POWER_PASSES = 2

Chunks = Callable[[], Iterable[np.ndarray]]
"""Called for each pass: the chunks (n_chunk, n_wave) of one set of rows."""


@dataclass
class Moments:
    """Mean and standard deviation of columns, gathered from chunks (Chan, Golub & LeVeque 1983)."""

    n: int = 0
    mean: np.ndarray | float = 0.0
    _squares: np.ndarray | float = 0.0

    def add(self, chunk: np.ndarray) -> None:
        """Take in a chunk (n_chunk, n_wave)."""
        mean = chunk.mean(axis=0, dtype=np.float64)
        shift = mean - self.mean
        n = self.n + len(chunk)
        self._squares = self._squares + ((chunk - mean) ** 2).sum(axis=0) + shift**2 * (self.n * len(chunk) / n)
        self.mean = self.mean + shift * (len(chunk) / n)
        self.n = n

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of each column, 1 for one that does not vary."""
        std = np.sqrt(np.asarray(self._squares) / max(self.n, 1))
        return np.where(std > 0, std, 1.0)


def principal_components(chunks: Chunks, n_components: int, *, seed: int = 0) -> np.ndarray:
    """The leading principal components of centred rows, by block power iteration from a random start.

    Halko, Martinsson & Tropp 2011 (SIAM Rev. 53, 217), Algorithms 4.4 and 5.3: four passes over the rows, each of two
    products with a matrix of `n_components` + 10 columns. Neither all rows nor a matrix of n_wave × n_wave is ever held.

    Parameters
    ----------
    chunks : gives the rows, the same ones each time.
    n_components : how many; fewer come back where rows or columns are fewer.
    seed : of the random start.

    Returns
    -------
    components : (n_components, n_wave) float64, orthonormal rows, by decreasing variance.

    Raises
    ------
    ParameterError : if there are no rows, or `n_components` is not positive.
    """
    if n_components < 1:
        raise ParameterError(f"n_components must be at least 1, got {n_components}")
    first = next(iter(chunks()), None)
    if first is None or not len(first):
        raise ParameterError("principal_components got no rows: check the training set")
    width = min(n_components + _OVERSAMPLING, first.shape[1])
    basis = np.random.default_rng(seed).standard_normal((first.shape[1], width))
    for _ in range(_POWER_PASSES + 1):
        basis, _ = np.linalg.qr(_times_covariance(chunks, basis, first.dtype))
    covariance, n_rows = np.zeros((width, width)), 0
    small = basis.astype(first.dtype)
    for chunk in chunks():
        scores = (chunk @ small).astype(np.float64)
        covariance += scores.T @ scores
        n_rows += len(chunk)
    _, vectors = np.linalg.eigh(covariance)
    return np.ascontiguousarray((basis @ vectors[:, ::-1]).T[: min(n_components, n_rows)])


def _times_covariance(chunks: Chunks, basis: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Σ xᵀ x · basis over all rows x."""
    product = np.zeros(basis.shape)
    small = basis.astype(dtype)
    for chunk in chunks():
        product += chunk.T @ (chunk @ small)
    return product


def n_components_for(error_of: Callable[[int], float], tolerance: float, n_max: int) -> tuple[int, float]:
    """The fewest components whose error is within the tolerance, found by bisection, or `n_max` where none is.

    Parameters
    ----------
    error_of : error for a number of components, decreasing with it.
    tolerance : the error to reach.
    n_max : the largest number to try.

    Returns
    -------
    n_components, error : the number chosen, and its error.
    """
    low, high, error = 0, n_max, error_of(n_max)
    if error > tolerance:
        return n_max, error
    while high - low > 1:
        middle = (low + high) // 2
        found = error_of(middle)
        if found <= tolerance:
            high, error = middle, found
        else:
            low = middle
    return high, error
