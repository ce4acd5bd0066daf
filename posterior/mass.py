"""The posterior of a galaxy's mass at fixed other parameters, which is one-dimensional and needs no more models."""

from functools import cached_property

import numpy as np
from numpy.polynomial.legendre import leggauss

from sedcast.data.errors import ParameterError
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.tabulated import TabulatedDensity

__all__ = ["MassConditional", "check_proportional"]

_LN10 = float(np.log(10.0))
_LN_LN10 = float(np.log(_LN10))
# Beyond so many standard deviations the integrand is 2e-16 of its maximum.
_REACH = 8.5
# A detection above it has no weight worth keeping below amplitude _FAINT, or that share of a smaller best one.
_DETECTED, _FAINT = 6.0, 0.05
_NODES, _WEIGHTS = leggauss(96)
_N_NODE = 256
_TEST_DEX = 0.3
_PROPORTIONAL = 1e-4


class MassConditional:
    """p(log mass | other parameters, fluxes) of many galaxies, or of one with many parameter vectors.

    Model fluxes are proportional to the mass and its prior is uniform in log mass. With t the model's total signal-to-noise
    ratio, the likelihood is exp(t K - t²/2) up to its value at zero flux, where K is the matched filter's; so the integral over
    log mass, and draws from it, are sums over a grid in ln t.

    Parameters
    ----------
    peak : (n,) the matched filter's signal-to-noise ratio K.
    ln_signal : (n,) natural logarithm of the model's t per solar mass.
    log_mstar : the prior's range.
    at_zero : log likelihood of zero flux.
    n_node : of the grid for draws.

    Attributes
    ----------
    possible : (n,) bool, whether some mass of the prior will do.
    """

    def __init__(
        self,
        peak: np.ndarray,
        ln_signal: np.ndarray,
        log_mstar: tuple[float, float],
        *,
        at_zero: float = 0.0,
        n_node: int = _N_NODE,
    ) -> None:
        low, high = (end * _LN10 for end in log_mstar)
        self._ln_width, self._at_zero, self._n_node = high - low, at_zero, n_node
        with np.errstate(all="ignore"):
            self._ln_signal, self._peak = ln_signal, peak
            lower, upper = ln_signal + low, ln_signal + high
            best = np.clip(peak, np.exp(lower), np.exp(upper))
            # From a peak within the prior's range the integrand falls off as a Gaussian, from an edge far off the peak as an
            # exponential: (beyond + reach)² = beyond² + _REACH².
            beyond = np.abs(peak - best)
            reach = _REACH**2 / (beyond + np.hypot(beyond, _REACH))
            detected = best * (peak - 0.5 * best) > 0.5 * _DETECTED**2
            faintest = np.log(np.maximum(best - reach, _FAINT * np.minimum(best, 1.0)))
            self._lower = np.maximum(lower, np.where(detected, faintest, -np.inf))
            self._upper = np.minimum(upper, np.log(best + reach))
            known = np.isfinite(peak) & np.isfinite(ln_signal)
        self.possible = known & (self._upper > self._lower)

    @classmethod
    def of(cls, likelihood: GaussianLikelihood, model: np.ndarray, log_mstar: np.ndarray) -> "MassConditional":
        """That of one galaxy.

        Parameters
        ----------
        likelihood : of the galaxy.
        model : (n, n_measured) model fluxes, nanomaggies, from `GaussianLikelihood.model_flux`.
        log_mstar : (n,) log10 masses that they were computed at.
        """
        with np.errstate(all="ignore"):
            signal = likelihood.signal_to_noise(model)
            at_zero = float(likelihood.log_prob_flux(np.zeros((1, model.shape[1])))[0])
            peak = (likelihood.log_prob_flux(model) - at_zero) / signal + 0.5 * signal
            return cls(peak, np.log(signal) - log_mstar * _LN10, likelihood.prior.log_mstar, at_zero=at_zero)

    def log_evidence(self) -> np.ndarray:
        """Log of the likelihood averaged over the prior of log mass, (n,); -inf where no mass of the prior will do."""
        result = np.full(len(self._peak), -np.inf)
        rows = self.possible
        peak, half = self._peak[rows], 0.5 * (self._upper - self._lower)[rows]
        exponent = np.exp(self._lower[rows, None] + half[:, None] * (_NODES + 1))
        exponent -= peak[:, None]
        exponent *= -0.5 * exponent
        highest = exponent.max(axis=1)
        integral = np.exp(exponent - highest[:, None]) @ _WEIGHTS * half
        result[rows] = self._at_zero + 0.5 * peak**2 + highest + np.log(integral / self._ln_width)
        return result

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One log10 mass for each parameter vector, (n,), inside the prior; NaN where not `possible`."""
        return self.quantile(rng.random(len(self._peak)))

    def quantile(self, p: np.ndarray) -> np.ndarray:
        """The log10 masses (n,) below which the shares p (n,) of the densities lie; NaN where not `possible`."""
        result = np.full(len(self._peak), np.nan)
        rows = self.possible
        result[rows] = (self._density.quantile(p[rows]) - self._ln_signal[rows]) / _LN10
        return result

    def log_density(self, log_mstar: np.ndarray) -> np.ndarray:
        """Log of the density of log10 mass, per dex, that `quantile` draws from, at masses (n,); NaN where not `possible`."""
        result = np.full(len(self._peak), np.nan)
        rows = self.possible
        result[rows] = self._density.log_density(log_mstar[rows] * _LN10 + self._ln_signal[rows]) + _LN_LN10
        return result

    @cached_property
    def _density(self) -> TabulatedDensity:
        """In ln t, of the possible ones."""
        rows = self.possible
        lower, upper = self._lower[rows], self._upper[rows]
        exponent = lower[:, None] + (upper - lower)[:, None] * np.linspace(0, 1, self._n_node, dtype=lower.dtype)
        np.exp(exponent, out=exponent)
        exponent -= self._peak[rows, None]
        exponent *= -0.5 * exponent
        exponent -= exponent.max(axis=1, keepdims=True)
        return TabulatedDensity(lower, upper, np.exp(exponent, out=exponent))


def check_proportional(likelihood: GaussianLikelihood, theta: np.ndarray, model: np.ndarray) -> None:
    """Refuse a simulator whose fluxes are not proportional to the mass.

    Parameters
    ----------
    likelihood : of the galaxy.
    theta : (n, 12) a few parameter vectors.
    model : (n, n_measured) their fluxes.

    Raises
    ------
    ParameterError : if other masses give fluxes that differ from proportional ones by more than 1e-4.
    """
    low, high = likelihood.prior.log_mstar
    other = theta.copy()
    other[:, 0] = np.where(theta[:, 0] + _TEST_DEX <= high, theta[:, 0] + _TEST_DEX, 0.5 * (theta[:, 0] + low))
    expected = model * 10 ** (other[:, :1] - theta[:, :1])
    # Total signals are compared, since single bands behind much dust are down to where float32 loses its digits.
    known = np.isfinite(expected).all(axis=1)
    difference = likelihood.signal_to_noise(likelihood.model_flux(other)[known] - expected[known])
    if not (difference <= _PROPORTIONAL * likelihood.signal_to_noise(expected[known])).all():
        raise ParameterError("the simulator's fluxes are not proportional to the mass, as refinement needs: run MCMC instead")
