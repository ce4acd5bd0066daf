import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from sedcast.data.errors import ParameterError
from sedcast.emulator.prior import Prior
from sedcast.posterior.likelihood import UNBOUNDED_LIMIT, GaussianLikelihood

FLUX = np.array([3.0, -0.4, 12.0])
SIGMA = np.array([0.5, 0.3, 1.0])


class MassTimesColours:
    """Fluxes proportional to the mass, with fixed colours; counts the rows that it is asked for."""

    def __init__(self, colours=(0.5, 1.0, 2.0)):
        self.colours = np.array(colours)
        self.rows = 0

    def flux(self, theta, zred):
        assert zred.shape == (len(theta),)
        self.rows += len(theta)
        return 10 ** (theta[:, :1] - 10) * self.colours


@pytest.fixture
def theta():
    return Prior().sample(50, 3)


def likelihood(simulator=None, **changes):
    values = {"flux": FLUX, "flux_ivar": SIGMA**-2, "zred": 0.05} | changes
    return GaussianLikelihood(simulator or MassTimesColours(), Prior(), **values)


def test_log_likelihood_is_that_of_a_normal_with_negative_fluxes(theta):
    model = MassTimesColours().flux(theta, np.zeros(len(theta)))
    expected = [multivariate_normal(m, np.diag(SIGMA**2)).logpdf(FLUX) for m in model]
    np.testing.assert_allclose(likelihood().log_likelihood(theta), expected, rtol=1e-12)


def test_a_missing_band_drops_out_whatever_its_flux(theta):
    model = MassTimesColours().flux(theta, np.zeros(len(theta)))
    expected = norm(model[:, 0], SIGMA[0]).logpdf(FLUX[0]) + norm(model[:, 2], SIGMA[2]).logpdf(FLUX[2])
    for missing in (0.0, np.nan):
        got = likelihood(flux=np.array([FLUX[0], missing, FLUX[2]]), flux_ivar=np.array([SIGMA[0] ** -2, 0, SIGMA[2] ** -2]))
        np.testing.assert_allclose(got.log_likelihood(theta), expected, rtol=1e-12)


def test_posterior_is_likelihood_times_prior_density_by_change_of_variables():
    # p(x) = p(theta) |d theta / d x|: for log_mstar, uniform in theta, the Jacobian by finite differences.
    prior = Prior()
    x = np.zeros((1, 11))
    x[0, 0] = 0.7
    step = np.zeros((1, 11))
    step[0, 0] = 1e-5
    jacobian = (prior.from_unbounded(x + step) - prior.from_unbounded(x - step))[0, 0] / 2e-5
    log_prior_mass = np.log(jacobian / (12.5 - 7.0))
    others = 10 * norm.logpdf(0)
    expected = likelihood().log_likelihood(prior.from_unbounded(x)) + log_prior_mass + others
    np.testing.assert_allclose(likelihood().log_posterior_unbounded(x), expected, rtol=1e-8)


def test_points_outside_have_zero_posterior_and_cost_nothing():
    simulator = MassTimesColours()
    target = likelihood(simulator)
    x = np.zeros((5, 11))
    x[1, 3], x[2, 0], x[3, 10] = np.nan, np.inf, -UNBOUNDED_LIMIT - 0.1
    log_prob = target.log_posterior_unbounded(x)
    assert np.isfinite(log_prob[[0, 4]]).all()
    assert (log_prob[1:4] == -np.inf).all()
    assert target.n_evaluations == simulator.rows == 2
    assert (target.log_posterior_unbounded(x[1:4]) == -np.inf).all()
    assert simulator.rows == 2


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e300])
def test_broken_model_fluxes_give_zero_likelihood_never_nan(theta, broken):
    log_prob = likelihood(MassTimesColours((broken, 1.0, 1.0))).log_likelihood(theta)
    assert (log_prob == -np.inf).all()


def test_one_walker_or_many_give_the_same():
    x = np.random.default_rng(1).standard_normal((20, 11))
    target = likelihood()
    together = target.log_posterior_unbounded(x)
    np.testing.assert_array_equal(together, [target.log_posterior_unbounded(row)[0] for row in x])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flux_ivar": np.zeros(3)}, "no band is measured"),
        ({"flux_ivar": np.array([1.0, -1.0, 1.0])}, "not negative"),
        ({"flux_ivar": np.array([1.0, np.nan, 1.0])}, "finite"),
        ({"flux_ivar": np.array([1.0, np.inf, 1.0])}, "finite"),
        ({"flux_ivar": np.ones(4)}, "same"),
        ({"flux": FLUX[None], "flux_ivar": np.ones((1, 3))}, "one galaxy"),
        ({"flux": np.array([1.0, np.nan, 1.0])}, "set flux_ivar=0"),
        ({"zred": np.nan}, "zred"),
        ({"zred": -0.1}, "zred"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ParameterError, match=message):
        likelihood(**changes)


def test_wrong_shapes_are_refused(theta):
    with pytest.raises(ParameterError, match="its bands"):
        likelihood(MassTimesColours((1.0, 2.0))).log_likelihood(theta)
    with pytest.raises(ParameterError, match="theta has shape"):
        likelihood().log_likelihood(theta[:, :11])
    with pytest.raises(ParameterError, match="theta_unbounded has shape"):
        likelihood().log_posterior_unbounded(theta)
