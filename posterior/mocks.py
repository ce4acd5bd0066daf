"""Mock galaxies with known parameters, drawn as the training set was."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sedcast.data.checks import check_kind, check_memory, check_simulator, in_own_precision, whole_number
from sedcast.data.config import parse_config
from sedcast.data.errors import ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.data.threads import usable_cores
from sedcast.emulator.observing import observe, until_kept
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.emulator.simulation import FluxSimulator, noiseless_flux
from sedcast.posterior.estimator import PosteriorEstimator

__all__ = ["Mocks", "draw_mocks", "measured_bands"]

_MAX_TRIES = 1000
_ULTRAVIOLET = ("FUV", "NUV")


@dataclass(frozen=True)
class Mocks:
    """Mock galaxies with known parameters: theta (n, 12), theta_unbounded (n, 11), flux, flux_ivar (n, n_band), zred (n,)."""

    theta: np.ndarray
    theta_unbounded: np.ndarray
    flux: np.ndarray
    flux_ivar: np.ndarray
    zred: np.ndarray

    def __post_init__(self) -> None:
        shapes = {}
        for name in ("theta", "theta_unbounded", "flux", "flux_ivar", "zred"):
            values = in_own_precision(name, getattr(self, name))
            object.__setattr__(self, name, values)
            shapes[name] = values.shape
        if self.zred.ndim != 1 or self.flux.ndim != 2 or self.flux_ivar.shape != self.flux.shape:
            raise ParameterError(f"mocks have arrays of shapes {shapes}, expected flux and flux_ivar (n, n_band), zred (n,)")
        if len({shape[:1] for shape in shapes.values()}) != 1:
            raise ParameterError(f"mocks have arrays of shapes {shapes}: the first axis must be the same")

    def __len__(self) -> int:
        return len(self.zred)

    @property
    def signal_to_noise(self) -> np.ndarray:
        """Median signal-to-noise ratio over the measured bands, (n,)."""
        ratio = self.flux * np.sqrt(self.flux_ivar)
        return np.asarray(np.nanmedian(np.where(self.flux_ivar > 0, ratio, np.nan), axis=1))


def draw_mocks(
    n_mocks: int,
    simulator: FluxSimulator,
    estimator: PosteriorEstimator,
    noise: NoiseModel,
    *,
    seed: int,
    measured: np.ndarray | None = None,
) -> Mocks:
    """Draw mocks from the joint that the estimator was trained on; streams of random numbers are none of the training's.

    Which bands are measured is settled first, and each mock is tried anew until it is accepted by its measured bands, as in
    `GalaxyStream`; but every mock has a spectrum of its own.

    Parameters
    ----------
    n_mocks : how many.
    simulator, noise : of the estimator's bands, in their order.
    estimator : gives prior and redshifts.
    seed : of every random draw.
    measured : (n_mocks, n_band) bool, for an estimator that takes any subset of its bands; all by default.

    Raises
    ------
    ParameterError : if bands disagree, or the prior's galaxies are none that the noise model has.
    """
    n_mocks, seed = whole_number("n_mocks", n_mocks), whole_number("seed", seed, least=0)
    check_kind("estimator", estimator, PosteriorEstimator, "such as PosteriorEstimator.default()")
    check_kind("noise", noise, NoiseModel, "such as NoiseModel.sdss(bands=estimator.bands)")
    check_simulator(simulator, estimator.bands)
    check_memory(f"{n_mocks:,} mocks", n_mocks * 2 * len(PARAMETER_NAMES), n_bytes=8)
    if noise.bands != estimator.bands:
        raise ParameterError(f"noise has bands {noise.bands}, the estimator {estimator.bands}: they must agree")
    rng = np.random.default_rng([seed, 4])
    n_band = len(estimator.bands)
    measured = np.ones((n_mocks, n_band), dtype=bool) if measured is None else np.asarray(measured)
    if measured.shape != (n_mocks, n_band) or not np.isin(measured, (0, 1)).all() or not measured.any(axis=1).all():
        raise ParameterError(
            f"measured has shape {measured.shape}, expected {(n_mocks, n_band)} of true and false, a band of each mock at least"
        )
    measured = measured.astype(bool)
    theta, zred = np.empty((n_mocks, len(PARAMETER_NAMES))), np.empty(n_mocks)
    flux, sigma = np.empty((2, n_mocks, n_band))
    mass, redshifts = PARAMETER_NAMES.index("log_mstar"), _redshifts(estimator)

    def attempt(wanted: np.ndarray) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        tried, z = estimator.prior.sample(len(wanted), rng), redshifts.sample(len(wanted), rng)
        with np.errstate(divide="ignore"):
            unit_flux = np.log10(noiseless_flux(simulator, tried, z, n_threads=usable_cores())) - tried[:, mass, None]
        observed = observe(unit_flux, estimator.prior, noise, rng, measured=measured[wanted])
        tried = tried[observed.rows]
        tried[:, mass] = observed.log_mstar
        return observed.rows, (tried, z[observed.rows], observed.flux, observed.sigma)

    until_kept((theta, zred, flux, sigma), attempt, most_tries=_MAX_TRIES)
    return Mocks(theta, estimator.prior.to_unbounded(theta), flux, sigma**-2.0, zred)


def _redshifts(estimator: PosteriorEstimator) -> RedshiftPrior:
    """The distribution of the training set's redshifts; uniform over their range if the card does not tell it."""
    if estimator.redshift_prior is not None:
        return estimator.redshift_prior
    trained_on = (estimator.card.get("simulation") or {}).get("zred")
    if trained_on:
        return parse_config(trained_on, RedshiftPrior, f"redshifts of {estimator.name}")
    return RedshiftPrior(min=estimator.zred_range[0], max=estimator.zred_range[1])


def measured_bands(bands: tuple[str, ...], n: int, *, seed: int) -> dict[str, np.ndarray]:
    """Classes of measured bands to test an estimator on that takes any subset: which bands (n, n_band) each has of each mock.

    All bands; all without FUV and NUV, and without FUV alone, if the estimator has them; and for every mock a random
    non-empty subset, all subsets being equally probable. Which bands are measured does not depend on the mock's values.
    """
    every = np.array(bands)
    columns = {"all bands": np.full(len(bands), True)}
    for missing in (_ULTRAVIOLET, _ULTRAVIOLET[:1]):
        kept = ~np.isin(every, missing)
        if kept.any() and not any((kept == other).all() for other in columns.values()):
            columns[f"{' '.join(every[kept])} only"] = kept
    classes = {name: np.tile(kept, (n, 1)) for name, kept in columns.items()}
    subset = np.random.default_rng([seed, 3]).integers(1, 2 ** len(bands), n)
    return classes | {"random subsets": (subset[:, None] >> np.arange(len(bands))) % 2 == 1}
