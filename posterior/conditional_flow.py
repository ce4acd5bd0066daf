"""What every flow can do: draw from a density of parameters given a context, exactly, and evaluate it."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from sedcast.data.errors import ParameterError
from sedcast.posterior.made import FlowConfig

if TYPE_CHECKING:
    from sedcast.posterior.flow import MaskedAutoregressiveFlow

__all__ = ["ConditionalFlow", "checked_context"]


class ConditionalFlow(ABC):
    """A density q(theta | context) that is drawn from and evaluated exactly.

    Attributes
    ----------
    config : architecture.
    dim, n_context : numbers of columns of theta and of the context.
    """

    config: FlowConfig
    dim: int
    n_context: int

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
        seed : non-negative integer.
        row_keys : (n,) non-negative integers naming the rows' random streams; 0 … n-1 by default.
        n_threads : 1 … ; the number of usable cores by default.

        Returns
        -------
        theta : (n, n_samples, dim) float32.

        Raises
        ------
        ParameterError : if a shape is wrong or a context is not finite.
        """
        return self.sample_with_log_prob(context, n_samples, seed=seed, row_keys=row_keys, n_threads=n_threads)[0]

    @abstractmethod
    def sample_with_log_prob(
        self,
        context: np.ndarray,
        n_samples: int,
        *,
        seed: int,
        row_keys: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `sample`, with log q (n, n_samples), in nats, of every sample at hardly any cost."""

    @abstractmethod
    def transform_noise(
        self, noise: np.ndarray, context: np.ndarray, *, n_threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Carry base noise to theta (n, m, dim) and log q (n, m), given context (n, n_context).

        Noise is (n, m, dim), but has no column for a choice of `MaskedAutoregressiveFlow`.
        """

    @abstractmethod
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
