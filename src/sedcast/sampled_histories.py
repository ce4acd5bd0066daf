"""Star-formation and metallicity histories of posterior samples, as they are drawn."""

from dataclasses import dataclass

import numpy as np

from sedcast.data.checks import as_floats
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.histories import BETA, GAMMA, HistoryGrid, burst_fraction, check_theta, column

__all__ = ["SampledHistories", "sampled_histories"]

# Bins of 0.1 dex at once: in one alone a burst would be a spike as high as the bin is narrow.
_BINS_AT_ONCE = 4
_TOGETHER_FROM_GYR = 1.0


@dataclass(frozen=True)
class SampledHistories:
    """Histories of one galaxy, one a sample.

    Attributes
    ----------
    edges_gyr : (n_bin + 1,) lookback times between which rates are averaged, from 0 to the galaxy's age.
    sfr : (n_sample, n_bin) star-formation rates, the burst included, Msun/yr.
    centres_gyr : (n_time,) lookback times of the metallicities.
    log_z : (n_sample, n_time) log10 of the metal mass fraction of the gas that forms stars.
    """

    edges_gyr: np.ndarray
    sfr: np.ndarray
    centres_gyr: np.ndarray
    log_z: np.ndarray


def sampled_histories(theta: np.ndarray, zred: float, bases: SFHBases, cosmology: Cosmology) -> SampledHistories:
    """Histories that parameters imply for a galaxy at a redshift.

    Rates are means over bins of 0.4 dex up to about 1 Gyr and of 0.1 dex before.

    Parameters
    ----------
    theta : (n_sample, 12), columns `PARAMETER_NAMES`.
    zred : redshift of the galaxy, which sets its age.
    bases, cosmology : those of the SPS model.

    Raises
    ------
    ParameterError : if the redshift is outside the bases or the cosmology, or there are several: their bins differ.
    """
    redshift = as_floats("zred", zred)
    if redshift.shape:
        raise ParameterError(f"zred has shape {redshift.shape}, expected one number: where it is inferred, say its median")
    half, theta = getattr(theta, "dtype", None) == np.float16, as_floats("theta", theta)
    if not theta.size:
        raise ParameterError("theta has no rows: expected (n_sample, 12) with one sample at least")
    if half:
        # Half precision, in which files may keep samples, does not keep sums.
        theta[..., BETA] /= theta[..., BETA].sum(axis=-1, keepdims=True)
    theta, _ = check_theta(theta, redshift)
    grid = HistoryGrid(bases)
    age = cosmology.age_gyr(np.full(len(theta), redshift))
    burst, time = burst_fraction(theta, age)[:, None], theta[:, column("tburst")]
    masses = (1 - burst) * grid.masses(theta[:, BETA], age)
    within = np.clip(np.searchsorted(grid.edges_gyr, time, side="right") - 1, 0, grid.n_bin - 1)
    masses[np.arange(len(theta)), within] += burst[:, 0]
    closing, closing_centre = (values[0] for values in grid.closing_bin(age))
    last = int(closing)
    together = int(np.searchsorted(grid.edges_gyr, _TOGETHER_FROM_GYR))
    starts = np.append(np.arange(0, together, _BINS_AT_ONCE), np.arange(together, last + 1))
    edges = np.append(grid.edges_gyr[starts], age[0])
    formed = np.add.reduceat(masses[:, : last + 1], starts, axis=1)
    rate = formed * 10 ** theta[:, [column("log_mstar")]] / (np.diff(edges) * 1e9)
    log_z = np.log10(grid.metallicities(theta[:, GAMMA], age)[:, : last + 1])
    return SampledHistories(edges, rate, np.append(grid.centres_gyr[:last], closing_centre), log_z)
