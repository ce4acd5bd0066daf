"""A model of photometric errors learnt from a real catalogue, drawn so that the errors carry no information of their own.

One target for all: the posterior of every method in this project is p(theta | f_obs, sigma) ∝ p(theta) N(f_obs | f, sigma²)
with f = f(theta). Errors in a catalogue depend on flux, so drawing sigma at the *true* flux would give mock galaxies whose
sigma tells about theta beyond that likelihood. Here s(sigma | f_obs) is a density of errors at given *observed* flux, and mocks
follow

    p(theta) N(f_obs | f, sigma²) s(sigma | f_obs),

whose posterior given (f_obs, sigma) is exactly the one above, whatever s is: s depends on observed values only. To draw from
this joint density, each band's (sigma, f_obs) is proposed from a density q(sigma, f_obs | f) close to N s, and a draw is kept
with probability proportional to w = Π_b N(f_obs_b | f_b, sigma_b²) s_b(sigma_b | f_obs_b) / q_b(sigma_b, f_obs_b | f_b).

The proposal is the Gaussian that N s would be if the median of ln sigma, mu, were linear in flux, with slope mu', scatter tau:
ln sigma ~ N(mu(f), tau² + mu'² sigma²), then f_obs with precision sigma^-2 + (mu'/tau)² and mean
f + (mu'/tau²) (ln sigma - mu) / precision, both widened a little so that w is bounded in the tails.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import load_artifact, save_artifact
from sedcast.data.asinh import asinh_flux, asinh_flux_error, asinh_magnitude, asinh_magnitude_error
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.errors import ArtifactError, CatalogError, ParameterError

__all__ = ["NoiseModel", "main"]

logger = logging.getLogger(__name__)

KIND = "noise-model"
SCATTER_FLOOR = 0.15
"""Least scatter of ln sigma: wider than some catalogues', so that a network conditioned on sigma serves others too."""

_GRID = np.linspace(5.0, 31.0, 521)
_GRID_CARD = [float(_GRID[0]), float(_GRID[-1]), len(_GRID)]
_GALAXIES_PER_BIN = 150
_MAX_BINS = 40
_MIN_GALAXIES = 100
_PERCENTILES = (0.1, 99.9)
_WIDEN_MAGNITUDE = 0.1
_WIDEN_LN_SIGMA = 0.1
_CAP_PERCENTILE = 99.99
_CAP_DRAWS = 200_000
_CAP_SEED = 20_261_122
_REFERENCE_ROWS = 2_000
_CHUNK = 4_096
_REACH_SIGMA = 6.0
_WIDEN_PROPOSAL = 1.1


