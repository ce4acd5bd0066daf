"""Whether one band of a catalogue is too bright or too faint beside the others, all galaxies taken together.

With an offset o of a band's zero point, common to all galaxies, the model predicts the fluxes 10^(0.4 o) f_b(θ) there. Samples
of the galaxies' posteriors give the slope of all their log evidence in o, by Fisher's identity the posterior mean of the
likelihood's slope, and its curvature, by that of Louis (1982, J. R. Stat. Soc. B 44, 226). A step of Newton's leads from o = 0
to the offset that the catalogue asks for, if the zero points of the other bands are right and the offset is small enough for
the log evidence to be a parabola. No galaxy is inferred twice.
"""

import logging
from dataclasses import dataclass

import numpy as np

from sedcast.data.catalog import Catalog
from sedcast.data.checks import check_kind, check_simulator, whole_number
from sedcast.emulator.simulation import FluxSimulator
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.outlier_training import predict

__all__ = ["WARN_GAIN", "ZeroPointOffsets", "warn_of_offsets", "zero_point_offsets"]

logger = logging.getLogger(__name__)

_LN_FLUX_PER_MAG = 0.4 * float(np.log(10))
_N_SAMPLES = 64
_MOST_GALAXIES, _FEWEST_GALAXIES = 300, 50
_CLIP = 3 * 1.4826
"""Three standard deviations, in median absolute deviations of a normal distribution."""
WARN_GAIN = 0.5
"""Nats per galaxy; of the SDSS sample no band would gain more than 0.1."""
_MOST_OFFSET = 0.5
"""Magnitudes; steps of Newton's that lead further are wrong by as much, and may be in another band than the offset."""
_FAR_SHARE = 0.25
"""Of the largest gain: with less, an offset that seems far follows from that of another band."""


@dataclass(frozen=True)
class ZeroPointOffsets:
    """How far the zero point of each band seems to be off, if those of the others are right.

    Attributes
    ----------
    bands : names, (n_band) in number.
    offset : (n_band,) m_AB - m of the catalogue, magnitudes: positive where its fluxes are too bright, and what `ab_offset` in
        a mapping would correct. NaN where fewer than 50 galaxies are measured, or it would be beyond 0.5 mag, and of a flow
        without amplitudes: its samples are not weighed by the likelihood, and its errors would look like offsets.
    error : (n_band,) its standard error by the scatter of the galaxies, magnitudes, without any of the model's.
    gain : (n_band,) about how much the log evidence would rise with it, nats per galaxy; beyond 0.5 mag, at least so much.
    n_galaxies : how many were looked at.
    """

    bands: tuple[str, ...]
    offset: np.ndarray
    error: np.ndarray
    gain: np.ndarray
    n_galaxies: int

    @property
    def worst(self) -> int | None:
        """The band whose offset would explain most; None if nothing is known. Others may only follow from it."""
        return None if np.isnan(self.gain).all() else int(np.nanargmax(self.gain))

    @property
    def far(self) -> tuple[str, ...]:
        """Bands whose offset seems beyond 0.5 mag, and that others may follow from: samples do not say which, nor how far."""
        if self.worst is None:
            return ()
        # What they would gain is more than is known of it.
        least = max(WARN_GAIN, _FAR_SHARE * self.gain[self.worst])
        columns = zip(self.bands, self.offset, self.gain, strict=True)
        return tuple(band for band, offset, gain in columns if np.isnan(offset) and gain >= least)

    @property
    def suspects(self) -> tuple[str, ...]:
        """The band to warn of; if one may be far off, all that gain as much as is warned of; () if there is nothing to say."""
        if self.worst is None or self.gain[self.worst] < WARN_GAIN:
            return ()
        if not self.far:
            return (self.bands[self.worst],)
        return tuple(band for band, gain in zip(self.bands, self.gain, strict=True) if gain >= WARN_GAIN)

    def to_json_dict(self) -> dict[str, dict[str, float]]:
        """``offset_mag``, ``error_mag`` and ``gain_nats`` by band, where they are known."""
        columns = zip(self.bands, self.offset.tolist(), self.error.tolist(), self.gain.tolist(), strict=True)
        return {
            band: {"offset_mag": offset, "error_mag": error, "gain_nats": gain}
            for band, offset, error, gain in columns
            if not np.isnan(offset)
        }


