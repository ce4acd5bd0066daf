"""Draws of a wrong flow, weighted, against a posterior that is known; and the weights of real flows."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from test_amplitude_flow import flow, galaxies

from sedcast import PhotometrySimulator, load_sdss_sample
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.sps import SPSModel
from sedcast.posterior import PosteriorEstimator, Refiner
from sedcast.posterior.conditional_flow import FlowDraws
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.outlier_training import training_simulator
from sedcast.posterior.resampling import FEW_EFFECTIVE, LEAST_DRAWS, LEAST_EFFICIENCY, PosteriorDraws, resample, weigh

# One datum, the sum of two coordinates with an error of 0.5, of which the prior is a standard normal.
OBSERVED, ERROR = 1.5, 0.5
_PRECISION = np.eye(2) + np.ones((2, 2)) / ERROR**2
COVARIANCE = np.linalg.inv(_PRECISION)
MEAN = COVARIANCE @ np.full(2, OBSERVED / ERROR**2)


def draws(n: int, m: int, *, shift: float = 0.3, width: float = 1.4, seed: int = 0) -> FlowDraws:
    """Of a density that is the posterior's, but shifted and wider."""
    proposal = multivariate_normal(MEAN + shift, width**2 * COVARIANCE)
    theta = proposal.rvs((n, m), random_state=np.random.default_rng(seed)).astype(np.float32)
    return FlowDraws(theta, proposal.logpdf(theta), norm.logpdf(theta.sum(axis=2), OBSERVED, ERROR))


def resampled(given: FlowDraws, n_samples: int, seed: int = 1):
    return resample(given, n_samples, seed=seed, keys=np.arange(len(given.theta)))


def test_samples_are_those_of_the_posterior_and_not_of_the_flow():
    given = draws(40, 5000)
    found = resampled(given, 5000)
    assert found.points.dtype == np.float32
    flat = found.points.reshape(-1, 2)
    np.testing.assert_allclose(flat.mean(axis=0), MEAN, atol=0.01)
    np.testing.assert_allclose(np.cov(flat.T), COVARIANCE, atol=0.01)
    assert np.abs(given.theta.reshape(-1, 2).mean(axis=0) - MEAN).min() > 0.25
    # The mean of 1/w over the posterior is known: the efficiency of weights is one over it.
    log_w = given.log_likelihood + norm.logpdf(given.theta).sum(axis=2) - given.log_q
    w = np.exp(log_w)
    np.testing.assert_allclose(found.efficiency, w.sum(axis=1) ** 2 / (5000 * (w**2).sum(axis=1)))
    expected = norm.logpdf(OBSERVED, 0, np.sqrt(2 + ERROR**2))
    np.testing.assert_allclose(found.log_evidence.mean(), expected, atol=0.005)
    np.testing.assert_allclose(found.log_evidence, expected, atol=0.06)


def test_of_a_perfect_flow_every_draw_is_taken_once():
    given = draws(3, 200, shift=0, width=1)
    found = resampled(given, 200)
    np.testing.assert_allclose(found.points, given.theta)
    np.testing.assert_allclose(found.efficiency, 1, atol=1e-6)


def test_a_draw_is_taken_as_often_as_its_weight_says_give_or_take_one():
    given = draws(5, 300)
    w = np.exp(given.log_likelihood + norm.logpdf(given.theta).sum(axis=2) - given.log_q)
    expected = 120 * w / w.sum(axis=1, keepdims=True)
    found = resampled(given, 120)
    for row in range(5):
        times = (found.points[row, :, None] == given.theta[row]).all(axis=2).sum(axis=0)
        assert times.sum() == 120
        assert np.abs(times - expected[row]).max() < 1
    assert not np.array_equal(found.points, resampled(given, 120, seed=2).points)


def test_a_flow_far_from_the_posterior_is_followed_half_way():
    given = draws(4, 1000, shift=0.8, width=1)
    found = resampled(given, 1000)
    assert (found.efficiency < LEAST_EFFICIENCY / 2).all()
    distinct = [len(np.unique(points, axis=0)) for points in found.points]
    # Without tempering it would be a handful.
    assert min(distinct) > LEAST_EFFICIENCY * 1000
    away = np.abs(found.points.mean(axis=(0, 1)) - MEAN)
    assert (away < 0.75 * np.abs(given.theta.mean(axis=(0, 1)) - MEAN)).all()


