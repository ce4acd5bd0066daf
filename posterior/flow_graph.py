"""The compiled half of training a flow: steps of SOAP on batches of pairs, the moving average of the weights, validation.

Masked weights stay zero because gradients and moves are multiplied by the mask.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sedcast.data.tensorflow import import_tensorflow
from sedcast.emulator.soap import Soap
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_tensorflow import negative_log_prob
from sedcast.posterior.made import FlowConfig, parameter_masks, parameter_shapes, permutations

__all__ = ["FlowGraph"]

_VALIDATION_BATCH = 8192
# Beyond it a galaxy's loss grows as a logarithm: one that a flow begun elsewhere holds impossible, at 1e30 nats, must not
# decide every step, or which epoch is the best, alone.
_TOLERABLE_NLL = 100.0
# SOAP's: by measurement. Its other figures are `Soap`'s.
_SECOND_DECAY, _OBSERVE, _REFRESH = 0.98, 8, 50


class FlowGraph:
    """Training steps and validation of a flow, compiled, and what they change: weights, their averages, the optimiser.

    Parameters
    ----------
    config : architecture.
    affine : means, standard deviations and slopes by which theta and context are standardised, as `standardisation` has them.
    start : the weights to begin with, by the names of `parameter_shapes`.
    batch_size : pairs per step.
    clip_norm : bound on the gradient's global norm.
    ema_decay : of the moving average of the weights.

    Attributes
    ----------
    shapes : of the weights, by name.
    """

    def __init__(
        self,
        config: FlowConfig,
        affine: Mapping[str, np.ndarray],
        start: Mapping[str, np.ndarray],
        *,
        batch_size: int,
        clip_norm: float,
        ema_decay: float,
    ) -> None:
        self.tf, _ = import_tensorflow()
        tf = self.tf
        self.config, self.affine = config, dict(affine)
        self.batch_size, self.clip_norm, self.ema_decay = batch_size, clip_norm, ema_decay
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
        """Go on from what `arrays` gave."""
        for name, variable in self._variables.items():
            variable.assign(arrays[name])

    def arrays(self) -> dict[str, np.ndarray]:
        """All that steps change, by name."""
        return {name: variable.numpy() for name, variable in self._variables.items()}

    def averages(self) -> dict[str, np.ndarray]:
        """The moving averages of the weights, by the weights' names."""
        return {name: variable.numpy() for name, variable in self._averages.items()}

    def flow(self, weights: Mapping[str, np.ndarray]) -> MaskedAutoregressiveFlow:
        """The flow of these weights, in NumPy."""
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
        nll = self._loss(self._averages, theta, context)
        return self.tf.reduce_sum(nll), self.tf.reduce_sum(_tolerable(self.tf, nll))

    def _loss(self, weights: Mapping[str, Any], theta: Any, context: Any) -> Any:
        return negative_log_prob(self.config, weights, self.affine, self.permutation, theta, context)

    def _run_steps(self, theta: Any, context: Any, rates: Any) -> Any:
        tf, size = self.tf, self.batch_size
        total = tf.constant(0.0)
        for index in tf.range(tf.shape(rates)[0]):
            piece = slice(index * size, (index + 1) * size)
            total += self._one_step(theta[piece], context[piece], rates[index])
        return total

    def _one_step(self, theta: Any, context: Any, rate: Any) -> Any:
        tf = self.tf
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(_tolerable(tf, self._loss(self._weights, theta, context)))
        gradients = tape.gradient(loss, list(self._weights.values()))
        gradients = [g if mask is None else g * mask for g, mask in zip(gradients, self._masks, strict=True)]
        gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        self._soap.apply(gradients, rate)
        # A young average must not remember the initial weights.
        step = tf.cast(self._soap.step, tf.float32)
        decay = tf.minimum(self.ema_decay, step / (9 + step))
        for name, average in self._averages.items():
            average.assign(decay * average + (1 - decay) * self._weights[name])
        return loss


def _tolerable(tf: Any, nll: Any) -> Any:
    excess = tf.nn.relu(nll - _TOLERABLE_NLL)
    return nll - excess + tf.math.log1p(excess)
