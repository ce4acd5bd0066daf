"""Which galaxies the training simulations do not account for: a score per galaxy, and reasons in words.

Five statistics, each larger for less usual photometry:

- ``density``: minus the log density of the magnitudes given redshift and stated errors (see `PhotometryDensity`);
- ``noise``: log ratio of that density with five times the stated errors to it, by Neyman and Pearson's lemma the most powerful
  test for such errors, as far as the density is right;
- ``errors``: how far the stated errors are from those usual at their observed magnitudes, the largest over the bands;
- ``stars``: log ratio of the density of stars (see `star_density`) to that of galaxies, the most powerful test for stars;
- ``fit``: χ² of the photometry that posterior samples predict, the mean over their best tenth.

Where posterior samples know the evidence, it is the density of galaxies in ``density`` and ``stars``, which is exact; elsewhere
a mixture of Gaussians is.

Each becomes the probability of a value at least as large among mocks. Their weighted harmonic mean is the one statistic of all
(Wilson 2019, PNAS 116, 1195: nearly the Bayes factor for any of the alternatives, by their weights), and the score is the
probability among mocks of one at least as small. So a threshold on the score is the false-alarm rate of all tests together, as
far as the mocks resolve it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sedcast.data.asinh import asinh_flux, asinh_magnitude, asinh_magnitude_error
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.sdss import SDSS_BANDS
from sedcast.posterior.photometry_density import PhotometryDensity
from sedcast.posterior.stars import star_density

__all__ = [
    "FALSE_ALARM_RATE",
    "MISFIT_SAMPLES",
    "SCORE_VERSION",
    "STATISTICS",
    "OutlierModel",
    "OutlierScores",
    "PhotometryChecks",
    "SampleChecks",
    "misfit",
]

STATISTICS = ("density", "noise", "errors", "stars", "fit")
"""Names of the statistics, the order of their columns."""

FALSE_ALARM_RATE = 0.01
"""Share of galaxies like the training simulations that are flagged."""

SCORE_VERSION = 3
"""Of what the statistics are; a score of another version is not used."""

MISFIT_SAMPLES = 64
"""Posterior samples per galaxy that `misfit` takes."""

UNDERSTATEMENT = 5.0
_WEIGHTS = np.array([1.0, 1.0, 1.0, 3.0, 1.0])
"""Of the statistics. Stars are the hardest to tell, and what else their test could do is done by the others as well."""
_BEST_SHARE = 0.1
# In σ: nearer to what is expected, a secant is all rounding.
_RESOLVED = 0.01
_LEVELS = 96
# Errors are told from usual ones by the very mocks that the thresholds are of: of few, the scatter would be too small.
_ERROR_BINS, _IN_BIN, _LEAST_IN_BIN = 40, 100, 10
_MIN_PER_PATTERN = 500
_MIN_PER_COUNT = 500
_MIN_PER_STATISTIC = 100
_ARRAYS = ("error_magnitude", "error_median", "error_scatter", "patterns", "quantiles", "combined", "least")


def misfit(predicted: np.ndarray, flux: np.ndarray, flux_ivar: np.ndarray) -> np.ndarray:
    """The statistic ``fit``: mean χ² of the best tenth of posterior samples, (n,); infinite where none is finite.

    Parameters
    ----------
    predicted : (n, n_samples, n_band) noiseless fluxes of posterior samples, nanomaggies.
    flux, flux_ivar : (n, n_band) observed; bands with flux_ivar 0 do not count.
    """
    chi2 = (np.square(predicted - flux[:, None]) * flux_ivar[:, None]).sum(axis=2)
    chi2 = np.sort(np.where(np.isfinite(chi2), chi2, np.inf), axis=1)
    return np.asarray(chi2[:, : max(1, round(_BEST_SHARE * chi2.shape[1]))].mean(axis=1))


class SampleChecks(NamedTuple):
    """What posterior samples say about rows; NaN where they do not.

    Attributes
    ----------
    misfit : (n,) from the function of that name.
    log_evidence : (n,) as `PosteriorDraws`, nats, fluxes in nanomaggies.
    """

    misfit: np.ndarray
    log_evidence: np.ndarray


@dataclass(frozen=True)
class PhotometryChecks:
    """What photometry alone says about rows.

    Attributes
    ----------
    measured : (n, n_band) bool.
    values : (n, 4) the statistics but ``fit``; NaN where they say nothing (``stars`` with less than two of u g r i z).
    oddest : (n,) the band that fits least to the others, -1 if there is no other.
    bright : (n,) bool, whether it is brighter than they suggest.
    log_prob_inflated : (n,) log density if the errors were five times as large.
    error_sign : (n,) -1 or 1: the most unusual error is too small or too large.
    log_slope : (n,) log of the volume of fluxes, nanomaggies, per volume of magnitudes.
    """

    measured: np.ndarray
    values: np.ndarray
    oddest: np.ndarray
    bright: np.ndarray
    log_prob_inflated: np.ndarray
    error_sign: np.ndarray
    log_slope: np.ndarray

    def with_samples(self, samples: SampleChecks | None) -> np.ndarray:
        """All statistics (n, 5), with the evidence as the density of galaxies where it is known."""
        values = np.column_stack([self.values, np.full(len(self.values), np.nan)])
        if samples is None:
            return values
        density, stars, fit = (STATISTICS.index(name) for name in ("density", "stars", "fit"))
        values[:, fit] = samples.misfit
        known = np.isfinite(samples.log_evidence) & ~np.isnan(samples.misfit)
        exact = -(samples.log_evidence + self.log_slope)[known]
        # What other bands add to the ratio of u g r i z stays that of the mixture.
        values[known, stars] += exact - values[known, density]
        values[known, density] = exact
        return values


@dataclass(frozen=True)
class OutlierScores:
    """Scores and reasons of rows.

    Attributes
    ----------
    score : (n,) share of galaxies like the training simulations that are at least as unusual, in (0, 1].
    flags : (n,) str, reasons separated by "; " where the score is at most `FALSE_ALARM_RATE`, else "".
    """

    score: np.ndarray
    flags: np.ndarray


@dataclass(frozen=True)
class OutlierModel:
    """What is usual among the training simulations; `fit_outliers` makes one for an estimator.

    Attributes
    ----------
    bands : band names.
    softening : (n_band,) of the asinh magnitudes, nanomaggies; stars are known by the usual ones of u g r i z.
    density : of noiseless photometry.
    error_magnitude : (n_band, n_bin) asinh magnitudes at which usual errors are known.
    error_median, error_scatter : (n_band, n_bin) mean and standard deviation of the log magnitude error there.
    patterns : (n_pattern, n_band) bool, sets of measured bands with a calibration of their own.
    quantiles : (n_pattern + n_band, 2, 5, n_level) upper quantiles of the statistics on mocks, without and with samples, at
        probabilities from 1 down to the least that the mocks resolve, even in their logarithm; after the patterns, by number of
        measured bands; NaN for statistics that say nothing.
    combined : (n_pattern + n_band, 2, n_level) lower quantiles, at the same probabilities, of the log of the harmonic mean of a
        mock's probabilities, likewise.
    least : (n_pattern + n_band,) the least probability of each calibration.
    """

    bands: tuple[str, ...]
    softening: np.ndarray
    density: PhotometryDensity
    error_magnitude: np.ndarray
    error_median: np.ndarray
    error_scatter: np.ndarray
    patterns: np.ndarray
    quantiles: np.ndarray
    combined: np.ndarray
    least: np.ndarray

    @classmethod
    def calibrated(
        cls,
        bands: tuple[str, ...],
        softening: np.ndarray,
        density: PhotometryDensity,
        *,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        zred: np.ndarray | None,
        samples: SampleChecks,
    ) -> "OutlierModel":
        """A model whose probabilities are those of mocks that were not used to fit the density.

        Parameters
        ----------
        bands : band names.
        softening : (n_band,) of the asinh magnitudes, nanomaggies.
        density : of noiseless photometry.
        flux, flux_ivar : (n, n_band) mocks; both 0 where unmeasured.
        zred : (n,), or None if redshifts are unknown.
        samples : what samples of their posteriors say.

        Raises
        ------
        ParameterError : if there are fewer than 500 mocks.
        """
        if len(flux) < _MIN_PER_COUNT:
            raise ParameterError(
                f"{len(flux)} mocks: expected {_MIN_PER_COUNT} at least, to know the rarest per cent; draw more"
            )
        errors = _usual_errors(bands, softening, flux, flux_ivar)
        measured = flux_ivar > 0
        found, counts = np.unique(measured, axis=0, return_counts=True)
        patterns = found[counts >= _MIN_PER_PATTERN]
        n_table = len(patterns) + len(bands)
        empty = np.zeros((n_table, 2, len(STATISTICS), _LEVELS)), np.zeros((n_table, 2, _LEVELS)), np.full(n_table, 0.5)
        model = cls(bands, softening, density, *errors, patterns, *empty)
        checks = model.check(flux, flux_ivar, zred)
        values = np.stack([checks.with_samples(None), checks.with_samples(samples)], axis=1)
        own = np.array([(measured == pattern).all(axis=1) for pattern in patterns]).reshape(-1, len(flux))
        for table in range(n_table):
            if table < len(patterns):
                choices = [own[table]]
            else:
                as_many = measured.sum(axis=1) == table - len(patterns) + 1
                # Sets of bands that have a table do not use this one, and would decide it.
                choices = [as_many & ~own.any(axis=0), as_many]
            choices.append(np.ones(len(flux), dtype=bool))
            model._calibrate(table, values[next(rows for rows in choices if rows.sum() >= _MIN_PER_COUNT)])
        return model

    def _calibrate(self, table: int, values: np.ndarray) -> None:
        """Fill a table from the statistics (n, 2, 5) of its mocks, without and with samples."""
        self.least[table] = 1 / (len(values) + 1)
        levels = np.exp(self._log_levels(table))
        for kind in range(2):
            for quantiles, column in zip(self.quantiles[table, kind], values[:, kind].T, strict=True):
                known = column[~np.isnan(column)]
                quantiles[:] = np.quantile(known, 1 - levels, method="higher") if len(known) >= _MIN_PER_STATISTIC else np.nan
            log_p = self._log_probabilities(np.full(len(values), table), np.full(len(values), kind), values[:, kind])
            self.combined[table, kind] = np.quantile(_harmonic_mean(log_p), levels)

    def _log_levels(self, table: int) -> np.ndarray:
        return np.linspace(0.0, np.log(self.least[table]), _LEVELS)

    # Of photometry far beyond any real one, squares and exponentials overflow: statistics that are not known are not judged.
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def check(self, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray | None) -> PhotometryChecks:
        """What photometry alone says; flux, flux_ivar (n, n_band), both 0 where unmeasured, and zred (n,), None if unknown."""
        measured = flux_ivar > 0
        sigma = np.where(measured, flux_ivar, np.nan) ** -0.5
        magnitude = np.where(measured, asinh_magnitude(flux, self.softening), np.nan)
        error = asinh_magnitude_error(flux, sigma, self.softening)
        expected = self.density.expected(magnitude, error, zred)
        flux_away = np.abs(flux - asinh_flux(expected, self.softening))
        # With these, magnitudes are as far from what the other bands let expect as fluxes are. The error at the observed
        # flux is wide enough for anything where that flux is lost in its noise.
        secant = sigma * np.abs(magnitude - expected) / flux_away
        error_of_expected = np.where(flux_away > _RESOLVED * sigma, secant, error)
        seen = self.density.statistics(magnitude, error_of_expected, zred, inflation=UNDERSTATEMENT)
        deviation = np.zeros(measured.shape)
        for b in range(len(self.bands)):
            rows = measured[:, b]
            median, scatter = (
                np.interp(magnitude[rows, b], self.error_magnitude[b], table[b])
                for table in (self.error_median, self.error_scatter)
            )
            deviation[rows, b] = (np.log(error[rows, b]) - median) / scatter
        worst = np.take_along_axis(deviation, np.abs(deviation).argmax(axis=1)[:, None], axis=1)[:, 0]
        tail = np.where(np.isnan(seen.tail), np.inf, seen.tail)
        oddest = np.where(measured.sum(axis=1) > 1, tail.argmin(axis=1), -1)
        bright = seen.bright[np.arange(len(flux)), oddest]
        stars = self._stars(magnitude, error_of_expected, zred, seen.log_prob)
        values = np.column_stack([-seen.log_prob, seen.log_prob_inflated - seen.log_prob, np.abs(worst), stars])
        log_slope = np.log(np.where(measured, sigma / error, 1.0)).sum(axis=1)
        return PhotometryChecks(measured, values, oddest, bright, seen.log_prob_inflated, np.sign(worst), log_slope)

    def _stars(self, magnitude: np.ndarray, error: np.ndarray, zred: np.ndarray | None, log_prob: np.ndarray) -> np.ndarray:
        """The statistic ``stars`` (n,) by the bands u g r i z; `log_prob` (n,) is that of galaxies in all bands."""
        optical_band = np.isin(self.bands, SDSS_BANDS)
        columns, others = np.flatnonzero(optical_band), np.flatnonzero(~optical_band)
        ratio = np.full(len(magnitude), np.nan)
        rows = np.flatnonzero(np.isfinite(magnitude[:, columns]).sum(axis=1) > 1)
        if not rows.size:
            return ratio
        optical = magnitude[np.ix_(rows, columns)], error[np.ix_(rows, columns)]
        ratio[rows] = star_density(tuple(self.bands[b] for b in columns)).log_prob(*optical, None) - log_prob[rows]
        beyond = rows[np.isfinite(magnitude[np.ix_(rows, others)]).any(axis=1)]
        if beyond.size:
            only = magnitude[beyond]
            only[:, others] = np.nan
            given = None if zred is None else zred[beyond]
            ratio[beyond] += log_prob[beyond] - self.density.log_prob(only, error[beyond], given)
        return ratio

    def judge(self, checks: PhotometryChecks, samples: SampleChecks | None = None) -> OutlierScores:
        """Scores and reasons.

        Parameters
        ----------
        checks : from `check`.
        samples : of the same rows.
        """
        n = len(checks.values)
        table, values = self._table(checks.measured), checks.with_samples(samples)
        kind = (~np.isnan(values[:, STATISTICS.index("fit")])).astype(int)
        log_p = self._log_probabilities(table, kind, values)
        mean = _harmonic_mean(log_p)
        score, limit = np.ones(n), np.empty(n)
        for t, k in np.unique(np.column_stack([table, kind]), axis=0):
            rows = (table == t) & (kind == k)
            levels, quantiles = self._log_levels(t)[::-1], self.combined[t, k][::-1]
            score[rows] = np.exp(np.interp(mean[rows], quantiles, levels))
            limit[rows] = np.interp(np.log(FALSE_ALARM_RATE), levels, quantiles)
        return OutlierScores(score, self._reasons(checks, table, log_p, limit, score <= FALSE_ALARM_RATE))

    def _reasons(
        self, checks: PhotometryChecks, table: np.ndarray, log_p: np.ndarray, limit: np.ndarray, flagged: np.ndarray
    ) -> np.ndarray:
        reasons = np.full(len(table), "", dtype=object)
        share = np.log(_WEIGHTS / np.where(np.isnan(log_p), 0.0, _WEIGHTS).sum(axis=1, keepdims=True)) - log_p
        with np.errstate(invalid="ignore"):
            # Flagged whatever the others say, or what says most.
            unusual = (-share <= limit[:, None]) | (share == np.nanmax(share, axis=1, keepdims=True))
        for row in np.flatnonzero(flagged):
            density, noise, errors, stars, fit = unusual[row]
            words = []
            if density or noise:
                # With five times the errors the photometry would be as usual as 99% of the mocks are with theirs.
                rare = np.interp(np.log(FALSE_ALARM_RATE), *self._quantile_line(int(table[row]), "density"))
                if noise and -checks.log_prob_inflated[row] < rare:
                    words.append("errors understated?")
                else:
                    words.append("photometry unlike the training set")
                words += self._colour(checks.measured[row], int(checks.oddest[row]), bool(checks.bright[row]))
            if errors:
                too = "too noisy: errors larger" if checks.error_sign[row] > 0 else "errors understated? Smaller"
                words.append(f"{too} than usual at this brightness")
            if stars:
                words.append("colours of a star")
            if fit:
                words.append("bad fit")
            reasons[row] = "; ".join(words)
        return reasons.astype(str)

    def _colour(self, measured: np.ndarray, band: int, bright: bool) -> list[str]:
        """In which colour, or band, photometry is odd; the first and the last measured band decide one colour alone."""
        if band < 0:
            return []
        bands = np.flatnonzero(measured)
        name = self.bands[band]
        if band == bands[0]:
            return [f"too {'blue' if bright else 'red'} in {_difference(name, self.bands[bands[1]])}"]
        if band == bands[-1]:
            return [f"too {'red' if bright else 'blue'} in {_difference(self.bands[bands[-2]], name)}"]
        return [f"{name} too {'bright' if bright else 'faint'} beside the other bands"]

    def _quantile_line(self, table: int, statistic: str) -> tuple[np.ndarray, np.ndarray]:
        return self._log_levels(table)[::-1], self.quantiles[table, 0, STATISTICS.index(statistic)][::-1]

    def _table(self, measured: np.ndarray) -> np.ndarray:
        """Which calibration each row uses, (n,)."""
        table = len(self.patterns) + measured.sum(axis=1) - 1
        for k, pattern in enumerate(self.patterns):
            table[(measured == pattern).all(axis=1)] = k
        return np.asarray(table)

    def _log_probabilities(self, table: np.ndarray, kind: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Log probabilities (n, 5) that mocks reach the values, without (`kind` 0) or with samples (1); NaN where those are."""
        log_p = np.empty(values.shape)
        for t, k in np.unique(np.column_stack([table, kind]), axis=0):
            rows = (table == t) & (kind == k)
            for column, quantiles in enumerate(self.quantiles[t, k]):
                log_p[rows, column] = np.interp(values[rows, column], quantiles, self._log_levels(t))
        return log_p

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays by prefixed name, for an artifact."""
        named = {prefix + name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        return named | self.density.to_arrays(prefix + "density_")

    @classmethod
    def from_arrays(
        cls, bands: tuple[str, ...], softening: np.ndarray, arrays: Mapping[str, np.ndarray], prefix: str
    ) -> "OutlierModel":
        """The model that `to_arrays` described.

        Raises
        ------
        ArtifactError : if an array is missing or of the wrong shape.
        """
        try:
            found = {name: np.asarray(arrays[prefix + name]) for name in _ARRAYS}
        except KeyError as error:
            raise ArtifactError(f"array {error} of the outlier score is missing: the file is of another version") from error
        n_band, n_table = len(bands), len(found["patterns"]) + len(bands)
        shapes = {
            "error_median": found["error_magnitude"].shape,
            "error_scatter": found["error_magnitude"].shape,
            "quantiles": (n_table, 2, len(STATISTICS), _LEVELS),
            "combined": (n_table, 2, _LEVELS),
            "least": (n_table,),
        }
        wrong = [name for name, shape in shapes.items() if found[name].shape != shape]
        if wrong or found["error_magnitude"].shape[:1] != (n_band,) or found["patterns"].shape[1:] != (n_band,):
            raise ArtifactError(
                f"arrays of the outlier score do not fit {n_band} bands ({wrong}): the file is of another version"
            )
        return cls(bands, softening, PhotometryDensity.from_arrays(n_band, arrays, prefix + "density_"), **found)


def _difference(first: str, second: str) -> str:
    """The colour of two bands; names may have hyphens themselves, as ``lsst2023-z``."""
    return f"{first} - {second}" if "-" in first + second else f"{first}-{second}"


def _harmonic_mean(log_p: np.ndarray) -> np.ndarray:
    """Log of the weighted harmonic mean of probabilities (n, 5) given by their logarithms; NaN does not count."""
    weight = np.where(np.isnan(log_p), 0.0, _WEIGHTS)
    return np.asarray(np.log(weight.sum(axis=1)) - np.log(np.nansum(weight * np.exp(-log_p), axis=1)))


def _usual_errors(
    bands: tuple[str, ...], softening: np.ndarray, flux: np.ndarray, flux_ivar: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and scatter of the log magnitude error in bins of observed magnitude, (n_band, n_bin) each, after the magnitudes."""
    tables = np.empty((3, len(bands), _ERROR_BINS))
    for b, band in enumerate(bands):
        rows = flux_ivar[:, b] > 0
        if rows.sum() < _LEAST_IN_BIN:
            raise ParameterError(
                f"{rows.sum()} of {len(flux)} mocks are measured in {band}, expected {_LEAST_IN_BIN} at least: draw more, "
                "n_calibration in [outliers]"
            )
        magnitude = asinh_magnitude(flux[rows, b], softening[b])
        ln_error = np.log(asinh_magnitude_error(flux[rows, b], flux_ivar[rows, b] ** -0.5, softening[b]))
        n_bin = max(1, min(_ERROR_BINS, len(magnitude) // _IN_BIN))
        for k, members in enumerate(np.array_split(np.argsort(magnitude), n_bin)):
            middle = magnitude[members].mean()
            slope, level = np.polyfit(magnitude[members] - middle, ln_error[members], 1)
            residual = ln_error[members] - level - slope * (magnitude[members] - middle)
            tables[:, b, k] = middle, level, residual.std()
        tables[:, b, n_bin:] = tables[:, b, n_bin - 1 : n_bin]
    return tables[0], tables[1], tables[2]
