"""One galaxy from its photometry to its posterior, in one call: what `sedcast fit` shows."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table
from matplotlib.figure import Figure

from sedcast.data.artifacts import atomic_path
from sedcast.data.catalog import Catalog
from sedcast.data.errors import ParameterError
from sedcast.data.units import as_nanomaggies
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.plotting import corner_plot
from sedcast.plotting_paper import posterior_figure
from sedcast.posterior.estimator import PosteriorEstimator, bundled_posteriors
from sedcast.posterior.exact import rows_at_most
from sedcast.posterior.infer import check_output, infer_catalog
from sedcast.posterior.inference_data import inference_data
from sedcast.posterior.outlier_training import training_simulator, warn_of_limits
from sedcast.posterior.posterior_catalog import read_posteriors
from sedcast.posterior.quantities import QUANTITIES, SHOWN_QUANTITIES
from sedcast.posterior.row_reasons import warn_of_flags
from sedcast.posterior.summary_tables import described
from sedcast.sampled_seds import sampled_seds

__all__ = ["GalaxyFit", "fit_galaxy"]

_MAG_RANGE, _ERROR_RANGE = (0.0, 40.0), (1e-4, 5.0)
_ONE_SIGMA = (16.0, 50.0, 84.0)
_N_PRIOR, _N_PREDICTED = 4000, 500


@dataclass(frozen=True)
class GalaxyFit:
    """The posterior of one galaxy: make one with `fit_galaxy`.

    Attributes
    ----------
    estimator : what gave it.
    galaxy : the photometry as a catalogue of one row, in the estimator's bands.
    samples : (n_samples,) float32 by quantity, the twelve parameters and what follows from them; ``zred`` if it was inferred.
    intervals : by quantity ``median``, ``p16`` and ``p84``, and ``width_over_prior``: the width of the 68% interval over
        that of the prior; near 1, the photometry says nothing.
    flags : why not to take the posterior as it is; "" if nothing is odd.
    score : share of galaxies like the training simulations that are at least as unusual; NaN if unknown.
    efficiency : effective share of the flow's draws that were weighed, 1 at best; NaN if unknown.
    log_evidence : log probability density of the photometry under model and prior, nats, fluxes in nanomaggies; NaN if unknown.
    """

    estimator: PosteriorEstimator = field(repr=False)
    galaxy: Catalog = field(repr=False)
    samples: dict[str, np.ndarray] = field(repr=False)
    intervals: dict[str, dict[str, float]] = field(repr=False)
    flags: str
    score: float
    efficiency: float
    log_evidence: float

    def summary(self) -> Table:
        """A row a quantity: ``name``, ``quantity``, ``unit``, ``median``, ``p16``, ``p84``, ``width`` over that of the prior.

        Weights of the bases, which mean little alone, are in `intervals` only.
        """
        rows = [
            {"name": name, "quantity": quantity.words, "unit": quantity.shown_unit} | self.intervals[name]
            for name, quantity in QUANTITIES.items()
            if name in self.intervals
        ]
        table = Table(rows=rows)
        table.rename_column("width_over_prior", "width")
        for name in ("median", "p16", "p84", "width"):
            table[name].format = ".2f" if name == "width" else ".4g"
        return table

    def table(self) -> Table:
        """The samples, (n_samples,) a column, with units and descriptions."""
        return described(self.samples)

    def to_arviz(self) -> Any:
        """The samples as ArviZ inference data, as `PosteriorCatalog.to_arviz` has them.

        Raises
        ------
        MissingDependencyError : if arviz is not installed.
        """
        row = self.galaxy.flux[0], self.galaxy.flux_ivar[0], float(self.galaxy.zred[0])
        figures = {name: getattr(self, name) for name in ("flags", "score", "efficiency", "log_evidence")}
        return inference_data(self.samples, self.galaxy.bands, *row, attributes=figures)

    def corner_plot(self) -> Figure:
        """A corner plot of `SHOWN_QUANTITIES`, and of the redshift if it was inferred."""
        names = [*SHOWN_QUANTITIES, *(["zred"] if "zred" in self.samples else [])]
        return corner_plot({"posterior": np.stack([self.samples[name] for name in names], axis=1)}, names)

    def posterior_figure(self) -> Figure:
        """A corner plot; below it the photometry, and what the posterior predicts of it and of the spectrum."""
        n = len(self.samples[PARAMETER_NAMES[0]])
        shown = rows_at_most(n, _N_PREDICTED)
        theta = np.stack([self.samples[name][shown] for name in PARAMETER_NAMES], axis=1).astype(float)
        zred = np.asarray(self.samples.get("zred", np.repeat(self.galaxy.zred, n)), dtype=float)
        return posterior_figure(
            {"posterior": np.stack(list(self.samples.values()), axis=1)},
            self.galaxy.flux[0],
            self.galaxy.flux_ivar[0],
            predicted=sampled_seds(training_simulator(self.estimator), theta, zred[shown]),
            names=tuple(self.samples),
            title=f"inferred z = {np.median(zred):.3f}" if "zred" in self.samples else f"z = {zred[0]:.6g}",
        )


def fit_galaxy(
    mags: Mapping[str, Any] | None = None,
    *,
    flux: Mapping[str, Any] | None = None,
    errors: Any,
    zred: float | None = None,
    model: PosteriorEstimator | str | Path | None = None,
    n_samples: int = 5000,
    seed: int = 0,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> GalaxyFit:
    """The posterior of one galaxy; of many, `infer_catalog` is faster.

    Photometry is total (the same aperture in every band) and corrected for Galactic extinction; errors include what the
    calibration leaves, 0.02 mag and more. A band that was not measured is left out.

    Parameters
    ----------
    mags : AB magnitudes by band, such as ``{"g": 17.67, "r": 16.94}`` or a Series of pandas; numbers or Quantities
        (``u.ABmag``).
    flux : fluxes by band, instead of `mags`: nanomaggies, or Quantities of flux per frequency (``u.uJy``); may be negative.
    errors : of `mags` in mag, of `flux` in nanomaggies, or Quantities; by band, or in the order of the bands, or one for all.
    zred : redshift; inferred with the rest if it is None.
    model : an estimator, the path of its artifact, or the name of a bundled one; by default the bundled one for these bands.
    n_samples : posterior samples.
    seed : of the samples.
    output : file of posteriors (``.h5``) to write as well, as `infer_catalog` does, with this one row.
    overwrite : whether that file may be replaced if it is there.

    Returns
    -------
    fit : samples, intervals, evidence, flags; and pictures of them.

    Raises
    ------
    ParameterError : if not one of `mags` and `flux` is given; a number or a unit is none of a magnitude, flux, error or
        redshift; errors do not belong to the bands; no posterior takes these bands, with or without a redshift; the galaxy is
        outside the model's range, which is named; or `output` is there already.
    ArtifactError : if there is no such model.
    """
    if (mags is None) == (flux is None):
        raise ParameterError("give either mags or flux, one number a band, such as mags={'g': 17.67, 'r': 16.94}")
    given, name = (_named(mags), "mags") if mags is not None else (_named(flux), "flux")
    if not isinstance(given, Mapping) or not given or not all(isinstance(band, str) for band in given):
        raise ParameterError(f"{name}: expected one number a band, such as {{'g': 17.67, 'r': 16.94}}, got {given!r}")
    if zred is not None:
        zred = _redshift(zred)
    by_band = _errors_by_band(_named(errors), tuple(given), name)
    for role, numbers in ((name, given), ("errors", by_band)):
        for band, value in numbers.items():
            if isinstance(value, bool | np.bool_) or np.ndim(value):
                raise ParameterError(f"{role}: {band}={value!r} is no number; for many galaxies there is infer_catalog")
    measured = _of_magnitudes(given, by_band) if name == "mags" else _of_fluxes(given, by_band)
    estimator = _estimator(model, tuple(given), zred)
    galaxy = _galaxy(estimator, tuple(given), *measured, zred)
    if output is not None:
        check_output(output, overwrite=overwrite)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "galaxy.h5"
        # As a part of a catalogue, of which infer_catalog does not warn: one galaxy has words of its own.
        infer_catalog(estimator, galaxy, made, n_samples=n_samples, seed=seed, first_row=0)
        with read_posteriors(made) as posteriors:
            if posteriors.status[0]:
                status = str(posteriors.status[0])
                wrong = "zred, or train a posterior for it" if status.startswith("redshift") else f"{name} and errors"
                raise ParameterError(f"no posterior by {estimator.name!r}: {status}; check {wrong}")
            samples, flags = posteriors.samples(0), str(posteriors.flags[0])
            limits = str(posteriors.provenance["outlier_limits"])
            figures = {name: float(getattr(posteriors, name)[0]) for name in ("score", "efficiency", "log_evidence")}
        if output is not None:
            with atomic_path(output) as temporary:
                shutil.copyfile(made, temporary)
    warn_of_limits(limits)
    warn_of_flags(1, Counter([flags]))
    return GalaxyFit(estimator, galaxy, samples, _intervals(estimator, samples, zred, seed), flags, **figures)


def _named(values: Any) -> Any:
    """A dictionary of what has names, such as a Series of pandas, whose order need not be that of the bands; else as it is."""
    return dict(values) if hasattr(values, "keys") else values


def _redshift(zred: Any) -> float:
    try:
        if isinstance(zred, str | bool | np.bool_) or np.ndim(zred) or np.ma.is_masked(zred):
            raise TypeError
        return float(zred)
    except (TypeError, ValueError, OverflowError):
        raise ParameterError(f"zred: expected a number, or None to infer it, got {zred!r}") from None


def _errors_by_band(errors: Any, bands: Sequence[str], name: str) -> dict[str, Any]:
    if isinstance(errors, Mapping):
        if set(errors) != set(bands):
            raise ParameterError(
                f"errors are of {', '.join(map(str, errors))}, {name} of {', '.join(bands)}: name the same bands"
            )
        return {band: errors[band] for band in bands}
    if not isinstance(errors, list | tuple) and np.ndim(errors) == 0:
        return dict.fromkeys(bands, errors)
    if len(errors) != len(bands):
        raise ParameterError(
            f"errors has {len(errors)} numbers for the {len(bands)} bands {', '.join(bands)}: one each, or one"
        )
    return dict(zip(bands, errors, strict=True))


def _of_magnitudes(mags: Mapping[str, Any], errors: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes and inverse variances (n_band,), nanomaggies."""
    values, sigmas = [], []
    for band, mag in mags.items():
        value, sigma = _in_magnitudes("mags", band, mag), _in_magnitudes("errors", band, errors[band])
        if not _MAG_RANGE[0] < value < _MAG_RANGE[1]:
            raise ParameterError(
                f"mags: {band}={value:g} is no AB magnitude of a galaxy; a flux f in nanomaggies is 22.5 - 2.5 log10 f, and "
                "a band that was not measured is left out"
            )
        if not _ERROR_RANGE[0] <= sigma <= _ERROR_RANGE[1]:
            raise ParameterError(f"errors: {band}={sigma:g} is not an error of {_ERROR_RANGE[0]:g} to {_ERROR_RANGE[1]:g} mag")
        values.append(value)
        sigmas.append(sigma)
    return as_nanomaggies(values * u.ABmag, sigmas * u.mag)


