"""A training that begins with another's flow."""

from dataclasses import replace

import numpy as np
import pytest

from sedcast.data.catalog import load_sdss_sample
from sedcast.data.errors import ConfigError, ParameterError
from sedcast.posterior.context import ContextTransform
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.made import FlowConfig, initial_parameters, permutations
from sedcast.posterior.warm_start import warm_start

SEVEN = ContextTransform(("FUV", "NUV", "u", "g", "r", "i", "z"), mask=True)
SMALL = FlowConfig(n_blocks=3, hidden=(40,), embedding=(8,))


def untrained(config, dim, n_context):
    arrays = initial_parameters(config, dim, n_context) | {"permutation": permutations(config, dim)}
    arrays |= {"theta_mean": np.zeros(dim), "theta_std": np.ones(dim)}
    return arrays | {"context_mean": np.zeros(n_context), "context_std": np.ones(n_context)}


@pytest.fixture(scope="module")
def estimator():
    return PosteriorEstimator.default()


@pytest.fixture(scope="module")
def photometry(estimator):
    """Real fluxes in nanomaggies of seven bands, their inverse variances and redshifts, within the training set."""
    catalog = load_sdss_sample(bands=SEVEN.bands)
    five = load_sdss_sample(bands=estimator.bands)
    catalog = catalog.subset(np.flatnonzero(estimator.status(five).ok & np.isfinite(catalog.flux[:, 2:]).all(axis=1))[:2048])
    return np.nan_to_num(catalog.flux), np.nan_to_num(catalog.flux_ivar), catalog.zred


def ragged(flux, ivar, zred):
    """The context of galaxies that lack one band each."""
    lacking = np.random.default_rng(3).integers(len(SEVEN.bands), size=len(zred))
    return SEVEN(flux, np.where(lacking[:, None] == np.arange(len(SEVEN.bands)), 0.0, ivar), zred)


def test_wider_flow_is_the_old_one_where_the_old_bands_are_measured(estimator, photometry):
    flux, ivar, zred = photometry
    context = ragged(*photometry)
    own = estimator.flow.trained
    flow = warm_start(estimator, own.config, transform=SEVEN, context=context, dim=own.dim)
    exact = estimator.context(flux[:, 2:], ivar[:, 2:], zred)
    theta = own.sample(exact, 1, seed=1)[:, 0]
    expected = own.log_prob(theta, exact)
    only_five = np.concatenate([np.zeros((len(zred), 2)), ivar[:, 2:]], axis=1)
    rounded = exact * (1 + 1e-7 * np.random.default_rng(4).choice([-1, 1], exact.shape))
    rounding = np.median(np.abs(own.log_prob(theta, rounded) - expected))
    for measured in (only_five, ivar):
        found = flow.log_prob(theta, SEVEN(flux, measured, zred))
        assert np.median(np.abs(found - expected)) < rounding < 0.2


def test_a_flow_that_may_bend_begins_as_one_that_does_not(estimator, photometry):
    context = estimator.context(*(values[:20] for values in (photometry[0][:, 2:], photometry[1][:, 2:], photometry[2])))
    affine = MaskedAutoregressiveFlow(SMALL, untrained(SMALL, 11, estimator.context.n_context))
    config = SMALL.model_copy(update={"transform": "sinh-arcsinh"})
    flow = warm_start(replace(estimator, flow=affine), config, transform=estimator.context, context=context, dim=11)
    noise = np.random.default_rng(5).standard_normal((20, 50, flow.dim))
    (theta, log_prob), (bent, bent_log_prob) = (f.transform_noise(noise, context) for f in (affine, flow))
    np.testing.assert_allclose(bent, theta, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(bent_log_prob, log_prob, atol=2e-2)


def test_what_does_not_fit_is_refused(estimator):
    context = np.zeros((2, SEVEN.n_context), np.float32)
    own = estimator.flow.trained
    wider = own.config.model_copy(update={"hidden": (300, 300)})
    with pytest.raises(ConfigError, match=r"hidden=\(300, 300\) \(there \(192, 192\)\)"):
        warm_start(estimator, wider, transform=SEVEN, context=context, dim=own.dim)
    with pytest.raises(ParameterError, match=f"the context is constant in {SEVEN.n_context} of {SEVEN.n_context} columns"):
        warm_start(estimator, own.config, transform=SEVEN, context=context, dim=own.dim)
    four = ContextTransform(("u", "g", "r", "i"))
    with pytest.raises(ConfigError, match="lacks the columns mag_z-mean, ln_magerr_z, which sdss-ugriz needs"):
        warm_start(estimator, own.config, transform=four, context=context[:, : four.n_context], dim=own.dim)
    deep = ContextTransform((*four.bands, "z"), softening=(0.14, 0.09, 0.004, 0.18, 0.74))
    with pytest.raises(ConfigError, match=r"in r of a softening of 0\.004 nanomaggies in place of 0\.12, which"):
        warm_start(estimator, own.config, transform=deep, context=np.zeros((2, deep.n_context)), dim=own.dim)
    unknown = ContextTransform(("u", "g", "r", "i", "z"), redshift=False)
    with pytest.raises(ConfigError, match="is given the redshift, unlike this training"):
        warm_start(estimator, own.config, transform=unknown, context=context[:, : unknown.n_context], dim=own.dim)
    with pytest.raises(ConfigError, match=f"learnt {own.dim} coordinates, this training {own.dim - 1}"):
        warm_start(estimator, own.config, transform=SEVEN, context=context, dim=own.dim - 1)
