"""Training the masked autoregressive flow in TensorFlow by maximum likelihood on simulated pairs (theta, context).

The posterior of precise photometry is a thin sheet in the space of parameters, which makes the loss ill-conditioned: SOAP gets
in 2.5 minutes to where Adam is after half an hour. The loss evaluates each network once per block; masked weights stay
zero because gradients and moves are multiplied by the mask.

References
----------
Papamakarios et al. 2017, arXiv:1705.07057; Jones & Pewsey 2009, doi:10.1093/biomet/asp053 (sinh-arcsinh); Vyas et al. 2024,
arXiv:2409.11321 (SOAP).
"""

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sedcast.data.artifacts import consistent, load_artifact, save_artifact
from sedcast.data.config import Config
from sedcast.data.errors import ArtifactError, ParameterError, SedcastError
from sedcast.data.tensorflow import import_tensorflow
from sedcast.emulator.soap import Soap
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.made import (
    MAX_ANGLE,
    FlowConfig,
    check_choice,
    initial_parameters,
    is_shared,
    parameter_masks,
    parameter_shapes,
    permutations,
)

__all__ = ["FlowTrainer", "FlowTrainingConfig", "TrainingResult", "as_tfp_distribution", "mean_and_std"]

logger = logging.getLogger(__name__)

Pairs = tuple[np.ndarray, np.ndarray]
Record = dict[str, float]
_STEPS_PER_CALL = 50
_VALIDATION_BATCH = 8192
# Of a direction of the context over the largest: magnitudes over their mean have one without any but rounding.
_LEAST_SPREAD = 1e-5
_LEAST_RESIDUAL = 1e-3
# Beyond it a galaxy's loss grows as a logarithm: one that a flow begun elsewhere holds impossible, at 1e30 nats, must not
# decide every step, or which epoch is the best, alone.
_TOLERABLE_NLL = 100.0
# In σ: what a block that bends makes of a point farther away tells nothing, and the next block's would overflow.
_FARTHEST = 1e9
# SOAP's: by measurement. Its other figures are `Soap`'s.
_SECOND_DECAY, _OBSERVE, _REFRESH = 0.98, 8, 50
_CHECKPOINT_KIND = "flow-checkpoint"
_BEST = "best_"


class FlowTrainingConfig(Config):
    """How a flow is trained.

    Attributes
    ----------
    batch_size : pairs per step.
    learning_rate : SOAP's highest rate, reached after `warmup_steps` and lowered along a cosine to `final_rate` times itself.
    max_epochs : passes over the arrays, or chunks of a stream.
    max_minutes : time budget; the cosine ends with it if it comes first. None: no budget (and exact repeatability).
    patience : epochs without a better validation loss before stopping.
    validation_fraction : share of the arrays held out, or of a stream's first chunk if no other galaxies are given for that.
    clip_norm : bound on the gradient's global norm.
    ema_decay : of the moving average of the weights, which is what is validated and kept.
    checkpoint_minutes : time between checkpoints.
    seed : of the split and the order of batches.
    """

    batch_size: Annotated[int, Field(ge=1)] = 1024
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    final_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    max_epochs: Annotated[int, Field(ge=1)] = 100
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    patience: Annotated[int, Field(ge=1)] = 20
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    clip_norm: Annotated[float, Field(gt=0)] = 5.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 3.0
    seed: Annotated[int, Field(ge=0)] = 0

    def n_held_out(self, n: int) -> int:
        """How many of n pairs are held out for validation."""
        return max(1, round(self.validation_fraction * n))


@dataclass(frozen=True)
class TrainingResult:
    """A trained flow (the best moving average), one record per epoch, why training stopped, and the pairs it saw in all.

    The best epoch has the least validation loss, of which a galaxy's part counts in full up to 100 nats and by its logarithm
    beyond; `best_validation_nll` is that epoch's plain mean.
    """

    flow: MaskedAutoregressiveFlow
    history: list[Record]
    reason: str
    best_validation_nll: float
    n_seen: int
    best_epoch: int


