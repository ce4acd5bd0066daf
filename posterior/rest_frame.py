"""Absolute magnitudes in the rest frame, and so colours, of posterior samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from sedcast.data.checks import as_floats, as_names, check_kind, in_own_precision, whole_number
from sedcast.data.errors import ParameterError
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.simulation import PhotometrySimulator, SpectrumModel
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import rows_at_most
from sedcast.posterior.exchange import check_redshift_given, stacked
from sedcast.posterior.outlier_training import training_simulator

__all__ = ["rest_frame_magnitudes"]


def rest_frame_magnitudes(
    samples: Mapping[str, np.ndarray],
    bands: Sequence[str],
    *,
    estimator: PosteriorEstimator,
    zred: float | np.ndarray | None = None,
    n_samples: int = 100,
    model: SpectrumModel | None = None,
) -> dict[str, np.ndarray]:
    """AB magnitudes of the samples' model spectra, dust included, at 10 pc and not redshifted.

    Parameters
    ----------
    samples : arrays by quantity, (n,) of one galaxy or (n_row, n) of several, as `PosteriorCatalog.samples` gives them for a
        row or a slice; the parameters are needed.
    bands : short names, names of speclite's filters, or paths of filter curves, see `sedcast.data.filters.load_filter`.
    estimator : the posterior that the samples are of.
    zred : the galaxy's redshift, or (n_row,), unless it is one of the quantities; it sets the age of the stars.
    n_samples : how many samples of each galaxy are used, spread evenly; all, if there are fewer.
    model : the spectrum model; by default the emulator that the estimator was trained with, which is read at each call.

    Returns
    -------
    magnitudes : (n_used,) or (n_row, n_used) by band, of the same samples in every band, so that differences are colours. NaN
        where a row has no posterior; inf where dust leaves nothing of a band's light.

    Raises
    ------
    ArtifactError : if there is no model given, and the emulator of the training is not to be had.
    ParameterError : if a parameter or the redshift is missing, of another shape, or outside the prior or the model; if a band
        is unknown, or reaches beyond the model's wavelengths; or if `n_samples` is not positive.
    """
    check_kind("estimator", estimator, PosteriorEstimator, "the one that the samples are of")
    check_redshift_given(samples, zred)
    n_samples, bands = whole_number("n_samples", n_samples), as_names("bands", bands)
    theta = stacked(samples, PARAMETER_NAMES)
    if theta.ndim not in (2, 3):
        raise ParameterError(
            f"samples have arrays of shape {theta.shape[:-1]}, expected (n,) of a galaxy or (n_row, n) of several"
        )
    kept = rows_at_most(theta.shape[-2], n_samples)
    theta = theta[..., kept, :]
    if zred is None:
        redshifts = in_own_precision("zred", samples["zred"])[..., kept]
    elif np.shape(zred) in ((), theta.shape[:-2]):
        redshifts = np.broadcast_to(as_floats("zred", zred)[..., None], theta.shape[:-1])
    else:
        raise ParameterError(f"zred has shape {np.shape(zred)}, expected one redshift or {theta.shape[:-2]}, one a galaxy")
    # Rows without a posterior are NaN throughout.
    there = ~np.isnan(theta).all(axis=-1)
    inferred = estimator.redshift_prior if zred is None else None
    found = redshifts[there] if inferred is None else inferred.in_range(redshifts[there])
    simulator = PhotometrySimulator(training_simulator(estimator).model if model is None else model, bands, 0.0)
    magnitudes = np.full((*theta.shape[:-1], len(simulator.bands)), np.nan)
    magnitudes[there] = simulator.absolute_magnitudes(estimator.prior.validate(theta[there]), found)
    return {band: magnitudes[..., column] for column, band in enumerate(simulator.bands)}
