"""Training of the Speculator network in TensorFlow."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from sedcast.data.artifacts import consistent, load_artifact, save_artifact
from sedcast.data.config import Config
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError
from sedcast.data.tensorflow import import_tensorflow
from sedcast.emulator.network import SpeculatorNetwork
from sedcast.emulator.segments import array_digest, differences
from sedcast.emulator.soap import Soap

__all__ = ["ErrorMetric", "NetworkTrainingConfig", "train_network"]

logger = logging.getLogger(__name__)

_CHECKPOINT_KIND = "network-checkpoint"
_SAME_TARGETS = 1e-2


class NetworkTrainingConfig(Config):
    """How a network is trained; the best weights on a held-out share are kept.

    Attributes
    ----------
    hidden : widths of the hidden layers.
    epochs : at most so many, of each step where there are steps.
    optimizer : ``"adam"``, or ``"soap"``, which fits smooth functions of few variables several times faster (`Soap`).
    batch_size, learning_rate : of the optimizer, whose rate falls along a cosine to a ten-thousandth over the epochs.
    steps : instead of these two, (learning rate, batch size) one after another, each from the best weights so far: Speculator's
        schedule of falling rates and growing batches (Alsing et al. 2020, Sec. 4.1). Each ends by `patience`.
    patience : epochs without a better held-out loss before stopping, 0 for never.
    validation_fraction : share of the rows that is held out.
    checkpoint_minutes : time between checkpoints.
    seed : of first weights, split and order of the rows.
    """

    hidden: tuple[int, ...] = Field(default=(128, 128, 128), min_length=1)
    optimizer: Literal["adam", "soap"] = "adam"
    epochs: int = Field(default=300, ge=1)
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    steps: tuple[tuple[float, int], ...] = ()
    patience: int = Field(default=0, ge=0)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    checkpoint_minutes: float = Field(default=3.0, ge=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_schedule(self) -> "NetworkTrainingConfig":
        if min(self.hidden) < 1:
            raise ValueError(f"hidden={self.hidden}: widths must be at least 1")
        if not self.steps:
            return self
        # Not `model_fields_set`: a configuration that was written whole states the defaults.
        if any(getattr(self, name) != type(self).model_fields[name].default for name in ("batch_size", "learning_rate")):
            raise ValueError("give either steps or batch_size and learning_rate: steps hold both")
        if not self.patience:
            raise ValueError("steps end by patience: set patience, 20 is usual")
        if any(rate <= 0 or size < 1 for rate, size in self.steps):
            raise ValueError(f"steps={self.steps}: expected pairs of a positive learning rate and a batch size")
        return self


@dataclass(frozen=True)
class ErrorMetric:
    """What errors of the outputs matter: those of linear combinations of them, each row with its own weights.

    Attributes
    ----------
    blocks : matrices (n_output_k, n_point_k) of consecutive groups of outputs; together they take all outputs.
    weights : (n, n_point), of the points of all blocks.
    """

    blocks: tuple[np.ndarray, ...]
    weights: np.ndarray


@dataclass
class _State:
    """Where a training is: all that an exact resumption needs besides the arrays."""

    step: int = 0
    epoch: int = 0
    waited: int = 0
    best: float | None = None
    seconds: float = 0.0
    stopped: str = ""
    curve: list[tuple[float, float]] = field(default_factory=list)


def train_network(
    inputs: np.ndarray,
    outputs: np.ndarray,
    config: NetworkTrainingConfig,
    *,
    output_scale: np.ndarray,
    metric: ErrorMetric | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> tuple[SpeculatorNetwork, dict[str, Any]]:
    """Fit a network to (inputs, outputs) by least squares on outputs / output_scale, or in another metric.

    Parameters
    ----------
    inputs : (n, n_input).
    outputs : (n, n_output).
    config : network and schedule.
    output_scale : (n_output,), the size of an error that matters in each output.
    metric : the errors whose weighted squares are minimised instead, if given.
    checkpoint : file written every few minutes and at the end; if it is there, training goes on from it, exactly.
    progress : called as (epochs done, epochs, figures) after each epoch.

    Returns
    -------
    network, history : the network with the best held-out loss, and training figures.

    Raises
    ------
    ParameterError : if the arrays do not match or hold non-finite values, an input does not vary, or training diverges at once.
    ConfigError : if the checkpoint is of another configuration or training set.
    """
    _check(inputs, outputs)
    tf, _ = import_tensorflow()
    input_shift, input_scale = inputs.mean(axis=0), inputs.std(axis=0)
    output_shift = outputs.mean(axis=0)
    if not (input_scale > 0).all():
        raise ParameterError(f"inputs {np.flatnonzero(input_scale == 0).tolist()} do not vary: leave them out")
    order = np.random.default_rng(config.seed).permutation(len(inputs))
    n_valid = max(1, int(config.validation_fraction * len(inputs)))
    x = ((inputs - input_shift) / input_scale).astype(np.float32)[order]
    y = ((outputs - output_shift) / output_scale).astype(np.float32)[order]
    blocks, weights = (), np.ones((len(x), 1), np.float32)
    if metric is not None:
        starts = np.cumsum([0, *(len(block) for block in metric.blocks)])
        blocks = tuple(
            (block * output_scale[start : start + len(block), None]).astype(np.float32)
            for start, block in zip(starts, metric.blocks, strict=False)
        )
        weights = metric.weights[order].astype(np.float32)
    fit = _Fit(tf, config, (x, y, weights), blocks, n_valid, checkpoint)
    state, best_values = fit.run(progress)
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
        "seconds": state.seconds,
        "best_valid_loss": state.best,
        "epochs": len(state.curve),
        "stopped": state.stopped,
        "n_train": len(x) - n_valid,
    }
    return network, history


def _check(inputs: np.ndarray, outputs: np.ndarray) -> None:
    if inputs.ndim != 2 or outputs.ndim != 2 or len(inputs) != len(outputs):
        raise ParameterError(f"inputs {inputs.shape} and outputs {outputs.shape} must be 2-D with equally many rows")
    if not (np.isfinite(inputs).all() and np.isfinite(outputs).all()):
        bad = int((~np.isfinite(inputs)).any(axis=1).sum() + (~np.isfinite(outputs)).any(axis=1).sum())
        raise ParameterError(f"training data hold non-finite values in {bad} rows: mend the simulator before training")


class _Fit:
    """One training on scaled data: its loop over steps and epochs, and its checkpoints."""

    def __init__(
        self,
        tf: Any,
        config: NetworkTrainingConfig,
        data: tuple[np.ndarray, np.ndarray, np.ndarray],
        blocks: tuple[np.ndarray, ...],
        n_valid: int,
        checkpoint: Path | None,
    ) -> None:
        x, y, _ = data
        self.tf, self.config, self.checkpoint, self.blocks = tf, config, checkpoint, blocks
        self.train = tuple(tf.constant(part[n_valid:]) for part in data)
        self.valid = tuple(tf.constant(part[:n_valid]) for part in data)
        self.steps = config.steps or ((config.learning_rate, config.batch_size),)
        self.variables = _initial_variables(tf, x.shape[1], config.hidden, y.shape[1], config.seed)
        self.slots: list[Any] = []
        self.best: list[np.ndarray] = []
        described = config.model_dump(mode="json", exclude={"checkpoint_minutes"})
        self.identity = {"network": described, "inputs": array_digest(x), "n_output": y.shape[1]}
        # Recomputed targets may differ by rounding: some of them are compared, not their digest.
        self.first_targets = y[:2].copy()

    def run(self, progress: Callable[[int, int, dict[str, float]], None] | None) -> tuple[_State, list[np.ndarray]]:
        """Train from the start or from the checkpoint to the end; the state then, and the best weights."""
        state, saved_slots = self._resume()
        total = self.config.epochs * len(self.steps)
        saved = time.monotonic()
        while state.step < len(self.steps):
            if not state.epoch and self.best:
                _assign(self.variables, self.best)
            fit_epoch, loss_of, self.slots = _compiled_epoch(
                self.tf, self.variables, self.config, self.blocks, self.steps[state.step], len(self.train[0])
            )
            _assign(self.slots, saved_slots)
            saved_slots = []
            while not state.stopped:
                self._epoch(state, fit_epoch, loss_of)
                if progress is not None and state.curve:
                    figures = dict(zip(("train", "valid"), state.curve[-1], strict=True))
                    progress(len(state.curve), total, figures)
                if self.checkpoint and time.monotonic() - saved >= 60 * self.config.checkpoint_minutes:
                    self._save(state)
                    saved = time.monotonic()
            state.step, state.epoch, state.waited = state.step + 1, 0, 0
            if state.step < len(self.steps):
                state.stopped = ""
        self.slots = []
        self._save(state)
        return state, self.best

    def _epoch(self, state: _State, fit_epoch: Any, loss_of: Any) -> None:
        started = time.perf_counter()
        rng = np.random.default_rng([self.config.seed, state.step, state.epoch])
        shuffled = self.tf.constant(rng.permutation(len(self.train[0])))
        train_loss = float(fit_epoch(*(self.tf.gather(part, shuffled) for part in self.train)))
        valid_loss = float(loss_of(*self.valid))
        state.epoch += 1
        state.seconds += time.perf_counter() - started
        if not np.isfinite(valid_loss):
            if state.best is None:
                rate = self.steps[state.step][0]
                raise ParameterError(f"training diverged in its first epoch: lower learning_rate (now {rate})")
            logger.warning("training diverged at epoch %d: the best weights so far are kept", state.epoch)
            state.stopped = f"diverged at epoch {state.epoch}"
            return
        state.curve.append((train_loss, valid_loss))
        state.waited += 1
        if state.best is None or valid_loss < state.best:
            state.best, state.waited, self.best = valid_loss, 0, [v.numpy() for v in self.variables]
        if self.config.patience and state.waited >= self.config.patience:
            state.stopped = f"no better for {self.config.patience} epochs"
        elif state.epoch >= self.config.epochs:
            state.stopped = "all epochs done"

    def _save(self, state: _State) -> None:
        if self.checkpoint is None:
            return
        arrays = {f"variable_{k}": v.numpy() for k, v in enumerate(self.variables)}
        arrays |= {f"slot_{k}": np.asarray(v.numpy()) for k, v in enumerate(self.slots)}
        arrays |= {f"best_{k}": v for k, v in enumerate(self.best)} | {"first_targets": self.first_targets}
        save_artifact(
            self.checkpoint, _CHECKPOINT_KIND, arrays, {"state": asdict(state), "identity": self.identity}, overwrite=True
        )

    def _resume(self) -> tuple[_State, list[np.ndarray]]:
        """The state to go on from, and the optimiser's variables, if any."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return _State(), []
        state, arrays = _read_checkpoint(self.checkpoint, self.identity, self.first_targets)
        with consistent(self.checkpoint, "checkpoint", otherwise="delete it to start anew"):
            _assign(self.variables, _numbered(arrays, "variable"))
        self.best = _numbered(arrays, "best")
        logger.info("resuming from %s after %d epochs", self.checkpoint, len(state.curve))
        return state, _numbered(arrays, "slot")


