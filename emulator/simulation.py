"""Simulated galaxies: parameters from the prior, emulated, redshifted, projected through filters, with realistic noise."""

import contextlib
import itertools
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from sedcast.data.checks import as_floats, as_names, one_per_galaxy, whole_number
from sedcast.data.config import Config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.executors import TaskPool
from sedcast.data.filters import BANDS, FilterProjection, band_name, check_bands
from sedcast.data.invocation import describe_file
from sedcast.data.noise import NoiseModel
from sedcast.data.threads import one_blas_thread
from sedcast.emulator.observing import observe
from sedcast.emulator.prior import PARAMETER_NAMES, Prior
from sedcast.emulator.redshift import RedshiftPrior

__all__ = [
    "PROPOSALS_PER_CHUNK",
    "Draws",
    "FluxSimulator",
    "PhotometrySimulator",
    "SimulationConfig",
    "SpectrumModel",
    "SurveyConfig",
    "default_simulator",
    "draw_galaxies",
    "noise_model",
    "noiseless_flux",
]

PROPOSALS_PER_CHUNK = 16384
_ROWS_PER_CALL = 512


class SpectrumModel(Protocol):
    """Anything that turns parameters and redshift into rest-frame spectra: `SPSModel`, `SpectrumEmulator`, `FSPSModel`."""

    @property
    def wave_rest(self) -> np.ndarray:
        """Rest-frame wavelengths, Å, (n_wave,)."""
        ...

    @property
    def cosmology(self) -> Cosmology:
        """The cosmology that relates redshift to age, and so to distance."""
        ...

    def spectra(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        """Luminosity densities, Lsun/Å, (n_galaxy, n_wave)."""
        ...


class FluxSimulator(Protocol):
    """Anything that turns parameters into noiseless photometry, such as emulator or direct model; it may name its `bands`."""

    def flux(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        """Noiseless fluxes, nanomaggies, (n_galaxy, n_band)."""
        ...


@dataclass(frozen=True)
class PhotometrySimulator:
    """Noiseless photometry from any spectrum model.

    Parameters
    ----------
    model : the spectrum model.
    bands : band names, or paths of a user's own filter curves, which become their names.
    zred_max : largest redshift served.

    Raises
    ------
    ParameterError : if `zred_max` is beyond the model's own, where it has one, or a band reaches beyond the model's wavelengths
        at some redshift up to it.
    """

    model: SpectrumModel
    bands: tuple[str, ...]
    zred_max: float
    projection: FilterProjection = field(init=False, repr=False)
    _restricted: SpectrumModel = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not hasattr(self.model, "cosmology"):
            raise ParameterError(f"model {type(self.model).__name__} has no cosmology: give it one, such as Cosmology()")
        served = getattr(self.model, "zred_max", np.inf)
        if self.zred_max > served:
            raise ParameterError(
                f"zred_max={self.zred_max} is beyond the model's redshifts, 0 … {served}: lower it, or train an emulator "
                "with a larger zred_max"
            )
        projection = FilterProjection(as_names("bands", self.bands), self.model.wave_rest, self.zred_max, self.cosmology)
        restrict = getattr(self.model, "restricted", None)
        object.__setattr__(self, "projection", projection)
        object.__setattr__(self, "bands", projection.bands)
        object.__setattr__(self, "_restricted", self.model if restrict is None else restrict(projection.used))

    @property
    def cosmology(self) -> Cosmology:
        """The model's, for luminosity distances too."""
        return self.model.cosmology

    def absolute_magnitudes(self, theta: np.ndarray, zred: np.ndarray | float) -> np.ndarray:
        """AB magnitudes in the rest frame, at 10 pc, dust included, (n_galaxy, n_band); inf where a band has no light at all.

        Parameters
        ----------
        theta : (n_galaxy, 12).
        zred : (n_galaxy,) or one for all; it sets the galaxies' ages.

        Raises
        ------
        ParameterError : for parameters or redshifts that the model refuses.
        """
        theta = np.atleast_2d(as_floats("theta", theta))
        zred = one_per_galaxy(zred, len(theta))
        return self._in_blocks(theta, zred, lambda spectra, _: self.projection.absolute_magnitudes(spectra), n_threads=1)

    def flux(self, theta: np.ndarray, zred: np.ndarray, *, n_threads: int = 1) -> np.ndarray:
        """Noiseless fluxes in nanomaggies.

        Parameters
        ----------
        theta : (n_galaxy, 12).
        zred : (n_galaxy,) or one for all.
        n_threads : threads over which the galaxies are spread.

        Returns
        -------
        flux : (n_galaxy, n_band).

        Raises
        ------
        ParameterError : for parameters that the model refuses, or redshifts outside 0 < zred <= `zred_max`.
        """
        theta, n_threads = np.atleast_2d(as_floats("theta", theta)), whole_number("n_threads", n_threads)
        zred = one_per_galaxy(zred, len(theta))
        return self._in_blocks(theta, zred, self.projection.flux, n_threads=n_threads)

    def _in_blocks(
        self,
        theta: np.ndarray,
        zred: np.ndarray,
        project: Callable[[np.ndarray, np.ndarray], np.ndarray],
        *,
        n_threads: int,
    ) -> np.ndarray:
        """What `project` makes of spectra and redshifts, (n_galaxy, n_band)."""
        if len(theta) <= _ROWS_PER_CALL:
            with one_blas_thread():
                return project(self._restricted.spectra(theta, zred), zred)
        # Here, for blocks would call rows by other numbers.
        if check := getattr(self.model, "check", None):
            theta, zred = check(theta, zred)
        # Neighbours in redshift share a row of the projection's table.
        order = np.argsort(zred, kind="stable")
        blocks = [order[i : i + _ROWS_PER_CALL] for i in range(0, len(order), _ROWS_PER_CALL)]
        projected = np.empty((len(theta), len(self.bands)))

        def fill(rows: np.ndarray) -> None:
            projected[rows] = project(self._restricted.spectra(theta[rows], zred[rows]), zred[rows])

        with one_blas_thread():
            if n_threads == 1:
                for rows in blocks:
                    fill(rows)
            else:
                with ThreadPoolExecutor(n_threads) as pool:
                    list(pool.map(fill, blocks))
        return projected


class SurveyConfig(Config):
    """The errors of a survey by its depths, for want of a catalogue to learn them from: `NoiseModel.from_depths`.

    Attributes
    ----------
    depths : 5 sigma AB magnitude of a point source, by band.
    floor : error of the calibration, magnitudes.
    detected : bands in which every galaxy is observed above the depth.
    """

    depths: dict[str, float] = Field(min_length=1)
    floor: float = 0.02
    detected: tuple[str, ...] = ()


@lru_cache(maxsize=4)
def _model_of_depths(depths: tuple[tuple[str, float], ...], floor: float, detected: tuple[str, ...]) -> NoiseModel:
    # A training asks several times, and the norms take seconds.
    return NoiseModel.from_depths(dict(depths), floor=floor, detected=detected)


class SimulationConfig(Config):
    """What `sedcast simulate` makes.

    Attributes
    ----------
    n_galaxies : galaxies to keep.
    seed : of every random draw.
    bands : band names, in order, or paths of a user's own filter curves (see `load_filter`).
    zred : the distribution that redshifts are drawn from.
    prior : ranges by parameter name; those left out take the PROVABGS defaults.
    emulator, noise : ``"bundled"``, or the path of an artifact.
    survey : depths in place of a noise model.
    """

    n_galaxies: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    bands: tuple[str, ...] = ("u", "g", "r", "i", "z")
    zred: RedshiftPrior = RedshiftPrior()
    prior: dict[str, tuple[float, float]] = Field(default_factory=dict)
    emulator: str = "bundled"
    noise: str = "bundled"
    survey: SurveyConfig | None = None

    @field_validator("bands")
    @classmethod
    def _known_bands(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        check_bands(bands)
        if taken := [band for band in bands if band not in BANDS and band_name(band) in BANDS]:
            raise ValueError(f"{taken[0]}: {band_name(taken[0])} is the name of a known band, call the file otherwise")
        return bands

    @field_validator("prior")
    @classmethod
    def _valid_prior(cls, prior: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        Prior.from_dict(prior)
        return prior

    @model_validator(mode="after")
    def _depths_of_bands(self) -> "SimulationConfig":
        if self.survey is None:
            return self
        if self.noise != "bundled":
            raise ValueError(f"noise={self.noise!r} and survey.depths both say what errors are: leave one out")
        if absent := [band for band in self.band_names if band not in self.survey.depths]:
            raise ValueError(f"survey.depths has none of {', '.join(absent)}, expected the 5 sigma magnitude of every band")
        if unknown := [band for band in self.survey.detected if band not in self.band_names]:
            raise ValueError(
                f"survey.detected: {unknown[0]} is none of the bands {' '.join(self.band_names)}: name some of these"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What was trained or simulated before there were depths is compared with this.
        return {key: value for key, value in values(self).items() if key != "survey" or value is not None}

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands: a user's own filter curve is known by its file's name."""
        return tuple(band_name(band) for band in self.bands)

    def own_files(self) -> dict[str, str]:
        """SHA-256 of a user's own filter curves and noise model, by band and as ``noise``; of those that are there."""
        paths = {band_name(band): Path(band) for band in self.bands if band_name(band) != band}
        if self.noise != "bundled":
            paths["noise"] = Path(self.noise)
        return {name: describe_file(path)["sha256"] for name, path in paths.items() if path.is_file()}


@dataclass(frozen=True)
class Draws:
    """Simulated galaxies: the columns of a training set, each with one row a galaxy."""

    theta: np.ndarray
    theta_unbounded: np.ndarray
    zred: np.ndarray
    flux_true: np.ndarray
    flux: np.ndarray
    flux_ivar: np.ndarray

    def __len__(self) -> int:
        return len(self.zred)


def draw_galaxies(
    simulator: PhotometrySimulator,
    prior: Prior,
    noise: NoiseModel,
    zred: RedshiftPrior,
    *,
    seed: int,
    n_workers: int = 2,
    first_chunk: int = 0,
    pool: TaskPool | None = None,
) -> Generator[tuple[int, Draws], None, None]:
    """Draw noisy galaxies without end, chunk after chunk from `first_chunk`, yielding (proposals, kept galaxies).

    Each chunk has its own random stream, so the sequence does not depend on the number of workers, which are threads or the
    processes of a pool, or on where it begins. Which are kept: `observe`.
    """
    shared = simulator, prior, noise, zred, seed
    if pool is not None:
        with contextlib.closing(pool.map(_draw_chunk, itertools.count(first_chunk), shared=shared)) as chunks:
            yield from chunks
        return
    with one_blas_thread(), ThreadPoolExecutor(n_workers) as threads:
        submitted = first_chunk + n_workers + 1
        pending = [threads.submit(_draw_chunk, *shared, index) for index in range(first_chunk, submitted)]
        try:
            while True:
                yield pending.pop(0).result()
                pending.append(threads.submit(_draw_chunk, *shared, submitted))
                submitted += 1
        finally:
            for future in pending:
                future.cancel()


def _draw_chunk(
    simulator: PhotometrySimulator, prior: Prior, noise: NoiseModel, zred: RedshiftPrior, seed: int, index: int
) -> tuple[int, Draws]:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    theta = prior.sample(PROPOSALS_PER_CHUNK, rng)
    z = zred.sample(PROPOSALS_PER_CHUNK, rng)
    mass = PARAMETER_NAMES.index("log_mstar")
    with np.errstate(divide="ignore"):
        unit_flux = np.log10(simulator.flux(theta, z)) - theta[:, mass, None]
    observed = observe(unit_flux, prior, noise, rng)
    theta, z = theta[observed.rows], z[observed.rows]
    theta[:, mass] = observed.log_mstar
    points = prior.to_unbounded(theta)
    return PROPOSALS_PER_CHUNK, Draws(theta, points, z, observed.flux_true, observed.flux, observed.sigma**-2.0)


def noise_model(config: SimulationConfig) -> NoiseModel:
    """The noise model that a configuration names, or states the depths of, for its bands."""
    if config.survey is not None:
        depths = tuple((band, config.survey.depths[band]) for band in config.band_names)
        return _model_of_depths(depths, config.survey.floor, config.survey.detected)
    if config.noise == "bundled":
        return NoiseModel.sdss(config.band_names)
    return NoiseModel.load(config.noise).select(config.band_names)


def noiseless_flux(simulator: FluxSimulator, theta: np.ndarray, zred: np.ndarray, *, n_threads: int) -> np.ndarray:
    """Fluxes (n, n_band) of a simulator, in threads if it is one that takes them."""
    if isinstance(simulator, PhotometrySimulator):
        return simulator.flux(theta, zred, n_threads=n_threads)
    return simulator.flux(theta, zred)


def default_simulator(config: SimulationConfig) -> PhotometrySimulator:
    """The photometry simulator on the emulator that a configuration names."""
    from sedcast.emulator.spectrum_emulator import SpectrumEmulator

    emulator = SpectrumEmulator.default() if config.emulator == "bundled" else SpectrumEmulator.load(config.emulator)
    if config.zred.max > emulator.zred_max:
        raise ParameterError(f"zred.max={config.zred.max} is beyond the emulator's range {emulator.zred_max}: lower it")
    wanted, served = (prior.to_dict() for prior in (Prior.from_dict(config.prior), emulator.prior))
    for name in ("gamma1_zh", "gamma2_zh"):
        if wanted[name][0] < served[name][0] or wanted[name][1] > served[name][1]:
            raise ParameterError(
                f"prior.{name}={wanted[name]} is beyond the emulator's {served[name]}: narrow it, or train an emulator for it"
            )
    return PhotometrySimulator(emulator, config.bands, config.zred.max)
