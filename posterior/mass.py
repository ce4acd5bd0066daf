"""The posterior of one galaxy's mass at fixed other parameters, which is one-dimensional and needs no more models."""

import numpy as np
from numpy.polynomial.legendre import leggauss

from sedcast.data.errors import ParameterError
from sedcast.posterior.likelihood import GaussianLikelihood

__all__ = ["MassConditional", "check_proportional"]

_LN10 = np.log(10.0)
# Beyond so many standard deviations the integrand is 2e-16 of its maximum.
_REACH = 8.5
# A detection above it has no weight worth keeping below amplitude _FAINT, or that share of a smaller best one.
_DETECTED, _FAINT = 6.0, 0.05
_NODES, _WEIGHTS = leggauss(96)
_N_GRID = 256
_TEST_DEX = 0.3
_PROPORTIONAL = 1e-4


class MassConditional:
    """p(log mass | other parameters, fluxes) for many parameter vectors, from one model flux each.

    Model fluxes are proportional to the mass and its prior is uniform in log mass. With t the model's total signal-to-noise
    ratio, the likelihood is exp(t K - t²/2) up to its value at zero flux, where K is the matched filter's; so the integral over
    log mass, and draws from it, are sums over a grid in ln t.

    Parameters
    ----------
    likelihood : of the galaxy.
    model : (n, n_measured) model fluxes, nanomaggies, from `GaussianLikelihood.model_flux`.
    log_mstar : (n,) log10 masses that they were computed at.
    """

    def __init__(self, likelihood: GaussianLikelihood, model: np.ndarray, log_mstar: np.ndarray) -> None:
        low, high = likelihood.prior.log_mstar
        self._ln_width = (high - low) * _LN10
        self._at_zero = float(likelihood.log_prob_flux(np.zeros((1, model.shape[1])))[0])
        with np.errstate(all="ignore"):
            signal = likelihood.signal_to_noise(model)
            peak = (likelihood.log_prob_flux(model) - self._at_zero) / signal + 0.5 * signal
            self._ln_signal = np.log(signal) - log_mstar * _LN10
            lower, upper = self._ln_signal + low * _LN10, self._ln_signal + high * _LN10
            best = np.clip(peak, np.exp(lower), np.exp(upper))
            # From a peak within the prior's range the integrand falls off as a Gaussian, from an edge far off the peak as an
            # exponential: (beyond + reach)² = beyond² + _REACH².
            beyond = np.abs(peak - best)
            reach = _REACH**2 / (beyond + np.hypot(beyond, _REACH))
            detected = best * (peak - 0.5 * best) > 0.5 * _DETECTED**2
            faintest = np.log(np.maximum(best - reach, _FAINT * np.minimum(best, 1.0)))
            self._lower = np.maximum(lower, np.where(detected, faintest, -np.inf))
            self._upper = np.minimum(upper, np.log(best + reach))
            self._peak = peak
            known = np.isfinite(peak) & np.isfinite(self._ln_signal)
        self.possible = known & (self._upper > self._lower)

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
        """One log10 mass for each parameter vector, (n,), inside the prior; NaN where `possible` is false."""
        result = np.full(len(self._peak), np.nan)
        rows = self.possible
        lower, upper = self._lower[rows], self._upper[rows]
        grid = lower[:, None] + (upper - lower)[:, None] * np.linspace(0, 1, _N_GRID)
        exponent = -0.5 * (np.exp(grid) - self._peak[rows, None]) ** 2
        density = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        mass = np.cumsum(0.5 * (density[:, 1:] + density[:, :-1]), axis=1)
        wanted = rng.random(len(mass)) * mass[:, -1]
        step = np.minimum((mass < wanted[:, None]).sum(axis=1), _N_GRID - 2)
        each = np.arange(len(mass))
        before = np.where(step > 0, mass[each, step - 1], 0.0)
        fraction = (wanted - before) / np.maximum(mass[each, step] - before, np.finfo(float).tiny)
        ln_t = grid[each, step] + fraction * (grid[each, step + 1] - grid[each, step])
        result[rows] = (ln_t - self._ln_signal[rows]) / _LN10
        return result


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
