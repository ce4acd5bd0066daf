"""Catalogues by MCMC: posteriors in the same files, read by the same functions, as the flow's."""

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sedcast.baselines.coordinates import FlowMap
from sedcast.baselines.fallback import FAILED, NOT_CONVERGED
from sedcast.baselines.mcmc import McmcConfig, run_emcee
from sedcast.data.checks import check_kind, check_memory, check_simulator, one_number, whole_number
from sedcast.data.errors import SedcastError
from sedcast.data.units import as_nanomaggies
from sedcast.emulator.mass_simulation import simulator_identity
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.simulation import FluxSimulator
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import Refined, chain_seed, thinned_rows
from sedcast.posterior.likelihood import GaussianLikelihood

__all__ = ["ChainRefiner"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChainRefiner:
    """An `ExactSampler` by emcee: pass it to `infer_catalog` or, for parallel processes, to `infer_file`.

    Posteriors are then those of `read_posteriors`, ``refinement/step`` is ``"emcee"``, and galaxies whose chains did not
    converge are flagged; so are those on which emcee failed, which have samples of
    `PosteriorEstimator.draw` and step ``"flow"``. (zeus draws from global generators, which threads would share: run it
    through `compare_galaxies`.)

    Attributes
    ----------
    estimator : the flow.
    simulator : noiseless photometry in the estimator's bands.
    config : of every chain, its seed apart.
    use_flow : whether chains move in the flow's noise, or know nothing of it.

    Raises
    ------
    ParameterError : if the estimator infers the redshift, or an attribute is of another kind.
    """

    estimator: PosteriorEstimator
    simulator: FluxSimulator
    config: McmcConfig = field(default_factory=McmcConfig)
    use_flow: bool = True

    def __post_init__(self) -> None:
        check_kind("estimator", self.estimator, PosteriorEstimator, "such as PosteriorEstimator.default()")
        self.estimator.refuse_inferred_redshift("MCMC")
        check_simulator(self.simulator, self.estimator.bands)
        check_kind("config", self.config, McmcConfig, "such as McmcConfig(target_ess=2000)")
        check_kind("use_flow", self.use_flow, bool, "True or False")

    def settings(self) -> dict[str, Any]:
        """All that decides the samples beside the estimator, as JSON takes it."""
        described = {"use_flow": self.use_flow, "simulator": simulator_identity(self.simulator)}
        return self.config.model_dump(mode="json", exclude={"seed"}) | described

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
        """Sample one galaxy; arguments as of `ExactSampler`, `n_threads` without effect."""
        n_samples, key = whole_number("n_samples", n_samples), whole_number("key", key, least=0)
        seed, zred = whole_number("seed", seed, least=0, bits=64), one_number("zred", zred)
        check_memory(f"{n_samples:,} samples of a galaxy", n_samples * len(PARAMETER_NAMES), n_bytes=8)
        flux, flux_ivar = as_nanomaggies(flux, flux_ivar)
        likelihood = GaussianLikelihood(self.simulator, self.estimator.prior, flux=flux, flux_ivar=flux_ivar, zred=zred)
        flow = FlowMap.at(self.estimator, flux, flux_ivar, zred) if self.use_flow else None
        try:
            seeded = self.config.model_copy(update={"seed": chain_seed(seed, key)})
            result = run_emcee(likelihood, seeded, flow=flow).unless_interrupted()
        except SedcastError as error:
            logger.warning("emcee failed on row %d, the flow's samples stand in: %s", key, error)
            return self._without_chain((flux, flux_ivar, zred), likelihood.n_evaluations, n_samples, seed=seed, key=key)
        rows = thinned_rows(len(result.theta), n_samples)
        ess = float(result.ess.min())
        return Refined(
            theta_unbounded=result.theta_unbounded[rows],
            theta=result.theta[rows],
            ess=ess,
            efficiency=ess / result.n_evaluations,
            khat=float("nan"),
            log_evidence=float("nan"),
            log_evidence_error=float("nan"),
            step="emcee",
            flag="" if result.converged else NOT_CONVERGED,
            tried=(),
            n_evaluations=result.n_evaluations,
            wall_s=result.wall_s,
        )

    def _without_chain(
        self, galaxy: tuple[np.ndarray, np.ndarray, float], n_evaluations: int, n_samples: int, *, seed: int, key: int
    ) -> Refined:
        estimator = self.estimator
        flux, flux_ivar, zred = (np.asarray(values)[None] for values in galaxy)
        drawn = estimator.draw(flux, flux_ivar, zred, n_samples, seed=seed, row_keys=np.array([key]), n_threads=1)
        efficiency = float(drawn.efficiency[0])
        return Refined(
            theta_unbounded=drawn.points[0].astype(float),
            theta=estimator.to_theta(drawn.points[0]).astype(float),
            ess=efficiency * n_samples,
            efficiency=efficiency,
            khat=float("nan"),
            log_evidence=float(drawn.log_evidence[0]),
            log_evidence_error=float("nan"),
            step="flow",
            flag=FAILED,
            tried=(),
            n_evaluations=n_evaluations,
            wall_s=float("nan"),
        )
