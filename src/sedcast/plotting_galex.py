"""Widths of posteriors with and without GALEX's bands."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from sedcast.plotting import own_style
from sedcast.posterior.quantities import QUANTITIES, QUANTITY_LABELS

__all__ = ["galex_plot"]


@own_style
def galex_plot(widths: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Half 68% intervals of galaxies by quantity, (n,) each: without GALEX along, with it up, one panel a quantity."""
    figure = Figure(figsize=(4.2 * len(widths), 4.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(widths)))
    for axes, (name, (without, full)) in zip(panels, widths.items(), strict=True):
        axes.plot(without, full, ".", markersize=4, alpha=0.5, color="#0072B2")
        end = 1.05 * float(max(without.max(), full.max()))
        axes.plot([0, end], [0, end], color="#555555", linewidth=1)
        unit = "dex" if name.startswith("log_") else QUANTITIES[name].unit
        width = "half the 68% interval" + (f" [{unit}]" if unit else "")
        axes.set(xlim=(0, end), ylim=(0, end), title=QUANTITY_LABELS[name].split(" [")[0])
        axes.set(xlabel=f"u g r i z: {width}", ylabel=f"FUV NUV u g r i z: {width}")
    return figure
