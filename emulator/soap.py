"""SOAP: Adam in the slowly changing eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321)."""

from collections.abc import Sequence
from typing import Any

from sedcast.data.tensorflow import import_tensorflow

__all__ = ["Soap"]

_EPSILON = 1e-10


class Soap:
    """The optimiser for use inside a compiled step; vectors are moved by plain Adam, stacks of them as matrices.

    Moments are kept in the eigenbasis, and turned with it.

    Parameters
    ----------
    variables : float32 matrices, stacks of matrices (…, rows, columns), and vectors.
    masks : for each variable what its moves are multiplied by, or None.
    decay : of the first moment and of the preconditioners.
    second_decay : of the second moment; `decay` by default.
    observe : steps between gradients that the preconditioners take up.
    refresh : steps between updates of the eigenbasis.

    Attributes
    ----------
    step : steps taken.
    """

    def __init__(
        self,
        variables: Sequence[Any],
        *,
        masks: Sequence[Any] | None = None,
        decay: float = 0.95,
        second_decay: float | None = None,
        observe: int = 1,
        refresh: int = 10,
    ) -> None:
        self._tf, _ = import_tensorflow()
        tf = self._tf
        self.decay, self.second_decay = decay, decay if second_decay is None else second_decay
        self._observe_every, self._refresh_every = observe, refresh
        self._targets = list(variables)
        self._masks = [None] * len(self._targets) if masks is None else list(masks)
        self.step = tf.Variable(0, dtype=tf.int64)
        self._first = [tf.Variable(tf.zeros_like(v)) for v in variables]
        self._second = [tf.Variable(tf.zeros_like(v)) for v in variables]
        # By matrix, for its rows and its columns: the mean of the gradient's outer products, and their eigenvectors.
        self._moments: dict[int, tuple[Any, Any]] = {}
        self._bases: dict[int, tuple[Any, Any]] = {}
        for k, v in enumerate(variables):
            if len(v.shape) >= 2:
                stack = [int(n) for n in v.shape[:-2]]
                self._moments[k] = tuple(tf.Variable(tf.zeros([*stack, n, n])) for n in v.shape[-2:])
                self._bases[k] = tuple(tf.Variable(tf.eye(n, batch_shape=stack)) for n in v.shape[-2:])

    @property
    def variables(self) -> list[Any]:
        """All that changes from step to step, for a checkpoint."""
        pairs = [part for k in self._moments for part in (*self._moments[k], *self._bases[k])]
        return [self.step, *self._first, *self._second, *pairs]

    def apply(self, gradients: Sequence[Any], rate: Any) -> None:
        """Move the variables one step against their gradients."""
        tf = self._tf
        self.step.assign_add(1)
        done = tf.cast(self.step, tf.float32)
        first_share, second_share = 1 - tf.pow(self.decay, done), 1 - tf.pow(self.second_decay, done)
        for k, gradient in enumerate(gradients):
            first, second, mask = self._first[k], self._second[k], self._masks[k]
            seen = self._rotated(k, gradient)
            first.assign(self.decay * first + (1 - self.decay) * seen)
            second.assign(self.second_decay * second + (1 - self.second_decay) * seen**2)
            move = self._rotated_back(k, first / first_share / (tf.sqrt(second / second_share) + _EPSILON))
            self._targets[k].assign_sub(rate * (move if mask is None else move * mask))
        tf.cond(self._due(self._observe_every), lambda: self._observe(gradients), lambda: None)
        # The first gradients set the bases, which are then followed by a step of orthogonal iteration.
        tf.cond(self._due(self._refresh_every), self._refresh, lambda: None)

    def _due(self, every: int) -> Any:
        return self._tf.equal((self.step - 1) % every, 0)

    def _rotated(self, k: int, values: Any) -> Any:
        if k not in self._bases:
            return values
        rows, columns = self._bases[k]
        return self._tf.matmul(self._tf.matmul(rows, values, transpose_a=True), columns)

    def _rotated_back(self, k: int, values: Any) -> Any:
        if k not in self._bases:
            return values
        rows, columns = self._bases[k]
        return self._tf.matmul(self._tf.matmul(rows, values), columns, transpose_b=True)

    def _observe(self, gradients: Sequence[Any]) -> None:
        tf = self._tf
        for k, moments in self._moments.items():
            g = gradients[k]
            outer = tf.matmul(g, g, transpose_b=True), tf.matmul(g, g, transpose_a=True)
            for moment, new in zip(moments, outer, strict=True):
                moment.assign(self.decay * moment + (1 - self.decay) * new)

    def _refresh(self) -> None:
        tf = self._tf
        for k, bases in self._bases.items():
            first = self._rotated_back(k, self._first[k])
            for axis, (moment, basis) in enumerate(zip(self._moments[k], bases, strict=True), start=-2):
                image = tf.matmul(moment, basis)
                order = tf.argsort(tf.reduce_sum(basis * image, axis=-2), direction="DESCENDING")
                batch = len(basis.shape) - 2
                turned = tf.gather(self._second[k], order, axis=axis + batch + 2, batch_dims=batch)
                self._second[k].assign(turned)
                basis.assign(tf.linalg.qr(tf.gather(image, order, axis=-1, batch_dims=batch))[0])
            self._first[k].assign(self._rotated(k, first))
