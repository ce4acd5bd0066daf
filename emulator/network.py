"""The Speculator network, evaluated in NumPy."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sedcast.data.errors import ArtifactError, ParameterError

__all__ = ["SpeculatorNetwork"]


@dataclass(frozen=True)
class SpeculatorNetwork:
    """Fully connected network with a trainable activation, and affine scalings of its inputs and outputs.

    Each hidden layer computes h → [β + (1 - β) σ(α x)] x with x = h W + b and the logistic function σ; the last layer is
    linear (Alsing et al. 2020, arXiv:1911.11778, Eq. 8).

    Attributes
    ----------
    weights : one array (n_in, n_out) a layer.
    biases : one array (n_out,) a layer.
    alphas, betas : one array (n_out,) a hidden layer.
    input_shift, input_scale : (n_input,); the network sees (x - shift) / scale.
    output_shift, output_scale : (n_output,); the result is y · scale + shift.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    alphas: tuple[np.ndarray, ...]
    betas: tuple[np.ndarray, ...]
    input_shift: np.ndarray
    input_scale: np.ndarray
    output_shift: np.ndarray
    output_scale: np.ndarray

    def __post_init__(self) -> None:
        widths = [len(self.input_shift), *(w.shape[1] for w in self.weights)]
        hidden = list(zip(self.alphas, self.betas, strict=True))
        consistent = (
            len(self.biases) == len(self.weights) == len(hidden) + 1
            and all(w.shape == (a, b) for w, a, b in zip(self.weights, widths, widths[1:], strict=False))
            and all(b.shape == (n,) for b, n in zip(self.biases, widths[1:], strict=True))
            and all(a.shape == b.shape == (n,) for (a, b), n in zip(hidden, widths[1:], strict=False))
            and self.input_scale.shape == self.input_shift.shape
            and self.output_scale.shape == self.output_shift.shape == (widths[-1],)
        )
        if not consistent:
            raise ParameterError(f"network arrays do not fit together: layer widths {widths}")

    @property
    def n_input(self) -> int:
        """Number of inputs."""
        return len(self.input_shift)

    @property
    def n_output(self) -> int:
        """Number of outputs."""
        return len(self.output_shift)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Evaluate on inputs (n, n_input); returns (n, n_output) in the weights' dtype."""
        dtype = self.weights[0].dtype
        hidden = ((inputs - self.input_shift) / self.input_scale).astype(dtype)
        for weight, bias, (steepness, span, middle) in zip(self.weights, self.biases, self._gates, strict=False):
            x = hidden @ weight
            x += bias
            # σ(v) = (1 + tanh(v/2)) / 2 cannot overflow.
            gate = x * steepness
            np.tanh(gate, out=gate)
            gate *= span
            gate += middle
            hidden = np.multiply(x, gate, out=x)
        result = hidden @ self.weights[-1]
        result += self.biases[-1]
        result *= self.output_scale
        result += self.output_shift
        return result

    @cached_property
    def _gates(self) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
        """α/2, (1 - β)/2 and (1 + β)/2 of each hidden layer."""
        return tuple(
            (0.5 * alpha, 0.5 * (1 - beta), 0.5 * (1 + beta)) for alpha, beta in zip(self.alphas, self.betas, strict=True)
        )

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays under names that start with `prefix`, for an artifact."""
        arrays = {
            f"{prefix}input_shift": self.input_shift,
            f"{prefix}input_scale": self.input_scale,
            f"{prefix}output_shift": self.output_shift,
            f"{prefix}output_scale": self.output_scale,
        }
        for name in ("weights", "biases", "alphas", "betas"):
            arrays |= {f"{prefix}{name}_{k}": array for k, array in enumerate(getattr(self, name))}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> "SpeculatorNetwork":
        """The network that `to_arrays` wrote.

        Raises
        ------
        ArtifactError : if arrays are missing or do not fit together.
        """
        n_layer = sum(name.startswith(f"{prefix}weights_") for name in arrays)
        try:
            return cls(
                weights=tuple(arrays[f"{prefix}weights_{k}"] for k in range(n_layer)),
                biases=tuple(arrays[f"{prefix}biases_{k}"] for k in range(n_layer)),
                alphas=tuple(arrays[f"{prefix}alphas_{k}"] for k in range(n_layer - 1)),
                betas=tuple(arrays[f"{prefix}betas_{k}"] for k in range(n_layer - 1)),
                input_shift=arrays[f"{prefix}input_shift"],
                input_scale=arrays[f"{prefix}input_scale"],
                output_shift=arrays[f"{prefix}output_shift"],
                output_scale=arrays[f"{prefix}output_scale"],
            )
        except (KeyError, ParameterError) as error:
            raise ArtifactError(f"network {prefix!r} in the artifact is incomplete or inconsistent: {error}") from error
