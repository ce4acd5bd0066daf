"""Fitting, calibrating and applying the outlier score of a trained posterior, on fresh simulations; the flow stays as it is."""

import logging
from collections.abc import Callable

import numpy as np
from pydantic import Field, model_validator

from sedcast.data.asinh import asinh_magnitude
from sedcast.data.checks import check_kind
from sedcast.data.config import Config, parse_config
from sedcast.data.errors import ArtifactError, SedcastError
from sedcast.emulator.simulation import (
    FluxSimulator,
    PhotometrySimulator,
    SimulationConfig,
    default_simulator,
    noise_model,
    noiseless_flux,
)
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import thinned_rows
from sedcast.posterior.outliers import (
    FALSE_ALARM_RATE,
    MISFIT_SAMPLES,
    SCORE_VERSION,
    STATISTICS,
    OutlierModel,
    OutlierScores,
    SampleChecks,
    misfit,
)
from sedcast.posterior.photometry_density import PhotometryDensity
from sedcast.posterior.resampling import PosteriorDraws
from sedcast.posterior.stream import Galaxies, GalaxyStream, MissingBands, StreamConfig

__all__ = [
    "OutlierConfig",
    "OutlierScorer",
    "draw_like_training",
    "fit_outliers",
    "predict",
    "sample_checks",
    "training_simulation",
    "training_simulator",
    "warn_of_limits",
]

logger = logging.getLogger(__name__)

_ROWS_PER_BLOCK = 512
_SEED_STEP = 7_919
_BY_PHOTOMETRY = "outlier score by photometry alone, without the fit of samples"


class OutlierConfig(Config):
    """How an outlier score is fitted.

    Attributes
    ----------
    n_fit : simulations whose noiseless photometry the density is fitted to.
    n_calibration : mocks that thresholds are taken from.
    n_components : Gaussians of the density.
    seed : of everything random.
    """

    n_fit: int = Field(default=40_000, ge=100)
    n_calibration: int = Field(default=40_000, ge=500)
    n_components: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**64 // _SEED_STEP)

    @model_validator(mode="after")
    def _enough(self) -> "OutlierConfig":
        if self.n_fit < 10 * self.n_components:
            raise ValueError(f"n_fit={self.n_fit} is too few for n_components={self.n_components}: ten for each at least")
        return self


def training_simulation(estimator: PosteriorEstimator) -> SimulationConfig:
    """The configuration of the estimator's training simulations, from its card.

    Raises
    ------
    ArtifactError : if the card has none.
    ParameterError : if it is no estimator.
    ConfigError : if it is none that this sedcast knows.
    """
    check_kind("estimator", estimator, PosteriorEstimator, "such as PosteriorEstimator.default()")
    described = estimator.card.get("simulation")
    if not described:
        raise ArtifactError(f"the card of {estimator.name!r} does not say what it was trained on: train it again")
    return parse_config(described, SimulationConfig, f"simulation of {estimator.name}")


def training_simulator(estimator: PosteriorEstimator) -> PhotometrySimulator:
    """Noiseless photometry by the emulator that the estimator was trained with.

    Raises
    ------
    ArtifactError : if the card does not name it, it cannot be read, or another one is in its place now.
    """
    simulation = training_simulation(estimator)
    wanted = estimator.emulator_digest
    if estimator.card.get("provenance") and not wanted:
        raise ArtifactError(
            f"the card of {estimator.name!r}, which was trained in Python, names no emulator. On a model of one's own, do this "
            "in Python too, with that model; else give fit_posterior provenance={'emulator': {'sha256': the emulator's}}"
        )
    simulator = default_simulator(simulation)
    found = getattr(simulator.model, "card", {}).get("sha256")
    if wanted and found != wanted:
        raise ArtifactError(
            f"{estimator.name!r} was trained with an emulator of sha256 {wanted[:12]}…, but {simulation.emulator!r} is one of "
            f"{str(found)[:12]}… now: put the former back, or train the posterior again"
        )
    known, now = estimator.card.get("own_files") or {}, simulation.own_files()
    if changed := [name for name in now if known.get(name, now[name]) != now[name]]:
        what = "noise model" if changed[0] == "noise" else f"curve of {changed[0]}"
        raise ArtifactError(
            f"{estimator.name!r} was trained with another {what} than is in the file of that name now: put the former back, or "
            "train the posterior again"
        )
    return simulator


