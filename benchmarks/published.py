"""The direct model beside the published PROVABGS emulator, for the same galaxies: what differs, and what it is due to."""

import argparse
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from benchmarks.common import draw, note, positive, provabgs_folder, table
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.histories import BETA, column
from sedcast.emulator.prior import Prior
from sedcast.emulator.published_provabgs import PublishedProvabgsModel
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.sps import SPSModel
from sedcast.emulator.ssp_comparison import bin_edges, bin_spectra

BANDS = ("u", "g", "r", "i", "z", "J", "H", "Ks")
PERCENTILES = (2.5, 16.0, 50.0, 84.0, 97.5)
PAPER_BIRTH_CLOUD_GYR = 0.1

_ZRED_MAX = 0.25
_WAVE = (2020.0, 59_000.0)
_LOG_AGE_NODES = np.array([6.0, 6.5, 7.0, 7.5, 8.0, 8.5, 9.0, 9.4, 9.8, 10.15])
_RANGES = (2020.0, 2800.0, 3600.0, 4500.0, 5500.0, 7400.0, 10_000.0, 16_000.0, 25_000.0, 59_000.0)
_REFIT_DRAWS = 3000
_REFIT_RIDGE = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--published", type=Path, required=True, metavar="DIR", help="folder of the published PROVABGS files")
    parser.add_argument("--galaxies", type=positive, default=200, help="draws from the prior, without burst")
    parser.add_argument("--libraries", nargs="*", default=[], metavar="FILE", help="SSP libraries to set beside PopStar")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios' percentiles against wavelength")


@dataclass(frozen=True)
class Comparison:
    """Light of the direct model over that of the published emulator.

    Attributes
    ----------
    spectra : (n, n_bin) ratios in bins of λ/Δλ = 150.
    delta_mag : (n, n_band) direct minus published magnitude.
    """

    spectra: np.ndarray
    delta_mag: np.ndarray


def compare(
    model: SPSModel,
    published: PublishedProvabgsModel,
    theta: np.ndarray,
    zred: np.ndarray,
    edges: np.ndarray,
    published_theta: np.ndarray | None = None,
) -> Comparison:
    """Both models for the same galaxies, or the published one for `published_theta`."""
    models = ((model, theta), (published, theta if published_theta is None else published_theta))
    light = [bin_spectra(each.wave_rest, each.spectra(values, zred), edges) for each, values in models]
    flux = [PhotometrySimulator(each, BANDS, _ZRED_MAX).flux(values, zred) for each, values in models]
    return Comparison(light[0] / light[1], -2.5 * np.log10(flux[0] / flux[1]))


def published_weights(theta: np.ndarray, zred: np.ndarray, model: SPSModel) -> np.ndarray:
    """Parameters whose β are the mass shares of the history that the published code makes of the given β."""
    shares = theta[:, BETA] * model.histories.total(model.cosmology.age_gyr(zred)).T
    theta = theta.copy()
    theta[:, BETA] = shares / shares.sum(axis=1, keepdims=True)
    return theta


def without_dust(theta: np.ndarray) -> np.ndarray:
    clear = theta.copy()
    clear[:, column("dust1")] = clear[:, column("dust2")] = 0.0
    return clear


def refit(
    model: SPSModel, published: PublishedProvabgsModel, theta: np.ndarray, zred: np.ndarray, edges: np.ndarray, seed: int
) -> np.ndarray:
    """Ratios (n, n_bin), for dust-free `theta`, of the direct model on a library fitted to the published emulator's spectra.

    In each bin the SSPs become the library's times a factor that is linear in log age between ten nodes and free at each
    metallicity; the direct model is linear in those factors, and least squares on other prior draws finds them. Were
    histories, metallicities, ages or normalisation treated differently, no library could mend it.
    """
    others, other_zred = draw_smooth(_REFIT_DRAWS, seed + 1)
    others = without_dust(others)
    library = model.library
    ssp = np.stack([bin_spectra(library.wave_rest, rows, edges) for rows in library.flux])
    binned = replace(library, wave_rest=np.sqrt(edges[1:] * edges[:-1]), flux=ssp)
    hats = [np.interp(library.log_age, _LOG_AGE_NODES, row) for row in np.eye(len(_LOG_AGE_NODES))]
    fitted, tested = [], []
    for metallicity in np.eye(library.log_z.size):
        for hat in hats:
            part = SPSModel(replace(binned, flux=ssp * np.outer(metallicity, hat)[:, :, None]), model.bases, model.cosmology)
            fitted.append(part.spectra(others, other_zred))
            tested.append(part.spectra(theta, zred))
    light, test_light = (
        bin_spectra(published.wave_rest, published.spectra(*draws), edges) for draws in ((others, other_zred), (theta, zred))
    )
    # Relative errors count, and factors that hardly matter stay near one.
    design = (np.array(fitted) / light).transpose(2, 1, 0)
    normal = design.swapaxes(1, 2) @ design + _REFIT_RIDGE * len(others) * np.eye(design.shape[2])
    missing = 1 - design.sum(axis=2)
    factors = 1 + np.linalg.solve(normal, design.swapaxes(1, 2) @ missing[:, :, None])[:, :, 0]
    return np.einsum("cnb,bc->nb", np.array(tested), factors) / test_light


