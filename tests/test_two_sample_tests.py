"""Distances between sets of samples, against sets whose distance is known."""

import builtins
import time

import numpy as np
import pytest

from sedcast.baselines.two_sample_tests import c2st, marginal_wasserstein, two_samples
from sedcast.data.errors import MissingDependencyError, ParameterError


def test_wasserstein_of_shifted_normals_is_the_shift():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((20_000, 2)), rng.normal([0.0, 1.0], 1.0, (15_000, 2))
    np.testing.assert_allclose(marginal_wasserstein(first, second), [0.0, 1.0], atol=0.03)
    np.testing.assert_allclose(marginal_wasserstein(first, second, scale=np.array([1.0, 2.0])), [0.0, 0.5], atol=0.03)


def test_c2st_follows_the_exact_accuracy_of_shifted_sets():
    rng = np.random.default_rng(0)
    first, shifted = (rng.standard_normal((1000, 3)) for _ in range(2))
    shifted[:, 0] += 2.0
    assert c2st(first, shifted, seed=1) == pytest.approx(0.8413, abs=0.03)  # Phi(1), the best that any classifier can do


def test_c2st_of_equal_sets_is_half_on_average():
    rng = np.random.default_rng(0)
    found = [c2st(rng.standard_normal((300, 3)), rng.standard_normal((300, 3)), seed=seed) for seed in range(12)]
    # A coin of 600 throws scatters by 0.02, the mean of 12 by 0.006; folds of unequal sizes would bias it downwards.
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)
    assert np.max(np.abs(np.array(found) - 0.5)) < 0.08


def test_c2st_sees_a_correlation_that_no_marginal_shows():
    rng = np.random.default_rng(0)
    first = rng.standard_normal((1000, 4))
    second = rng.standard_normal((1000, 4))
    second[:, 1] = 0.8 * second[:, 0] + 0.6 * second[:, 1]
    assert c2st(first, second, seed=1) > 0.6
    assert marginal_wasserstein(first, second).max() < 0.1


def _of_one(change):
    def changed(x):
        x = x.copy()
        x[:, 5] = change(x[:, 5])
        return x

    return changed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "accuracy"),
    [
        (lambda x: 0.9 * x, 0.55),
        (lambda x: 0.8 * x, 0.65),
        (lambda x: x + 0.1, 0.55),
        (_of_one(lambda v: v + 0.2), 0.52),
        (_of_one(lambda v: v + 0.5), 0.60),
        (_of_one(lambda v: 0.5 * v), 0.64),
        (lambda x: np.column_stack([0.9 * x[:, 1] + np.sqrt(0.19) * x[:, 0], x[:, 1:]]), 0.74),
        (_of_one(lambda v: v + 5 * (np.arange(len(v)) % 100 < 3)), 0.51),
    ],
)
def test_accuracy_on_planted_faults_is_what_the_page_says(fault, accuracy):
    rng = np.random.default_rng(0)
    found = [c2st(fault(rng.standard_normal((1000, 11))), rng.standard_normal((1000, 11)), seed=seed) for seed in range(4)]
    assert np.mean(found) == pytest.approx(accuracy, abs=0.025)


def test_c2st_is_repeatable():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 200, 3))
    assert c2st(first, second, seed=3) == c2st(first, second, seed=3)


def test_copies_stay_in_one_fold_so_that_repetition_alone_is_not_seen():
    rng = np.random.default_rng(0)
    first = rng.standard_normal((600, 3))
    second = np.repeat(rng.standard_normal((120, 3)), 5, axis=0)
    second[:, 0] = rng.standard_normal(600)  # as importance refinement draws masses anew
    assert c2st(first, second, seed=1) == pytest.approx(0.5, abs=0.08)


def test_figures_of_a_shifted_and_a_wider_set():
    rng = np.random.default_rng(0)
    reference = rng.normal(0.0, 2.0, (20_000, 2))
    first = rng.normal([1.0, 0.0], [2.0, 4.0], (20_000, 2))
    found = two_samples(first[:3000], reference[:2000], unit=np.array([2.0, 1.0]), n_joint=1, seed=0)
    np.testing.assert_allclose(found.shift, [0.5, 0.0], atol=0.1)
    np.testing.assert_allclose(found.width_ratio, [1.0, 2.0], atol=0.12)
    assert found.wasserstein[0] == pytest.approx(0.5, abs=0.08)
    assert found.n == 2000
    # The best classifier of the first quantity is right with probability Phi(1/4).
    assert found.c2st == pytest.approx(0.599, abs=0.03)
    few = two_samples(first[:6], reference[:6], seed=0)
    assert np.isnan(few.c2st)
    quantiles = np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    known = two_samples(first[:50], reference[:50], seed=0, quantiles=(quantiles + 1, quantiles))
    np.testing.assert_allclose(known.shift, 1.0)


def test_c2st_of_a_thousand_each_in_eleven_dimensions_takes_about_a_second():
    rng = np.random.default_rng(0)
    began = time.process_time()
    c2st(rng.standard_normal((1000, 11)), rng.standard_normal((1000, 11)), seed=0)
    assert time.process_time() - began < 8  # 0.5 s on an idle core; the bound catches a change of kind only


def test_c2st_without_scikit_learn_says_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def no_sklearn(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_sklearn)
    with pytest.raises(MissingDependencyError, match="scikit-learn"):
        c2st(np.zeros((20, 2)), np.zeros((20, 2)), seed=0)


def test_bad_input_is_refused():
    with pytest.raises(ParameterError, match="samples have shapes"):
        marginal_wasserstein(np.zeros((10, 2)), np.zeros((10, 3)))
    with pytest.raises(ParameterError, match="not finite"):
        marginal_wasserstein(np.full((10, 2), np.nan), np.zeros((10, 2)))
    with pytest.raises(ParameterError, match="folds"):
        c2st(np.zeros((4, 2)), np.zeros((4, 2)), seed=0)


def test_shifts_are_in_the_width_of_the_second():
    rng = np.random.default_rng(0)
    found = two_samples(rng.normal(1, 4, (4000, 1)), rng.normal(0, 2, (4000, 1)), seed=0)
    assert found.shift[0] == pytest.approx(0.5, abs=0.1)
