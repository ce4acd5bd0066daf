import contextlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sedcast.data.artifacts import load_artifact
from sedcast.data.config import parse_config
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError
from sedcast.emulator.network import SpeculatorNetwork
from sedcast.emulator.training import ErrorMetric, NetworkTrainingConfig, train_network


def random_network(rng: np.random.Generator) -> SpeculatorNetwork:
    widths = (3, 5, 4, 2)
    return SpeculatorNetwork(
        weights=tuple(rng.normal(size=(a, b)) for a, b in pairwise(widths)),
        biases=tuple(rng.normal(size=b) for b in widths[1:]),
        alphas=tuple(rng.normal(size=b) for b in widths[1:-1]),
        betas=tuple(rng.normal(size=b) for b in widths[1:-1]),
        input_shift=rng.normal(size=3),
        input_scale=rng.uniform(1, 2, 3),
        output_shift=rng.normal(size=2),
        output_scale=rng.uniform(1, 2, 2),
    )


def test_activation_is_that_of_the_paper(rng: np.random.Generator) -> None:
    network = random_network(rng)
    inputs = rng.normal(size=(7, 3))
    hidden = (inputs - network.input_shift) / network.input_scale
    for weight, bias, alpha, beta in zip(network.weights[:-1], network.biases[:-1], network.alphas, network.betas, strict=True):
        x = hidden @ weight + bias
        hidden = (beta + (1 - beta) / (1 + np.exp(-alpha * x))) * x
    expected = (hidden @ network.weights[-1] + network.biases[-1]) * network.output_scale + network.output_shift
    assert np.allclose(network(inputs), expected, rtol=1e-12)


def test_arrays_round_trip_and_refuse_what_does_not_fit(rng: np.random.Generator) -> None:
    network = random_network(rng)
    arrays = network.to_arrays("net_")
    inputs = rng.normal(size=(4, 3))
    assert np.array_equal(SpeculatorNetwork.from_arrays(arrays, "net_")(inputs), network(inputs))
    with pytest.raises(ArtifactError, match="incomplete or inconsistent"):
        SpeculatorNetwork.from_arrays({k: v for k, v in arrays.items() if k != "net_biases_1"}, "net_")
    with pytest.raises(ArtifactError, match="incomplete or inconsistent"):
        SpeculatorNetwork.from_arrays(arrays | {"net_weights_0": np.zeros((3, 9))}, "net_")


def test_training_learns_a_smooth_function_and_repeats_itself(rng: np.random.Generator) -> None:
    inputs = rng.uniform(-1, 1, (4000, 2))
    outputs = np.column_stack([np.sin(2 * inputs[:, 0]) * inputs[:, 1], np.exp(inputs.sum(axis=1))])
    config = NetworkTrainingConfig(hidden=(32, 32), epochs=100, batch_size=128, learning_rate=1e-2, seed=3)
    network, history = train_network(inputs, outputs, config, output_scale=np.ones(2))
    again, _ = train_network(inputs, outputs, config, output_scale=np.ones(2))
    fresh = rng.uniform(-1, 1, (500, 2))
    expected = np.column_stack([np.sin(2 * fresh[:, 0]) * fresh[:, 1], np.exp(fresh.sum(axis=1))])
    assert np.sqrt(np.mean((network(fresh) - expected) ** 2)) < 0.015
    assert np.array_equal(network.weights[0], again.weights[0])
    assert history["best_valid_loss"] < 0.015**2


def test_training_refuses_bad_data(rng: np.random.Generator) -> None:
    config = NetworkTrainingConfig(epochs=1)
    inputs, outputs = rng.normal(size=(10, 2)), rng.normal(size=(10, 1))
    with pytest.raises(ParameterError, match="equally many rows"):
        train_network(inputs, outputs[:5], config, output_scale=np.ones(1))
    outputs[3] = np.nan
    with pytest.raises(ParameterError, match="non-finite values in 1 rows"):
        train_network(inputs, outputs, config, output_scale=np.ones(1))