def draw_smooth(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and redshifts from the prior, without burst: the published emulator has none."""
    theta, zred = draw(Prior(), n, _ZRED_MAX, seed)
    theta[:, column("fburst")] = 0.0
    return theta, zred


def ratio_plot(edges: np.ndarray, ratios: dict[str, np.ndarray]) -> Figure:
    """Percentiles over galaxies of each ratio (n, n_bin), one panel each."""
    figure = Figure(figsize=(8, 0.8 + 1.35 * len(ratios)), dpi=130, layout="constrained")
    panels = figure.subplots(len(ratios), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    wave = np.sqrt(edges[1:] * edges[:-1])
    for axes, (name, ratio) in zip(panels, ratios.items(), strict=True):
        low95, low68, median, high68, high95 = np.percentile(ratio, PERCENTILES, axis=0)
        axes.fill_between(wave, low95, high95, color="C0", alpha=0.2, linewidth=0, label="95% of galaxies")
        axes.fill_between(wave, low68, high68, color="C0", alpha=0.4, linewidth=0, label="68%")
        axes.plot(wave, median, color="C0", linewidth=1, label="median")
        axes.axhline(1, color="0.3", linewidth=0.7, linestyle=":")
        axes.set_title(name, fontsize=10, loc="left")
        axes.tick_params(which="both", direction="in", top=True, right=True)
    panels[0].set(xscale="log", yscale="log", xlim=(edges[0], edges[-1]), ylim=(0.5, 2.0))
    panels[0].set_yticks([0.6, 0.8, 1.0, 1.25, 1.6], ["0.6", "0.8", "1", "1.25", "1.6"])
    panels[0].set_xticks([2500, 4000, 6000, 10_000, 20_000, 40_000])
    panels[0].xaxis.set_major_formatter(ScalarFormatter())
    for axis in (panels[0].xaxis, panels[0].yaxis):
        axis.set_minor_formatter(NullFormatter())
    panels[0].legend(loc="upper right", bbox_to_anchor=(1, 1.22), fontsize=8, frameon=False, ncols=3)
    figure.supxlabel(r"rest wavelength [$\mathrm{\AA}$]", fontsize=10)
    figure.supylabel("direct model / published emulator", fontsize=10)
    return figure


def spectral_figures(ratio: np.ndarray, edges: np.ndarray) -> dict[str, list[float]]:
    """Percentiles of ratios by wide wavelength range."""
    wave = np.sqrt(edges[1:] * edges[:-1])
    return {
        f"{low:.0f}-{high:.0f}": np.percentile(ratio[:, (wave >= low) & (wave < high)], PERCENTILES).tolist()
        for low, high in pairwise(_RANGES)
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the direct model, on PopStar and other libraries, with the published emulator."""
    if options.plot is not None and options.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ParameterError(f"--plot {options.plot}: expected a name that ends in .png, .pdf or .svg")
    folder = provabgs_folder(options.published)
    published = PublishedProvabgsModel.load(folder)
    bases = SFHBases.from_published(folder)
    theta, zred = draw_smooth(options.galaxies, options.seed)
    edges = bin_edges(*_WAVE)
    libraries = {"PopStar": SSPLibrary.popstar()}
    for path in options.libraries:
        library = SSPLibrary.load(path)
        libraries[library.name] = library
    clear = without_dust(theta)
    t_cloud = published.t_birth_cloud_gyr
    popstar = SPSModel(libraries["PopStar"], bases, published.cosmology, t_birth_cloud_gyr=t_cloud)
    comparisons: dict[str, Comparison] = {}
    for name, library in libraries.items():
        note(f"  {name}")
        model = SPSModel(library, bases, published.cosmology, t_birth_cloud_gyr=t_cloud)
        comparisons[name] = compare(model, published, theta, zred, edges)
        comparisons[f"{name}, no dust"] = compare(model, published, clear, zred, edges)
    paper = SPSModel(libraries["PopStar"], bases, published.cosmology, t_birth_cloud_gyr=PAPER_BIRTH_CLOUD_GYR)
    comparisons["PopStar, birth clouds of 100 Myr"] = compare(paper, published, theta, zred, edges)
    raw = published_weights(clear, zred, popstar)
    comparisons["PopStar, no dust, β as the published code has them"] = compare(popstar, published, clear, zred, edges, raw)
    ratios = {name: each.spectra for name, each in comparisons.items()}
    ratios["attenuation alone"] = comparisons["PopStar"].spectra / comparisons["PopStar, no dust"].spectra
    note("  SSPs fitted to the published spectra")
    ratios["SSPs fitted to the published spectra, no dust"] = refit(popstar, published, clear, zred, edges, options.seed)
    spectra = {name: spectral_figures(ratio, edges) for name, ratio in ratios.items()}
    bands = {
        name: dict(zip(BANDS, np.percentile(each.delta_mag, PERCENTILES, axis=0).T.tolist(), strict=True))
        for name, each in comparisons.items()
    }
    head = tuple(f"{level:g}%" for level in PERCENTILES)
    for name, rows in spectra.items():
        table((f"{name}: ratio, Å", *head), [(key, *values) for key, values in rows.items()])
    for name, rows in bands.items():
        table((f"{name}: Δm, mag", *head), [(key, *values) for key, values in rows.items()])
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        ratio_plot(edges, ratios).savefig(options.plot)
        note(f"  wrote {options.plot}")
    return {"n_galaxies": len(theta), "percentiles": PERCENTILES, "ratio": spectra, "delta_mag": bands}
