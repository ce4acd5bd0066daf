"""Where chains start, and the density that independence moves draw from: from the flow, or found without one."""

from dataclasses import dataclass

import numpy as np

from sedcast.baselines.coordinates import (
    Coordinates,
    FlowCoordinates,
    FlowMap,
    choose_coordinates,
    log_standard_normal,
)
from sedcast.baselines.moves import MixtureProposal, NormalProposal, Proposal
from sedcast.data.errors import ParameterError
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.psis import effective_sample_size, tempered
from sedcast.posterior.student_mixture import StudentMixture

__all__ = ["Start", "find_start"]

N_DIM = len(FREE_PARAMETER_NAMES)
_JITTER = 1e-2
_N_COMPONENTS = 3
_MAX_ROUNDS = 8
_FIT_ESS = 400.0
# A round costs as much as some ten steps of the chains; better proposals than this save less.
_GOOD_EFFICIENCY = 0.3
# Above it, hundreds of the draws are effectively the posterior's own.
_WEIGHTED = 0.02


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


def find_start(
    likelihood: GaussianLikelihood,
    n_walker: int,
    *,
    n_screen: int,
    seed: int,
    start: np.ndarray | None = None,
    flow: FlowMap | None = None,
) -> Start:
    """Start points, coordinates and proposal of a run.

    With a flow, points are importance-resampled from `n_screen` of its draws. With `start` they are some of it. Else a
    mixture of t distributions is adapted to the posterior by population Monte Carlo, from `n_screen` prior draws on.

    Parameters
    ----------
    likelihood : the galaxy.
    n_walker : points wanted.
    n_screen : draws to choose from.
    seed : of the draws.
    start : (n, 12) parameters, at least `n_walker` distinct ones of finite posterior.
    flow : at the galaxy's photometry.

    Raises
    ------
    ParameterError : if the posterior is zero at all of the points, `start` holds too few, or both are given.
    """
    if start is not None and flow is not None:
        raise ParameterError("start and flow were both given: with a flow the start points are its own; pass one of them")
    rng = np.random.default_rng(seed)
    if flow is not None:
        return _from_flow(likelihood, n_walker, n_screen, rng, flow)
    if start is not None:
        return _from_samples(likelihood, n_walker, start, rng)
    return _from_prior(likelihood, n_walker, n_screen, rng)


def _from_flow(likelihood: GaussianLikelihood, n_walker: int, n_screen: int, rng: np.random.Generator, flow: FlowMap) -> Start:
    coordinates = FlowCoordinates(likelihood, flow)
    proposal = NormalProposal(N_DIM)
    y = rng.standard_normal((max(n_screen, 4 * n_walker), N_DIM))
    draws = _Draws(y, coordinates.log_prob(y) - proposal.log_prob(y), proposal)
    _alive(draws.log_weight, f"{len(y)} draws of the flow")
    return _start(_adapted(coordinates, draws, rng), n_walker, coordinates, "importance sampling from the flow's draws", rng)


def _from_prior(likelihood: GaussianLikelihood, n_walker: int, n_screen: int, rng: np.random.Generator) -> Start:
    x = rng.standard_normal((max(n_screen, 4 * n_walker), N_DIM))
    coordinates = choose_coordinates(likelihood, x)
    y = coordinates.candidates(x)
    # The draws are as bright as the galaxy: only their other coordinates are the prior's.
    draws = _Draws(y, coordinates.log_prob(y) - log_standard_normal(x[:, 1:]), None)
    _alive(draws.log_weight, f"{len(y)} prior draws")
    return _start(_adapted(coordinates, draws, rng), n_walker, coordinates, "population Monte Carlo from prior draws", rng)


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


@dataclass(frozen=True)
class _Draws:
    """Points (n, 11), their log importance weights, and the density that they are from; None if it is not known."""

    points: np.ndarray
    log_weight: np.ndarray
    proposal: Proposal | None

    @property
    def efficiency(self) -> float:
        return effective_sample_size(self.log_weight) / len(self.points)


def _adapted(coordinates: Coordinates, first: _Draws, rng: np.random.Generator) -> _Draws:
    """The best of some rounds of population Monte Carlo (Cappé et al. 2008, arXiv:0710.4242), each fitted to the last."""
    best = last = first
    for _ in range(_MAX_ROUNDS):
        if (best.proposal is not None and best.efficiency > _GOOD_EFFICIENCY) or last.efficiency * len(last.points) < 1:
            break
        if np.count_nonzero(np.isfinite(last.log_weight)) <= N_DIM:
            break
        mixture = StudentMixture.fit(last.points, tempered(last.log_weight, _FIT_ESS), _N_COMPONENTS, rng)
        points = mixture.sample(len(first.points), rng)
        last = _Draws(points, coordinates.log_prob(points) - mixture.log_prob(points), MixtureProposal(mixture))
        if best.proposal is None or last.efficiency > best.efficiency:
            best = last
    return best


def _start(draws: _Draws, n_walker: int, coordinates: Coordinates, origin: str, rng: np.random.Generator) -> Start:
    points = _resampled(draws, n_walker, coordinates, rng)
    return Start(points, coordinates, draws.proposal, draws.efficiency > _WEIGHTED, origin)


def _alive(log_prob: np.ndarray, where: str) -> np.ndarray:
    alive = np.flatnonzero(np.isfinite(log_prob))
    if len(alive) == 0:
        raise ParameterError(
            f"the posterior is zero at all of {where}: check the units of flux and flux_ivar (nanomaggies) and that the "
            "simulator returns finite fluxes"
        )
    return alive


def _resampled(draws: _Draws, n: int, coordinates: Coordinates, rng: np.random.Generator) -> np.ndarray:
    """Distinct points (n, 11), drawn by weight without replacement (Gumbel's trick), of finite posterior."""
    alive = _alive(draws.log_weight, "the draws")
    key = draws.log_weight[alive] + rng.gumbel(size=len(alive))
    chosen = draws.points[alive[np.argsort(-key, kind="stable")[:n]]]
    if len(chosen) < n:
        # Few draws survive: walkers share them, apart by a little, since an ensemble needs distinct points.
        chosen = chosen[np.arange(n) % len(chosen)] + _JITTER * rng.standard_normal((n, N_DIM))
        if not np.isfinite(coordinates.log_prob(chosen)).all():
            raise ParameterError(f"only {len(alive)} draws have a posterior above zero: raise n_screen or pass start")
    return chosen
