"""Whether a galaxy's burst has happened yet, and how long ago: a choice, which a flow makes before all else.

A burst at a lookback time (from the galaxy) beyond the age of the Universe has not begun: it changes nothing, and there the
posterior of its time is the prior, with a step at that age. A smooth density blurs the step. Given on which side of it the
burst is, the times of that side are mapped to the whole real line, and nothing is left to blur. Likewise a young burst, whose
light the others' outshine a hundred times or not at all, may be told from those of long ago.
"""

import numpy as np
from scipy.special import ndtr, ndtri

from sedcast.data.cosmology import Cosmology
from sedcast.emulator.prior import Prior
from sedcast.posterior.options import log_chance, pick, put_back

__all__ = ["from_sides", "prior_chances", "to_sides"]

# Where the Universe is older than nearly all bursts of the prior, the oldest of them count as not begun: no side is ever empty.
_MOST_BEGUN = 0.995
# Of a coordinate on either side, in σ.
_FARTHEST = 7.0
_YOUNG_GYR = 1.0


def prior_chances(zred: np.ndarray, prior: Prior, cosmology: Cosmology, n_options: int) -> np.ndarray:
    """The prior's chances (…, n_options) of where a burst's time is, at redshifts (…).

    The options are: beyond the age of the Universe (but a chance within 0.005 … 0.995); below it; and, if there are three, at
    less than 1 Gyr (or half of the age), which the second then is not.
    """
    low, high = prior.tburst
    begun = np.clip((cosmology.age_gyr(zred) - low) / (high - low), 1 - _MOST_BEGUN, _MOST_BEGUN)
    if n_options == 2:
        return np.stack([1 - begun, begun], axis=-1)
    young = np.minimum((_YOUNG_GYR - low) / (high - low), begun / 2)
    return np.stack([1 - begun, begun - young, young], axis=-1)


def to_sides(probit: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In which of the options bursts are, and where they are among those of the same option.

    Parameters
    ----------
    probit : (…) probit coordinate of the burst's time, whose prior is a standard normal.
    chance : (…, n_options) from `prior_chances`.

    Returns
    -------
    side : (…) coordinate within the burst's option, in which the prior is a standard normal too, within ±7.
    option : (…) 0, 1, …
    log_slope : (…) log of the slope of `side` as a function of `probit`.
    """
    option, within = pick(ndtr(np.asarray(probit, dtype=float)), chance)
    side = np.clip(ndtri(within), -_FARTHEST, _FARTHEST)
    return side, option, _log_slope(probit, side, option, chance)


def from_sides(side: np.ndarray, option: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `to_sides`: `probit`, and the same `log_slope`."""
    side = np.clip(np.asarray(side, dtype=float), -_FARTHEST, _FARTHEST)
    probit = ndtri(put_back(option, ndtr(side), chance))
    return probit, _log_slope(probit, side, option, chance)


def _log_slope(probit: np.ndarray, side: np.ndarray, option: np.ndarray, chance: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (np.square(side, dtype=float) - np.square(probit, dtype=float)) - log_chance(option, chance))
