"""Pictures in the manner of the field: one function each, returning a Matplotlib figure and touching no global state.

Colours are those of Okabe & Ito (2008), which stay apart for colour-blind readers; dashes tell lines apart too.
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator, NullFormatter

from sedcast.data.artifacts import atomic_path, output_path
from sedcast.data.checks import as_floats, as_names, check_kind, one_number
from sedcast.data.errors import ParameterError
from sedcast.data.outputs import mark_for
from sedcast.data.units import as_nanomaggies
from sedcast.posterior.quantities import QUANTITY_LABELS
from sedcast.sampled_seds import SampledSeds

__all__ = [
    "corner_plot",
    "corner_size",
    "draw_corner",
    "draw_sed",
    "mass_sfr_plane",
    "own_style",
    "plain",
    "save_figure",
    "sed_plot",
]

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
_BLUE, _ORANGE, _GREY = _COLORS[0], _COLORS[1], "#666666"
_DPI = 150
# A label nearer to an end of its axis, as a share of it, would run into that of the panel beside it.
_END = 0.1
_N_BINS = 30
# Of a spectrum, as a share of the brightest flux: what is fainter may leave the picture.
_FAINTEST = 1e-3
# Width and height of a spectrum's legend, inches.
_LEGEND = (2.9, 1.2)

own_style = matplotlib.style.context("default")
"""Decorator of what draws and saves: nothing of a user's matplotlibrc gets into a picture."""


def plain(text: str) -> str:
    """Text in which a dollar sign is no beginning of a formula."""
    return str(text).replace("$", r"\$")


