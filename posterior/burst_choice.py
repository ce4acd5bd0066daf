"""Whether a galaxy's burst has happened yet, and whether it is young: a choice, which a flow makes before all else.

A burst at a lookback time (from the galaxy) beyond the age of the Universe has not begun: it changes nothing, and there the
posterior of its time is the prior, with a step at that age. A smooth density blurs the step. Given on which side of it the
burst is, the times of that side are mapped to the whole real line, and nothing is left to blur. A young burst is no such case,
but another one than those of long ago: it outshines the rest of the galaxy, or is a tiny part of it.
"""

import numpy as np
from scipy.special import ndtr, ndtri

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.emulator.prior import Prior
from sedcast.posterior.options import log_chance, pick, put_back

__all__ = ["BURST_OPTIONS", "FARTHEST", "from_option", "prior_chances", "to_option"]

BURST_OPTIONS = (2, 3)
"""How many options there may be."""

# Saved flows depend on all of these. Where the Universe is older than nearly all bursts of the prior, the oldest of them count
# as not begun: no option is ever empty.
_MOST_BEGUN = 0.995
_YOUNG_GYR = 1.0
FARTHEST = 7.0
"""Of a coordinate within an option, in σ."""


def prior_chances(zred: np.ndarray, prior: Prior, cosmology: Cosmology, n_options: int) -> np.ndarray:
    """The prior's chances (…, n_options) of where a burst's time is, at redshifts (…).

    The options are: beyond the age of the Universe, but with a chance within 0.005 … 0.995; below it; and, if there are three,
    at less than 1 Gyr, with a chance of 0.0025 at least and of half the second's at most, which the second then is not.

    Raises
    ------
    ParameterError : for other numbers of options.
    """
    if n_options not in BURST_OPTIONS:
        raise ParameterError(f"a burst's time has 2 options, begun or not, or 3, young too: got n_options={n_options}")
    low, high = prior.tburst
    begun = np.clip((cosmology.age_gyr(zred) - low) / (high - low), 1 - _MOST_BEGUN, _MOST_BEGUN)
    if n_options == 2:
        return np.stack([1 - begun, begun], axis=-1)
    young = np.clip((_YOUNG_GYR - low) / (high - low), (1 - _MOST_BEGUN) / 2, begun / 2)
    return np.stack([1 - begun, begun - young, young], axis=-1)


def to_option(probit: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In which of the options bursts are, and where they are among those of the same option.

    Parameters
    ----------
    probit : (…) probit coordinate of the burst's time, whose prior is a standard normal.
    chance : (…, n_options) from `prior_chances`.

    Returns
    -------
    within : (…) coordinate within the burst's option, in which the prior is a standard normal too, within ±7.
    option : (…) 0, 1, …
    log_slope : (…) log of the slope of `within` as a function of `probit`.
    """
    option, share = pick(ndtr(np.asarray(probit, dtype=float)), chance)
    within = np.clip(ndtri(share), -FARTHEST, FARTHEST)
    return within, option, _log_slope(probit, within, option, chance)


def from_option(within: np.ndarray, option: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `to_option`: `probit`, and the same `log_slope`."""
    within = np.clip(np.asarray(within, dtype=float), -FARTHEST, FARTHEST)
    probit = ndtri(put_back(option, ndtr(within), chance))
    return probit, _log_slope(probit, within, option, chance)


def _log_slope(probit: np.ndarray, within: np.ndarray, option: np.ndarray, chance: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (np.square(within, dtype=float) - np.square(probit, dtype=float)) - log_chance(option, chance))