def test_draws_that_are_not_finite_are_left_out_unless_all_are():
    given = draws(3, 400)
    given.theta[0, ::3] = np.nan
    given.log_likelihood[1, :50] = -np.inf
    given.theta[2] = np.nan
    given.theta[0, 1] = 1e30
    given.log_q[0, 2] = np.inf
    found = resampled(given, 400)
    assert np.isfinite(found.points[:2]).all()
    assert not (found.points[1][:, None] == given.theta[1, :50]).all(axis=2).any()
    assert np.isnan(found.points[2]).all()
    assert found.efficiency[2] == 0
    assert found.flags.tolist() == ["", "", FEW_EFFECTIVE]


def test_draws_absurdly_far_out_weigh_nothing():
    given = draws(2, 400)
    # Their log weights are all rounding: some would tie.
    given.theta[0] = 1e17 * (1 + 1e-6 * np.arange(400)[:, None])
    given.log_q[0] = -5e33
    found = resampled(given, 400)
    assert found.efficiency[0] == 0
    assert np.isnan(found.points).all(axis=(1, 2)).tolist() == [True, False]
    assert np.isnan(found.log_evidence).tolist() == [True, False]
    assert found.flags.tolist() == [FEW_EFFECTIVE, ""]
    # In one coordinate is enough.
    one = FlowDraws(*(part[:1] for part in draws(2, 400)))
    one.theta[0, :200, 1] = 7.1
    one.log_likelihood[0, :200] = 100
    assert resampled(one, 400).points[..., 1].max() < 7


def test_rows_of_the_same_draws_are_resampled_each_by_its_key():
    given = FlowDraws(*(np.repeat(part[:1], 20, axis=0) for part in draws(2, 300)))
    found = resampled(given, 120).points
    assert len(np.unique(found.reshape(20, -1), axis=0)) > 10
    alone = resample(FlowDraws(*(part[:1] for part in given)), 120, seed=1, keys=np.array([7])).points
    np.testing.assert_array_equal(alone[0], found[7])


def test_weights_are_tempered_and_flagged_below_an_efficiency_of_a_tenth():
    near, far = draws(2, 2000, width=2), draws(2, 2000, shift=0.8, width=1)
    given = FlowDraws(*(np.concatenate(parts) for parts in zip(near, far, strict=True)))
    weights, efficiency, _ = weigh(given)
    assert efficiency[:2].min() > 0.1 > 0.05 > efficiency[2:].max()
    share = 1 / (2000 * (weights**2).sum(axis=1))
    np.testing.assert_allclose(share, [*efficiency[:2], 0.1, 0.1], rtol=1e-5)
    flags = PosteriorDraws(np.zeros((4, 1, 1)), np.array([0.11, 0.09, 0.0, np.nan]), np.zeros(4)).flags
    assert flags.tolist() == ["", FEW_EFFECTIVE, FEW_EFFECTIVE, ""]


def test_no_rows_are_no_error():
    given = FlowDraws(*(part[:0] for part in draws(2, 50)))
    assert resampled(given, 50).points.shape == (0, 50, 2)


def test_without_a_likelihood_draws_are_taken_evenly():
    given = draws(2, 300)
    given = given._replace(log_likelihood=np.full((2, 300), np.nan))
    np.testing.assert_array_equal(resampled(given, 300).points, given.theta)
    few = resampled(given, 100)
    assert np.isnan(few.efficiency).all()
    assert np.isnan(few.log_evidence).all()
    places = np.argmax((few.points[0][:, None] == given.theta[0]).all(axis=2), axis=1)
    assert set(np.diff(places)) == {3}


@pytest.mark.parametrize("settings", [{}, {"mask": True, "n_options": 3}])
def test_the_likelihood_of_draws_is_that_of_every_method(settings):
    made = flow(**settings)
    flux, ivar, zred = galaxies(6, 3)
    if made.transform.mask:
        ivar[:3, 1] = 0
    found = made.draw(made.transform(flux, ivar, zred), 200, seed=2)
    for row in range(6):
        galaxy = {"flux": flux[row], "flux_ivar": ivar[row], "zred": float(zred[row])}
        likelihood = GaussianLikelihood(made.emulator, made.emulator.prior, **galaxy)
        expected = likelihood.log_likelihood(made.emulator.prior.from_unbounded(found.theta[row].astype(float)))
        near = expected > expected.max() - 50
        np.testing.assert_allclose(found.log_likelihood[row, near], expected[near], atol=0.02, rtol=1e-3)


