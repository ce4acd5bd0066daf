import arviz
import emcee
import numpy as np
import pytest

from sedcast.baselines.diagnostics import autocorrelation_time, rank_rhat, split_rhat
from sedcast.data.errors import ParameterError


def ar1(correlation, *, n_step, n_walker, n_dim=1, seed=0):
    rng = np.random.default_rng(seed)
    chain = np.empty((n_step, n_walker, n_dim))
    chain[0] = rng.standard_normal((n_walker, n_dim))
    for step in range(1, n_step):
        chain[step] = correlation * chain[step - 1] + np.sqrt(1 - correlation**2) * rng.standard_normal((n_walker, n_dim))
    return chain


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_autocorrelation_time_of_a_first_order_process(correlation):
    chain = ar1(correlation, n_step=4000, n_walker=32)
    exact = (1 + correlation) / (1 - correlation)
    assert autocorrelation_time(chain)[0] == pytest.approx(exact, rel=0.05)
    assert autocorrelation_time(chain)[0] == pytest.approx(emcee.autocorr.integrated_time(chain)[0], rel=0.06)


def test_the_time_of_a_short_chain_is_the_sum_written_out():
    chain = ar1(0.8, n_step=60, n_walker=4, seed=2)
    values = chain[:, :, 0] - chain.mean()
    covariance = np.array([np.mean(values[: 60 - lag] * values[lag:]) for lag in range(60)])
    running = 2 * np.cumsum(covariance / covariance[0]) - 1
    window = next(lag for lag in range(60) if lag >= 5 * running[lag])
    assert autocorrelation_time(chain)[0] == pytest.approx(running[window], rel=1e-10)


def test_steps_that_alternate_count_once():
    assert autocorrelation_time(ar1(-0.5, n_step=4000, n_walker=32))[0] == 1


def test_short_chains_do_not_look_better_than_they_are():
    chain = ar1(0.95, n_step=400, n_walker=64, n_dim=20)
    exact = 1.95 / 0.05
    ours, emcee_time = autocorrelation_time(chain).mean(), emcee.autocorr.integrated_time(chain, tol=0).mean()
    assert ours == pytest.approx(exact, rel=0.1)
    assert emcee_time < 0.75 * exact


def test_a_stuck_walker_and_a_parameter_that_never_moves_are_seen():
    chain = ar1(0.5, n_step=1000, n_walker=16, n_dim=2)
    good = autocorrelation_time(chain)[0]
    chain[:, 0, 0] = 8.0
    chain[:, :, 1] = 1.0
    time = autocorrelation_time(chain)
    assert time[0] > 20 * good
    assert np.isinf(time[1])
    assert np.isinf(split_rhat(chain)[1])


def test_split_rhat_agrees_with_arviz_and_sees_drift():
    chain = ar1(0.9, n_step=400, n_walker=8, n_dim=3)
    chain[:, :, 2] += np.linspace(0, 3, 400)[:, None]
    expected = arviz.rhat(arviz.convert_to_dataset(chain.transpose(1, 0, 2)), method="split")["x"].values
    np.testing.assert_allclose(split_rhat(chain), expected, rtol=1e-10)
    assert split_rhat(chain)[2] > 1.2
    assert split_rhat(chain, n_groups=4)[2] > 1.2


def test_rank_rhat_of_single_walkers_agrees_with_arviz():
    heavy = np.random.default_rng(5).standard_cauchy((200, 6, 2)) + np.array([0.0, 3.0])
    heavy[:, 0, 1] *= 4
    expected = arviz.rhat(arviz.convert_to_dataset(heavy.transpose(1, 0, 2)), method="rank")["x"].values
    np.testing.assert_allclose(rank_rhat(heavy, n_groups=6), expected, rtol=1e-10)


def test_rhat_of_groups_falls_with_the_effective_sample_size_of_the_whole():
    chain = ar1(0.9, n_step=300, n_walker=64, n_dim=10)
    assert (300 * 64 / autocorrelation_time(chain)).mean() > 900
    assert split_rhat(chain).mean() > 1.03
    assert split_rhat(chain, n_groups=4).max() < 1.01


def test_bad_input_is_refused():
    with pytest.raises(ParameterError, match="n_step, n_walker, n_dim"):
        autocorrelation_time(np.zeros((100, 4)))
    with pytest.raises(ParameterError, match="at least"):
        split_rhat(np.zeros((4, 4, 1)))
    with pytest.raises(ParameterError, match="finite values"):
        split_rhat(np.full((10, 4, 1), np.nan))
    with pytest.raises(ParameterError, match="must divide"):
        split_rhat(np.zeros((10, 4, 1)), n_groups=3)
    with pytest.raises(ParameterError, match="must divide"):
        split_rhat(np.zeros((10, 4, 1)), n_groups=0)


def test_groups_of_another_width_do_not_agree():
    chain = np.random.default_rng(0).standard_normal((400, 40, 1))
    assert rank_rhat(chain, n_groups=4).max() < 1.01
    chain[:, :10] *= 2
    assert rank_rhat(chain, n_groups=4).max() > 1.05
