"""The demonstration: real galaxies through the bundled posterior, one of them checked with MCMC, and pictures of it all."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.baselines.coordinates import FlowMap
from sedcast.baselines.mcmc import McmcConfig, McmcResult, run_emcee
from sedcast.console import Screen
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.outputs import write_text
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.plotting import corner_plot, mass_sfr_plane, save_figure, sed_plot
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import rows_at_most
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.posterior_catalog import PosteriorCatalog, read_posteriors
from sedcast.posterior.quantities import QUANTITIES, SHOWN_QUANTITIES, percentile_column
from sedcast.sampled_seds import sampled_seds

__all__ = ["FILES", "run_demo"]

_SUMMARISED = ("log_mstar", "log_sfr_1gyr", "log_ssfr_1gyr", "log_z_mw", "t_mw_gyr", "dust2")
_COMPARED = ("log_mstar", "log_sfr_1gyr", "log_z_mw", "t_mw_gyr", "dust2")
_MCMC = McmcConfig(target_ess=500.0, max_rhat=1.02, max_steps=12_000)
_N_PREDICTED, _N_COMPARED = 500, 10_000
_FILES = {
    "posteriors.h5": "samples and summaries of every galaxy; open it with sedcast.posterior.read_posteriors",
    "corner.png": "posterior of one galaxy: sedcast's samples beside emcee's on the same likelihood",
    "sed.png": "observed photometry of that galaxy against what its posterior predicts",
    "mass_sfr.png": "stellar mass formed and star-formation rate of the sample",
    "summary.json": "the figures that the demonstration printed",
}
_TITLE = "# What `sedcast demo` wrote"
FILES = (*_FILES, "README.md")
"""What a demonstration writes."""


@dataclass(frozen=True)
class _Galaxy:
    """One galaxy's data, and samples of its parameters (n_sample, 12)."""

    galaxy_id: int | str
    flux: np.ndarray
    flux_ivar: np.ndarray
    zred: float
    theta: np.ndarray

    @property
    def title(self) -> str:
        return f"SDSS galaxy {self.galaxy_id}, z = {self.zred:.4f}"


