"""The flow's sampling in compiled C (`_flow_kernel.c`), where it was built and the processor can run it."""

import ctypes
import functools
import importlib.machinery
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.posterior.made import FlowConfig, split_context_kernel

__all__ = [
    "MIN_SAMPLES",
    "DenseKernel",
    "FlowKernel",
    "amplitude_densities",
    "kernel_library",
    "product_by_row",
    "vector_floats",
]

_MAX_LAYERS = 8
_ROWS_PER_PRODUCT = 8
_ACTIVATIONS = ("relu", "tanh", "elu", "silu")
# A tile holds 48 samples of one galaxy; for fewer than this NumPy, which mixes galaxies, is faster.
MIN_SAMPLES = 24


# What the C source calls by the same name.
_VERSION = 1


class _Flow(ctypes.Structure):
    """The C structure of the same name."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("dim", "n_indicators", "n_blocks", "n_hidden", "activation", "n_outputs")),
        ("bound", ctypes.c_float * 3),
        ("order", ctypes.c_void_p),
        ("bounds", ctypes.c_void_p * _MAX_LAYERS),
        ("bias", ctypes.c_void_p * (_MAX_LAYERS + 1)),
        ("weights", ctypes.c_void_p),
        ("weights_per_block", ctypes.c_long),
    ]


@functools.cache
def kernel_library() -> ctypes.CDLL | None:
    """The library beside this module; None if it was not built as it is now, or the processor has neither AVX2 nor AVX-512."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_flow_kernel{suffix}")
        if path.is_file():
            try:
                library = ctypes.CDLL(str(path))
                if library.sedcast_flow_version() != _VERSION:
                    return None
                sample, amplitudes, network = (
                    getattr(library, f"sedcast_{name}") for name in ("flow_samples", "amplitudes", "network")
                )
            except (OSError, AttributeError):
                # Not to be loaded, or built from an earlier source.
                return None
            pointer, size = ctypes.c_void_p, ctypes.c_long
            sample.argtypes = [pointer, ctypes.c_int, size, size, *[pointer] * 5]
            amplitudes.argtypes = [pointer, ctypes.c_int, size, pointer, pointer, pointer, pointer, pointer]
            amplitudes.restype = None
            network.argtypes = [ctypes.c_int, ctypes.c_int, pointer, pointer, pointer, size, pointer, pointer, pointer]
            return library if library.sedcast_flow_vector() else None
    return None


def vector_floats() -> int:
    """Floats in a vector of this processor: 16, 8, or 0 if there is no library or it cannot be run."""
    library = kernel_library()
    return int(library.sedcast_flow_vector()) if library is not None else 0