@dataclass
class _State:
    """Everything that a resumed run needs: `arrays` are the weights, their averages, and the optimiser's."""

    arrays: dict[str, np.ndarray]
    best_weights: dict[str, np.ndarray]
    data: dict[str, list[float]]
    step: int = 0
    epoch: int = 0
    position: int = 0
    loss_sum: float = 0.0
    best: float = float("inf")
    best_epoch: int = -1
    minutes: float = 0.0
    history: list[Record] = field(default_factory=list)


class FlowTrainer:
    """Trains one flow on arrays (`fit`) or on a stream of fresh simulations (`fit_stream`).

    Parameters
    ----------
    flow : architecture.
    training : how to train.
    start : trained flow of this architecture to begin with, for example of `warm_start`; its standardisation is kept. None:
        random weights, and the standardisation of the data.
    checkpoint : file written every few minutes; if it exists, training resumes from it, exactly.
    progress : called after each epoch with its record: epoch, train_nll, validation_nll (nats), galaxies_per_s, minutes.

    Raises
    ------
    ParameterError : if `start` is of another architecture.
    """

    def __init__(
        self,
        flow: FlowConfig,
        training: FlowTrainingConfig,
        *,
        start: MaskedAutoregressiveFlow | None = None,
        checkpoint: str | Path | None = None,
        progress: Callable[[Record], None] | None = None,
    ) -> None:
        if start is not None and start.config != flow:
            raise ParameterError(f"start is of another architecture, {start.config!r}: give that, or `warm_start` of it")
        self.flow = flow
        self.training = training
        self.start = start
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.progress = progress

    def check(self, dim: int, n_train: int) -> None:
        """Refuse, while there are no pairs yet, what would be refused once there are.

        Parameters
        ----------
        dim : columns of theta.
        n_train : pairs of an epoch, without those held out.

        Raises
        ------
        ParameterError : if the hidden layers are too narrow, or the pairs do not fill a batch.
        ArtifactError : if the checkpoint cannot be read, or belongs to another configuration.
        """
        parameter_masks(self.flow, dim - self.flow.n_choice)
        self._steps_per_epoch(n_train)
        if self.checkpoint is not None and self.checkpoint.is_file():
            _, card = load_artifact(self.checkpoint, _CHECKPOINT_KIND)
            if card.get("identity") != self._identity():
                raise _of_another_training(self.checkpoint)

    def fit(self, theta: np.ndarray, context: np.ndarray) -> TrainingResult:
        """Train on pairs theta (n, dim) on the real line and context (n, n_context), holding out a share for validation.

        With a choice (`FlowConfig.choice`), theta's last column is what was chosen, 0, 1, …

        Raises
        ------
        ParameterError : if shapes disagree, values are not finite, or a column is constant.
        SedcastError : if the loss is not finite before the first validation.
        ArtifactError : if the checkpoint belongs to another configuration.
        """
        theta, context = self._checked(theta, context)
        train, validation = _split(theta, context, self.training)
        return self._train(lambda _: train, validation)

    def fit_stream(self, chunks: Callable[[int], Pairs], *, validation: Pairs | None = None) -> TrainingResult:
        """Train on chunk 0, 1, 2 … of simulations, each used once, as one epoch.

        `chunks(i)` must give the same pairs whenever it is called with the same i. Chunk 0 sets the standardisation,
        and a share of it is held out unless `validation` is given. All chunks must have the same length.

        Raises
        ------
        ParameterError, SedcastError, ArtifactError : as `fit`; also if a chunk has another shape than chunk 0, or `validation`
            other columns.
        """
        first = self._checked(*chunks(0))
        length = len(first[0])
        if validation is None:
            first, validation = _split(*first, self.training)
        else:
            validation = self._checked(*validation)
            _check_columns("the validation set", validation, first)
        n_train = len(first[0])

        def chunk(index: int) -> Pairs:
            if index == 0:
                return first
            theta, context = self._checked(*chunks(index))
            _check_columns(f"chunk {index}", (theta, context), first)
            if len(theta) != length:
                raise ParameterError(f"chunk {index} has {len(theta)} pairs, chunk 0 {length}: make all as long")
            return theta[:n_train], context[:n_train]

        return self._train(chunk, validation)

    def _checked(self, theta: np.ndarray, context: np.ndarray) -> Pairs:
        theta, context = _checked_pairs(theta, context)
        check_choice(self.flow, theta)
        return theta, context

    def _train(self, chunks: Callable[[int], Pairs], validation: Pairs) -> TrainingResult:
        theta, context = chunks(0)
        n_real = theta.shape[1] - self.flow.n_choice
        affine = _standardisation(theta[:, :n_real], context)
        if self.start is None:
            weights = initial_parameters(self.flow, n_real, context.shape[1])
        else:
            if (self.start.n_real, self.start.n_context) != (n_real, context.shape[1]):
                raise ParameterError(
                    f"start has {self.start.n_real} dimensions and {self.start.n_context} columns of context, the pairs "
                    f"{n_real} and {context.shape[1]}: give pairs as it was trained with"
                )
            arrays = self.start.to_arrays()
            affine = {name: arrays[name] for name in affine}
            weights = {name: arrays[name] for name in parameter_shapes(self.flow, n_real, context.shape[1])}
        graph = _Graph(self.flow, self.training, affine, weights)
        state = self._resume(graph, _summary((theta, context), validation))
        graph.set(state.arrays)
        steps_per_epoch = self._steps_per_epoch(len(theta))
        started = saved = time.monotonic() - 60 * state.minutes
        while not (reason := self._reason_to_stop(state)):
            epoch_started = time.monotonic()
            theta, context = chunks(state.epoch)
            order = np.random.default_rng([self.training.seed, state.epoch]).permutation(len(theta)).astype(np.int32)
            first_position = state.position
            while state.position < steps_per_epoch:
                n_steps = min(_STEPS_PER_CALL, steps_per_epoch - state.position)
                rates = self._rates(state, n_steps, steps_per_epoch)
                begin = state.position * self.training.batch_size
                batch = order[begin : begin + n_steps * self.training.batch_size]
                loss = graph.steps(theta[batch], context[batch], rates)
                state.step, state.position, state.loss_sum = (
                    state.step + n_steps,
                    state.position + n_steps,
                    state.loss_sum + loss,
                )
                state.minutes = (time.monotonic() - started) / 60
                if not np.isfinite(loss):
                    return self._diverged(graph, state)
                if self.checkpoint and time.monotonic() - saved >= 60 * self.training.checkpoint_minutes:
                    self._save(graph, state)
                    saved = time.monotonic()
                if self.training.max_minutes and state.minutes >= self.training.max_minutes:
                    break
            n_seen = (state.position - first_position) * self.training.batch_size
            rate = n_seen / max(time.monotonic() - epoch_started, 1e-9)
            self._finish_epoch(graph, state, validation, rate)
        if self.checkpoint:
            self._save(graph, state)
        return self._result(graph, state, reason)

    def _steps_per_epoch(self, n_train: int) -> int:
        steps = n_train // self.training.batch_size
        if not steps:
            raise ParameterError(f"{n_train} training pairs do not fill a batch of {self.training.batch_size}: simulate more")
        return steps

    def _reason_to_stop(self, state: _State) -> str:
        """Why no further step is to be taken, "" if one is; it holds of a finished training that is resumed as well."""
        config = self.training
        if state.history and state.position == 0:
            if config.max_minutes and state.minutes >= config.max_minutes:
                return "reached max_minutes"
            if state.epoch - 1 - state.best_epoch >= config.patience:
                return f"validation loss has not improved for {config.patience} epochs"
        return "reached max_epochs" if state.epoch >= config.max_epochs else ""

    def _rates(self, state: _State, n_steps: int, steps_per_epoch: int) -> np.ndarray:
        config = self.training
        steps = state.step + np.arange(n_steps)
        done = steps / (config.max_epochs * steps_per_epoch)
        if config.max_minutes:
            done = np.maximum(done, state.minutes / config.max_minutes)
        cosine = config.final_rate + (1 - config.final_rate) * 0.5 * (1 + np.cos(np.pi * np.minimum(done, 1)))
        warmup = np.minimum((steps + 1) / (config.warmup_steps + 1), 1)
        return (config.learning_rate * warmup * cosine).astype(np.float32)

    def _finish_epoch(self, graph: "_Graph", state: _State, validation: Pairs, rate: float) -> None:
        nll, tolerable = graph.validate(*validation)
        if tolerable < state.best:
            state.best, state.best_epoch = tolerable, state.epoch
            state.best_weights = graph.averages()
        record = {
            "epoch": state.epoch,
            "train_nll": state.loss_sum / max(state.position, 1),
            "validation_nll": nll,
            "galaxies_per_s": rate,
            "minutes": state.minutes,
        }
        state.history.append(record)
        state.epoch, state.position, state.loss_sum = state.epoch + 1, 0, 0.0
        logger.info(
            "epoch %(epoch)d: train %(train_nll).4f, validation %(validation_nll).4f nats, %(galaxies_per_s).0f/s", record
        )
        if self.progress:
            self.progress(record)

    def _diverged(self, graph: "_Graph", state: _State) -> TrainingResult:
        where = f"loss became non-finite in epoch {state.epoch}, before step {state.step}"
        if state.best_epoch < 0:
            raise SedcastError(
                f"{where}, before the first validation: lower learning_rate or clip_norm, or check the training set"
            )
        logger.warning("%s: keeping the weights of epoch %d", where, state.best_epoch)
        return self._result(graph, state, f"{where}; kept epoch {state.best_epoch}")

    def _result(self, graph: "_Graph", state: _State, reason: str) -> TrainingResult:
        if state.best_epoch < 0:
            raise SedcastError("no epoch gave a finite validation loss: lower learning_rate, or check the training set")
        n_seen = state.step * self.training.batch_size
        best = state.history[state.best_epoch]["validation_nll"]
        return TrainingResult(graph.flow(state.best_weights), state.history, reason, best, n_seen, state.best_epoch)

    def _identity(self) -> str:
        # Everything but the time budget and the time between checkpoints, which alone may change before a training is resumed.
        training = self.training.model_dump(exclude={"max_minutes", "checkpoint_minutes"})
        return json.dumps({"flow": self.flow.model_dump(), "training": training}, sort_keys=True)

    def _save(self, graph: "_Graph", state: _State) -> None:
        assert self.checkpoint is not None
        arrays = graph.arrays() | {f"{_BEST}{name}": value for name, value in state.best_weights.items()}
        card = {name: value for name, value in vars(state).items() if name not in ("arrays", "best_weights")}
        card["best"] = None if not np.isfinite(state.best) else state.best
        card["affine"] = {name: value.tolist() for name, value in graph.affine.items()}
        save_artifact(self.checkpoint, _CHECKPOINT_KIND, arrays, {"state": card, "identity": self._identity()})

    def _resume(self, graph: "_Graph", data: dict[str, list[float]]) -> _State:
        if self.checkpoint is None or not self.checkpoint.is_file():
            return _State(graph.arrays(), graph.averages(), data)
        state = _read_checkpoint(self.checkpoint, self._identity(), graph, data)
        logger.info("resuming from %s at step %d", self.checkpoint, state.step)
        return state


