"""Published emulators in Speculator's file format: read, evaluated without TensorFlow, and written.

A file holds one wavelength segment: a pickled list of the 18 things that `_ENTRIES` names. Network and activation are
those of Alsing et al. (2020, arXiv:1911.11778, Eq. 8), and ln L = (PCA coefficients · matrix) · scale + shift.
"""

import operator
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import atomic_path
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.emulator.network import SpeculatorNetwork
from sedcast.emulator.safe_pickle import read_array_pickle

__all__ = [
    "PROSPECTOR_ALPHA_PARAMETERS",
    "LogSpectrumSegment",
    "PublishedEmulator",
    "read_speculator",
    "write_speculator",
]

PROSPECTOR_ALPHA_PARAMETERS = (
    "ln_z_zsun",
    *(f"ln_sfh_ratio{k}" for k in range(1, 7)),
    *("sqrt_dust2", "dust_index", "dust1_over_dust2", "ln_f_agn", "ln_tau_agn", "ln_z_gas_zsun", "zred"),
)
"""Inputs of the published Prospector-α emulator (Alsing et al. 2020, Table 2)."""

_ENTRIES = (
    *("weights", "biases", "alphas", "betas", "parameter shift", "parameter scale", "PCA shift", "PCA scale"),
    *("log-spectrum shift", "log-spectrum scale", "PCA matrix", "n_parameters", "n_wavelengths", "wavelengths"),
    *("n_pca", "hidden sizes", "n_layers", "architecture"),
)
_N_LISTS, _FIRST_SIZE = 4, 11
_WAVELENGTHS = _ENTRIES.index("wavelengths")
_LOG_RANGE = (-1000.0, 80.0)


@dataclass(frozen=True)
class LogSpectrumSegment:
    """One wavelength segment of a Speculator emulator.

    Attributes
    ----------
    network : from parameters to PCA coefficients.
    components : (n_pca, n_wave), the PCA matrix.
    shift, scale : (n_wave,); ln L = (coefficients @ components) · scale + shift.
    wave_rest : (n_wave,), Å, increasing.

    Raises
    ------
    ParameterError : if shapes do not fit together, values are not finite, or wavelengths do not increase.
    """

    network: SpeculatorNetwork
    components: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    wave_rest: np.ndarray

    def __post_init__(self) -> None:
        shapes = (self.components.shape, self.shift.shape, self.scale.shape)
        n_wave = self.wave_rest.size
        if self.wave_rest.ndim != 1 or shapes != ((self.network.n_output, n_wave), (n_wave,), (n_wave,)):
            raise ParameterError(
                f"components, shift and scale have shapes {shapes}, expected those of {self.network.n_output} components "
                f"and wave_rest's shape {self.wave_rest.shape}"
            )
        arrays = (self.components, self.shift, self.scale, self.wave_rest, *self.network.to_arrays("").values())
        if not all(np.isfinite(array).all() for array in arrays):
            raise ParameterError("network, components, shift, scale and wave_rest must be finite")
        if not (self.network.input_scale != 0).all():
            raise ParameterError("the network's input_scale must not be zero: leave out an input that does not vary")
        if n_wave == 0 or self.wave_rest[0] <= 0 or (np.diff(self.wave_rest) <= 0).any():
            raise ParameterError("wave_rest must be positive and increase: give it in Å")

    def log_spectra(self, inputs: np.ndarray) -> np.ndarray:
        """Logarithms ln L for inputs (n, n_input); shape (n, n_wave)."""
        log_spectra = self.network(inputs) @ self.components
        log_spectra *= self.scale
        log_spectra += self.shift
        return log_spectra


def read_speculator(path: str | Path) -> LogSpectrumSegment:
    """Read a weight file of Speculator; nothing in it is executed, and TensorFlow is not needed.

    Raises
    ------
    ArtifactError : if the file is missing, truncated, refused by `read_array_pickle`, or its arrays do not fit together.
    """
    parts = read_array_pickle(path)
    if not isinstance(parts, list | tuple) or len(parts) != len(_ENTRIES):
        size = f"{len(parts)} entries" if isinstance(parts, list | tuple) else f"a {type(parts).__name__}"
        raise ArtifactError(f"{path} holds {size}, expected Speculator's list of {len(_ENTRIES)}: pass a file of weights")
    try:
        weights, biases, alphas, betas = (_arrays(parts[k], _ENTRIES[k], 2 if k == 0 else 1, path) for k in range(_N_LISTS))
        vectors = _arrays(parts[_N_LISTS : _FIRST_SIZE - 1], "shifts and scales", 1, path)
        (components,) = _arrays([parts[_FIRST_SIZE - 1]], _ENTRIES[_FIRST_SIZE - 1], 2, path)
        (wave,) = _arrays([parts[_WAVELENGTHS]], _ENTRIES[_WAVELENGTHS], 1, path)
        network = SpeculatorNetwork(weights, biases, alphas, betas, *vectors[:4])
        segment = LogSpectrumSegment(network, components, vectors[4], vectors[5], wave.astype(np.float64))
        stated = [
            list(map(operator.index, part)) if isinstance(part, list | tuple) else operator.index(part)
            for part in _sizes(parts)
        ]
    except ArtifactError:
        raise
    except (ParameterError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} holds a list of {len(_ENTRIES)} that is no emulator: {error}") from error
    if stated != _sizes(_as_list(segment)):
        raise ArtifactError(f"{path} states sizes that its arrays do not have: it is damaged; get it again")
    return segment


