"""The trained masked autoregressive flow, evaluated in NumPy: exact samples and log-probabilities.

Sampling an autoregressive flow usually evaluates every network once per dimension. Here hidden units are sorted by degree, so
each is computed exactly once, when the dimensions it sees are known: one sample costs one evaluation of each network. Work is
laid out units × samples, so that a range of degrees is a contiguous slice, and split into chunks over threads. Three quarters
of the time go to matrix products; all else writes into memory that each thread keeps (`flow_blocks`). Where the C library of
the same algorithm was built (`flow_kernel`), it draws the samples, about twice as fast.

References
----------
Papamakarios et al. 2017, arXiv:1705.07057; Germain et al. 2015, arXiv:1502.03509; Jones & Pewsey 2009,
doi:10.1093/biomet/asp053.
"""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pydantic import ValidationError
from scipy.special import ndtr, ndtri, softmax

from sedcast.data.errors import ArtifactError
from sedcast.posterior.chunks import chunks, in_threads
from sedcast.posterior.conditional_flow import ConditionalFlow, FlowDraws, row_noise
from sedcast.posterior.flow_blocks import ACTIVATIONS, Block, Memory, add_product, kept_memory
from sedcast.posterior.flow_kernel import MIN_SAMPLES, FlowKernel, product_by_row
from sedcast.posterior.made import (
    MAX_ANGLE,
    FlowConfig,
    check_choice,
    hidden_degrees,
    parameter_masks,
    parameter_shapes,
    split_context_kernel,
)
from sedcast.posterior.options import indicators, log_chance, pick

__all__ = ["MaskedAutoregressiveFlow"]

logger = logging.getLogger(__name__)

# Samples that a thread works on at a time, in NumPy and in C.
_CHUNK, _COMPILED_CHUNK = 2048, 1024
_DEGREES_PER_PANEL = 4
_LOG_2PI = float(np.log(2 * np.pi))
# Of a choice; and of what is left of the noise that made it, 7 σ.
_MOST_LOG_ODDS, _LEAST_SHARE = 20.0, 1e-12
_AFFINE = ("theta_mean", "theta_std", "context_mean", "context_std")


@dataclass(frozen=True)
class _Given:
    """What the contexts of n galaxies mean to a flow.

    Attributes
    ----------
    features : (n, n_feature), for the blocks.
    centre : (n, n_real), where theta is centred.
    chance : (n, n_options), probabilities of the choice's options; (n, 1) without a choice.
    """

    features: np.ndarray
    centre: np.ndarray
    chance: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice) -> "_Given":
        return _Given(self.features[rows], self.centre[rows], self.chance[rows])


