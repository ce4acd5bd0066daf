"""The amortized posterior: flow, training, inference of catalogues, calibration; and the likelihood that it stands for."""

from typing import TYPE_CHECKING

from sedcast.data._lazy import lazy_getattr

if TYPE_CHECKING:
    from sedcast.posterior.calibration import CalibrationResult, calibrate
    from sedcast.posterior.estimator import PosteriorEstimator
    from sedcast.posterior.flow import MaskedAutoregressiveFlow
    from sedcast.posterior.infer import infer_catalog, read_posteriors
    from sedcast.posterior.likelihood import GaussianLikelihood
    from sedcast.posterior.made import FlowConfig
    from sedcast.posterior.train import PosteriorConfig, train_posterior

__all__ = [
    "CalibrationResult",
    "FlowConfig",
    "GaussianLikelihood",
    "MaskedAutoregressiveFlow",
    "PosteriorConfig",
    "PosteriorEstimator",
    "calibrate",
    "infer_catalog",
    "read_posteriors",
    "train_posterior",
]

__getattr__ = lazy_getattr(
    __name__,
    {
        "sedcast.posterior.calibration": ("CalibrationResult", "calibrate"),
        "sedcast.posterior.estimator": ("PosteriorEstimator",),
        "sedcast.posterior.flow": ("MaskedAutoregressiveFlow",),
        "sedcast.posterior.infer": ("infer_catalog", "read_posteriors"),
        "sedcast.posterior.likelihood": ("GaussianLikelihood",),
        "sedcast.posterior.made": ("FlowConfig",),
        "sedcast.posterior.train": ("PosteriorConfig", "train_posterior"),
    },
)