def write_speculator(path: str | Path, segment: LogSpectrumSegment) -> None:
    """Write a segment as Speculator does: a pickled list of 18 with plain NumPy arrays, readable by NumPy 1 and 2.

    Speculator reads it with ``Speculator(restore=True, restore_filename=path without ".pkl")``.
    """
    data = pickle.dumps(_as_list(segment), protocol=3)
    # NumPy 2 names the place of its array constructor as NumPy 1 does not know it; the name comes before any array's bytes.
    data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _arrays(parts: Any, name: str, n_dim: int, path: str | Path) -> tuple[np.ndarray, ...]:
    if not isinstance(parts, list | tuple) or not all(
        isinstance(part, np.ndarray) and part.ndim == n_dim and part.dtype.kind == "f" for part in parts
    ):
        raise ArtifactError(f"{path}: {name} must be {n_dim}-D arrays of real numbers: it is no Speculator file")
    return tuple(parts)


def _sizes(parts: Sequence[Any]) -> list[Any]:
    """The entries that only restate sizes."""
    return [part for k, part in enumerate(parts) if k >= _FIRST_SIZE and k != _WAVELENGTHS]


def _integers(part: Any) -> Any:
    return list(map(operator.index, part)) if isinstance(part, list | tuple) else operator.index(part)


def _as_list(segment: LogSpectrumSegment) -> list[Any]:
    network = segment.network
    layers = [network.weights, network.biases, network.alphas, network.betas]
    scalings = [network.input_shift, network.input_scale, network.output_shift, network.output_scale]
    widths = [network.n_input, *(weight.shape[1] for weight in network.weights)]
    return [
        *([_single(array) for array in layer] for layer in layers),
        *map(_single, (*scalings, segment.shift, segment.scale, segment.components)),
        network.n_input,
        segment.wave_rest.size,
        np.array(segment.wave_rest, dtype=np.float64),
        network.n_output,
        widths[1:-1],
        len(network.weights),
        widths,
    ]


def _single(array: np.ndarray) -> np.ndarray:
    return np.array(array, dtype=np.float32, order="C")


@dataclass(frozen=True)
class PublishedEmulator:
    """An emulator made of wavelength segments, as published; read one with `load`.

    Attributes
    ----------
    segments : by increasing wavelength, not overlapping, all of the same inputs.
    parameter_names : name of each input; the files do not hold any.

    Raises
    ------
    ParameterError : if segments overlap or differ in their number of inputs, or names do not match it.
    """

    segments: tuple[LogSpectrumSegment, ...]
    parameter_names: tuple[str, ...] = ()
    wave_rest: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len({segment.network.n_input for segment in self.segments}) != 1:
            raise ParameterError(
                "segments must be at least one, all with the same number of inputs: pass those of one emulator"
            )
        names = tuple(self.parameter_names) or tuple(f"input{k + 1}" for k in range(self.n_input))
        if len(names) != self.n_input:
            raise ParameterError(f"parameter_names has {len(names)} names, expected one for each of {self.n_input} inputs")
        wave = np.concatenate([segment.wave_rest for segment in self.segments])
        if (np.diff(wave) <= 0).any():
            where = wave[1:][np.diff(wave) <= 0][0]
            raise ParameterError(f"segments must follow each other, but overlap at {where:g} Å: pass each segment once")
        object.__setattr__(self, "parameter_names", names)
        object.__setattr__(self, "wave_rest", wave)

    @classmethod
    def load(cls, paths: Iterable[str | Path], *, parameter_names: Sequence[str] = ()) -> "PublishedEmulator":
        """Read one file a segment, in any order.

        Parameters
        ----------
        paths : files that `read_speculator` reads.
        parameter_names : for example `PROSPECTOR_ALPHA_PARAMETERS`.

        Raises
        ------
        ArtifactError : as `read_speculator`, or if the files are not segments of one emulator.
        """
        paths = [paths] if isinstance(paths, str | Path) else list(paths)
        segments = sorted(map(read_speculator, paths), key=lambda segment: float(segment.wave_rest[0]))
        try:
            return cls(tuple(segments), tuple(parameter_names))
        except ParameterError as error:
            raise ArtifactError(
                f"{len(paths)} files {[Path(path).name for path in paths]} do not go together: {error}"
            ) from error

    @property
    def n_input(self) -> int:
        """Number of inputs."""
        return self.segments[0].network.n_input

    def log_spectra(self, inputs: np.ndarray) -> np.ndarray:
        """Logarithms ln L for inputs (n, n_input) in the order of `parameter_names`; shape (n, n_wave).

        Raises
        ------
        ParameterError : for a wrong shape, or inputs that are not finite or absurdly far outside the training.
        """
        inputs = np.asarray(inputs, dtype=np.float64)
        if inputs.ndim != 2 or inputs.shape[1] != self.n_input:
            raise ParameterError(
                f"inputs must have shape (n, {self.n_input}) in the order {self.parameter_names}, got {inputs.shape}"
            )
        if not np.isfinite(inputs).all():
            row, index = np.argwhere(~np.isfinite(inputs))[0]
            raise ParameterError(f"inputs[{row}] must be finite, got {self.parameter_names[index]}={inputs[row, index]}")
        with np.errstate(over="ignore", invalid="ignore"):
            log_spectra = np.hstack([segment.log_spectra(inputs) for segment in self.segments])
        low, high = _LOG_RANGE
        wild = ~((log_spectra > low) & (log_spectra < high)).all(axis=1)
        if wild.any():
            row = int(np.argmax(wild))
            raise ParameterError(f"inputs[{row}]={inputs[row]} are far outside the emulator's training: check order and units")
        return log_spectra

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """L, in the unit of the files, for inputs (n, n_input); raises as `log_spectra`."""
        log_spectra = self.log_spectra(inputs)
        return np.exp(log_spectra, out=log_spectra)