def _of_another_training(path: Path) -> ArtifactError:
    return ArtifactError(
        f"checkpoint {path} is of another configuration or training set: restore those, or remove the file to start again"
    )


def _read_checkpoint(path: Path, identity: str, graph: "_Graph", data: dict[str, list[float]]) -> _State:
    """The state in a checkpoint, whose arrays have the names and shapes of the graph's, and its pairs the `_summary` `data`."""
    arrays, card = load_artifact(path, _CHECKPOINT_KIND)
    with consistent(path, "checkpoint", otherwise="delete it to start again"):
        state = dict(card["state"])
        found = state.pop("affine")
        # Checkpoints were once without.
        seen = state.setdefault("data", data)
        figures = [(found[name], value) for name, value in graph.affine.items()] + [(seen["mean"], np.array(data["mean"]))]
        same_data = seen["n"] == data["n"] and all(np.allclose(*pair, rtol=1e-5, atol=1e-6) for pair in figures)
        if card["identity"] != identity or not same_data:
            raise _of_another_training(path)
        best = {name: arrays.pop(f"{_BEST}{name}") for name in graph.shapes}
        expected = {name: array.shape for name, array in graph.arrays().items()}
        if {name: array.shape for name, array in arrays.items()} != expected or graph.shapes != {
            n: a.shape for n, a in best.items()
        }:
            raise ArtifactError(f"checkpoint {path} has other arrays than this flow: remove the file to start again")
        state["best"] = float("inf") if state["best"] is None else float(state["best"])
        counts = [state[name] for name in ("step", "epoch", "position", "best_epoch")]
        if not all(type(count) is int and count >= -1 for count in counts) or not isinstance(state["history"], list):
            raise ArtifactError(f"checkpoint {path} has impossible counts {counts}: remove the file to start again")
        return _State(arrays, best, **state)


