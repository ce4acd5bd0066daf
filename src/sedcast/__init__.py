"""sedcast: full Bayesian posteriors of galaxy properties from photometry.

The public names below are imported at first use, so that ``import sedcast`` and ``sedcast --help`` stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sedcast._version import __version__

if TYPE_CHECKING:
    from sedcast.data.catalog import Catalog, load_sdss_sample, read_catalog
    from sedcast.data.errors import SedcastError
    from sedcast.data.noise import NoiseModel
    from sedcast.data.ssp import SSPLibrary
    from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES, Prior
    from sedcast.emulator.simulate import PhotometrySimulator
    from sedcast.emulator.spectrum_emulator import SpectrumEmulator
    from sedcast.emulator.sps import SPSModel
    from sedcast.posterior.estimator import PosteriorEstimator
    from sedcast.posterior.infer import infer_catalog

__all__ = [
    "FREE_PARAMETER_NAMES",
    "PARAMETER_NAMES",
    "Catalog",
    "NoiseModel",
    "PhotometrySimulator",
    "PosteriorEstimator",
    "Prior",
    "SPSModel",
    "SSPLibrary",
    "SedcastError",
    "SpectrumEmulator",
    "__version__",
    "infer_catalog",
    "load_sdss_sample",
    "read_catalog",
]

_MODULES = {
    "FREE_PARAMETER_NAMES": "sedcast.emulator.prior",
    "PARAMETER_NAMES": "sedcast.emulator.prior",
    "Catalog": "sedcast.data.catalog",
    "NoiseModel": "sedcast.data.noise",
    "PhotometrySimulator": "sedcast.emulator.simulate",
    "PosteriorEstimator": "sedcast.posterior.estimator",
    "Prior": "sedcast.emulator.prior",
    "SPSModel": "sedcast.emulator.sps",
    "SSPLibrary": "sedcast.data.ssp",
    "SedcastError": "sedcast.data.errors",
    "SpectrumEmulator": "sedcast.emulator.spectrum_emulator",
    "infer_catalog": "sedcast.posterior.infer",
    "load_sdss_sample": "sedcast.data.catalog",
    "read_catalog": "sedcast.data.catalog",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sedcast' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