class MaskedAutoregressiveFlow(ConditionalFlow):
    """A conditional density q(theta | context) on the real line's powers, with exact sampling and log-probability.

    The base is a standard normal. `context` is standardised by stored means and standard deviations, `theta` by its linear
    regression on that and the residuals' standard deviations.

    With a choice (`FlowConfig.choice`), theta has one more column, the last, which is 0, 1, … Base noise has not: its first
    column makes the choice, and what that leaves undecided is noise again: noise is carried to theta one to one.

    Parameters
    ----------
    config : architecture.
    arrays : the arrays named by `parameter_shapes`, ``permutation`` (n_blocks, n_real), ``theta_mean`` and ``theta_std``
        (n_real,), ``context_mean`` and ``context_std`` (n_context,), and ``theta_slope`` (n_context, n_real), zero if left out.

    Attributes
    ----------
    n_real : columns of theta that are not a choice, and of base noise.

    Raises
    ------
    ArtifactError : if an array is missing, of the wrong shape, not finite, or not masked.
    """

    def __init__(self, config: FlowConfig, arrays: Mapping[str, np.ndarray]) -> None:
        missing = [name for name in (*_AFFINE, "permutation") if name not in arrays]
        if missing:
            raise ArtifactError(f"a flow needs the arrays {', '.join(missing)}: the file is of another kind or version")
        self.config = config
        self.n_real = int(np.size(arrays["theta_mean"]))
        self.dim = self.n_real + config.n_choice
        self.n_context = int(np.size(arrays["context_mean"]))
        shapes = parameter_shapes(config, self.n_real, self.n_context)
        shapes |= {name: (self.n_real,) if name.startswith("theta") else (self.n_context,) for name in _AFFINE}
        shapes["theta_slope"] = (self.n_context, self.n_real)
        arrays = {"theta_slope": np.zeros(shapes["theta_slope"])} | dict(arrays)
        self._arrays = {name: _checked(name, arrays.get(name), shape) for name, shape in shapes.items()}
        for name, mask in parameter_masks(config, self.n_real).items():
            if np.any(self._arrays[name][:, ~mask]):
                raise ArtifactError(
                    f"flow array {name!r} has weights where its mask forbids them: it was made by another layout"
                )
        self._permutation = np.asarray(arrays["permutation"], dtype=np.int64)
        if not np.array_equal(np.sort(self._permutation, axis=1), np.tile(np.arange(self.n_real), (config.n_blocks, 1))):
            raise ArtifactError(
                f"flow array 'permutation' must hold {config.n_blocks} permutations of {self.n_real} dimensions"
            )
        # bounds[layer][d] is the number of hidden units of a degree below d.
        degrees = [hidden_degrees(self.n_real, width) for width in config.hidden]
        self._bounds = [np.searchsorted(degree, np.arange(self.n_real + 1)).tolist() for degree in degrees]
        self._bounds.append([config.n_outputs * d for d in range(self.n_real + 1)])
        self._panels = [*range(0, self.n_real, _DEGREES_PER_PANEL), self.n_real]
        widest = max(bounds[stop] - bounds[start] for bounds in self._bounds for start, stop in pairwise(self._panels))
        self._largest = max(widest, config.n_outputs * self.n_real)
        self._soft_bounds = np.array(config.soft_bounds, np.float32)[:, None]
        self._blocks = [self._block(index) for index in range(config.n_blocks)]
        self._activate = ACTIVATIONS[config.activation]
        arrays = self._arrays | {"permutation": self._permutation}
        self._kernel = FlowKernel(config, arrays, self._bounds) if FlowKernel.suits(config) else None

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "MaskedAutoregressiveFlow":
        """The flow that `to_arrays` described.

        Raises
        ------
        ArtifactError : if the arrays do not describe a flow.
        """
        try:
            config = FlowConfig.model_validate_json(np.asarray(arrays["flow_config"], dtype=np.uint8).tobytes())
        except (KeyError, ValidationError) as error:
            raise ArtifactError(f"no valid 'flow_config' among the arrays: they do not hold a flow ({error})") from error
        return cls(config, arrays)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays, with the configuration as UTF-8 JSON in ``flow_config``: everything `from_arrays` needs."""
        encoded = np.frombuffer(self.config.model_dump_json().encode(), dtype=np.uint8)
        return {**self._arrays, "permutation": self._permutation, "flow_config": encoded}

    @property
    def trained(self) -> "MaskedAutoregressiveFlow":
        """Itself."""
        return self

    @property
    def noise_dim(self) -> int:
        """The same as `n_real`."""
        return self.n_real

    def _draw(self, context: np.ndarray, n_samples: int, seed: int, keys: np.ndarray, n_threads: int | None) -> FlowDraws:
        noise = row_noise(seed, keys, 0, (n_samples, self.n_real), n_threads)
        theta, log_q = self._carry(noise, context, n_threads)
        return FlowDraws(theta, log_q, np.full(log_q.shape, np.nan))

    def _log_density(self, points: np.ndarray, context: np.ndarray, n_threads: int | None) -> np.ndarray:
        given = self._given(context)
        check_choice(self.config, points)
        result = np.empty(points.shape[:2])

        def work(rows: slice, columns: slice) -> None:
            result[rows, columns] = self._log_prob_chunk(points[rows, columns], given[rows])

        in_threads(work, chunks(len(points), points.shape[1], _CHUNK), n_threads)
        return result

    def _given(self, context: np.ndarray) -> _Given:
        standard = (context - self._arrays["context_mean"]) / self._arrays["context_std"]
        centre = self._arrays["theta_mean"] + product_by_row(standard, self._arrays["theta_slope"])
        features = standard
        if self.config.embedding:
            embedded = _silu_of(self._dense("embedding", len(self.config.embedding), standard))
            features = np.concatenate([standard, embedded], axis=1)
        chance = np.ones((len(standard), 1))
        if self.config.choice:
            # Of a context that overflows, any will do.
            log_odds = np.nan_to_num(self._dense("choice", len(self.config.choice) + 1, features)).astype(float)
            log_odds = np.concatenate([np.zeros((len(standard), 1)), log_odds], axis=1)
            # An interval too small for the numbers that are to lie in it is of no use.
            log_odds = np.maximum(log_odds - log_odds.max(axis=1, keepdims=True), -_MOST_LOG_ODDS)
            chance = softmax(log_odds, axis=1)
        return _Given(features, centre, chance)

    def _dense(self, name: str, n_layer: int, values: np.ndarray) -> np.ndarray:
        """The outputs of a network that all blocks share, before the last activation, for inputs (n, n_in)."""
        with np.errstate(over="ignore", invalid="ignore"):
            for layer in range(n_layer):
                values = _silu_of(values) if layer else values
                values = product_by_row(values, self._arrays[f"{name}_kernel_{layer}"]) + self._arrays[f"{name}_bias_{layer}"]
        return values

    def _block(self, index: int) -> Block:
        n_layers = len(self.config.hidden) + 1
        factor = np.float32(0.5 if self.config.activation == "silu" else 1)
        kernels = [np.ascontiguousarray(self._arrays[f"kernel_{layer}"][index].T) for layer in range(n_layers)]
        for layer in range(1, n_layers):
            kernels[layer] = np.concatenate([self._arrays[f"bias_{layer}"][index][:, None], kernels[layer]], axis=1)
        kernels[:-1] = [kernel * factor for kernel in kernels[:-1]]
        outputs = kernels[-1].reshape(self.config.n_outputs, self.n_real, -1).swapaxes(0, 1).copy()
        outputs[:, 1:] /= self._soft_bounds
        kernels[-1] = outputs.reshape(-1, outputs.shape[-1])
        parts = split_context_kernel(self.config, self._arrays["context_kernel"][index])
        context_kernel, of_choice = (np.ascontiguousarray(part.T) * factor for part in parts)
        kernels[0] = np.concatenate([of_choice, kernels[0]], axis=1)
        return Block(self._permutation[index], context_kernel, self._arrays["bias_0"][index] * factor, kernels)

    def _carry(self, noise: np.ndarray, context: np.ndarray, n_threads: int | None) -> tuple[np.ndarray, np.ndarray]:
        given, n_samples = self._given(context), noise.shape[1]
        theta = np.empty((len(given), n_samples, self.dim), dtype=np.float32)
        log_prob = np.empty((len(given), n_samples))

        compiled = self._kernel is not None and n_samples >= MIN_SAMPLES
        to_theta = self._compiled_chunk if compiled else self._theta_chunk

        def work(rows: slice, columns: slice) -> None:
            part, drawn = given[rows], noise[rows, columns]
            if self.config.choice:
                theta[rows, columns, -1], drawn = _chosen(drawn, part.chance[:, None])
            told = self._told(theta[rows, columns])
            theta[rows, columns, : self.n_real], log_prob[rows, columns] = to_theta(drawn, part, told)
            if self.config.choice:
                log_prob[rows, columns] += log_chance(theta[rows, columns, -1], part.chance[:, None])

        in_threads(work, chunks(len(given), n_samples, _COMPILED_CHUNK if compiled else _CHUNK), n_threads)
        bad = np.count_nonzero(~np.isfinite(theta).all(axis=(1, 2)))
        if bad:
            logger.warning(
                "%d of %d rows have non-finite samples: their contexts are far outside the training set", bad, len(theta)
            )
        return theta, log_prob

    def _compiled_chunk(self, noise: np.ndarray, given: _Given, told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self._kernel is not None
        with np.errstate(over="ignore", invalid="ignore"):
            theta, log_prob = self._kernel.sample(noise, given.features, told)
            return theta * self._arrays["theta_std"] + given.centre[:, None], log_prob + self._log_constant

    def _memory(self, context: np.ndarray, told: np.ndarray, n: int) -> Memory:
        widths = tuple(bounds[-1] for bounds in self._bounds)
        memory = kept_memory(widths, n, self._largest)
        memory.set_given(context, told, self.n_real)
        return memory

    def _theta_chunk(self, noise: np.ndarray, given: _Given, told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = noise.shape[:2]
        # A copy also of a single sample, whose transpose would be the caller's own memory.
        values = np.array(noise.reshape(-1, self.n_real).T, order="C")
        log_prob = -0.5 * np.einsum("dn,dn->n", values, values)
        memory = self._memory(given.features, told, values.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            for block in reversed(self._blocks):
                self._invert_block(block, values, given.features, memory)
                log_prob -= memory.targets[-1][1 :: self.config.n_outputs].sum(axis=0)
                values[block.order] = memory.values
            theta = (values.T * self._arrays["theta_std"]).reshape(*shape, self.n_real) + given.centre[:, None]
        return theta, (log_prob + self._log_constant).reshape(shape)

    @functools.cached_property
    def _log_constant(self) -> float:
        return -0.5 * self.n_real * _LOG_2PI - float(np.log(self._arrays["theta_std"].astype(float)).sum())

    def _invert_block(self, block: Block, noise: np.ndarray, context: np.ndarray, memory: Memory) -> None:
        """Solve one block for its inputs, dimension by dimension, into `memory.values`; leave log slopes as second outputs.

        Hidden units take what finished panels of degrees give them in one large product, then, degree by degree, what
        their own panel gives. Outputs are few: each degree adds to those of all later degrees at once.
        """
        first = block.first_kernel(context)
        outputs, scale, n_outputs = memory.targets[-1], memory.flat[: noise.shape[1]], self.config.n_outputs
        for start, stop in pairwise(self._panels):
            if start:
                for layer in range(1, len(self._bounds) - 1):
                    bounds = self._bounds[layer]
                    rows = slice(bounds[start], bounds[stop])
                    add_product(block, layer, rows, 0, self._bounds[layer - 1][start], memory)
            for d in range(start, stop):
                self._first_layer(first, d, d + 1, memory)
                for layer in range(1, len(self._bounds) - 1):
                    bounds, below = self._bounds[layer], self._bounds[layer - 1]
                    rows = slice(bounds[d], bounds[d + 1])
                    add_product(block, layer, rows, below[start], below[d + 1], memory)
                    self._apply(memory.targets[layer][rows], memory)
                below = self._bounds[-2]
                add_product(block, -1, slice(n_outputs * d, None), below[d], below[d + 1], memory)
                shift, bounded = outputs[n_outputs * d], outputs[n_outputs * d + 1 : n_outputs * (d + 1)]
                np.tanh(bounded, out=bounded)
                np.multiply(bounded, self._soft_bounds, out=bounded)
                log_slope, *others = bounded
                np.exp(log_slope, out=scale)
                value, bent = memory.values[d], noise[d]
                if others:
                    bent, of_bending = _bend(bent, *others)
                    np.add(log_slope, of_bending, out=log_slope)
                np.multiply(bent, scale, out=value)
                np.add(value, shift, out=value)

    def _first_layer(self, kernel: np.ndarray, start: int, stop: int, memory: Memory) -> None:
        """Units of degrees start … stop - 1 of the first hidden layer; they see the context and inputs before stop - 1."""
        rows = slice(self._bounds[0][start], self._bounds[0][stop])
        seen = len(memory.inputs) - self.n_real + stop - 1
        units = memory.targets[0][rows]
        np.matmul(kernel[rows, :seen], memory.inputs[:seen], out=units)
        self._apply(units, memory)

    def _apply(self, units: np.ndarray, memory: Memory) -> None:
        flat = units.reshape(-1)
        self._activate(flat, memory.zeros[: flat.size], memory.flat[: flat.size])

    def _log_prob_chunk(self, theta: np.ndarray, given: _Given) -> np.ndarray:
        told = self._told(theta)
        standard = ((theta[..., : self.n_real] - given.centre[:, None]) / self._arrays["theta_std"]).reshape(-1, self.n_real)
        values = np.ascontiguousarray(standard.T, dtype=np.float32)
        log_prob = np.zeros(values.shape[1])
        memory = self._memory(given.features, told, values.shape[1])
        outputs = memory.targets[-1].reshape(self.n_real, self.config.n_outputs, -1).swapaxes(0, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            for block in self._blocks:
                np.take(values, block.order, axis=0, out=memory.values)
                self._evaluate(block, given.features, memory)
                log_scale, *others = self._soft_bounds[:, None] * np.tanh(outputs[1:])
                log_prob -= log_scale.sum(axis=0)
                np.subtract(memory.values, outputs[0], out=values)
                values *= np.exp(-log_scale)
                if others:
                    values[:], of_bending = _unbend(values, *others)
                    log_prob -= of_bending.sum(axis=0)
            log_prob += self._log_constant - 0.5 * np.einsum("dn,dn->n", values, values, dtype=float)
        log_prob[np.isnan(log_prob)] = -np.inf
        if self.config.choice:
            log_prob += log_chance(theta[..., -1], given.chance[:, None]).ravel()
        return log_prob.reshape(theta.shape[:2])

    def _told(self, theta: np.ndarray) -> np.ndarray:
        """What the blocks see of the choice, the last column of theta (n, m, dim) if there is one: (n_indicators, n m)."""
        if not self.config.choice:
            return np.empty((0, theta.shape[0] * theta.shape[1]), dtype=np.float32)
        return indicators(theta[..., -1].ravel(), self.config.n_options)

    def _evaluate(self, block: Block, context: np.ndarray, memory: Memory) -> None:
        """The outputs of one block, all degrees at once, leaving out panels that the masks make zero."""
        first = block.first_kernel(context)
        for start, stop in pairwise(self._panels):
            self._first_layer(first, start, stop, memory)
        for layer in range(1, len(self._bounds)):
            bounds, below = self._bounds[layer], self._bounds[layer - 1]
            for start, stop in pairwise(self._panels):
                rows = slice(bounds[start], bounds[stop])
                add_product(block, layer, rows, 0, below[stop], memory)
                if layer + 1 < len(self._bounds):
                    self._apply(memory.targets[layer][rows], memory)


def _silu_of(values: np.ndarray) -> np.ndarray:
    return np.asarray(values * (0.5 + 0.5 * np.tanh(0.5 * values)))


def _chosen(noise: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Options (n, m) that the first column of noise (n, m, n_real) picks, and noise with what that column has left to say."""
    option, share = pick(ndtr(noise[..., 0].astype(float)), chance)
    left = np.array(noise, dtype=np.float32)
    left[..., 0] = ndtri(np.clip(share, _LEAST_SHARE, 1 - _LEAST_SHARE))
    return option, left


