"""Pareto smoothing against ArviZ's implementation, and against tails of known shape."""

import numpy as np
import pytest

from sedcast.data.errors import ParameterError
from sedcast.posterior.psis import effective_sample_size, pareto_smooth, systematic_rows, tempered


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("n", [25, 100, 4000])
def test_weights_and_khat_are_arvizs(rng, scale, n):
    arviz = pytest.importorskip("arviz")
    log_weights = scale * rng.standard_normal(n) + 7
    expected, khat = arviz.psislw(log_weights)
    smoothed, found = pareto_smooth(log_weights)
    assert found == pytest.approx(float(khat), abs=1e-8)
    np.testing.assert_allclose(smoothed, expected, atol=1e-8)


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_khat_is_the_shape_of_a_pareto_tail(rng, shape):
    log_weights = -shape * np.log(rng.random(200_000))
    assert pareto_smooth(log_weights)[1] == pytest.approx(shape, abs=0.12)


def test_zeros_stay_zero_and_equal_weights_have_no_tail():
    log_weights = np.zeros(1000)
    log_weights[:500] = -np.inf
    smoothed, khat = pareto_smooth(log_weights)
    assert khat == 0
    assert pareto_smooth(np.array([0.0, -1.0, -2.0]))[1] == np.inf
    np.testing.assert_allclose(np.exp(smoothed), np.repeat([0, 1 / 500], 500))
    assert effective_sample_size(log_weights) == pytest.approx(500)
    assert effective_sample_size(np.full(5, -np.inf)) == 0
    for n, n_equal in ((2000, 110), (2000, 99), (1200, 102)):
        log_weights = np.where(np.arange(n) < n_equal, 0.0, -np.inf)
        smoothed, khat = pareto_smooth(log_weights)
        assert khat == 0
        np.testing.assert_allclose(np.exp(smoothed), np.exp(log_weights) / n_equal, atol=1e-15)
    nearly = np.full(2000, -np.inf)
    nearly[:110] = np.where(np.arange(110) < 10, -1.0, 0.0)
    smoothed, khat = pareto_smooth(nearly)
    assert np.isfinite(khat)
    assert not np.isnan(smoothed).any()


@pytest.mark.parametrize("wrong", [np.full(10, -np.inf), np.array([0.0, np.nan]), np.array([0.0, np.inf]), np.zeros((2, 2))])
def test_impossible_weights_are_refused(wrong):
    with pytest.raises(ParameterError, match="log_weights"):
        pareto_smooth(wrong)


def test_weights_that_hardly_differ_stay_as_they_are() -> None:
    smoothed, khat = pareto_smooth(np.random.default_rng(1).normal(0, 1e-17, 1000))
    np.testing.assert_allclose(smoothed, -np.log(1000))
    assert khat == 0
    assert np.isfinite(pareto_smooth(np.random.default_rng(1).normal(0, 1e-12, 1000))[0]).all()


def test_systematic_rows_stand_rounding() -> None:
    weights = np.random.default_rng(0).random((2000, 60))
    weights[:, 40:] = 0
    rows = systematic_rows(weights, 1000, np.zeros((2000, 1)))
    assert rows.max() < 40


def test_offsets_up_to_one_leave_as_many_rows() -> None:
    weights = np.random.default_rng(0).random((5000, 60))
    rows = systematic_rows(weights, 1000, np.full((5000, 1), np.nextafter(1, 0)))
    assert rows.shape == (5000, 1000)


def test_tempered_weights_are_a_power_that_has_the_effective_size_asked_for() -> None:
    log_weights = np.append(3 * np.random.default_rng(2).standard_normal(2000), -np.inf)
    assert effective_sample_size(log_weights) < 200
    weights = tempered(log_weights, 200)
    assert weights.sum() == pytest.approx(1)
    assert weights[-1] == 0
    assert 1 / (weights @ weights) == pytest.approx(200, rel=1e-6)
    powers = np.diff(np.log(weights[:-1])) / np.diff(log_weights[:-1])
    np.testing.assert_allclose(powers, powers[0], rtol=1e-6)
    enough = tempered(0.1 * log_weights, 200)
    np.testing.assert_allclose(enough, np.exp(0.1 * log_weights) / np.exp(0.1 * log_weights).sum())