class _Graph:
    """The compiled parts: training steps, validation, and what they change."""

    def __init__(
        self,
        config: FlowConfig,
        training: FlowTrainingConfig,
        affine: Mapping[str, np.ndarray],
        start: Mapping[str, np.ndarray],
    ) -> None:
        self.tf, _ = import_tensorflow()
        tf = self.tf
        self.config, self.training, self.affine = config, training, dict(affine)
        self.dim, self.n_context = affine["theta_mean"].size, affine["context_mean"].size
        self.permutation = permutations(config, self.dim)
        self.shapes = parameter_shapes(config, self.dim, self.n_context)
        self._weights = {name: tf.Variable(start[name]) for name in self.shapes}
        self._averages = {name: tf.Variable(start[name]) for name in self.shapes}
        masks = parameter_masks(config, self.dim)
        self._masks = [tf.constant(masks[name], tf.float32) if name in masks else None for name in self.shapes]
        self._soap = Soap(
            list(self._weights.values()), masks=self._masks, second_decay=_SECOND_DECAY, observe=_OBSERVE, refresh=_REFRESH
        )
        self._variables = {f"weight_{name}": value for name, value in self._weights.items()}
        self._variables |= {f"average_{name}": value for name, value in self._averages.items()}
        self._variables |= {f"soap_{k}": value for k, value in enumerate(self._soap.variables)}
        self._steps = tf.function(self._run_steps, reduce_retracing=True)
        self._sums = tf.function(self._sum_losses)

    def set(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, variable in self._variables.items():
            variable.assign(arrays[name])

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: variable.numpy() for name, variable in self._variables.items()}

    def averages(self) -> dict[str, np.ndarray]:
        return {name: variable.numpy() for name, variable in self._averages.items()}

    def flow(self, weights: Mapping[str, np.ndarray]) -> MaskedAutoregressiveFlow:
        return MaskedAutoregressiveFlow(self.config, {**weights, **self.affine, "permutation": self.permutation})

    def steps(self, theta: np.ndarray, context: np.ndarray, rates: np.ndarray) -> float:
        """Run len(rates) steps over consecutive batches of pairs; return the sum of their losses."""
        tf = self.tf
        return float(self._steps(tf.constant(theta), tf.constant(context), tf.constant(rates)))

    def validate(self, theta: np.ndarray, context: np.ndarray) -> tuple[float, float]:
        """The mean loss of pairs, and the mean of what is tolerable of each."""
        batches = range(0, len(theta), _VALIDATION_BATCH)
        pieces = [slice(start, start + _VALIDATION_BATCH) for start in batches]
        sums = [[float(total) for total in self._sums(theta[piece], context[piece])] for piece in pieces]
        nll, tolerable = (sum(each) / len(theta) for each in zip(*sums, strict=True))
        return nll, tolerable

    def _sum_losses(self, theta: Any, context: Any) -> Any:
        nll = self.loss(self._averages, theta, context)
        return self.tf.reduce_sum(nll), self.tf.reduce_sum(_tolerable(self.tf, nll))

    def loss(self, weights: Mapping[str, Any], theta: Any, context: Any) -> Any:
        """Negative log-probability (n,) in nats of theta (n, dim, and the choice) given context (n, n_context)."""
        tf = self.tf
        theta, choice = theta[:, : self.dim], theta[:, self.dim :]
        context = (context - self.affine["context_mean"]) / self.affine["context_std"]
        values = (theta - self.affine["theta_mean"] - tf.matmul(context, self.affine["theta_slope"])) / self.affine["theta_std"]
        weights = {name: tf.convert_to_tensor(array) for name, array in weights.items()}
        features = _features(tf, self.config, weights, context)
        total = 0.5 * self.dim * np.log(2 * np.pi) + np.log(self.affine["theta_std"].astype(float)).sum()
        nll = tf.fill([tf.shape(theta)[0]], tf.constant(total, theta.dtype))
        if self.config.choice:
            log_odds = _log_odds(tf, self.config, weights, features)
            logits = tf.concat([tf.zeros_like(log_odds[:, :1]), log_odds], axis=1)
            option = tf.cast(choice[:, 0], tf.int32)
            nll += tf.nn.sparse_softmax_cross_entropy_with_logits(labels=option, logits=logits)
            features = tf.concat([features, _indicators(tf, self.config, option)], axis=1)
        blocks = {name: tf.unstack(array) for name, array in weights.items() if not is_shared(name)}
        for index in range(self.config.n_blocks):
            values = tf.gather(values, self.permutation[index], axis=1)
            block = {name: arrays[index] for name, arrays in blocks.items()}
            parameters = _block_parameters(tf, self.config, block, values, features)
            values, log_slope = _noise_and_log_slope(tf, values, *parameters)
            nll += tf.reduce_sum(log_slope, axis=1)
        return nll + 0.5 * tf.reduce_sum(values**2, axis=1)

    def _run_steps(self, theta: Any, context: Any, rates: Any) -> Any:
        tf, size = self.tf, self.training.batch_size
        total = tf.constant(0.0)
        for index in tf.range(tf.shape(rates)[0]):
            piece = slice(index * size, (index + 1) * size)
            total += self._one_step(theta[piece], context[piece], rates[index])
        return total

    def _one_step(self, theta: Any, context: Any, rate: Any) -> Any:
        tf = self.tf
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(_tolerable(tf, self.loss(self._weights, theta, context)))
        gradients = tape.gradient(loss, list(self._weights.values()))
        gradients = [g if mask is None else g * mask for g, mask in zip(gradients, self._masks, strict=True)]
        gradients, _ = tf.clip_by_global_norm(gradients, self.training.clip_norm)
        self._soap.apply(gradients, rate)
        # A young average must not remember the initial weights.
        step = tf.cast(self._soap.step, tf.float32)
        decay = tf.minimum(self.training.ema_decay, step / (9 + step))
        for name, average in self._averages.items():
            average.assign(decay * average + (1 - decay) * self._weights[name])
        return loss


