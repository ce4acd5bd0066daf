"""Where chains start, and the density that independence moves draw from: from the flow, or found without one."""

from dataclasses import dataclass

import emcee
import numpy as np
from scipy.special import logsumexp

from sedcast.baselines.coordinates import Coordinates, FlowCoordinates, FlowMap, choose_coordinates
from sedcast.baselines.moves import MixtureProposal, NormalProposal, Proposal, emcee_moves, emcee_sampler
from sedcast.data.errors import ParameterError
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.psis import effective_sample_size, tempered
from sedcast.posterior.student_mixture import StudentMixture

__all__ = ["Start", "find_start"]

N_DIM = len(FREE_PARAMETER_NAMES)
# Halved with each try.
_JITTER, _TRIES = 1e-2, 12
_N_COMPONENTS = 6
_MAX_ROUNDS = 5
_FIT_ESS = 800.0
_FIT_POINTS = 4000
# A round costs as much as some ten steps of the chains; better proposals than this save less.
_CLOSE = 0.5
# Efficiency of all rounds together, below which a pilot run pays: there are narrow modes that no round has covered.
_PILOT_BELOW = 0.2
_PILOT_STEPS, _PILOT_THIN, _PILOT_POINTS, _PILOT_COMPONENTS, _PILOT_FITS = 150, 5, 6000, 16, 3
# Effective draws in all of the rounds, above which the start points are nearly the posterior's own.
_WEIGHTED_ESS = 400.0


@dataclass(frozen=True)
class Start:
    """The beginning of a run.

    Attributes
    ----------
    points : (n_walker, 11) distinct, of finite posterior, in `coordinates`.
    coordinates : in which the chains move.
    proposal : near the posterior, for independence moves; None if there is none.
    weighted : whether the points are, nearly, draws of the posterior, so that a short burn-in will do.
    origin : where they came from, for the record.
    """

    points: np.ndarray
    coordinates: Coordinates
    proposal: Proposal | None
    weighted: bool
    origin: str


@dataclass(frozen=True)
class _Pool:
    """Draws (n, 11), their log importance weights, and the best proposal so far with exp(-divergence) from the posterior."""

    points: np.ndarray
    log_weight: np.ndarray
    proposal: Proposal | None = None
    closeness: float = 0.0


def find_start(
    likelihood: GaussianLikelihood,
    n_walker: int,
    *,
    n_screen: int,
    seed: int | np.random.SeedSequence,
    start: np.ndarray | None = None,
    flow: FlowMap | None = None,
) -> Start:
    """Start points, coordinates and proposal of a run.

    With `start` the points are some of it. Else they are importance-resampled, from `n_screen` draws of the flow or of the
    prior, and as many in each round that adapts mixtures of t distributions to the posterior. The prior's are taken without a
    flow, and where hardly any draw of the flow has a posterior: the flow may be as far off where a band's photometry is wrong.

    Parameters
    ----------
    likelihood : the galaxy.
    n_walker : points wanted.
    n_screen : draws of each round.
    seed : of the draws.
    start : (n, 12) parameters, at least `n_walker` distinct ones of finite posterior.
    flow : at the galaxy's photometry.

    Raises
    ------
    ParameterError : if the posterior is zero at all of the points, `start` holds too few, or both are given; if the
        likelihood is not `GaussianLikelihood.resolved`.
    """
    likelihood.refuse_unresolved()
    if start is not None and flow is not None:
        raise ParameterError("start and flow were both given: with a flow the start points are its own; pass one of them")
    rng = np.random.default_rng(seed)
    if start is not None:
        return _from_samples(likelihood, n_walker, start, rng)
    x = rng.standard_normal((n_screen, N_DIM))
    coordinates: Coordinates | None = None
    if flow is not None:
        coordinates, origin = FlowCoordinates(likelihood, flow), "adaptive importance sampling from the flow"
        log_prob = coordinates.log_prob(x)
        if np.count_nonzero(np.isfinite(log_prob)) > N_DIM:
            pool = _adapted(coordinates, x, log_prob, NormalProposal(N_DIM), rng)
        else:
            coordinates = None
    if coordinates is None:
        free = choose_coordinates(likelihood, x)
        coordinates, origin, first = free, "adaptive importance sampling from the prior", free.candidates(x)
        log_prob = coordinates.log_prob(first)
        _alive(log_prob, f"{n_screen} prior draws")
        pool = _adapted(coordinates, first, log_prob, None, rng)
        if flow is not None:
            origin += ", the flow's draws having no posterior"
    points, proposal = _resampled(pool, n_walker, coordinates, rng), pool.proposal
    ess = effective_sample_size(pool.log_weight)
    if proposal is not None and ess < _PILOT_BELOW * len(pool.points):
        points, proposal = _pilot(coordinates, points, proposal, rng)
        # Where it was needed there may be narrow modes, which fill slowly.
        return Start(points, coordinates, proposal, False, f"{origin}, then a pilot run")
    return Start(points, coordinates, proposal, ess > _WEIGHTED_ESS, origin)


def _from_samples(likelihood: GaussianLikelihood, n_walker: int, start: np.ndarray, rng: np.random.Generator) -> Start:
    x = np.unique(likelihood.prior.to_unbounded(likelihood.prior.validate(start)), axis=0)
    coordinates = choose_coordinates(likelihood, x)
    y = coordinates.encode(x)
    alive = _alive(coordinates.log_prob(y), f"{len(y)} distinct start points")
    if len(alive) < n_walker:
        raise ParameterError(
            f"start has {len(alive)} distinct points of finite posterior, {n_walker} walkers need one each: pass more samples"
        )
    chosen = y[rng.choice(alive, n_walker, replace=False)]
    if np.linalg.matrix_rank(chosen - chosen.mean(axis=0)) < N_DIM:
        raise ParameterError("start points share a plane, which an ensemble never leaves: pass samples that vary in all")
    return Start(chosen, coordinates, None, False, "given samples")