@own_style
def save_figure(figure: Figure, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a picture, PNG if the name does not say what; it has its name when it is whole.

    Raises
    ------
    ParameterError : if a file is there already, unless `overwrite` says that it may be replaced, or its ending is that of no
        picture.
    """
    path = output_path(path, overwrite=overwrite)
    kind = path.suffix[1:].lower() or "png"
    check_kind("figure", figure, Figure, "one of Matplotlib")
    if kind not in (known := figure.canvas.get_supported_filetypes()):
        raise ParameterError(f"{path}: no kind of picture is called {kind}, expected one of {', '.join(sorted(known))}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=mark_for(kind))


def _line_style(index: int) -> dict[str, Any]:
    return {"color": _COLORS[index % len(_COLORS)], "linestyle": _DASHES[index // len(_COLORS) % len(_DASHES)]}


def _labels(names: Sequence[str], labels: Sequence[str] | None) -> list[str]:
    if labels is None:
        return [QUANTITY_LABELS.get(name, name) for name in names]
    given = as_names("labels", labels)
    if len(given) != len(names):
        raise ParameterError(f"{len(given)} labels for {len(names)} names: pass one each")
    return list(given)


def _ticks_inward(*panels: Axes) -> None:
    for axes in panels:
        axes.tick_params(which="both", direction="in", top=True, right=True)


def _check_samples(posteriors: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    if not isinstance(posteriors, Mapping) or not posteriors:
        raise ParameterError("posteriors is empty: pass at least one {name: samples (n_sample, n_param)}")
    checked, least = {}, max(2, len(names))
    for key, samples in posteriors.items():
        array = as_floats(f"posteriors[{key!r}]", samples)
        if array.ndim != 2 or array.shape[1] != len(names) or len(array) < least:
            raise ParameterError(
                f"posteriors[{key!r}] has shape {array.shape}, expected (n_sample >= {least}, {len(names)} names)"
            )
        if not np.isfinite(array).all():
            raise ParameterError(f"posteriors[{key!r}] holds values that are not finite: leave such samples out")
        checked[key] = array
    return checked


@own_style
def corner_plot(
    posteriors: Mapping[str, np.ndarray],
    names: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    truth: Sequence[float] | None = None,
    title: str = "",
    counted: str = "samples",
) -> Figure:
    """Marginal posteriors of one galaxy in one and two dimensions, several estimates over each other.

    Parameters
    ----------
    posteriors : samples by legend entry, each (n_sample, n_param); sample sizes may differ.
    names : the parameters, in column order.
    labels : axis labels; by default those of the known parameters and derived properties.
    truth : (n_param,) values to mark.
    title : above the legend.
    counted : what the rows of each set are, for the legend.

    Returns
    -------
    figure : contours hold 68% and 95% of the samples.

    Raises
    ------
    ParameterError : if shapes disagree or samples are not finite.
    """
    names = as_names("names", names)
    size = corner_size(len(names))
    figure = Figure(figsize=(size, size), dpi=_DPI)
    draw_corner(figure, posteriors, names, labels=labels, truth=truth, title=title, counted=counted)
    return figure


def corner_size(n: int) -> float:
    """Width and height, inches, of a corner plot of n quantities."""
    return 1.5 * n + 0.9


def _corner() -> Any:
    """The package corner, which imports ArviZ where it is installed, though arrays need none of that."""
    with warnings.catch_warnings():
        # ArviZ announces its own next version.
        warnings.simplefilter("ignore")
        try:
            import corner
        except OSError:
            # It also writes to the home, which on a cluster's nodes may be read-only.
            sys.modules["arviz"] = None  # type: ignore[assignment]
            try:
                import corner
            finally:
                del sys.modules["arviz"]
    return corner


@own_style
def draw_corner(
    figure: Figure | SubFigure,
    posteriors: Mapping[str, np.ndarray],
    names: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    truth: Sequence[float] | None = None,
    title: str = "",
    counted: str = "samples",
) -> None:
    """Draw `corner_plot` into an empty figure, or part of one, of `corner_size`."""
    corner = _corner()
    names = as_names("names", names)
    checked = _check_samples(posteriors, names)
    shown = [label.replace(" [", "\n[") for label in _labels(names, labels)]
    pooled = np.concatenate(list(checked.values()))
    low, high = np.quantile(pooled, [0.002, 0.998], axis=0)
    margin = np.maximum(0.04 * (high - low), 1e-6)
    # Beyond the samples may be the prior's edge: an empty bin there would be smoothed into a fall of the density.
    low, high = np.maximum(low - margin, pooled.min(axis=0)), np.minimum(high + margin, pooled.max(axis=0))
    low, high = np.where(low < high, low, low - margin), np.where(low < high, high, high + margin)
    if truth is not None:
        marked = as_floats("truth", truth)
        if marked.shape != (len(names),) or not np.isfinite(marked).all():
            raise ParameterError(f"truth={truth}: expected one finite number for each of {', '.join(names)}")
        low, high = np.where(marked < low, marked - margin, low), np.where(marked > high, marked + margin, high)
    size = corner_size(len(names))
    # Of few samples narrow bins would draw the noise of their number as islands; histograms keep theirs.
    n_bins = int(np.clip(3.2 * min(map(len, checked.values())) ** 0.25, 12, _N_BINS))
    for index, samples in enumerate(checked.values()):
        style = _line_style(index)
        corner.corner(
            samples,
            fig=figure,
            bins=n_bins,
            hist_bin_factor=_N_BINS / n_bins,
            range=list(zip(low, high, strict=True)),
            labels=shown,
            label_kwargs={"fontsize": 10},
            color=style["color"],
            smooth=1.0,
            smooth1d=1.0,
            levels=(0.68, 0.95),
            plot_datapoints=False,
            plot_density=False,
            fill_contours=index == 0,
            no_fill_contours=index > 0,
            contourf_kwargs={"colors": ["white", *_tints(style["color"])]},
            # Equal total weight puts samples of different sizes on one vertical scale.
            weights=np.full(len(samples), 1 / len(samples)),
            hist_kwargs={"linestyle": _DASHES[index % len(_DASHES)], "linewidth": 1.3},
            contour_kwargs={"linestyles": [_DASHES[index % len(_DASHES)]], "linewidths": 1.1},
            truths=None if truth is None else marked.tolist(),
            truth_color="black",
            max_n_ticks=4,
            labelpad=0.08,
        )
    _fit_diagonals(figure, len(names))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_locator(), MaxNLocator):
            axis.set_major_locator(_InnerTicks(4))
    figure.subplots_adjust(left=1.05 / size, bottom=1.05 / size, right=1 - 0.1 / size, top=1 - 0.1 / size)
    handles = [
        Line2D(
            [], [], color=_COLORS[i % len(_COLORS)], linestyle=_DASHES[i % len(_DASHES)], label=f"{key} ({len(s):,} {counted})"
        )
        for i, (key, s) in enumerate(checked.items())
    ]
    if truth is not None:
        handles.append(Line2D([], [], color="black", marker="s", markersize=4, linewidth=1, label="truth"))
    figure.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(0.97, 0.96), fontsize=11, frameon=False, title=plain(title) or None
    )


class _InnerTicks(MaxNLocator):
    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        room = _END * (vmax - vmin)
        return [tick for tick in super().tick_values(vmin, vmax) if vmin + room < tick < vmax - room]


def _tints(color: str) -> list[tuple[float, float, float]]:
    """Two light tints, so that lines of the same colour stay visible on them."""
    rgb = np.array(to_rgb(color))
    return [tuple(1 - share * (1 - rgb)) for share in (0.22, 0.45)]


def _fit_diagonals(figure: Figure | SubFigure, n: int) -> None:
    # corner leaves each histogram panel at the height of the last estimate drawn.
    for axes in figure.axes[:: n + 1]:
        curves = [np.asarray(line.get_ydata()) for line in axes.lines]
        axes.set_ylim(0, 1.08 * max(float(curve.max()) for curve in curves if len(curve) > 2))


@own_style
def sed_plot(
    flux: np.ndarray,
    flux_ivar: np.ndarray,
    *,
    predicted: SampledSeds,
    title: str = "",
) -> Figure:
    """Observed photometry of one galaxy against what its posterior predicts, with residuals and filter curves.

    Parameters
    ----------
    flux, flux_ivar : (n_band,) nanomaggies and nanomaggies^-2, or with units; ivar 0 where a band is missing.
    predicted : what posterior samples predict.
    title : of the picture.

    Raises
    ------
    ParameterError : if shapes disagree.
    """
    check_kind("predicted", predicted, SampledSeds, "sampled_seds(simulator, theta, zred) makes it")
    flux, ivar = as_nanomaggies(flux, flux_ivar)
    n = len(predicted.curves)
    if flux.shape != (n,) or ivar.shape != (n,) or predicted.flux.shape[1:] != (n,):
        raise ParameterError(
            f"flux {flux.shape}, flux_ivar {ivar.shape}, predicted.flux {predicted.flux.shape} do not fit {n} bands: "
            f"expected ({n},), ({n},), (n_sample, {n})"
        )
    if predicted.spectrum.shape[1:] != predicted.wave_obs.shape:
        raise ParameterError(
            f"predicted.spectrum {predicted.spectrum.shape} does not fit {len(predicted.wave_obs)} wavelengths"
        )
    centre, seen = predicted.centre, _seen(flux, ivar)
    figure = Figure(figsize=(7.5, 6.0), dpi=_DPI, layout="constrained")
    main, residual, filters = figure.subplots(3, 1, sharex=True, height_ratios=(5, 1.4, 0.9))
    _ticks_inward(main, residual, filters)
    draw_sed(main, flux, ivar, predicted=predicted)
    main.set_title(plain(title))
    _draw_residuals(residual, centre[seen], flux[seen], ivar[seen] ** -0.5, predicted.flux[:, seen])
    for curve in predicted.curves:
        response = curve.response / curve.response.max()
        filters.fill_between(curve.wave, response, color=_GREY, alpha=0.3, linewidth=0)
        filters.plot(curve.wave, response, color=_GREY, linewidth=0.6)
        filters.text(curve.effective_wave, 0.45, plain(curve.name), ha="center", va="center", fontsize=9)
    filters.set(ylim=(0, 1.1), yticks=[], ylabel="filters", xlabel=r"observed wavelength [$\mathrm{\AA}$]")
    return figure


def _seen(flux: np.ndarray, flux_ivar: np.ndarray) -> np.ndarray:
    """(n_band,) bool, which bands are measured."""
    return np.isfinite(flux) & np.isfinite(flux_ivar) & (flux_ivar > 0)


@own_style
def draw_sed(
    axes: Axes,
    flux: np.ndarray,
    flux_ivar: np.ndarray,
    *,
    predicted: SampledSeds,
) -> None:
    """Draw the photometry and the predictions of `sed_plot`."""
    flux, flux_ivar = as_nanomaggies(flux, flux_ivar)
    centre, seen = predicted.centre, _seen(flux, flux_ivar)
    low95, low, median, high, high95 = np.quantile(predicted.flux, [0.025, 0.16, 0.5, 0.84, 0.975], axis=0)
    s16, s50, s84 = np.quantile(predicted.spectrum, [0.16, 0.5, 0.84], axis=0)
    wave_obs = predicted.wave_obs
    axes.fill_between(wave_obs, s16, s84, color=_BLUE, alpha=0.25, linewidth=0, label="spectrum, 68%")
    axes.plot(wave_obs, s50, color=_BLUE, linewidth=0.7, label="spectrum, median")
    axes.vlines(centre, low95, high95, color=_ORANGE, linewidth=1.2)
    axes.vlines(centre, low, high, color=_ORANGE, linewidth=3.5)
    axes.plot(centre, median, "s", color=_ORANGE, mfc="white", ms=9, mew=1.5, label="predicted flux, 68% and 95%")
    error = flux_ivar[seen] ** -0.5
    axes.errorbar(centre[seen], flux[seen], error, fmt="o", color="black", ms=4, capsize=2.5, label="observed flux")
    below = flux[seen] <= 0
    if below.any():
        # A logarithmic axis has no place for them, and without a mark they would look like bands that were not measured.
        axes.plot(centre[seen][below], 2 * error[below], "v", color="black", ms=7, label=r"observed flux < 0, at 2$\sigma$")
    # Of a flux that is lost in the noise, the end of the error bar is to be seen.
    marks = np.where(below, 2 * error, np.maximum(flux[seen], error))
    _limit_sed(axes, centre, np.concatenate([marks, median]), wave_obs, s50)
    axes.set(ylabel=r"$f_\nu$ [nanomaggies]")
    ends = ((centre, low95, high95), (centre[seen], flux[seen] - error, flux[seen] + error))
    along = [np.stack(np.broadcast_arrays(at, np.linspace(start, stop, 9)), axis=-1).reshape(-1, 2) for at, start, stop in ends]
    corner = _emptiest_corner(axes, np.concatenate([*along, np.stack([wave_obs, s50], axis=1)]))
    handles, entries = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], entries[::-1], loc=corner, fontsize=9, frameon=False)


def _emptiest_corner(axes: Axes, points: np.ndarray) -> str:
    """The place of a legend: the first corner, lower right before the others, that has fewest of the points (n, 2)."""
    x, y = (axes.transScale + axes.transLimits).transform(points).T
    width, height = np.array(_LEGEND) * axes.figure.dpi / axes.bbox.size
    taken = {
        "lower right": (x > 1 - width) & (y < height),
        "upper left": (x < width) & (y > 1 - height),
        "lower left": (x < width) & (y < height),
        "upper right": (x > 1 - width) & (y > 1 - height),
    }
    shown = (x > 0) & (x < 1) & (y > 0) & (y < 1)
    return min(taken, key=lambda place: int((taken[place] & shown).sum()))


class _PlainNumbers(LogFormatter):
    """Labels the ticks that Matplotlib would, but with 20 in place of 2 × 10¹."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _limit_sed(axes: Axes, centre: np.ndarray, fluxes: np.ndarray, wave: np.ndarray, spectrum: np.ndarray) -> None:
    left, right = 0.8 * centre.min(), 1.25 * centre.max()
    shown = fluxes[fluxes > 0]
    axes.set(xscale="log", xlim=(left, right))
    if len(shown):
        curve = spectrum[(wave > left) & (wave < right) & (spectrum > shown.max() * _FAINTEST)]
        ends = np.concatenate([shown, curve])
        axes.set(yscale="log", ylim=(ends.min() / 2, ends.max() * 1.8))
        axes.yaxis.set_major_formatter(_PlainNumbers())
        axes.yaxis.set_minor_formatter(_PlainNumbers())
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = [t for t in (1500, 2000, 3000, 4000, 5000, 6000, 8000, 10000, 15000, 20000) if left < t < right]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_residuals(axes: Axes, centre: np.ndarray, flux: np.ndarray, error: np.ndarray, predicted: np.ndarray) -> None:
    low95, low, median, high, high95 = np.quantile((flux - predicted) / error, [0.025, 0.16, 0.5, 0.84, 0.975], axis=0)
    axes.axhspan(-1, 1, color=_GREY, alpha=0.2, linewidth=0)
    axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.vlines(centre, low95, high95, color=_ORANGE, linewidth=1.2)
    axes.vlines(centre, low, high, color=_ORANGE, linewidth=3.5)
    axes.plot(centre, median, "s", color=_ORANGE, mfc="white", ms=6, mew=1.3)
    reach = max(3.0, 1.1 * float(np.abs([low95, high95]).max(initial=0.0)))
    axes.set(ylim=(-reach, reach), ylabel=r"(obs$-$pred)/$\sigma$")


@own_style
def mass_sfr_plane(
    log_mstar: np.ndarray,
    log_sfr: np.ndarray,
    *,
    log_mstar_error: np.ndarray | None = None,
    log_sfr_error: np.ndarray | None = None,
    quenched_log_ssfr: float | None = -11.0,
    sfr_label: str = QUANTITY_LABELS["log_sfr_1gyr"],
) -> Figure:
    """Stellar mass formed against star-formation rate of a sample: posterior medians as points, or as density from 2,000 on.

    Parameters
    ----------
    log_mstar : (n,) posterior medians of log10 mass formed, Msun.
    log_sfr : (n,) posterior medians of log10 SFR, Msun/yr.
    log_mstar_error, log_sfr_error : (n,) half widths of the 68% intervals, whose medians are drawn as the typical error.
    quenched_log_ssfr : log10 of the specific SFR per year to draw as a line of division, or None.
    sfr_label : of the vertical axis.

    Raises
    ------
    ParameterError : if shapes disagree or no point is finite.
    """
    mass, sfr = as_floats("log_mstar", log_mstar), as_floats("log_sfr", log_sfr)
    if mass.ndim != 1 or mass.shape != sfr.shape:
        raise ParameterError(f"log_mstar {mass.shape} and log_sfr {sfr.shape} must be one value a galaxy, of equal length")
    finite = np.isfinite(mass) & np.isfinite(sfr)
    if not finite.any():
        raise ParameterError("no galaxy has a finite log_mstar and log_sfr: nothing to draw")
    if quenched_log_ssfr is not None:
        quenched_log_ssfr = one_number("quenched_log_ssfr", quenched_log_ssfr)
    errors = [
        None if values is None else as_floats(name, values)
        for name, values in (("log_mstar_error", log_mstar_error), ("log_sfr_error", log_sfr_error))
    ]
    if wrong := [values.shape for values in errors if values is not None and values.shape != mass.shape]:
        raise ParameterError(f"errors of shape {wrong[0]} for {len(mass)} galaxies: expected one value a galaxy")
    x, y = mass[finite], sfr[finite]
    xlim, ylim = _padded(x), _padded(y)
    figure = Figure(figsize=(6.2, 5.0), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    _ticks_inward(axes)
    if len(x) >= 2000:
        image = axes.hexbin(x, y, gridsize=60, bins="log", mincnt=1, cmap="cividis", extent=(*xlim, *ylim), linewidths=0.1)
        figure.colorbar(image, ax=axes, label="galaxies per cell")
    else:
        axes.plot(x, y, "o", ms=4, color=_BLUE, alpha=0.55, mew=0, label=f"{len(x)} galaxies, medians")
    if quenched_log_ssfr is not None:
        edge = np.array(xlim)
        label = rf"sSFR = $10^{{{quenched_log_ssfr:g}}}$ yr$^{{-1}}$"
        axes.plot(edge, edge + quenched_log_ssfr, "--", color="black", linewidth=1, label=label)
    if errors[0] is not None and errors[1] is not None:
        dx, dy = np.nanmedian(errors[0][finite]), np.nanmedian(errors[1][finite])
        if not min(dx, dy) >= 0:
            raise ParameterError(f"errors have the medians {dx:g} and {dy:g}: expected half widths, which are not negative")
        at = (xlim[1] - 0.06 * np.ptp(xlim) - dx, ylim[0] + 0.06 * np.ptp(ylim) + dy)
        axes.errorbar([at[0]], [at[1]], xerr=[dx], yerr=[dy], color=_ORANGE, capsize=3, label="typical 68% interval")
    axes.set(xlim=xlim, ylim=ylim, xlabel=QUANTITY_LABELS["log_mstar"], ylabel=sfr_label)
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    return figure


def _padded(values: np.ndarray) -> tuple[float, float]:
    """An axis range that holds all but stray values, with room around."""
    low, high = np.quantile(values, [0.002, 0.998])
    room = 0.12 * (high - low) + 0.05
    return float(low - room), float(high + room)
