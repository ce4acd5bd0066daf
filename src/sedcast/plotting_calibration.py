"""The pictures of `sedcast validate`: is the posterior calibrated?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri
from scipy.stats import binom, norm

from sedcast.data.checks import as_floats, as_names, whole_number
from sedcast.data.errors import ParameterError
from sedcast.plotting import _BLUE, _DPI, _GREY, _ORANGE, _labels, _line_style, _ticks_inward, own_style
from sedcast.posterior.prior_edges import EdgeResult
from sedcast.posterior.ranks import TarpResult

__all__ = ["edge_plot", "pp_plot", "sbc_plot", "tarp_plot"]

_BAND = 0.99


def _check_ranks(ranks: np.ndarray, names: Sequence[str]) -> np.ndarray:
    ranks, names = as_floats("ranks", ranks), as_names("names", names)
    if ranks.ndim != 2 or ranks.shape[1] != len(names) or len(ranks) == 0:
        raise ParameterError(f"ranks have shape {ranks.shape}, expected (n_mock, {len(names)} names)")
    if not ((ranks >= 0) & (ranks <= 1)).all():
        raise ParameterError(
            f"ranks run from {ranks.min()} to {ranks.max()}: divide them by the number of samples, so they lie in 0 … 1"
        )
    return ranks


@own_style
def pp_plot(
    ranks: np.ndarray,
    names: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    others: tuple[str, np.ndarray] | None = None,
) -> Figure:
    """p–p plot: share of mocks whose truth lies below each posterior quantile, which should be the quantile itself.

    Parameters
    ----------
    ranks : (n_mock, n_param) share of posterior samples below the truth, 0 … 1.
    names : the parameters.
    labels : legend entries; by default those of the known parameters.
    others : name of another method, drawn in grey, and its ranks (n_other, n_param), with a band of its own.

    Returns
    -------
    figure : above the shares, below their differences from the quantiles; the grey band holds 99% of the values of a
        calibrated posterior, at each quantile.
    """
    ranks = _check_ranks(ranks, names)
    shown = [label.split(" [")[0] for label in _labels(names, labels)]
    level = np.linspace(0, 1, 201)
    figure = Figure(figsize=(7.2, 6.7), dpi=_DPI, layout="constrained")
    panels = _Calibration.of(figure, level, *_calibrated_range(len(ranks), level))
    if others is not None:
        method, theirs = others[0], _check_ranks(others[1], names)
        low, high = _calibrated_range(len(theirs), level)
        panels.band(low, high, alpha=0.12, label=f"{_BAND:.0%} if calibrated, {len(theirs):,} mocks")
        for index in range(len(shown)):
            share, label = _ecdf(theirs[:, index], level), method if index == 0 else None
            panels.curve(share, color=_GREY, linewidth=0.7, alpha=0.7, label=label)
    for index, label in enumerate(shown):
        panels.curve(_ecdf(ranks[:, index], level), linewidth=1.3, label=label, **_line_style(index))
    panels.upper.set(ylabel=f"share of {len(ranks):,} mocks with truth below it")
    panels.lower.set(xlabel="posterior quantile", ylabel="share − quantile")
    # One entry a curve, not one in each panel.
    figure.legend(*panels.upper.get_legend_handles_labels(), loc="outside right center", fontsize=9, frameon=False)
    return figure


def _ecdf(ranks: np.ndarray, level: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(ranks), level, side="right") / len(ranks)


def _calibrated_range(n: int, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = binom.ppf([[(1 - _BAND) / 2], [(1 + _BAND) / 2]], n, level) / n
    low[level == 0] = 0.0
    return low, high


@dataclass(frozen=True)
class _Calibration:
    """A panel of shares that should be their levels, and one of the differences, which are too small to be seen in it."""

    upper: Axes
    lower: Axes
    level: np.ndarray

    @classmethod
    def of(cls, figure: Figure, level: np.ndarray, low: np.ndarray, high: np.ndarray) -> "_Calibration":
        """Panels with the diagonal, and the band of a calibrated posterior."""
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _ticks_inward(upper, lower)
        panels = cls(upper, lower, level)
        panels.band(low, high, alpha=0.25, label=f"{_BAND:.0%} if calibrated")
        panels.curve(level, color=_GREY, linewidth=0.8)
        upper.set(xlim=(0, 1), ylim=(0, 1))
        return panels

    def band(self, low: np.ndarray, high: np.ndarray, *, alpha: float, label: str) -> None:
        for axes, base in ((self.upper, 0.0), (self.lower, self.level)):
            axes.fill_between(self.level, low - base, high - base, color=_GREY, alpha=alpha, linewidth=0, label=label)

    def curve(self, share: np.ndarray, **style: Any) -> None:
        self.upper.plot(self.level, share, **style)
        self.lower.plot(self.level, share - self.level, **style)


@own_style
def sbc_plot(ranks: np.ndarray, names: Sequence[str], *, labels: Sequence[str] | None = None, n_bins: int = 20) -> Figure:
    """Rank histograms of simulation-based calibration (Talts et al. 2018, arXiv:1804.06788); flat is right.

    Parameters
    ----------
    ranks : (n_mock, n_param) share of posterior samples below the truth, 0 … 1.
    names : the parameters.
    labels : panel titles; by default those of the known parameters.
    n_bins : histogram bins.

    Returns
    -------
    figure : the grey bands hold 99% of the counts of a calibrated posterior, in each bin.
    """
    ranks = _check_ranks(ranks, names)
    shown = [label.split(" [")[0] for label in _labels(names, labels)]
    n_bins = whole_number("n_bins", n_bins)
    low, high = binom.ppf([(1 - _BAND) / 2, (1 + _BAND) / 2], len(ranks), 1 / n_bins)
    n_column = min(4, len(shown))
    n_row = math.ceil(len(shown) / n_column)
    figure = Figure(figsize=(2.4 * n_column, 1.9 * n_row + 0.4), dpi=_DPI, layout="constrained")
    grid = figure.subplots(n_row, n_column, squeeze=False, sharex=True, sharey=True)
    _ticks_inward(*grid.flat)
    for index, (axes, label) in enumerate(zip(grid.flat, shown, strict=False)):
        axes.axhspan(low, high, color=_GREY, alpha=0.25, linewidth=0)
        axes.axhline(len(ranks) / n_bins, color=_GREY, linewidth=0.8)
        counts, edges = np.histogram(ranks[:, index], bins=n_bins, range=(0, 1))
        axes.stairs(counts, edges, baseline=None, color=_BLUE, linewidth=1.3)
        axes.set_title(label, fontsize=10)
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
    grid[0, 0].set_ylim(bottom=0)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(0, len(shown) - n_column) : len(shown)]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("rank of the truth among the posterior samples / number of samples", fontsize=10)
    figure.supylabel(f"mocks per bin, of {len(ranks):,}", fontsize=10)
    return figure


@own_style
def tarp_plot(result: TarpResult, n_mocks: int) -> Figure:
    """Expected coverage of random credible regions (TARP; Lemos et al. 2023, arXiv:2302.03026); the diagonal is right.

    Parameters
    ----------
    result : coverage and its error.
    n_mocks : how many mocks it is from.

    Returns
    -------
    figure : above the coverage, below its difference from the level. A coverage above its level is under-confident, one below
        it over-confident; the band is the level with 99% of the coverage's own bootstrap error, which many reference points for
        each mock make smaller than the binomial one.
    """
    figure = Figure(figsize=(4.8, 6.0), dpi=_DPI, layout="constrained")
    reach = ndtri((1 + _BAND) / 2) * result.ecp_error
    panels = _Calibration.of(figure, result.levels, result.levels - reach, result.levels + reach)
    panels.curve(result.ecp, color=_BLUE, linewidth=1.6, label=f"coverage on {n_mocks:,} mocks")
    panels.upper.set(ylabel="expected coverage")
    panels.lower.set(xlabel="credibility level", ylabel="coverage − level")
    panels.upper.legend(loc="upper left", fontsize=9, frameon=False)
    return figure


@own_style
def edge_plot(result: EdgeResult) -> Figure:
    """Truths at the edges of each parameter's prior: their number over the number that the posteriors say; one is right.

    Returns
    -------
    figure : bars are the 99% range of a calibrated posterior's counts; edges where too few truths are expected for such a range
        are left out.
    """
    shown = np.flatnonzero(result.normal)
    figure = Figure(figsize=(7.2, 4.2), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    _ticks_inward(axes)
    axes.axhline(1, color=_GREY, linewidth=0.8)
    names = list(dict.fromkeys(edge.rsplit(" ", 1)[0] for edge in result.edges))
    for side, color, offset, marker in (("low", _BLUE, -0.12, "v"), ("high", _ORANGE, 0.12, "^")):
        rows = [k for k in shown if result.edges[k].endswith(f" {side}")]
        at = [names.index(result.edges[k].rsplit(" ", 1)[0]) + offset for k in rows]
        ratio, error = result.n_truth[rows] / result.n_expected[rows], result.n_error[rows] / result.n_expected[rows]
        axes.errorbar(
            at,
            ratio,
            yerr=norm.isf((1 - _BAND) / 2) * error,
            fmt=marker,
            color=color,
            capsize=2,
            label=f"{side} edge, {_BAND:.0%}",
        )
    axes.set_xticks(range(len(names)), [label.split(" [")[0] for label in _labels(names, None)], rotation=30, ha="right")
    axes.set(xlim=(-0.6, len(names) - 0.4), ylabel="truths at the edge / expected")
    # No count is negative, of which the bars of few know nothing.
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.legend(loc="best", fontsize=9, frameon=False)
    return figure
