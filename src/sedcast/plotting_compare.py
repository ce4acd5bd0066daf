"""Pictures of a comparison: classifier accuracies, differences by parameter, and posteriors over each other."""

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sedcast.baselines.compare import FLOOR, Comparison, GalaxyComparison, Pair
from sedcast.baselines.outcomes import COMPARED_NAMES, PHYSICAL_NAMES
from sedcast.baselines.report_tables import C2ST_BAR, GROUPS, pair_name
from sedcast.plotting import _COLORS, _DPI, _GREY, _labels, _ticks_inward, corner_plot, own_style
from sedcast.posterior.quantities import SHOWN_QUANTITIES

__all__ = ["c2st_plot", "corner_of", "difference_plot"]

_METHOD_COLORS = {"flow": _COLORS[1], "refined": _COLORS[2], "emcee": _COLORS[0], "zeus": _COLORS[3], "nautilus": _COLORS[4]}


def _color(pair: Pair) -> str:
    return _GREY if pair[1] == FLOOR else _METHOD_COLORS.get(pair[0], _COLORS[6])


@own_style
def c2st_plot(comparison: Comparison) -> Figure:
    """Share of galaxies whose classifier accuracy is below each value, by pair of methods; 0.5 is indistinguishable."""
    figure = Figure(figsize=(6.6, 4.4), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    _ticks_inward(axes)
    axes.axvline(0.5, color=_GREY, linewidth=0.8)
    axes.axvline(C2ST_BAR, color=_GREY, linewidth=0.8, linestyle=":")
    groups = [name for name in GROUPS if comparison.group(name)]
    for pair in comparison.pairs:
        for group, dash in zip(groups, ("-", "--"), strict=False):
            values = np.sort([one.pairs[pair].c2st for one in comparison.group(group) if pair in one.pairs])
            values = values[np.isfinite(values)]
            if len(values):
                share = np.arange(len(values) + 1) / len(values)
                steps = np.concatenate([[min(0.45, values[0])], values])
                axes.step(steps, share, where="post", color=_color(pair), linestyle=dash, linewidth=1.5)
    handles = [Line2D([], [], color=_color(pair), label=pair_name(pair)) for pair in comparison.pairs]
    handles += [
        Line2D([], [], color="black", linestyle=dash, label=f"{GROUPS[group]} ({len(comparison.group(group))})")
        for group, dash in zip(groups, ("-", "--"), strict=False)
    ]
    handles.append(Line2D([], [], color=_GREY, linewidth=0.8, linestyle=":", label=f"bar, {C2ST_BAR:g}"))
    # Shares rise from the left: there, above them, is room.
    axes.legend(handles=handles, loc="upper left", fontsize=9, frameon=False)
    axes.set(xlabel="classifier two-sample test: held-out accuracy", ylabel="share of galaxies below", ylim=(0, 1.02))
    return figure


@own_style
def difference_plot(comparison: Comparison) -> Figure:
    """Shifts of medians and ratios of widths by quantity and pair: median over galaxies, and 16–84%."""
    pairs = [pair for pair in comparison.pairs if any(pair in one.pairs for one in comparison.galaxies)]
    figure = Figure(figsize=(8.6, 6.0), dpi=_DPI, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    _ticks_inward(top, bottom)
    position = np.arange(len(COMPARED_NAMES))
    for index, pair in enumerate(pairs):
        offset = 0.16 * (index - (len(pairs) - 1) / 2)
        for axes, field in ((top, "shift"), (bottom, "width_ratio")):
            values = np.array([getattr(one.pairs[pair], field) for one in comparison.galaxies if pair in one.pairs])
            low, middle, high = np.nanpercentile(values, [16, 50, 84], axis=0)
            axes.errorbar(
                position + offset,
                middle,
                yerr=[middle - low, high - middle],
                fmt="o",
                ms=3.5,
                linewidth=1.3,
                color=_color(pair),
                label=pair_name(pair),
            )
    for axes, level in ((top, 0.0), (bottom, 1.0)):
        axes.axhline(level, color=_GREY, linewidth=0.8, zorder=0)
    top.set(ylabel=r"shift of the median [$\sigma$]")
    bottom.set(ylabel="ratio of the 68% widths", xlim=(-0.6, len(position) - 0.4))
    labels = [label.split(" [")[0] for label in _labels(COMPARED_NAMES, None)]
    bottom.set_xticks(position, labels, rotation=35, ha="right")
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=len(pairs), fontsize=9, frameon=False)
    return figure


def corner_of(one: GalaxyComparison, physical: Callable[[np.ndarray, float], np.ndarray]) -> Figure:
    """Posteriors of one galaxy by all methods; a mock's truth is marked.

    Parameters
    ----------
    one : the galaxy with its runs.
    physical : from points of probit space (n, 11) and redshift to `PHYSICAL_NAMES` (n, 17).
    """
    columns = [PHYSICAL_NAMES.index(name) for name in SHOWN_QUANTITIES]
    samples = {
        name: physical(outcome.draws, one.galaxy.zred)[:, columns]
        for name, outcome in one.outcomes.items()
        if not outcome.failed
    }
    truth = None if one.galaxy.truth is None else physical(one.galaxy.truth[None], one.galaxy.zred)[0, columns]
    title = f"{'galaxy ' * (one.galaxy.truth is None)}{one.galaxy.name}, z = {one.galaxy.zred:.4f}"
    return corner_plot(samples, SHOWN_QUANTITIES, truth=truth, title=title)  # type: ignore[arg-type]