def zero_point_offsets(
    estimator: PosteriorEstimator, simulator: FluxSimulator, catalog: Catalog, *, seed: int = 0
) -> ZeroPointOffsets:
    """Look for a zero point that is off, by 300 of the galaxies at most, evenly spaced.

    The populations of the catalogue and of the prior differ, and so do the model and nature: offsets of some hundredths of a
    magnitude, of tenths in u of blue galaxies, need not be the catalogue's. See docs/outliers.md for what planted ones give.

    Parameters
    ----------
    estimator : the trained posterior.
    simulator : photometry by the model that it was trained with, see `training_simulator`.
    catalog : with at least the estimator's bands.
    seed : of the samples.

    Raises
    ------
    CatalogError : if a band of the estimator is not in the catalogue.
    ParameterError : if the seed is no whole number, an argument is of another kind, or the simulator has other bands.
    """
    check_kind("estimator", estimator, PosteriorEstimator, "such as PosteriorEstimator.default()")
    check_simulator(simulator, estimator.bands)
    check_kind("catalog", catalog, Catalog, "read_catalog makes one, of a file or a Table")
    seed = whole_number("seed", seed, least=0, bits=64)
    catalog = estimator.select(catalog)
    rows = np.flatnonzero(estimator.status(catalog).ok)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_GALAXIES)).round().astype(int)]
    slope, curvature = np.full((2, len(rows), len(estimator.bands)), np.nan)
    if len(rows) >= _FEWEST_GALAXIES:
        flux, ivar, zred = estimator.observed(catalog, rows)
        drawn = estimator.draw(flux, ivar, zred, _N_SAMPLES, seed=seed, row_keys=rows)
        model = predict(estimator, simulator, drawn.points, zred)
        weighed = np.isfinite(drawn.log_evidence)[:, None]
        weight = np.where((ivar > 0) & weighed, ivar, np.nan)[:, None]
        slopes = _LN_FLUX_PER_MAG * model * (flux[:, None] - model) * weight
        slope = slopes.mean(axis=1)
        bend = _LN_FLUX_PER_MAG**2 * model * (2 * model - flux[:, None]) * weight
        curvature = bend.mean(axis=1) - slopes.var(axis=1)
    steps = [_step(*columns) for columns in zip(slope.T, curvature.T, strict=True)]
    offset, error, gain = np.array(steps).reshape(-1, 3).T
    return ZeroPointOffsets(estimator.bands, offset, error, gain, len(rows))


def warn_of_offsets(offsets: ZeroPointOffsets) -> None:
    """Warn if the photometry of all galaxies would be much more likely with another zero point of one band."""
    suspects = offsets.suspects
    if not suspects:
        return
    if offsets.far:
        logger.warning(
            "fluxes are far from what the model lets expect, by some tenths of a magnitude or more in one of %s at least (of "
            "%d galaxies): check units, AB or Vega magnitudes, extinction and columns of these bands",
            ", ".join(suspects),
            offsets.n_galaxies,
        )
        return
    band = offsets.bands.index(suspects[0])
    offset = offsets.offset[band]
    logger.warning(
        "fluxes of %s are %s beside the other bands than the model lets expect, by %.3f ± %.3f mag (of %d galaxies): check its "
        "zero point, extinction and column (%+.3f in its ab_offset in a mapping corrects it), or whether the model suits these "
        "galaxies: the bundled one has no emission lines",
        offsets.bands[band],
        "brighter" if offset > 0 else "fainter",
        abs(offset),
        offsets.error[band],
        offsets.n_galaxies,
        offset,
    )


def _step(slope: np.ndarray, curvature: np.ndarray) -> tuple[float, float, float]:
    """Newton's step, its error and its gain per galaxy, from the slopes and curvatures (n,) of the galaxies in one band."""
    known = np.isfinite(slope) & np.isfinite(curvature)
    slope, curvature = slope[known], curvature[known]
    if len(slope) < _FEWEST_GALAXIES:
        return np.nan, np.nan, np.nan
    # A few galaxies that no model fits would decide for all, by their slopes and, where samples differ much in slope, by
    # curvatures far below zero; far above there are none, for the likelihood's own is the largest possible.
    most = _CLIP * float(np.median(np.abs(slope)))
    slope = np.clip(slope, -most, most)
    middle = float(np.median(curvature))
    curvature = np.maximum(curvature, middle - _CLIP * float(np.median(np.abs(curvature - middle))))
    if abs(slope.sum()) > _MOST_OFFSET * curvature.sum():
        return np.nan, np.nan, 0.5 * _MOST_OFFSET * abs(slope.mean())
    step = slope.sum() / curvature.sum()
    error = np.sqrt(np.sum((slope - step * curvature) ** 2)) / curvature.sum()
    return step, error, 0.5 * step * slope.sum() / len(slope)
