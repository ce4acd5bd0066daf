"""Does the outlier score tell what the training simulations do not account for? Real galaxies, and planted cases."""

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note, positive, table
from sedcast.data.asinh import asinh_magnitude, asinh_magnitude_error
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.filters import FilterProjection
from sedcast.data.sdss import SDSS_BANDS
from sedcast.emulator.simulation import PhotometrySimulator, noise_model
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.outlier_training import (
    OutlierConfig,
    draw_like_training,
    fit_outliers,
    sample_checks,
    training_simulation,
    training_simulator,
)
from sedcast.posterior.outliers import FALSE_ALARM_RATE, UNDERSTATEMENT, OutlierScores
from sedcast.posterior.stars import LOCUS_RANGE, LOCUS_SCATTER, star_density, stellar_locus
from sedcast.posterior.stream import Galaxies

_BAR = 0.95
_STAR_ZRED = 1e-4
_MOST = 1e30
_STAR_COLOURS = ((0.3, 0.8), (0.8, 1.4), (1.4, 2.0), (2.0, 3.5))
_WAVE = np.arange(1000.0, 12_500.0, 5.0)
_HC_OVER_K = 1.438777e8
"""Planck's constant times the speed of light over Boltzmann's constant, Å K."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="bundled", help="artifact of a posterior, or 'bundled'")
    parser.add_argument("--mocks", type=positive, default=10_000, help="fresh mocks, to measure the false alarms")
    parser.add_argument("--cases", type=positive, default=2_000, help="galaxies of each planted case")
    parser.add_argument(
        "--fit-mocks", type=positive, default=40_000, help="simulations to fit a score with, if the model has none"
    )
    parser.add_argument("--refit", action="store_true", help="fit the score anew, whether the model has one or not")
    parser.add_argument(
        "--bound",
        action="store_true",
        help="also what a classifier finds that is trained on the very cases (scikit-learn), and the likelihood ratio of stars",
    )
    parser.add_argument("--save", type=Path, help="write the posterior with the score that was fitted")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """False alarms on fresh mocks, shares flagged of the planted cases and of the real sample."""
    estimator = PosteriorEstimator.find(options.model)
    figures: dict[str, Any] = {"model": estimator.name, "false_alarm_rate": FALSE_ALARM_RATE}
    simulator = training_simulator(estimator)
    if estimator.outliers is None or options.refit:
        started = time.perf_counter()
        n = options.fit_mocks
        config = OutlierConfig(n_fit=n, n_calibration=n, seed=options.seed)
        estimator = fit_outliers(estimator, config, simulator=simulator)
        figures["fit_s"] = time.perf_counter() - started
    if options.save is not None:
        estimator.save(options.save, overwrite=True)
    mocks = draw_like_training(estimator, simulator, options.mocks, seed=options.seed + 1)
    started = time.perf_counter()
    fresh = _Judged(estimator, simulator, mocks)
    figures["seconds_per_10000"] = (time.perf_counter() - started) * 1e4 / len(mocks)
    figures["fresh_mocks_flagged"] = fresh.share
    figures["fresh_mocks_flagged_by_photometry_alone"] = fresh.share_alone
    rows = [("fresh mocks", *fresh.row())]
    figures["planted"] = {}
    bounds: dict[str, float] = {}
    for name, galaxies in planted(estimator, simulator, mocks, options.cases, options.seed):
        note(f"  {name}")
        case = _Judged(estimator, simulator, galaxies)
        figures["planted"][name] = case.share
        rows.append((name, *case.row()))
        if options.bound and case.share < _BAR:
            bounds[name] = classified(fresh, case, options.seed)
    if options.bound and not (estimator.infers_redshift or estimator.context.mask):
        stars = _stars(estimator, options.cases, np.random.default_rng([options.seed, 1]))[0]
        figures["stars_by_exact_ratio"] = by_exact_ratio(estimator, simulator, mocks, stars)
        note(f"  stars that the exact likelihood ratio finds: {figures['stars_by_exact_ratio']:.3f}")
    rows.append(("SDSS sample", *_real(estimator, simulator, figures)))
    table(("galaxies", "flagged", "photometry alone", "most common reason"), rows)
    if bounds:
        table(("case", "found by a classifier trained on it"), list(bounds.items()))
        figures["classified"] = bounds
    return figures


class _Judged:
    """Galaxies with their scores: `share` flagged, and the share flagged without samples' fit."""

    def __init__(self, estimator: PosteriorEstimator, simulator: PhotometrySimulator, galaxies: Galaxies) -> None:
        assert estimator.outliers is not None
        zred = None if estimator.infers_redshift else galaxies.zred
        checks = estimator.outliers.check(galaxies.flux, galaxies.flux_ivar, zred)
        samples = sample_checks(estimator, simulator, galaxies, seed=0)
        self.scores: OutlierScores = estimator.outliers.judge(checks, samples)
        magnitude = asinh_magnitude(galaxies.flux, estimator.context.softening)
        sigma = np.where(galaxies.flux_ivar > 0, galaxies.flux_ivar, np.nan) ** -0.5
        error = np.log(asinh_magnitude_error(galaxies.flux, sigma, estimator.context.softening))
        colour = -np.diff(magnitude, axis=1)
        statistics = checks.values, checks.with_samples(samples)
        # The misfit is infinite where no draw has a posterior.
        self.features = np.minimum(np.column_stack([magnitude, colour, error, galaxies.zred, *statistics]), _MOST)
        self.share = float(np.mean(self.scores.score <= FALSE_ALARM_RATE))
        self.share_alone = float(np.mean(estimator.outliers.judge(checks).score <= FALSE_ALARM_RATE))

    def reasons(self) -> dict[str, float]:
        """Shares of all galaxies by reason, the most common first."""
        counts = Counter(reason for row in self.scores.flags for reason in str(row).split("; ") if reason)
        return {reason: count / len(self.scores.flags) for reason, count in counts.most_common()}

    def row(self) -> tuple[float, float, str]:
        return self.share, self.share_alone, next(iter(self.reasons()), "")


