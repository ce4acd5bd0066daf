"""Libraries of simple stellar populations (SSPs): spectra of unit mass on a grid of ages and metallicities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import consistent, load_artifact, save_artifact
from sedcast.data.checks import as_floats, in_own_precision
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError
from sedcast.data.executors import TaskPool
from sedcast.data.fsps_link import fsps_spectrum, import_fsps, stellar_population

__all__ = ["SSPLibrary", "log_age_yr"]

_KIND = "ssp-library"
_LOG_AGE_LIMITS = (3.0, 11.0)


def log_age_yr(age_gyr: np.ndarray) -> np.ndarray:
    """log10 of ages, Gyr, in years, finite at zero."""
    return np.asarray(np.log10(np.maximum(age_gyr, np.finfo(np.float64).tiny)) + 9)


@dataclass(frozen=True)
class SSPLibrary:
    """SSP spectra per solar mass formed.

    Parameters
    ----------
    wave_rest : ndarray of shape (n_wave,), vacuum rest wavelength in Å, increasing.
    log_age : ndarray of shape (n_age,), log10 of the age in yr, increasing, at least two.
    log_z : ndarray of shape (n_z,), log10 of the metal mass fraction Z, increasing, at least two.
    flux : ndarray of shape (n_z, n_age, n_wave), Lsun/Å per Msun formed; held as float32.
    name : short name.
    provenance : where the library comes from, its licence and settings; JSON-serialisable.
    remnant_mass : ndarray of shape (n_z, n_age) or None; mass left in stars and remnants per Msun formed, where known.

    Raises
    ------
    ParameterError : if a shape is wrong, a grid does not increase, a value is not finite, or a flux is negative.
    """

    wave_rest: np.ndarray
    log_age: np.ndarray
    log_z: np.ndarray
    flux: np.ndarray
    name: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    remnant_mass: np.ndarray | None = None

    def __post_init__(self) -> None:
        for key, minimum in (("wave_rest", 2), ("log_age", 2), ("log_z", 2)):
            self._set(key, _increasing(key, getattr(self, key), minimum))
        if self.wave_rest[0] <= 0:
            raise ParameterError(f"wave_rest must be positive, got {self.wave_rest[0]:g}: give it in Å")
        if self.log_age[0] < _LOG_AGE_LIMITS[0] or self.log_age[-1] > _LOG_AGE_LIMITS[1]:
            raise ParameterError(
                f"log_age must lie in {_LOG_AGE_LIMITS}, got {self.log_age[0]:g} … {self.log_age[-1]:g}: give log10 of years"
            )
        if self.log_z[-1] >= 0:
            raise ParameterError(f"log_z must be below 0, got {self.log_z[-1]:g}: give log10 of Z itself, not of Z/Zsun")
        self._set("flux", _table("flux", self.flux, (self.log_z.size, self.log_age.size, self.wave_rest.size), np.float32))
        if self.remnant_mass is not None:
            shape = (self.log_z.size, self.log_age.size)
            self._set("remnant_mass", _table("remnant_mass", self.remnant_mass, shape, np.float64))

    def _set(self, key: str, array: np.ndarray) -> None:
        array.setflags(write=False)
        object.__setattr__(self, key, array)

    def trimmed(self, wave_min: float, wave_max: float) -> "SSPLibrary":
        """The same library between two wavelengths (Å, inclusive).

        Raises
        ------
        ParameterError : if fewer than two wavelengths remain.
        """
        wave_min, wave_max = as_floats("wave_min", wave_min).item(), as_floats("wave_max", wave_max).item()
        inside = (self.wave_rest >= wave_min) & (self.wave_rest <= wave_max)
        if inside.sum() < 2:
            raise ParameterError(
                f"wave_min={wave_min:g}, wave_max={wave_max:g} keep {inside.sum()} wavelengths, expected at least 2: "
                f"the library covers {self.wave_rest[0]:g} … {self.wave_rest[-1]:g} Å"
            )
        return SSPLibrary(
            self.wave_rest[inside],
            self.log_age,
            self.log_z,
            self.flux[:, :, inside],
            name=self.name,
            provenance=self.provenance,
            remnant_mass=self.remnant_mass,
        )

    @classmethod
    def load(cls, path: str | Path) -> "SSPLibrary":
        """Read a library that `save` wrote.

        Raises
        ------
        ArtifactError : if the file is missing, of another kind, altered, or lacks an array.
        """
        arrays, card = load_artifact(path, _KIND)
        missing = {"wave_rest", "log_age", "log_z", "flux"} - set(arrays)
        if missing:
            raise ArtifactError(f"{path} lacks the arrays {sorted(missing)}: it was not written by SSPLibrary.save")
        with consistent(path, "SSP library"):
            return cls(**arrays, name=str(card.get("name", "")), provenance=card.get("provenance", {}))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the library as an artifact (``.npz``), atomically.

        Raises
        ------
        ParameterError : if a file is there already, unless `overwrite` says that it may be replaced.
        """
        arrays = {"wave_rest": self.wave_rest, "log_age": self.log_age, "log_z": self.log_z, "flux": self.flux}
        if self.remnant_mass is not None:
            arrays["remnant_mass"] = self.remnant_mass
        save_artifact(path, _KIND, arrays, {"name": self.name, "provenance": dict(self.provenance)}, overwrite=overwrite)

    @classmethod
    def popstar(cls) -> "SSPLibrary":
        """The bundled PopStar library (Mollá, García-Vargas & Bressan 2009), Chabrier IMF; see NOTICE for its licence."""
        with as_file(files("sedcast.data") / "bundled" / "ssp_popstar.npz") as path:
            return cls.load(path)

    @classmethod
    def from_fsps(
        cls, population: Any = None, *, pool: TaskPool | None = None, progress: Callable[[int, int], None] | None = None
    ) -> "SSPLibrary":
        """Tabulate a running FSPS at its own ages and metallicities, unattenuated.

        Parameters
        ----------
        population : an ``fsps.StellarPopulation`` with ``zcontinuous=1``, whose IMF and other settings are taken as they
            are, and which has its settings back afterwards; `stellar_population()` if not given. FSPS bears one per process.
        pool : processes that share the metallicities, each with an FSPS of its own; not with a `population`.
        progress : called as (metallicities done, metallicities).

        Raises
        ------
        MissingDependencyError : if FSPS or its data are missing.
        ParameterError : if the population does not interpolate in metallicity, or is given together with a pool.
        ConfigError : if a process of the pool has an FSPS of other libraries, grids or parameters than this one.
        """
        if pool is not None and population is not None:
            raise ParameterError("population and pool: the processes of a pool make populations of their own, give one of them")
        population = stellar_population() if population is None else population
        numbers, table, identity = range(len(population.zlegend)), [], _identity(population)
        if pool is None:
            made = (_tabulate(population, number) for number in numbers)
        else:
            made = pool.map(_tabulate_here, numbers, shared=(identity,))
        for one in made:
            table.append(one)
            if progress is not None:
                progress(len(table), len(numbers))
        before = dict(population.params.iteritems())
        libraries = identity["libraries"]
        provenance = {
            "source": f"python-fsps {import_fsps().__version__}",
            "libraries": libraries,
            "nebular": "continuum and lines of Cloudy" if before["add_neb_emission"] else "none",
            "parameters": {key: np.asarray(value).item() for key, value in before.items()},
            "unit": "Lsun/Å per Msun formed",
        }
        return cls(
            np.array(population.wavelengths),
            np.array(population.ssp_ages),
            np.log10(population.zlegend),
            np.stack([flux for flux, _ in table]),
            name="fsps-" + "-".join(libraries[:2]),
            provenance=provenance,
            remnant_mass=np.stack([mass for _, mass in table]),
        )