def _bend(noise: np.ndarray, skew: np.ndarray, log_tail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sinh-arcsinh transform of noise, and its log slope there."""
    angle = np.clip(skew + np.exp(log_tail) * np.arcsinh(noise), -MAX_ANGLE, MAX_ANGLE)
    return np.sinh(angle), _log_slope(noise, log_tail, angle)


def _unbend(values: np.ndarray, skew: np.ndarray, log_tail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The noise that `_bend` makes values of, and the log slope of `_bend` there."""
    angle = np.arcsinh(values)
    noise = np.sinh(np.clip((angle - skew) * np.exp(-log_tail), -MAX_ANGLE, MAX_ANGLE))
    return noise, _log_slope(noise, log_tail, angle)


def _log_slope(noise: np.ndarray, log_tail: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.asarray(log_tail + np.log(np.cosh(angle)) - 0.5 * np.log1p(noise**2))


def _checked(name: str, array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if array is None or np.shape(array) != shape:
        came = "nothing" if array is None else str(np.shape(array))
        raise ArtifactError(f"flow array {name!r} must have shape {shape}, got {came}: the file is of another kind or version")
    values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.all(np.isfinite(values)) or (name.endswith("_std") and np.any(values <= 0)):
        raise ArtifactError(f"flow array {name!r} has non-finite or non-positive values: its training failed")
    return values
