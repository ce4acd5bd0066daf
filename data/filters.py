"""Filters by short name, and the projection of redshifted spectra onto AB fluxes."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import speclite.filters

from sedcast.data.checks import as_floats, as_names, in_own_precision
from sedcast.data.cosmology import CM_PER_MPC, Cosmology
from sedcast.data.errors import ParameterError

__all__ = [
    "BANDS",
    "LSUN_ERG_S",
    "FilterCurve",
    "FilterProjection",
    "band_name",
    "check_band_names",
    "check_bands",
    "flux_density",
    "load_filter",
]

BANDS = {
    "FUV": "galex-fuv",
    "NUV": "galex-nuv",
    "u": "sdss2010-u",
    "g": "sdss2010-g",
    "r": "sdss2010-r",
    "i": "sdss2010-i",
    "z": "sdss2010-z",
    "J": "twomass-J",
    "H": "twomass-H",
    "Ks": "twomass-Ks",
}
"""Short band names and the speclite filters that they stand for; any other speclite name may be used as it is."""

LSUN_ERG_S = 3.839e33
"""Solar luminosity, erg/s, as FSPS has it."""

C_ANGSTROM_S = 2.99792458e18
"""Speed of light, Å/s."""
_MAGGIE_ERG_S_CM2_HZ = 3.631e-20
_TEN_PC_CM = 1e-5 * CM_PER_MPC
_REDSHIFT_STEP = 5e-4
_MAX_CURVE_BYTES = 10_000_000


@dataclass(frozen=True)
class FilterCurve:
    """A filter's response per photon: `wave` (n,) Å increasing, `response` (n,) dimensionless."""

    name: str
    wave: np.ndarray
    response: np.ndarray

    @property
    def effective_wave(self) -> float:
        """Photon-weighted mean wavelength, Å."""
        weight = self.response
        return float(np.trapezoid(weight * self.wave, self.wave) / np.trapezoid(weight, self.wave))


def band_name(band: str) -> str:
    """The name of a band: itself, or of a filter curve's file, its name without the suffix."""
    return Path(band).stem if _is_file_name(band) else band


def _is_file_name(band: str) -> bool:
    # No name that speclite knows has a suffix or is in a folder.
    return bool(Path(band).suffix) or Path(band).name != band


def load_filter(band: str) -> FilterCurve:
    """The response of a band, by short name (`BANDS`), by speclite name, or from a file.

    A file is known by its suffix or its folder: text with two columns, wavelength in Å and response per photon in any unit,
    and comments after #.

    Raises
    ------
    ParameterError : if no such filter is known, or the file cannot be read or is no filter curve.
    """
    if _is_file_name(band):
        return _read_curve(Path(band))
    try:
        response = speclite.filters.load_filter(BANDS.get(band, band))
    except (ValueError, RuntimeError, OSError) as error:
        raise ParameterError(
            f"unknown band {band!r}: use one of {', '.join(BANDS)}, a speclite name such as 'decam2014-g', "
            "or the path of a filter curve such as 'curves/mine.txt'"
        ) from error
    return FilterCurve(band, np.asarray(response.wavelength, dtype=float), np.asarray(response.response, dtype=float))


