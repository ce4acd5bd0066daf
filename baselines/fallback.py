"""emcee as the last resort of importance refinement."""

import logging
from dataclasses import dataclass

import numpy as np

from sedcast.baselines.mcmc import McmcConfig, McmcResult, run_emcee
from sedcast.data.errors import ParameterError, SedcastError
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.importance import Fallback
from sedcast.posterior.likelihood import GaussianLikelihood

__all__ = ["FAILED", "NOT_CONVERGED", "emcee_fallback"]

logger = logging.getLogger(__name__)

NOT_CONVERGED = "MCMC did not converge: samples approximate"
FAILED = "MCMC failed: samples approximate"


@dataclass(frozen=True)
class _Emcee:
    config: McmcConfig

    def __call__(self, likelihood: GaussianLikelihood, start: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
        seeded = self.config.model_copy(update={"seed": seed})
        try:
            result = self._run(likelihood, seeded, start).unless_interrupted()
        except SedcastError as error:
            logger.warning("the fallback to emcee failed: %s", error)
            return np.empty((0, len(FREE_PARAMETER_NAMES))), FAILED
        return result.theta_unbounded, "" if result.converged else NOT_CONVERGED

    def _run(self, likelihood: GaussianLikelihood, config: McmcConfig, start: np.ndarray) -> McmcResult:
        if len(start) >= config.n_total:
            try:
                return run_emcee(likelihood, config, start=start)
            except ParameterError as error:
                logger.info("the fallback to emcee begins with prior draws: %s", error)
        return run_emcee(likelihood, config)


def emcee_fallback(config: McmcConfig | None = None) -> Fallback:
    """A `Refiner`'s fallback that runs emcee from the flow's draws, or from prior draws where those are too few.

    Parameters
    ----------
    config : of every chain, `seed` apart; the default stops after 20,000 steps.
    """
    return _Emcee(McmcConfig(max_steps=20_000) if config is None else config)
