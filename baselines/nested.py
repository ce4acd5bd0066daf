"""An independent referee: nested sampling with nautilus, which also gives the evidence."""

import warnings
from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

from sedcast.baselines.chains import Meter
from sedcast.baselines.mcmc_result import N_DIM, McmcConfig, McmcResult, check_run
from sedcast.data.errors import MissingDependencyError, ParameterError, SedcastError
from sedcast.posterior.exact import chain_seed
from sedcast.posterior.likelihood import UNBOUNDED_LIMIT, GaussianLikelihood
from sedcast.posterior.mass import MassConditional, check_proportional

__all__ = ["run_nautilus"]

_N_LIVE = 1000
_N_NETWORKS = 2
_BATCH = 1000
_TEST_POINTS = 16
_LOWEST = -1e300


def run_nautilus(likelihood: GaussianLikelihood, config: McmcConfig) -> McmcResult:
    """Sample one galaxy's posterior with nautilus, and integrate its evidence.

    Fluxes are proportional to the mass in most models: then the mass is integrated out in closed form, the other ten
    coordinates are sampled, and each sample gets a mass from its exact conditional posterior. Else all eleven are sampled.

    Parameters
    ----------
    likelihood : the galaxy.
    config : `target_ess`, the limits and `seed` are used. Points of the exploration are discarded, which makes posterior and
        evidence unbiased.

    Returns
    -------
    result : with log_evidence, log p(x | model) in nats for x in nanomaggies, as importance refinement gives it, None if a
        limit came first. Samples are independent: one walker, `rhat` is NaN. They are fewer than `target_ess`, which
        is of nautilus's weighted points.

    Raises
    ------
    MissingDependencyError : if nautilus is not installed.
    ParameterError : if the likelihood is zero at all of the prior draws, or not `GaussianLikelihood.resolved`.

    References
    ----------
    Lange 2023, arXiv:2306.16923.
    """
    try:
        from nautilus import Sampler
    except ImportError as error:
        raise MissingDependencyError("nested sampling needs nautilus: pip install 'sedcast[nautilus]'") from error
    check_run(likelihood, config)
    likelihood.refuse_unresolved()
    meter = Meter(likelihood)
    rng = np.random.default_rng(np.random.SeedSequence(config.seed).spawn(1)[0])
    no_mass = _proportional(likelihood, rng)
    log_likelihood = _without_mass(likelihood) if no_mass else _with_mass(likelihood)
    with warnings.catch_warnings():
        # Its networks need not converge to be of use.
        warnings.simplefilter("ignore")
        sampler = Sampler(
            ndtri,
            log_likelihood,
            n_dim=N_DIM - no_mass,
            n_live=_N_LIVE,
            n_networks=_N_NETWORKS,
            n_batch=_BATCH,
            vectorized=True,
            pass_dict=False,
            seed=chain_seed(config.seed, 1),
        )
        finished = sampler.run(
            n_eff=config.target_ess,
            discard_exploration=True,
            n_like_max=config.max_evaluations,
            timeout=np.inf if config.max_seconds is None else config.max_seconds,
        )
        points, _, _ = sampler.posterior(equal_weight=True)
    if len(points) == 0:
        raise SedcastError(f"nautilus found no posterior sample in {meter.n_evaluations} evaluations: raise the limits")
    order = rng.permutation(len(points))
    x = _with_drawn_mass(likelihood, points[order], rng) if no_mass else points[order]
    # Of the weighted points, which decide; the equally weighted ones that are kept are a selection of them.
    n_eff = float(sampler.n_eff)
    ess = min(n_eff, float(len(points)))
    met = bool(finished and n_eff >= config.target_ess)
    cost = f"ESS {n_eff:.0f} after {meter.n_evaluations:.2g} evaluations"
    return McmcResult(
        sampler="nautilus",
        theta=likelihood.prior.from_unbounded(x),
        chain=x[:, None],
        log_prob=likelihood.log_posterior_unbounded(x)[:, None],
        n_groups=1,
        autocorrelation_steps=np.ones(N_DIM),
        ess=np.full(N_DIM, ess),
        rhat=float("nan"),
        converged=met,
        reason=f"converged: {cost}" if met else f"not converged: {cost} (max_evaluations or max_seconds)",
        interrupted=False,
        n_steps=len(x),
        n_burn_in=0,
        n_evaluations=meter.n_evaluations,
        wall_s=meter.wall_s,
        cpu_s=meter.cpu_s,
        seed=config.seed,
        moves=("nested sampling",),
        coordinates="unit cube",
        start="prior draws",
        # Of a part of the prior alone where the limits came first.
        log_evidence=float(sampler.log_z) if finished else None,
        log_evidence_error=1 / np.sqrt(max(n_eff, 1.0)) if finished else None,
    )


def _proportional(likelihood: GaussianLikelihood, rng: np.random.Generator) -> bool:
    """Whether fluxes are proportional to the mass."""
    theta = likelihood.prior.from_unbounded(rng.standard_normal((_TEST_POINTS, N_DIM)))
    model = likelihood.model_flux(theta)
    good = np.isfinite(model).all(axis=1)
    if not good.any():
        raise ParameterError("the likelihood is zero at all of the prior draws: the simulator must return finite fluxes")
    try:
        check_proportional(likelihood, theta[good], model[good])
    except ParameterError:
        return False
    return True


def _with_mass(likelihood: GaussianLikelihood) -> Callable[[np.ndarray], np.ndarray]:
    def log_likelihood(x: np.ndarray) -> np.ndarray:
        inside = np.clip(np.atleast_2d(x), -UNBOUNDED_LIMIT, UNBOUNDED_LIMIT)
        return np.maximum(likelihood.log_likelihood(likelihood.prior.from_unbounded(inside)), _LOWEST)

    return log_likelihood


def _conditional(likelihood: GaussianLikelihood, others: np.ndarray) -> MassConditional:
    """The masses' conditional posterior at points of the other coordinates (n, 10)."""
    x = np.column_stack([np.zeros(len(others)), np.clip(others, -UNBOUNDED_LIMIT, UNBOUNDED_LIMIT)])
    theta = likelihood.prior.from_unbounded(x)
    return MassConditional.of(likelihood, likelihood.model_flux(theta), theta[:, 0])


def _without_mass(likelihood: GaussianLikelihood) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.maximum(_conditional(likelihood, np.atleast_2d(x)).log_evidence(), _LOWEST)


def _with_drawn_mass(likelihood: GaussianLikelihood, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points (n, 11) of probit space, with masses from their conditional posterior."""
    log_mstar = _conditional(likelihood, others).draw(rng)
    return np.column_stack([likelihood.prior.log_mstar_to_unbounded(log_mstar), others])