def run_demo(
    output_folder: str | Path, *, n_galaxies: int = 300, seed: int = 0, screen: Screen | None = None
) -> dict[str, Any]:
    """Infer galaxies of the bundled SDSS sample, run emcee on one, and write pictures and posteriors to a folder.

    Parameters
    ----------
    output_folder : made if it is not there; files of the names `FILES` in it are replaced.
    n_galaxies : galaxies picked at random from the bundled sample.
    seed : of the pick, the samples and emcee.
    screen : where tables and progress go; the terminal by default.

    Returns
    -------
    summary : what `summary.json` holds.
    """
    started = time.perf_counter()
    screen = screen or Screen()
    folder = Path(output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_contents(folder)
    estimator, emulator = PosteriorEstimator.default(), SpectrumEmulator.default()
    catalog = _pick(load_sdss_sample(bands=estimator.bands), n_galaxies, seed)
    with screen.progress("inferring galaxies") as report:
        figures = infer_catalog(
            estimator, catalog, folder / "posteriors.h5", seed=seed, command="sedcast demo", overwrite=True, progress=report
        )
    with read_posteriors(folder / "posteriors.h5") as posteriors:
        medians = _medians(posteriors)
        galaxy = _typical_galaxy(posteriors, estimator, seed)
    _show_sample(screen, figures, medians)
    _draw_plane(medians, folder)
    simulator = PhotometrySimulator(emulator, estimator.bands, galaxy.zred)
    _draw_sed(galaxy, simulator, folder)
    likelihood = GaussianLikelihood(simulator, estimator.prior, flux=galaxy.flux, flux_ivar=galaxy.flux_ivar, zred=galaxy.zred)
    with screen.progress("emcee on one galaxy, steps") as report:
        # In the flow's coordinates chains converge far sooner, to the same posterior.
        flow = FlowMap.at(estimator, galaxy.flux, galaxy.flux_ivar, galaxy.zred)
        config = _MCMC.model_copy(update={"seed": seed})
        chain = run_emcee(likelihood, config, flow=flow, progress=report).unless_interrupted()
        report(chain.n_steps, chain.n_steps)
    comparison = _compare(galaxy, chain, estimator, folder)
    _show_comparison(screen, galaxy, chain, comparison)
    summary = figures | {
        "medians": {name: float(np.median(values[:, 1])) for name, values in medians.items()},
        "mcmc": {
            "galaxy_id": str(galaxy.galaxy_id),
            "zred": galaxy.zred,
            "converged": chain.converged,
            "min_ess": float(chain.ess.min()),
            "rhat": float(chain.rhat),
            "model_evaluations": chain.n_evaluations,
            "wall_s": chain.wall_s,
            "quantities": comparison,
        },
        "wall_s": time.perf_counter() - started,
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    screen.note(f"wrote {', '.join(_FILES)} and README.md to {folder}/ in {summary['wall_s']:.0f} s")
    return summary


def _pick(catalog: Catalog, n: int, seed: int) -> Catalog:
    rows = np.random.default_rng(seed).choice(len(catalog), size=min(n, len(catalog)), replace=False)
    return catalog.subset(np.sort(rows))


def _medians(posteriors: PosteriorCatalog) -> dict[str, np.ndarray]:
    """16th, 50th and 84th percentiles by quantity, (n_inferred, 3)."""
    table = posteriors.summary()
    table = table[table["status"] == ""]
    return {
        name: np.stack([np.asarray(table[percentile_column(name, p)], dtype=float) for p in (16, 50, 84)], axis=1)
        for name in _SUMMARISED
    }


def _typical_galaxy(posteriors: PosteriorCatalog, estimator: PosteriorEstimator, seed: int) -> _Galaxy:
    """The galaxy of median r flux among those that are neither excluded nor flagged."""
    good = np.flatnonzero(posteriors.good)
    if not len(good):
        good = np.flatnonzero(posteriors.status == "")
    fluxes = posteriors.flux
    row = int(good[np.argsort(fluxes[good, posteriors.bands.index("r")])[len(good) // 2]])
    flux, ivar, zred = fluxes[row], posteriors.flux_ivar[row], float(posteriors.zred[row])
    theta = estimator.sample(flux[None], ivar[None], np.array([zred]), _N_COMPARED, seed=seed)[0]
    return _Galaxy(posteriors.ids[row].item(), flux, ivar, zred, theta.astype(float))


def _draw_plane(medians: dict[str, np.ndarray], folder: Path) -> None:
    mass, sfr = medians["log_mstar"], medians["log_sfr_1gyr"]
    figure = mass_sfr_plane(
        mass[:, 1],
        sfr[:, 1],
        log_mstar_error=np.ptp(mass, axis=1) / 2,
        log_sfr_error=np.ptp(sfr, axis=1) / 2,
    )
    save_figure(figure, folder / "mass_sfr.png", overwrite=True)


def _draw_sed(galaxy: _Galaxy, simulator: PhotometrySimulator, folder: Path) -> None:
    figure = sed_plot(
        galaxy.flux,
        galaxy.flux_ivar,
        predicted=sampled_seds(simulator, galaxy.theta[rows_at_most(len(galaxy.theta), _N_PREDICTED)], galaxy.zred),
        title=galaxy.title,
    )
    save_figure(figure, folder / "sed.png", overwrite=True)


def _compare(
    galaxy: _Galaxy, chain: McmcResult, estimator: PosteriorEstimator, folder: Path
) -> dict[str, dict[str, list[float]]]:
    """Draw the corner plot; percentiles (16, 50, 84) by quantity and method."""
    samples = {"sedcast": galaxy.theta, "emcee": chain.thinned(_N_COMPARED)}
    quantities = {}
    for key, theta in samples.items():
        derived = derived_properties(theta, np.full(len(theta), galaxy.zred), estimator.bases, estimator.cosmology)
        quantities[key] = dict(zip(PARAMETER_NAMES, theta.T, strict=True)) | derived
    stacked = {key: np.stack([values[name] for name in SHOWN_QUANTITIES], axis=1) for key, values in quantities.items()}
    save_figure(corner_plot(stacked, SHOWN_QUANTITIES, title=galaxy.title), folder / "corner.png", overwrite=True)
    return {
        name: {key: [float(q) for q in np.percentile(values[name], [16, 50, 84])] for key, values in quantities.items()}
        for name in _COMPARED
    }


def _show_sample(screen: Screen, figures: dict[str, Any], medians: dict[str, np.ndarray]) -> None:
    rows: list[tuple[str, object]] = [
        ("galaxies", figures["galaxies"]),
        ("with a posterior", figures["inferred"]),
        ("flagged", figures["flagged"]),
        *((f"excluded: {reason}", count) for reason, count in figures["excluded"].items()),
        ("galaxies per second", round(figures["galaxies_per_s"])),
    ]
    screen.table("Real SDSS galaxies, 1,000 posterior samples each", ("", "count"), rows)
    screen.table(
        "The galaxies' medians, and the typical half of a 68% interval",
        ("quantity", "unit", "median", "16%", "84%", "half width"),
        [
            (*_called(name), *(f"{value:.2f}" for value in (*np.percentile(values[:, 1], [50, 16, 84]), _half_width(values))))
            for name, values in medians.items()
        ],
    )


def _called(name: str) -> tuple[str, str]:
    return QUANTITIES[name].words, QUANTITIES[name].shown_unit


def _half_width(values: np.ndarray) -> float:
    return float(np.median(np.ptp(values, axis=1)) / 2)


def _show_comparison(screen: Screen, galaxy: _Galaxy, chain: McmcResult, comparison: dict[str, dict[str, list[float]]]) -> None:
    screen.table(
        f"{galaxy.title}: medians, and half the 68% interval",
        ("quantity", "unit", "sedcast", "emcee"),
        [
            (*_called(name), *(f"{mid:.2f} ± {(high - low) / 2:.2f}" for low, mid, high in methods.values()))
            for name, methods in comparison.items()
        ],
    )
    state = "converged" if chain.converged else f"not converged ({chain.reason})"
    screen.note(
        f"emcee in the flow's coordinates {state}: {chain.n_evaluations:,} model evaluations in {chain.wall_s:.1f} s, "
        f"effective sample size {chain.ess.min():.0f} of the worst parameter"
    )


def _write_contents(folder: Path) -> None:
    """Say in the folder what will be in it."""
    lines = [_TITLE, "", *(f"- `{name}`: {what}" for name, what in _FILES.items()), ""]
    write_text(folder / "README.md", "\n".join(lines))
