"""Coordinates in which an ensemble sampler moves: probit space, with the mass traded for the model's signal-to-noise ratio.

Dust, age and burst change a galaxy's brightness by factors, while the photometry fixes it to per cent. So in probit space
the posterior is a thin curved sheet, on which ensemble moves are accepted one time in a hundred. Fluxes are proportional
to the mass; with log10 of the model's total signal-to-noise ratio in the mass's place the sheet is flat, and chains of
SDSS-like photometry decorrelate several times faster. The posterior stays the same: at fixed other parameters the map is a
shift of log mass.
"""

from typing import Protocol

import numpy as np
from scipy.special import ndtr, ndtri

from sedcast.posterior.likelihood import UNBOUNDED_LIMIT, GaussianLikelihood

__all__ = ["Coordinates", "ProbitCoordinates", "SignalCoordinates", "choose_coordinates"]

_TEST_POINTS = 32
_TEST_DEX = 0.3
_PROPORTIONAL = 1e-4
_HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)


class Coordinates(Protocol):
    """A bijection of probit space, and the posterior density in it."""

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log posterior density at y (n, 11), up to the evidence, (n,)."""
        ...

    def encode(self, theta_unbounded: np.ndarray) -> np.ndarray:
        """Coordinates (n, 11) of points of probit space (n, 11)."""
        ...

    def candidates(self, theta_unbounded: np.ndarray) -> np.ndarray:
        """Coordinates (n, 11) of start points: as `encode`, but made as bright as the galaxy where that is possible."""
        ...

    def decode(self, y: np.ndarray, log_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points of probit space (n, 11) and log posterior densities there (n,)."""
        ...


class ProbitCoordinates:
    """Probit space itself, for any simulator."""

    def __init__(self, likelihood: GaussianLikelihood) -> None:
        self.log_prob = likelihood.log_posterior_unbounded

    def encode(self, theta_unbounded: np.ndarray) -> np.ndarray:  # noqa: D102
        return theta_unbounded

    def candidates(self, theta_unbounded: np.ndarray) -> np.ndarray:  # noqa: D102
        return theta_unbounded

    def decode(self, y: np.ndarray, log_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        return y, log_prob


class SignalCoordinates:
    """Probit space with log10 of the model's total signal-to-noise ratio in the place of the mass's coordinate.

    The simulator's fluxes must be proportional to the mass.
    """

    def __init__(self, likelihood: GaussianLikelihood) -> None:
        self.likelihood = likelihood
        self._low, self._high = likelihood.prior.log_mstar

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log posterior density, where log mass is uniform within its prior: likelihood times the prior of the others."""
        y = np.atleast_2d(np.asarray(y, dtype=float))
        result = np.full(len(y), -np.inf)
        inside = (np.abs(y[:, 1:]) <= UNBOUNDED_LIMIT).all(axis=1) & np.isfinite(y[:, 0])
        if not inside.any():
            return result
        unit, flux = self._model(y[inside])
        log_prob = self.likelihood.log_prob_flux(flux) + self.likelihood.prior.log_prob_unbounded(y[inside, 1:])
        result[inside] = np.where(_within(unit), log_prob, -np.inf)
        return result

    def encode(self, theta_unbounded: np.ndarray) -> np.ndarray:  # noqa: D102
        model = self.likelihood.model_flux(self.likelihood.prior.from_unbounded(theta_unbounded))
        y = np.array(theta_unbounded, dtype=float)
        y[:, 0] = np.log10(self.likelihood.signal_to_noise(model))
        return y

    def candidates(self, theta_unbounded: np.ndarray) -> np.ndarray:  # noqa: D102
        y = np.array(theta_unbounded, dtype=float)
        signal = max(self.likelihood.observed_signal_to_noise, 1.0)
        # An ensemble never leaves the plane that its walkers share, so the start points keep a spread.
        y[:, 0] = np.log10(signal) + y[:, 0] / (signal * np.log(10))
        return y

    def decode(self, y: np.ndarray, log_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        x = np.array(y, dtype=float)
        x[:, 0] = ndtri(self._model(x)[0])
        return x, log_prob - 0.5 * x[:, 0] ** 2 - _HALF_LOG_2PI

    def _model(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prior CDF of log mass (n,) and model fluxes (n, n_measured) at y, from fluxes at the middle of the mass's range."""
        x = np.array(y)
        x[:, 0] = 0.0
        flux = self.likelihood.model_flux(self.likelihood.prior.from_unbounded(x))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shift = y[:, 0] - np.log10(self.likelihood.signal_to_noise(flux))
            return 0.5 + shift / (self._high - self._low), flux * 10 ** shift[:, None]


def choose_coordinates(likelihood: GaussianLikelihood, theta_unbounded: np.ndarray) -> Coordinates:
    """`SignalCoordinates` if fluxes at some of the points (n, 11) are proportional to the mass, else `ProbitCoordinates`."""
    prior = likelihood.prior
    theta = prior.from_unbounded(theta_unbounded[:_TEST_POINTS])
    low, high = prior.log_mstar
    heavier = theta.copy()
    heavier[:, 0] = np.clip(theta[:, 0] + _TEST_DEX, low, high)
    light = likelihood.model_flux(theta) * 10 ** (heavier[:, :1] - theta[:, :1])
    heavy = likelihood.model_flux(heavier)
    known = np.isfinite(light).all(axis=1) & np.isfinite(heavy).all(axis=1)
    proportional = known.any() and np.allclose(heavy[known], light[known], rtol=_PROPORTIONAL, atol=0)
    return SignalCoordinates(likelihood) if proportional else ProbitCoordinates(likelihood)


def _within(unit: np.ndarray) -> np.ndarray:
    return (unit >= ndtr(-UNBOUNDED_LIMIT)) & (unit <= ndtr(UNBOUNDED_LIMIT))
