"""What the explorer's page asks, checked, and what it is answered: numbers ready to be drawn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from sedcast.data.asinh import asinh_flux, asinh_flux_error, asinh_magnitude, asinh_magnitude_error
from sedcast.data.catalog import Catalog
from sedcast.data.errors import ParameterError
from sedcast.data.filters import flux_density
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import rows_at_most
from sedcast.posterior.outlier_training import OutlierScorer, warn_of_limits
from sedcast.posterior.quantities import QUANTITIES, SHOWN_QUANTITIES
from sedcast.posterior.resampling import PosteriorDraws
from sedcast.posterior.row_reasons import joined_flags
from sedcast.sampled_histories import sampled_histories

__all__ = ["MAX_SAMPLES", "OFFERED", "Explorer", "Observed"]

MAX_SAMPLES = 10_000
"""Samples in a download."""

OFFERED = (
    "log_mstar",
    "log_sfr_1gyr",
    "log_ssfr_1gyr",
    "log_z_mw",
    "t_mw_gyr",
    "t50_gyr",
    "dust2",
    "a_v",
    "dust1",
    "dust_index",
    "fburst",
    "tburst",
)
"""Quantities that the page can show, in its order."""

_N_SAMPLES, _N_SPECTRA, _N_HISTORIES = 3000, 200, 1000
_N_CELLS, _N_BINS, _SMOOTHING = 26, 40, 1.2
_MAX_WAVE = 400
_LEVELS = (0.68, 0.95)
_BAND = (2.5, 16.0, 50.0, 84.0, 97.5)
_MAG_RANGE, _ERROR_RANGE = (-5.0, 40.0), (0.001, 5.0)
_SEED = 0


@dataclass(frozen=True)
class Observed:
    """One galaxy as the page has it.

    Attributes
    ----------
    flux, flux_ivar : (n_band,) nanomaggies and nanomaggies^-2; ivar 0 where a band is not measured.
    zred : redshift.
    """

    flux: np.ndarray
    flux_ivar: np.ndarray
    zred: float

    @property
    def row(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fluxes, inverse variances and redshifts of one row."""
        return self.flux[None], self.flux_ivar[None], np.array([self.zred])