def _smooth(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = rng.uniform(-1, 1, (n, 2))
    return inputs, np.column_stack([np.sin(2 * inputs[:, 0]) * inputs[:, 1], np.exp(inputs.sum(axis=1))])


SCHEDULES = {
    "cosine": {"epochs": 6, "batch_size": 64, "learning_rate": 1e-2},
    "steps": {"epochs": 3, "steps": ((1e-2, 64), (1e-3, 128)), "patience": 2},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_interrupted_training_ends_as_one_that_was_not(rng: np.random.Generator, tmp_path: Path, schedule: str) -> None:
    inputs, outputs = _smooth(rng, 500)
    config = NetworkTrainingConfig(hidden=(16,), checkpoint_minutes=0, **SCHEDULES[schedule])
    whole, figures = train_network(inputs, outputs, config, output_scale=np.ones(2))
    path = tmp_path / "checkpoint.npz"

    class Kill(BaseException):
        pass

    for at in (2, 4):

        def kill(done: int, _total: int, _figures: dict[str, float], at: int = at) -> None:
            if done == at + 1:
                raise Kill

        with pytest.raises(Kill):
            train_network(inputs, outputs, config, output_scale=np.ones(2), checkpoint=path, progress=kill)
        assert len(load_artifact(path, "network-checkpoint")[1]["state"]["curve"]) == at
    seen: list[int] = []
    resumed, again = train_network(
        inputs, outputs, config, output_scale=np.ones(2), checkpoint=path, progress=lambda done, *_: seen.append(done)
    )
    assert seen[0] == 5
    assert np.array_equal(resumed(inputs), whole(inputs))
    assert again["best_valid_loss"] == figures["best_valid_loss"]
    # A training that has ended is not begun again.
    train_network(inputs, outputs, config, output_scale=np.ones(2), checkpoint=path, progress=lambda *_: pytest.fail("ran"))


def test_a_checkpoint_of_another_training_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    inputs, outputs = _smooth(rng, 200)
    config = NetworkTrainingConfig(hidden=(8,), epochs=1)
    path = tmp_path / "checkpoint.npz"
    train_network(inputs, outputs, config, output_scale=np.ones(2), checkpoint=path)
    for data, other, named in (
        ((inputs, outputs), config.model_copy(update={"hidden": (9,)}), r"network.hidden was \[8\] and is now \[9\]"),
        ((inputs + rng.normal(size=inputs.shape), outputs), config, "inputs was"),
        ((inputs, outputs[::-1]), config, "training set was another"),
    ):
        with pytest.raises(ConfigError, match=named):
            train_network(*data, other, output_scale=np.ones(2), checkpoint=path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError):
        train_network(inputs, outputs, config, output_scale=np.ones(2), checkpoint=path)


def test_patience_ends_the_training(rng: np.random.Generator) -> None:
    inputs = rng.uniform(-1, 1, (100, 2))
    config = NetworkTrainingConfig(hidden=(64, 64), epochs=400, batch_size=90, learning_rate=1e-2, patience=5)
    # Noise cannot be learnt: the held-out loss soon rises.
    _, history = train_network(inputs, rng.normal(size=(100, 1)), config, output_scale=np.ones(1))
    assert history["stopped"] == "no better for 5 epochs"
    assert history["epochs"] < 200


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"steps": [[1e-3, 100]], "patience": 5, "batch_size": 4}, "either steps or batch_size"),
        ({"steps": [[1e-3, 100]]}, "patience"),
        ({"steps": [[0.0, 100]], "patience": 5}, "positive learning rate"),
        ({"hidden": [0]}, "at least 1"),
        ({"learning_rate": 0}, "learning_rate"),
    ],
)
def test_impossible_schedules_are_refused(values: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_config(values, NetworkTrainingConfig)


def test_a_schedule_that_was_written_down_is_read_again() -> None:
    config = NetworkTrainingConfig(steps=((1e-3, 512), (1e-4, 1024)), patience=20)
    assert NetworkTrainingConfig.model_validate(config.model_dump(mode="json")) == config


def test_soap_fits_a_smooth_function_better_than_adam_in_the_same_steps() -> None:
    rng = np.random.default_rng(4)
    inputs = rng.uniform(-1, 1, (2048, 2))
    outputs = np.column_stack([np.sin(3 * inputs[:, 0]) * inputs[:, 1], np.cos(2 * inputs.sum(axis=1))])
    loss = {}
    for optimizer in ("adam", "soap"):
        config = NetworkTrainingConfig(hidden=(32, 32), optimizer=optimizer, epochs=40, batch_size=128, learning_rate=4e-3)
        loss[optimizer] = train_network(inputs, outputs, config, output_scale=np.ones(2))[1]["best_valid_loss"]
    assert loss["soap"] < 0.5 * loss["adam"]


def test_metric_decides_which_errors_count() -> None:
    """Rows of no weight may be nonsense; a sum of outputs may be all that counts."""
    rng = np.random.default_rng(5)
    inputs = rng.uniform(-1, 1, (1024, 1))
    outputs = np.hstack([inputs**2, inputs])
    nonsense = np.arange(1024) % 2 == 0
    outputs[nonsense] += rng.normal(0, 10, (512, 2))
    config = NetworkTrainingConfig(hidden=(16,), optimizer="soap", epochs=60, batch_size=64, learning_rate=1e-2)
    metric = ErrorMetric((np.ones((1, 1)), np.ones((1, 1))), np.where(nonsense, 0.0, 1.0)[:, None] * [1.0, 1.0])
    network, _ = train_network(inputs, outputs, config, output_scale=np.ones(2), metric=metric)
    assert np.abs(network(inputs) - outputs)[~nonsense].max() < 0.05
    opposed = outputs[~nonsense] + np.array([1.0, -1.0]) * rng.normal(0, 10, (512, 1))
    summed = ErrorMetric((np.ones((2, 1)),), np.ones((512, 1)))
    network, _ = train_network(inputs[~nonsense], opposed, config, output_scale=np.ones(2), metric=summed)
    assert np.abs((network(inputs) - np.hstack([inputs**2, inputs])).sum(axis=1)).max() < 0.05


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_an_interrupted_training_with_a_metric_ends_as_the_uninterrupted(tmp_path: Path, optimizer: str) -> None:
    rng = np.random.default_rng(6)
    inputs = rng.uniform(-1, 1, (512, 2))
    outputs = np.column_stack([inputs[:, 0] ** 2, inputs.prod(axis=1)])
    config = NetworkTrainingConfig(hidden=(8,), optimizer=optimizer, epochs=6, batch_size=64, checkpoint_minutes=0)
    metric = ErrorMetric((np.array([[1.0], [0.5]]),), rng.uniform(0.5, 1, (512, 1)))
    whole, _ = train_network(inputs, outputs, config, output_scale=np.ones(2), metric=metric)

    def stop(done: int, *_: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint.npz"
    for progress in (stop, None):
        with contextlib.suppress(KeyboardInterrupt):
            resumed, _ = train_network(
                inputs, outputs, config, output_scale=np.ones(2), metric=metric, checkpoint=path, progress=progress
            )
    np.testing.assert_array_equal(resumed(inputs), whole(inputs))
