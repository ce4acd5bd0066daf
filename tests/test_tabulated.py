"""Densities that are linear between nodes."""

import numpy as np
import pytest
from scipy.stats import kstest

from sedcast.posterior.tabulated import TabulatedDensity

LOW, HIGH = np.array([0.0, -1.0, 3.0]), np.array([1.0, 3.0, 3.5])
VALUES = np.array([[1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 4.0, 2.0, 0.0], [5.0, 0.0, 0.0, 0.0, 1.0]])


def density() -> TabulatedDensity:
    return TabulatedDensity(LOW, HIGH, VALUES)


def test_density_is_the_normalised_interpolation():
    for x in np.linspace(0.01, 0.99, 17):
        at = LOW + x * (HIGH - LOW)
        for row, (low, high, values) in enumerate(zip(LOW, HIGH, VALUES, strict=True)):
            nodes = np.linspace(low, high, 5)
            expected = np.interp(at[row], nodes, values) / np.trapezoid(values, nodes)
            found = density().log_density(at)[row]
            assert np.exp(found) == pytest.approx(expected, rel=1e-12, abs=1e-300)
    assert (density().log_density(HIGH + 1e-9) == -np.inf).all()
    assert (density().log_density(LOW - 1e-9) == -np.inf).all()


def test_quantiles_invert_the_cumulative_density():
    p = np.linspace(0, 1, 41)
    for row in range(3):
        found = np.array([density().quantile(np.full(3, share))[row] for share in p])
        assert found[0] == pytest.approx(LOW[row], abs=1e-12)
        assert found[-1] == pytest.approx(HIGH[row], abs=1e-12)
        fine = np.linspace(LOW[row], HIGH[row], 200_001)
        height = np.interp(fine, np.linspace(LOW[row], HIGH[row], 5), VALUES[row])
        cumulative = np.concatenate([[0], np.cumsum(0.5 * (height[1:] + height[:-1]))])
        np.testing.assert_allclose(np.interp(found, fine, cumulative / cumulative[-1]), p, atol=2e-5)


def test_many_draws_of_one_density():
    n = 4000
    many = TabulatedDensity(np.full(n, -1.0), np.full(n, 3.0), np.tile(VALUES[1], (n, 1)))
    drawn = many.quantile(np.random.default_rng(0).random(n))
    fine = np.linspace(-1, 3, 4001)
    cumulative = np.cumsum(np.interp(fine, np.linspace(-1, 3, 5), VALUES[1]))
    assert kstest(np.interp(drawn, fine, cumulative / cumulative[-1]), "uniform").pvalue > 1e-3


def test_rounding_takes_no_quantile_beyond_the_end():
    values = np.random.default_rng(0).random((1000, 20)).astype(np.float32) ** 8
    steep = TabulatedDensity(np.zeros(1000, np.float32), np.ones(1000, np.float32), values)
    assert steep.quantile(np.ones(1000, np.float32)).max() <= 1 + 1e-6
