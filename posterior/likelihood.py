"""The likelihood of one galaxy's photometry, and the posterior that every method of this project aims at."""

import numpy as np

from sedcast.data.checks import as_floats, check_kind, check_simulator, in_own_precision
from sedcast.data.errors import ParameterError
from sedcast.data.units import as_nanomaggies
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES, Prior
from sedcast.emulator.simulation import FluxSimulator

__all__ = ["UNBOUNDED_LIMIT", "GaussianLikelihood"]

UNBOUNDED_LIMIT = 7.0
"""Points beyond it in any probit coordinate have zero posterior: 3e-12 of the prior, where the prior's CDF is clipped."""

# The rounding of its square is then a hundredth of a nat.
_MAX_SIGNAL_TO_NOISE = 1e7


class GaussianLikelihood:
    """Independent Gaussian errors in flux space for one galaxy, with the catalogue's inverse variances.

    The target is p(theta | f_obs, sigma) ∝ p(theta) Π_b N(f_obs_b | f_b(theta), sigma_b²), without a factor for sigma. That is
    exactly the posterior that the flow is trained for, not an approximation of it: training galaxies draw sigma such
    that, given the observed fluxes, it says nothing more about theta (see `sedcast.data.noise`). So flow, importance
    refinement and MCMC share one target.

    Parameters
    ----------
    simulator : noiseless photometry of the galaxy's bands, in their order.
    prior : prior of the 12 parameters.
    flux : (n_band,) observed fluxes, nanomaggies, or with units, see `sedcast.data.as_nanomaggies`; negative ones are fine.
    flux_ivar : (n_band,) inverse variances, nanomaggies^-2; a band with 0 is not measured and drops out.
    zred : redshift.

    Attributes
    ----------
    n_evaluations : model evaluations so far, one for each parameter vector that reached the simulator.

    Raises
    ------
    ParameterError : shapes that disagree, no measured band, an invalid inverse variance, flux or redshift.
    """

    def __init__(self, simulator: FluxSimulator, prior: Prior, *, flux: np.ndarray, flux_ivar: np.ndarray, zred: float) -> None:
        check_simulator(simulator)
        check_kind("prior", prior, Prior, "such as that of the estimator, estimator.prior")
        observed, ivar = as_nanomaggies(flux, flux_ivar)
        if observed.ndim != 1 or observed.shape != ivar.shape:
            raise ParameterError(
                f"flux has shape {observed.shape} and flux_ivar {ivar.shape}, expected the same (n_band,): pass one galaxy"
            )
        if not (np.isfinite(ivar) & (ivar >= 0)).all():
            raise ParameterError(f"flux_ivar={ivar}: must be finite and not negative, 0 where a band is not measured")
        measured = ivar > 0
        if not measured.any():
            raise ParameterError("no band is measured (flux_ivar is 0 everywhere): nothing to infer from")
        if not np.isfinite(observed[measured]).all():
            raise ParameterError(f"flux={observed}: must be finite where flux_ivar is positive; set flux_ivar=0 where missing")
        redshift = as_floats("zred", zred)
        if redshift.shape not in ((), (1,)) or not 0 <= redshift < np.inf:
            raise ParameterError(f"zred={zred}: must be one number, finite and not negative")
        self.simulator = simulator
        self.prior = prior
        self.zred = redshift.item()
        self.n_evaluations = 0
        self._n_band = len(observed)
        self._measured = measured
        self._flux = observed[measured]
        self._root_ivar = np.sqrt(ivar[measured])
        self._log_norm = float(np.sum(np.log(self._root_ivar)) - 0.5 * measured.sum() * np.log(2 * np.pi))

    @property
    def measured(self) -> np.ndarray:
        """(n_band,) bool: bands that take part."""
        return self._measured

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """What is observed: measured bands (n_band,) bool, their fluxes and errors (n_measured,), nanomaggies, and redshift."""
        return self._measured, self._flux, 1 / self._root_ivar, self.zred

    @property
    def n_dim(self) -> int:
        """Number of free parameters."""
        return len(FREE_PARAMETER_NAMES)

    def model_flux(self, theta: np.ndarray) -> np.ndarray:
        """Noiseless fluxes of the measured bands, nanomaggies, (n, n_measured); counts as n evaluations.

        Parameters
        ----------
        theta : (n, 12), inside the prior.
        """
        theta = np.atleast_2d(in_own_precision("theta", theta)).astype(float, copy=False)
        if theta.shape[1] != len(PARAMETER_NAMES):
            raise ParameterError(f"theta has shape {theta.shape}, expected (n, {len(PARAMETER_NAMES)})")
        model = in_own_precision("the simulator's fluxes", self.simulator.flux(theta, np.full(len(theta), self.zred)))
        self.n_evaluations += len(theta)
        if model.shape != (len(theta), self._n_band):
            raise ParameterError(
                f"the simulator returned fluxes of shape {model.shape}, expected {(len(theta), self._n_band)}: "
                "its bands must be those of flux"
            )
        return model[:, self._measured].astype(float, copy=False)

    def signal_to_noise(self, model: np.ndarray) -> np.ndarray:
        """Total signal-to-noise ratio that `model_flux` would have under this galaxy's errors, (n,)."""
        return np.asarray(np.sqrt(np.sum((model * self._root_ivar) ** 2, axis=1)))

    @property
    def observed_signal_to_noise(self) -> float:
        """Total signal-to-noise ratio of the observed fluxes."""
        with np.errstate(over="ignore"):
            return float(np.sqrt(np.sum((self._flux * self._root_ivar) ** 2)))

    @property
    def resolved(self) -> bool:
        """Whether double precision tells likelihoods of different models apart.

        Far beyond any real photometry's signal-to-noise ratio it does not: all weights and steps of chains then look alike.
        """
        return self.observed_signal_to_noise <= _MAX_SIGNAL_TO_NOISE

    def refuse_unresolved(self) -> None:
        """Refuse to sample a likelihood that is not `resolved`.

        Raises
        ------
        ParameterError : if it is not.
        """
        if not self.resolved:
            raise ParameterError(
                f"the photometry's signal-to-noise ratio is {self.observed_signal_to_noise:.1e}: beyond "
                f"{_MAX_SIGNAL_TO_NOISE:.0e} differences of the likelihood are lost in rounding; check the unit of the fluxes "
                "and their errors"
            )

    def log_prob_flux(self, model: np.ndarray) -> np.ndarray:
        """Log probability density of the observed fluxes given `model_flux`, nanomaggies^-n_measured, (n,); never NaN."""
        with np.errstate(over="ignore", invalid="ignore"):
            chi2 = np.sum(((model - self._flux) * self._root_ivar) ** 2, axis=1)
        return np.where(np.isfinite(chi2), self._log_norm - 0.5 * chi2, -np.inf)

    def log_likelihood(self, theta: np.ndarray) -> np.ndarray:
        """Log probability density of the observed fluxes, nanomaggies^-n_measured, shape (n,).

        Where the model's flux is not finite the density is zero (-inf), never NaN.

        Parameters
        ----------
        theta : (n, 12), inside the prior.
        """
        return self.log_prob_flux(self.model_flux(theta))

    def log_posterior_unbounded(self, theta_unbounded: np.ndarray) -> np.ndarray:
        """Log posterior density in probit space up to the evidence, shape (n,): likelihood times standard normal.

        Points that are not finite or lie beyond `UNBOUNDED_LIMIT` get -inf and cost no model evaluation.

        Parameters
        ----------
        theta_unbounded : (n, 11).
        """
        x = np.atleast_2d(in_own_precision("theta_unbounded", theta_unbounded)).astype(float, copy=False)
        if x.shape[1] != self.n_dim:
            raise ParameterError(f"theta_unbounded has shape {x.shape}, expected (n, {self.n_dim}): {FREE_PARAMETER_NAMES}")
        log_prob = np.full(len(x), -np.inf)
        inside = (np.abs(x) <= UNBOUNDED_LIMIT).all(axis=1)
        if inside.any():
            x = x[inside]
            log_prob[inside] = self.log_likelihood(self.prior.from_unbounded(x)) + self.prior.log_prob_unbounded(x)
        return log_prob
