"""Coordinates in which an ensemble sampler moves: probit space, with the mass traded for the model's signal-to-noise ratio.

Dust, age and burst change a galaxy's brightness by factors, while the photometry fixes it to per cent. So in probit space
the posterior is a thin curved sheet, on which ensemble moves are accepted one time in a hundred. Fluxes are proportional
to the mass; with log10 of the model's total signal-to-noise ratio in the mass's place the sheet is flat, and chains of
SDSS-like photometry decorrelate several times faster. The posterior stays the same: at fixed other parameters the map is a
shift of log mass.

With a trained flow there are better coordinates still: the flow's base noise, in which the posterior is close to a standard
normal (Hoffman et al. 2019, arXiv:1903.03704, "NeuTra"). A flow is a bijection, so that chains there have the exact posterior
as their limit, however poor the flow is; it only decides how soon.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from scipy.special import ndtr, ndtri

from sedcast.data.checks import check_kind, one_number
from sedcast.data.errors import ParameterError
from sedcast.data.units import as_nanomaggies
from sedcast.posterior.conditional_flow import ConditionalFlow
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow_kernel import MIN_SAMPLES
from sedcast.posterior.likelihood import UNBOUNDED_LIMIT, GaussianLikelihood

__all__ = [
    "Coordinates",
    "FlowCoordinates",
    "FlowMap",
    "FreeCoordinates",
    "ProbitCoordinates",
    "SignalCoordinates",
    "choose_coordinates",
    "log_standard_normal",
]

_TEST_POINTS = 32
_TEST_DEX = 0.3
_PROPORTIONAL = 1e-4
_HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)
_NOISE_LIMIT = 10.0


class Coordinates(Protocol):
    """A bijection of probit space, and the posterior density in it.

    Attributes
    ----------
    name : what they are, for the record.
    """

    name: str

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log posterior density at y (n, 11), up to the evidence, (n,)."""
        ...

    def decode(self, y: np.ndarray, log_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points of probit space (n, 11) and log posterior densities there (n,)."""
        ...


class FreeCoordinates(Coordinates, Protocol):
    """Coordinates that need no flow, into which points of probit space can be carried."""

    def encode(self, theta_unbounded: np.ndarray) -> np.ndarray:
        """Coordinates (n, 11) of points of probit space (n, 11)."""
        ...

    def candidates(self, theta_unbounded: np.ndarray) -> np.ndarray:
        """Coordinates (n, 11) of start points: as `encode`, but made as bright as the galaxy where that is possible."""
        ...


class ProbitCoordinates:
    """Probit space itself, for any simulator."""

    name = "probit"

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

    name = "signal-to-noise"

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


@dataclass(frozen=True)
class FlowMap:
    """A trained flow at one galaxy's photometry: the map from its base noise to probit space.

    Attributes
    ----------
    flow : density in probit space, 11 dimensions.
    context : (1, n_context) the galaxy's.
    """

    flow: ConditionalFlow
    context: np.ndarray

    @classmethod
    def at(cls, estimator: PosteriorEstimator, flux: np.ndarray, flux_ivar: np.ndarray, zred: float) -> Self:
        """The map of an estimator's flow.

        Parameters
        ----------
        estimator : for given redshifts.
        flux, flux_ivar : (n_band,) nanomaggies and nanomaggies^-2, or with units, in the estimator's bands.
        zred : redshift.

        Raises
        ------
        ParameterError : as `ContextTransform`; if the estimator infers the redshift.
        """
        check_kind("estimator", estimator, PosteriorEstimator, "such as PosteriorEstimator.default()")
        estimator.refuse_inferred_redshift("MCMC")
        flux, flux_ivar = as_nanomaggies(flux, flux_ivar)
        context = estimator.context(flux[None], flux_ivar[None], np.array([one_number("zred", zred)]))
        if not np.isfinite(context).all():
            raise ParameterError("the flow's context is not finite here: run MCMC without the flow")
        return cls(estimator.flow, context)

    def __call__(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points of probit space (n, 11) and the flow's log density there (n,), from finite base noise (n, 11)."""
        # A full tile costs the compiled kernel less than a few samples cost NumPy.
        padded = np.zeros((1, max(len(noise), MIN_SAMPLES), noise.shape[1]), dtype=np.float32)
        padded[0, : len(noise)] = noise
        theta, log_q = self.flow.transform_noise(padded, self.context, n_threads=1)
        return theta[0, : len(noise)].astype(float), log_q[0, : len(noise)]


class FlowCoordinates:
    """The base noise of a flow."""

    name = "flow"

    def __init__(self, likelihood: GaussianLikelihood, flow_map: FlowMap) -> None:
        self.likelihood, self.flow_map = likelihood, flow_map

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log posterior density: that of the point in probit space times the flow's Jacobian."""
        y = np.atleast_2d(np.asarray(y, dtype=float))
        result = np.full(len(y), -np.inf)
        inside = (np.abs(y) <= _NOISE_LIMIT).all(axis=1)
        if inside.any():
            x, log_q = self.flow_map(y[inside])
            log_jacobian = log_standard_normal(y[inside]) - log_q
            log_prob = self.likelihood.log_posterior_unbounded(x) + log_jacobian
            result[inside] = np.where(np.isfinite(log_jacobian), log_prob, -np.inf)
        return result

    def decode(self, y: np.ndarray, log_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        x, log_q = self.flow_map(y)
        return x, log_prob - log_standard_normal(y) + log_q


def log_standard_normal(y: np.ndarray) -> np.ndarray:
    """Log density of independent standard normals at y (n, dim), (n,)."""
    return np.asarray(-0.5 * np.sum(y**2, axis=1) - y.shape[1] * _HALF_LOG_2PI)


def choose_coordinates(likelihood: GaussianLikelihood, theta_unbounded: np.ndarray) -> FreeCoordinates:
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
