"""Speed of emcee and zeus on real galaxies, with the emulator's likelihood."""

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.common import add_emulator, load_emulator, note, positive, table
from sedcast.baselines.mcmc import McmcConfig, McmcResult, run_emcee, run_zeus
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.config import parse_config
from sedcast.data.errors import ParameterError
from sedcast.emulator.simulate import PhotometrySimulator
from sedcast.posterior.likelihood import FluxSimulator, GaussianLikelihood

SAMPLERS = {"emcee": run_emcee, "zeus": run_zeus}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_emulator(parser)
    parser.add_argument(
        "--galaxies", type=positive, default=3, help="real galaxies, picked by --seed; figures are medians over them"
    )
    parser.add_argument("--bands", nargs="+", default=["u", "g", "r", "i", "z"], help="photometric bands")
    parser.add_argument("--target-ess", type=float, default=1000.0, help="effective samples at which a run ends")
    parser.add_argument("--max-steps", type=positive, default=20_000, help="steps after which a run ends anyway")


class TimedSimulator:
    """A simulator that adds up the seconds spent in it."""

    def __init__(self, simulator: FluxSimulator) -> None:
        self.simulator = simulator
        self.seconds = 0.0

    def flux(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        started = time.perf_counter()
        try:
            return self.simulator.flux(theta, zred)
        finally:
            self.seconds += time.perf_counter() - started


def pick_galaxies(bands: tuple[str, ...], zred_max: float, n: int, seed: int) -> Catalog:
    """Real galaxies with every band measured and a redshift that the emulator serves."""
    catalog = load_sdss_sample(bands=bands)
    rows = np.flatnonzero(catalog.ok & (catalog.zred <= zred_max))
    if n > len(rows):
        raise ParameterError(f"--galaxies={n}: the sample has {len(rows)} galaxies with {' '.join(bands)} and z <= {zred_max}")
    return catalog.subset(np.sort(np.random.default_rng(seed).choice(rows, n, replace=False)))


def figures(result: McmcResult, model_s: float) -> dict[str, float]:
    return {
        "s_per_galaxy": result.wall_s,
        "ess_per_s": float(result.ess.min()) / result.wall_s,
        "ess": float(result.ess.min()),
        "rhat": result.rhat,
        "evaluations": float(result.n_evaluations),
        "evaluations_per_s": result.n_evaluations / result.wall_s,
        "overhead_fraction": 1 - model_s / result.wall_s,
        "converged": float(result.converged),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run both samplers on each galaxy in turn."""
    emulator = load_emulator(options.emulator)
    bands = tuple(options.bands)
    catalog = pick_galaxies(bands, emulator.zred_max, options.galaxies, options.seed)
    simulator = PhotometrySimulator(emulator, bands, float(catalog.zred.max()), emulator.cosmology)
    settings = {"target_ess": options.target_ess, "max_steps": options.max_steps, "seed": options.seed}
    config = parse_config(settings, McmcConfig, "options")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SAMPLERS}
    for row in range(len(catalog)):
        for name, sampler in SAMPLERS.items():
            timed = TimedSimulator(simulator)
            likelihood = GaussianLikelihood(
                timed, emulator.prior, flux=catalog.flux[row], flux_ivar=catalog.flux_ivar[row], zred=catalog.zred[row]
            )
            result = sampler(likelihood, config)
            runs[name].append(figures(result, timed.seconds))
            note(f"  galaxy {catalog.ids[row]}, {name}: {result.reason}, {result.wall_s:.1f} s")
    names = list(runs["emcee"][0])
    medians = {sampler: {key: float(np.median([one[key] for one in runs[sampler]])) for key in names} for sampler in runs}
    table(("median over galaxies", *SAMPLERS), [(key, *(medians[sampler][key] for sampler in SAMPLERS)) for key in names])
    summary = {f"{sampler}_{key}": medians[sampler][key] for sampler in SAMPLERS for key in names if key != "converged"}
    return {
        **summary,
        **{f"{sampler}_converged": sum(one["converged"] == 1 for one in runs[sampler]) for sampler in SAMPLERS},
        "galaxies": list(catalog.ids),
        "target_ess": options.target_ess,
        "n_walkers": config.n_walkers,
        "bands": bands,
        "repeats": len(catalog),
    }
