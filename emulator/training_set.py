"""Training sets of any simulator: parameters from priors, spectra made in parallel processes, resumable, on disk."""

import contextlib
import json
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from pydantic import Field, field_validator, model_validator
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from sedcast.data.artifacts import software_versions
from sedcast.data.config import Config
from sedcast.data.errors import ConfigError, SedcastError
from sedcast.data.executors import TaskPool, task_pool
from sedcast.data.hdf5 import check_size, open_hdf5, read_whole
from sedcast.emulator.segments import Segments, array_digest, differences, open_segments
from sedcast.emulator.simulators import Simulator, checked_spectra, code_digest, load_simulator

__all__ = ["ParameterPrior", "TrainingSet", "TrainingSetConfig", "make_training_set"]

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 64
_CHUNKS_PER_SEGMENT = 4


class ParameterPrior(Config):
    """Prior of one parameter between `min` and `max`.

    Attributes
    ----------
    prior : ``"uniform"``; ``"log-uniform"``, of which the network sees the logarithm; ``"normal"`` with `mean` and `sd`, cut at
        both ends; ``"power"``, a density ∝ (x - min)^(exponent - 1), as stick-breaking coordinates of a flat Dirichlet have.
    """

    prior: Literal["uniform", "log-uniform", "normal", "power"] = "uniform"
    min: float = Field(allow_inf_nan=False)
    max: float = Field(allow_inf_nan=False)
    mean: float | None = Field(default=None, allow_inf_nan=False)
    sd: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    exponent: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _possible(self) -> "ParameterPrior":
        if self.min >= self.max:
            raise ValueError(f"min={self.min:g} must be below max={self.max:g}")
        if self.prior == "log-uniform" and self.min <= 0:
            raise ValueError(f"min={self.min:g} of a log-uniform prior must be positive")
        needed = {"normal": {"mean", "sd"}, "power": {"exponent"}}.get(self.prior, set())
        given = {name for name in ("mean", "sd", "exponent") if getattr(self, name) is not None}
        if given != needed:
            raise ValueError(f"a {self.prior} prior takes {sorted(needed) or 'only min and max'}, got {sorted(given)}")
        return self

    def from_unit(self, unit: np.ndarray) -> np.ndarray:
        """The inverse of the prior's CDF."""
        width = self.max - self.min
        if self.prior == "log-uniform":
            value = self.min * (self.max / self.min) ** unit
        elif self.prior == "power":
            assert self.exponent is not None
            value = self.min + width * unit ** (1 / self.exponent)
        elif self.prior == "normal":
            assert self.mean is not None
            assert self.sd is not None
            low, high = ndtr((np.array([self.min, self.max]) - self.mean) / self.sd)
            value = self.mean + self.sd * ndtri(low + unit * (high - low))
        else:
            value = self.min + width * unit
        return np.asarray(np.clip(value, self.min, self.max))


class TrainingSetConfig(Config):
    """What decides a training set.

    Attributes
    ----------
    simulator : ``"package.module:factory"``, or a name in `sedcast.emulator.simulators.BUILT_IN`.
    options : keyword arguments of its factory.
    parameters : prior by name, for each parameter of the simulator.
    n_spectra : spectra to make, at quasi-random (Sobol) points of the prior.
    seed : scrambles the Sobol sequence.
    wave_min, wave_max : wavelengths that are kept, Å.
    """

    simulator: str
    options: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, ParameterPrior] = Field(min_length=1)
    n_spectra: int = Field(ge=64)
    seed: int = Field(default=0, ge=0)
    wave_min: float = Field(gt=0)
    wave_max: float = Field(gt=0)

    @field_validator("parameters")
    @classmethod
    def _named(cls, parameters: dict[str, ParameterPrior]) -> dict[str, ParameterPrior]:
        if blank := [name for name in parameters if not name.strip()]:
            raise ValueError(f"parameters need names, got {blank}")
        return parameters

    def load(self) -> tuple[Simulator, slice]:
        """The simulator, and the part of its wavelengths that is kept.

        Raises
        ------
        ConfigError : as `load_simulator`, or if the priors' names or the wavelengths are not the simulator's.
        """
        simulator = load_simulator(self.simulator, self.options)
        names = tuple(simulator.parameter_names)
        if sorted(names) != sorted(self.parameters):
            raise ConfigError(f"parameters are {sorted(self.parameters)}, expected those of the simulator: {sorted(names)}")
        wave = np.asarray(simulator.wave_rest)
        used = slice(*np.searchsorted(wave, [self.wave_min, np.nextafter(self.wave_max, np.inf)]).tolist())
        if used.stop - used.start < 2:
            raise ConfigError(
                f"{self.wave_min:g} … {self.wave_max:g} Å hold {used.stop - used.start} wavelengths of simulator "
                f"{self.simulator!r}, which covers {wave[0]:g} … {wave[-1]:g} Å: choose at least two"
            )
        return simulator, used

    def draw(self, names: Sequence[str], start: int, n: int) -> np.ndarray:
        """Rows `start` … `start + n` of theta, (n, n_parameter) with columns `names`."""
        sobol = qmc.Sobol(len(names), seed=self.seed)
        if start:
            sobol.fast_forward(start)
        # A power of two is what Sobol points want to be drawn by; the surplus is dropped.
        unit = sobol.random(1 << (n - 1).bit_length())[:n]
        return np.column_stack([self.parameters[name].from_unit(unit[:, k]) for k, name in enumerate(names)])


