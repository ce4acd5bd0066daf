"""Two pictures of a paper: the training set beside the catalogue, and one posterior by flow and MCMC with its spectrum."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from sedcast.data.asinh import asinh_magnitude, asinh_magnitude_error
from sedcast.data.catalog import Catalog
from sedcast.plotting import _DPI, _ticks_inward, corner_plot, corner_size, draw_corner, draw_sed, own_style, plain
from sedcast.posterior.mocks import Mocks
from sedcast.sampled_seds import SampledSeds

__all__ = ["posterior_figure", "training_figure", "training_labels"]

_CORNER = (
    "log_mstar",
    "log_sfr_1gyr",
    "log_z_mw",
    "t_mw_gyr",
    "fburst",
    "tburst",
    "dust1",
    "dust2",
    "dust_index",
)
_SED_HEIGHT = 4.0


def training_figure(training: Mocks, catalog: Catalog, softening: Sequence[float]) -> Figure:
    """Magnitude, colours, errors and redshift of training galaxies and of a catalogue with every band measured.

    Parameters
    ----------
    training : drawn as the training set was, in the catalogue's bands.
    catalog : real galaxies.
    softening : of each band's asinh magnitudes, nanomaggies.
    """
    bands = catalog.bands
    columns = {
        "training simulations": _columns(training.flux, training.flux_ivar, training.zred, bands, softening),
        "catalogue": _columns(catalog.flux, catalog.flux_ivar, catalog.zred, bands, softening),
    }
    labels = training_labels(bands)
    return corner_plot(columns, labels, labels=labels, counted="galaxies")


def training_labels(bands: Sequence[str]) -> list[str]:
    """The quantities of `training_figure`."""
    names = [plain(band) for band in bands]
    middle = names[len(names) // 2]
    return [
        f"{middle} [mag]",
        *(f"{a} $-$ {b} [mag]" for a, b in pairwise(names)),
        *(rf"$\log_{{10}} \sigma$({name}) [mag]" for name in (names[0], middle)),
        "$z$",
    ]


def _columns(
    flux: np.ndarray, ivar: np.ndarray, zred: np.ndarray, bands: Sequence[str], softening: Sequence[float]
) -> np.ndarray:
    magnitude, error = asinh_magnitude(flux, softening), asinh_magnitude_error(flux, ivar**-0.5, softening)
    k = len(bands) // 2
    return np.column_stack(
        [magnitude[:, k], magnitude[:, :-1] - magnitude[:, 1:], np.log10(error[:, 0]), np.log10(error[:, k]), zred]
    )


@own_style
def posterior_figure(
    samples: Mapping[str, np.ndarray],
    flux: np.ndarray,
    flux_ivar: np.ndarray,
    *,
    predicted: SampledSeds,
    names: Sequence[str],
    title: str = "",
) -> Figure:
    """A corner plot of one galaxy by several methods, and below it what the posterior predicts of photometry and spectrum.

    Parameters
    ----------
    samples : by method, (n, n_quantity) samples.
    flux, flux_ivar, predicted : as in `sedcast.plotting.sed_plot`.
    names : of the quantities, the columns of `samples`.
    title : of the galaxy.
    """
    drawn = [name for name in (*_CORNER, "zred") if name in names]
    columns = [list(names).index(name) for name in drawn]
    size = corner_size(len(drawn))
    figure = Figure(figsize=(size, size + _SED_HEIGHT), dpi=_DPI)
    top, bottom = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=(size, _SED_HEIGHT))))
    draw_corner(top, {name: values[:, columns] for name, values in samples.items()}, drawn, title=title)
    axes = bottom.subplots()
    bottom.subplots_adjust(left=1.05 / size, right=1 - 0.1 / size, bottom=0.75 / _SED_HEIGHT, top=1 - 0.15 / _SED_HEIGHT)
    _ticks_inward(axes)
    draw_sed(axes, flux, flux_ivar, predicted=predicted)
    axes.set_xlabel(r"observed wavelength [$\mathrm{\AA}$]")
    return figure
