"""Training of the Speculator network in TensorFlow."""

import logging
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import Field

from sedcast.data.config import Config
from sedcast.data.errors import ParameterError
from sedcast.data.tensorflow import import_tensorflow
from sedcast.emulator.network import SpeculatorNetwork

__all__ = ["NetworkTrainingConfig", "train_network"]

logger = logging.getLogger(__name__)


class NetworkTrainingConfig(Config):
    """How a network is trained: Adam with a cosine schedule, and the best weights on a held-out tenth are kept."""

    hidden: tuple[int, ...] = Field(default=(128, 128, 128), min_length=1)
    epochs: int = Field(default=300, ge=1)
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)


def train_network(
    inputs: np.ndarray,
    outputs: np.ndarray,
    config: NetworkTrainingConfig,
    *,
    output_scale: np.ndarray,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> tuple[SpeculatorNetwork, dict[str, Any]]:
    """Fit a network to (inputs, outputs) by least squares on outputs / output_scale.

    Parameters
    ----------
    inputs : (n, n_input).
    outputs : (n, n_output).
    config : network and schedule.
    output_scale : (n_output,), the size of an error that matters in each output.
    progress : called as (epochs done, epochs, figures) after each epoch.

    Returns
    -------
    network, history : the network with the best held-out loss, and training figures.

    Raises
    ------
    ParameterError : if the arrays do not match or hold non-finite values.
    """
    if inputs.ndim != 2 or outputs.ndim != 2 or len(inputs) != len(outputs):
        raise ParameterError(f"inputs {inputs.shape} and outputs {outputs.shape} must be 2-D with equally many rows")
    if not (np.isfinite(inputs).all() and np.isfinite(outputs).all()):
        bad = int((~np.isfinite(inputs)).any(axis=1).sum() + (~np.isfinite(outputs)).any(axis=1).sum())
        raise ParameterError(f"training data hold non-finite values in {bad} rows: mend the simulator before training")
    tf, _ = import_tensorflow()
    input_shift, input_scale = inputs.mean(axis=0), inputs.std(axis=0)
    output_shift = outputs.mean(axis=0)
    order = np.random.default_rng(config.seed).permutation(len(inputs))
    n_valid = max(1, int(config.validation_fraction * len(inputs)))
    x = ((inputs - input_shift) / input_scale).astype(np.float32)[order]
    y = ((outputs - output_shift) / output_scale).astype(np.float32)[order]
    variables = _initial_variables(tf, x.shape[1], config.hidden, y.shape[1], config.seed)
    fit_epoch, loss_of = _compiled_steps(tf, variables, config, len(x) - n_valid)
    x_train, y_train = tf.constant(x[n_valid:]), tf.constant(y[n_valid:])
    x_valid, y_valid = tf.constant(x[:n_valid]), tf.constant(y[:n_valid])
    best, best_values, curve = np.inf, [], []
    started = time.perf_counter()
    rng = np.random.default_rng(config.seed + 1)
    for epoch in range(config.epochs):
        shuffled = tf.constant(rng.permutation(len(x) - n_valid))
        train_loss = float(fit_epoch(tf.gather(x_train, shuffled), tf.gather(y_train, shuffled)))
        valid_loss = float(loss_of(x_valid, y_valid))
        if not np.isfinite(valid_loss):
            logger.warning("training diverged at epoch %d: the best weights so far are kept", epoch)
            break
        curve.append((train_loss, valid_loss))
        if valid_loss < best:
            best, best_values = valid_loss, [v.numpy() for v in variables]
        if progress is not None:
            progress(epoch + 1, config.epochs, {"train": train_loss, "valid": valid_loss})
    if not best_values:
        raise ParameterError(f"training diverged in its first epoch: lower learning_rate (now {config.learning_rate})")
    n_layer = len(config.hidden) + 1
    groups = [best_values[:n_layer], best_values[n_layer : 2 * n_layer], best_values[2 * n_layer : 3 * n_layer - 1]]
    network = SpeculatorNetwork(
        weights=tuple(groups[0]),
        biases=tuple(groups[1]),
        alphas=tuple(groups[2]),
        betas=tuple(best_values[3 * n_layer - 1 :]),
        input_shift=input_shift.astype(np.float32),
        input_scale=input_scale.astype(np.float32),
        output_shift=output_shift.astype(np.float32),
        output_scale=np.asarray(output_scale, dtype=np.float32),
    )
    history = {
        "seconds": time.perf_counter() - started,
        "best_valid_loss": best,
        "epochs": len(curve),
        "n_train": len(x) - n_valid,
    }
    return network, history


def _initial_variables(tf: Any, n_input: int, hidden: tuple[int, ...], n_output: int, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    widths = [n_input, *hidden, n_output]
    weights = [tf.Variable(rng.normal(0, np.sqrt(2 / a), (a, b)).astype(np.float32)) for a, b in pairwise(widths)]
    biases = [tf.Variable(np.zeros(b, dtype=np.float32)) for b in widths[1:]]
    alphas = [tf.Variable(rng.normal(1, 0.3, b).astype(np.float32)) for b in hidden]
    betas = [tf.Variable(rng.normal(0, 0.3, b).astype(np.float32)) for b in hidden]
    return [*weights, *biases, *alphas, *betas]


def _compiled_steps(tf: Any, variables: list[Any], config: NetworkTrainingConfig, n_train: int) -> tuple[Any, Any]:
    """One compiled epoch of Adam, and the compiled loss."""
    n_hidden = len(config.hidden)
    n_layer = n_hidden + 1
    n_batch = max(1, n_train // config.batch_size)
    schedule = tf.keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * n_batch, alpha=1e-4)
    optimizer = tf.keras.optimizers.Adam(schedule)
    optimizer.build(variables)

    def predict(x: Any) -> Any:
        for k in range(n_hidden):
            x = tf.matmul(x, variables[k]) + variables[n_layer + k]
            alpha, beta = variables[2 * n_layer + k], variables[2 * n_layer + n_hidden + k]
            x = (beta + (1 - beta) * tf.sigmoid(alpha * x)) * x
        return tf.matmul(x, variables[n_hidden]) + variables[n_layer + n_hidden]

    def loss_of(x: Any, y: Any) -> Any:
        return tf.reduce_mean(tf.square(predict(x) - y))

    def fit_epoch(x: Any, y: Any) -> Any:
        total = tf.constant(0.0)
        for batch in tf.range(n_batch):
            rows = slice(batch * config.batch_size, (batch + 1) * config.batch_size)
            with tf.GradientTape() as tape:
                loss = loss_of(x[rows], y[rows])
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            total += loss
        return total / tf.cast(n_batch, tf.float32)

    return tf.function(fit_epoch), tf.function(loss_of)