def _read_curve(path: Path) -> FilterCurve:
    expected = "expected two columns of text, wavelength in Å and response per photon"
    try:
        if not path.is_file():
            raise ParameterError(f"cannot read filter curve {path}: there is no such file")
        if path.stat().st_size > _MAX_CURVE_BYTES:
            raise ParameterError(f"filter curve {path} has more than {_MAX_CURVE_BYTES:,} bytes: {expected}")
        lines = [line.partition("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [[float(word) for word in words] for words in lines if words]
    except OSError as error:
        raise ParameterError(f"cannot read filter curve {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"filter curve {path} is not text: {expected}") from error
    except ValueError as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"filter curve {path}: {error}; {expected}") from error
    if len(rows) < 2 or any(len(row) != 2 for row in rows):
        raise ParameterError(
            f"filter curve {path} has {len(rows)} rows of {sorted({len(row) for row in rows})} numbers: {expected}"
        )
    wave, response = np.array(rows).T
    problems = {
        "values that are not finite": not np.isfinite(rows).all(),
        "wavelengths that are not positive": (wave <= 0).any(),
        "wavelengths that do not increase: sort them, without repetition": (np.diff(wave) <= 0).any(),
        "a negative response: set it to zero": (response < 0).any(),
        "no positive response": not (response > 0).any(),
    }
    for problem, found in problems.items():
        if found:
            raise ParameterError(f"filter curve {path} has {problem}")
    return FilterCurve(path.stem, wave, response)


def check_bands(bands: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the bands, or raise on an empty, repeated or unknown one."""
    return check_band_names(tuple(load_filter(band).name for band in bands))


def check_band_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names, of which some may be those of a user's own filter curves, or raise on an empty or repeated one."""
    if not names or len(set(names)) != len(names) or not all(names):
        raise ParameterError(f"bands {names} must be a non-empty sequence without repetition")
    return names


@dataclass(frozen=True)
class FilterProjection:
    """AB fluxes of rest-frame spectra at each galaxy's own redshift, as linear maps tabulated in redshift.

    A band's flux is a linear functional of the spectrum's values on `wave_rest`. Its weights are exact for a spectrum and
    a filter curve that are both linear between their nodes; they are tabulated every 0.0005 in redshift and
    interpolated linearly, so a photometric call is one small matrix product per redshift interval.

    Parameters
    ----------
    bands : band names, or paths of a user's own filter curves, which become their names.
    wave_rest : rest-frame wavelengths of the spectra, Å, (n_wave,), increasing.
    zred_max : largest redshift served.
    cosmology : for luminosity distances.

    Attributes
    ----------
    curves : the bands' filter curves.

    Raises
    ------
    ParameterError : if a band at some redshift reaches beyond `wave_rest`.
    """

    bands: tuple[str, ...]
    wave_rest: np.ndarray
    zred_max: float
    cosmology: Cosmology = field(default_factory=Cosmology)
    curves: tuple[FilterCurve, ...] = field(init=False, repr=False)
    used: slice = field(init=False, repr=False)
    weights: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        curves = tuple(load_filter(band) for band in as_names("bands", self.bands))
        object.__setattr__(self, "curves", curves)
        object.__setattr__(self, "bands", check_band_names(tuple(curve.name for curve in curves)))
        zred_max, wave = as_floats("zred_max", self.zred_max), as_floats("wave_rest", self.wave_rest)
        if zred_max.ndim or not 0 <= zred_max < np.inf:
            raise ParameterError(f"zred_max={self.zred_max}: must be one number, finite and not negative")
        if wave.ndim != 1 or len(wave) < 2 or not (np.diff(wave) > 0).all():
            raise ParameterError(f"wave_rest has shape {wave.shape}, expected (n_wave,) Å, increasing, without NaN")
        for curve in curves:
            support = curve.wave[curve.response > 0]
            low, high = support[0] / (1 + self.zred_max), support[-1]
            if low < wave[0] or high > wave[-1]:
                where = f" for redshifts 0–{self.zred_max}" if self.zred_max else ""
                raise ParameterError(
                    f"band {curve.name!r} covers rest frame {low:.0f}–{high:.0f} Å{where}, but the spectra cover "
                    f"{wave[0]:.0f}–{wave[-1]:.0f} Å: {'lower zred_max or ' if where else ''}drop the band; a curve of "
                    "your own must have its wavelengths in Å"
                )
        n_node = int(np.ceil(self.zred_max / _REDSHIFT_STEP)) + 2
        weights = np.stack([_band_weights(curve, wave, np.arange(n_node) * _REDSHIFT_STEP) for curve in curves], axis=2)
        touched = np.flatnonzero(np.any(weights != 0, axis=(0, 2)))
        used = slice(int(touched[0]), int(touched[-1]) + 1)
        object.__setattr__(self, "used", used)
        object.__setattr__(self, "weights", np.ascontiguousarray(weights[:, used], dtype=np.float32))

    def flux(self, spectra: np.ndarray, zred: np.ndarray) -> np.ndarray:
        """Fluxes in nanomaggies, shape (n_galaxy, n_band).

        Parameters
        ----------
        spectra : rest-frame luminosity densities, Lsun/Å, (n_galaxy, n_wave), or only their columns `used`.
        zred : redshifts in (0, zred_max], (n_galaxy,).

        Raises
        ------
        ParameterError : for a redshift outside the range or spectra of another width.
        """
        zred, spectra = as_floats("zred", zred), self._columns_used(spectra)
        if zred.shape != spectra.shape[:1]:
            raise ParameterError(f"zred has shape {zred.shape}, expected {spectra.shape[:1]}: one for each of the spectra")
        if not len(zred):
            return np.empty((0, len(self.bands)))
        good = (zred > 0) & (zred <= self.zred_max)
        if not good.all():
            bad = zred[~good][0]
            raise ParameterError(f"zred={bad}: must lie in 0 < zred <= {self.zred_max}: leave it out, or raise zred_max")
        position = zred / _REDSHIFT_STEP
        node = position.astype(int)
        share = (position - node)[:, None]
        if len(node) and (node == node[0]).all():
            projected = self._project(spectra, int(node[0]), share)
        else:
            projected = np.empty((len(zred), len(self.bands)))
            order = np.argsort(node, kind="stable")
            starts = np.flatnonzero(np.diff(node[order], prepend=-1))
            for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
                rows = order[start:stop]
                projected[rows] = self._project(spectra[rows], int(node[rows[0]]), share[rows])
        distance = self.cosmology.luminosity_distance_cm(zred)
        scale = LSUN_ERG_S / (4 * np.pi * distance**2 * (1 + zred))
        return projected * (scale[:, None] * 1e9)

    def absolute_magnitudes(self, spectra: np.ndarray) -> np.ndarray:
        """AB magnitudes of spectra at 10 pc and not redshifted, (n_galaxy, n_band); inf where a band has no light at all.

        Parameters
        ----------
        spectra : rest-frame luminosity densities, Lsun/Å, (n_galaxy, n_wave), or only their columns `used`.

        Raises
        ------
        ParameterError : for spectra of another width.
        """
        maggies = (self._columns_used(spectra) @ self.weights[0]) * (LSUN_ERG_S / (4 * np.pi * _TEN_PC_CM**2))
        with np.errstate(divide="ignore"):
            return np.asarray(-2.5 * np.log10(maggies), dtype=float)

    def _columns_used(self, spectra: np.ndarray) -> np.ndarray:
        n_used = self.weights.shape[1]
        # Single precision stays: it is faster.
        spectra = in_own_precision("spectra", spectra)
        if spectra.ndim != 2:
            raise ParameterError(f"spectra have shape {spectra.shape}, expected (n_galaxy, n_wave)")
        if spectra.shape[1] == len(self.wave_rest):
            return spectra[:, self.used]
        if spectra.shape[1] != n_used:
            raise ParameterError(f"spectra have {spectra.shape[1]} wavelengths, expected {len(self.wave_rest)} or {n_used}")
        return spectra

    def _project(self, spectra: np.ndarray, node: int, share: np.ndarray) -> np.ndarray:
        """Band sums (n, n_band) of spectra whose redshifts lie `share` (n, 1) of a step above one row of the table."""
        return np.asarray((1 - share) * (spectra @ self.weights[node]) + share * (spectra @ self.weights[node + 1]))


def flux_density(
    spectra: np.ndarray, wave_rest: np.ndarray, zred: float | np.ndarray, cosmology: Cosmology
) -> tuple[np.ndarray, np.ndarray]:
    """Observed flux densities per frequency of one galaxy's spectra, in the unit of its photometry.

    f_nu = f_λ λ²/c with f_λ = L_λ / [4π d_L² (1+z)] at λ = (1+z) wave_rest.

    Parameters
    ----------
    spectra : rest-frame luminosity densities, Lsun/Å, (n, n_wave).
    wave_rest : rest-frame wavelengths, Å, (n_wave,).
    zred : redshift of all of them, positive, or (n,) of each.
    cosmology : for the luminosity distance.

    Returns
    -------
    wave_obs, f_nu : observed wavelengths, Å, (n_wave,), or (n, n_wave) if each has its redshift, and flux densities,
        nanomaggies, (n, n_wave).
    """
    z = np.asarray(zred, dtype=float)[..., None]
    wave_obs = np.asarray(wave_rest, dtype=float) * (1 + z)
    distance = cosmology.luminosity_distance_cm(np.ravel(z)).reshape(z.shape)
    per_wavelength = LSUN_ERG_S / (4 * np.pi * distance**2 * (1 + z))
    return wave_obs, spectra * (per_wavelength * wave_obs**2 / (C_ANGSTROM_S * _MAGGIE_ERG_S_CM2_HZ) * 1e9)


def _band_weights(curve: FilterCurve, wave_rest: np.ndarray, zred: np.ndarray) -> np.ndarray:
    """Weights (n_zred, n_wave) with which L(wave_rest) / (4 pi d^2 (1+z)) sums to AB maggies.

    With hat functions h_j on the observed nodes a_j = (1+z) wave_rest_j, the weight of node j is
    the integral of λ R(λ) h_j(λ), found from the running integrals of λ R and λ² R.
    """
    fine = np.unique(np.concatenate([np.linspace(curve.wave[0], curve.wave[-1], 20001), curve.wave]))
    response = np.interp(fine, curve.wave, curve.response)
    first = _running_integral(fine, fine * response)
    second = _running_integral(fine, fine**2 * response)
    ab = np.trapezoid(response / fine, fine) * C_ANGSTROM_S * _MAGGIE_ERG_S_CM2_HZ
    weights = np.zeros((len(zred), len(wave_rest)))
    for row, z in enumerate(zred):
        nodes = wave_rest * (1 + z)
        m0 = np.diff(np.interp(nodes, fine, first))
        m1 = np.diff(np.interp(nodes, fine, second))
        width = np.diff(nodes)
        weights[row, :-1] += (nodes[1:] * m0 - m1) / width
        weights[row, 1:] += (m1 - nodes[:-1] * m0) / width
    return weights / ab


def _running_integral(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(0.5 * (y[1:] + y[:-1]) * np.diff(x))])