def _in_magnitudes(name: str, band: str, value: Any) -> float:
    unit = getattr(value, "unit", None)
    if unit is None:
        return _number(name, band, value)
    if name == "errors" and isinstance(unit, u.MagUnit):
        # An error of magnitudes that is called AB, as they are.
        return float(value.value)
    if name == "mags" and not isinstance(unit, u.MagUnit):
        raise ParameterError(
            f"mags: {band} has the unit {unit}: expected AB magnitudes (u.ABmag); fluxes go in as flux={{...}}"
        )
    try:
        return float(value.to_value(u.mag if name == "errors" else u.ABmag))
    except u.UnitConversionError as error:
        wanted = "mag, as of magnitudes" if name == "errors" else "AB magnitudes (u.ABmag)"
        raise ParameterError(f"{name}: {band} has the unit {unit}: expected {wanted}") from error


def _of_fluxes(flux: Mapping[str, Any], errors: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes and inverse variances (n_band,), nanomaggies."""
    found = np.empty((2, len(flux)))
    for column, (band, value) in zip(found.T, flux.items(), strict=True):
        error = errors[band]
        units = [getattr(one, "unit", None) for one in (value, error)]
        if units == [None, None]:
            sigma = np.float64(_number("errors", band, error))
            with np.errstate(over="ignore"):
                column[:] = _number("flux", band, value), sigma**-2.0 if sigma > 0 else 0.0
        elif None in units:
            raise ParameterError(
                f"flux of {band} has the unit {units[0]}, its error {units[1]}: give both with units, or neither"
            )
        elif isinstance(units[0], u.MagUnit):
            raise ParameterError(f"flux: {band} has the unit {units[0]}: magnitudes go in as mags={{...}}")
        else:
            column[:] = as_nanomaggies(value, error)
        if not np.isfinite(column[0]):
            raise ParameterError(f"flux: {band}={value} is no flux: leave out a band that was not measured")
        if not 0 < column[1] < np.inf:
            raise ParameterError(f"errors: {band}={error} is not an error of a flux: expected a positive number")
    return found[0], found[1]


def _number(name: str, band: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ParameterError(f"{name}: {band}={value!r} is no number") from error


def _estimator(model: PosteriorEstimator | str | Path | None, bands: tuple[str, ...], zred: float | None) -> PosteriorEstimator:
    """The estimator asked for, or the first bundled one that takes these bands, with or without a redshift."""
    tried = []
    for name in bundled_posteriors() if model is None else (model,):
        estimator = name if isinstance(name, PosteriorEstimator) else PosteriorEstimator.find(name)
        known = set(bands) <= set(estimator.bands) and (estimator.context.mask or len(bands) == len(estimator.bands))
        if known and estimator.infers_redshift == (zred is None):
            return estimator
        some = "any of " if estimator.context.mask else ""
        tried.append(f"{estimator.name}: {some}{' '.join(estimator.bands)}{'' if estimator.infers_redshift else ', redshift'}")
    if model is not None and known:
        what = "infers the redshift: leave it out" if estimator.infers_redshift else "needs a redshift: give it"
        raise ParameterError(f"{estimator.name} {what}; or name no model, and a bundled posterior for both is taken")
    given = f"{' '.join(bands)} {'without' if zred is None else 'with'} a redshift"
    advice = "leave others out, or train a posterior of your own ('sedcast init')"
    raise ParameterError(f"no posterior for {given}; there is {'; '.join(tried)}: {advice}")


def _galaxy(
    estimator: PosteriorEstimator, bands: Sequence[str], flux: np.ndarray, flux_ivar: np.ndarray, zred: float | None
) -> Catalog:
    columns = [estimator.bands.index(band) for band in bands]
    wide_flux, wide_ivar = np.zeros((2, 1, len(estimator.bands)))
    wide_flux[0, columns], wide_ivar[0, columns] = flux, flux_ivar
    return Catalog(np.zeros(1, int), estimator.bands, wide_flux, wide_ivar, np.array([np.nan if zred is None else zred]))


def _intervals(
    estimator: PosteriorEstimator, samples: Mapping[str, np.ndarray], zred: float | None, seed: int
) -> dict[str, dict[str, float]]:
    """Median, 16th and 84th percentile of each quantity, and the interval's width over the prior's."""
    theta = estimator.prior.sample(_N_PRIOR, seed)
    if estimator.redshift_prior is None:
        redshifts = np.full(_N_PRIOR, zred, dtype=float)
    else:
        redshifts = estimator.redshift_prior.sample(_N_PRIOR, np.random.default_rng(seed))
    prior = dict(zip(PARAMETER_NAMES, theta.T, strict=True)) | {"zred": redshifts}
    prior |= derived_properties(theta, redshifts, estimator.bases, estimator.cosmology, surviving=estimator.surviving)
    figures = {}
    for name, values in samples.items():
        low, median, high = np.percentile(values, _ONE_SIGMA)
        before = np.percentile(prior[name], _ONE_SIGMA)
        share = (high - low) / (before[2] - before[0])
        figures[name] = {"median": float(median), "p16": float(low), "p84": float(high), "width_over_prior": float(share)}
    return figures
