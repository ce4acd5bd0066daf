"""The picture of inferred redshifts beside spectroscopic ones."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy.stats import binom

from sedcast.data.checks import as_floats
from sedcast.data.errors import ParameterError
from sedcast.plotting import _BLUE, _DPI, _GREY, _ORANGE, _ticks_inward, own_style
from sedcast.posterior.photoz import OUTLIER_BARS, RedshiftFigures

__all__ = ["photoz_plot"]

_BAND = 0.99
_N_BINS = 20


@own_style
def photoz_plot(figures: RedshiftFigures, zred_spec: np.ndarray, zred_range: tuple[float, float]) -> Figure:
    """Posterior medians against spectroscopic redshifts, and the histogram of their ranks (PIT).

    Parameters
    ----------
    figures : of the redshifts.
    zred_spec : (n,) spectroscopic redshifts of the same galaxies.
    zred_range : range of the prior, and of the axes.

    Returns
    -------
    figure : left, numbers of galaxies; lines are equality (solid) and the limits of outliers (dashed: 0.05, dotted: 0.15).
        Right, the grey band holds 99% of the counts of a calibrated posterior, in each bin.

    Raises
    ------
    ParameterError : if the numbers of galaxies disagree.
    """
    zred_spec = as_floats("zred_spec", zred_spec)
    if zred_spec.shape != figures.zred.shape:
        raise ParameterError(f"zred_spec has shape {zred_spec.shape}, expected {figures.zred.shape}: one per galaxy")
    figure = Figure(figsize=(9.6, 4.4), dpi=_DPI, layout="constrained")
    plane, ranks = figure.subplots(1, 2)
    _ticks_inward(plane, ranks)
    image = plane.hexbin(
        zred_spec, figures.zred, gridsize=70, extent=(*zred_range, *zred_range), cmap="Blues", norm=LogNorm(0.7), mincnt=1
    )
    figure.colorbar(image, ax=plane, label="galaxies")
    line = np.array([0.0, zred_range[1]])
    plane.plot(line, line, color=_ORANGE, linewidth=1.2)
    for bar, style in zip(OUTLIER_BARS, ("--", ":"), strict=True):
        for sign in (-1, 1):
            plane.plot(line, line + sign * bar * (1 + line), color=_GREY, linewidth=0.9, linestyle=style)
    limits = (0.0, zred_range[1])
    plane.set(xlim=limits, ylim=limits, aspect="equal", xlabel="spectroscopic redshift", ylabel="posterior median of z")
    title = f"bias {figures.bias:+.4f}, $\\sigma_{{\\rm NMAD}}$ {figures.sigma_nmad:.4f}"
    plane.set_title(f"{title}, {figures.outliers_5:.1%} beyond 0.05", fontsize=10)
    low, high = binom.ppf([(1 - _BAND) / 2, (1 + _BAND) / 2], figures.n, 1 / _N_BINS)
    ranks.axhspan(low, high, color=_GREY, alpha=0.25, linewidth=0)
    ranks.axhline(figures.n / _N_BINS, color=_GREY, linewidth=0.8)
    counts, edges = np.histogram(figures.pit, bins=_N_BINS, range=(0, 1))
    ranks.stairs(counts, edges, baseline=None, color=_BLUE, linewidth=1.3)
    ranks.set(
        xlim=(0, 1), xlabel="rank of the spectroscopic z among samples (PIT)", ylabel=f"galaxies per bin, of {figures.n:,}"
    )
    ranks.set_ylim(bottom=0)
    ranks.set_title(f"Kolmogorov–Smirnov distance {figures.ks:.3f}", fontsize=10)
    return figure
