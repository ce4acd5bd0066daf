"""Moves of independent groups of walkers that share one call of the likelihood, for emcee and zeus.

Walkers of one ensemble are not independent chains: each moves by the others. So a run has several groups of walkers that
never see each other, and R-hat compares those. Were each group a sampler of its own, the likelihood would be called with a
few dozen points at a time, at several times the cost of each; here the groups are parts of one sampler, whose moves take each
walker's complement from its own group alone. (zeus tunes one length scale for all of them, during burn-in only.)
"""

from collections.abc import Callable
from typing import Any, Protocol

import emcee
import numpy as np

from sedcast.baselines.coordinates import log_standard_normal
from sedcast.posterior.student_mixture import StudentMixture

__all__ = [
    "GroupedMove",
    "MixtureProposal",
    "NormalProposal",
    "Proposal",
    "ZeusGroups",
    "emcee_moves",
    "emcee_sampler",
    "independence_move",
]

_GROUPED = {"randomize_split": False}


class Proposal(Protocol):
    """A density close to the posterior, from which independence Metropolis-Hastings draws.

    Attributes
    ----------
    name : for the record.
    """

    name: str

    def sample(self, n: int, rng: Any) -> np.ndarray:
        """Draw n points (n, dim) with a `numpy.random.RandomState`, emcee's own generator."""
        ...

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log density at points (n, dim), (n,)."""
        ...


class NormalProposal:
    """The flow itself, which is a standard normal in its base noise."""

    name = "flow"

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def sample(self, n: int, rng: Any) -> np.ndarray:  # noqa: D102
        return np.asarray(rng.standard_normal((n, self.dim)))

    def log_prob(self, y: np.ndarray) -> np.ndarray:  # noqa: D102
        return log_standard_normal(y)


class MixtureProposal:
    """A mixture of t distributions, fitted before the run begins."""

    name = "t-mixture"

    def __init__(self, mixture: StudentMixture) -> None:
        self.mixture = mixture

    def sample(self, n: int, rng: Any) -> np.ndarray:  # noqa: D102
        return self.mixture.sample(n, rng)

    def log_prob(self, y: np.ndarray) -> np.ndarray:  # noqa: D102
        return self.mixture.log_prob(y)


class GroupedMove(emcee.moves.RedBlueMove):
    """A red-blue move of emcee's on each of several groups of walkers, which come one after the other.

    Parameters
    ----------
    move : an emcee move made with ``randomize_split=False``.
    n_groups : a divisor of the number of walkers; groups must be of even size.
    """

    def __init__(self, move: emcee.moves.RedBlueMove, n_groups: int) -> None:
        super().__init__(**_GROUPED)
        self.move, self.n_groups = move, n_groups

    def setup(self, coords: np.ndarray) -> None:
        """As of the move."""
        self.move.setup(coords)

    def get_proposal(self, sample: np.ndarray, complement: list[np.ndarray], random: Any) -> tuple[np.ndarray, np.ndarray]:
        """Proposals (n, dim) and log factors (n,) for every other walker; emcee takes even and odd ones in turn."""
        parts = zip(np.split(sample, self.n_groups), np.split(complement[0], self.n_groups), strict=True)
        proposed, factors = zip(*(self.move.get_proposal(own, [others], random) for own, others in parts), strict=True)
        return np.concatenate(proposed), np.concatenate(factors)


def independence_move(proposal: Proposal) -> emcee.moves.MHMove:
    """Metropolis-Hastings with draws of a proposal that do not depend on where the walker is (Tierney 1994)."""

    def propose(coords: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray]:
        drawn = proposal.sample(len(coords), rng)
        return drawn, proposal.log_prob(coords) - proposal.log_prob(drawn)

    return emcee.moves.MHMove(propose)


def emcee_sampler(log_prob: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], moves: list[Any]) -> Any:
    """The sampler of emcee for walkers of a `shape` (n_walker, n_dim), which prints nothing where the density raises."""
    sampler = emcee.EnsembleSampler(*shape, log_prob, moves=moves, vectorize=True)
    # In place of emcee's wrapper of it, which prints the points and the traceback of what it raises again.
    sampler.log_prob_fn = log_prob
    return sampler


def emcee_moves(n_groups: int, proposal: Proposal | None) -> tuple[list[tuple[emcee.moves.Move, float]], tuple[str, ...]]:
    """The mix of moves, with shares, and its description.

    DESnookerMove is left out: in emcee 3.1.6 it breaks detailed balance (fixed by emcee's pull request 531), and narrows
    an 11-dimensional normal to 0.60 of its variance.

    Parameters
    ----------
    n_groups : of walkers.
    proposal : for independence moves, or None for local ones alone.
    """
    de, stretch = emcee.moves.DEMove, emcee.moves.StretchMove
    local: list[tuple[str, Callable[..., emcee.moves.RedBlueMove], float]] = [
        ("differential evolution", de, 0.8),
        ("differential evolution, gamma=1", lambda **kwargs: de(gamma0=1.0, **kwargs), 0.1),
        ("stretch", stretch, 0.1),
    ]
    share = 1.0 if proposal is None else 1.0 - INDEPENDENT_SHARE
    moves: list[tuple[emcee.moves.Move, float]] = [(GroupedMove(make(**_GROUPED), n_groups), share * w) for _, make, w in local]
    names = [f"{share * weight:.0%} {name}" for name, _, weight in local]
    if proposal is not None:
        moves.append((independence_move(proposal), INDEPENDENT_SHARE))
        names.append(f"{INDEPENDENT_SHARE:.0%} independence ({proposal.name})")
    return moves, tuple(names)


INDEPENDENT_SHARE = 0.5
"""Of emcee's moves, where there is a proposal for them."""


class ZeusGroups:
    """A move of zeus's on each of several groups of walkers.

    The sampler must not shuffle: then the first half of its walkers and the second half move in turn. Each half holds
    half of every group, one group after the other.

    Parameters
    ----------
    move : of zeus.
    n_groups : a divisor of half the number of walkers.
    """

    def __init__(self, move: Any, n_groups: int) -> None:
        self.move, self.n_groups = move, n_groups

    def get_direction(self, complement: np.ndarray, mu: float) -> tuple[np.ndarray, bool]:
        """Directions (n, dim) from the complement (n, dim), and whether the scale is to be tuned."""
        directions, tuned = zip(
            *(self.move.get_direction(part, mu) for part in np.split(complement, self.n_groups)), strict=True
        )
        return np.concatenate(directions), tuned[0]

    def order(self, n_walker: int) -> np.ndarray:
        """(n_walker,) the sampler's walkers, group by group."""
        return np.arange(n_walker).reshape(2, self.n_groups, -1).swapaxes(0, 1).ravel()