def _adapted(
    coordinates: Coordinates, first: np.ndarray, log_prob: np.ndarray, proposal: Proposal | None, rng: np.random.Generator
) -> _Pool:
    """Adaptive multiple importance sampling (Cornuet et al. 2012, arXiv:0907.1254), until a proposal is good.

    All draws so far are weighted by the mixture of all proposals so far, so that a small mode which one round came across
    is not forgotten by the next. Draws `first` (n, 11), with their `log_prob`, of an unknown density only serve the first fit.
    """
    proposals: list[Proposal] = []
    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    pool = _Pool(first, log_prob)
    if proposal is not None:
        proposals, drawn = [proposal], [(first, log_prob)]
        pool = _pooled(drawn, proposals)
    for _ in range(_MAX_ROUNDS):
        if pool.closeness > _CLOSE or np.count_nonzero(np.isfinite(pool.log_weight)) <= N_DIM:
            break
        rows = rng.choice(len(pool.points), _FIT_POINTS, p=tempered(pool.log_weight, _FIT_ESS))
        mixture = StudentMixture.fit(pool.points[rows], np.full(_FIT_POINTS, 1 / _FIT_POINTS), _N_COMPONENTS, rng)
        points = mixture.sample(len(first), rng)
        proposals.append(MixtureProposal(mixture))
        drawn.append((points, coordinates.log_prob(points)))
        if np.isfinite(drawn[-1][1]).any():
            pool = _pooled(drawn, proposals)
    return pool


def _pilot(
    coordinates: Coordinates, points: np.ndarray, proposal: Proposal, rng: np.random.Generator
) -> tuple[np.ndarray, Proposal]:
    """End points of a short run, and a finer mixture fitted to it: small modes that it fills get components of their own."""
    sampler = emcee_sampler(coordinates.log_prob, points.shape, emcee_moves(1, proposal)[0])
    state = emcee.State(points, random_state=np.random.RandomState(int(rng.integers(2**32))).get_state())
    state = sampler.run_mcmc(state, _PILOT_STEPS, skip_initial_state_check=True)
    visited = sampler.get_chain(discard=_PILOT_STEPS // 2, thin=_PILOT_THIN, flat=True)
    visited = visited[rng.permutation(len(visited))[:_PILOT_POINTS]]
    shares = np.full(len(visited), 1 / len(visited))
    # Expectation maximisation depends on where it begins.
    fits = [StudentMixture.fit(visited, shares, _PILOT_COMPONENTS, rng) for _ in range(_PILOT_FITS)]
    return state.coords, MixtureProposal(max(fits, key=lambda mixture: float(mixture.log_prob(visited).mean())))


def _pooled(drawn: list[tuple[np.ndarray, np.ndarray]], proposals: list[Proposal]) -> _Pool:
    """All draws, and the proposal of the least divergence from the posterior, as these draws show it.

    Their weights are truncated (Ionides 2008), so that a single draw in a narrow mode does not decide.
    """
    points, log_prob = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    log_q = np.stack([proposal.log_prob(points) for proposal in proposals])
    log_weight = log_prob - logsumexp(log_q, axis=0) + np.log(len(proposals))
    alive = np.isfinite(log_weight)
    share = np.minimum(log_weight[alive] - logsumexp(log_weight), -0.5 * np.log(len(points)))
    log_evidence = logsumexp(share) + logsumexp(log_weight) - np.log(len(points))
    share = np.exp(share - logsumexp(share))
    divergence = ((log_prob - log_evidence - log_q)[:, alive] * share).sum(axis=1)
    best = int(np.argmin(divergence))
    return _Pool(points, log_weight, proposals[best], float(np.exp(-divergence[best])))


def _alive(log_prob: np.ndarray, where: str) -> np.ndarray:
    alive = np.flatnonzero(np.isfinite(log_prob))
    if len(alive) == 0:
        raise ParameterError(
            f"the posterior is zero at all of {where}: check the units of flux and flux_ivar (nanomaggies) and that the "
            "simulator returns finite fluxes"
        )
    return alive


def _resampled(pool: _Pool, n: int, coordinates: Coordinates, rng: np.random.Generator) -> np.ndarray:
    """Distinct points (n, 11), drawn by weight without replacement (Gumbel's trick), of finite posterior."""
    alive = np.flatnonzero(np.isfinite(pool.log_weight))
    key = pool.log_weight[alive] + rng.gumbel(size=len(alive))
    chosen = pool.points[alive[np.argsort(-key, kind="stable")[:n]]]
    if len(chosen) < n:
        # Few draws survive: walkers share them, apart by a little, since an ensemble needs distinct points.
        shared, dead = chosen[np.arange(n) % len(chosen)], np.arange(n)
        chosen = shared.copy()
        for attempt in range(_TRIES):
            chosen[dead] = shared[dead] + _JITTER * 0.5**attempt * rng.standard_normal((len(dead), N_DIM))
            dead = dead[~np.isfinite(coordinates.log_prob(chosen[dead]))]
            if not len(dead):
                return chosen
        raise ParameterError(f"only {len(alive)} draws have a posterior above zero: raise n_screen or pass start")
    return chosen
