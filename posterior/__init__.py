"""The amortized posterior: flow, training, inference of catalogues, calibration; and the likelihood that it stands for."""

from typing import TYPE_CHECKING

from sedcast.data._lazy import lazy_getattr

if TYPE_CHECKING:
    from sedcast.posterior.calibration import CalibrationResult, calibrate
    from sedcast.posterior.estimator import PosteriorEstimator
    from sedcast.posterior.exact import ExactSampler, Refined
    from sedcast.posterior.exchange import to_bagpipes, to_prospector
    from sedcast.posterior.flow import MaskedAutoregressiveFlow
    from sedcast.posterior.importance import RefineConfig, Refiner
    from sedcast.posterior.infer import infer_catalog
    from sedcast.posterior.likelihood import GaussianLikelihood
    from sedcast.posterior.made import FlowConfig
    from sedcast.posterior.outlier_training import OutlierConfig, fit_outliers, training_simulator
    from sedcast.posterior.photoz import RedshiftFigures, redshift_figures
    from sedcast.posterior.posterior_catalog import PosteriorCatalog, read_posteriors
    from sedcast.posterior.posterior_config import PosteriorConfig
    from sedcast.posterior.resampling import PosteriorDraws
    from sedcast.posterior.rest_frame import rest_frame_magnitudes
    from sedcast.posterior.reweight import PriorModel, Reweighted, reweight_to
    from sedcast.posterior.train import fit_posterior, train_posterior
    from sedcast.posterior.training_set import TrainingSet, read_training_set
    from sedcast.posterior.zero_points import ZeroPointOffsets, zero_point_offsets

__all__ = [
    "CalibrationResult",
    "ExactSampler",
    "FlowConfig",
    "GaussianLikelihood",
    "MaskedAutoregressiveFlow",
    "OutlierConfig",
    "PosteriorCatalog",
    "PosteriorConfig",
    "PosteriorDraws",
    "PosteriorEstimator",
    "PriorModel",
    "RedshiftFigures",
    "RefineConfig",
    "Refined",
    "Refiner",
    "Reweighted",
    "TrainingSet",
    "ZeroPointOffsets",
    "calibrate",
    "fit_outliers",
    "fit_posterior",
    "infer_catalog",
    "read_posteriors",
    "read_training_set",
    "redshift_figures",
    "rest_frame_magnitudes",
    "reweight_to",
    "to_bagpipes",
    "to_prospector",
    "train_posterior",
    "training_simulator",
    "zero_point_offsets",
]

__getattr__ = lazy_getattr(
    __name__,
    {
        "sedcast.posterior.calibration": ("CalibrationResult", "calibrate"),
        "sedcast.posterior.estimator": ("PosteriorEstimator",),
        "sedcast.posterior.exact": ("ExactSampler", "Refined"),
        "sedcast.posterior.exchange": ("to_bagpipes", "to_prospector"),
        "sedcast.posterior.flow": ("MaskedAutoregressiveFlow",),
        "sedcast.posterior.importance": ("RefineConfig", "Refiner"),
        "sedcast.posterior.infer": ("infer_catalog",),
        "sedcast.posterior.likelihood": ("GaussianLikelihood",),
        "sedcast.posterior.made": ("FlowConfig",),
        "sedcast.posterior.outlier_training": ("OutlierConfig", "fit_outliers", "training_simulator"),
        "sedcast.posterior.photoz": ("RedshiftFigures", "redshift_figures"),
        "sedcast.posterior.posterior_catalog": ("PosteriorCatalog", "read_posteriors"),
        "sedcast.posterior.posterior_config": ("PosteriorConfig",),
        "sedcast.posterior.resampling": ("PosteriorDraws",),
        "sedcast.posterior.rest_frame": ("rest_frame_magnitudes",),
        "sedcast.posterior.reweight": ("PriorModel", "Reweighted", "reweight_to"),
        "sedcast.posterior.train": ("fit_posterior", "train_posterior"),
        "sedcast.posterior.training_set": ("TrainingSet", "read_training_set"),
        "sedcast.posterior.zero_points": ("ZeroPointOffsets", "zero_point_offsets"),
    },
)
