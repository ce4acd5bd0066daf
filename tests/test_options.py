import numpy as np
import pytest

from sedcast.posterior.options import indicators, log_chance, pick, put_back


@pytest.mark.parametrize("chance", [(0.3, 0.7), (0.2, 0.5, 0.3), (1 - 2e-9, 1e-9, 1e-9)])
def test_shares_come_back_from_their_options(chance):
    share = np.concatenate([np.random.default_rng(0).random(50_000), [0, 1, chance[-1], 1 - chance[0]]])
    option, within = pick(share, np.array(chance))
    assert ((within >= 0) & (within <= 1)).all()
    np.testing.assert_allclose(put_back(option, within, np.array(chance)), share, atol=1e-15)
    np.testing.assert_allclose(np.bincount(option[:50_000], minlength=len(chance)) / 50_000, chance, atol=0.01)
    np.testing.assert_allclose(np.exp(log_chance(option, np.array(chance))), np.array(chance)[option])


def test_the_last_option_is_the_lowest_and_each_row_has_its_chances():
    chance = np.array([[0.2, 0.8], [0.9, 0.1]])
    option, within = pick(np.array([[0.4, 0.9], [0.05, 0.55]]), chance[:, None])
    assert option.tolist() == [[1, 0], [1, 0]]
    np.testing.assert_allclose(within, [[0.5, 0.5], [0.5, 0.5]])


def test_indicators_are_of_all_options_but_the_first():
    assert indicators(np.array([0, 1, 2, 1]), 3).tolist() == [[0, 1, 0, 1], [0, 0, 1, 0]]


def test_rounding_takes_no_share_beyond_one():
    chance = np.random.default_rng(0).dirichlet([1, 1, 1], 1000)
    assert put_back(np.zeros(1000, dtype=int), np.ones(1000), chance).max() <= 1
