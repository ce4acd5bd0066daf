"""Galaxies as a survey observes them: masses within its reach, errors and noisy fluxes, kept as `NoiseModel` demands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sedcast.data.errors import ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.emulator.prior import Prior

__all__ = ["Observed", "masses_within_reach", "observe", "until_kept"]


@dataclass(frozen=True)
class Observed:
    """Galaxies that were kept.

    Attributes
    ----------
    rows : (n,) their places among those that were proposed.
    log_mstar : (n,) log10 of the mass formed, Msun.
    flux_true, flux, sigma : (n, n_band) nanomaggies; where a band is not measured, flux is 0 and sigma infinite.
    """

    rows: np.ndarray
    log_mstar: np.ndarray
    flux_true: np.ndarray
    flux: np.ndarray
    sigma: np.ndarray


def observe(
    unit_flux: np.ndarray, prior: Prior, noise: NoiseModel, rng: np.random.Generator, *, measured: np.ndarray | None = None
) -> Observed:
    """Try each galaxy once, with a mass of the prior's within reach: what is kept follows p(theta, x) for x within range.

    Noise follows `NoiseModel`: draws are kept by their weight and if their *observed* values lie in its range, which leaves
    p(theta | x) as it is.

    Parameters
    ----------
    unit_flux : (n, n_band) log10 of the noiseless flux per solar mass formed, nanomaggies; -inf where there is none.
    prior, noise : of the masses, and of the observation.
    measured : (n, n_band) bool, bands to be observed, which alone decide; all by default.
    """
    lightest, heaviest, probability = masses_within_reach(unit_flux, prior, noise, measured=measured)
    rows = np.flatnonzero(rng.random(len(unit_flux)) < probability)
    log_mstar = lightest[rows] + rng.random(len(rows)) * (heaviest - lightest)[rows]
    flux_true = 10 ** (unit_flux[rows] + log_mstar[:, None])
    flux, sigma, log_weight = noise.draw(flux_true, rng, measured=None if measured is None else measured[rows])
    kept = noise.accept(log_weight, rng) & noise.in_range(flux, sigma)
    return Observed(rows[kept], log_mstar[kept], flux_true[kept], flux[kept], sigma[kept])


def masses_within_reach(
    unit_flux: np.ndarray, prior: Prior, noise: NoiseModel, *, measured: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The log masses in the prior's range for which galaxies can be observed within the noise model's range.

    Flux is proportional to mass, whose prior is uniform in log mass and independent of the rest. So keeping a galaxy
    with probability (width of the log masses within reach in every measured band) / (largest such width) and drawing its
    log mass uniformly among them gives the joint prior, cut to what can be observed, at a fraction of the spectra.

    Parameters
    ----------
    unit_flux, prior, noise, measured : as for `observe`.

    Returns
    -------
    lightest, heaviest, probability : (n,) each; the last is that with which to keep a galaxy.
    """
    brightest, faintest = noise.reach()
    low, high = prior.log_mstar
    # A flux of zero has an infinite magnitude: no mass brings it within reach, unless that has no faint end.
    with np.errstate(invalid="ignore"):
        lightest = np.where(np.isinf(faintest), low, 9.0 - 0.4 * faintest - unit_flux)
    heaviest = 9.0 - 0.4 * brightest - unit_flux
    width = np.broadcast_to(0.4 * (faintest - brightest), unit_flux.shape)
    if measured is not None:
        lightest, heaviest = np.where(measured, lightest, low), np.where(measured, heaviest, high)
        width = np.where(measured, width, np.inf)
    least, greatest = np.clip(lightest.max(axis=1), low, high), np.clip(heaviest.min(axis=1), low, high)
    return least, greatest, (greatest - least) / np.minimum(width.min(axis=1), high - low)


def until_kept(
    columns: Sequence[np.ndarray],
    attempt: Callable[[np.ndarray], tuple[np.ndarray, Sequence[np.ndarray]]],
    *,
    most_tries: int,
) -> None:
    """Fill columns (n, …) row by row, each row tried anew until it is kept.

    Parameters
    ----------
    columns : arrays to be filled.
    attempt : is given the rows (m,) that are still wanted; returns which of these it kept, as places in 0 … m - 1, and
        their values for each column.
    most_tries : attempts after which to give up.

    Raises
    ------
    ParameterError : if rows are left then.
    """
    pending = np.arange(len(columns[0]))
    for _ in range(most_tries):
        kept, values = attempt(pending)
        for column, value in zip(columns, values, strict=True):
            column[pending[kept]] = value
        pending = np.delete(pending, kept)
        if not len(pending):
            return
    raise ParameterError(
        f"{len(pending)} of {len(columns[0])} galaxies were outside the noise model's range in {most_tries} tries: "
        "prior, redshifts and noise do not belong together"
    )