def _read_checkpoint(
    path: Path, identity: Mapping[str, Any], first_targets: np.ndarray
) -> tuple[_State, dict[str, np.ndarray]]:
    """The state and the arrays in a checkpoint of the training that `identity` describes."""
    arrays, card = load_artifact(path, _CHECKPOINT_KIND)
    with consistent(path, "checkpoint", otherwise="delete it to start anew"):
        different = differences(card["identity"], json.loads(json.dumps(identity)))
        targets = arrays["first_targets"]
        if not different and (
            targets.shape != first_targets.shape or not np.allclose(targets, first_targets, atol=_SAME_TARGETS)
        ):
            different = ["its training set was another"]
    if different:
        raise ConfigError(
            f"checkpoint {path} is of another training, {'; '.join(different)}: "
            "restore what it was begun with, or delete it to start anew"
        )
    with consistent(path, "checkpoint", otherwise="delete it to start anew"):
        state = _State(**card["state"])
        if not all(type(count) is int and count >= 0 for count in (state.step, state.epoch, state.waited)):
            raise ArtifactError(f"checkpoint {path} has impossible counts: delete it to start anew")
        return state, arrays


def _numbered(arrays: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    return [arrays[f"{name}_{k}"] for k in range(sum(key.startswith(f"{name}_") for key in arrays))]


def _assign(variables: list[Any], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=False):
        variable.assign(value)


def _initial_variables(tf: Any, n_input: int, hidden: tuple[int, ...], n_output: int, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    widths = [n_input, *hidden, n_output]
    weights = [tf.Variable(rng.normal(0, np.sqrt(2 / a), (a, b)).astype(np.float32)) for a, b in pairwise(widths)]
    biases = [tf.Variable(np.zeros(b, dtype=np.float32)) for b in widths[1:]]
    alphas = [tf.Variable(rng.normal(1, 0.3, b).astype(np.float32)) for b in hidden]
    betas = [tf.Variable(rng.normal(0, 0.3, b).astype(np.float32)) for b in hidden]
    return [*weights, *biases, *alphas, *betas]


def _compiled_epoch(
    tf: Any,
    variables: list[Any],
    config: NetworkTrainingConfig,
    blocks: tuple[np.ndarray, ...],
    step: tuple[float, int],
    n_train: int,
) -> tuple[Any, Any, list[Any]]:
    """One compiled epoch at (learning rate, batch size), the compiled loss, and the variables of the optimiser."""
    n_hidden = len(config.hidden)
    n_layer = n_hidden + 1
    rate, batch_size = step
    batch_size = min(batch_size, n_train)
    n_batch = n_train // batch_size
    # With steps the rate falls from step to step, not within them.
    schedule = tf.keras.optimizers.schedules.CosineDecay(rate, config.epochs * n_batch, alpha=1.0 if config.steps else 1e-4)
    apply, slots = _optimizer(tf, variables, config.optimizer, schedule)

    def predict(x: Any) -> Any:
        for k in range(n_hidden):
            x = tf.matmul(x, variables[k]) + variables[n_layer + k]
            alpha, beta = variables[2 * n_layer + k], variables[2 * n_layer + n_hidden + k]
            x = (beta + (1 - beta) * tf.sigmoid(alpha * x)) * x
        return tf.matmul(x, variables[n_hidden]) + variables[n_layer + n_hidden]

    def loss_of(x: Any, y: Any, weights: Any) -> Any:
        error = predict(x) - y
        if blocks:
            parts = tf.split(error, [len(block) for block in blocks], axis=1)
            error = tf.concat([tf.matmul(part, block) for part, block in zip(parts, blocks, strict=True)], axis=1)
        return tf.reduce_mean(tf.square(error * weights))

    def fit_epoch(*data: Any) -> Any:
        total = tf.constant(0.0)
        for batch in tf.range(n_batch):
            rows = slice(batch * batch_size, (batch + 1) * batch_size)
            with tf.GradientTape() as tape:
                loss = loss_of(*(part[rows] for part in data))
            apply(tape.gradient(loss, variables))
            total += loss
        return total / tf.cast(n_batch, tf.float32)

    return tf.function(fit_epoch), tf.function(loss_of), slots


def _optimizer(tf: Any, variables: list[Any], name: str, schedule: Any) -> tuple[Any, list[Any]]:
    """The function that takes a step along gradients, and all that it remembers."""
    if name == "adam":
        adam = tf.keras.optimizers.Adam(schedule)
        adam.build(variables)
        return lambda gradients: adam.apply_gradients(zip(gradients, variables, strict=True)), list(adam.variables)
    soap = Soap(variables)
    return lambda gradients: soap.apply(gradients, schedule(soap.step)), soap.variables
