"""Every picture of the documents' gallery, made of the bundled galaxies, posterior and emulator."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import note
from sedcast.data.catalog import load_sdss_sample
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.simulation import noise_model
from sedcast.plotting import corner_plot, mass_sfr_plane, sed_plot
from sedcast.plotting_calibration import edge_plot, pp_plot, sbc_plot, tarp_plot
from sedcast.plotting_model import history_plot
from sedcast.plotting_training import training_plot
from sedcast.posterior.calibration import calibrate
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.mocks import draw_mocks
from sedcast.posterior.outlier_training import training_simulation, training_simulator
from sedcast.posterior.quantities import SHOWN_QUANTITIES
from sedcast.sampled_seds import sampled_seds

_N_PLANE, _N_SAMPLES, _N_MOCKS = 3000, 3000, 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder of the pictures")
    parser.add_argument("--row", type=int, default=4, help="of the bundled sample: the galaxy shown")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Draw and write the pictures."""
    estimator = PosteriorEstimator.default()
    pictures = _of_galaxy(estimator, options.row, options.seed) | _of_sample(estimator, options.seed)
    pictures |= _of_calibration(estimator, options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, draw in pictures.items():
        draw().savefig(options.output / f"gallery_{name}.png", dpi=80)
        note(f"wrote gallery_{name}.png")
    return {"pictures": len(pictures), "mocks": _N_MOCKS}


def _of_galaxy(estimator: PosteriorEstimator, row: int, seed: int) -> dict[str, Callable[[], Figure]]:
    simulator = training_simulator(estimator)
    sample = load_sdss_sample(bands=estimator.bands)
    flux, flux_ivar, zred = sample.flux[row], sample.flux_ivar[row], float(sample.zred[row])
    theta = estimator.sample(flux[None], flux_ivar[None], np.array([zred]), _N_SAMPLES, seed=seed)[0].astype(float)
    values = dict(zip(PARAMETER_NAMES, theta.T, strict=True))
    values |= derived_properties(theta, zred, estimator.bases, estimator.cosmology)
    predicted = sampled_seds(simulator, theta[:300], zred)
    stacked = np.stack([values[name] for name in SHOWN_QUANTITIES], axis=1)
    title = f"SDSS galaxy {row}, z = {zred:.4f}"
    return {
        "corner": lambda: corner_plot({"sedcast": stacked}, SHOWN_QUANTITIES, title=title),
        "sed": lambda: sed_plot(flux, flux_ivar, predicted=predicted, title=title),
        "history": lambda: history_plot(theta[:1000], zred, estimator.bases, estimator.cosmology, title=title),
    }


def _of_sample(estimator: PosteriorEstimator, seed: int) -> dict[str, Callable[[], Figure]]:
    sample = load_sdss_sample(bands=estimator.bands)
    rows = np.flatnonzero(estimator.status(sample).ok)[:_N_PLANE]
    theta = estimator.sample(sample.flux[rows], sample.flux_ivar[rows], sample.zred[rows], 100, seed=seed).astype(float)
    known = np.isfinite(theta).all(axis=(1, 2))
    rows, theta = rows[known], theta[known]
    zred = np.repeat(sample.zred[rows], theta.shape[1])
    derived = derived_properties(theta.reshape(-1, theta.shape[2]), zred, estimator.bases, estimator.cosmology)
    mass, sfr = (
        np.percentile(values, (16, 50, 84), axis=1)
        for values in (theta[:, :, 0], derived["log_sfr_1gyr"].reshape(theta.shape[:2]))
    )
    errors = {"log_mstar_error": np.ptp(mass, axis=0) / 2, "log_sfr_error": np.ptp(sfr, axis=0) / 2}
    return {"mass_sfr": lambda: mass_sfr_plane(mass[1], sfr[1], **errors)}


def _of_calibration(estimator: PosteriorEstimator, seed: int) -> dict[str, Callable[[], Figure]]:
    simulator, settings = training_simulator(estimator), training_simulation(estimator)
    # Seeds apart from those of the training.
    mocks = draw_mocks(_N_MOCKS, simulator, estimator, noise_model(settings), seed=20_221_103 + seed)
    result = calibrate(estimator, mocks, n_samples=200, seed=20_221_103 + seed)
    return {
        "pp": lambda: pp_plot(result.pit, result.names),
        "sbc": lambda: sbc_plot(result.pit, result.names),
        "tarp": lambda: tarp_plot(result.tarp, len(result.pit)),
        "edges": lambda: edge_plot(result.edges),
        "training": lambda: training_plot(estimator.card["history"]),
    }
