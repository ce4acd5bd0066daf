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
    option = np.zeros(share.shape, dtype=np.int8)
    for end in _ends(chance)[1:]:
        option += share < end
    within, ends = np.empty(share.shape), [*_ends(chance), 0.0]
    for k in range(chance.shape[-1]):
        np.copyto(within, (share - ends[k + 1]) / chance[..., k], where=option == k)
    return option, within


def put_back(option: np.ndarray, within: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """The shares that `pick` divided so."""
    share, ends = np.empty(within.shape), [*_ends(chance), 0.0]
    for k in range(chance.shape[-1]):
        np.copyto(share, ends[k + 1] + within * chance[..., k], where=option == k)
    return share


def log_chance(option: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Logarithms (…) of the chances of options (…)."""
    result = np.empty(option.shape)
    for k in range(chance.shape[-1]):
        np.copyto(result, np.log(chance[..., k]), where=option == k)
    return result


def indicators(option: np.ndarray, n_option: int) -> np.ndarray:
    """Rows (n_option - 1, n) float32, 1 where an option (n,) is 1, 2, … and else 0."""
    return np.stack([option == k for k in range(1, n_option)]).astype(np.float32)


def _ends(chance: np.ndarray) -> list[np.ndarray]:
    """The upper ends of the intervals, (…) each."""
    return list(np.moveaxis(np.cumsum(chance[..., ::-1], axis=-1)[..., ::-1], -1, 0))
