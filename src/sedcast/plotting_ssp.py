"""The picture of `sedcast ssp compare`."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from sedcast.emulator.ssp_comparison import LibraryComparison
from sedcast.plotting import _DPI, _line_style, _ticks_inward, own_style, plain

__all__ = ["ssp_plot"]

_TICKS = (1000, 2000, 4000, 8000, 20_000)
_DECADES = 3.0
_RATIO_LIMITS = (0.4, 2.5)
_RATIO_TICKS = (0.5, 0.7, 1.0, 1.4, 2.0)


@own_style
def ssp_plot(comparison: LibraryComparison) -> Figure:
    """Spectra of the same galaxies on several SSP libraries, and below their ratios to the first library.

    Returns
    -------
    figure : one column a galaxy; ratios beyond 0.4 … 2.5 leave the panel.
    """
    n = len(comparison.galaxies)
    figure = Figure(figsize=(1.0 + 3.6 * n, 5.4), dpi=_DPI, layout="constrained")
    panels = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False, height_ratios=(2.2, 1))
    wave = comparison.wave_rest
    reference, *_ = comparison.luminosity
    for column, galaxy in enumerate(comparison.galaxies):
        spectra, ratios = panels[:, column]
        _ticks_inward(spectra, ratios)
        for index, (name, luminosity) in enumerate(comparison.luminosity.items()):
            style = _line_style(index) | {"linewidth": 0.9}
            spectra.plot(wave, wave * luminosity[column], label=plain(name), **style)
            ratios.plot(wave, comparison.ratio(name)[column], **style)
        spectra.set_title(galaxy, fontsize=11)
        ratios.set_xlabel(r"rest wavelength [$\mathrm{\AA}$]")
    peak = max(float(np.max(wave * luminosity)) for luminosity in comparison.luminosity.values())
    panels[0, 0].set(xscale="log", xlim=(wave[0], wave[-1]), yscale="log", ylim=(peak * 10**-_DECADES, peak * 1.5))
    panels[0, 0].set_ylabel(r"$\lambda L_\lambda$ [L$_\odot$], $10^{10}$ M$_\odot$ formed")
    panels[1, 0].set(yscale="log", ylim=_RATIO_LIMITS, ylabel=f"ratio to {plain(reference)}")
    panels[1, 0].set_yticks(_RATIO_TICKS, [f"{tick:g}" for tick in _RATIO_TICKS])
    panels[1, 0].set_xticks([tick for tick in _TICKS if wave[0] <= tick <= wave[-1]])
    for axis in (panels[1, 0].xaxis, panels[1, 0].yaxis):
        axis.set_minor_formatter(NullFormatter())
    panels[1, 0].xaxis.set_major_formatter(ScalarFormatter())
    panels[0, -1].legend(loc="lower right", fontsize=9, frameon=False)
    return figure
