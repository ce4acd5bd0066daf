"""Dust attenuation: the Kriek & Conroy curve for all stars, and birth clouds for young ones."""

from dataclasses import dataclass, field

import numpy as np

from sedcast.data.asinh import POGSON
from sedcast.data.errors import ParameterError

__all__ = ["DustLaw", "attenuation_at", "attenuation_curve", "diffuse_a_v"]

_PIVOT = 5500.0
_R_V = 4.05
_BUMP_WAVE = 2175.0
_BUMP_WIDTH = 350.0
_CALZETTI_BREAK = 6300.0
# So few galaxies at a time that what they need stays in the processor's cache.
_ROWS = 64


@dataclass(frozen=True)
class DustLaw:
    """Optical depths on one wavelength grid.

    All stars are behind diffuse dust, τ_ISM k(λ) with the curve of Kriek & Conroy (2013, ApJL 775, L16) as FSPS normalises
    it (``dust_type=4``): k(λ) = [C(λ) + D(λ)/4.05] (λ/5500 Å)^n, with C the curve of Calzetti et al. (2000) over 0.44·4.05,
    not below zero, and D a Drude profile at 2175 Å of strength 0.85 - 1.9 n (their Eq. 3). Young stars are also
    behind their birth clouds, τ_BC (λ/5500 Å)^-1 (Charlot & Fall 2000).

    Parameters
    ----------
    wave_rest : (n_wave,), Å.
    dtype : precision of the result.

    Raises
    ------
    ParameterError : if a wavelength is not positive and finite.
    """

    wave_rest: np.ndarray
    dtype: type[np.floating] = np.float64
    _bracket: np.ndarray = field(init=False, repr=False)
    _log_ratio: np.ndarray = field(init=False, repr=False)
    _birth_cloud: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        wave = np.asarray(self.wave_rest, dtype=np.float64)
        if wave.ndim != 1 or not np.isfinite(wave).all() or (wave <= 0).any():
            raise ParameterError(f"wave_rest must be positive and finite, (n_wave,), got shape {wave.shape}: give it in Å")
        tables = {"_bracket": np.stack(_bracket(wave)), "_log_ratio": np.log(wave / _PIVOT), "_birth_cloud": _PIVOT / wave}
        for name, table in tables.items():
            object.__setattr__(self, name, table.astype(self.dtype))

    def curve(self, dust_index: np.ndarray) -> np.ndarray:
        """k(λ), the diffuse optical depth per unit of τ_ISM; shape (n, n_wave) for `dust_index` of shape (n,)."""
        index = np.asarray(dust_index, dtype=self.dtype)[:, None]
        power = np.exp(index * self._log_ratio)
        calzetti, bump = self._bracket
        power *= _combined(calzetti, bump, index)
        return power

    def attenuate(
        self, young: np.ndarray, old: np.ndarray, *, dust1: np.ndarray, dust2: np.ndarray, dust_index: np.ndarray
    ) -> np.ndarray:
        """Attenuated sum of young and old spectra, (n, n_wave); `young` and `old` are overwritten.

        Parameters
        ----------
        young, old : (n, n_wave) spectra of stars with and without birth clouds, of this law's dtype.
        dust1, dust2, dust_index : (n,), τ_BC and τ_ISM at 5500 Å, and the slope offset n.
        """
        clouds, index = (np.asarray(value, dtype=self.dtype)[:, None] for value in (-dust1, dust_index))
        bracket = np.column_stack([-dust2, -dust2 * (0.85 - 1.9 * dust_index)]).astype(self.dtype)
        shape = (min(_ROWS, len(old)), old.shape[1])
        buffers = np.empty(shape, dtype=self.dtype), np.empty(shape, dtype=self.dtype)
        for start in range(0, len(old), _ROWS):
            rows = slice(start, start + _ROWS)
            veil, depth = (buffer[: len(old[rows])] for buffer in buffers)
            np.multiply(clouds[rows], self._birth_cloud, out=veil)
            young[rows] *= np.exp(veil, out=veil)
            old[rows] += young[rows]
            np.multiply(index[rows], self._log_ratio, out=veil)
            np.exp(veil, out=veil)
            veil *= np.matmul(bracket[rows], self._bracket, out=depth)
            old[rows] *= np.exp(veil, out=veil)
        return old


def _bracket(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Calzetti's curve, and the Drude profile of unit strength, both as they enter k(λ), in the shape of `wave`."""
    x = 1e4 / wave
    red = 1.17 * (-1.857 + 1.04 * x) + 1.78
    blue = 1.17 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 1.78
    calzetti = np.maximum(np.where(wave > _CALZETTI_BREAK, red, blue) / (0.44 * _R_V), 0.0)
    width = (wave * _BUMP_WIDTH) ** 2
    return calzetti, width / ((wave**2 - _BUMP_WAVE**2) ** 2 + width) / _R_V


def _combined(calzetti: np.ndarray, bump: np.ndarray, dust_index: np.ndarray) -> np.ndarray:
    return calzetti + (0.85 - 1.9 * dust_index) * bump


def attenuation_at(wave_rest: np.ndarray, dust_index: np.ndarray) -> np.ndarray:
    """k(λ) of `DustLaw`, (n, m, n_wave), at wavelengths of n galaxies, Å, (n, n_wave), for m slope offsets of each, (n, m)."""
    index = dust_index[:, :, None]
    calzetti, bump = (part[:, None] for part in _bracket(wave_rest))
    return np.asarray(_combined(calzetti, bump, index) * np.exp(index * np.log(wave_rest / _PIVOT)[:, None]))


def attenuation_curve(wave_rest: np.ndarray, dust_index: np.ndarray | float) -> np.ndarray:
    """k(λ) of `DustLaw` at wavelengths (n_wave,) for slope offsets (n,); shape (n, n_wave)."""
    return DustLaw(wave_rest).curve(np.atleast_1d(np.asarray(dust_index, dtype=np.float64)))


def diffuse_a_v(dust2: np.ndarray, dust_index: np.ndarray) -> np.ndarray:
    """A_V of the diffuse dust, (n,) magnitudes: that of τ_ISM k(5500 Å), without birth clouds.

    Within 0.5% of 1.086 τ_ISM for slope offsets of -2 … 1: k(5500 Å) is not quite 1.
    """
    return np.asarray(POGSON * dust2 * attenuation_at(np.full((1, 1), _PIVOT), dust_index[None])[0, :, 0])
