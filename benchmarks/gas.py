"""PopStar with the gas that its young stars ionise: the continuum that its table has, and lines, which it has not."""

import numpy as np

from sedcast.data.build_ssp import build_popstar
from sedcast.data.filters import C_ANGSTROM_S
from sedcast.data.ssp import SSPLibrary

_PLANCK_ERG_S = 6.626e-27
_LYMAN_LIMIT = 911.8
_HBETA_ERG_PER_PHOTON = 4.76e-13
"""Of case B at 10^4 K (Osterbrock & Ferland 2006)."""
# By wavelength, Å. Balmer lines: case B at 10^4 K. Others: round numbers of galaxies near solar metallicity, without dust.
_PER_HBETA = {
    3728.5: 3.0,
    3869.0: 0.15,
    3968.0: 0.2,
    4102.0: 0.26,
    4341.0: 0.47,
    4861.3: 1.0,
    4959.0: 0.33,
    5007.0: 1.0,
    5876.0: 0.13,
    6300.0: 0.12,
    6548.0: 0.33,
    6562.8: 2.87,
    6583.4: 1.0,
    6716.4: 0.56,
    6730.8: 0.42,
    9069.0: 0.3,
    9531.0: 0.75,
}


def with_lines(library: SSPLibrary, stars: SSPLibrary) -> SSPLibrary:
    """A library with the lines of gas that absorbs all ionising photons of `stars`, each on the two wavelengths beside it."""
    ionising = stars.wave_rest <= _LYMAN_LIMIT
    wave = stars.wave_rest[ionising]
    photons_per_erg = wave / (_PLANCK_ERG_S * C_ANGSTROM_S)
    hbeta = _HBETA_ERG_PER_PHOTON * np.trapezoid(stars.flux[:, :, ionising] * photons_per_erg, wave, axis=2)
    grid = library.wave_rest
    width, flux = np.gradient(grid), np.array(library.flux, dtype=np.float64)
    for line, ratio in _PER_HBETA.items():
        left = int(np.searchsorted(grid, line)) - 1
        share = (line - grid[left]) / (grid[left + 1] - grid[left])
        for node, part in ((left, 1 - share), (left + 1, share)):
            flux[:, :, node] += hbeta * ratio * part / width[node]
    name = f"{library.name}-lines"
    return SSPLibrary(grid, library.log_age, library.log_z, flux, name=name, provenance=library.provenance)


def gas_libraries() -> dict[str, SSPLibrary]:
    """PopStar with lines, with the continuum of the gas, and with both; the continuum needs the package that carries it."""
    stars, continuum = SSPLibrary.popstar(), build_popstar(nebular=True)
    return {"lines": with_lines(stars, stars), "continuum": continuum, "gas": with_lines(continuum, stars)}
