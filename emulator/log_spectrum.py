"""Emulators of logarithmic spectra made of wavelength segments, each a network and a matrix of principal components.

Speculator's form (Alsing et al. 2020, arXiv:1911.11778): ln L = (PCA coefficients · matrix) · scale + shift.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import consistent, load_artifact, save_artifact
from sedcast.data.errors import ParameterError
from sedcast.emulator.network import SpeculatorNetwork

__all__ = ["LARGEST_LOG", "LogSpectrumEmulator", "LogSpectrumSegment"]

_KIND = "log-spectrum-emulator"
_SEGMENT_ARRAYS = ("components", "shift", "scale", "wave_rest")
LARGEST_LOG = 80.0
"""Of a spectrum in single precision; its brightest point must not be below the negative of it either."""
_SMALLEST_LOG = -1000.0
_RANGE_SLACK = 1e-6


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

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays under names that start with `prefix`, for an artifact."""
        arrays = {f"{prefix}{name}": getattr(self, name) for name in _SEGMENT_ARRAYS}
        return arrays | self.network.to_arrays(f"{prefix}network_")

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> "LogSpectrumSegment":
        """The segment that `to_arrays` wrote; KeyError, ArtifactError or ParameterError if it is not one."""
        network = SpeculatorNetwork.from_arrays(arrays, f"{prefix}network_")
        return cls(network, *(arrays[f"{prefix}{name}"] for name in _SEGMENT_ARRAYS))

    def log_spectra(self, inputs: np.ndarray) -> np.ndarray:
        """Logarithms ln L for inputs (n, n_input); shape (n, n_wave)."""
        log_spectra = self.network(inputs) @ self.components
        log_spectra *= self.scale
        log_spectra += self.shift
        return log_spectra


@dataclass(frozen=True)
class LogSpectrumEmulator:
    """An emulator made of wavelength segments: from `load`, `train_speculator` or, as published, `load_speculator`.

    Attributes
    ----------
    segments : by increasing wavelength, not overlapping, all of the same inputs.
    parameter_names : name of each input; Speculator's files do not hold any.
    log_parameters : the names of those whose natural logarithm the networks see.
    ranges : (low, high) of each parameter in training, empty where that is not known.
    card : training figures and provenance.

    Raises
    ------
    ParameterError : if segments overlap or differ in their number of inputs, or names or ranges do not match it.
    """

    segments: tuple[LogSpectrumSegment, ...]
    parameter_names: tuple[str, ...] = ()
    log_parameters: tuple[str, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    card: dict[str, Any] = field(default_factory=dict, repr=False)
    wave_rest: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len({segment.network.n_input for segment in self.segments}) != 1:
            raise ParameterError(
                "segments must be at least one, all with the same number of inputs: pass those of one emulator"
            )
        names = tuple(self.parameter_names) or tuple(f"input{k + 1}" for k in range(self.n_input))
        if len(names) != self.n_input:
            raise ParameterError(f"parameter_names has {len(names)} names, expected one for each of {self.n_input} inputs")
        if self.ranges and len(self.ranges) != self.n_input:
            raise ParameterError(f"ranges has {len(self.ranges)} pairs, expected one for each of {self.n_input} inputs")
        if unknown := set(self.log_parameters) - set(names):
            raise ParameterError(f"log_parameters {sorted(unknown)} are not among the parameters {names}")
        wave = np.concatenate([segment.wave_rest for segment in self.segments])
        if (np.diff(wave) <= 0).any():
            where = wave[1:][np.diff(wave) <= 0][0]
            raise ParameterError(f"segments must follow each other, but overlap at {where:g} Å: pass each segment once")
        object.__setattr__(self, "parameter_names", names)
        object.__setattr__(self, "wave_rest", wave)

    @property
    def n_input(self) -> int:
        """Number of inputs."""
        return self.segments[0].network.n_input

    def network_inputs(self, theta: np.ndarray) -> np.ndarray:
        """What the networks see for checked theta (n, n_input): the same, with logarithms of `log_parameters`."""
        logged = [k for k, name in enumerate(self.parameter_names) if name in self.log_parameters]
        if not logged:
            return theta
        inputs = theta.copy()
        inputs[:, logged] = np.log(theta[:, logged])
        return inputs

    def log_spectra(self, theta: np.ndarray) -> np.ndarray:
        """Logarithms ln L for theta (n, n_input) in the order of `parameter_names`; shape (n, n_wave).

        Raises
        ------
        ParameterError : for a wrong shape, or values that are not finite, outside `ranges`, or absurdly far outside the
            training where those are not known.
        """
        theta = self._checked(theta)
        inputs = self.network_inputs(theta)
        with np.errstate(over="ignore", invalid="ignore"):
            log_spectra = np.hstack([segment.log_spectra(inputs) for segment in self.segments])
        wild = ~((log_spectra > _SMALLEST_LOG) & (log_spectra < LARGEST_LOG)).all(axis=1)
        if wild.any():
            row = int(np.argmax(wild))
            raise ParameterError(f"inputs[{row}]={theta[row]} are far outside the emulator's training: check order and units")
        return log_spectra

    def _checked(self, theta: np.ndarray) -> np.ndarray:
        theta = np.asarray(theta, dtype=np.float64)
        if theta.ndim != 2 or theta.shape[1] != self.n_input:
            raise ParameterError(
                f"inputs must have shape (n, {self.n_input}) in the order {self.parameter_names}, got {theta.shape}"
            )
        if not np.isfinite(theta).all():
            row, index = np.argwhere(~np.isfinite(theta))[0]
            raise ParameterError(f"inputs[{row}] must be finite, got {self.parameter_names[index]}={theta[row, index]}")
        for index, (low, high) in enumerate(self.ranges):
            value, slack = theta[:, index], _RANGE_SLACK * (high - low)
            outside = (value < low - slack) | (value > high + slack)
            if outside.any():
                row, name = int(np.argmax(outside)), self.parameter_names[index]
                raise ParameterError(f"inputs[{row}] has {name}={value[row]:g}, outside the training's {low:g} … {high:g}")
        # Within the slack a logarithm's argument could still be negative.
        return np.clip(theta, *np.transpose(self.ranges)) if self.ranges else theta

    def __call__(self, theta: np.ndarray) -> np.ndarray:
        """L, in the unit of the training, for theta (n, n_input); raises as `log_spectra`."""
        log_spectra = self.log_spectra(theta)
        return np.exp(log_spectra, out=log_spectra)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the artifact, arrays and a card.

        Raises
        ------
        ParameterError : if a file is there already, unless `overwrite` says that it may be replaced.
        """
        arrays: dict[str, np.ndarray] = {}
        for k, segment in enumerate(self.segments):
            arrays |= segment.to_arrays(f"segment{k}_")
        described = {
            "n_segments": len(self.segments),
            "parameter_names": self.parameter_names,
            "log_parameters": self.log_parameters,
            "ranges": self.ranges,
        }
        save_artifact(path, _KIND, arrays, self.card | described, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> "LogSpectrumEmulator":
        """Read an artifact that `save` wrote.

        Raises
        ------
        ArtifactError : if it is missing, truncated, altered, of another kind, or inconsistent.
        """
        arrays, card = load_artifact(path, _KIND)
        with consistent(path, "emulator of logarithmic spectra", otherwise="train it again"):
            segments = tuple(LogSpectrumSegment.from_arrays(arrays, f"segment{k}_") for k in range(card["n_segments"]))
            names, logged = tuple(card["parameter_names"]), tuple(card["log_parameters"])
            ranges = tuple((float(low), float(high)) for low, high in card["ranges"])
            return cls(segments, names, logged, ranges, card)