class Explorer:
    """Answers about the galaxies of a catalogue, or any other.

    Parameters
    ----------
    estimator : the posterior, for given redshifts.
    simulator : the model that it was trained on.
    catalog : galaxies to pick from, in the estimator's bands.
    name : of the catalogue, for people.

    Raises
    ------
    ParameterError : if the estimator infers redshifts, its bands are not the catalogue's or the simulator's, or no galaxy of
        the catalogue has a posterior.
    """

    def __init__(
        self, estimator: PosteriorEstimator, simulator: PhotometrySimulator, catalog: Catalog, *, name: str = "catalogue"
    ) -> None:
        estimator.refuse_inferred_redshift("the explorer")
        if simulator.bands != estimator.bands:
            raise ParameterError(f"the model's bands {simulator.bands} are not the estimator's, {estimator.bands}")
        self.estimator, self.simulator, self.catalog, self.name = estimator, simulator, catalog, name
        self._scorer, self._softening = OutlierScorer(estimator), estimator.context.softening
        warn_of_limits(self._scorer.limits)
        self._excluded = estimator.status(catalog).excluded
        good = np.flatnonzero(self._excluded == "")
        if not len(good):
            raise ParameterError(f"none of the {len(catalog)} galaxies has a posterior; the first: {self._excluded[0]}")
        self._first = int(good[0])

    def setup(self) -> dict[str, Any]:
        """What the page needs before the first galaxy."""
        curves = self.simulator.projection.curves
        low, high = self.estimator.zred_range
        return {
            "name": self.name,
            "model": self.estimator.name,
            "n_galaxies": len(self.catalog),
            "first": self._first,
            "bands": list(self.estimator.bands),
            "optional": bool(self.estimator.context.mask),
            "zred_range": [low, high],
            "magnitude_range": self.estimator.domain.magnitude.tolist(),
            "filters": [_filter_curve(curve.wave, curve.response) | {"centre": curve.effective_wave} for curve in curves],
            "quantities": [_named(name) for name in OFFERED],
            "shown": list(SHOWN_QUANTITIES),
        }

    def galaxy(self, row: int) -> dict[str, Any]:
        """Magnitudes (asinh, AB), errors and redshift of a galaxy of the catalogue; null where a band is not measured.

        Raises
        ------
        ParameterError : if there is no such row.
        """
        if not 0 <= row < len(self.catalog):
            raise ParameterError(f"galaxy {row}: {self.name} has rows 0 … {len(self.catalog) - 1}")
        flux, sigma = self.catalog.flux[row], self.catalog.sigma[row]
        seen = np.isfinite(sigma)
        magnitude = asinh_magnitude(flux, self._softening)
        error = asinh_magnitude_error(flux, np.where(seen, sigma, 1.0), self._softening)
        zred = float(self.catalog.zred[row])
        return {
            "row": row,
            "id": str(self.catalog.ids[row]),
            "magnitudes": [round(float(m), 4) if there else None for m, there in zip(magnitude, seen, strict=True)],
            "errors": [round(float(e), 5) if there else None for e, there in zip(error, seen, strict=True)],
            "zred": round(zred, 6) if math.isfinite(zred) else None,
            "excluded": str(self._excluded[row]),
        }

    def observed(self, body: Any) -> Observed:
        """Check what the page sent: ``{"magnitudes": [...], "errors": [...], "zred": ...}``.

        Raises
        ------
        ParameterError : naming the field, what came and what is expected.
        """
        if not isinstance(body, Mapping):
            raise ParameterError("expected an object with magnitudes, errors and zred")
        bands = self.estimator.bands
        magnitude, error = (_per_band(body, name, bands) for name in ("magnitudes", "errors"))
        seen = np.array([m is not None for m in magnitude])
        if not seen.all() and not self.estimator.context.mask:
            missing = ", ".join(band for band, there in zip(bands, seen, strict=True) if not there)
            raise ParameterError(f"{missing}: {self.estimator.name} needs a magnitude and an error in every band")
        if not seen.any():
            raise ParameterError("no band is measured: give at least one magnitude with its error")
        for band, m, e in zip(bands, magnitude, error, strict=True):
            if m is not None:
                _within(f"magnitude in {band}", m, _MAG_RANGE)
                if e is None:
                    raise ParameterError(f"error in {band}: expected a number, got nothing")
                _within(f"error in {band}", e, _ERROR_RANGE, " mag")
        zred = _number("redshift", body.get("zred"))
        if zred is None:
            raise ParameterError("redshift: expected a number, got nothing")
        _within("redshift", zred, self.estimator.zred_range, f", which {self.estimator.name} was trained for")
        magnitudes, errors = (np.array([0.0 if value is None else value for value in values]) for values in (magnitude, error))
        flux = asinh_flux(magnitudes, self._softening)
        sigma = asinh_flux_error(flux, np.where(seen, errors, 1.0), self._softening)
        return Observed(np.where(seen, flux, 0.0), np.where(seen, sigma**-2.0, 0.0), zred)

    def sample(self, observed: Observed, n_samples: int = _N_SAMPLES) -> np.ndarray:
        """(n_samples, 12) posterior samples; the same galaxy has the same ones, and a near one near ones."""
        return self._theta(self._draw(observed, n_samples))

    def _draw(self, observed: Observed, n_samples: int = _N_SAMPLES) -> PosteriorDraws:
        return self.estimator.draw(*observed.row, n_samples, seed=_SEED)

    def _theta(self, draws: PosteriorDraws) -> np.ndarray:
        return self.estimator.to_theta(draws.points)[0].astype(float)

    def quantities(self, theta: np.ndarray, zred: float) -> dict[str, np.ndarray]:
        """Parameters and derived properties of samples (n, 12), (n,) each."""
        estimator = self.estimator
        derived = derived_properties(theta, zred, estimator.bases, estimator.cosmology, surviving=estimator.surviving)
        return dict(zip(PARAMETER_NAMES, theta.T, strict=True)) | derived

    def answer(self, observed: Observed, shown: Sequence[str], theta: np.ndarray | None = None) -> dict[str, Any]:
        """The estimator's posterior of a galaxy, or other samples of it, as numbers to draw.

        Parameters
        ----------
        observed : the galaxy.
        shown : names of quantities in the corner plot, of `OFFERED`.
        theta : (n, 12) samples; by default those of the estimator, with the flags that `infer_catalog` would give the galaxy.

        Raises
        ------
        ParameterError : for a name that is not in `OFFERED`.
        """
        unknown = [name for name in shown if name not in OFFERED]
        if unknown or len(set(shown)) != len(shown):
            raise ParameterError(f"quantities {unknown or list(shown)}: expected some of {', '.join(OFFERED)}, each once")
        judged: dict[str, Any] = {}
        if theta is None:
            draws = self._draw(observed)
            if draws.efficiency[0] == 0:
                raise ParameterError("no galaxy of the model has this photometry: move a magnitude back, or enlarge the errors")
            theta = self._theta(draws)
            efficiency = float(draws.efficiency[0])
            judged = {"flags": self._flags(observed, draws), "efficiency": efficiency if math.isfinite(efficiency) else None}
        values = self.quantities(theta, observed.zred)
        return judged | {
            "intervals": {name: _rounded(np.percentile(values[name], (16, 50, 84))) for name in OFFERED},
            "corner": _corner({name: values[name] for name in shown}),
            "sed": self._sed(observed, theta[rows_at_most(len(theta), _N_SPECTRA)]),
            "history": self._history(theta[rows_at_most(len(theta), _N_HISTORIES)], observed.zred),
        }

    def _flags(self, observed: Observed, draws: PosteriorDraws) -> str:
        judged = self._scorer(*observed.row, draws, seed=_SEED, row_keys=np.zeros(1, dtype=int))
        return joined_flags((judged.flags[0], self.estimator.domain.flags(*observed.row)[0], draws.flags[0]))

    def _sed(self, observed: Observed, theta: np.ndarray) -> dict[str, Any]:
        zred = np.full(len(theta), observed.zred)
        model = self.simulator.model
        spectra = model.spectra(theta, zred)
        wave, density = flux_density(spectra, model.wave_rest, observed.zred, self.estimator.cosmology)
        centre = np.array([curve.effective_wave for curve in self.simulator.projection.curves])
        inside = np.flatnonzero((wave > 0.75 * centre.min()) & (wave < 1.3 * centre.max()))
        inside = inside[:: max(1, math.ceil(len(inside) / _MAX_WAVE))]
        seen = observed.flux_ivar > 0
        sigma = np.where(seen, observed.flux_ivar, 1.0) ** -0.5
        return {
            "wave": _rounded(wave[inside], 5),
            "spectrum": [_rounded(row) for row in _bands(density[:, inside])],
            "predicted": [_rounded(row) for row in _bands(self.simulator.projection.flux(spectra, zred))],
            "flux": [float(f) if there else None for f, there in zip(observed.flux, seen, strict=True)],
            "sigma": [float(s) if there else None for s, there in zip(sigma, seen, strict=True)],
        }

    def _history(self, theta: np.ndarray, zred: float) -> dict[str, Any]:
        histories = sampled_histories(theta, zred, self.estimator.bases, self.estimator.cosmology)
        return {
            "edges": _rounded(histories.edges_gyr),
            "sfr": [_rounded(row) for row in _bands(histories.sfr)],
            "time": _rounded(histories.centres_gyr),
            "log_z": [_rounded(row) for row in _bands(histories.log_z)],
        }


