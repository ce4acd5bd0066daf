"""What every flow can do: draw from a density of parameters given a context, exactly, and evaluate it."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sedcast.data.checks import whole_number
from sedcast.data.errors import ParameterError
from sedcast.data.threads import usable_cores
from sedcast.posterior.chunks import chunks, in_threads
from sedcast.posterior.made import FlowConfig

if TYPE_CHECKING:
    from sedcast.posterior.flow import MaskedAutoregressiveFlow

__all__ = ["ConditionalFlow", "FlowDraws", "check_threads", "checked_context", "checked_keys", "row_noise", "row_stream"]

_SAMPLES_PER_PIECE = 1024
# Of a call of `_draw`, where threads share the rows; and the least rows a thread for that.
_SAMPLES_PER_DRAW, _LEAST_ROWS = 5000, 2


class FlowDraws(NamedTuple):
    """What a flow draws, m times for each of n contexts.

    Attributes
    ----------
    theta : (n, m, dim) float32.
    log_q : (n, m) log q(theta | context), nats.
    log_likelihood : (n, m) log density of the context's photometry given theta, nats, fluxes in nanomaggies; NaN of a flow that
        does not know it.
    """

    theta: np.ndarray
    log_q: np.ndarray
    log_likelihood: np.ndarray


class ConditionalFlow(ABC):
    """A density q(theta | context) that is drawn from and evaluated exactly.

    Attributes
    ----------
    config : architecture.
    dim, n_context : numbers of columns of theta and of the context.
    noise_dim : that of base noise, which has no column for a choice.
    """

    config: FlowConfig
    dim: int
    n_context: int

    @property
    def noise_dim(self) -> int:
        """`dim`, unless a column of theta is a choice."""
        return self.dim

    def sample(
        self,
        context: np.ndarray,
        n_samples: int,
        *,
        seed: int,
        row_keys: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> np.ndarray:
        """Draw from q(theta | context).

        A row's samples depend on `seed` and its key only, not on the other rows or the number of threads (to rounding).

        Parameters
        ----------
        context : (n, n_context).
        n_samples : samples per row.
        seed : integer from 0 to below 2^64.
        row_keys : (n,) non-negative integers naming the rows' random streams; 0 … n-1 by default.
        n_threads : 1 … ; the number of usable cores by default.

        Returns
        -------
        theta : (n, n_samples, dim) float32.

        Raises
        ------
        ParameterError : if a shape is wrong, a context is not finite, or seed or keys are not such integers.
        """
        return self.draw(context, n_samples, seed=seed, row_keys=row_keys, n_threads=n_threads).theta

    def draw(
        self,
        context: np.ndarray,
        n_samples: int,
        *,
        seed: int,
        row_keys: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> FlowDraws:
        """As `sample`, with what the flow knows of every sample at hardly any cost."""
        context = checked_context(context, self.n_context)
        n_samples = whole_number("n_samples", n_samples)
        keys, n_threads = checked_keys(seed, row_keys, len(context)), check_threads(n_threads) or usable_cores()
        if len(self.parts) > 1 or n_threads == 1 or len(context) < _LEAST_ROWS * n_threads:
            return self._draw(context, n_samples, seed, keys, n_threads)
        # Threads that each draw whole galaxies seldom wait for one another.
        shape = len(context), n_samples
        draws = FlowDraws(np.empty((*shape, self.dim), dtype=np.float32), np.empty(shape), np.empty(shape))

        def fill(rows: slice, _: slice) -> None:
            for into, drawn in zip(draws, self._draw(context[rows], n_samples, seed, keys[rows], 1), strict=True):
                into[rows] = drawn

        size = min(_SAMPLES_PER_DRAW // n_samples, -(-len(context) // n_threads))
        in_threads(fill, chunks(len(context), 1, max(size, 1)), n_threads)
        return draws

    def transform_noise(
        self, noise: np.ndarray, context: np.ndarray, *, n_threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Carry base noise (n, m, noise_dim) to theta (n, m, dim) and log q (n, m), given context (n, n_context).

        Raises
        ------
        ParameterError : if a shape is wrong or a value is not finite.
        """
        context = checked_context(context, self.n_context)
        n_threads = check_threads(n_threads)
        noise = np.asarray(noise)
        if noise.ndim != 3 or noise.shape[::2] != (len(context), self.noise_dim):
            raise ParameterError(f"noise must be ({len(context)}, m, {self.noise_dim}), got {noise.shape}")
        _check_finite("noise", noise)
        return self._carry(noise.astype(np.float32, copy=False), context, n_threads)

    def log_prob(self, theta: np.ndarray, context: np.ndarray, *, n_threads: int | None = None) -> np.ndarray:
        """The density log q(theta | context), in nats.

        Parameters
        ----------
        theta : (n, dim), or (n, m, dim) for m points per row of the context.
        context : (n, n_context).

        Returns
        -------
        log_prob : (n,) or (n, m) float64; -inf where it is below what float32 can follow.

        Raises
        ------
        ParameterError : if a shape is wrong or a value is not finite.
        """
        context = checked_context(context, self.n_context)
        n_threads = check_threads(n_threads)
        points = self._checked_points(theta, context)
        return self._log_density(points, context, n_threads).reshape(np.shape(theta)[:-1])

    def _checked_points(self, theta: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Theta (n, dim) or (n, m, dim), which goes with context (n, n_context), as (n, m, dim)."""
        points = np.asarray(theta)
        if points.ndim == 2:
            points = points[:, None]
        if points.ndim != 3 or points.shape[::2] != (len(context), self.dim):
            raise ParameterError(
                f"theta must be (n, {self.dim}) or (n, m, {self.dim}) with n = {len(context)}, got {np.shape(theta)}"
            )
        _check_finite("theta", points)
        return points

    @abstractmethod
    def _draw(self, context: np.ndarray, n_samples: int, seed: int, keys: np.ndarray, n_threads: int | None) -> FlowDraws:
        """What `draw` returns; arguments are checked."""

    @abstractmethod
    def _carry(self, noise: np.ndarray, context: np.ndarray, n_threads: int | None) -> tuple[np.ndarray, np.ndarray]:
        """What `transform_noise` returns; arguments are checked."""

    @abstractmethod
    def _log_density(self, points: np.ndarray, context: np.ndarray, n_threads: int | None) -> np.ndarray:
        """Log q (n, m) of points (n, m, dim); arguments are checked."""

    @abstractmethod
    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays, for an artifact."""

    @property
    @abstractmethod
    def trained(self) -> "MaskedAutoregressiveFlow":
        """The part that a training begins with when it goes on from this flow."""

    @property
    def general(self) -> "ConditionalFlow":
        """The flow for any context: itself, unless it has experts for some."""
        return self

    @property
    def parts(self) -> tuple["ConditionalFlow", ...]:
        """The flows that serve rows of their own: itself, unless it has experts for some."""
        return (self,)


def checked_context(context: np.ndarray, n_context: int) -> np.ndarray:
    """The context (n, n_context) as float32.

    Raises
    ------
    ParameterError : if its shape is wrong or a value is not finite.
    """
    context = np.asarray(context, dtype=np.float32)
    if context.ndim != 2 or context.shape[1] != n_context:
        raise ParameterError(f"context must be (n, {n_context}), got {context.shape}")
    bad = np.flatnonzero(~np.isfinite(context).all(axis=1))
    if bad.size:
        raise ParameterError(
            f"context has non-finite values in {bad.size} of {len(context)} rows, first {bad[0]}: leave them out"
        )
    return context


def row_stream(seed: int, key: int, part: int) -> np.random.Generator:
    """The random numbers of a row: `part` 0 makes what a flow learnt, 1 what completes it, 2 what is taken of the draws."""
    counter = np.array([0, 0, part, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, key], dtype=np.uint64), counter=counter))