@dataclass(frozen=True)
class NoiseModel:
    """Densities of ln sigma at given asinh magnitude, Gaussian per band, tabulated on a uniform grid of magnitudes.

    Parameters
    ----------
    bands : band names.
    median : (n_band, n_grid) median of ln(sigma / nanomaggie) on the magnitude grid `_GRID`.
    scatter : (n_band, n_grid) standard deviation of ln sigma.
    magnitude_range, ln_sigma_range : (n_band, 2) the catalogue's range of observed values.
    reference_flux : (n_reference, n_band) fluxes of the catalogue, nanomaggies, NaN where missing; for the cap.
    log_weight_cap : log weights above it count as it, in `accept`.
    capped_fraction : fraction of draws at the catalogue's fluxes that the cap touches.
    acceptance : fraction of draws at the catalogue's fluxes that `accept` keeps.
    provenance : where it comes from.
    """

    bands: tuple[str, ...]
    median: np.ndarray
    scatter: np.ndarray
    magnitude_range: np.ndarray
    ln_sigma_range: np.ndarray
    reference_flux: np.ndarray
    log_weight_cap: float = np.nan
    capped_fraction: float = np.nan
    acceptance: float = np.nan
    provenance: str = ""
    _rise: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n_band = len(self.bands)
        shapes = {
            "median": (n_band, len(_GRID)),
            "scatter": (n_band, len(_GRID)),
            "magnitude_range": (n_band, 2),
            "ln_sigma_range": (n_band, 2),
            "reference_flux": (len(self.reference_flux), n_band),
        }
        for name, shape in shapes.items():
            got = np.shape(getattr(self, name))
            if got != shape:
                raise ParameterError(f"{name} has shape {got}, expected {shape} for bands {self.bands}")
        # How much the median rises from f to f + sigma, by a symmetric difference: the proposal's slope.
        flux, typical = asinh_flux(_GRID[:, None], self.bands), np.exp(self.median.T)
        (above,), (below,) = self._interpolate(flux + typical, self.median), self._interpolate(flux - typical, self.median)
        object.__setattr__(self, "_rise", 0.5 * (above - below).T)
        if not np.isfinite(self.log_weight_cap):
            for name, value in _estimate_cap(self).items():
                object.__setattr__(self, name, value)

    @classmethod
    def from_catalog(cls, catalog: Catalog, provenance: str = "") -> "NoiseModel":
        """Learn the densities from a catalogue whose errors include their floors.

        Per band, galaxies are binned by observed asinh magnitude; the median of the asinh magnitude's error and the
        scatter of its logarithm (floored at `SCATTER_FLOOR`) are interpolated linearly between bins. Beyond the brightest
        bin the error stays constant in magnitudes, as a floor has it, and beyond the faintest one in flux, as the sky has it.

        Raises
        ------
        CatalogError : if a band has fewer than 100 measurements.
        """
        tables = [_learn_band(catalog.flux[:, b], catalog.sigma[:, b], band) for b, band in enumerate(catalog.bands)]
        flux = np.where(catalog.flux_ivar > 0, catalog.flux, np.nan)
        rng = np.random.default_rng(_CAP_SEED)
        # Rows with the most bands first, so that few-band subsets and rare bands are both served.
        order = np.lexsort((rng.random(len(flux)), np.isnan(flux).sum(axis=1)))[:_REFERENCE_ROWS]
        median, scatter, magnitude_range, ln_sigma_range = (np.array(part) for part in zip(*tables, strict=True))
        return cls(
            bands=catalog.bands,
            median=median,
            scatter=scatter,
            magnitude_range=magnitude_range,
            ln_sigma_range=ln_sigma_range,
            reference_flux=flux[order],
            provenance=provenance or f"catalogue of {len(catalog)} galaxies",
        )

    @classmethod
    def sdss(cls, bands: Sequence[str] = ("u", "g", "r", "i", "z")) -> "NoiseModel":
        """The bundled model, of the SDSS + GALEX sample: any of FUV NUV u g r i z."""
        return cls.load(Path(str(files("sedcast.data").joinpath("bundled", "noise_sdss.npz")))).select(bands)

    def select(self, bands: Sequence[str]) -> "NoiseModel":
        """The model of some of the bands, in the given order; the cap is estimated anew for them.

        Raises
        ------
        ParameterError : if a band is not in the model.
        """
        absent = [band for band in bands if band not in self.bands]
        if absent or not bands:
            raise ParameterError(f"bands {tuple(bands)}: the noise model has {', '.join(self.bands)}")
        if tuple(bands) == self.bands:
            return self
        index = [self.bands.index(band) for band in bands]
        return NoiseModel(
            bands=tuple(bands),
            median=self.median[index],
            scatter=self.scatter[index],
            magnitude_range=self.magnitude_range[index],
            ln_sigma_range=self.ln_sigma_range[index],
            reference_flux=self.reference_flux[:, index],
            provenance=self.provenance,
        )

    def save(self, path: str | Path) -> None:
        """Write the model as an artifact of kind ``noise-model``."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        card = {name: getattr(self, name) for name in _SCALARS} | {"bands": list(self.bands), "grid": _GRID_CARD}
        save_artifact(path, KIND, arrays, card)

    @classmethod
    def load(cls, path: str | Path) -> "NoiseModel":
        """Read what `save` wrote.

        Raises
        ------
        ArtifactError : if the file is missing, altered or of another kind.
        """
        arrays, card = load_artifact(path, KIND)
        if card["grid"] != _GRID_CARD:
            raise ArtifactError(
                f"{path} is tabulated on the grid {card['grid']}, this sedcast uses {_GRID_CARD}: make it again"
            )
        values: dict[str, Any] = {name: arrays[name] for name in _ARRAYS} | {name: card[name] for name in _SCALARS}
        return cls(bands=tuple(card["bands"]), **values)

    def _interpolate(self, flux: np.ndarray, *tables: np.ndarray) -> list[np.ndarray]:
        """Tables (n_band, n_grid) at fluxes (n, n_band)."""
        position = (asinh_magnitude(flux, self.bands) - _GRID[0]) / (_GRID[1] - _GRID[0])
        np.clip(position, 0, len(_GRID) - 1.001, out=position)
        left = position.astype(np.intp)
        fraction = position - left
        left += np.arange(len(self.bands)) * len(_GRID)
        values = []
        for table in tables:
            flat = np.ascontiguousarray(table).ravel()
            low = flat[left]
            values.append(low + fraction * (flat[left + 1] - low))
        return values

    def draw(self, flux: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Propose errors and observed fluxes of galaxies; only together with the weights do they follow the joint density.

        Parameters
        ----------
        flux : (n, n_band) noiseless fluxes, nanomaggies.
        rng : random generator.

        Returns
        -------
        flux_obs, sigma, log_weight : (n, n_band), (n, n_band) nanomaggies, and (n,); pass the last to `accept`.
        """
        flux = np.atleast_2d(np.asarray(flux, dtype=float))
        if flux.shape[1:] != (len(self.bands),):
            raise ParameterError(f"flux has shape {flux.shape}, expected (n, {len(self.bands)}) for bands {self.bands}")
        flux_obs, sigma, log_weight = np.empty_like(flux), np.empty_like(flux), np.empty(len(flux))
        for start in range(0, len(flux), _CHUNK):
            rows = slice(start, start + _CHUNK)
            flux_obs[rows], sigma[rows], log_weight[rows] = self._propose(flux[rows], rng)
        return flux_obs, sigma, log_weight

    def _propose(self, flux: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One chunk of `draw`."""
        first, second = rng.standard_normal((2, *flux.shape))
        median, scatter, rise = self._interpolate(flux, self.median, self.scatter, self._rise)
        typical = np.exp(median)
        slope = rise / typical
        ln_sigma_width = _WIDEN_PROPOSAL * np.hypot(scatter, rise)
        offset = ln_sigma_width * first
        ln_sigma = median + offset
        sigma = np.exp(ln_sigma)
        precision = sigma**-2 + (slope / scatter) ** 2
        flux_width = _WIDEN_PROPOSAL / np.sqrt(precision)
        noise = slope * offset / (scatter**2 * precision) + flux_width * second
        flux_obs = flux + noise
        median_obs, scatter_obs = self._interpolate(flux_obs, self.median, self.scatter)
        log_target = -0.5 * ((noise / sigma) ** 2 + ((ln_sigma - median_obs) / scatter_obs) ** 2) - ln_sigma
        log_proposal = -0.5 * (first**2 + second**2)
        widths = np.log(ln_sigma_width * flux_width / scatter_obs)
        return flux_obs, sigma, (log_target - log_proposal + widths).sum(axis=1)

    def accept(self, log_weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Which draws to keep, (n,) bool: each with probability min(1, exp(log_weight - log_weight_cap))."""
        return np.asarray(np.log(rng.random(len(log_weight))) < log_weight - self.log_weight_cap)

    def sigma_deviation(self, flux_obs: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """How unusual errors are at their observed flux, (n, n_band), in scatters of ln sigma: 0 is typical."""
        median, scatter = self._interpolate(flux_obs, self.median, self.scatter)
        return np.asarray((np.log(sigma) - median) / scatter)

    def in_range(self, flux_obs: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Whether every band's observed magnitude and error are in the catalogue's range, (n,) bool.

        Leaving out the others when training is a cut on observed values: it leaves p(theta | x) as it is for those kept.
        """
        magnitude, ln_sigma = asinh_magnitude(flux_obs, self.bands), np.log(sigma)
        inside = (magnitude >= self.magnitude_range[:, 0]) & (magnitude <= self.magnitude_range[:, 1])
        inside &= (ln_sigma >= self.ln_sigma_range[:, 0]) & (ln_sigma <= self.ln_sigma_range[:, 1])
        return np.asarray(inside.all(axis=1))

    def reach(self) -> tuple[int, tuple[float, float]]:
        """The band with the smallest errors, and AB magnitudes (brightest, faintest) beyond which none is seen in range.

        The margin around the range is six errors of the size six scatters above the typical one at its ends.
        """
        flux = asinh_flux(self.magnitude_range.T, self.bands)
        median, scatter = self._interpolate(flux, self.median, self.scatter)
        largest = asinh_magnitude_error(flux, np.exp(median + _REACH_SIGMA * scatter), self.bands)
        band = int(np.argmin(largest[1]))
        margin = _REACH_SIGMA * largest[:, band]
        brightest, faintest = 22.5 - 2.5 * np.log10(flux[:, band])
        return band, (float(brightest - margin[0]), float(faintest + margin[1]))


_ARRAYS = ("median", "scatter", "magnitude_range", "ln_sigma_range", "reference_flux")
_SCALARS = ("log_weight_cap", "capped_fraction", "acceptance", "provenance")


def _learn_band(flux: np.ndarray, sigma: np.ndarray, band: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Median and scatter of ln sigma on the grid, and the observed ranges of magnitude and ln sigma, of one band."""
    measured = np.isfinite(sigma)
    flux, sigma = flux[measured], sigma[measured]
    if len(flux) < _MIN_GALAXIES:
        raise CatalogError(
            f"band {band!r} has {len(flux)} measurements, a noise model needs {_MIN_GALAXIES}: select other bands, "
            "or pass a larger catalogue"
        )
    magnitude = asinh_magnitude(flux, band)
    ln_error = np.log(asinh_magnitude_error(flux, sigma, band))
    n_bin = int(np.clip(len(flux) // _GALAXIES_PER_BIN, 2, _MAX_BINS))
    fractions = np.arange(1, n_bin) / n_bin
    if n_bin == _MAX_BINS:
        # Short bins at both ends carry the table as far as a large catalogue reaches.
        fractions = np.concatenate([[0.25 / n_bin], fractions, [1 - 0.25 / n_bin]])
    bins = np.split(np.argsort(magnitude), (fractions * len(flux)).astype(int))
    centre = np.array([np.median(magnitude[rows]) for rows in bins])
    middle = np.array([np.median(ln_error[rows]) for rows in bins])
    grid_flux = asinh_flux(_GRID, band)
    median = np.log(asinh_flux_error(grid_flux, np.exp(np.interp(_GRID, centre, middle)), band))
    faint = centre[-1] < _GRID
    median[faint] = np.log(asinh_flux_error(asinh_flux(centre[-1], band), np.exp(middle[-1]), band))
    residual = np.log(sigma) - np.interp(magnitude, _GRID, median)
    # A quarter of the central 95.45%: a Gaussian's standard deviation, and wide enough for the two depths of GALEX's surveys.
    spread = np.array([0.25 * np.diff(np.percentile(residual[rows], (2.275, 97.725)))[0] for rows in bins])
    scatter = np.interp(_GRID, centre, np.maximum(spread, SCATTER_FLOOR))
    magnitude_range = np.percentile(magnitude, _PERCENTILES) + np.array([-1, 1]) * _WIDEN_MAGNITUDE
    ln_sigma_range = np.percentile(np.log(sigma), _PERCENTILES) + np.array([-1, 1]) * _WIDEN_LN_SIGMA
    return median, scatter, magnitude_range, ln_sigma_range


def _estimate_cap(model: NoiseModel) -> dict[str, float]:
    """The cap from a seeded run at the catalogue's fluxes, with the fractions capped and accepted."""
    complete = model.reference_flux[np.isfinite(model.reference_flux).all(axis=1)]
    if len(complete) == 0:
        raise CatalogError(f"no galaxy of the catalogue has all of the bands {model.bands}: select fewer")
    rng = np.random.default_rng(_CAP_SEED)
    _, _, log_weight = model.draw(complete[rng.integers(len(complete), size=_CAP_DRAWS)], rng)
    cap = float(np.percentile(log_weight, _CAP_PERCENTILE))
    return {
        "log_weight_cap": cap,
        "capped_fraction": float(np.mean(log_weight > cap)),
        "acceptance": float(np.mean(np.exp(np.minimum(log_weight - cap, 0.0)))),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of ``python -m sedcast.data.noise OUT``: make the bundled model from the bundled sample."""
    parser = argparse.ArgumentParser(description="Make the bundled noise model from the bundled SDSS + GALEX sample.")
    parser.add_argument("out", help="artifact to write")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    catalog = load_sdss_sample(bands=("FUV", "NUV", "u", "g", "r", "i", "z"))
    model = NoiseModel.from_catalog(catalog, "bundled SDSS + GALEX sample, error floors included")
    model.save(arguments.out)
    logger.info("cap %.2f, accepted %.3f, capped %.4f", model.log_weight_cap, model.acceptance, model.capped_fraction)


if __name__ == "__main__":
    main()