def _named(name: str) -> dict[str, str]:
    quantity = QUANTITIES[name]
    return {"name": name, "label": quantity.symbol, "unit": quantity.unit.replace("Msun", "M☉")}


def _filter_curve(wave: np.ndarray, response: np.ndarray) -> dict[str, Any]:
    grid = np.linspace(wave[0], wave[-1], 60)
    return {"wave": _rounded(grid, 5), "response": _rounded(np.interp(grid, wave, response / response.max()))}


def _per_band(body: Mapping[str, Any], name: str, bands: Sequence[str]) -> list[float | None]:
    values = body.get(name)
    if not isinstance(values, list) or len(values) != len(bands):
        raise ParameterError(f"{name}: expected a list of {len(bands)} values, for {' '.join(bands)}")
    return [_number(f"{name.removesuffix('s')} in {band}", value) for band, value in zip(bands, values, strict=True)]


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ParameterError(f"{name}: expected a number, got {str(value)[:40]!r}")
    return number


def _within(name: str, value: float, limits: tuple[float, float], why: str = "") -> None:
    if not limits[0] <= value <= limits[1]:
        raise ParameterError(f"{name}: {value:g} is not within {limits[0]:g} … {limits[1]:g}{why}")


def _bands(samples: np.ndarray) -> np.ndarray:
    """Percentiles 2.5, 16, 50, 84, 97.5 of samples (n, m), (5, m): the nearest samples', which a sort gives fast."""
    ordered = np.sort(samples.astype(np.float32), axis=0)
    return ordered[np.rint(np.array(_BAND) / 100 * (len(samples) - 1)).astype(int)]