def row_noise(seed: int, keys: np.ndarray, part: int, shape: tuple[int, int], n_threads: int | None) -> np.ndarray:
    """Standard normal noise (n, *shape) float32 of rows' streams, each begun once: a stream has no short way to its middle."""
    noise = np.empty((len(keys), *shape), dtype=np.float32)

    def fill(rows: slice, _: slice) -> None:
        for into, key in zip(noise[rows], keys[rows], strict=True):
            row_stream(seed, key, part).standard_normal(out=into, dtype=np.float32)

    in_threads(fill, chunks(len(keys), 1, max(_SAMPLES_PER_PIECE // max(shape[0], 1), 1)), n_threads)
    return noise


def checked_keys(seed: int, row_keys: np.ndarray | None, n: int) -> np.ndarray:
    """The rows' keys (n,), with the seed such that they name random streams."""
    keys = np.arange(n) if row_keys is None else np.asarray(row_keys)
    whole_number("seed", seed, least=0, bits=64)
    if keys.shape != (n,) or keys.dtype.kind not in "iu" or (n and keys.min() < 0):
        raise ParameterError(f"row_keys must be {n} non-negative integers, one per row, got {keys.dtype} {keys.shape}")
    return keys


def check_threads(n_threads: int | None) -> int | None:
    """A number of threads, of one at least, or None for all cores."""
    return None if n_threads is None else whole_number("n_threads", n_threads)


def _check_finite(name: str, values: np.ndarray) -> None:
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ParameterError(f"{name} has {bad} non-finite values: leave those rows out")