def draw_like_training(estimator: PosteriorEstimator, simulator: FluxSimulator, n: int, *, seed: int) -> Galaxies:
    """Fresh mocks with the training set's distribution, unmeasured bands included."""
    simulation = training_simulation(estimator).model_copy(update={"n_galaxies": n, "seed": seed})
    trained = (estimator.card.get("config") or {}).get("stream") or {}
    missing = MissingBands(**trained["missing"]) if trained.get("missing") else None
    config = StreamConfig(n_validation=n, missing=missing)
    with GalaxyStream(simulator, noise_model(simulation), simulation, config) as stream:
        return stream.validation()


def sample_checks(
    estimator: PosteriorEstimator,
    simulator: FluxSimulator,
    galaxies: Galaxies,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> SampleChecks:
    """What samples of galaxies' posteriors say about them; `progress` is called with the rows done."""
    found = SampleChecks(*np.empty((2, len(galaxies))))
    for start in range(0, len(galaxies), _ROWS_PER_BLOCK):
        rows = np.arange(start, min(start + _ROWS_PER_BLOCK, len(galaxies)))
        flux, ivar = galaxies.flux[rows], galaxies.flux_ivar[rows]
        zred = None if estimator.infers_redshift else galaxies.zred[rows]
        drawn = estimator.draw(flux, ivar, zred, MISFIT_SAMPLES, seed=seed, row_keys=rows)
        found.misfit[rows] = misfit(predict(estimator, simulator, drawn.points, zred), flux, ivar)
        found.log_evidence[rows] = drawn.log_evidence
        if progress is not None:
            progress(int(rows[-1]) + 1)
    return found


def predict(
    estimator: PosteriorEstimator,
    simulator: FluxSimulator,
    points: np.ndarray,
    zred: np.ndarray | None,
    *,
    n_threads: int = 2,
) -> np.ndarray:
    """Noiseless fluxes (n, n_samples, n_band) of probit-space samples (n, n_samples, dim); NaN for those not finite."""
    finite = np.isfinite(points).all(axis=2)
    points = np.where(finite[..., None], points, 0.0)
    theta, redshifts = estimator.to_theta(points, n_threads=n_threads), estimator.redshifts(points, zred)
    flux = noiseless_flux(simulator, theta.reshape(-1, theta.shape[-1]), redshifts.ravel(), n_threads=n_threads)
    return np.where(finite[..., None], flux.reshape(*points.shape[:2], -1), np.nan)


class OutlierScorer:
    """Scores rows of a catalogue by an estimator's outlier model and the photometry that its samples predict.

    Parameters
    ----------
    estimator : the trained posterior.

    Attributes
    ----------
    limits : what the scores leave out and why, "" if nothing.
    simulator : of the training; None where it is left out.
    """

    def __init__(self, estimator: PosteriorEstimator) -> None:
        self.estimator = estimator
        self.limits = ""
        self.simulator: PhotometrySimulator | None = None
        if estimator.outliers is None:
            self.limits = f"no outlier score: {estimator.name!r} was trained without one, `fit_outliers` adds it"
            return
        try:
            self.simulator = training_simulator(estimator)
        except (SedcastError, ValueError) as error:
            self.limits = f"{_BY_PHOTOMETRY}: {error}"

    def __call__(
        self,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        zred: np.ndarray | None,
        draws: PosteriorDraws | None,
        *,
        seed: int,
        row_keys: np.ndarray,
    ) -> OutlierScores:
        """Scores and reasons of rows, in one thread; NaN and "" if there is no outlier model.

        Parameters
        ----------
        flux, flux_ivar : (n, n_band).
        zred : (n,), or None if the estimator infers it.
        draws : of the estimator; drawn if there are none, or fewer than `misfit` takes.
        seed, row_keys : of samples that are drawn.
        """
        model = self.estimator.outliers
        if model is None or len(flux) == 0:
            return OutlierScores(np.full(len(flux), np.nan), np.full(len(flux), ""))
        checks = model.check(flux, flux_ivar, zred)
        if self.simulator is None:
            return model.judge(checks)
        if draws is None or draws.points.shape[1] < MISFIT_SAMPLES:
            draws = self.estimator.draw(flux, flux_ivar, zred, MISFIT_SAMPLES, seed=seed, row_keys=row_keys, n_threads=1)
        # Copies of a draw are beside each other.
        rows = thinned_rows(draws.points.shape[1], MISFIT_SAMPLES)
        # One galaxy at a time: rounding of a matrix product depends on what else is in it, and so would a score's last digits.
        predicted = [
            predict(self.estimator, self.simulator, points[None], None if zred is None else zred[row : row + 1], n_threads=1)
            for row, points in enumerate(draws.points[:, rows])
        ]
        return model.judge(checks, SampleChecks(misfit(np.concatenate(predicted), flux, flux_ivar), draws.log_evidence))


def warn_of_limits(limits: str) -> None:
    """Warn if `limits`, those of an `OutlierScorer`, are that something which the estimator was trained with is not there."""
    if limits.startswith(_BY_PHOTOMETRY):
        logger.warning("%s", limits)


def fit_outliers(
    estimator: PosteriorEstimator,
    config: OutlierConfig | None = None,
    *,
    simulator: FluxSimulator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PosteriorEstimator:
    """The same estimator with an outlier score, fitted and calibrated on fresh simulations; the flow stays as it is.

    Parameters
    ----------
    estimator : trained.
    config : sizes and seed.
    simulator : the noiseless photometry that it was trained on; that of its card by default.
    progress : called as (mocks sampled, mocks).

    Returns
    -------
    estimator : with `outliers`, and what it was fitted on in the card under ``outliers``.

    Raises
    ------
    ArtifactError : if the estimator's card does not tell what it was trained on.
    """
    config = OutlierConfig() if config is None else config
    check_kind("config", config, OutlierConfig, "such as OutlierConfig(seed=1)")
    simulator = simulator or training_simulator(estimator)
    seed = _SEED_STEP * (config.seed + 1)
    galaxies = draw_like_training(estimator, simulator, config.n_fit, seed=seed)
    theta = estimator.prior.from_unbounded(galaxies.theta_unbounded.astype(float))
    softening = np.array(estimator.context.softening)
    magnitude = asinh_magnitude(noiseless_flux(simulator, theta, galaxies.zred, n_threads=2), softening)
    density = PhotometryDensity.fit(magnitude, galaxies.zred, n_components=config.n_components, seed=seed)
    mocks = draw_like_training(estimator, simulator, config.n_calibration, seed=seed + 1)

    def report(done: int) -> None:
        if progress is not None:
            progress(done, len(mocks))

    samples = sample_checks(estimator, simulator, mocks, seed=seed, progress=report)
    zred = None if estimator.infers_redshift else mocks.zred
    model = OutlierModel.calibrated(
        estimator.bands, softening, density, flux=mocks.flux, flux_ivar=mocks.flux_ivar, zred=zred, samples=samples
    )
    described = config.model_dump() | {"false_alarm_rate": FALSE_ALARM_RATE, "misfit_samples": MISFIT_SAMPLES}
    described |= {"statistics": list(STATISTICS), "version": SCORE_VERSION}
    logger.info("outlier score of %s: %d Gaussians, %d mocks", estimator.name, config.n_components, len(mocks))
    return estimator.changed({"outliers": described}, outliers=model)
