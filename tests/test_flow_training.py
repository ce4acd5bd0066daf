import numpy as np
import pytest

from sedcast.data.artifacts import load_artifact, save_artifact
from sedcast.data.errors import ArtifactError, ParameterError, SedcastError
from sedcast.data.tensorflow import import_tensorflow
from sedcast.posterior.flow import FlowConfig, MaskedAutoregressiveFlow
from sedcast.posterior.flow_kernel import MIN_SAMPLES
from sedcast.posterior.flow_tensorflow import _silu, as_tfp_distribution, negative_log_prob
from sedcast.posterior.flow_training import FlowTrainer, FlowTrainingConfig, _State
from sedcast.posterior.made import initial_parameters, parameter_masks, permutations
from sedcast.posterior.training_pairs import standardisation

SMALL = FlowConfig(n_blocks=3, hidden=(24, 16), embedding=(10, 8), seed=3)


def linear_gaussian(n: int, seed: int, dim: int = 3, n_context: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Pairs of theta ~ N(0, 1) and x = A theta + N(0, noise²), with A and noise."""
    mixing = np.random.default_rng(17).standard_normal((n_context, dim))
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((n, dim))
    noise = 0.5
    return theta, theta @ mixing.T + noise * rng.standard_normal((n, n_context)), mixing, noise


def test_posterior_of_a_linear_gaussian_model_is_recovered():
    theta, x, mixing, noise = linear_gaussian(40_000, 0)
    training = FlowTrainingConfig(batch_size=256, max_epochs=8, learning_rate=3e-3, ema_decay=0.99)
    result = FlowTrainer(SMALL, training).fit(theta, x)
    precision = np.eye(3) + mixing.T @ mixing / noise**2
    cov = np.linalg.inv(precision)
    _, observed, *_ = linear_gaussian(20, 1)
    mean = observed @ mixing @ cov / noise**2
    samples = result.flow.sample(observed, 8000, seed=0).astype(float)
    std = np.sqrt(np.diag(cov))
    assert np.abs((samples.mean(axis=1) - mean) / std).max() < 0.25
    found = np.array([np.cov(rows.T) for rows in samples])
    assert np.abs(found / np.outer(std, std) - cov / np.outer(std, std)).max() < 0.25
    # The best expected log-probability is minus the posterior's entropy.
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * cov)[1]
    assert result.best_validation_nll == pytest.approx(entropy, abs=0.06)
    assert result.reason == "reached max_epochs"
    assert set(result.history[0]) >= {"epoch", "train_nll", "validation_nll", "galaxies_per_s"}


@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "silu"])
@pytest.mark.parametrize(("transform", "rounding"), [("affine", 1e-5), ("sinh-arcsinh", 1e-4)])
@pytest.mark.parametrize("choice", [{}, {"choice": (7, 5)}, {"choice": (7, 5), "n_options": 3}])
def test_loss_numpy_and_tfp_agree(activation, transform, rounding, choice):
    theta, x, *_ = linear_gaussian(64, 2)
    config = SMALL.model_copy(update={"activation": activation, "transform": transform} | choice)
    affine = standardisation(theta.astype(np.float32), x.astype(np.float32))
    rng = np.random.default_rng(5)
    weights, masks = initial_parameters(config, 3, 4), parameter_masks(config, 3)
    for name, array in weights.items():
        array += (0.1 * rng.standard_normal(array.shape) * masks.get(name, 1)).astype(np.float32)
    order = permutations(config, 3)
    flow = MaskedAutoregressiveFlow(config, {**weights, **affine, "permutation": order})
    chosen = rng.integers(config.n_options, size=64)
    reference = as_tfp_distribution(flow, x, chosen)
    expected = reference.log_prob(theta.astype(np.float32)).numpy()
    if choice:
        expected += np.log(probabilities(flow, x)[np.arange(64), chosen])
        theta = np.concatenate([theta, chosen[:, None]], axis=1)
    found = -negative_log_prob(config, weights, affine, order, np.float32(theta), np.float32(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding)
    np.testing.assert_allclose(flow.log_prob(theta, x), expected, rtol=rounding, atol=rounding)
    noise = rng.standard_normal((64, 1, 3)).astype(np.float32)
    # One sample a row is NumPy's, many the compiled sampler's where there is one.
    for repeats in (1, MIN_SAMPLES):
        samples, log_prob = flow.transform_noise(np.repeat(noise, repeats, axis=1), x)
        if choice:
            np.testing.assert_allclose(log_prob, flow.log_prob(samples, x), rtol=1e-3, atol=1e-3)
            continue
        np.testing.assert_allclose(samples[:, -1], reference.bijector.forward(noise[:, 0]).numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(log_prob[:, -1], reference.log_prob(samples[:, -1]).numpy(), rtol=1e-4, atol=1e-4)


def probabilities(flow: MaskedAutoregressiveFlow, x: np.ndarray) -> np.ndarray:
    """Those of a choice's options, by the definition of its network."""
    arrays = flow.to_arrays()

    def silu(values):
        return values / (1 + np.exp(-values))

    def dense(name, layer, values):
        return values @ arrays[f"{name}_kernel_{layer}"] + arrays[f"{name}_bias_{layer}"]

    standard = (x - arrays["context_mean"]) / arrays["context_std"]
    embedded = silu(dense("embedding", 1, silu(dense("embedding", 0, standard))))
    hidden = silu(dense("choice", 0, np.concatenate([standard, embedded], axis=1)))
    odds = np.exp(np.column_stack([np.zeros(len(x)), dense("choice", 2, silu(dense("choice", 1, hidden)))]))
    return odds / odds.sum(axis=1, keepdims=True)


def test_silu_has_the_gradient_of_tensorflows_own():
    tf, _ = import_tensorflow()
    values = tf.constant(np.linspace(-30, 30, 601), tf.float32)
    for here, there in zip(*(_value_and_gradient(tf, f, values) for f in (lambda v: _silu(tf, v), tf.nn.silu)), strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-6)


def _value_and_gradient(tf, function, values):
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = function(values)
    return result.numpy(), tape.gradient(result, values).numpy()


def test_a_choice_that_is_neither_is_refused():
    theta, x, *_ = linear_gaussian(300, 0)
    trainer = FlowTrainer(SMALL.model_copy(update={"choice": (4,)}), FlowTrainingConfig(batch_size=100, max_epochs=1))
    with pytest.raises(ParameterError, match="one of 0 … 1"):
        trainer.fit(theta, x)


class InterruptedRun(Exception):
    pass


@pytest.mark.parametrize("stream", [False, True])
def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path, stream):
    theta, x, *_ = linear_gaussian(3000, 0)
    training = FlowTrainingConfig(batch_size=100, max_epochs=4, checkpoint_minutes=0)

    def fit(trainer: FlowTrainer):
        if not stream:
            return trainer.fit(theta, x)
        return trainer.fit_stream(lambda index: linear_gaussian(3000, index)[:2])

    seen = []

    def interrupt(epochs):
        if epochs[-1]["epoch"] == 1:
            raise InterruptedRun

    whole = fit(FlowTrainer(SMALL, training))
    path = tmp_path / "run.npz"
    with pytest.raises(InterruptedRun):
        fit(FlowTrainer(SMALL, training, checkpoint=path, progress=interrupt))
    resumed = fit(FlowTrainer(SMALL, training, checkpoint=path, progress=seen.append))
    # Curves are drawn of all epochs, those before the interruption too.
    assert [len(epochs) for epochs in seen] == [2, 3, 4]
    assert seen[-1] == resumed.history
    for name, array in whole.flow.to_arrays().items():
        np.testing.assert_array_equal(resumed.flow.to_arrays()[name], array)
    losses = [[record["train_nll"] for record in run.history] for run in (whole, resumed)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    with pytest.raises(ArtifactError, match="another configuration"):
        fit(FlowTrainer(SMALL, training.model_copy(update={"batch_size": 50}), checkpoint=path))


def test_other_data_are_not_resumed_with(tmp_path):
    training = FlowTrainingConfig(batch_size=100, max_epochs=2)
    start = FlowTrainer(SMALL, training).fit(*linear_gaussian(500, 0)[:2]).flow
    path = tmp_path / "run.npz"

    def fit(n_held=200, seed=0):
        trainer = FlowTrainer(SMALL, training, start=start, checkpoint=path)
        held = linear_gaussian(300, 9)[:2]
        return trainer.fit_stream(
            lambda index: linear_gaussian(500, seed + index)[:2], validation=(held[0][:n_held], held[1][:n_held])
        )

    first = fit()
    assert fit().history == first.history
    for other in ({"n_held": 300}, {"seed": 5}):
        with pytest.raises(ArtifactError, match="another configuration or training set"):
            fit(**other)
    arrays, card = load_artifact(path, "flow-checkpoint")
    del card["state"]["data"]
    save_artifact(path, "flow-checkpoint", arrays, card, overwrite=True)
    assert fit().history == first.history


def test_only_the_time_budget_and_the_time_between_checkpoints_may_change(tmp_path):
    theta, x, *_ = linear_gaussian(500, 0)
    training = FlowTrainingConfig(batch_size=100, max_epochs=2)
    path = tmp_path / "run.npz"
    whole = FlowTrainer(SMALL, training, checkpoint=path).fit(theta, x)
    changed = training.model_copy(update={"max_minutes": 60.0, "checkpoint_minutes": 1.0})
    assert FlowTrainer(SMALL, changed, checkpoint=path).fit(theta, x).history == whole.history
    for limit in ({"max_epochs": 3}, {"patience": 5}):
        with pytest.raises(ArtifactError, match="another configuration"):
            FlowTrainer(SMALL, training.model_copy(update=limit), checkpoint=path).fit(theta, x)


def test_a_training_begins_where_its_start_ended():
    theta, x, *_ = linear_gaussian(8_000, 0)
    training = FlowTrainingConfig(batch_size=256, max_epochs=3, learning_rate=3e-3, ema_decay=0.99)
    first = FlowTrainer(SMALL, training).fit(theta, x)
    held_still = training.model_copy(update={"max_epochs": 1, "learning_rate": 1e-12})
    again = FlowTrainer(SMALL, held_still, start=first.flow).fit(theta, x)
    assert again.best_validation_nll == pytest.approx(first.best_validation_nll, abs=1e-5)
    longer = FlowTrainer(SMALL, training, start=first.flow).fit(theta, x)
    assert longer.best_validation_nll < first.best_validation_nll - 1e-3


def test_a_start_of_another_architecture_is_refused():
    theta, x, *_ = linear_gaussian(500, 0)
    training = FlowTrainingConfig(batch_size=100, max_epochs=1)
    start = FlowTrainer(SMALL, training).fit(theta, x).flow
    for other in ({"n_blocks": 2}, {"activation": "relu"}, {"seed": 4}):
        with pytest.raises(ParameterError, match="start is of another architecture"):
            FlowTrainer(SMALL.model_copy(update=other), training, start=start)
    trainer = FlowTrainer(SMALL, training, start=start)
    with pytest.raises(ParameterError, match="3 dimensions and 4 columns of context, the pairs 2 and 4"):
        trainer.fit(theta[:, :2], x)
    with pytest.raises(ParameterError, match="the pairs 3 and 3"):
        trainer.fit(theta, x[:, :3])


def test_a_start_that_holds_the_data_impossible_does_not_end_the_training():
    """As a flow for five bands does where another of seven is missing; tails bend such points as far as numbers go."""
    theta, x, *_ = linear_gaussian(8_000, 0)
    config = FlowConfig(n_blocks=6, hidden=(24,), transform="sinh-arcsinh", seed=3)
    arrays = initial_parameters(config, 3, 4) | {"permutation": permutations(config, 3)}
    arrays["bias_1"][:, 9:] = -1.0
    arrays["kernel_1"][..., :3] *= 1e4
    arrays |= {"theta_mean": np.zeros(3), "theta_std": np.full(3, 1e-3), "context_mean": np.zeros(4), "context_std": np.ones(4)}
    start = MaskedAutoregressiveFlow(config, arrays)
    training = FlowTrainingConfig(batch_size=256, max_epochs=2, learning_rate=3e-3)
    losses = [record["train_nll"] for record in FlowTrainer(config, training, start=start).fit(theta, x).history]
    assert np.isfinite(losses).all()
    # The logarithm of what no number but the largest can hold.
    assert losses[0] > 60


def test_training_stops_early_in_time_and_on_divergence():
    theta, x, *_ = linear_gaussian(2000, 0)
    late = FlowTrainingConfig(batch_size=100, max_epochs=10_000, max_minutes=0.02)
    assert FlowTrainer(SMALL, late).fit(theta, x).reason == "reached max_minutes"
    impatient = FlowTrainingConfig(batch_size=20, max_epochs=200, patience=1, learning_rate=0.02, ema_decay=0)
    result = FlowTrainer(SMALL, impatient).fit(theta[:200], x[:200])
    assert "not improved" in result.reason
    assert min(record["validation_nll"] for record in result.history) == result.best_validation_nll
    with pytest.raises(SedcastError, match="non-finite"):
        FlowTrainer(SMALL, FlowTrainingConfig(batch_size=100, learning_rate=1e30, warmup_steps=0)).fit(theta, x)


def test_one_absurd_held_out_galaxy_does_not_choose_the_epoch():
    theta, x, *_ = linear_gaussian(1000, 0)
    held, observed, *_ = linear_gaussian(300, 1)
    training = FlowTrainingConfig(batch_size=100, max_epochs=6, warmup_steps=5, ema_decay=0.9)

    def fit(validation):
        return FlowTrainer(SMALL, training).fit_stream(lambda _: (theta, x), validation=validation)

    usual = fit((held, observed))
    held[0] = 1e9
    result = fit((held, observed))
    losses = [record["validation_nll"] for record in result.history]
    assert min(losses) > 1e6
    assert result.best_epoch == usual.best_epoch
    assert result.best_validation_nll == losses[result.best_epoch]


def test_bad_training_sets_are_refused():
    theta, x, *_ = linear_gaussian(100, 0)
    trainer = FlowTrainer(SMALL, FlowTrainingConfig())
    broken = theta.copy()
    broken[[3, 5], 0] = np.nan
    with pytest.raises(ParameterError, match="2 of 100 rows"):
        trainer.fit(broken, x)
    with pytest.raises(ParameterError, match="pair up"):
        trainer.fit(theta, x[:50])
    with pytest.raises(ParameterError, match="non-empty"):
        trainer.fit(theta[:, 0], x)
    with pytest.raises(ParameterError, match=r"constant in 1 of 4 columns \(\[2\]\)"):
        trainer.fit(theta, np.where(np.arange(4) == 2, 7.0, x))
    with pytest.raises(ParameterError, match="do not fill a batch"):
        trainer.fit(theta, x)


def test_chunks_that_differ_are_refused():
    trainer = FlowTrainer(SMALL, FlowTrainingConfig(batch_size=100, max_epochs=2, warmup_steps=5))
    theta, x, *_ = linear_gaussian(1000, 0)
    for n in (500, 999):
        with pytest.raises(ParameterError, match=f"chunk 1 has {n} pairs, chunk 0 1000"):
            trainer.fit_stream(lambda index, n=n: (theta, x) if index == 0 else (theta[:n], x[:n]))
    with pytest.raises(ParameterError, match=r"chunk 1 has \[3, 1\] columns of theta and context, chunk 0 has \[3, 4\]"):
        trainer.fit_stream(lambda index: (theta, x) if index == 0 else (theta, x[:, :1]))
    with pytest.raises(ParameterError, match=r"the validation set has \[3, 1\] columns"):
        trainer.fit_stream(lambda _: (theta, x), validation=(theta, x[:, :1]))


def test_a_finished_training_is_not_trained_further(tmp_path, rng):
    theta, x = rng.standard_normal((2000, 4)), rng.standard_normal((2000, 3))
    for limit in ({"max_minutes": 1e-6}, {"patience": 1, "learning_rate": 1e-9}):
        training = FlowTrainingConfig(batch_size=100, max_epochs=50, **limit)
        path = tmp_path / f"{len(limit)}.npz"
        first, again = (FlowTrainer(SMALL, training, checkpoint=path).fit(theta, x) for _ in range(2))
        assert again.history == first.history
        assert again.reason == first.reason != "reached max_epochs"


def test_the_rate_warms_up_and_falls_along_a_cosine():
    training = FlowTrainingConfig(learning_rate=1e-2, warmup_steps=9, final_rate=0.1, max_epochs=10)
    state = _State({}, {}, {})

    def rate(step):
        state.step = step
        return FlowTrainer(SMALL, training)._rates(state, 3, 100)

    # A tenth of the way in each step; after half of the 1000 steps the mean of both ends; at last a tenth, and so beyond.
    np.testing.assert_allclose(rate(0), [1e-3, 2e-3, 3e-3], rtol=1e-4)
    np.testing.assert_allclose(rate(500)[0], 5.5e-3, rtol=1e-6)
    np.testing.assert_allclose(rate(250)[0], 1e-2 * (0.1 + 0.9 * (0.5 + np.sqrt(0.125))), rtol=1e-6)
    np.testing.assert_allclose(rate(1000), 1e-3, rtol=1e-6)
    np.testing.assert_allclose(rate(1700), 1e-3, rtol=1e-6)


def test_the_rate_ends_with_the_time_budget_if_that_comes_first():
    training = FlowTrainingConfig(learning_rate=1e-2, warmup_steps=0, final_rate=0.1, max_epochs=10, max_minutes=8.0)
    trainer = FlowTrainer(SMALL, training)
    half = trainer._rates(_State({}, {}, {}, step=10, minutes=4.0), 2, 100)
    np.testing.assert_allclose(half, 5.5e-3, rtol=1e-6)
    np.testing.assert_allclose(trainer._rates(_State({}, {}, {}, step=900, minutes=0.1), 1, 100), 1.22e-3, rtol=1e-2)


def test_patience_is_counted_from_the_best_epoch():
    trainer = FlowTrainer(SMALL, FlowTrainingConfig(patience=3, max_epochs=30, max_minutes=5.0))
    record = {"validation_nll": 1.0}
    # Epochs 5, 6 and 7 were no better than epoch 4.
    state = _State({}, {}, {}, epoch=7, best_epoch=4, history=[record] * 7)
    assert trainer._reason_to_stop(state) == ""
    state.epoch = 8
    assert trainer._reason_to_stop(state) == "validation loss has not improved for 3 epochs"
    state.position = 1
    assert trainer._reason_to_stop(state) == ""
    ended = _State({}, {}, {}, epoch=30, best_epoch=29, history=[record] * 30)
    assert trainer._reason_to_stop(ended) == "reached max_epochs"
    ended.minutes = 5.0
    assert trainer._reason_to_stop(ended) == "reached max_minutes"


def test_a_share_is_held_out_and_one_pair_at_least():
    assert [FlowTrainingConfig(validation_fraction=0.2).n_held_out(n) for n in (1, 2, 10, 1234)] == [1, 1, 2, 247]
