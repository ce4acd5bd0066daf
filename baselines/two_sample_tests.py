"""How far apart two sets of samples are: a classifier's accuracy, distances of the marginals, shifts and widths."""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.stats import wasserstein_distance

from sedcast.data.checks import as_floats, whole_number
from sedcast.data.errors import MissingDependencyError, ParameterError
from sedcast.posterior.exact import thinned_rows

__all__ = ["TwoSamples", "c2st", "marginal_wasserstein", "two_samples"]

_PERCENTILES = (16.0, 50.0, 84.0)
_MIN_PER_FOLD = 2
_BATCH, _RATE, _PATIENCE, _MAX_EPOCHS = 100, 3e-3, 5, 100


@dataclass(frozen=True)
class TwoSamples:
    """How far a set of samples is from a reference.

    Attributes
    ----------
    c2st : held-out accuracy of a classifier; 0.5 is indistinguishable; NaN if there are too few samples.
    n : samples of each set that the classifier saw.
    wasserstein : (n_quantity,) distances of the marginals, in the unit given.
    shift : (n_quantity,) differences of the medians, in the reference's sigma (half its 16-84% range).
    width_ratio : (n_quantity,) ratios of the 16-84% ranges.
    """

    c2st: float
    n: int
    wasserstein: np.ndarray
    shift: np.ndarray
    width_ratio: np.ndarray


def two_samples(
    first: np.ndarray,
    reference: np.ndarray,
    *,
    unit: np.ndarray | float = 1.0,
    n_joint: int | None = None,
    seed: int,
    quantiles: tuple[np.ndarray, np.ndarray] | None = None,
) -> TwoSamples:
    """Every figure of the comparison of two sets of effectively independent samples.

    Parameters
    ----------
    first, reference : (n, n_quantity) and (m, n_quantity).
    unit : (n_quantity,) or one, of the Wasserstein distances: for example the prior's standard deviations.
    n_joint : the classifier sees so many of the first quantities, those that determine the rest; default, all.
    seed : of the classifier.
    quantiles : 16, 50 and 84% quantiles (3, n_quantity) of both, where they are known from more samples than these.
    """
    first, reference = _pair(first, reference)
    if n_joint is not None:
        n_joint = whole_number("n_joint", n_joint)
    n = min(len(first), len(reference))
    folds = 5
    accuracy = c2st(first[:, :n_joint], reference[:, :n_joint], seed=seed) if n >= _MIN_PER_FOLD * folds else float("nan")
    if quantiles is None:
        q, r = (np.percentile(part, _PERCENTILES, axis=0) for part in (first, reference))
    else:
        both = as_floats("quantiles", quantiles)
        if both.shape != (2, len(_PERCENTILES), first.shape[1]):
            raise ParameterError(f"quantiles: expected two of shape {(len(_PERCENTILES), first.shape[1])}, got {both.shape}")
        q, r = both
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = (q[1] - r[1]) / (0.5 * (r[2] - r[0]))
        ratio = (q[2] - q[0]) / (r[2] - r[0])
    return TwoSamples(accuracy, n, marginal_wasserstein(first, reference, scale=unit), shift, ratio)


def marginal_wasserstein(first: np.ndarray, second: np.ndarray, *, scale: np.ndarray | float = 1.0) -> np.ndarray:
    """Wasserstein-1 distance between the marginals of two sets of samples, in units of `scale`, (n_dim,).

    Parameters
    ----------
    first, second : (n, n_dim) and (m, n_dim).
    scale : (n_dim,) or one for all, for example the prior's standard deviations; 1 for probit-space samples.
    """
    first, second = _pair(first, second)
    unit = as_floats("scale", scale)
    if unit.shape not in ((), (first.shape[1],)) or not ((unit > 0) & (unit < np.inf)).all():
        raise ParameterError(f"scale={scale}: expected a positive number, or one for each of {first.shape[1]} quantities")
    distance = [wasserstein_distance(first[:, column], second[:, column]) for column in range(first.shape[1])]
    return np.asarray(distance) / unit


def c2st(first: np.ndarray, second: np.ndarray, *, seed: int, n_folds: int = 5) -> float:
    """Classifier two-sample test: held-out accuracy of a network that tells the two sets apart; 0.5 is indistinguishable.

    Samples of a chain should be thinned to nearly independent ones first: a neighbour of a held-out point in the training
    folds gives its set away. Copies within a set are kept in one fold, also those that differ in the first coordinate alone:
    importance refinement repeats draws with masses of their own. Every fold holds nearly as many of the one set as of the
    other: a network that learnt nothing but the majority of the training folds would be right less often than half the time.

    Parameters
    ----------
    first, second : (n, n_dim) and (m, n_dim); the larger is thinned evenly to the size of the smaller.
    seed : of the classifier and the folds.
    n_folds : folds of the cross-validation.

    Raises
    ------
    MissingDependencyError : if scikit-learn is not installed.

    References
    ----------
    Lopez-Paz & Oquab 2017, arXiv:1610.06545; Lueckmann et al. 2021, arXiv:2101.04653 (two hidden layers of 10 n_dim units,
    five folds, data scaled by the first set). Here training stops early: at thousands of samples it is faster and sees more.
    """
    try:
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise MissingDependencyError("the classifier two-sample test needs scikit-learn: pip install scikit-learn") from error
    first, second = _pair(first, second)
    seed, n_folds = whole_number("seed", seed, least=0, bits=32), whole_number("n_folds", n_folds, least=2)
    n = min(len(first), len(second))
    if n < _MIN_PER_FOLD * n_folds:
        raise ParameterError(f"{n} samples in the smaller set: {n_folds} folds need at least {_MIN_PER_FOLD * n_folds}")
    first, second = (part[thinned_rows(len(part), n)] for part in (first, second))
    rng = np.random.default_rng(seed)
    fold = np.concatenate([_folds(part, n_folds, rng) for part in (first, second)])
    scale = first.std(axis=0)
    data = (np.concatenate([first, second]) - first.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    labels = np.repeat([0, 1], n)
    order = rng.permutation(2 * n)
    data, labels, fold = data[order].astype(np.float32), labels[order], fold[order]
    width = 10 * data.shape[1]
    right = 0
    with warnings.catch_warnings():
        # The network's own early stopping decides; that it ran out of iterations is no news to the caller.
        warnings.simplefilter("ignore")
        for held_out in range(n_folds):
            network = MLPClassifier(
                (width, width),
                batch_size=min(_BATCH, n),
                learning_rate_init=_RATE,
                early_stopping=n >= 10 * n_folds,
                n_iter_no_change=_PATIENCE,
                max_iter=_MAX_EPOCHS,
                random_state=seed,
            )
            inside = fold == held_out
            network.fit(data[~inside], labels[~inside])
            right += int(np.count_nonzero(network.predict(data[inside]) == labels[inside]))
    return right / (2 * n)


def _folds(samples: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold (n,) for each sample: of equal sizes within one, but that copies of a sample stay together."""
    _, group = np.unique(samples[:, -max(1, samples.shape[1] - 1) :], axis=0, return_inverse=True)
    number = rng.permutation(group.max() + 1)[group.ravel()]
    return number % n_folds


def _pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = as_floats("the first samples", first), as_floats("the second samples", second)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ParameterError(f"samples have shapes {first.shape} and {second.shape}, expected (n, n_dim) and (m, n_dim)")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ParameterError("samples hold values that are not finite: leave those rows out")
    return first, second
