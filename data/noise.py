"""A model of photometric errors, learnt from a catalogue or of stated depths, drawn so that errors carry no information.

One target for all: the posterior of every method in this project is p(theta | f_obs, sigma) ∝ p(theta) N(f_obs | f, sigma²)
with f = f(theta). Errors in a catalogue depend on flux, so drawing sigma at the *true* flux would give mock galaxies whose
sigma tells about theta beyond that likelihood. Here s(sigma | f_obs) is a density of errors at given *observed* flux, and mocks
follow

    p(theta) N(f_obs | f, sigma²) s(sigma | f_obs),

whose posterior given (f_obs, sigma) is exactly the one above, whatever s is: s depends on observed values only. To draw from
this joint density, each band's (sigma, f_obs) is drawn from N s / Z(f) by rejection, with Z(f) = ∫∫ N s dsigma df_obs:
proposed from a density q(sigma, f_obs | f) close to N s, and kept with probability proportional to w = N s / q. As N s is not
normalised over (sigma, f_obs), a galaxy is kept with probability proportional to Π_b Z_b(f_b), a factor near one.

The proposal is the Gaussian that N s would be if the median of ln sigma, mu, were linear in flux, with slope mu', scatter tau:
ln sigma ~ N(mu(f), tau² + mu'² sigma²), then f_obs with precision sigma^-2 + (mu'/tau)² and mean
f + (mu'/tau²) (ln sigma - mu) / precision, both widened a little so that w is bounded in the tails.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from sedcast.data.artifacts import consistent, load_artifact, save_artifact
from sedcast.data.asinh import (
    POGSON,
    asinh_flux,
    asinh_magnitude,
    softening_nanomaggies,
)
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.checks import as_floats, as_names, one_number
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.noise_tables import faint_error, learn_band, measured_errors, softenings

__all__ = ["NoiseModel", "main"]

logger = logging.getLogger(__name__)

KIND = "noise-model"
_BRIGHTEST, _STEP, _LEAST_GRID = 5.0, 0.05, 521
# Beyond the magnitude of zero flux; there it is lost in its noise by 16 softenings.
_FAINT_MARGIN = 3.0
_CAP_PERCENTILE = 99.99
_CAP_DRAWS = 200_000
_CAP_SEED = 20_261_122
_LOG2_NORM_POINTS = 12
_MAX_TRIES = 1_000
_REACH_SIGMA = 5.5
_DEPTH_SIGMA = 5.0
# Depths vary over the sky, and errors with the sizes of galaxies.
_DEPTH_SCATTER = 0.3
# Of observed values about stated depths: magnitudes above them, standard deviations below zero flux, and of ln sigma.
_DEPTH_BRIGHTEST, _DEPTH_FAINTEST, _DEPTH_LN_SIGMA = 12.0, 5.0, 3.5
_DEPTHS = (10.0, 40.0)
_WIDEN_PROPOSAL = 1.1


@dataclass(frozen=True)
class NoiseModel:
    """Densities of ln sigma at given asinh magnitude, Gaussian per band, tabulated on a uniform grid of magnitudes.

    Parameters
    ----------
    bands : band names.
    softening : (n_band,) of the asinh magnitudes, nanomaggies; posteriors trained with the model have their magnitudes by it.
    median : (n_band, n_grid) median of ln(sigma / nanomaggie) on a grid of magnitudes: from 5 on in steps of 0.05, to 31 or
        beyond.
    scatter : (n_band, n_grid) standard deviation of ln sigma.
    magnitude_range, ln_sigma_range : (n_band, 2) the catalogue's range of observed values, or that about stated depths.
    log_cap : (n_band,) log weights of a band's proposals above it count as it; one in ten thousand at fluxes of that range.
    log_norm : (n_band, n_grid) logarithm of Z at the true fluxes whose asinh magnitudes are on the grid.
    provenance : where it comes from.
    """

    bands: tuple[str, ...]
    softening: np.ndarray
    median: np.ndarray
    scatter: np.ndarray
    magnitude_range: np.ndarray
    ln_sigma_range: np.ndarray
    log_cap: np.ndarray
    log_norm: np.ndarray
    provenance: str = ""
    _grid: np.ndarray = field(init=False, repr=False)
    _rise: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n_band, n_grid = len(self.bands), max(_LEAST_GRID, np.shape(self.median)[-1])
        shapes = {
            "softening": (n_band,),
            "median": (n_band, n_grid),
            "scatter": (n_band, n_grid),
            "magnitude_range": (n_band, 2),
            "ln_sigma_range": (n_band, 2),
            "log_cap": (n_band,),
            "log_norm": (n_band, n_grid),
        }
        for name, shape in shapes.items():
            got = np.shape(getattr(self, name))
            if got != shape:
                raise ParameterError(f"{name} has shape {got}, expected {shape} for bands {self.bands}")
        if wrong := [b for b, value in zip(self.bands, self.softening, strict=True) if not 0 < value < np.inf]:
            raise ParameterError(f"softening of {wrong[0]} must be finite and positive, got {self.softening}")
        object.__setattr__(self, "_grid", _magnitude_grid(n_grid))
        # How much the median rises from f to f + sigma, by a symmetric difference: the proposal's slope.
        rise = np.empty((n_band, n_grid))
        for b in range(n_band):
            flux, typical = asinh_flux(self._grid, self.softening[b]), np.exp(self.median[b])
            (above,), (below,) = (self._interpolate(b, flux + step, self.median) for step in (typical, -typical))
            rise[b] = 0.5 * (above - below)
        object.__setattr__(self, "_rise", rise)

    @classmethod
    def from_catalog(
        cls, catalog: Catalog, provenance: str = "", *, softening: Mapping[str, float] | None = None
    ) -> "NoiseModel":
        """Learn the densities from a catalogue whose errors include their floors.

        Per band, galaxies are binned by observed asinh magnitude; the median of the asinh magnitude's error and the
        scatter of its logarithm (floored at `noise_tables.SCATTER_FLOOR`) are interpolated linearly between bins. Beyond the
        brightest bin the error stays constant in magnitudes, as a floor has it, and beyond the faintest one in flux, as the sky
        has it.

        The softening of the magnitudes is the usual one in the bands of `sedcast.data.asinh.SOFTENING` (SDSS, GALEX, 2MASS),
        in others 1.042 times the median error of the faintest tenth of the fluxes (Lupton et al. 1999).

        Parameters
        ----------
        catalog : of a few hundred galaxies at least.
        provenance : where it comes from, for the artifact.
        softening : nanomaggies, by band, of bands for which it is not to be learnt: that of another noise model, if a posterior
            trained with that one is to be a start or an expert of a posterior trained with this one.

        Raises
        ------
        CatalogError : if a band has fewer than 100 measurements.
        ParameterError : if `softening` is not positive, or of a band that the catalogue lacks or whose softening is given.
        """
        measured = [measured_errors(catalog, b) for b in range(len(catalog.bands))]
        faint_errors = [faint_error(flux, sigma) for flux, sigma in measured]
        b_values = softenings(catalog.bands, faint_errors, softening or {})
        grid = _grid_for(b_values)
        tables = [learn_band(flux, sigma, b, grid) for (flux, sigma), b in zip(measured, b_values, strict=True)]
        median, scatter, magnitude_range, ln_sigma_range = (np.array(part) for part in zip(*tables, strict=True))
        learnt = cls(
            bands=catalog.bands,
            softening=b_values,
            median=median,
            scatter=scatter,
            magnitude_range=magnitude_range,
            ln_sigma_range=ln_sigma_range,
            log_cap=np.full(len(catalog.bands), np.inf),
            log_norm=np.zeros_like(median),
            provenance=provenance or f"catalogue of {len(catalog)} galaxies",
        )
        return learnt._with_norms([flux for flux, _ in measured])

    @classmethod
    def from_depths(
        cls, depths: Mapping[str, float], *, floor: float = 0.02, detected: Sequence[str] = (), provenance: str = ""
    ) -> "NoiseModel":
        """The densities of a survey whose depths are stated, for want of a catalogue to learn from.

        The median error is that of the sky, which has 5 sigma at a band's depth, and of the floor, in quadrature; photons of
        the galaxies add less than the scatter of ln sigma, 0.3, does. Observed magnitudes reach from 12 mag above the depth, 5
        at most, to a flux of -5 sigma.

        Parameters
        ----------
        depths : 5 sigma AB magnitude of a point source, by band; of galaxies that are larger, in the aperture they fill.
        floor : error of the calibration, magnitudes.
        detected : bands in which every galaxy is observed above the depth, as a catalogue is selected.
        provenance : where the depths come from, for the artifact.

        Raises
        ------
        ParameterError : if a depth is no magnitude of 10 to 40, a floor not of 0 to below 1, or a detected band has no depth.
        """
        bands = as_names("depths", tuple(depths))
        low, high = _DEPTHS
        if not bands:
            raise ParameterError("depths is empty: give the 5 sigma magnitude of each band, such as {'lsst2023-g': 27.4}")
        for band, depth in depths.items():
            if not low <= one_number(f"depths[{band!r}]", depth) <= high:
                raise ParameterError(
                    f"depths of {band} must be an AB magnitude of {low:g} to {high:g}, got {depth!r}: check its unit"
                )
        if not 0 <= one_number("floor", floor) < 1:
            raise ParameterError(f"floor must be 0 to below 1 mag, got {floor!r}: 0.02 is usual")
        if absent := [band for band in as_names("detected", detected) if band not in bands]:
            raise ParameterError(
                f"detected: {absent[0]} has no depth, which {', '.join(bands)} have: add it, or name one of those"
            )
        limit = 10 ** (0.4 * (22.5 - np.array([float(depths[band]) for band in bands])))
        sky = limit / _DEPTH_SIGMA
        softening = softenings(bands, sky, {})
        grid = _grid_for(softening)
        faintest = np.where(np.isin(bands, detected), limit, -_DEPTH_FAINTEST * sky)
        brightest = np.minimum(limit * 10 ** (0.4 * _DEPTH_BRIGHTEST), 10 ** (0.4 * (22.5 - _BRIGHTEST)))
        flux = np.stack([asinh_flux(grid, b) for b in softening])

        def ln_error(flux: np.ndarray) -> np.ndarray:
            return np.log(np.hypot(sky[:, None], floor * np.maximum(flux, 0) / POGSON))

        ends = np.stack([brightest, faintest], axis=1)
        reach = _DEPTH_LN_SIGMA * _DEPTH_SCATTER
        stated = cls(
            bands=bands,
            softening=softening,
            median=ln_error(flux),
            scatter=np.full(flux.shape, _DEPTH_SCATTER),
            magnitude_range=asinh_magnitude(ends.T, softening).T,
            ln_sigma_range=ln_error(ends)[:, ::-1] + np.array([-reach, reach]),
            log_cap=np.full(len(bands), np.inf),
            log_norm=np.zeros_like(flux),
            provenance=provenance or f"stated depths {dict(depths)}, floor {floor:g} mag",
        )
        bright, faint = stated.magnitude_range.T
        magnitudes = np.linspace(bright, faint, _LEAST_GRID)
        return stated._with_norms(list(asinh_flux(magnitudes, softening).T))

    def _with_norms(self, fluxes: Sequence[np.ndarray]) -> "NoiseModel":
        """The same with the caps and norms of its bands, of which `fluxes` are usual ones."""
        log_cap = np.array([self._find_cap(b, flux) for b, flux in enumerate(fluxes)])
        log_norm = np.array([self._find_norm(b, cap) for b, cap in enumerate(log_cap)])
        return replace(self, log_cap=log_cap, log_norm=log_norm)

    @classmethod
    def sdss(cls, bands: Sequence[str] = ("u", "g", "r", "i", "z")) -> "NoiseModel":
        """The bundled model, of the SDSS + GALEX sample: any of FUV NUV u g r i z."""
        return cls.load(Path(str(files("sedcast.data").joinpath("bundled", "noise_sdss.npz")))).select(bands)

    def select(self, bands: Sequence[str]) -> "NoiseModel":
        """The model of some of the bands, in the given order.

        Raises
        ------
        ParameterError : if a band is not in the model.
        """
        bands = as_names("bands", bands)
        absent = [band for band in bands if band not in self.bands]
        if absent or not bands:
            raise ParameterError(
                f"bands {', '.join(absent or bands) or 'none'}: the noise model has {', '.join(self.bands)}; learn one "
                "with NoiseModel.from_catalog from a catalogue that has the others, or state their depths, with "
                "NoiseModel.from_depths or the table 'survey' of a simulation"
            )
        index = [self.bands.index(band) for band in bands]
        return replace(self, bands=bands, **{name: getattr(self, name)[index] for name in _ARRAYS})

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model as an artifact of kind ``noise-model``.

        Raises
        ------
        ParameterError : if a file is there already, unless `overwrite` says that it may be replaced.
        """
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        card = {"provenance": self.provenance, "bands": list(self.bands), "grid": _grid_card(self._grid)}
        save_artifact(path, KIND, arrays, card, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> "NoiseModel":
        """Read what `save` wrote.

        Raises
        ------
        ArtifactError : if the file is missing, altered or of another kind.
        """
        arrays, card = load_artifact(path, KIND)
        with consistent(path, "noise model"):
            n_grid = arrays["median"].shape[1]
            if card["grid"] != (expected_grid := _grid_card(_magnitude_grid(n_grid))):
                raise ArtifactError(
                    f"{path} is tabulated on the grid {card['grid']}, this sedcast uses {expected_grid}: make it again"
                )
            bands = tuple(card["bands"])
            if not all(isinstance(band, str) for band in bands):
                raise ArtifactError(f"{path} has bands {bands}, expected names")
            # Artifacts of before softenings were learnt have none.
            arrays = {"softening": softening_nanomaggies(bands)} | dict(arrays)
            model = cls(bands=bands, provenance=card["provenance"], **{name: arrays[name] for name in _ARRAYS})
            widths = dict.fromkeys(("median", "scatter", "log_norm"), n_grid) | {"magnitude_range": 2, "ln_sigma_range": 2}
            for name in _ARRAYS:
                expected = (len(bands), widths[name]) if name in widths else (len(bands),)
                if arrays[name].shape != expected or arrays[name].dtype.kind != "f":
                    raise ArtifactError(f"{path}: {name} has shape {arrays[name].shape}, expected {expected} numbers")
            return model

    def _interpolate(self, b: int, flux: np.ndarray, *tables: np.ndarray) -> list[np.ndarray]:
        """Rows `b` of tables (n_band, n_grid) at fluxes (n,) of that band."""
        grid = self._grid
        position = (asinh_magnitude(flux, self.softening[b]) - grid[0]) / (grid[1] - grid[0])
        np.clip(position, 0, len(grid) - 1.001, out=position)
        left = position.astype(np.intp)
        fraction = position - left
        return [table[b][left] + fraction * (table[b][left + 1] - table[b][left]) for table in tables]

    def draw(
        self, flux: np.ndarray, rng: np.random.Generator, *, measured: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw errors and observed fluxes of galaxies; only together with the weights do galaxies follow the joint density.

        Parameters
        ----------
        flux : (n, n_band) noiseless fluxes, nanomaggies.
        rng : random generator.
        measured : (n, n_band) bool, bands to draw; the others get flux 0 and an infinite error. All by default.

        Returns
        -------
        flux_obs, sigma, log_weight : (n, n_band), (n, n_band) nanomaggies, and (n,); pass the last to `accept`.
        """
        flux = np.atleast_2d(as_floats("flux", flux))
        if flux.shape[1:] != (len(self.bands),):
            raise ParameterError(f"flux has shape {flux.shape}, expected (n, {len(self.bands)}) for bands {self.bands}")
        flux_obs, sigma, log_weight = np.zeros_like(flux), np.full_like(flux, np.inf), np.zeros(len(flux))
        if not np.isfinite(flux).all():
            raise ParameterError(f"flux has {np.count_nonzero(~np.isfinite(flux))} values that are not finite: leave them out")
        if measured is not None and np.shape(measured) != flux.shape:
            raise ParameterError(f"measured has shape {np.shape(measured)}, expected {flux.shape}, that of flux")
        for b in range(len(self.bands)):
            rows = slice(None) if measured is None else np.flatnonzero(measured[:, b])
            flux_obs[rows, b], sigma[rows, b] = self._draw_band(b, flux[rows, b], rng)
            # Relative to the largest, so that a band that is not measured does not matter.
            log_weight[rows] += self._interpolate(b, flux[rows, b], self.log_norm)[0] - self.log_norm[b].max()
        return flux_obs, sigma, log_weight

    def _draw_band(self, b: int, flux: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Observed fluxes and errors of one band, (n,) each, from N s / Z."""
        flux_obs, sigma = np.empty_like(flux), np.empty_like(flux)
        pending = np.arange(len(flux))
        for _ in range(_MAX_TRIES):
            flux_obs[pending], sigma[pending], log_weight = self._propose(
                b, flux[pending], *rng.standard_normal((2, len(pending)))
            )
            pending = pending[np.log(rng.random(len(pending))) >= log_weight - self.log_cap[b]]
            if not len(pending):
                return flux_obs, sigma
        raise ParameterError(
            f"no error can be drawn for a flux of {flux[pending[0]]:g} nanomaggies in {self.bands[b]}: it is far outside the "
            "noise model's catalogue; check the units"
        )

    def _propose(
        self, b: int, flux: np.ndarray, first: np.ndarray, second: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observed fluxes and errors of one band from two standard normal deviates, and their log weights; (n,) each."""
        median, scatter, rise = self._interpolate(b, flux, self.median, self.scatter, self._rise)
        slope = rise / np.exp(median)
        ln_sigma_width = _WIDEN_PROPOSAL * np.hypot(scatter, rise)
        offset = ln_sigma_width * first
        ln_sigma = median + offset
        sigma = np.exp(ln_sigma)
        precision = sigma**-2 + (slope / scatter) ** 2
        flux_width = _WIDEN_PROPOSAL / np.sqrt(precision)
        noise = slope * offset / (scatter**2 * precision) + flux_width * second
        flux_obs = flux + noise
        median_obs, scatter_obs = self._interpolate(b, flux_obs, self.median, self.scatter)
        log_target = -0.5 * ((noise / sigma) ** 2 + ((ln_sigma - median_obs) / scatter_obs) ** 2) - ln_sigma
        log_proposal = -0.5 * (first**2 + second**2)
        return flux_obs, sigma, log_target - log_proposal + np.log(ln_sigma_width * flux_width / scatter_obs)

    def _find_cap(self, b: int, flux: np.ndarray) -> float:
        """The log weight that one proposal in ten thousand exceeds, at the catalogue's fluxes (n,) of a band."""
        rng = np.random.default_rng(_CAP_SEED)
        normals = rng.standard_normal((2, _CAP_DRAWS))
        return float(np.percentile(self._propose(b, rng.choice(flux, _CAP_DRAWS), *normals)[2], _CAP_PERCENTILE))

    def _find_norm(self, b: int, cap: float) -> np.ndarray:
        """The logarithm of Z of a band on the grid, (n_grid,): of the mean capped weight, over the same deviates everywhere."""
        points = ndtri(qmc.Sobol(2, seed=_CAP_SEED).random_base2(_LOG2_NORM_POINTS)).T
        fluxes = asinh_flux(self._grid, self.softening[b])
        weights = [np.exp(np.minimum(self._propose(b, np.full(points.shape[1], f), *points)[2], cap)) for f in fluxes]
        return np.log(np.mean(weights, axis=1))

    def accept(self, log_weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Which draws to keep, (n,) bool: each with probability exp(log_weight), which is at most 1."""
        return np.asarray(np.log(rng.random(len(log_weight))) < log_weight)

    def in_range(self, flux_obs: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Whether every measured band's observed magnitude and error are in the catalogue's range, (n,) bool.

        A band of infinite error is not measured.

        Leaving out the others when training is a cut on observed values: it leaves p(theta | x) as it is for those kept.
        """
        magnitude, sigma = asinh_magnitude(flux_obs, self.softening), as_floats("sigma", sigma)
        if sigma.shape != magnitude.shape or not (sigma > 0).all():
            raise ParameterError(f"sigma has shape {sigma.shape}, expected {magnitude.shape} and positive values")
        ln_sigma = np.log(sigma)
        inside = (magnitude >= self.magnitude_range[:, 0]) & (magnitude <= self.magnitude_range[:, 1])
        inside &= (ln_sigma >= self.ln_sigma_range[:, 0]) & (ln_sigma <= self.ln_sigma_range[:, 1])
        return np.asarray((inside | np.isinf(sigma)).all(axis=1))

    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """AB magnitudes (brightest, faintest), (n_band,) each, beyond which no galaxy is observed in range.

        No draw within 5.5 standard deviations of (f_obs, ln sigma), jointly, is in range from further away. The faintest is
        infinite where that leaves no flux.
        """
        angle = np.linspace(0, np.pi / 2, 91)[:, None]
        brightest, faintest = np.empty((2, len(self.bands)))
        for b in range(len(self.bands)):
            flux = asinh_flux(self.magnitude_range[b], self.softening[b])
            median, scatter = self._interpolate(b, flux, self.median, self.scatter)
            errors = np.cos(angle) * np.exp(_REACH_SIGMA * np.sin(angle) * scatter)
            margin = _REACH_SIGMA * np.exp(median) * errors.max(axis=0)
            with np.errstate(divide="ignore"):
                ends = 22.5 - 2.5 * np.log10(np.maximum(flux + margin * [1, -1], 0.0))
            brightest[b], faintest[b] = ends
        return brightest, faintest


_ARRAYS = ("softening", "median", "scatter", "magnitude_range", "ln_sigma_range", "log_cap", "log_norm")


def _magnitude_grid(n: int) -> np.ndarray:
    """The first `n` of the magnitudes at which tables are."""
    return np.linspace(_BRIGHTEST, _BRIGHTEST + _STEP * (n - 1), n)


def _grid_for(softening: np.ndarray) -> np.ndarray:
    """The magnitudes at which tables of bands with these softenings (n_band,) are."""
    faintest = float(asinh_magnitude(np.zeros(len(softening)), softening).max()) + _FAINT_MARGIN
    return _magnitude_grid(max(_LEAST_GRID, 1 + int(np.ceil((faintest - _BRIGHTEST) / _STEP))))


def _grid_card(grid: np.ndarray) -> list[float]:
    return [float(grid[0]), float(grid[-1]), len(grid)]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of ``python -m sedcast.data.noise OUT``: make the bundled model from the bundled sample."""
    parser = argparse.ArgumentParser(description="Make the bundled noise model from the bundled SDSS + GALEX sample.")
    parser.add_argument("out", help="artifact to write")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    catalog = load_sdss_sample(bands=("FUV", "NUV", "u", "g", "r", "i", "z"))
    model = NoiseModel.from_catalog(catalog, "bundled SDSS + GALEX sample, error floors included")
    model.save(arguments.out, overwrite=True)
    logger.info("log caps %s; ln Z from %s to %s", model.log_cap, model.log_norm.min(axis=1), model.log_norm.max(axis=1))


if __name__ == "__main__":
    main()
