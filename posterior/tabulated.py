"""Many one-dimensional densities at once, each linear between even nodes: drawn from and evaluated exactly."""

import numpy as np

__all__ = ["TabulatedDensity"]


class TabulatedDensity:
    """Densities of n variables, linear between nodes that divide each one's interval evenly, zero outside.

    Parameters
    ----------
    low, high : (n,) ends of the intervals.
    values : (n, n_node) densities at the nodes, not normalised, not negative, not all zero.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, values: np.ndarray) -> None:
        self.low, self.values = low, values
        self._step = (high - low) / (values.shape[1] - 1)
        self._cumulative = np.cumsum(0.5 * (values[:, 1:] + values[:, :-1]), axis=1)

    def quantile(self, p: np.ndarray) -> np.ndarray:
        """The values (n,) below which the shares p (n,), 0 … 1, of the densities lie."""
        wanted = p * self._cumulative[:, -1]
        cell = np.minimum((self._cumulative < wanted[:, None]).sum(axis=1), self._cumulative.shape[1] - 1)
        rows = np.arange(len(cell))
        before = np.where(cell > 0, self._cumulative[rows, cell - 1], 0)
        left, right = self.values[rows, cell], self.values[rows, cell + 1]
        area = np.clip(wanted - before, 0, self._cumulative[rows, cell] - before)
        # The area under a line from `left`, solved for how far it reaches; this form of the root loses no digits.
        root = np.sqrt(np.maximum(left**2 + 2 * (right - left) * area, 0))
        reach = 2 * area / np.maximum(left + root, np.finfo(self.values.dtype).tiny)
        return np.asarray(self.low + self._step * (cell + np.minimum(reach, 1)))

    def log_density(self, values: np.ndarray) -> np.ndarray:
        """Logarithm of the normalised densities at `values` (n,); -inf outside the intervals."""
        position = (values - self.low) / self._step
        last = self.values.shape[1] - 1
        inside = (position >= 0) & (position <= last)
        position = np.where(inside, position, 0)
        cell = np.minimum(position.astype(np.int64), last - 1)
        rows = np.arange(len(cell))
        left, right = self.values[rows, cell], self.values[rows, cell + 1]
        with np.errstate(divide="ignore"):
            log_height = np.log(left + (position - cell) * (right - left)) - np.log(self._cumulative[:, -1] * self._step)
        return np.where(inside, log_height, -np.inf)