def _rounded(values: np.ndarray, digits: int = 4) -> list[float]:
    """Values with a few significant digits, to keep an answer short."""
    return [float(f"{value:.{digits}g}") for value in np.asarray(values, dtype=float).tolist()]


def _corner(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Histograms of each quantity, and smoothed densities of each pair with the levels that hold 68% and 95%."""
    limits = {name: _limits(array) for name, array in values.items()}
    cell = {
        name: np.clip(((array - low) / (high - low) * _N_CELLS).astype(int), 0, _N_CELLS - 1)
        for (name, array), (low, high) in zip(values.items(), limits.values(), strict=True)
    }
    names = list(values)
    pairs = [
        {"x": x, "y": y} | _density(cell[x], cell[y], (values[x], limits[x]), (values[y], limits[y]))
        for i, y in enumerate(names)
        for x in names[:i]
    ]
    marginals = {
        name: _rounded(gaussian_filter(np.histogram(array, _N_BINS, limits[name], density=True)[0], 1.0, mode="nearest"), 3)
        for name, array in values.items()
    }
    return {"limits": {name: list(pair) for name, pair in limits.items()}, "marginals": marginals, "pairs": pairs}


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (0.4, 99.6))
    room = max(0.1 * (high - low), 1e-4 * max(1.0, abs(high)))
    return float(low - room), float(high + room)


def _density(
    x_cell: np.ndarray,
    y_cell: np.ndarray,
    x: tuple[np.ndarray, tuple[float, float]],
    y: tuple[np.ndarray, tuple[float, float]],
) -> dict[str, Any]:
    inside = np.ones(len(x_cell), dtype=bool)
    for array, (low, high) in (x, y):
        inside &= (array >= low) & (array <= high)
    counts = np.bincount(y_cell[inside] * _N_CELLS + x_cell[inside], minlength=_N_CELLS**2).reshape(_N_CELLS, _N_CELLS)
    density = gaussian_filter(counts.astype(float), _SMOOTHING, mode="constant")
    ordered = np.sort(density.ravel())[::-1]
    share = np.cumsum(ordered) / ordered.sum()
    scale = 999 / ordered[0]
    levels = [float(ordered[np.searchsorted(share, level)] * scale) for level in _LEVELS]
    return {"density": np.rint(density * scale).astype(int).ravel().tolist(), "levels": levels}
