"""The general trainer: a Speculator emulator (Alsing et al. 2020, arXiv:1911.11778) of any simulator of spectra.

Wavelengths are cut into segments. In each, ln L is normalised wavelength by wavelength and compressed by a PCA with as many
components as a target error needs; a network maps the parameters to the components.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from sedcast.data.artifacts import consistent, load_artifact, save_artifact
from sedcast.data.config import Config, parse_config, read_toml
from sedcast.data.errors import ConfigError
from sedcast.data.executors import TaskPool
from sedcast.data.provenance import provenance
from sedcast.emulator.log_spectrum import LogSpectrumEmulator, LogSpectrumSegment
from sedcast.emulator.pca import Moments, n_components_for, principal_components
from sedcast.emulator.segments import differences
from sedcast.emulator.spectrum_emulator import EmulatorConfig
from sedcast.emulator.training import NetworkTrainingConfig, train_network
from sedcast.emulator.training_set import ParameterPrior, TrainingSet, TrainingSetConfig, make_training_set

__all__ = ["SpeculatorConfig", "discard_checkpoints", "load_emulator_config", "relative_errors", "train_speculator"]

logger = logging.getLogger(__name__)

_PCA_KIND = "spectrum-pca"
_CHUNK_ROWS = 512
_SAMPLE_ROWS = 1024
_QUANTILES = {"median": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}


class SpeculatorConfig(Config):
    """What `sedcast train emulator` makes of a file that names a simulator.

    Attributes
    ----------
    simulator, options, parameters, seed : as in `TrainingSetConfig`.
    n_train : spectra to train on; `NetworkTrainingConfig.validation_fraction` of them decides which weights are kept.
    n_test : further spectra, on which the errors of the finished emulator are measured.
    segment_edges : edges of the wavelength segments, Å, increasing; from the first to the last is emulated.
    pca_tolerance : each segment gets the fewest components that reconstruct 99.9% of its values of ln L to this error.
    max_pca : most components a segment.
    network : the networks and their training.
    """

    simulator: str
    options: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, ParameterPrior] = Field(min_length=1)
    n_train: int = Field(ge=64)
    n_test: int = Field(default=1000, ge=1)
    seed: int = Field(default=0, ge=0)
    segment_edges: tuple[float, ...] = Field(min_length=2)
    pca_tolerance: float = Field(default=1e-3, gt=0, lt=1)
    max_pca: int = Field(default=60, ge=1)
    network: NetworkTrainingConfig = NetworkTrainingConfig()

    @field_validator("segment_edges")
    @classmethod
    def _increasing(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if not (np.isfinite(edges).all() and edges[0] > 0 and (np.diff(edges) > 0).all()):
            raise ValueError("edges must be positive, finite and increase, in Å")
        return edges

    def training_set(self) -> TrainingSetConfig:
        """The part that decides the spectra."""
        return TrainingSetConfig(
            simulator=self.simulator,
            options=self.options,
            parameters=self.parameters,
            n_spectra=self.n_train + self.n_test,
            seed=self.seed,
            wave_min=self.segment_edges[0],
            wave_max=self.segment_edges[-1],
        )

    def segments(self, wave_rest: np.ndarray) -> list[slice]:
        """The wavelengths of each segment; one on an edge belongs to the segment redward of it, the last to the last.

        Raises
        ------
        ConfigError : if a segment holds fewer than two wavelengths.
        """
        bounds = np.searchsorted(wave_rest, self.segment_edges)
        bounds[-1] = wave_rest.size
        for k, n_wave in enumerate(np.diff(bounds)):
            if n_wave < 2:
                low, high = self.segment_edges[k : k + 2]
                raise ConfigError(
                    f"segment {low:g} … {high:g} Å holds {n_wave} wavelengths of the simulator: move segment_edges"
                )
        return [slice(low, high) for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]


@dataclass(frozen=True)
class _Compression:
    """PCA of a segment: ln L ≈ (scores @ components) · scale + shift; shapes (n_pca, n_wave) and (n_wave,), float32."""

    components: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    error: float


def load_emulator_config(path: str | Path) -> SpeculatorConfig | EmulatorConfig:
    """Read the configuration of an emulator: a `SpeculatorConfig` if it names a simulator, else an `EmulatorConfig`.

    Raises
    ------
    ConfigError : as `sedcast.data.config.load_config`.
    """
    values = read_toml(path)
    if "simulator" in values:
        return parse_config(values, SpeculatorConfig, str(path))
    return parse_config(values, EmulatorConfig, str(path))


def train_speculator(
    config: SpeculatorConfig,
    work: str | Path,
    *,
    n_workers: int = 2,
    pool: TaskPool | None = None,
    progress: Callable[..., None] | None = None,
) -> LogSpectrumEmulator:
    """Make the training spectra, compress them and train a network for each segment.

    Parameters
    ----------
    config : what to train.
    work : folder for the spectra (``spectra.h5``, kept, and used again by a configuration that wants the same ones) and for
        checkpoints (see `discard_checkpoints`): the same call goes on where an interrupted one stopped.
    n_workers, pool : processes that make spectra, as in `make_training_set`.
    progress : called as (done, total) for spectra, then for each segment as (epochs, epochs, figures).

    Returns
    -------
    emulator : of the simulator's spectra; its errors on the `n_test` spectra are in ``card["figures"]``.

    Raises
    ------
    ConfigError : if the configuration does not suit its simulator, or `work` holds something made with another one.
    ParameterError, SedcastError : as `make_training_set` and `train_network`.
    """
    work = Path(work)
    started = time.perf_counter()
    wanted = config.training_set()
    training = make_training_set(wanted, work / "spectra.h5", n_workers=n_workers, pool=pool, progress=progress)
    seconds = {"spectra": time.perf_counter() - started}
    names = training.parameter_names
    priors = [config.parameters[name] for name in names]
    logged = tuple(name for name, prior in zip(names, priors, strict=True) if prior.prior == "log-uniform")
    inputs = training.theta[: config.n_train].astype(np.float64)
    log_columns = [names.index(name) for name in logged]
    inputs[:, log_columns] = np.log(inputs[:, log_columns])
    segments, networks = [], []
    for number, used in enumerate(config.segments(training.wave_rest)):
        segment, figures = _train_segment(config, training, inputs, number, used, work, progress)
        segments.append(segment)
        networks.append(figures)
    ranges = tuple((prior.min, prior.max) for prior in priors)
    emulator = LogSpectrumEmulator(tuple(segments), names, logged, ranges)
    seconds["all"] = time.perf_counter() - started
    figures = {"n_train": config.n_train, "seconds": seconds["all"], "seconds_spectra": seconds["spectra"]}
    figures |= relative_errors(emulator, training, first=config.n_train) | {"segments": networks}
    card = {
        "config": config.model_dump(mode="json"),
        "simulator": training.manifest["simulator"],
        "figures": figures,
        "provenance": provenance(config=config.model_dump(mode="json"), artifacts={}),
    }
    return LogSpectrumEmulator(tuple(segments), names, logged, ranges, card)


def discard_checkpoints(work: str | Path) -> None:
    """Delete the checkpoints that `train_speculator` left in `work`; the spectra stay."""
    for pattern in ("pca-*.npz", "network-*.npz"):
        for path in Path(work).glob(pattern):
            path.unlink()


def relative_errors(emulator: LogSpectrumEmulator, training: TrainingSet, *, first: int = 0) -> dict[str, Any]:
    """Quantiles of |ΔL/L| on the spectra from number `first` on, of all wavelengths and (lists) of each segment.

    Returns
    -------
    figures : ``error_median``, ``error_p95``, ``error_p99``, ``error_p99.9``, and ``segment_error_p99``; `n_test`.
    """
    inputs = emulator.network_inputs(training.theta[first:].astype(np.float64))
    chunks = training.log_spectra(slice(None), first=first, n_chunk=_CHUNK_ROWS)
    parts = []
    for start, log_spectra in zip(range(0, len(inputs), _CHUNK_ROWS), chunks, strict=True):
        rows = inputs[start : start + _CHUNK_ROWS]
        # A network that has learnt nothing may be off by any factor: that is a figure too.
        with np.errstate(over="ignore"):
            emulated = np.hstack([segment.log_spectra(rows) for segment in emulator.segments])
            parts.append(np.abs(np.expm1(emulated - log_spectra)))
    error = np.concatenate(parts)
    figures: dict[str, Any] = {"n_test": len(inputs)}
    figures |= {f"error_{name}": float(np.quantile(error, share)) for name, share in _QUANTILES.items()}
    bounds = np.cumsum([segment.wave_rest.size for segment in emulator.segments])[:-1]
    figures["segment_error_p99"] = [float(np.quantile(part, 0.99)) for part in np.split(error, bounds, axis=1)]
    return figures


def _train_segment(
    config: SpeculatorConfig,
    training: TrainingSet,
    inputs: np.ndarray,
    number: int,
    used: slice,
    work: Path,
    progress: Callable[..., None] | None,
) -> tuple[LogSpectrumSegment, dict[str, Any]]:
    started = time.perf_counter()
    pca = _stored_compression(config, training, used, work / f"pca-{number}.npz")
    scores = np.concatenate([chunk @ pca.components.T for chunk in _normalised(config, training, used, pca.shift, pca.scale)])
    logger.info("segment %d: %d components, error %.2e", number + 1, len(pca.components), pca.error)
    seconds = time.perf_counter() - started
    # The components are orthonormal, so equal errors in their scores matter equally.
    scale = np.full(scores.shape[1], np.sqrt(np.mean(scores.astype(np.float64) ** 2)))
    network, history = train_network(
        inputs, scores, config.network, output_scale=scale, checkpoint=work / f"network-{number}.npz", progress=progress
    )
    wave = training.wave_rest[used]
    figures = {"wave_min": wave[0], "wave_max": wave[-1], "n_wave": wave.size, "n_pca": len(scale)}
    figures |= {"pca_error_p999": pca.error, "pca_seconds": seconds} | history
    return LogSpectrumSegment(network, pca.components, pca.shift, pca.scale, wave), figures


def _stored_compression(config: SpeculatorConfig, training: TrainingSet, used: slice, path: Path) -> _Compression:
    """The compression in `path`, or a new one written there, so that a resumed training has the very same targets."""
    identity = {
        "training_set": training.manifest["config"],
        **config.model_dump(mode="json", include={"n_train", "segment_edges", "pca_tolerance", "max_pca"}),
    }
    identity = json.loads(json.dumps(identity))
    if not path.exists():
        pca = _compress(config, training, used)
        arrays = {"components": pca.components, "shift": pca.shift, "scale": pca.scale}
        save_artifact(path, _PCA_KIND, arrays, {"identity": identity, "error": pca.error}, overwrite=True)
        return pca
    arrays, card = load_artifact(path, _PCA_KIND)
    with consistent(path, "checkpoint", otherwise="delete it to start anew"):
        different = differences(card["identity"], identity)
    if different:
        raise ConfigError(
            f"checkpoint {path} is of another training, {'; '.join(different)}: restore what it was begun with, or delete "
            f"pca-*.npz and network-*.npz in {path.parent} to start anew on the same spectra"
        )
    with consistent(path, "checkpoint", otherwise="delete it to start anew"):
        return _Compression(arrays["components"], arrays["shift"], arrays["scale"], float(card["error"]))


def _compress(config: SpeculatorConfig, training: TrainingSet, used: slice) -> _Compression:
    moments = Moments()
    for chunk in training.log_spectra(used, stop=config.n_train, n_chunk=_CHUNK_ROWS):
        moments.add(chunk)
    shift, scale = np.asarray(moments.mean, dtype=np.float32), moments.std.astype(np.float32)
    components = principal_components(
        lambda: _normalised(config, training, used, shift, scale), config.max_pca, seed=config.seed
    ).astype(np.float32)
    first = max(0, config.n_train - _SAMPLE_ROWS)
    sample = next(training.log_spectra(used, first=first, stop=config.n_train, n_chunk=_SAMPLE_ROWS))
    sample = (sample - shift) / scale
    scores = sample @ components.T

    def error_of(n: int) -> float:
        left = np.abs(sample - scores[:, :n] @ components[:n])
        left *= scale
        return float(np.quantile(left, 0.999))

    n_pca, error = n_components_for(error_of, config.pca_tolerance, len(components))
    if error > config.pca_tolerance:
        logger.warning("%d components reconstruct ln L to %.1e only: raise max_pca, or cut the segment", n_pca, error)
    return _Compression(np.ascontiguousarray(components[:n_pca]), shift, scale, error)


def _normalised(
    config: SpeculatorConfig, training: TrainingSet, used: slice, shift: np.ndarray, scale: np.ndarray
) -> Iterator[np.ndarray]:
    """Chunks of the normalised training spectra."""
    for chunk in training.log_spectra(used, stop=config.n_train, n_chunk=_CHUNK_ROWS):
        yield (chunk - shift) / scale
