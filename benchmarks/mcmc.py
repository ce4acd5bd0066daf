"""Speed of emcee, zeus and nautilus on real galaxies with the emulator's likelihood, and the calibration of their chains."""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note, positive, table, verdict
from sedcast.baselines.coordinates import FlowMap
from sedcast.baselines.mcmc import McmcConfig, McmcResult, run_emcee, run_zeus
from sedcast.baselines.nested import run_nautilus
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.config import parse_config
from sedcast.data.errors import ParameterError
from sedcast.emulator.simulation import FluxSimulator
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.outlier_training import training_simulator

SAMPLERS = {"emcee": run_emcee, "zeus": run_zeus}
OVERHEAD_BAR, SECONDS_BAR, HOLM_BAR = 0.3, 30.0, 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--estimator", default="bundled", metavar="FILE", help="posterior artifact, whose flow guides the chains"
    )
    parser.add_argument("--galaxies", type=positive, default=3, help="real galaxies, picked by --seed; figures are medians")
    parser.add_argument("--rows", type=int, nargs="+", help="rows of the SDSS sample instead")
    parser.add_argument("--without-flow", action="store_true", help="run chains that know nothing of the flow as well")
    parser.add_argument("--nautilus", action="store_true", help="run nested sampling as well")
    parser.add_argument("--target-ess", type=float, default=1000.0, help="effective samples at which a run ends")
    parser.add_argument("--max-evaluations", type=positive, default=5_000_000, help="model evaluations after which a run ends")
    parser.add_argument("--sbc", type=positive, metavar="N", help="instead, check the calibration of MCMC on N mocks")
    parser.add_argument("--sampler", choices=SAMPLERS, default="emcee", help="of --sbc")
    parser.add_argument(
        "--folder", type=Path, default=Path("mcmc-sbc"), help="where --sbc keeps finished runs; the same call goes on from them"
    )


