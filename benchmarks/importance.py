"""Efficiency and speed of importance refinement on real galaxies, step by step."""

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.common import BUNDLED, note, positive, table
from sedcast.baselines.fallback import emcee_fallback
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.config import parse_config
from sedcast.data.errors import ParameterError
from sedcast.emulator.simulate import SimulationConfig, default_simulator
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.importance import RefineConfig, Refined, Refiner

EFFICIENCY_AIM, KHAT_AIM = 0.02, 0.7
QUANTILES = (1, 5, 25, 50, 75)
_NEVER = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--posterior", default=BUNDLED, metavar="FILE", help="artifact of a posterior estimator")
    parser.add_argument("-n", "--n", type=positive, default=200, help="real galaxies, picked by --seed")
    parser.add_argument("--draws", type=positive, default=10_000, help="draws per galaxy and step")
    parser.add_argument("--mcmc", action="store_true", help="also check two galaxies against emcee (minutes)")


def settings(draws: int) -> dict[str, RefineConfig]:
    """Refinement with ever more of its steps: the flow alone, four contexts for the inefficient, adaptation for the rest."""
    return {
        "flow": RefineConfig(n_draws=draws, contexts_below=_NEVER, adapt_below=_NEVER, max_rounds=0, max_khat=np.inf),
        "contexts": RefineConfig(n_draws=draws, adapt_below=_NEVER, max_rounds=0),
        "all steps": RefineConfig(n_draws=draws),
    }


def figures(results: list[Refined], cpu_s: float) -> dict[str, float]:
    efficiency = np.array([result.efficiency for result in results])
    wall = np.array([result.wall_s for result in results])
    return {
        **{f"efficiency_p{q}": float(np.percentile(efficiency, q)) for q in QUANTILES},
        "efficiency_at_least_2_percent": float(np.mean(efficiency >= EFFICIENCY_AIM)),
        "khat_above_0.7": float(np.mean([result.khat > KHAT_AIM for result in results])),
        "log_evidence_error_median": float(np.median([result.log_evidence_error for result in results])),
        "seconds_median": float(np.median(wall)),
        "seconds_mean": float(wall.mean()),
        "cpu_seconds_mean": cpu_s / len(results),
    }


def against_emcee(refiner: Refiner, galaxies: list[tuple[Any, ...]], seed: int) -> float:
    """Largest difference of medians or widths between refined samples and emcee's, in emcee's standard deviations."""
    always = Refiner(refiner.estimator, refiner.simulator, RefineConfig(max_khat=1e-9, max_rounds=0), emcee_fallback())
    worst = 0.0
    for galaxy in galaxies:
        refined = refiner(*galaxy, 4000, seed=seed).theta
        chain = always(*galaxy, 4000, seed=seed)
        note(f"  emcee: {chain.wall_s:.0f} s {chain.flag}")
        width = chain.theta.std(axis=0)
        shift = np.abs(np.median(refined, axis=0) - np.median(chain.theta, axis=0)) / width
        spread = np.abs(refined.std(axis=0) / width - 1)
        note(f"  largest shift of a median {shift.max():.3f} sigma, largest difference of a width {spread.max():.3f}")
        worst = max(worst, float(shift.max()), float(spread.max()))
    return worst


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Refine the same galaxies with the flow alone, with contexts, and with all steps."""
    estimator = PosteriorEstimator.default() if options.posterior == BUNDLED else PosteriorEstimator.load(options.posterior)
    simulator = default_simulator(parse_config(estimator.card["simulation"], SimulationConfig, "simulation"))
    catalog = load_sdss_sample(bands=estimator.bands)
    rows = np.flatnonzero(estimator.status(catalog).ok)
    if options.n > len(rows):
        raise ParameterError(f"--n={options.n}: the sample has {len(rows)} galaxies that the estimator serves")
    rows = np.sort(np.random.default_rng(options.seed).choice(rows, options.n, replace=False))
    galaxies = [(catalog.flux[row], catalog.flux_ivar[row], float(catalog.zred[row])) for row in rows]
    columns = {}
    for name, config in settings(options.draws).items():
        refiner = Refiner(estimator, simulator, config)
        refiner(*galaxies[0], 1000, seed=options.seed)
        began, results = time.process_time(), []
        for row, galaxy in zip(rows, galaxies, strict=True):
            results.append(refiner(*galaxy, 1000, seed=options.seed, key=int(row), n_threads=options.threads))
        columns[name] = figures(results, time.process_time() - began)
        note(f"  {name}: done")
    last = refiner
    steps = {
        f"by_{name}": float(np.mean([result.step == name for result in results])) for name in ("flow", "contexts", "adapted")
    }
    columns["all steps"] |= steps
    names = list(columns["flow"])
    table(("over galaxies", *columns), [(key, *(columns[name][key] for name in columns)) for key in names])
    summary: dict[str, Any] = {
        f"{name.replace(' ', '_')}_{key}": value for name in columns for key, value in columns[name].items()
    }
    if options.mcmc:
        summary["worst_difference_from_emcee"] = against_emcee(last, galaxies[:2], options.seed)
    return summary | {"galaxies": options.n, "draws": options.draws}