def _tolerable(tf: Any, nll: Any) -> Any:
    excess = tf.nn.relu(nll - _TOLERABLE_NLL)
    return nll - excess + tf.math.log1p(excess)


def _silu(tf: Any, values: Any) -> Any:
    # Its gradient from what is at hand: a tenth more galaxies per second than one derived from values * sigmoid(values).
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def silu(values: Any) -> tuple[Any, Callable[[Any], Any]]:
        share = tf.sigmoid(values)
        result = values * share
        return result, lambda upstream: upstream * (share + result * (1 - share))

    return silu(values)


def _features(tf: Any, config: FlowConfig, weights: Mapping[str, Any], context: Any) -> Any:
    """What the blocks see of the standardised context (n, n_context): itself and its embedding."""
    embedded = context
    for layer in range(len(config.embedding)):
        embedded = _silu(tf, tf.matmul(embedded, weights[f"embedding_kernel_{layer}"]) + weights[f"embedding_bias_{layer}"])
    return tf.concat([context, embedded], axis=1) if config.embedding else context


def _log_odds(tf: Any, config: FlowConfig, weights: Mapping[str, Any], features: Any) -> Any:
    """Those of the choice's options to the first of them, (n, n_indicators)."""
    values = features
    for layer in range(len(config.choice) + 1):
        values = _silu(tf, values) if layer else values
        values = tf.matmul(values, weights[f"choice_kernel_{layer}"]) + weights[f"choice_bias_{layer}"]
    return values