def classified(mocks: _Judged, case: _Judged, seed: int) -> float:
    """Share of a case's second half that a classifier trained on the first half of both finds, at the false alarms of mocks."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    (mocks_first, mocks_second), (first, second) = (np.array_split(one.features, 2) for one in (mocks, case))
    classifier = HistGradientBoostingClassifier(max_iter=300, learning_rate=0.05, l2_regularization=1.0, random_state=seed)
    labels = np.repeat([0, 1], [len(mocks_first), len(first)])
    classifier.fit(np.concatenate([mocks_first, first]), labels)
    threshold = np.quantile(classifier.predict_proba(mocks_second)[:, 1], 1 - FALSE_ALARM_RATE)
    return float(np.mean(classifier.predict_proba(second)[:, 1] > threshold))


def by_exact_ratio(estimator: PosteriorEstimator, simulator: PhotometrySimulator, mocks: Galaxies, stars: Galaxies) -> float:
    """Share of stars found, at the false alarms of mocks, by the most powerful test of all, given only that they are stars.

    By Neyman and Pearson's lemma that is the ratio of the density of stars of any brightness to that of galaxies, the evidence.
    """

    def log_ratio(galaxies: Galaxies) -> np.ndarray:
        sigma = galaxies.flux_ivar**-0.5
        magnitude = asinh_magnitude(galaxies.flux, estimator.context.softening)
        error = asinh_magnitude_error(galaxies.flux, sigma, estimator.context.softening)
        # Both densities are of magnitudes.
        evidence = sample_checks(estimator, simulator, galaxies, seed=0).log_evidence
        # Where no draw has a posterior, no galaxy is like this.
        of_galaxies = np.where(np.isnan(evidence), -np.inf, evidence) + np.log(sigma / error).sum(axis=1)
        return np.asarray(star_density(estimator.bands).log_prob(magnitude, error, None) - of_galaxies)

    threshold = np.quantile(log_ratio(mocks), 1 - FALSE_ALARM_RATE)
    return float(np.mean(log_ratio(stars) > threshold))


def _real(estimator: PosteriorEstimator, simulator: PhotometrySimulator, figures: dict[str, Any]) -> tuple[float, float, str]:
    sample = load_sdss_sample(bands=estimator.bands).select(estimator.bands, ragged=estimator.context.mask)
    sample = sample.subset(estimator.status(sample).ok)
    nothing = np.empty((len(sample), 0))
    judged = _Judged(estimator, simulator, Galaxies(nothing, sample.flux, sample.flux_ivar, sample.zred))
    figures["real"] = {"galaxies": len(sample), "flagged": judged.share, "reasons": judged.reasons()}
    table(("reason, SDSS sample", "share"), list(figures["real"]["reasons"].items()))
    return judged.row()


def planted(
    estimator: PosteriorEstimator, simulator: PhotometrySimulator, mocks: Galaxies, n: int, seed: int
) -> Iterator[tuple[str, Galaxies]]:
    """Cases that the training simulations do not account for, made from mocks with every band."""
    rng = np.random.default_rng([seed, 1])
    complete = np.flatnonzero((mocks.flux_ivar > 0).all(axis=1))[:n]
    theta, flux, ivar, zred = (values[complete] for values in (mocks.theta_unbounded, mocks.flux, mocks.flux_ivar, mocks.zred))
    bands = estimator.bands

    def galaxies(new_flux: np.ndarray, new_ivar: np.ndarray) -> Galaxies:
        return Galaxies(theta, new_flux, new_ivar, zred)

    stars, colour = _stars(estimator, n, rng)
    yield "stars", stars
    for low, high in _STAR_COLOURS:
        rows = (colour > low) & (colour <= high)
        yield f"stars of g-i {low:g} … {high:g}", Galaxies(*(getattr(stars, column.name)[rows] for column in fields(Galaxies)))
    yield "black bodies", _black_bodies(estimator, n, rng)
    for one, other in (("u", "z"), ("g", "i"), ("u", "g"), ("r", "i"), ("i", "z")):
        order = list(range(len(bands)))
        a, b = bands.index(one), bands.index(other)
        order[a], order[b] = b, a
        yield f"{one} and {other} swapped", galaxies(flux[:, order], ivar[:, order])
    band = rng.integers(len(bands), size=len(zred))
    for factor in (10.0, 0.1):
        scale = np.where(np.arange(len(bands)) == band[:, None], factor, 1.0)
        yield f"flux × {factor:g} in one band", galaxies(flux * scale, ivar)
        yield f"flux and error × {factor:g} in one band", galaxies(flux * scale, ivar / scale**2)
    yield f"stated errors {UNDERSTATEMENT:g} times too small", galaxies(flux, ivar * UNDERSTATEMENT**2)
    noiseless = simulator.flux(estimator.prior.from_unbounded(theta.astype(float)), zred, n_threads=2)
    for factor in (3.0, UNDERSTATEMENT, 10.0):
        noisy = noiseless + factor * ivar**-0.5 * rng.standard_normal(flux.shape)
        yield f"noise {factor:g} times the stated errors", galaxies(noisy, ivar)


def _stars(estimator: PosteriorEstimator, n: int, rng: np.random.Generator) -> tuple[Galaxies, np.ndarray]:
    """Stars of the locus, g-i uniform in its range, and their g-i (n,); bands beyond u g r i z are unmeasured."""
    colour = rng.uniform(*LOCUS_RANGE, n)
    relative = stellar_locus(colour) + np.array(list(LOCUS_SCATTER.values())) * rng.standard_normal((n, 5))
    columns = [estimator.bands.index(band) for band in SDSS_BANDS]
    stars, rows = _observed(estimator, 10 ** (-0.4 * relative), columns, rng)
    return stars, colour[rows]


def _black_bodies(estimator: PosteriorEstimator, n: int, rng: np.random.Generator) -> Galaxies:
    """Black bodies of 3,500 … 10,000 K."""
    temperature = rng.uniform(3_500, 10_000, n)[:, None]
    spectra = 1e20 * _WAVE**-5.0 / np.expm1(_HC_OVER_K / (_WAVE * temperature))
    flux = FilterProjection(estimator.bands, _WAVE, 2 * _STAR_ZRED).flux(spectra, np.full(n, _STAR_ZRED))
    columns = np.arange(len(estimator.bands))
    return _observed(estimator, flux / flux[:, [estimator.bands.index("r")]], columns, rng)[0]


def _observed(
    estimator: PosteriorEstimator, relative: np.ndarray, columns: Sequence[int] | np.ndarray, rng: np.random.Generator
) -> tuple[Galaxies, np.ndarray]:
    """Fluxes relative to r (n, n_column) at r magnitudes 14.5 … 17.5, with galaxies' errors and random redshifts.

    Each is tried until its values lie in the training range, 100 times; the rows that came to be are returned as well.
    """
    bands, noise = estimator.bands, noise_model(training_simulation(estimator))
    measured = np.zeros((len(relative), len(bands)), dtype=bool)
    measured[:, columns] = True
    flux, sigma = np.zeros(measured.shape), np.full(measured.shape, np.inf)
    pending = np.arange(len(relative))
    for _ in range(100):
        true = np.ones((len(pending), len(bands)))
        brightness = 10 ** (-0.4 * (rng.uniform(14.5, 17.5, len(pending)) - 22.5))
        true[:, columns] = relative[pending] * brightness[:, None]
        observed, error, log_weight = noise.draw(true, rng, measured=measured[pending])
        kept = noise.accept(log_weight, rng) & noise.in_range(observed, error)
        flux[pending[kept]], sigma[pending[kept]] = observed[kept], error[kept]
        pending = pending[~kept]
        if not len(pending):
            break
    rows = np.setdiff1d(np.arange(len(relative)), pending)
    zred = rng.uniform(*estimator.zred_range, len(rows))
    return Galaxies(np.empty((len(rows), 0)), flux[rows], sigma[rows] ** -2.0, zred), rows
