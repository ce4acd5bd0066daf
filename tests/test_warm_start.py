"""A training that begins with another's flow."""

import numpy as np
import pytest

from sedcast.data.errors import ConfigError
from sedcast.posterior.context import ContextTransform
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow_training import FlowTrainer, FlowTrainingConfig
from sedcast.posterior.warm_start import warm_start

SEVEN = ContextTransform(("FUV", "NUV", "u", "g", "r", "i", "z"), mask=True)


@pytest.fixture(scope="module")
def estimator():
    return PosteriorEstimator.default()


def photometry(n, seed=0):
    """Fluxes in nanomaggies of seven bands, their inverse variances, redshifts, and which bands are measured."""
    rng = np.random.default_rng(seed)
    flux = 10 ** (rng.normal(1.5, 0.3, (n, 1)) + rng.normal(0, 0.1, (n, 7)))
    measured = rng.random((n, 7)) < 0.7
    measured[:, 2:] |= ~measured.any(axis=1, keepdims=True)
    return flux, (0.05 * flux) ** -2.0, rng.uniform(0.02, 0.2, n), measured


def test_wider_flow_is_the_old_one_where_the_old_bands_are_measured(estimator):
    flux, ivar, zred, measured = photometry(200)
    context = SEVEN(flux, ivar * measured, zred)
    flow = warm_start(estimator, estimator.flow.config, names=SEVEN.names, context=context)
    theta = estimator.sample_unbounded(flux[:, 2:], ivar[:, 2:], zred, 1, seed=1)[:, 0]
    expected = estimator.flow.log_prob(theta, estimator.context(flux[:, 2:], ivar[:, 2:], zred))
    only_five = np.concatenate([np.zeros((200, 2)), ivar[:, 2:]], axis=1)
    np.testing.assert_allclose(flow.log_prob(theta, SEVEN(flux, only_five, zred)), expected, atol=1e-4)


def test_training_begins_at_the_start_and_leaves_it(estimator):
    flux, ivar, zred, measured = photometry(4096)
    context = SEVEN(flux, ivar * measured, zred)
    start = warm_start(estimator, estimator.flow.config, names=SEVEN.names, context=context)
    theta = start.sample(context, 1, seed=2)[:, 0] + np.float32(0.02)
    before = -start.log_prob(theta, context).mean()

    def trained(rate):
        training = FlowTrainingConfig(batch_size=512, max_epochs=1, learning_rate=rate, warmup_steps=0, final_rate=1, ema_decay=0)
        trainer = FlowTrainer(start.config, training, start=start)
        return trainer.fit_stream(lambda _: (theta, context), validation=(theta, context))

    assert trained(1e-12).best_validation_nll == pytest.approx(before, abs=1e-3 * abs(before))
    assert trained(1e-3).best_validation_nll < before - 0.01


def test_what_does_not_fit_is_refused(estimator):
    context = np.zeros((2, SEVEN.n_context), np.float32)
    wider = estimator.flow.config.model_copy(update={"hidden": (300, 300)})
    with pytest.raises(ConfigError, match=r"hidden=\(300, 300\) \(there \(256, 256\)\)"):
        warm_start(estimator, wider, names=SEVEN.names, context=context)
    four = ContextTransform(("u", "g", "r", "i"))
    with pytest.raises(ConfigError, match="conditioned on mag_z-mean, ln_magerr_z"):
        warm_start(estimator, estimator.flow.config, names=four.names, context=context[:, : four.n_context])
    unknown = ContextTransform(("u", "g", "r", "i", "z"), redshift=False)
    with pytest.raises(ConfigError, match="is given the redshift, unlike this training"):
        warm_start(estimator, estimator.flow.config, names=unknown.names, context=context[:, : unknown.n_context])