class TrainingSet:
    """A training set on disk, which is read by chunks of rows.

    Attributes
    ----------
    parameter_names : columns of `theta`.
    theta : (n, n_parameter) float32.
    wave_rest : (n_wave,), Å.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_hdf5(path) as file:
                self.manifest = json.loads(file.attrs["manifest"])
                self.parameter_names = tuple(json.loads(file.attrs["parameter_names"]))
                self.theta = read_whole(file["theta"])
                self.wave_rest = read_whole(file["wave_rest"])
                check_size(file["log_spectra"])
                shape = file["log_spectra"].shape
        except (OSError, LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ConfigError(f"{path} is not a training set of sedcast ({error}): move it away, or name another") from error
        if shape != (len(self.theta), len(self.wave_rest)):
            raise ConfigError(f"{path} has log_spectra of shape {shape}, which do not fit its theta and wavelengths: delete it")

    def __len__(self) -> int:
        return len(self.theta)

    def log_spectra(self, used: slice, *, first: int = 0, stop: int | None = None, n_chunk: int = 512) -> Iterator[np.ndarray]:
        """Chunks (≤ n_chunk, n_used) of ln L on the wavelengths `used`, float32, of the rows `first` … `stop`."""
        stop = len(self) if stop is None else stop
        with h5py.File(self.path, "r") as file:
            for start in range(first, stop, n_chunk):
                yield file["log_spectra"][start : min(start + n_chunk, stop), used]


def make_training_set(
    config: TrainingSetConfig,
    output: str | Path,
    *,
    n_workers: int = 2,
    pool: TaskPool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingSet:
    """Make a training set, go on with one that was interrupted, or read the one that is there.

    Parameters
    ----------
    config : what to make.
    output : HDF5 file; parts are kept in ``OUTPUT.partial`` until it is whole. The rows do not depend on interruptions or
        on `n_workers`.
    n_workers : processes, each with a simulator of its own (so that each may hold an FSPS); with 1 it runs in this process.
    pool : processes to use instead, such as those of a cluster, which must be able to import the simulator.
    progress : called as (spectra made, spectra) as they come.

    Raises
    ------
    ConfigError : as `TrainingSetConfig.load`; if `output` holds another training set or part of one, also of a simulator of
        one's own whose file has changed since; if a process still runs the former code of such a file, or a worker has another
        simulator than this process.
    ParameterError : if the simulator gives spectra of a wrong shape, or values without a logarithm.
    SedcastError : if a worker process dies, or the simulator fails.
    """
    output = Path(output)
    simulator, used = config.load()
    names, wave = tuple(simulator.parameter_names), np.asarray(simulator.wave_rest, dtype=np.float64)[used]
    manifest = {
        "config": json.loads(config.model_dump_json()),
        "simulator": _made_by(config.simulator, simulator),
        "wave_rest": array_digest(wave),
        "versions": software_versions(),
    }
    if output.exists():
        return _existing(output, manifest)
    with open_segments(output, manifest) as segments:
        chunks = _chunks(config, simulator, used, first=segments.next_chunk, n_workers=n_workers, pool=pool)
        with contextlib.closing(chunks):
            _fill(segments, chunks, config.n_spectra, progress)
        attributes = {"manifest": json.dumps(manifest), "parameter_names": json.dumps(names)}
        segments.join(output, config.n_spectra, attributes, tables={"wave_rest": wave})
    return TrainingSet(output)


def _existing(output: Path, manifest: dict[str, Any]) -> TrainingSet:
    """The finished set in `output`, if it is the one described; versions may have moved on since."""
    found = TrainingSet(output)
    decided = ("config", "simulator", "wave_rest")
    held, wanted = ({name: one[name] for name in decided} for one in (found.manifest, manifest))
    # Earlier versions said less of their simulators.
    wanted["simulator"] = {name: value for name, value in wanted["simulator"].items() if name in held["simulator"]}
    if different := differences(held, wanted):
        raise ConfigError(
            f"{output} holds another training set, {'; '.join(different)}: move or delete it, or give another folder"
        )
    logger.info("using the %d spectra in %s", len(found), output)
    return found


def _fill(
    segments: Segments,
    chunks: Iterator[tuple[np.ndarray, np.ndarray]],
    n_spectra: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Append chunks to the segments until there are `n_spectra` rows."""
    if progress is not None and segments.n_rows:
        progress(segments.n_rows, n_spectra)
    while segments.n_rows < n_spectra:
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        done = segments.n_rows
        while len(parts) < _CHUNKS_PER_SEGMENT and done < n_spectra:
            parts.append(next(chunks))
            done += len(parts[-1][0])
            if progress is not None:
                progress(done, n_spectra)
        theta, log_spectra = zip(*parts, strict=True)
        n_rows = done - segments.n_rows
        segments.append({"theta": theta, "log_spectra": log_spectra}, n_proposed=n_rows, n_chunks=len(parts))


