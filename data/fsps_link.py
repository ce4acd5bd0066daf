"""The way to python-fsps: imported when asked for, with one stellar population per process."""

import os
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sedcast.data.errors import MissingDependencyError, ParameterError
from sedcast.data.filters import C_ANGSTROM_S

__all__ = ["fsps_spectrum", "import_fsps", "metallicity_position", "missing_folders", "stellar_population"]

_HELP = (
    "FSPS needs its data: clone https://github.com/cconroy20/fsps, set the environment variable SPS_HOME to that folder before "
    "starting Python, and 'pip install fsps'. sedcast itself does not need FSPS: SSPLibrary.popstar() is bundled"
)
_FOLDERS = ("ISOCHRONES", "SPECTRA", "dust", "nebular", "data")


def missing_folders(home: str) -> list[str]:
    """Those folders of FSPS's data that are not in `home`."""
    return [name for name in _FOLDERS if not (Path(home) / name).is_dir()]


def import_fsps() -> ModuleType:
    """The fsps package.

    Raises
    ------
    MissingDependencyError : if it, or the data folder that SPS_HOME names, is not there; says what to do.
    """
    home = os.environ.get("SPS_HOME")
    if not home:
        raise MissingDependencyError(f"SPS_HOME is not set. {_HELP}")
    # FSPS ends the whole process when a file is missing, so look before it does.
    if missing := missing_folders(home):
        raise MissingDependencyError(f"SPS_HOME={home} lacks the folders {missing}. {_HELP}")
    try:
        return import_module("fsps")
    except Exception as error:  # python-fsps raises RuntimeError, OSError or ImportError, by release
        raise MissingDependencyError(f"fsps cannot be imported: {error}. {_HELP}") from error


@lru_cache(maxsize=1)
def stellar_population() -> Any:
    """The process's one FSPS stellar population: an SSP, Chabrier (2003) IMF, continuous in metallicity, without emission.

    FSPS keeps its state in global Fortran variables: a second population with other settings would give wrong spectra.

    Raises
    ------
    MissingDependencyError : as `import_fsps`.
    """
    return import_fsps().StellarPopulation(
        zcontinuous=1, imf_type=1, sfh=0, dust_type=4, add_dust_emission=False, add_neb_emission=False
    )


def metallicity_position(population: Any, z: float) -> float:
    """FSPS's ``logzsol`` for a metal mass fraction, held to FSPS's own grid, beyond which it would extrapolate.

    Raises
    ------
    ParameterError : if the population does not interpolate in metallicity.
    """
    if population._zcontinuous != 1:
        raise ParameterError(f"stellar_population must have zcontinuous=1, got {population._zcontinuous}: create it so")
    held = np.clip(z, population.zlegend[0], population.zlegend[-1])
    return float(np.log10(held / population.solar_metallicity))


def fsps_spectrum(population: Any, z: float, age_gyr: float) -> np.ndarray:
    """FSPS's spectrum at one metallicity, Lsun/Å per Msun formed: (n_wave,), or (n_age, n_wave) at all its ages for age 0.

    Converted from FSPS's Lsun/Hz here: python-fsps (``peraa=True``) takes c as 3e18 Å/s, 0.07% too much.
    """
    population.params["logzsol"] = metallicity_position(population, z)
    wave, per_hz = population.get_spectrum(tage=age_gyr, peraa=False)
    return np.asarray(per_hz * (C_ANGSTROM_S / wave**2))
