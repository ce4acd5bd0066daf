"""A choice among a few options, made by a number between 0 and 1.

The options take intervals of (0, 1), each as long as its chance is great, the last option the lowest. A share of (0, 1) picks
the option in whose interval it lies; where it lies within that is again a share of (0, 1), as good as another one.
"""

import numpy as np

__all__ = ["indicators", "log_chance", "pick", "put_back"]


def pick(share: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Options 0 … n_option - 1 that shares pick, and where within the options' intervals they lie, 0 … 1.

    Parameters
    ----------
    share : (…) in 0 … 1.
    chance : (…, n_option), none of them zero, with sum one.
    """
    starts = _starts(chance)
    option = np.zeros(share.shape, dtype=np.int8)
    for start in starts[:-1]:
        option += share < start
    within = np.empty(share.shape)
    for k, start in enumerate(starts):
        np.copyto(within, (share - start) / chance[..., k], where=option == k)
    # Rounding may leave a share outside its interval.
    return option, np.clip(within, 0, 1)


def put_back(option: np.ndarray, within: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """The shares that `pick` divided so; NaN for what is not an option."""
    share = np.full(within.shape, np.nan)
    for k, start in enumerate(_starts(chance)):
        np.copyto(share, start + within * chance[..., k], where=option == k)
    return np.minimum(share, 1)


def log_chance(option: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Logarithms (…) of the chances (…, n_option) of options (…); NaN for what is not an option."""
    result = np.full(option.shape, np.nan)
    for k in range(chance.shape[-1]):
        np.copyto(result, np.log(chance[..., k]), where=option == k)
    return result


def indicators(option: np.ndarray, n_option: int) -> np.ndarray:
    """Rows (n_option - 1, n) float32, 1 where an option (n,) is 1, 2, … and else 0."""
    return np.stack([option == k for k in range(1, n_option)]).astype(np.float32)


def _starts(chance: np.ndarray) -> list[np.ndarray]:
    """The lower ends (…) of the options' intervals."""
    starts = [np.zeros(chance.shape[:-1])]
    for k in range(chance.shape[-1] - 1, 0, -1):
        starts.append(starts[-1] + chance[..., k])
    return starts[::-1]