class TimedSimulator:
    """A simulator that adds up the CPU seconds spent in it."""

    def __init__(self, simulator: FluxSimulator) -> None:
        self.simulator = simulator
        self.seconds = 0.0

    def flux(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        started = time.process_time()
        try:
            return self.simulator.flux(theta, zred)
        finally:
            self.seconds += time.process_time() - started


class TimedFlow(FlowMap):
    """A flow's map that adds up the CPU seconds spent in it."""

    def __call__(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        started = time.process_time()
        try:
            return super().__call__(noise)
        finally:
            object.__setattr__(self, "seconds", self.cpu_s + time.process_time() - started)

    @property
    def cpu_s(self) -> float:
        return float(getattr(self, "seconds", 0.0))


def pick_galaxies(estimator: PosteriorEstimator, n: int, rows: list[int] | None, seed: int) -> Catalog:
    """Real galaxies that the estimator serves."""
    catalog = load_sdss_sample(bands=estimator.bands)
    good = np.flatnonzero(estimator.status(catalog).ok)
    if rows is None:
        if n > len(good):
            raise ParameterError(f"--galaxies={n}: the sample has {len(good)} galaxies that the estimator serves")
        return catalog.subset(np.sort(np.random.default_rng(seed).choice(good, n, replace=False)))
    if bad := sorted(set(rows) - set(good.tolist())):
        raise ParameterError(f"--rows: {bad} are not rows of the sample that the estimator serves")
    return catalog.subset(np.array(rows))


def figures(result: McmcResult, likelihood_s: float) -> dict[str, float]:
    """Seconds are of CPU: what else the machine does meanwhile does not count."""
    return {
        "cpu_s_per_galaxy": result.cpu_s,
        "wall_s_per_galaxy": result.wall_s,
        "ess_per_cpu_s": float(result.ess.min()) / result.cpu_s,
        "ess": float(result.ess.min()),
        "rhat": result.rhat,
        "autocorrelation_steps": float(result.autocorrelation_steps.max()),
        "evaluations": float(result.n_evaluations),
        "evaluations_per_cpu_s": result.n_evaluations / result.cpu_s,
        "overhead_fraction": 1 - likelihood_s / result.cpu_s,
        "converged": float(result.converged),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run every sampler on each galaxy in turn, or check the calibration of one."""
    bundled = options.estimator == "bundled"
    estimator = PosteriorEstimator.default() if bundled else PosteriorEstimator.load(options.estimator)
    simulator = training_simulator(estimator)
    settings = {"target_ess": options.target_ess, "max_evaluations": options.max_evaluations, "seed": options.seed}
    config = parse_config(settings, McmcConfig, "options")
    if options.sbc is not None:
        from benchmarks.mcmc_sbc import calibrate_mcmc

        return calibrate_mcmc(estimator, config, options)
    catalog = pick_galaxies(estimator, options.galaxies, options.rows, options.seed)
    runs: dict[str, list[dict[str, float]]] = {}
    for row in range(len(catalog)):
        data = {"flux": catalog.flux[row], "flux_ivar": catalog.flux_ivar[row], "zred": float(catalog.zred[row])}
        for name, kind in _runs(options):
            timed = TimedSimulator(simulator)
            likelihood = GaussianLikelihood(timed, estimator.prior, **data)
            if kind == "nautilus":
                result, spent = run_nautilus(likelihood, config), timed.seconds
            elif kind == "flow":
                flow = TimedFlow.at(estimator, **data)
                result = SAMPLERS[name.split(",")[0]](likelihood, config, flow=flow)
                # The flow's Jacobian is part of the density in the coordinates of such chains.
                spent = timed.seconds + flow.cpu_s
            else:
                result, spent = SAMPLERS[name.split(",")[0]](likelihood, config), timed.seconds
            runs.setdefault(name, []).append(figures(result, spent))
            note(f"  galaxy {catalog.ids[row]}, {name}: {result.reason}; {result.cpu_s:.1f} CPU s, {result.wall_s:.1f} s")
    return _summary(runs, catalog, config)


def _runs(options: argparse.Namespace) -> list[tuple[str, str]]:
    chosen = [(name, "flow") for name in SAMPLERS]
    if options.without_flow:
        chosen += [(f"{name}, no flow", "") for name in SAMPLERS]
    return chosen + ([("nautilus", "nautilus")] if options.nautilus else [])


def _summary(runs: dict[str, list[dict[str, float]]], catalog: Catalog, config: McmcConfig) -> dict[str, Any]:
    names = list(next(iter(runs.values()))[0])
    medians = {name: {key: float(np.median([one[key] for one in found])) for key in names} for name, found in runs.items()}
    table(("median over galaxies", *runs), [(key, *(medians[name][key] for name in runs)) for key in names])
    for name, found in runs.items():
        slowest = max(one["cpu_s_per_galaxy"] for one in found)
        overhead = medians[name]["overhead_fraction"]
        note(f"{name}: overhead {overhead:.0%} (at most {OVERHEAD_BAR:.0%}): {verdict(overhead <= OVERHEAD_BAR)}")
        note(f"{name}: slowest galaxy {slowest:.1f} CPU s (at most {SECONDS_BAR:g}): {verdict(slowest <= SECONDS_BAR)}")
    short = {name: name.replace(", no flow", "_no_flow") for name in runs}
    return {
        **{f"{short[name]}_{key}": medians[name][key] for name in runs for key in names if key != "converged"},
        **{f"{short[name]}_converged": sum(one["converged"] == 1 for one in found) for name, found in runs.items()},
        **{f"{short[name]}_slowest_cpu_s": max(one["cpu_s_per_galaxy"] for one in found) for name, found in runs.items()},
        "galaxies": list(catalog.ids),
        "target_ess": config.target_ess,
        "n_walkers": config.n_total,
        "bands": catalog.bands,
        "repeats": len(catalog),
    }
