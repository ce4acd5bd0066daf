from itertools import pairwise

import numpy as np
import pytest

from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.emulator.network import SpeculatorNetwork
from sedcast.emulator.training import NetworkTrainingConfig, train_network


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
