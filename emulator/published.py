"""Published emulators in Speculator's file format: read, evaluated without TensorFlow, and written.

A file holds one wavelength segment: a pickled list of the 18 things that `_ENTRIES` names. Network and activation are
those of Alsing et al. (2020, arXiv:1911.11778, Eq. 8), and ln L = (PCA coefficients · matrix) · scale + shift.
"""

import json
import operator
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import atomic_path, output_path
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.outputs import write_text
from sedcast.emulator.log_spectrum import LogSpectrumEmulator, LogSpectrumSegment
from sedcast.emulator.network import SpeculatorNetwork
from sedcast.emulator.safe_pickle import read_array_pickle

__all__ = [
    "EXPORTED",
    "PROSPECTOR_ALPHA_PARAMETERS",
    "export_speculator",
    "load_speculator",
    "read_speculator",
    "write_speculator",
]

PROSPECTOR_ALPHA_PARAMETERS = (
    "ln_z_zsun",
    *(f"ln_sfh_ratio{k}" for k in range(1, 7)),
    *("sqrt_dust2", "dust_index", "dust1_over_dust2", "ln_f_agn", "ln_tau_agn", "ln_z_gas_zsun", "zred"),
)
"""Inputs of the published Prospector-α emulator (Alsing et al. 2020, Table 2), as its authors call them. By the scales in the
file the two metallicities are log10 Z/Zsun, in -1.98 … 0.19 and -2 … 0.5; its spectra are per Hz."""

EXPORTED = ("segment-*.pkl", "inputs.json")
"""Patterns of the names that `export_speculator` writes."""

_ENTRIES = (
    *("weights", "biases", "alphas", "betas", "parameter shift", "parameter scale", "PCA shift", "PCA scale"),
    *("log-spectrum shift", "log-spectrum scale", "PCA matrix", "n_parameters", "n_wavelengths", "wavelengths"),
    *("n_pca", "hidden sizes", "n_layers", "architecture"),
)
_N_LISTS, _FIRST_SIZE = 4, 11
_WAVELENGTHS = _ENTRIES.index("wavelengths")


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
        stated = [_integers(part) for part in _sizes(parts)]
    except ArtifactError:
        raise
    except (ParameterError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} holds a list of {len(_ENTRIES)} that is no emulator: {error}") from error
    if stated != _sizes(_as_list(segment)):
        raise ArtifactError(f"{path} states sizes that its arrays do not have: it is damaged; get it again")
    return segment


def write_speculator(path: str | Path, segment: LogSpectrumSegment, *, overwrite: bool = False) -> None:
    """Write a segment as Speculator does: a pickled list of 18 with plain NumPy arrays, readable by NumPy 1 and 2.

    Speculator reads it with ``Speculator(restore=True, restore_filename=path without ".pkl")``.

    Raises
    ------
    ParameterError : if a file is there already, unless `overwrite` says that it may be replaced.
    """
    path = output_path(path, overwrite=overwrite)
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


def load_speculator(paths: Iterable[str | Path], *, parameter_names: Sequence[str] = ()) -> LogSpectrumEmulator:
    """Read an emulator from Speculator's files, one a segment, in any order.

    Parameters
    ----------
    paths : files that `read_speculator` reads.
    parameter_names : for example `PROSPECTOR_ALPHA_PARAMETERS`; the files do not hold any.

    Raises
    ------
    ArtifactError : as `read_speculator`, or if the files are not segments of one emulator.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    segments = sorted(map(read_speculator, paths), key=lambda segment: float(segment.wave_rest[0]))
    try:
        return LogSpectrumEmulator(tuple(segments), tuple(parameter_names))
    except ParameterError as error:
        raise ArtifactError(f"{len(paths)} files {[Path(path).name for path in paths]} do not go together: {error}") from error


def export_speculator(emulator: LogSpectrumEmulator, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write each segment of an emulator with `write_speculator`, and ``inputs.json`` with what those files cannot say.

    Returns
    -------
    paths : ``segment-1.pkl`` … by increasing wavelength, then ``inputs.json``: names of the inputs in order (``ln NAME`` where
        the file wants a logarithm), their ranges in training, and each file's wavelengths in Å.

    Raises
    ------
    ParameterError : if one of them is there already, unless `overwrite` says that they may be replaced.
    """
    folder = Path(folder)
    paths = [folder / f"segment-{k}.pkl" for k in range(1, len(emulator.segments) + 1)]
    for path in (*paths, folder / "inputs.json"):
        output_path(path, overwrite=overwrite)
    for path, segment in zip(paths, emulator.segments, strict=True):
        write_speculator(path, segment, overwrite=overwrite)
    names = [f"ln {name}" if name in emulator.log_parameters else name for name in emulator.parameter_names]
    ranges = emulator.network_inputs(np.transpose(emulator.ranges)).T.tolist() if emulator.ranges else []
    described = {
        "inputs": names,
        "ranges": ranges,
        "output": "ln of the simulator's spectrum",
        "wavelengths_angstrom": {
            path.name: [float(segment.wave_rest[0]), float(segment.wave_rest[-1])]
            for path, segment in zip(paths, emulator.segments, strict=True)
        },
    }
    write_text(folder / "inputs.json", json.dumps(described, indent=1) + "\n")
    return [*paths, folder / "inputs.json"]