def _tabulate(population: Any, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectra (n_age, n_wave) and masses left (n_age,) at one of FSPS's metallicities, without dust or history."""
    before = dict(population.params.iteritems())
    try:
        for key in ("sfh", "dust1", "dust2", "dust3"):
            population.params[key] = 0
        flux = fsps_spectrum(population, population.zlegend[number], 0.0).astype(np.float32)
        return flux, np.array(population.stellar_mass, dtype=np.float64)
    finally:
        for key, value in before.items():
            population.params[key] = value


def _identity(population: Any) -> dict[str, Any]:
    """What populations must have in common, so that metallicities of one library may come from each."""
    grids = (population.wavelengths, population.ssp_ages, population.zlegend)
    # Populations that have been at work hold the last metallicity, age and dust, which SSPs without dust do not depend on.
    decided = {k: v for k, v in population.params.iteritems() if k not in ("logzsol", "tage", "sfh") and "dust" not in k}
    return {
        "libraries": [part.decode() if isinstance(part, bytes) else str(part) for part in population.libraries],
        "parameters": {key: np.asarray(value).item() for key, value in decided.items()},
        **{name: np.asarray(grid).tolist() for name, grid in zip(("wavelengths", "ages", "metallicities"), grids, strict=True)},
    }


def _tabulate_here(expected: dict[str, Any], number: int) -> tuple[np.ndarray, np.ndarray]:
    population = stellar_population()
    if (here := _identity(population)) != expected:
        different = [name for name in expected if here[name] != expected[name]]
        raise ConfigError(
            f"a worker has an FSPS of other {', '.join(different)} than this process (its libraries are {here['libraries']}, "
            f"here {expected['libraries']}): compile the same FSPS there, give the same SPS_HOME, and start the worker anew"
        )
    return _tabulate(population, number)


def _increasing(key: str, values: np.ndarray, minimum: int) -> np.ndarray:
    array = as_floats(key, values)
    if array.ndim != 1 or array.size < minimum:
        raise ParameterError(f"{key} must be one-dimensional with at least {minimum} values, got shape {array.shape}")
    if not np.isfinite(array).all() or np.any(np.diff(array) <= 0):
        raise ParameterError(f"{key} must be finite and increase strictly, got {array[0]:g} … {array[-1]:g}: sort the library")
    return array


def _table(key: str, values: np.ndarray, shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> np.ndarray:
    array = in_own_precision(key, values).astype(dtype)
    if array.shape != shape:
        raise ParameterError(f"{key} must have shape {shape} (metallicity, age, wavelength), got {array.shape}: transpose it")
    if not np.isfinite(array).all() or array.min() < 0:
        raise ParameterError(f"{key} must be finite and non-negative, got values from {array.min():g} to {array.max():g}")
    return array