class FlowKernel:
    """A flow's weights as the C library takes them; a call releases Python's lock.

    Parameters
    ----------
    config, arrays : as of `MaskedAutoregressiveFlow`, checked.
    bounds : for each hidden layer the number of units of degrees below 0 … dim.
    """

    def __init__(self, config: FlowConfig, arrays: Mapping[str, np.ndarray], bounds: list[list[int]]) -> None:
        self._made_of = config, dict(arrays), bounds
        last, dim = len(config.hidden), arrays["theta_mean"].size
        kernel, bias = arrays[f"kernel_{last}"], arrays[f"bias_{last}"]
        shape = config.n_outputs, dim
        outputs = kernel.reshape(*kernel.shape[:2], *shape).swapaxes(2, 3), bias.reshape(-1, *shape).swapaxes(1, 2)
        context_kernel, of_choice = split_context_kernel(config, arrays["context_kernel"])
        first = np.concatenate([of_choice, arrays["kernel_0"]], axis=1)
        kernels = [first, *(arrays[f"kernel_{layer}"] for layer in range(1, last)), outputs[0]]
        biases = [*(arrays[f"bias_{layer}"] for layer in range(last)), outputs[1]]
        self._kept: list[np.ndarray] = []
        kind = _ACTIVATIONS.index(config.activation)
        self._flow = _Flow(dim, config.n_indicators, config.n_blocks, last, kind, config.n_outputs, config.soft_bounds)
        self._flow.order = self._keep(arrays["permutation"], np.int32)
        for layer in range(last):
            self._flow.bounds[layer] = self._keep(np.array(bounds[layer]), np.int32)
        for layer, values in enumerate(biases):
            self._flow.bias[layer] = self._keep(values, np.float32)
        self._vector = vector_floats()
        weights = _panels(kernels, bounds, self._vector, config.n_indicators)
        self._flow.weights, self._flow.weights_per_block = self._keep(weights, np.float32), weights.shape[1]
        self._context_kernel = np.concatenate(context_kernel, axis=1)
        self._context_bias = arrays["bias_0"].reshape(-1)

    def __reduce__(self) -> tuple[Any, ...]:
        # Pointers mean nothing in another process, which may have no library, or one for narrower registers.
        return _kernel_if_any, self._made_of

    @staticmethod
    def suits(config: FlowConfig) -> bool:
        """Whether there is a library, and it takes flows of this shape."""
        return vector_floats() > 0 and len(config.hidden) <= _MAX_LAYERS

    def sample(self, noise: np.ndarray, features: np.ndarray, indicators: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Carry noise (n, m, n_real) to standardised theta like it and log q (n, m) + constant.

        Blocks see `features` (n, n_feature) of the context and `indicators` (n_indicators, n m) of the choice.
        """
        library = kernel_library()
        assert library is not None
        share = product_by_row(features, self._context_kernel) + self._context_bias
        arrays = [np.ascontiguousarray(array, dtype=np.float32) for array in (share, indicators, noise)]
        theta, log_q = np.empty_like(arrays[2]), np.empty(noise.shape[:2], dtype=np.float32)
        pointers = [array.ctypes.data for array in (*arrays, theta, log_q)]
        flow = ctypes.byref(self._flow)
        if library.sedcast_flow_samples(flow, self._vector, len(noise), noise.shape[1], *pointers):
            raise MemoryError("no memory for a tile of samples")
        return theta, log_q

    def _keep(self, array: np.ndarray, kind: type) -> int:
        self._kept.append(np.ascontiguousarray(array, dtype=kind))
        return int(self._kept[-1].ctypes.data)


class DenseKernel:
    """A dense network with silu between its layers, in the C library, which must be there; a call releases Python's lock.

    A row's outputs do not depend on which rows are beside it.

    Parameters
    ----------
    layers : kernel (n_in, n_out) and bias (n_out,) of each.
    """

    def __init__(self, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        library = kernel_library()
        assert library is not None
        panel = library.sedcast_flow_panel(vector_floats())
        pieces = [kernel[:, unit : unit + panel] for kernel, _ in layers for unit in range(0, kernel.shape[1], panel)]
        self._weights = np.concatenate([np.ascontiguousarray(piece, dtype=np.float32).ravel() for piece in pieces])
        self._bias = np.concatenate([np.asarray(bias, dtype=np.float32) for _, bias in layers])
        self._widths = np.array([layers[0][0].shape[0], *(len(bias) for _, bias in layers)], dtype=np.int32)

    def __call__(self, inputs: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
        """Outputs (n, n_out) for inputs (n, n_in); `first` (n, units of the first layer) is added to that layer's product."""
        library = kernel_library()
        assert library is not None
        arrays = [np.ascontiguousarray(values, dtype=np.float32) for values in (inputs, *([] if first is None else [first]))]
        out = np.empty((len(inputs), self._widths[-1]), dtype=np.float32)
        pointers = [array.ctypes.data for array in arrays] + [None] * (first is None)
        packed = [array.ctypes.data for array in (self._widths, self._weights, self._bias)]
        if library.sedcast_network(vector_floats(), len(self._widths) - 1, *packed, len(inputs), *pointers, out.ctypes.data):
            raise MemoryError("no memory for a tile of samples")
        return out


def amplitude_densities(
    ranges: Sequence[float],
    plane: np.ndarray,
    *,
    share: np.ndarray | None = None,
    at: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws of `AmplitudePosterior`, or its densities, by the C library, which must be there.

    Parameters
    ----------
    ranges : least and greatest burst fraction, and mass over the reference mass.
    plane : (5, n) coordinates of the model's light and the data.
    share : (2, n), the shares of the two densities that lie below what is drawn.
    at : logit of the burst fraction and ln of mass over reference mass, (n,) each, where densities are wanted instead.

    Returns
    -------
    logit, ln_mass, log_q_fraction, log_q_mass : (n,) each, the densities of these two; the last NaN where no mass will do.
    """
    library = kernel_library()
    assert library is not None
    plane = np.ascontiguousarray(plane, dtype=np.float32)
    n = plane.shape[1]
    logit, ln_mass = (np.array(values, dtype=np.float32) for values in at or np.zeros((2, n)))
    log_q = np.empty((2, n), dtype=np.float32)
    shares = None if share is None else np.ascontiguousarray(share, dtype=np.float32)
    pointer = None if shares is None else shares.ctypes.data
    arrays = [array.ctypes.data for array in (logit, ln_mass, log_q)]
    packed = (ctypes.c_float * 4)(*ranges)
    library.sedcast_amplitudes(ctypes.byref(packed), vector_floats(), n, plane.ctypes.data, pointer, *arrays)
    return logit, ln_mass, log_q[0], log_q[1]


def product_by_row(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The matrix product (n, n_out) of values (n, n_in) and a kernel, each row to the same bits however many rows there are.

    BLAS rounds otherwise where rows are left over from its tiles, so it is given blocks of one shape.
    """
    n_row, n_in = values.shape
    blocks = np.zeros((-(-n_row // _ROWS_PER_PRODUCT), _ROWS_PER_PRODUCT, n_in), dtype=values.dtype)
    blocks.reshape(-1, n_in)[:n_row] = values
    return np.asarray((blocks @ kernel).reshape(-1, kernel.shape[1])[:n_row])


def _kernel_if_any(config: FlowConfig, *made_of: Any) -> FlowKernel | None:
    return FlowKernel(config, *made_of) if FlowKernel.suits(config) else None


def _panels(kernels: Sequence[np.ndarray], bounds: list[list[int]], vector: int, n_indicators: int) -> np.ndarray:
    """The weights (n_block, n_weight) that are not masked, in the order in which the C code uses them.

    `kernels` are (n_block, n_in, n_out), the first with `n_indicators` inputs before the others, the last (n_block, n_in, dim,
    n_outputs).
    """
    library = kernel_library()
    assert library is not None
    width = library.sedcast_flow_panel(vector)
    *hidden, outputs = kernels
    pieces = []
    for d in range(outputs.shape[2]):
        for layer, kernel in enumerate(hidden):
            depth = bounds[layer - 1][d + 1] if layer else n_indicators + d
            start, stop = bounds[layer][d : d + 2]
            pieces += [kernel[:, :depth, unit : min(unit + width, stop)] for unit in range(start, stop, width)]
        pieces.append(outputs[:, : bounds[len(hidden) - 1][d + 1], d])
    return np.concatenate([piece.reshape(len(outputs), -1) for piece in pieces], axis=1)
