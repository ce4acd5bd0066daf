"""What is asked of a run of MCMC or nested sampling, and what comes of it."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from sedcast.data.checks import check_kind
from sedcast.data.config import Config
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES
from sedcast.posterior.exact import rows_at_most
from sedcast.posterior.inference_data import from_groups
from sedcast.posterior.likelihood import GaussianLikelihood

__all__ = ["MIN_KEPT", "N_DIM", "McmcConfig", "McmcResult", "check_run"]

N_DIM = len(FREE_PARAMETER_NAMES)
MIN_KEPT = 20
"""Steps that must have been kept before a run may end."""


class McmcConfig(Config):
    """How long and how wide to sample.

    Attributes
    ----------
    n_walkers : walkers of each group, even.
    n_groups : groups of walkers that never see each other, which R-hat compares.
    max_steps : steps after which a run ends unconverged.
    max_evaluations : model evaluations after which a run ends unconverged, to within one step.
    max_seconds : wall time after which a run ends unconverged; None for no limit.
    target_ess : effective samples of the worst parameter at which a run may end.
    max_rhat : largest R-hat at which a run may end.
    check_every : steps before the first check of both; later checks come at growing intervals.
    thin : keep every so many steps.
    n_screen : draws among which the start points are picked.
    seed : of start points and sampler.
    """

    n_walkers: int = Field(default=128, ge=2 * N_DIM)
    n_groups: int = Field(default=4, ge=2, le=16)
    max_steps: int = Field(default=40_000, ge=MIN_KEPT)
    max_evaluations: int = Field(default=5_000_000, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)
    target_ess: float = Field(default=1000.0, gt=0)
    max_rhat: float = Field(default=1.01, gt=1)
    check_every: int = Field(default=100, ge=MIN_KEPT)
    thin: int = Field(default=5, ge=1)
    n_screen: int = Field(default=8192, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**128)

    @field_validator("n_walkers")
    @classmethod
    def _even(cls, n_walkers: int) -> int:
        if n_walkers % 2:
            raise ValueError("must be even: groups move by halves")
        return n_walkers

    @model_validator(mode="after")
    def _enough_kept(self) -> "McmcConfig":
        if min(self.check_every, self.max_steps) < MIN_KEPT * self.thin:
            raise ValueError(f"check_every and max_steps must be at least {MIN_KEPT} times thin={self.thin}")
        return self

    @property
    def n_total(self) -> int:
        """Walkers of all groups."""
        return self.n_walkers * self.n_groups


def check_run(likelihood: GaussianLikelihood, config: McmcConfig) -> None:
    """Refuse to sample what is no likelihood, or to another configuration."""
    check_kind("likelihood", likelihood, GaussianLikelihood, "GaussianLikelihood(simulator, prior, flux=..., ...) makes one")
    check_kind("config", config, McmcConfig, "such as McmcConfig(target_ess=2000)")


@dataclass(frozen=True)
class McmcResult:
    """Samples of one galaxy's posterior and how good they are.

    Attributes
    ----------
    sampler : ``"emcee"``, ``"zeus"`` or ``"nautilus"``.
    theta : (n_step * n_walker, 12) samples after burn-in.
    chain : (n_step, n_walker, 11) the same in probit space, by step and walker; the walkers of a group are neighbours.
    log_prob : (n_step, n_walker) log posterior in probit space, up to the evidence.
    n_groups : independent groups of walkers.
    autocorrelation_steps : (11,) integrated autocorrelation times in steps (before thinning).
    ess : (11,) effective sample sizes.
    rhat : largest R-hat over the parameters and log_prob.
    converged : whether the targets were met.
    reason : the verdict in words, ``"converged: ..."`` or ``"not converged: ..."`` and why.
    interrupted : whether the user stopped it.
    n_steps, n_burn_in : steps run, and steps discarded at the start.
    n_evaluations : model evaluations, those of the start points included.
    wall_s, cpu_s : seconds, and seconds of this process's CPU.
    seed : of the run.
    moves : the moves and their shares.
    coordinates : in which the chains moved: ``"flow"``, ``"signal-to-noise"``, ``"probit"`` or ``"unit cube"``.
    start : where the start points came from.
    log_evidence, log_evidence_error : of nested sampling, nats; None for MCMC.
    """

    sampler: str
    theta: np.ndarray
    chain: np.ndarray
    log_prob: np.ndarray
    n_groups: int
    autocorrelation_steps: np.ndarray
    ess: np.ndarray
    rhat: float
    converged: bool
    reason: str
    interrupted: bool
    n_steps: int
    n_burn_in: int
    n_evaluations: int
    wall_s: float
    cpu_s: float
    seed: int
    moves: tuple[str, ...]
    coordinates: str
    start: str
    log_evidence: float | None = None
    log_evidence_error: float | None = None

    @property
    def theta_unbounded(self) -> np.ndarray:
        """(n_step * n_walker, 11) samples in probit space, the rows of `theta`."""
        return self.chain.reshape(-1, self.chain.shape[2])

    def thinned(self, n: int) -> np.ndarray:
        """(n, 12) samples spread evenly over steps and walkers; all of them if they are fewer."""
        return self.theta[rows_at_most(len(self.theta), n)]

    def unless_interrupted(self) -> Self:
        """The result itself, for work that is to end when the user ends its chains.

        Raises
        ------
        KeyboardInterrupt : if `interrupted`.
        """
        if self.interrupted:
            raise KeyboardInterrupt
        return self

    def to_arviz(self) -> Any:
        """The parameters as ArviZ inference data: every independent group a chain, its draws step by step.

        Raises
        ------
        MissingDependencyError : if arviz is not installed.
        """
        n_step, n_walker = self.log_prob.shape
        by_group = (n_step, self.n_groups, n_walker // self.n_groups)
        theta = self.theta.reshape(*by_group, -1).swapaxes(0, 1).reshape(self.n_groups, -1, len(PARAMETER_NAMES))
        log_prob = self.log_prob.reshape(by_group).swapaxes(0, 1).reshape(self.n_groups, -1)
        posterior = {name: theta[..., k] for k, name in enumerate(PARAMETER_NAMES)}
        return from_groups({"posterior": posterior, "sample_stats": {"lp": log_prob}})
