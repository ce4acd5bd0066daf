"""How good are inferred redshifts? The usual figures against spectroscopic ones."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import kstest

from sedcast.data.checks import as_floats, in_own_precision, whole_number
from sedcast.data.errors import ParameterError
from sedcast.posterior.ranks import rank_statistics

__all__ = ["OUTLIER_BARS", "RedshiftFigures", "redshift_figures"]

OUTLIER_BARS = (0.05, 0.15)
"""Values of abs(z - z_spec) / (1 + z_spec) beyond which a redshift is an outlier."""

_NORMAL_MAD = 1.4826
_CENTRAL_68 = (0.16, 0.84)


@dataclass(frozen=True)
class RedshiftFigures:
    """Redshifts beside spectroscopic ones, with d = (z - z_spec) / (1 + z_spec) and z the median of the samples.

    Attributes
    ----------
    n : galaxies.
    bias : median of d.
    mean : mean of d.
    sigma_nmad : 1.4826 median(abs(d - median d)).
    outliers_5, outliers_15 : shares with abs(d) above 0.05 and 0.15.
    sigma_median : median of half the samples' 68% interval over 1 + z_spec.
    coverage_68 : share of spectroscopic redshifts in the samples' central 68% interval, that is with `pit` from 0.16 to 0.84:
        0.68 if calibrated, however few the samples; fewer truths would lie between the quantiles of few.
    ks, ks_p : Kolmogorov-Smirnov distance of `pit` from uniform, and its p-value.
    zred : (n,) medians of the samples.
    pit : (n,) ranks of the spectroscopic redshift among the samples, as `rank_statistics` gives; uniform if calibrated.
    """

    n: int
    bias: float
    mean: float
    sigma_nmad: float
    outliers_5: float
    outliers_15: float
    sigma_median: float
    coverage_68: float
    ks: float
    ks_p: float
    zred: np.ndarray
    pit: np.ndarray

    def to_json_dict(self, n_bins: int = 20) -> dict[str, Any]:
        """The figures as JSON-serialisable values, and the shares of `pit` in equal bins."""
        figures = {name: value for name, value in asdict(self).items() if name not in ("zred", "pit")}
        counts = np.histogram(self.pit, bins=n_bins, range=(0, 1))[0]
        return figures | {"pit_histogram": (counts / self.n).tolist()}


def redshift_figures(samples: np.ndarray, zred_spec: np.ndarray, *, seed: int = 0) -> RedshiftFigures:
    """The figures of redshift samples (n, n_samples) against spectroscopic redshifts (n,); `seed` breaks ties of ranks.

    Raises
    ------
    ParameterError : if there is no galaxy, shapes disagree, a value is not finite, or a redshift is a code for a missing one.
    """
    samples, zred_spec = in_own_precision("samples", samples), as_floats("zred_spec", zred_spec)
    if zred_spec.ndim != 1 or len(zred_spec) == 0:
        raise ParameterError(f"zred_spec has shape {zred_spec.shape}: expected (n,) with at least one galaxy")
    if (zred_spec <= -1).any():
        raise ParameterError(f"zred_spec has {zred_spec.min():g}: leave out galaxies whose spectroscopic redshift is not known")
    seed = whole_number("seed", seed, least=0)
    pit = rank_statistics(zred_spec.astype(samples.dtype), samples, seed=seed)
    zred = np.median(samples, axis=1)
    low, high = np.quantile(samples, _CENTRAL_68, axis=1)
    deviation = (zred - zred_spec) / (1 + zred_spec)
    bias = float(np.median(deviation))
    beyond = [float(np.mean(np.abs(deviation) > bar)) for bar in OUTLIER_BARS]
    test = kstest(pit, "uniform")
    return RedshiftFigures(
        n=len(zred),
        bias=bias,
        mean=float(deviation.mean()),
        sigma_nmad=_NORMAL_MAD * float(np.median(np.abs(deviation - bias))),
        outliers_5=beyond[0],
        outliers_15=beyond[1],
        sigma_median=float(np.median((high - low) / 2 / (1 + zred_spec))),
        coverage_68=float(np.mean((pit >= _CENTRAL_68[0]) & (pit <= _CENTRAL_68[1]))),
        ks=float(test.statistic),
        ks_p=float(test.pvalue),
        zred=zred,
        pit=pit,
    )
