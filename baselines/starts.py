"""Where chains start, and the density that independence moves draw from: from the flow, or found without one."""

from dataclasses import dataclass

import numpy as np

from sedcast.baselines.coordinates import (
    Coordinates,
    FlowCoordinates,
    FlowMap,
    FreeCoordinates,
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

_N_DIM = len(FREE_PARAMETER_NAMES)
_JITTER = 1e-2
_N_COMPONENTS = 3
_MAX_ROUNDS = 8
_FIT_ESS = 400.0
_GOOD_EFFICIENCY = 0.05


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
    return _adapted(likelihood, n_walker, n_screen, rng)


def _from_flow(likelihood: GaussianLikelihood, n_walker: int, n_screen: int, rng: np.random.Generator, flow: FlowMap) -> Start:
    coordinates, proposal = FlowCoordinates(likelihood, flow), NormalProposal(_N_DIM)
    noise = rng.standard_normal((max(n_screen, 4 * n_walker), _N_DIM))
    log_weight = coordinates.log_prob(noise) - log_standard_normal(noise)
    points = _resampled(noise, log_weight, n_walker, coordinates, f"{len(noise)} draws of the flow", rng)
    return Start(points, coordinates, proposal, True, "the flow's draws by importance")


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
    if np.linalg.matrix_rank(chosen - chosen.mean(axis=0)) < _N_DIM:
        raise ParameterError("start points share a plane, which an ensemble never leaves: pass samples that vary in all")
    return Start(chosen, coordinates, None, False, "given samples")


def _adapted(likelihood: GaussianLikelihood, n_walker: int, n_screen: int, rng: np.random.Generator) -> Start:
    """Population Monte Carlo (Cappé et al. 2008, arXiv:0710.4242) until a round's weights are good, or the rounds are over."""
    x = rng.standard_normal((n_screen, _N_DIM))
    coordinates = choose_coordinates(likelihood, x)
    y = coordinates.candidates(x)
    where = f"{len(y)} prior draws"
    log_weight = coordinates.log_prob(y)
    _alive(log_weight, where)
    # Draws are tried as start points at the galaxy's own brightness: only their other coordinates are the prior's.
    log_weight = log_weight - log_standard_normal(x[:, 1:])
    best: tuple[float, StudentMixture | None, np.ndarray, np.ndarray] = (0.0, None, y, log_weight)
    for _ in range(_MAX_ROUNDS):
        if effective_sample_size(log_weight) < 2 or np.count_nonzero(np.isfinite(log_weight)) < _N_DIM + 1:
            break
        mixture = StudentMixture.fit(y, tempered(log_weight, _FIT_ESS), _N_COMPONENTS, rng)
        y = mixture.sample(n_screen, rng)
        log_weight = coordinates.log_prob(y) - mixture.log_prob(y)
        efficiency = effective_sample_size(log_weight) / n_screen
        if efficiency > best[0]:
            best = efficiency, mixture, y, log_weight
        if efficiency > _GOOD_EFFICIENCY:
            break
    efficiency, fitted, y, log_weight = best
    points = _resampled(y, log_weight, n_walker, coordinates, where, rng)
    proposal = None if fitted is None else MixtureProposal(fitted)
    return Start(points, coordinates, proposal, efficiency > _GOOD_EFFICIENCY, "population Monte Carlo from prior draws")


def _alive(log_prob: np.ndarray, where: str) -> np.ndarray:
    alive = np.flatnonzero(np.isfinite(log_prob))
    if len(alive) == 0:
        raise ParameterError(
            f"the posterior is zero at all of {where}: check the units of flux and flux_ivar (nanomaggies) and that the "
            "simulator returns finite fluxes"
        )
    return alive


def _resampled(
    y: np.ndarray, log_weight: np.ndarray, n: int, coordinates: Coordinates, where: str, rng: np.random.Generator
) -> np.ndarray:
    """Distinct points (n, 11), drawn by weight without replacement (Gumbel's trick), of finite posterior."""
    alive = _alive(log_weight, where)
    chosen = y[alive[np.argsort(-(log_weight[alive] + rng.gumbel(size=len(alive))), kind="stable")[:n]]]
    if len(chosen) < n:
        # Few draws survive: walkers share them, apart by a little, since an ensemble needs distinct points.
        chosen = chosen[np.arange(n) % len(chosen)] + _JITTER * rng.standard_normal((n, y.shape[1]))
        if not np.isfinite(coordinates.log_prob(chosen)).all():
            raise ParameterError(f"only {len(alive)} of {where} have a posterior above zero: raise n_screen or pass start")
    return chosen
