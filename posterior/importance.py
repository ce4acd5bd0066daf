"""Importance refinement: the flow's draws, weighted by likelihood and prior, become samples of the exact posterior.

Weights are w = p(x | theta) p(theta) / q(theta | x) in probit space, with the likelihood that MCMC uses. Where the flow alone
is inefficient, better proposals are made, each step only if the one before fell short:

1. *flow*: draws of q(theta | x).
2. *contexts*: the flow asked at four contexts near x (x itself, x with wider errors, the photometry that the first step's draws
   predict, and a point between), whose equal mixture has heavier tails and covers galaxies unlike the training set.
3. *adapted*: population Monte Carlo (Cappé et al. 2008): a mixture of t distributions in all coordinates but the mass, fitted
   to the draws of the step before, with the mass integrated out exactly; a few rounds. If hardly a draw of the steps before has
   a posterior, the first round is fitted to draws of the prior. Then rounds are run again from many draws of the prior, which
   may find a mode that the flow does not know.

Each step's weights are those of its own proposal, with fresh draws: all of them are exact, and the best is kept. A proposal
that misses a mode looks the more efficient for it, and is betrayed by a smaller evidence than another's: so a step whose
evidence is larger by far goes before, and the next round begins at its draws. From the smoothed weights, equally weighted
samples are drawn, and each gets a mass from its exact conditional posterior.

References
----------
Vehtari et al. 2024, arXiv:1507.02646 (Pareto smoothing); Cappé et al. 2008, arXiv:0710.4242; Dax et al. 2023,
arXiv:2210.05686 (importance sampling of amortized posteriors).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import numpy as np
from pydantic import Field
from scipy.special import logsumexp

from sedcast.data.checks import check_kind, check_memory, check_simulator, one_number, whole_number
from sedcast.data.config import Config
from sedcast.data.errors import ParameterError
from sedcast.data.threads import one_blas_thread, usable_cores
from sedcast.emulator.mass_simulation import simulator_identity
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.emulator.simulation import FluxSimulator
from sedcast.posterior.conditional_flow import check_threads
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import Refined, chain_seed, thinned_rows
from sedcast.posterior.likelihood import UNBOUNDED_LIMIT, GaussianLikelihood
from sedcast.posterior.mass import MassConditional, check_proportional
from sedcast.posterior.psis import effective_sample_size, pareto_smooth, systematic_rows, tempered
from sedcast.posterior.student_mixture import StudentMixture

__all__ = ["Fallback", "RefineConfig", "Refiner"]

INEFFICIENT = "importance sampling inefficient: samples approximate"
HEAVY_TAIL = "importance weights have a heavy tail: samples approximate"
UNRESOLVED = "signal-to-noise ratio so large that the likelihood is lost in rounding: samples approximate"

_TEST_POINTS = 16
# Of evidences, nats; by Markov's inequality an estimate is too large by as much in at most one case of seven.
_DISAGREEING = 2.0
# Draws of the prior that rounds are run again from, over those of a step: from ten, 15 of 20 seeds find SDSS row 1853's mode.
_OF_PRIOR = 10
# Of draws, below which nothing can be fitted to them.
_HARDLY_ANY = 2.0
# Of two usable cores or of a hundred: the same galaxies stand in the same calls of the simulator.
_ROWS_PER_CALL = 1024
_CONTEXTS_ESS = 100.0
_ADAPT_ESS = 400.0
_N_COMPONENTS = 3

Fallback = Callable[[GaussianLikelihood, np.ndarray, int], tuple[np.ndarray, str]]
"""From likelihood, start points (n, 12) and seed < 2^128 to probit-space samples (m, 11), m = 0 if it fails, and flag or ""."""


class RefineConfig(Config):
    """How hard to try.

    Attributes
    ----------
    n_draws : draws of each step's proposal.
    contexts_below : efficiency below which the second step is taken.
    adapt_below : efficiency below which the third step is taken, and at which its rounds end.
    max_rounds : most rounds of the third step, from the steps before and again from the prior; 0 leaves it out.
    min_efficiency : efficiency below which the result is flagged.
    max_khat : k-hat above which a further step is taken, and the result is flagged.
    """

    n_draws: int = Field(default=10_000, ge=1000)
    contexts_below: float = Field(default=0.2, ge=0, le=1)
    adapt_below: float = Field(default=0.05, ge=0, le=1)
    max_rounds: int = Field(default=6, ge=0)
    min_efficiency: float = Field(default=0.02, ge=0, le=1)
    max_khat: float = Field(default=0.7, gt=0)


@dataclass(frozen=True)
class _Draws:
    """Weighted draws of one proposal: probit-space points, log weights, model fluxes and the masses of these."""

    step: str
    points: np.ndarray
    log_weight: np.ndarray
    model: np.ndarray
    log_mstar: np.ndarray
    ess: float
    khat: float

    @property
    def efficiency(self) -> float:
        return self.ess / len(self.points)

    @property
    def log_evidence(self) -> float:
        return float(logsumexp(self.log_weight) - np.log(len(self.points))) if self.ess > 0 else -np.inf


@dataclass(frozen=True)
class _InThreads:
    """A simulator that spreads its galaxies over threads."""

    simulator: FluxSimulator
    n_threads: int

    def flux(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        if len(theta) <= _ROWS_PER_CALL:
            return self.simulator.flux(theta, zred)
        parts = [slice(start, start + _ROWS_PER_CALL) for start in range(0, len(theta), _ROWS_PER_CALL)]
        with ThreadPoolExecutor(self.n_threads) as pool:
            return np.concatenate(list(pool.map(lambda rows: self.simulator.flux(theta[rows], zred[rows]), parts)))


@dataclass(frozen=True)
class Refiner:
    """Makes an estimator's posteriors exact, galaxy by galaxy, by importance sampling: an `ExactSampler`.

    Attributes
    ----------
    estimator : the flow.
    simulator : noiseless photometry in the estimator's bands, proportional to the mass; the one the flow was trained with.
    config : how hard to try.
    fallback : what samples galaxies for which refinement falls short, for example emcee; None leaves them flagged.

    Raises
    ------
    ParameterError : if the estimator infers the redshift, or an attribute is of another kind.
    """

    estimator: PosteriorEstimator
    simulator: FluxSimulator
    config: RefineConfig = field(default_factory=RefineConfig)
    fallback: Fallback | None = None

    def __post_init__(self) -> None:
        check_kind("estimator", self.estimator, PosteriorEstimator, "such as PosteriorEstimator.default()")
        self.estimator.refuse_inferred_redshift("importance refinement")
        check_simulator(self.simulator, self.estimator.bands)
        check_kind("config", self.config, RefineConfig, "such as RefineConfig(n_draws=20_000)")
        if self.fallback is not None and not callable(self.fallback):
            raise ParameterError(f"fallback is a {type(self.fallback).__name__}, expected a function, or None")

    def settings(self) -> dict[str, Any]:
        """All that decides the samples beside the estimator, as JSON takes it."""
        fallback = self.fallback
        # The representation of a function is another one in each process.
        name = f"{fallback.__module__}.{fallback.__qualname__}" if isinstance(fallback, FunctionType) else repr(fallback)
        return self.config.model_dump(mode="json") | {"fallback": name, "simulator": simulator_identity(self.simulator)}

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
        """Refine one galaxy; arguments as of `ExactSampler`, beyond `ess` samples other parameters than the mass repeat.

        Raises
        ------
        ParameterError : as `PosteriorEstimator.sample`, or if the simulator's fluxes are not proportional to the mass.
        """
        n_samples, key = whole_number("n_samples", n_samples), whole_number("key", key, least=0)
        seed, n_threads = whole_number("seed", seed, least=0, bits=64), check_threads(n_threads)
        zred, n_draws = one_number("zred", zred), self.config.n_draws
        n_held = max(_OF_PRIOR * n_draws if self.config.max_rounds else n_draws, n_samples)
        check_memory(f"{n_held:,} draws of a galaxy", n_held * len(FREE_PARAMETER_NAMES))
        with one_blas_thread():
            return self._refine(flux, flux_ivar, zred, n_samples, (seed, key), n_threads or usable_cores())

    def _refine(
        self, flux: np.ndarray, flux_ivar: np.ndarray, zred: float, n_samples: int, stream: tuple[int, int], threads: int
    ) -> Refined:
        began = time.perf_counter()
        flux, flux_ivar, _ = (values[0] for values in self.estimator.context.validate(flux, flux_ivar, np.array([zred])))
        self.estimator.check_redshift(np.array([zred]))
        likelihood = GaussianLikelihood(
            _InThreads(self.simulator, threads), self.estimator.prior, flux=flux, flux_ivar=flux_ivar, zred=zred
        )
        rng = np.random.default_rng((*stream, 1))
        tried = []
        draws: _Draws | None = None
        for one in self._steps(likelihood, flux, flux_ivar, stream, rng, threads):
            tried.append((one.step, one.efficiency, one.khat, time.perf_counter() - began))
            draws = one if draws is None else self._better(draws, one)
            if not likelihood.resolved:
                break
        assert draws is not None
        points, step = _equal_weights(draws, likelihood, n_samples, rng), draws.step
        flag = self._flag(draws) if likelihood.resolved else UNRESOLVED
        if flag and flag != UNRESOLVED and self.fallback is not None:
            chain, flag = self.fallback(likelihood, _start_points(draws, likelihood, rng), chain_seed(*stream, 1))
            if len(chain):
                points, step = chain[thinned_rows(len(chain), n_samples)], "mcmc"
        n, ess = len(draws.points), draws.ess
        return Refined(
            theta_unbounded=points,
            theta=likelihood.prior.from_unbounded(points),
            ess=ess,
            efficiency=draws.efficiency,
            khat=draws.khat,
            log_evidence=draws.log_evidence,
            log_evidence_error=float(np.sqrt(max(1 / ess - 1 / n, 0.0))) if ess else np.inf,
            step=step,
            flag=flag,
            tried=tuple(tried),
            n_evaluations=likelihood.n_evaluations,
            wall_s=time.perf_counter() - began,
        )

    def _steps(
        self,
        likelihood: GaussianLikelihood,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        stream: tuple[int, int],
        rng: np.random.Generator,
        n_threads: int,
    ) -> Iterator[_Draws]:
        """Draws of one proposal after the other, until one of them is good enough."""
        config = self.config
        best = self._from_contexts(likelihood, "flow", [(flux, flux_ivar)], stream, n_threads)
        yield best
        tested = np.flatnonzero(np.isfinite(best.model).all(axis=1))[:_TEST_POINTS]
        check_proportional(likelihood, likelihood.prior.from_unbounded(best.points[tested]), best.model[tested])
        if self._short(best, config.contexts_below) and best.ess:
            measured = flux_ivar > 0
            predicted = flux.copy()
            predicted[measured] = tempered(best.log_weight, _CONTEXTS_ESS) @ np.nan_to_num(best.model)
            contexts = [
                (flux, flux_ivar),
                (flux, flux_ivar / 1.5**2),
                (predicted, flux_ivar),
                (0.5 * (flux + predicted), flux_ivar / 1.5),
            ]
            mixed = self._from_contexts(likelihood, "contexts", contexts, stream, n_threads)
            yield mixed
            best = self._better(best, mixed)
        if config.max_rounds and self._short(best, config.adapt_below):
            if best.ess < _HARDLY_ANY:
                best = self._better(best, _from_prior(likelihood, config.n_draws, rng))
            yield from self._rounds(likelihood, best, rng)
            apart = np.random.default_rng((*stream, 2))
            yield from self._rounds(likelihood, _from_prior(likelihood, _OF_PRIOR * config.n_draws, apart), apart)

    def _rounds(self, likelihood: GaussianLikelihood, last: _Draws, rng: np.random.Generator) -> Iterator[_Draws]:
        """Adapted draws, the first fitted to `last` and each to those before it, until some are good enough."""
        best = last
        for _ in range(self.config.max_rounds):
            if not last.ess:
                return
            last = self._adapted(likelihood, last, rng)
            yield last
            best = self._better(best, last)
            if best.log_evidence > last.log_evidence + _DISAGREEING:
                last = best
            elif not self._short(last, self.config.adapt_below):
                return

    def _short(self, draws: _Draws, efficiency: float) -> bool:
        return draws.efficiency < efficiency or draws.khat > self.config.max_khat

    def _better(self, first: _Draws, second: _Draws) -> _Draws:
        """Of larger evidence, if by far and not by one draw; else what needs no flag; else what has more effective draws."""
        for one, other in ((first, second), (second, first)):
            if one.ess >= _HARDLY_ANY and one.log_evidence > other.log_evidence + _DISAGREEING:
                return one
        good = [not self._flag(draws) for draws in (first, second)]
        return second if (good[1], second.ess) > (good[0], first.ess) else first

    def _flag(self, draws: _Draws) -> str:
        if draws.efficiency < self.config.min_efficiency:
            return INEFFICIENT
        return HEAVY_TAIL if draws.khat > self.config.max_khat else ""

    def _from_contexts(
        self,
        likelihood: GaussianLikelihood,
        step: str,
        contexts: Sequence[tuple[np.ndarray, np.ndarray]],
        stream: tuple[int, int],
        n_threads: int,
    ) -> _Draws:
        """Draws of the equal mixture of the flow at some contexts, as many of each."""
        flow, k = self.estimator.flow, len(contexts)
        seeds = np.random.SeedSequence((stream[0], k)).generate_state(k, np.uint64)
        key = np.array([stream[1]])
        rows = [self.estimator.context(f[None], ivar[None], np.array([likelihood.zred])) for f, ivar in contexts]
        n_each = -(-self.config.n_draws // k)
        drawn = [
            flow.draw(row, n_each, seed=int(s), row_keys=key, n_threads=n_threads) for row, s in zip(rows, seeds, strict=True)
        ]
        points = np.concatenate([one.theta[0] for one in drawn])
        log_q = drawn[0].log_q[0]
        if k > 1:
            finite = np.isfinite(points).all(axis=1)
            parts = np.full((k, len(points)), -np.inf)
            for number, (row, part) in enumerate(zip(rows, parts, strict=True)):
                part[finite] = flow.log_prob(points[None, finite], row, n_threads=n_threads)[0]
                # Known of its own draws, which single precision may put on another side of a burst's beginning.
                part[number * n_each : (number + 1) * n_each] = drawn[number].log_q[0]
            with np.errstate(invalid="ignore"):
                log_q = logsumexp(parts, axis=0) - np.log(k)
        return _weigh(likelihood, step, points.astype(float), log_q, integrate_mass=False)

    def _adapted(self, likelihood: GaussianLikelihood, draws: _Draws, rng: np.random.Generator) -> _Draws:
        proposal = StudentMixture.fit(draws.points[:, 1:], tempered(draws.log_weight, _ADAPT_ESS), _N_COMPONENTS, rng)
        others = proposal.sample(self.config.n_draws, rng)
        points = np.column_stack([np.zeros(len(others)), others])
        return _weigh(likelihood, "adapted", points, proposal.log_prob(others), integrate_mass=True)


def _weigh(likelihood: GaussianLikelihood, step: str, points: np.ndarray, log_q: np.ndarray, *, integrate_mass: bool) -> _Draws:
    """Weigh draws (n, 11) of a proposal of density `log_q` (n,): of all coordinates, or of all but the mass."""
    n_measured = int(np.count_nonzero(likelihood.measured))
    model, log_mstar = np.full((len(points), n_measured), np.nan), np.full(len(points), np.nan)
    log_weight = np.full(len(points), -np.inf)
    rows = np.flatnonzero((np.abs(points) <= UNBOUNDED_LIMIT).all(axis=1) & np.isfinite(log_q))
    if rows.size:
        theta = likelihood.prior.from_unbounded(points[rows])
        model[rows], log_mstar[rows] = likelihood.model_flux(theta), theta[:, 0]
        if integrate_mass:
            log_p = MassConditional.of(likelihood, model[rows], log_mstar[rows]).log_evidence()
        else:
            log_p = likelihood.log_prob_flux(model[rows])
        of_prior = points[rows, 1:] if integrate_mass else points[rows]
        log_weight[rows] = log_p + likelihood.prior.log_prob_unbounded(of_prior) - log_q[rows]
    ess = effective_sample_size(log_weight)
    khat = pareto_smooth(log_weight)[1] if ess else np.inf
    return _Draws(step, points, log_weight, model, log_mstar, ess, khat)


def _from_prior(likelihood: GaussianLikelihood, n: int, rng: np.random.Generator) -> _Draws:
    points = np.column_stack([np.zeros(n), rng.standard_normal((n, len(FREE_PARAMETER_NAMES) - 1))])
    log_q = likelihood.prior.log_prob_unbounded(points[:, 1:])
    return _weigh(likelihood, "prior", points, log_q, integrate_mass=True)


def _start_points(draws: _Draws, likelihood: GaussianLikelihood, rng: np.random.Generator) -> np.ndarray:
    """Distinct parameters (n, 12) of the likelier draws, from which a chain may start."""
    if not draws.ess:
        return np.empty((0, 12))
    weight = tempered(draws.log_weight, _ADAPT_ESS)
    rows = np.unique(rng.choice(len(weight), len(weight), p=weight))
    return likelihood.prior.from_unbounded(_redraw_mass(draws, likelihood, rows, rng))


def _equal_weights(draws: _Draws, likelihood: GaussianLikelihood, n: int, rng: np.random.Generator) -> np.ndarray:
    """Equally weighted points (n, 11): by smoothed weights, masses drawn anew; plain draws if all weights are zero."""
    if not draws.ess:
        finite = np.flatnonzero(np.isfinite(draws.points).all(axis=1))
        if not finite.size:
            return np.full((n, draws.points.shape[1]), np.nan)
        return draws.points[rng.choice(finite, n)]
    weight = np.exp(pareto_smooth(draws.log_weight)[0])
    (rows,) = systematic_rows(weight[None], n, np.array([[rng.random()]]))
    return _redraw_mass(draws, likelihood, rng.permutation(rows), rng)


def _redraw_mass(draws: _Draws, likelihood: GaussianLikelihood, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points (n, 11) of some draws with masses from their conditional posterior: a Gibbs step, which keeps the posterior."""
    points = draws.points[rows].copy()
    drawn = MassConditional.of(likelihood, draws.model[rows], draws.log_mstar[rows]).draw(rng)
    points[:, 0] = np.where(np.isfinite(drawn), likelihood.prior.log_mstar_to_unbounded(drawn), points[:, 0])
    return points