def _indicators(tf: Any, config: FlowConfig, option: Any) -> Any:
    """What the blocks see of options (n,), (n, n_indicators): `options.indicators` of the other axis."""
    return tf.one_hot(option, config.n_options)[:, 1:]


def _block_parameters(tf: Any, config: FlowConfig, weights: Mapping[str, Any], values: Any, features: Any) -> list[Any]:
    """One MADE: shifts, log scales and, if it has them, skews and log tail weights (…, dim) for `values` given `features`."""
    activation = functools.partial(_silu, tf) if config.activation == "silu" else getattr(tf.nn, config.activation)
    hidden = tf.matmul(values, weights["kernel_0"]) + tf.matmul(features, weights["context_kernel"]) + weights["bias_0"]
    for layer in range(1, len(config.hidden) + 1):
        hidden = tf.matmul(activation(hidden), weights[f"kernel_{layer}"]) + weights[f"bias_{layer}"]
    shift, *raw = tf.split(hidden, config.n_outputs, axis=-1)
    return [shift, *(bound * tf.tanh(each / bound) for each, bound in zip(raw, config.soft_bounds, strict=True))]


def _noise_and_log_slope(
    tf: Any, values: Any, shift: Any, log_scale: Any, skew: Any = None, log_tail: Any = None
) -> tuple[Any, Any]:
    """The noise z that a block's transform makes `values` of, and the log slope of the transform there."""
    values = (values - shift) * tf.exp(-log_scale)
    if log_tail is None:
        return values, log_scale
    # Bounded where squares and hyperbolic functions overflow: at impossible points.
    values = tf.clip_by_value(values, -_FARTHEST, _FARTHEST)
    angle = tf.clip_by_value((tf.asinh(values) - skew) * tf.exp(-log_tail), -MAX_ANGLE, MAX_ANGLE)
    return tf.sinh(angle), log_scale + log_tail + 0.5 * tf.math.log1p(values**2) - tf.math.log(tf.cosh(angle))


