"""Fresh simulations without end, at little more than the price of their noise, to train a flow on.

The spectrum is what a simulated galaxy costs. A pool keeps recent ones as noiseless photometry per unit mass, and every
galaxy drawn takes one of them at random with a mass, errors and unmeasured bands of its own. Each draw is proposed and
accepted exactly as `draw_galaxies` does, so that it has the distribution of one of its galaxies: the pool only makes
two draws share, now and then, the parameters other than mass. The galaxies drawn, not the proposals, have unmeasured
bands with the probabilities asked for: each galaxy's are settled first, and only what is measured decides on acceptance.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
from pydantic import Field, model_validator

from sedcast.data.config import Config
from sedcast.data.errors import ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.data.threads import usable_cores
from sedcast.emulator.observing import observe, until_kept
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, Prior
from sedcast.emulator.simulation import FluxSimulator, SimulationConfig, noiseless_flux

__all__ = ["Galaxies", "GalaxyStream", "MissingBands", "StreamConfig"]

_MAX_TRIES = 10_000
_PIECE = 65_536
_SPECTRA, _CHUNKS, _VALIDATION_SPECTRA, _VALIDATION = range(4)
"""Random streams of one seed."""


class MissingBands(Config):
    """Which bands the galaxies of a training set lack.

    The rest, 1 - complete - without_optional, are measured in a random non-empty subset of the bands: the number of bands
    is uniform on 1 … n_band, the subset uniform among those of that size.

    Attributes
    ----------
    optional : bands that catalogues often lack; any may be missing where none is named.
    complete : share of galaxies with every band.
    without_optional : share with every other band, half of them without all the optional ones and half with a random
        non-empty proper subset of those (all without, if only one band is optional); 0 where no band is optional.
    """

    optional: tuple[str, ...] = ()
    complete: float = Field(default=0.25, ge=0, le=1)
    without_optional: float = Field(default=0.45, ge=0, le=1)

    @model_validator(mode="after")
    def _shares(self) -> "MissingBands":
        if self.complete + self.without_optional > 1:
            raise ValueError(f"complete={self.complete} and without_optional={self.without_optional} exceed 1 together")
        if not self.optional and "without_optional" not in self.model_fields_set:
            object.__setattr__(self, "without_optional", 0.0)
        if self.without_optional and not self.optional:
            raise ValueError(f"without_optional={self.without_optional} needs bands in optional: name them, or leave it out")
        return self

    def draw(self, n: int, bands: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
        """Which bands are measured, (n, n_band) bool, at least one in every row."""
        optional = np.flatnonzero([band in self.optional for band in bands])
        measured = np.ones((n, len(bands)), dtype=bool)
        kind = rng.random(n)
        lacking = np.flatnonzero((kind >= self.complete) & (kind < self.complete + self.without_optional))
        present = _random_subsets(len(lacking), len(optional), 1, max(1, len(optional) - 1), rng)
        present &= (rng.random(len(lacking)) < 0.5)[:, None] & (len(optional) > 1)
        measured[np.ix_(lacking, optional)] = present
        random = np.flatnonzero(kind >= self.complete + self.without_optional)
        measured[random] = _random_subsets(len(random), len(bands), 1, len(bands), rng)
        return measured


def _random_subsets(n: int, n_item: int, least: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Random subsets, (n, n_item) bool: the size uniform on least … most, then uniform among those of that size."""
    size = rng.integers(least, most + 1, n)
    return np.asarray(rng.random((n, n_item)).argsort(axis=1).argsort(axis=1) < size[:, None])


class StreamConfig(Config):
    """How fresh galaxies are drawn while a flow trains; each epoch draws `SimulationConfig.n_galaxies` of them.

    Attributes
    ----------
    spectra_per_galaxy : new spectra per galaxy drawn: 1 and more costs as much as separate simulations do.
    pool_epochs : epochs for which a spectrum can be drawn.
    n_validation : galaxies of the validation set, from spectra of its own.
    missing : bands that galaxies lack; every band is measured if left out.
    """

    spectra_per_galaxy: float = Field(default=0.5, gt=0)
    pool_epochs: int = Field(default=4, ge=1)
    n_validation: int = Field(default=50_000, ge=1)
    missing: MissingBands | None = None


@dataclass(frozen=True)
class Galaxies:
    """Observed mocks: theta_unbounded (n, 11), flux, flux_ivar (n, n_band), zred (n,); both fluxes are 0 where unmeasured."""

    theta_unbounded: np.ndarray
    flux: np.ndarray
    flux_ivar: np.ndarray
    zred: np.ndarray

    def __len__(self) -> int:
        return len(self.zred)


@dataclass(frozen=True)
class _Spectra:
    """Galaxies of one solar mass: log10 of the noiseless flux (n, n_band), theta_unbounded (n, 11), zred (n,)."""

    unit_flux: np.ndarray
    theta_unbounded: np.ndarray
    zred: np.ndarray

    def __len__(self) -> int:
        return len(self.zred)

    @classmethod
    def pooled(cls, parts: Sequence["_Spectra"]) -> "_Spectra":
        return cls(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(cls)))


