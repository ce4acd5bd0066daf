"""Whether a galaxy's burst has happened yet: a choice, which a flow makes before all else.

A burst at a lookback time (from the galaxy) beyond the age of the Universe has not begun: it changes nothing, and there the
posterior of its time is the prior, with a step at that age. A smooth density blurs the step. Given on which side of it the
burst is, the times of that side are mapped to the whole real line, and nothing is left to blur.
"""

import numpy as np
from scipy.special import ndtr, ndtri

from sedcast.data.cosmology import Cosmology
from sedcast.emulator.prior import Prior

__all__ = ["from_sides", "to_sides", "youngest_unbegun"]

# Where the Universe is older than any burst of the prior, the oldest bursts of it count as not begun: no side is ever empty.
_MOST_BEGUN = 0.995
_EDGE = 1e-12


def youngest_unbegun(zred: np.ndarray, prior: Prior, cosmology: Cosmology) -> np.ndarray:
    """The share of the prior's burst times that are less than the age of the Universe at redshifts (…), at most 0.995."""
    low, high = prior.tburst
    return np.clip((cosmology.age_gyr(zred) - low) / (high - low), 1 - _MOST_BEGUN, _MOST_BEGUN)


def to_sides(probit: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether bursts have begun, and where they are among those of which the same holds.

    Parameters
    ----------
    probit : (n,) probit coordinate of the burst's time, whose prior is a standard normal.
    step : (n,) from `youngest_unbegun`.

    Returns
    -------
    side : (n,) coordinate on the burst's side, on which the prior is a standard normal too.
    begun : (n,) bool.
    log_slope : (n,) log of the slope of `side` as a function of `probit`.
    """
    share = ndtr(np.asarray(probit, dtype=float))
    begun = share <= step
    of_side = np.where(begun, share / step, (share - step) / (1 - step))
    side = ndtri(np.clip(of_side, _EDGE, 1 - _EDGE))
    return side, begun, _log_slope(probit, side, begun, step)


def from_sides(side: np.ndarray, begun: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `to_sides`: `probit` and `log_slope`."""
    of_side = ndtr(np.asarray(side, dtype=float))
    share = np.where(begun, of_side * step, step + of_side * (1 - step))
    probit = ndtri(np.clip(share, _EDGE, 1 - _EDGE))
    return probit, _log_slope(probit, side, begun, step)


def _log_slope(probit: np.ndarray, side: np.ndarray, begun: np.ndarray, step: np.ndarray) -> np.ndarray:
    return np.asarray(
        0.5 * (np.square(side, dtype=float) - np.square(probit, dtype=float)) - np.log(np.where(begun, step, 1 - step))
    )