def test_efficiency_and_evidence_are_those_of_importance_refinement():
    """Whose likelihood is that of the emulator of spectra; that of the flow has an emulator of bands of its own."""
    estimator = PosteriorEstimator.default()
    refiner = Refiner(estimator, training_simulator(estimator))
    catalog = load_sdss_sample(bands=estimator.bands)
    catalog = catalog.subset(np.flatnonzero(estimator.status(catalog).ok)[:6])
    found = estimator.draw(catalog.flux, catalog.flux_ivar, catalog.zred, 2000, seed=1)
    for row in range(6):
        exact = refiner(catalog.flux[row], catalog.flux_ivar[row], float(catalog.zred[row]), 100, seed=2)
        assert found.log_evidence[row] == pytest.approx(exact.log_evidence, abs=0.3)
        if exact.efficiency > 0.5:
            assert found.efficiency[row] == pytest.approx(exact.efficiency, abs=0.1)


def test_evidence_and_percentiles_are_those_of_prior_draws_weighed_by_the_direct_model():
    """Nothing is trained on the other side: prior draws, their mass integrated out on a grid, and the SSP library."""
    estimator = PosteriorEstimator.default()
    galaxy = load_sdss_sample(bands=estimator.bands).subset(np.array([8000]))
    (flux,), sigma, zred = galaxy.flux, galaxy.flux_ivar[0] ** -0.5, float(galaxy.zred[0])
    simulator = PhotometrySimulator(SPSModel(SSPLibrary.popstar(), dtype=np.float32), estimator.bands, 0.3)
    theta = estimator.prior.sample(50_000, seed=5)
    theta[:, 0] = 10
    unit = simulator.flux(theta, np.full(len(theta), zred)) / sigma
    precision = np.sum(unit**2, axis=1)
    best = unit @ (flux / sigma) / precision
    offset = np.linspace(-8, 8, 129)
    factor = best[:, None] + offset * precision[:, None] ** -0.5
    log_mstar = 10 + np.log10(np.maximum(factor, 1e-9))
    inside = (log_mstar > 7) & (log_mstar < 12.5)
    # The prior is uniform over 5.5 in log mass: its density in the factor of the fluxes is 1 / (5.5 ln 10 factor).
    share = np.where(inside, norm.pdf(offset) * (offset[1] - offset[0]), 0) / (5.5 * np.log(10) * 10 ** (log_mstar - 10))
    chi2 = np.sum((flux / sigma) ** 2) - best**2 * precision
    log_best = -0.5 * chi2 + 0.5 * np.log(2 * np.pi / precision) - np.sum(np.log(sigma)) - 2.5 * np.log(2 * np.pi)
    weight = np.exp(log_best - log_best.max())[:, None] * share
    by_draw = weight.sum(axis=1)
    noise = np.sqrt(np.sum(by_draw**2)) / by_draw.sum()
    assert noise < 0.06

    found = estimator.draw(galaxy.flux, galaxy.flux_ivar, galaxy.zred, 10_000, seed=1)
    assert found.log_evidence[0] == pytest.approx(np.log(by_draw.mean()) + log_best.max(), abs=4 * noise)
    drawn = estimator.prior.from_unbounded(found.points[0])
    got = derived_properties(drawn, zred, estimator.bases, estimator.cosmology)
    expected = derived_properties(theta, zred, estimator.bases, estimator.cosmology)
    for values, of_prior, weights in (
        (drawn[:, 0], log_mstar, weight),
        (got["log_ssfr_1gyr"], expected["log_ssfr_1gyr"], by_draw),
        (got["a_v"], expected["a_v"], by_draw),
    ):
        below = [np.sum(weights[of_prior < edge]) / weights.sum() for edge in np.percentile(values, [16, 50, 84])]
        np.testing.assert_allclose(below, [0.16, 0.5, 0.84], atol=4 * 0.5 * noise)


def test_few_samples_are_taken_from_many_draws():
    estimator = PosteriorEstimator.default()
    catalog = load_sdss_sample(bands=estimator.bands).subset(slice(3))
    found = estimator.draw(catalog.flux, catalog.flux_ivar, catalog.zred, 5, seed=1)
    assert found.points.shape == (3, 5, 11)
    given = estimator.flow.draw(estimator.context(catalog.flux, catalog.flux_ivar, catalog.zred), LEAST_DRAWS, seed=1)
    np.testing.assert_array_equal(found.points, resample(given, 5, seed=1, keys=np.arange(3)).points)
    again = estimator.sample_unbounded(catalog.flux, catalog.flux_ivar, catalog.zred, 5, seed=1)
    np.testing.assert_array_equal(again, found.points)
