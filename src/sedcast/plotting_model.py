"""Pictures of what parameters mean for a galaxy's past, and of how well the emulator knows its model."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.plotting import _BLUE, _DPI, _line_style, _ticks_inward, own_style, plain
from sedcast.sampled_histories import sampled_histories

__all__ = ["emulator_accuracy_plot", "history_plot"]

_PERCENTILES = (2.5, 16, 50, 84, 97.5)
_DECADES = 3.5
_WAVE_TICKS = (1000, 2000, 3000, 5000, 10_000, 20_000, 30_000)


@own_style
def history_plot(theta: np.ndarray, zred: float, bases: SFHBases, cosmology: Cosmology, *, title: str = "") -> Figure:
    """Star-formation rate (burst included) and metallicity against lookback time: medians, 68% and 95% bands.

    Parameters
    ----------
    theta : (n_sample, 12) posterior samples.
    zred : redshift of the galaxy, which sets its age.
    bases, cosmology : those of the SPS model, which the estimator holds.
    title : of the picture.

    Raises
    ------
    ParameterError : if the redshift is outside the bases or the cosmology.
    """
    histories = sampled_histories(theta, zred, bases, cosmology)
    figure = Figure(figsize=(7.0, 5.2), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    _ticks_inward(upper, lower)
    low95, low, median, high, high95 = np.percentile(histories.sfr, _PERCENTILES, axis=0)
    edges = histories.edges_gyr
    upper.stairs(high95, edges, baseline=low95, fill=True, color=_BLUE, alpha=0.18, label="95%")
    upper.stairs(high, edges, baseline=low, fill=True, color=_BLUE, alpha=0.35, label="68%")
    upper.stairs(median, edges, baseline=None, color=_BLUE, linewidth=1.5, label="median")
    top, least = float(high95.max()), float(low[low > 0].min(initial=np.inf))
    if top > 0:
        bottom = max(min(least, top) / 1.5, top * 10**-_DECADES)
        upper.set(yscale="log", ylim=(bottom, 1.6 * top))
    upper.set(ylabel=r"SFR [M$_\odot$ yr$^{-1}$]", title=plain(title))
    # Above the axes, for the swatches have the colours of the bands.
    figure.legend(*upper.get_legend_handles_labels(), frameon=False, fontsize=9, ncols=3, loc="outside upper center")
    bands = np.percentile(histories.log_z, _PERCENTILES, axis=0)
    lower.fill_between(histories.centres_gyr, bands[0], bands[4], color=_BLUE, alpha=0.18, linewidth=0)
    lower.fill_between(histories.centres_gyr, bands[1], bands[3], color=_BLUE, alpha=0.35, linewidth=0)
    lower.plot(histories.centres_gyr, bands[2], color=_BLUE, linewidth=1.5)
    lower.set(ylabel=r"$\log_{10} Z$ (mass fraction)", xlabel="lookback time [Gyr]", xlim=(0, edges[-1]))
    return figure


@own_style
def emulator_accuracy_plot(
    wave_rest: np.ndarray, errors: Mapping[float, np.ndarray], *, n_draws: int, bars: Mapping[float, float] | None = None
) -> Figure:
    """Percentiles of the emulated spectrum's relative error against rest-frame wavelength.

    Parameters
    ----------
    wave_rest : (n_wave,) Å.
    errors : by percentile of the draws, (n_wave,) relative errors.
    n_draws : how many galaxies they are of.
    bars : by percentile, the error that it must stay below.

    Raises
    ------
    ParameterError : if shapes disagree, or a bar is of another percentile.
    """
    bars = {} if bars is None else bars
    wrong = [percentile for percentile, values in errors.items() if np.shape(values) != np.shape(wave_rest)]
    if wrong or not errors:
        raise ParameterError(
            f"errors of percentiles {wrong} have not one value a wavelength, of which there are {len(wave_rest)}"
        )
    if not set(bars) <= set(errors):
        raise ParameterError(f"bars {sorted(bars)} must be of the percentiles drawn, {sorted(errors)}")
    figure = Figure(figsize=(7, 4), dpi=_DPI, layout="constrained")
    panel = figure.subplots()
    _ticks_inward(panel)
    for index, (percentile, values) in enumerate(errors.items()):
        style = _line_style(index)
        panel.plot(wave_rest, values, linewidth=1, label=f"{percentile:g}% of draws", **style)
        if percentile in bars:
            panel.axhline(bars[percentile], color=style["color"], linewidth=1, linestyle="--", label=f"bar for {percentile:g}%")
    panel.set(xscale="log", yscale="log", xlabel=r"rest-frame wavelength [$\mathrm{\AA}$]")
    panel.set(ylabel=r"relative error $|\Delta L_\lambda / L_\lambda|$", title=f"Emulator against the model, {n_draws:,} draws")
    panel.set_xticks([t for t in _WAVE_TICKS if wave_rest[0] <= t <= wave_rest[-1]])
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    # Room for the legend above the bars.
    highest = max([float(np.max(values)) for values in errors.values()] + list(bars.values()))
    panel.set_ylim(top=12 * highest)
    panel.legend(frameon=False, ncols=2, fontsize="small", loc="upper right")
    return figure
