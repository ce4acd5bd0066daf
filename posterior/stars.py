"""Where stars lie in u g r i z: the locus that nearly all of them follow, and its density for telling them from galaxies.

Fifth-degree polynomials in g-i of the median colours of SDSS's stars (Covey et al. 2007, arXiv:0707.4473), brought to AB.
"""

import numpy as np
from numpy.polynomial.polynomial import polyval

from sedcast.data.sdss import AB_OFFSETS, SDSS_BANDS
from sedcast.posterior.photometry_density import PhotometryDensity

__all__ = ["LOCUS_RANGE", "LOCUS_SCATTER", "star_density", "stellar_locus"]

LOCUS_RANGE = (0.3, 3.5)
"""g-i of SDSS, from F stars to middle M dwarfs."""

LOCUS_SCATTER = {"u": 0.10, "g": 0.03, "r": 0.02, "i": 0.03, "z": 0.03}
"""Scatter of magnitudes about the locus, a choice: of metallicity and gravity in u, of reddening and calibration elsewhere."""

_COLOURS = {
    "u-g": (1.0636113, -1.6267818, 4.9389572, -3.2809081, 0.8725109, -0.0828035),
    "g-r": (0.4290263, -0.8852323, 2.0740616, -1.1091553, 0.2397461, -0.0183195),
    "r-i": (-0.4113500, 1.8229991, -1.9989772, 1.0662075, -0.2284455, 0.0172212),
    "i-z": (-0.2270331, 0.7794558, -0.7350749, 0.3727802, -0.0735412, 0.0049808),
}
_N_COMPONENTS = 48
_MIDDLE_MAGNITUDE, _MAGNITUDE_SPREAD = 17.0, 3.0


def stellar_locus(colour: np.ndarray) -> np.ndarray:
    """AB magnitudes relative to r, (n, 5) in the order u g r i z, of stars with g-i `colour` (n,) in SDSS's own magnitudes."""
    ug, gr, ri, iz = (polyval(np.asarray(colour, dtype=float), coefficients) for coefficients in _COLOURS.values())
    offsets = np.array([AB_OFFSETS[band] for band in SDSS_BANDS]) - AB_OFFSETS["r"]
    return np.stack([ug + gr, gr, np.zeros_like(gr), -ri, -ri - iz], axis=1) + offsets


def star_density(bands: tuple[str, ...]) -> PhotometryDensity:
    """The density of stars' magnitudes in `bands`, each one of u g r i z; of any brightness; ask for it without redshifts."""
    columns = [SDSS_BANDS.index(band) for band in bands]
    colour, step = np.linspace(*LOCUS_RANGE, _N_COMPONENTS, retstep=True)
    means = stellar_locus(colour)[:, columns] + _MIDDLE_MAGNITUDE
    along = np.gradient(means, step, axis=0) * step
    scatter = np.diag([LOCUS_SCATTER[band] ** 2 for band in bands])
    n = len(bands)
    covariances = np.zeros((_N_COMPONENTS, n + 1, n + 1))
    covariances[:, :n, :n] = scatter + along[:, :, None] * along[:, None, :] + _MAGNITUDE_SPREAD**2
    covariances[:, n, n] = 1.0
    weights = np.full(_N_COMPONENTS, 1 / _N_COMPONENTS)
    return PhotometryDensity(weights, np.column_stack([means, np.zeros(_N_COMPONENTS)]), covariances)
