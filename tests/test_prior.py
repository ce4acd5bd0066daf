import numpy as np
import pytest
from scipy import stats

from sedcast.data.errors import ParameterError
from sedcast.emulator.prior import PARAMETER_NAMES, Prior, sfh_sticks

# Hahn et al. 2022, Table 1.
MARGINALS = {
    "log_mstar": stats.uniform(7, 5.5),
    "fburst": stats.uniform(0, 1),
    "tburst": stats.uniform(0.01, 13.26),
    "gamma1_zh": stats.loguniform(4.5e-5, 1.5e-2),
    "gamma2_zh": stats.loguniform(4.5e-5, 1.5e-2),
    "dust1": stats.uniform(0, 3),
    "dust2": stats.uniform(0, 3),
    "dust_index": stats.uniform(-2, 3),
}


def test_sfh_weights_are_a_flat_dirichlet() -> None:
    beta = Prior().sample(20_000, 1)[:, 1:5]
    assert np.allclose(beta.sum(axis=1), 1)
    for column in range(4):
        assert stats.kstest(beta[:, column], stats.beta(1, 3).cdf).pvalue > 1e-3
    for other in range(1, 4):
        assert stats.ks_2samp(beta[:, 0], beta[:, other]).pvalue > 1e-3


def test_prior_is_standard_normal_in_probit_space() -> None:
    prior = Prior()
    x = prior.to_unbounded(prior.sample(20_000, 2))
    for column in range(x.shape[1]):
        assert stats.kstest(x[:, column], "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(x.T) - np.eye(11)).max() < 0.03
    assert np.allclose(prior.log_prob_unbounded(x), stats.norm.logpdf(x).sum(axis=1))


def test_marginals_are_those_of_the_paper() -> None:
    theta = Prior().sample(20_000, 3)
    for name, marginal in MARGINALS.items():
        found = theta[:, PARAMETER_NAMES.index(name)]
        assert stats.kstest(found, marginal.cdf).pvalue > 1e-3, name
        # A test of the distribution does not see a range that is a little too narrow or too wide.
        assert found.min() == pytest.approx(marginal.ppf(0), abs=1e-3 * marginal.std())
        assert found.max() == pytest.approx(marginal.ppf(1), abs=1e-3 * marginal.std())


def test_the_density_is_that_of_the_marginals() -> None:
    theta = Prior().sample(100, 6)
    columns = {name: theta[:, PARAMETER_NAMES.index(name)] for name in MARGINALS}
    expected = sum(marginal.logpdf(columns[name]) for name, marginal in MARGINALS.items())
    np.testing.assert_allclose(Prior().log_density(columns), expected, rtol=1e-12)


def test_round_trip_and_every_real_point_inside(rng: np.random.Generator) -> None:
    prior = Prior()
    theta = prior.sample(5_000, 4)
    assert np.allclose(prior.from_unbounded(prior.to_unbounded(theta)), theta, rtol=1e-7, atol=1e-9)
    wild = rng.standard_normal((2_000, 11)) * 30
    assert prior.contains(prior.from_unbounded(wild)).all()
    prior.validate(prior.from_unbounded(wild))


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [(0, 13.0, "log_mstar"), (1, 0.99, "SFH weights"), (7, 1.0, "gamma1_zh"), (9, np.nan, "dust1"), (6, -1.0, "tburst")],
)
def test_bad_theta_is_named(column: int, value: float, named: str) -> None:
    theta = Prior().sample(3, 5)
    theta[1, column] = value
    with pytest.raises(ParameterError, match=named) as caught:
        Prior().validate(theta)
    assert "theta[1]" in str(caught.value)
    assert not Prior().contains(theta)[1]


def test_the_ends_of_the_ranges_are_inside_and_what_is_beyond_is_not() -> None:
    prior = Prior()
    for name, marginal in MARGINALS.items():
        column = PARAMETER_NAMES.index(name)
        ends = np.repeat(prior.sample(1, 7), 4, axis=0)
        low, high = marginal.support()
        ends[:, column] = [low, high, np.nextafter(low, -np.inf), np.nextafter(high, np.inf)]
        assert prior.contains(ends).tolist() == [True, True, False, False], name
    off = np.repeat(prior.sample(1, 7), 2, axis=0)
    off[:, 1:5] *= [[1 + 5e-6], [1 + 5e-5]]
    assert prior.contains(off).tolist() == [True, False]


def test_sticks_of_tiny_weights_are_exact_and_those_that_are_left_open_are_in_the_middle() -> None:
    np.testing.assert_allclose(sfh_sticks(np.array([[1.0, 1e-20, 2e-20, 3e-20]])), [[6e-20, 5 / 6, 3 / 5]], rtol=1e-12)
    np.testing.assert_array_equal(sfh_sticks(np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])), [[0, 0.5, 0.5], [0.5, 0, 0.5]])


def test_wrong_shape_and_wrong_ranges() -> None:
    with pytest.raises(ParameterError, match="expected \\(n_galaxy, 12\\)"):
        Prior().validate(np.zeros((4, 11)))
    with pytest.raises(ParameterError, match="dust1"):
        Prior(dust1=(3.0, 0.0))
    with pytest.raises(ParameterError, match="gamma1_zh"):
        Prior(gamma1_zh=(0.0, 1e-2))
    with pytest.raises(ParameterError, match="a mass fraction lies in 0 … 1"):
        Prior(fburst=(0.0, 1.1))
    with pytest.raises(ParameterError, match=r"dust2=\(-0.5, 1.0\): must not be negative"):
        Prior(dust2=(-0.5, 1.0))
    with pytest.raises(ParameterError, match="unknown parameters \\['dust3'\\]"):
        Prior.from_dict({"dust3": (0, 1)})
    assert Prior.from_dict(Prior().to_dict()) == Prior()


@pytest.mark.parametrize("name", PARAMETER_NAMES)
def test_of_what_is_no_number_comes_none(name: str) -> None:
    theta = Prior().sample(2, seed=1)
    theta[1, PARAMETER_NAMES.index(name)] = np.nan
    unbounded = Prior().to_unbounded(theta)
    assert np.isfinite(unbounded[0]).all()
    assert np.isnan(unbounded[1]).any()