def as_tfp_distribution(flow: MaskedAutoregressiveFlow, context: np.ndarray, choice: np.ndarray | None = None) -> Any:
    """The flow as a TensorFlow Probability distribution over (n, n_real), one batch member per row of `context` (n, n_context).

    Of a flow with a choice it is the density given what was chosen, `choice` (n,). Built from TFP's own
    MaskedAutoregressiveFlow, Permute and affine bijectors in float32: the reference for `flow`.
    """
    tf, tfp = import_tensorflow()
    tfb, tfd = tfp.bijectors, tfp.distributions
    arrays = flow.to_arrays()
    standard = tf.constant((np.asarray(context, np.float32) - arrays["context_mean"]) / arrays["context_std"])
    features = _features(tf, flow.config, arrays, standard)
    if flow.config.choice:
        features = tf.concat([features, _indicators(tf, flow.config, tf.constant(choice, tf.int32))], axis=1)
    names = [name for name in parameter_shapes(flow.config, flow.n_real, flow.n_context) if not is_shared(name)]

    def network(index: int) -> Callable[[Any], Any]:
        weights = {name: tf.constant(arrays[name][index]) for name in names}

        def bijector(values: Any) -> Any:
            shift, log_scale, *others = _block_parameters(tf, flow.config, weights, values, features)
            chain = [tfb.Shift(shift), tfb.Scale(log_scale=log_scale)]
            if others:
                skew, tail = others[0], tf.exp(others[1])
                # TFP's is scaled so that it leaves 2 where it is if there is no skew.
                chain += [tfb.Scale(tf.sinh(tf.asinh(2.0) * tail) / 2), tfb.SinhArcsinh(skewness=skew / tail, tailweight=tail)]
            return tfb.Chain(chain)

        return bijector

    # Bijectors act from the last to the first on base noise: the last block comes first.
    centre = arrays["theta_mean"] + tf.matmul(standard, arrays["theta_slope"])
    chain: list[Any] = [tfb.Shift(centre), tfb.Scale(arrays["theta_std"])]
    for index, order in enumerate(arrays["permutation"]):
        chain.append(tfb.Permute(np.argsort(order).astype(np.int32)))
        chain.append(tfb.MaskedAutoregressiveFlow(bijector_fn=network(index), unroll_loop=False))
    base = tfd.MultivariateNormalDiag(tf.zeros([len(standard), flow.n_real]), tf.ones(flow.n_real))
    return tfd.TransformedDistribution(base, tfb.Chain(chain))