def _chunks(
    config: TrainingSetConfig, simulator: Simulator, used: slice, *, first: int, n_workers: int, pool: TaskPool | None
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Theta and ln L of each chunk from number `first` on, in order, with a bounded number of them under way."""
    names = tuple(simulator.parameter_names)
    starts = range(first * _CHUNK_ROWS, config.n_spectra, _CHUNK_ROWS)
    thetas = (config.draw(names, start, min(_CHUNK_ROWS, config.n_spectra - start)) for start in starts)
    if pool is None and n_workers <= 1:
        for theta in thetas:
            yield theta, _log_spectra(simulator, theta, used)
        return
    shared = config.simulator, json.dumps(config.options, sort_keys=True), used, _identity(config.simulator, simulator)
    with contextlib.ExitStack() as stack:
        pool = pool or stack.enter_context(task_pool(None, n_workers))
        with contextlib.closing(pool.map(_work, thetas, shared=shared)) as chunks:
            yield from chunks


def _made_by(name: str, simulator: Simulator) -> dict[str, Any]:
    """What spectra are made by: the simulator's provenance, and the code of a user's own."""
    made_by = dict(getattr(simulator, "provenance", {}))
    if code := code_digest(name):
        made_by["code_sha256"] = code
    return dict(json.loads(json.dumps(made_by)))


def _identity(name: str, simulator: Simulator) -> str:
    """What simulators of one name must have in common, so that rows of one set may come from each."""
    wave = array_digest(np.asarray(simulator.wave_rest, dtype=np.float64))
    columns = list(simulator.parameter_names)
    return json.dumps({"simulator": _made_by(name, simulator), "wave_rest": wave, "parameter_names": columns}, sort_keys=True)


@lru_cache(maxsize=1)
def _simulator_of_worker(name: str, options: str, identity: str) -> Simulator:
    simulator = load_simulator(name, json.loads(options))
    if different := differences(json.loads(identity), json.loads(_identity(name, simulator))):
        raise ConfigError(
            f"a worker has another simulator {name!r} than this process, {'; '.join(different)}: put the same files there, and "
            "start the worker anew"
        )
    return simulator


def _work(name: str, options: str, used: slice, identity: str, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return theta, _log_spectra(_simulator_of_worker(name, options, identity), theta, used)


def _log_spectra(simulator: Simulator, theta: np.ndarray, used: slice) -> np.ndarray:
    """Ln L (n, n_used) as float32."""
    try:
        return np.log(checked_spectra(simulator, theta, used)).astype(np.float32)
    except SedcastError:
        raise
    except Exception as error:
        raise SedcastError(f"the simulator failed: {type(error).__name__}: {error}") from error
