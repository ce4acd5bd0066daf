"""SOAP: Adam in the slowly changing eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321)."""

from collections.abc import Sequence
from typing import Any

from sedcast.data.tensorflow import import_tensorflow

__all__ = ["Soap"]

_REFRESH = 10
_EPSILON = 1e-10


class Soap:
    """The optimiser for use inside a compiled step; vectors are moved by plain Adam.

    Parameters
    ----------
    variables : matrices and vectors of float32.
    decay : of both moments and of the preconditioners.

    Attributes
    ----------
    step : steps taken.
    """

    def __init__(self, variables: Sequence[Any], *, decay: float = 0.95) -> None:
        self._tf, _ = import_tensorflow()
        tf = self._tf
        self.decay = decay
        self._targets = list(variables)
        self.step = tf.Variable(0, dtype=tf.int64)
        self._first = [tf.Variable(tf.zeros_like(v)) for v in variables]
        self._second = [tf.Variable(tf.zeros_like(v)) for v in variables]
        # By matrix, for its rows and its columns: the mean of the gradient's outer products, and their eigenvectors.
        self._moments: dict[int, tuple[Any, Any]] = {}
        self._bases: dict[int, tuple[Any, Any]] = {}
        for k, v in enumerate(variables):
            if len(v.shape) == 2:
                self._moments[k] = tuple(tf.Variable(tf.zeros((n, n))) for n in v.shape)
                self._bases[k] = tuple(tf.Variable(tf.eye(n)) for n in v.shape)

    @property
    def variables(self) -> list[Any]:
        """All that changes from step to step, for a checkpoint."""
        pairs = [part for k in self._moments for part in (*self._moments[k], *self._bases[k])]
        return [self.step, *self._first, *self._second, *pairs]

    def apply(self, gradients: Sequence[Any], rate: Any) -> None:
        """Move the variables one step against their gradients."""
        tf = self._tf
        self.step.assign_add(1)
        power = tf.pow(self.decay, tf.cast(self.step, tf.float32))
        for k, gradient in enumerate(gradients):
            self._first[k].assign(self._mean(self._first[k], gradient))
            seen = self._rotated(k, gradient)
            self._second[k].assign(self._mean(self._second[k], seen**2))
            move = self._rotated(k, self._first[k]) / (1 - power)
            move /= tf.sqrt(self._second[k] / (1 - power)) + _EPSILON
            if k in self._bases:
                rows, columns = self._bases[k]
                move = tf.matmul(tf.matmul(rows, move), columns, transpose_b=True)
                for moment, outer in zip(self._moments[k], self._outer(gradient), strict=True):
                    moment.assign(self._mean(moment, outer))
            self._targets[k].assign_sub(rate * move)
        # The first gradients set the bases, which are then followed by a step of orthogonal iteration.
        tf.cond(tf.equal(self.step % _REFRESH, 1), self._refresh, lambda: None)

    def _mean(self, old: Any, new: Any) -> Any:
        return self.decay * old + (1 - self.decay) * new

    def _rotated(self, k: int, values: Any) -> Any:
        if k not in self._bases:
            return values
        rows, columns = self._bases[k]
        return self._tf.matmul(self._tf.matmul(rows, values, transpose_a=True), columns)

    def _outer(self, gradient: Any) -> tuple[Any, Any]:
        tf = self._tf
        return tf.matmul(gradient, gradient, transpose_b=True), tf.matmul(gradient, gradient, transpose_a=True)

    def _refresh(self) -> None:
        tf = self._tf
        for k, bases in self._bases.items():
            for axis, (moment, basis) in enumerate(zip(self._moments[k], bases, strict=True)):
                image = tf.matmul(moment, basis)
                order = tf.argsort(tf.reduce_sum(basis * image, axis=0), direction="DESCENDING")
                self._second[k].assign(tf.gather(self._second[k], order, axis=axis))
                basis.assign(tf.linalg.qr(tf.gather(image, order, axis=1))[0])
