"""Widths of posteriors with and without GALEX's bands."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from sedcast.plotting import own_style

__all__ = ["galex_plot"]


@own_style
def galex_plot(widths: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Half 68% intervals of galaxies, (n,) each: without GALEX along, with it up, one panel a quantity."""
    figure = Figure(figsize=(4.2 * len(widths), 4.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(widths)))
    for axes, (name, (without, full)) in zip(panels, widths.items(), strict=True):
        axes.plot(without, full, ".", markersize=4, alpha=0.5, color="#0072B2")
        end = 1.05 * float(max(without.max(), full.max()))
        axes.plot([0, end], [0, end], color="#555555", linewidth=1)
        axes.set(
            xlim=(0, end), ylim=(0, end), xlabel="u g r i z", ylabel="FUV NUV u g r i z", title=f"{name}: half 68% interval"
        )
    return figure
