"""Samples of one galaxy's exact posterior, and the role of what makes them, by importance sampling or by chains."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sedcast.posterior.estimator import PosteriorEstimator

__all__ = ["ExactSampler", "Refined", "chain_seed", "rows_at_most", "thinned_rows"]


@dataclass(frozen=True)
class Refined:
    """Samples of one galaxy's exact posterior, and how good they are.

    Where a chain stands in for importance weights that failed, step ``"mcmc"``, the figures are those of the weights: what
    the flow is worth there.

    Attributes
    ----------
    theta_unbounded : (n_samples, 11) equally weighted samples in probit space.
    theta : (n_samples, 12) the same as parameters.
    ess : effective number of the proposal's draws, by their unsmoothed weights; of a chain, of the worst parameter.
    efficiency : `ess` per draw; of a chain, per model evaluation.
    khat : Pareto shape of the largest weights; NaN of a chain.
    log_evidence : log p(x | model), nats, x in nanomaggies; NaN of a chain.
    log_evidence_error : its standard error, estimated from the same weights; NaN of a chain.
    step : ``"flow"``, ``"contexts"``, ``"adapted"``, ``"mcmc"`` or ``"emcee"``: whose samples they are.
    flag : "" or why the samples are approximate.
    tried : of every step and round taken, in order: its name, efficiency, k-hat, and seconds since the start.
    n_evaluations : model evaluations.
    wall_s : seconds.
    """

    theta_unbounded: np.ndarray
    theta: np.ndarray
    ess: float
    efficiency: float
    khat: float
    log_evidence: float
    log_evidence_error: float
    step: str
    flag: str
    tried: tuple[tuple[str, float, float, float], ...]
    n_evaluations: int
    wall_s: float


class ExactSampler(Protocol):
    """Makes an estimator's posteriors exact, galaxy by galaxy: `Refiner` or, by chains, `ChainRefiner`."""

    @property
    def estimator(self) -> PosteriorEstimator:
        """The flow whose posteriors are made exact."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that decides the samples beside the estimator, as JSON takes it."""
        ...

    def __call__(
        self,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        zred: float,
        n_samples: int,
        *,
        seed: int,
        key: int = 0,
        n_threads: int | None = None,
    ) -> Refined:
        """Sample one galaxy's exact posterior.

        Parameters
        ----------
        flux, flux_ivar : (n_band,) nanomaggies and nanomaggies^-2.
        zred : redshift.
        n_samples : equally weighted samples to return; beyond as many as were effectively drawn, they repeat.
        seed, key : the random stream; on one machine results depend on them and the data only.
        n_threads : the number of usable cores by default.
        """
        ...


def chain_seed(seed: int, *stream: int) -> int:
    """The seed of one galaxy's chain, 128 bits, from that of all and the numbers that name galaxy and chain.

    Of 32 bits, some of a hundred thousand galaxies would share one, and so their random numbers.
    """
    return int.from_bytes(np.random.SeedSequence(seed, spawn_key=stream).generate_state(4, np.uint32).tobytes(), "little")


def thinned_rows(n_rows: int, n: int) -> np.ndarray:
    """(n,) row numbers spread evenly from the first to the last of `n_rows`; beyond as many, they repeat."""
    return np.linspace(0, n_rows - 1, n).astype(int)


def rows_at_most(n_rows: int, n: int) -> np.ndarray:
    """As `thinned_rows`, but every row once where there are fewer."""
    return thinned_rows(n_rows, min(n, n_rows))