class GalaxyStream:
    """Chunk after chunk of fresh galaxies, each reproducible from the seed and its number.

    Chunk i draws from the blocks i … i + pool_epochs - 1 of spectra, whatever was drawn before. While a chunk is being used,
    a thread makes the next.

    Parameters
    ----------
    simulator : noiseless photometry.
    noise : of the simulator's bands, in their order.
    simulation : seed, prior, redshifts, and galaxies per chunk.
    stream : see `StreamConfig`.

    Raises
    ------
    ParameterError : if the noise model's bands are not the simulator's, or all bands are optional.
    """

    def __init__(self, simulator: FluxSimulator, noise: NoiseModel, simulation: SimulationConfig, stream: StreamConfig) -> None:
        bands = tuple(getattr(simulator, "bands", noise.bands))
        if noise.bands != bands:
            raise ParameterError(f"the noise model has bands {noise.bands}, the simulator {bands}: they must agree")
        if stream.missing is not None:
            unknown = [band for band in stream.missing.optional if band not in noise.bands]
            if unknown or set(noise.bands) <= set(stream.missing.optional):
                raise ParameterError(
                    f"optional={stream.missing.optional} must be some, not all, of the bands {' '.join(noise.bands)}; "
                    "leave it out if any may be missing"
                )
        self.simulation = simulation
        self.stream = stream
        self.prior = Prior.from_dict(simulation.prior)
        self._simulator, self._noise = simulator, noise
        self._blocks: dict[int, _Spectra] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="galaxies")
        self._next: tuple[int, Future[Galaxies]] | None = None

    def __enter__(self) -> "GalaxyStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown(cancel_futures=True)

    @property
    def spectra_per_chunk(self) -> int:
        """New spectra that each chunk needs."""
        return max(1, round(self.stream.spectra_per_galaxy * self.simulation.n_galaxies))

    def chunk(self, index: int) -> Galaxies:
        """The galaxies of a chunk; the one after it is begun."""
        expected, future = self._next or (None, None)
        if future is None or expected != index:
            if future is not None:
                future.cancel()
            future = self._worker.submit(self._chunk, index)
        galaxies = future.result()
        self._next = index + 1, self._worker.submit(self._chunk, index + 1)
        return galaxies

    def validation(self) -> Galaxies:
        """The validation set, from spectra and random numbers that no chunk uses."""
        n = self.stream.n_validation
        return self._draw(self._spectra(2 * n, _VALIDATION_SPECTRA, 0), n, self._rng(_VALIDATION, 0))

    def _chunk(self, index: int) -> Galaxies:
        wanted = range(index, index + self.stream.pool_epochs)
        for block in set(self._blocks) - set(wanted):
            del self._blocks[block]
        absent = [block for block in wanted if block not in self._blocks]
        # The first pool is waited for; later, training needs the other cores.
        n_threads = usable_cores() if len(absent) > 1 else 1
        for block in absent:
            self._blocks[block] = self._spectra(self.spectra_per_chunk, _SPECTRA, block, n_threads=n_threads)
        return self._draw(
            _Spectra.pooled([self._blocks[block] for block in wanted]), self.simulation.n_galaxies, self._rng(_CHUNKS, index)
        )

    def _rng(self, kind: int, index: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.simulation.seed, spawn_key=(kind, index)))

    def _spectra(self, n: int, kind: int, index: int, *, n_threads: int = 1) -> _Spectra:
        rng = self._rng(kind, index)
        theta = self.prior.sample(n, rng)
        z = self.simulation.zred.sample(n, rng)
        with np.errstate(divide="ignore"):
            unit_flux = np.log10(noiseless_flux(self._simulator, theta, z, n_threads=n_threads)) - theta[:, :1]
        points = self.prior.to_unbounded(theta)
        return _Spectra(unit_flux.astype(np.float32), points.astype(np.float32), z)

    def _draw(self, spectra: _Spectra, n: int, rng: np.random.Generator) -> Galaxies:
        """Draw n galaxies from spectra, each tried anew until it is accepted."""
        pieces = [min(_PIECE, n - start) for start in range(0, n, _PIECE)]
        parts = [self._draw_piece(spectra, size, rng) for size in pieces]
        return Galaxies(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Galaxies)))

    def _draw_piece(self, spectra: _Spectra, n: int, rng: np.random.Generator) -> Galaxies:
        n_band, missing = len(self._noise.bands), self.stream.missing
        measured = None if missing is None else missing.draw(n, self._noise.bands, rng)
        theta = np.empty((n, len(FREE_PARAMETER_NAMES)), dtype=np.float32)
        flux, sigma, zred = np.empty((n, n_band)), np.empty((n, n_band)), np.empty(n)

        def attempt(wanted: np.ndarray) -> tuple[np.ndarray, Sequence[np.ndarray]]:
            row = rng.integers(len(spectra), size=len(wanted))
            of_wanted = None if measured is None else measured[wanted]
            observed = observe(spectra.unit_flux[row].astype(float), self.prior, self._noise, rng, measured=of_wanted)
            row = row[observed.rows]
            points = spectra.theta_unbounded[row]
            points[:, 0] = self.prior.log_mstar_to_unbounded(observed.log_mstar)
            return observed.rows, (points, observed.flux, observed.sigma, spectra.zred[row])

        until_kept((theta, flux, sigma, zred), attempt, most_tries=_MAX_TRIES)
        return Galaxies(theta, flux, sigma**-2.0, zred)
