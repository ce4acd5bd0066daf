"""An estimator whose posterior is known exactly: independent Gaussians in probit space, whatever the photometry."""

import numpy as np

from sedcast.data.asinh import asinh_flux, asinh_flux_error, softening_nanomaggies
from sedcast.data.catalog import Catalog
from sedcast.data.cosmology import Cosmology
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, Prior
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.posterior.context import ContextTransform, TrainingDomain
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.made import FlowConfig, parameter_shapes, permutations

BANDS = ("u", "g", "r", "i", "z")
ZRED_RANGE = (0.005, 0.3)


def mock_photometry(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fluxes, inverse variances and redshifts of plausible galaxies."""
    rng = np.random.default_rng(seed)
    magnitude = rng.normal(18.5, 1.0, (n, 1)) + np.array([1.8, 0.6, 0.0, -0.3, -0.5]) + rng.normal(0, 0.2, (n, 5))
    flux = asinh_flux(magnitude, softening_nanomaggies(BANDS))
    sigma = asinh_flux_error(flux, 0.03 * np.exp(rng.normal(0, 0.3, (n, 5))), softening_nanomaggies(BANDS))
    return flux + sigma * rng.standard_normal((n, 5)), sigma**-2.0, rng.uniform(*ZRED_RANGE, n)


def deep_catalog(depth: np.ndarray, bands: tuple[str, ...], n: int, seed: int) -> tuple[Catalog, np.ndarray]:
    """Galaxies of a survey with 5 sigma at magnitudes `depth` (n_band,), detected in the last band, and their true fluxes."""
    rng = np.random.default_rng(seed)
    sky = 10 ** (-0.4 * (depth - 22.5)) / 5
    magnitude = depth[-1] + 1.5 - 9 * (1 - rng.power(3, (n, 1))) + rng.normal(0, 0.4, (n, len(bands)))
    true = 10 ** (-0.4 * (magnitude - 22.5))
    sigma = np.sqrt(sky**2 * (1 + true / (50 * sky)) + (0.01 * true) ** 2) * np.exp(rng.normal(0, 0.15, true.shape))
    flux = true + sigma * rng.standard_normal(true.shape)
    seen = flux[:, -1] > 5 * sky[-1]
    zred = rng.uniform(*ZRED_RANGE, seen.sum())
    return Catalog(np.arange(seen.sum()), bands, flux[seen], sigma[seen] ** -2, zred), true[seen]


def gaussian_estimator(
    mean: float = 0.0,
    std: float = 1.0,
    *,
    mask: bool = False,
    redshift_prior: RedshiftPrior | None = None,
    softening: tuple[float, ...] = (),
) -> PosteriorEstimator:
    """Posterior N(mean, std²) in every probit coordinate; mean 0 and std 1 is the prior. With a prior, redshift is one too."""
    transform = ContextTransform(BANDS, mask=mask, redshift=redshift_prior is None, softening=softening)
    dim, n_context = len(FREE_PARAMETER_NAMES) + (redshift_prior is not None), transform.n_context
    config = FlowConfig(n_blocks=1, hidden=(16,))
    arrays = {name: np.zeros(shape) for name, shape in parameter_shapes(config, dim, n_context).items()}
    arrays |= {"permutation": permutations(config, dim)}
    arrays |= {"theta_mean": np.full(dim, mean), "theta_std": np.full(dim, std)}
    arrays |= {"context_mean": np.zeros(n_context), "context_std": np.ones(n_context)}
    flux, flux_ivar, zred = mock_photometry(4000, 1)
    given = zred if redshift_prior is None else None
    domain = TrainingDomain.of(transform, flux, flux_ivar, given, zred_range=ZRED_RANGE)
    flow = MaskedAutoregressiveFlow(config, arrays)
    card = {"name": "stand-in"}
    return PosteriorEstimator(flow, domain, Prior(), Cosmology(), SFHBases.default(), card, redshift_prior=redshift_prior)
