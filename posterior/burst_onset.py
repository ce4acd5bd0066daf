"""Whether a galaxy's burst has happened yet: a choice, which a flow makes before all else.

A burst at a lookback time (from the galaxy) beyond the age of the Universe has not begun: it changes nothing, and there the
posterior of its time is the prior, with a step at that age. A smooth density blurs the step. Given on which side of it the
burst is, the times of that side are mapped to the whole real line, and nothing is left to blur.
"""

import numpy as np
from scipy.special import ndtr, ndtri

from sedcast.data.cosmology import Cosmology
from sedcast.emulator.prior import Prior

__all__ = ["from_sides", "share_begun", "to_sides"]

# Where the Universe is older than nearly all bursts of the prior, the oldest of them count as not begun: no side is ever empty.
_MOST_BEGUN = 0.995
# Of a coordinate on either side, in σ.
_FARTHEST = 7.0


def share_begun(zred: np.ndarray, prior: Prior, cosmology: Cosmology) -> np.ndarray:
    """The share of the prior's burst times that are below the age of the Universe at redshifts (…), within 0.005 … 0.995."""
    low, high = prior.tburst
    return np.clip((cosmology.age_gyr(zred) - low) / (high - low), 1 - _MOST_BEGUN, _MOST_BEGUN)


def to_sides(probit: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether bursts have begun, and where they are among those of which the same holds.

    Parameters
    ----------
    probit : (…) probit coordinate of the burst's time, whose prior is a standard normal.
    step : (…) from `share_begun`.

    Returns
    -------
    side : (…) coordinate on the burst's side, on which the prior is a standard normal too, within ±7.
    begun : (…) bool.
    log_slope : (…) log of the slope of `side` as a function of `probit`.
    """
    share = ndtr(np.asarray(probit, dtype=float))
    begun = share <= step
    of_side = np.where(begun, share / step, (share - step) / (1 - step))
    side = np.clip(ndtri(of_side), -_FARTHEST, _FARTHEST)
    return side, begun, _log_slope(probit, side, begun, step)


def from_sides(side: np.ndarray, begun: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `to_sides`: `probit`, and the same `log_slope`."""
    side = np.clip(np.asarray(side, dtype=float), -_FARTHEST, _FARTHEST)
    of_side = ndtr(side)
    probit = ndtri(np.where(begun, of_side * step, step + of_side * (1 - step)))
    return probit, _log_slope(probit, side, begun, step)


def _log_slope(probit: np.ndarray, side: np.ndarray, begun: np.ndarray, step: np.ndarray) -> np.ndarray:
    return np.asarray(
        0.5 * (np.square(side, dtype=float) - np.square(probit, dtype=float)) - np.log(np.where(begun, step, 1 - step))
    )
