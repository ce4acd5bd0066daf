"""Training the masked autoregressive flow in TensorFlow by maximum likelihood on simulated pairs (theta, context).

The posterior of precise photometry is a thin sheet in the space of parameters, which makes the loss ill-conditioned: SOAP gets
in 2.5 minutes to where Adam is after half an hour.

References
----------
Papamakarios et al. 2017, arXiv:1705.07057; Jones & Pewsey 2009, doi:10.1093/biomet/asp053 (sinh-arcsinh); Vyas et al. 2024,
arXiv:2409.11321 (SOAP).
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sedcast.data.artifacts import consistent, load_artifact, save_artifact
from sedcast.data.config import Config
from sedcast.data.errors import ArtifactError, ParameterError, SedcastError
from sedcast.emulator.segments import differences
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_graph import FlowGraph
from sedcast.posterior.made import FlowConfig, check_choice, initial_parameters, parameter_masks, parameter_shapes
from sedcast.posterior.training_pairs import Pairs, check_columns, checked_pairs, split, standardisation, summary

__all__ = ["FlowTrainer", "FlowTrainingConfig", "Record", "TrainingResult"]

logger = logging.getLogger(__name__)

Record = dict[str, float]
_STEPS_PER_CALL = 50
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
    made_from : checksums and settings, as JSON has them, that decide the pairs: a checkpoint of others is not resumed from.
    progress : called after each epoch with the records of all, those before an interruption included: epoch, train_nll,
        validation_nll (nats), galaxies_per_s, minutes.

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
        made_from: Mapping[str, Any] | None = None,
        progress: Callable[[list[Record]], None] | None = None,
    ) -> None:
        if start is not None and start.config != flow:
            raise ParameterError(f"start is of another architecture, {start.config!r}: give that, or `warm_start` of it")
        self.flow = flow
        self.training = training
        self.start = start
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.made_from = dict(made_from or {})
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
            _refuse_another_training(self.checkpoint, card, self._identity(), self.made_from)

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
        train, validation = split((theta, context), self.training.n_held_out(len(theta)), seed=self.training.seed)
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
            first, validation = split(first, self.training.n_held_out(length), seed=self.training.seed)
        else:
            validation = self._checked(*validation)
            check_columns("the validation set", validation, first)
        n_train = len(first[0])

        def chunk(index: int) -> Pairs:
            if index == 0:
                return first
            theta, context = self._checked(*chunks(index))
            check_columns(f"chunk {index}", (theta, context), first)
            if len(theta) != length:
                raise ParameterError(f"chunk {index} has {len(theta)} pairs, chunk 0 {length}: make all as long")
            return theta[:n_train], context[:n_train]

        return self._train(chunk, validation)

    def _checked(self, theta: np.ndarray, context: np.ndarray) -> Pairs:
        theta, context = checked_pairs(theta, context)
        check_choice(self.flow, theta)
        return theta, context

    def _train(self, chunks: Callable[[int], Pairs], validation: Pairs) -> TrainingResult:
        theta, context = chunks(0)
        n_real = theta.shape[1] - self.flow.n_choice
        affine = standardisation(theta[:, :n_real], context)
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
        batch_size = self.training.batch_size
        graph = FlowGraph(
            self.flow,
            affine,
            weights,
            batch_size=batch_size,
            clip_norm=self.training.clip_norm,
            ema_decay=self.training.ema_decay,
        )
        state = self._resume(graph, summary((theta, context), validation))
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
                begin = state.position * batch_size
                batch = order[begin : begin + n_steps * batch_size]
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
            n_seen = (state.position - first_position) * batch_size
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

    def _finish_epoch(self, graph: FlowGraph, state: _State, validation: Pairs, rate: float) -> None:
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
            self.progress(list(state.history))

    def _diverged(self, graph: FlowGraph, state: _State) -> TrainingResult:
        where = f"loss became non-finite in epoch {state.epoch}, before step {state.step}"
        if state.best_epoch < 0:
            raise SedcastError(
                f"{where}, before the first validation: lower learning_rate or clip_norm, or check the training set"
            )
        logger.warning("%s: keeping the weights of epoch %d", where, state.best_epoch)
        return self._result(graph, state, f"{where}; kept epoch {state.best_epoch}")

    def _result(self, graph: FlowGraph, state: _State, reason: str) -> TrainingResult:
        if state.best_epoch < 0:
            raise SedcastError("no epoch gave a finite validation loss: lower learning_rate, or check the training set")
        n_seen = state.step * self.training.batch_size
        best = state.history[state.best_epoch]["validation_nll"]
        return TrainingResult(graph.flow(state.best_weights), state.history, reason, best, n_seen, state.best_epoch)

    def _identity(self) -> str:
        # Everything but the time budget and the time between checkpoints, which alone may change before a training is resumed.
        training = self.training.model_dump(exclude={"max_minutes", "checkpoint_minutes"})
        return json.dumps({"flow": self.flow.model_dump(), "training": training}, sort_keys=True)

    def _save(self, graph: FlowGraph, state: _State) -> None:
        assert self.checkpoint is not None
        arrays = graph.arrays() | {f"{_BEST}{name}": value for name, value in state.best_weights.items()}
        card = {name: value for name, value in vars(state).items() if name not in ("arrays", "best_weights")}
        card["best"] = None if not np.isfinite(state.best) else state.best
        card["affine"] = {name: value.tolist() for name, value in graph.affine.items()}
        described = {"state": card, "identity": self._identity(), "made_from": self.made_from}
        save_artifact(self.checkpoint, _CHECKPOINT_KIND, arrays, described, overwrite=True)

    def _resume(self, graph: FlowGraph, data: dict[str, list[float]]) -> _State:
        if self.checkpoint is None or not self.checkpoint.is_file():
            return _State(graph.arrays(), graph.averages(), data)
        state = _read_checkpoint(self.checkpoint, self._identity(), self.made_from, graph, data)
        logger.info("resuming from %s at step %d", self.checkpoint, state.step)
        return state


def _of_another_training(path: Path, different: Sequence[str] = ()) -> ArtifactError:
    named = f" ({'; '.join(different)})" if different else ""
    return ArtifactError(
        f"checkpoint {path} is of another configuration or training set{named}: restore those, or remove the file to start "
        "again"
    )


def _refuse_another_training(path: Path, card: Mapping[str, Any], identity: str, made_from: Mapping[str, Any]) -> None:
    # Checkpoints were once without what their pairs are made from.
    different = differences(card["made_from"], made_from) if isinstance(card.get("made_from"), Mapping) else []
    if card.get("identity") != identity or different:
        raise _of_another_training(path, different)


def _read_checkpoint(
    path: Path, identity: str, made_from: Mapping[str, Any], graph: FlowGraph, data: dict[str, list[float]]
) -> _State:
    """The state in a checkpoint, whose arrays have the names and shapes of the graph's, and its pairs the `summary` `data`."""
    arrays, card = load_artifact(path, _CHECKPOINT_KIND)
    _refuse_another_training(path, card, identity, made_from)
    with consistent(path, "checkpoint", otherwise="delete it to start again"):
        state = dict(card["state"])
        found = state.pop("affine")
        # Checkpoints were once without.
        seen = state.setdefault("data", data)
        figures = [(found[name], value) for name, value in graph.affine.items()] + [(seen["mean"], np.array(data["mean"]))]
        same_data = seen["n"] == data["n"] and all(np.allclose(*pair, rtol=1e-5, atol=1e-6) for pair in figures)
        if not same_data:
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
