"""sedcast: full Bayesian posteriors of galaxy properties from photometry.

The public names below are imported at first use, so that ``import sedcast`` and ``sedcast --help`` stay fast.
"""

from typing import TYPE_CHECKING

from sedcast._version import __version__
from sedcast.data._lazy import lazy_getattr

if TYPE_CHECKING:
    from sedcast.data.catalog import Catalog, load_sdss_sample, read_catalog
    from sedcast.data.errors import SedcastError
    from sedcast.data.noise import NoiseModel
    from sedcast.data.ssp import SSPLibrary
    from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES, Prior
    from sedcast.emulator.simulation import PhotometrySimulator
    from sedcast.emulator.spectrum_emulator import SpectrumEmulator
    from sedcast.emulator.sps import SPSModel
    from sedcast.galaxy_fit import GalaxyFit, fit_galaxy
    from sedcast.posterior.estimator import PosteriorEstimator
    from sedcast.posterior.infer import infer_catalog

__all__ = [
    "FREE_PARAMETER_NAMES",
    "PARAMETER_NAMES",
    "Catalog",
    "GalaxyFit",
    "NoiseModel",
    "PhotometrySimulator",
    "PosteriorEstimator",
    "Prior",
    "SPSModel",
    "SSPLibrary",
    "SedcastError",
    "SpectrumEmulator",
    "__version__",
    "fit_galaxy",
    "infer_catalog",
    "load_sdss_sample",
    "read_catalog",
]

__getattr__ = lazy_getattr(
    __name__,
    {
        "sedcast.emulator.prior": ("FREE_PARAMETER_NAMES", "PARAMETER_NAMES", "Prior"),
        "sedcast.data.catalog": ("Catalog", "load_sdss_sample", "read_catalog"),
        "sedcast.data.noise": ("NoiseModel",),
        "sedcast.emulator.simulation": ("PhotometrySimulator",),
        "sedcast.posterior.estimator": ("PosteriorEstimator",),
        "sedcast.emulator.sps": ("SPSModel",),
        "sedcast.data.ssp": ("SSPLibrary",),
        "sedcast.data.errors": ("SedcastError",),
        "sedcast.emulator.spectrum_emulator": ("SpectrumEmulator",),
        "sedcast.galaxy_fit": ("GalaxyFit", "fit_galaxy"),
        "sedcast.posterior.infer": ("infer_catalog",),
    },
)
