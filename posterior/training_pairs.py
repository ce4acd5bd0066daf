"""Pairs (theta, context) to train a flow on: what is refused, what tells them from others, and their standardisation."""

import numpy as np

from sedcast.data.errors import ParameterError

__all__ = ["Pairs", "check_columns", "checked_pairs", "mean_and_std", "split", "standardisation", "summary"]

Pairs = tuple[np.ndarray, np.ndarray]
# Of a direction of the context over the largest: magnitudes over their mean have one without any but rounding.
_LEAST_SPREAD = 1e-5
_LEAST_RESIDUAL = 1e-3


def checked_pairs(theta: np.ndarray, context: np.ndarray) -> Pairs:
    """Theta (n, dim) and context (n, n_context) in float32.

    Raises
    ------
    ParameterError : if shapes do not fit together, or values are not finite.
    """
    pairs = {"theta": np.asarray(theta, dtype=np.float32), "context": np.asarray(context, dtype=np.float32)}
    for name, values in pairs.items():
        if values.ndim != 2 or not values.size:
            raise ParameterError(f"{name} must be a non-empty (n, columns) array, got {values.shape}")
        bad = np.count_nonzero(~np.isfinite(values).all(axis=1))
        if bad:
            raise ParameterError(f"{name} has non-finite values in {bad} of {len(values)} rows: leave those rows out")
    if len(pairs["theta"]) != len(pairs["context"]):
        raise ParameterError(f"theta and context must pair up: got {len(theta)} and {len(context)} rows")
    return pairs["theta"], pairs["context"]


def summary(*sets: Pairs) -> dict[str, list[float]]:
    """What tells sets of pairs from others, but for rounding."""
    mean = np.concatenate([values.mean(axis=0, dtype=float) for pairs in sets for values in pairs])
    return {"n": [len(theta) for theta, _ in sets], "mean": mean.tolist()}


def check_columns(name: str, pairs: Pairs, first: Pairs) -> None:
    """Refuse pairs, called `name`, of other columns than the first chunk's, with a ParameterError."""
    found, expected = ([values.shape[1] for values in each] for each in (pairs, first))
    if found != expected:
        raise ParameterError(f"{name} has {found} columns of theta and context, chunk 0 has {expected}: give the same to all")


def mean_and_std(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (k,) of the columns of training values (n, k).

    Raises
    ------
    ParameterError : if a column is constant; `name` says of what.
    """
    mean, std = values.mean(axis=0, dtype=float), values.std(axis=0, dtype=float)
    constant = np.flatnonzero(std <= 1e-6 * np.maximum(np.abs(mean), 1e-6))
    if constant.size:
        raise ParameterError(
            f"{name} is constant in {constant.size} of {std.size} columns ({constant.tolist()}): leave them out"
        )
    return mean, std


def standardisation(theta: np.ndarray, context: np.ndarray) -> dict[str, np.ndarray]:
    """What makes context (n, n_context) and real columns of theta (n, n_real) of order one, as of `MaskedAutoregressiveFlow`.

    Raises
    ------
    ParameterError : if a column is constant.
    """
    affine: dict[str, np.ndarray] = {}
    for name, values in (("theta", theta), ("context", context)):
        mean, std = mean_and_std(name, values)
        affine |= {f"{name}_mean": mean.astype(np.float32), f"{name}_std": std.astype(np.float32)}
    # What is linear in the context, as most of the mass is, need not be learnt.
    standard = (context - affine["context_mean"]) / affine["context_std"]
    centred = (theta - affine["theta_mean"]).astype(float)
    slope = np.linalg.lstsq(standard.astype(float), centred, rcond=_LEAST_SPREAD)[0].astype(np.float32)
    residual = (centred - standard @ slope).std(axis=0)
    std = np.maximum(residual, _LEAST_RESIDUAL * affine["theta_std"])
    return affine | {"theta_slope": slope, "theta_std": std.astype(np.float32)}


def split(pairs: Pairs, n_held_out: int, *, seed: int) -> tuple[Pairs, Pairs]:
    """Pairs to train on, and as many as are wanted for validation, at random."""
    theta, context = pairs
    order = np.random.default_rng([seed, 2**32]).permutation(len(theta))
    held, kept = order[:n_held_out], order[n_held_out:]
    return (theta[kept], context[kept]), (theta[held], context[held])