def _checked_pairs(theta: np.ndarray, context: np.ndarray) -> Pairs:
    pairs = {"theta": np.asarray(theta, dtype=np.float32), "context": np.asarray(context, dtype=np.float32)}
    for name, values in pairs.items():
        if values.ndim != 2 or not values.size:
            raise ParameterError(f"{name} must be a non-empty (n, columns) array, got {values.shape}")
        bad = np.count_nonzero(~np.isfinite(values).all(axis=1))
        if bad:
            raise ParameterError(f"{name} has non-finite values in {bad} of {len(values)} rows: leave those rows out")
    if len(pairs["theta"]) != len(pairs["context"]):
        raise ParameterError(f"theta and context must pair up: got {len(theta)} and {len(context)} rows")
    return pairs["theta"], pairs["context"]


def _summary(*sets: Pairs) -> dict[str, list[float]]:
    """What tells sets of pairs from others, but for rounding."""
    mean = np.concatenate([values.mean(axis=0, dtype=float) for pairs in sets for values in pairs])
    return {"n": [len(theta) for theta, _ in sets], "mean": mean.tolist()}


def _check_columns(name: str, pairs: Pairs, first: Pairs) -> None:
    found, expected = ([values.shape[1] for values in each] for each in (pairs, first))
    if found != expected:
        raise ParameterError(f"{name} has {found} columns of theta and context, chunk 0 has {expected}: give the same to all")


def mean_and_std(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (k,) of the columns of training values (n, k).

    Raises
    ------
    ParameterError : if a column is constant; `name` says of what.
    """
    mean, std = values.mean(axis=0, dtype=float), values.std(axis=0, dtype=float)
    constant = np.flatnonzero(std <= 1e-6 * np.maximum(np.abs(mean), 1e-6))
    if constant.size:
        raise ParameterError(
            f"{name} is constant in {constant.size} of {std.size} columns ({constant.tolist()}): leave them out"
        )
    return mean, std


def _standardisation(theta: np.ndarray, context: np.ndarray) -> dict[str, np.ndarray]:
    affine: dict[str, np.ndarray] = {}
    for name, values in (("theta", theta), ("context", context)):
        mean, std = mean_and_std(name, values)
        affine |= {f"{name}_mean": mean.astype(np.float32), f"{name}_std": std.astype(np.float32)}
    # What is linear in the context, as most of the mass is, need not be learnt.
    standard = (context - affine["context_mean"]) / affine["context_std"]
    centred = (theta - affine["theta_mean"]).astype(float)
    slope = np.linalg.lstsq(standard.astype(float), centred, rcond=_LEAST_SPREAD)[0].astype(np.float32)
    residual = (centred - standard @ slope).std(axis=0)
    std = np.maximum(residual, _LEAST_RESIDUAL * affine["theta_std"])
    return affine | {"theta_slope": slope, "theta_std": std.astype(np.float32)}


def _split(theta: np.ndarray, context: np.ndarray, training: FlowTrainingConfig) -> tuple[Pairs, Pairs]:
    order = np.random.default_rng([training.seed, 2**32]).permutation(len(theta))
    held = order[: training.n_held_out(len(theta))]
    kept = order[len(held) :]
    return (theta[kept], context[kept]), (theta[held], context[held])
