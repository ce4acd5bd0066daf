"""Efficiency and speed of importance refinement on real galaxies, step by step."""

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.common import BUNDLED, note, positive, table
from sedcast.baselines.fallback import emcee_fallback
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.errors import ParameterError
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import Refined
from sedcast.posterior.importance import RefineConfig, Refiner
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.outlier_training import training_simulator
from sedcast.posterior.resampling import weigh

EFFICIENCY_AIM, KHAT_AIM = 0.02, 0.7
QUANTILES = (1, 5, 25, 50, 75)
_N_DRAWN = 1000
STEPS = {"flow": ("flow",), "contexts": ("flow", "contexts"), "all_steps": ("flow", "contexts", "adapted")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--posterior", default=BUNDLED, metavar="FILE", help="artifact of a posterior estimator")
    parser.add_argument("-n", "--n", type=positive, default=200, help="real galaxies, picked by --seed")
    parser.add_argument("--draws", type=positive, default=10_000, help="draws per galaxy and step")
    parser.add_argument("--mcmc", action="store_true", help="also check two galaxies against emcee (minutes)")


def best_up_to(results: list[Refined], steps: tuple[str, ...]) -> dict[str, float]:
    """Figures of refinement with these steps only: of each galaxy the most efficient of those that it took."""
    taken = [[one for one in result.tried if one[0] in steps] for result in results]
    best = [max(tried, key=lambda one: one[1]) for tried in taken]
    efficiency, khat = np.array([one[1] for one in best]), np.array([one[2] for one in best])
    seconds = np.array([tried[-1][3] for tried in taken])
    return {
        **{f"efficiency_p{q}": float(np.percentile(efficiency, q)) for q in QUANTILES},
        "efficiency_at_least_2_percent": float(np.mean(efficiency >= EFFICIENCY_AIM)),
        "khat_above_0.7": float(np.mean(khat > KHAT_AIM)),
        "seconds_median": float(np.median(seconds)),
        "seconds_mean": float(seconds.mean()),
    }


def worth_as_drawn(refiner: Refiner, galaxy: tuple[np.ndarray, np.ndarray, float], row: int, seed: int) -> tuple[float, float]:
    """The efficiency of the flow's draws by the weights that `PosteriorEstimator.draw` takes, and of what it makes of them.

    The latter by the likelihood of refinement, whose emulator is another: 1 if the samples are exact draws.
    """
    estimator, (flux, flux_ivar, zred) = refiner.estimator, galaxy
    likelihood = GaussianLikelihood(refiner.simulator, estimator.prior, flux=flux, flux_ivar=flux_ivar, zred=zred)
    observed = flux[None], flux_ivar[None], np.array([zred])
    drawn = estimator.flow.draw(estimator.context(*observed), _N_DRAWN, seed=seed, row_keys=np.array([row]))
    weight, efficiency, _ = weigh(drawn)
    with np.errstate(divide="ignore"):
        over = likelihood.log_posterior_unbounded(drawn.theta[0]) - drawn.log_q[0] - np.log(weight[0])
    taken = weight[0] > 0
    # Of what refinement gives no weight at all, zero.
    ratio = np.exp(over[taken] - over[taken].max())
    mean = np.average(ratio, weights=weight[0, taken])
    return float(efficiency[0]), float(mean**2 / np.average(ratio**2, weights=weight[0, taken]))


def against_emcee(refiner: Refiner, galaxies: list[tuple[np.ndarray, np.ndarray, float]], seed: int) -> float:
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
    """Refine real galaxies, and tell what the flow alone, and the steps after it, bring."""
    estimator = PosteriorEstimator.find(options.posterior)
    simulator = training_simulator(estimator)
    catalog = load_sdss_sample(bands=estimator.bands)
    rows = np.flatnonzero(estimator.status(catalog).ok)
    if options.n > len(rows):
        raise ParameterError(f"--n={options.n}: the sample has {len(rows)} galaxies that the estimator serves")
    rows = np.sort(np.random.default_rng(options.seed).choice(rows, options.n, replace=False))
    galaxies = [(catalog.flux[row], catalog.flux_ivar[row], float(catalog.zred[row])) for row in rows]
    refiner = Refiner(estimator, simulator, RefineConfig(n_draws=options.draws))
    refiner(*galaxies[0], 1000, seed=options.seed)
    began, results = time.process_time(), []
    for row, galaxy in zip(rows, galaxies, strict=True):
        results.append(refiner(*galaxy, 1000, seed=options.seed, key=int(row), n_threads=options.threads))
        if len(results) % 20 == 0:
            note(f"  {len(results)} of {options.n} galaxies")
    cpu_s = time.process_time() - began
    as_drawn = [worth_as_drawn(refiner, galaxy, int(row), options.seed) for row, galaxy in zip(rows, galaxies, strict=True)]
    columns = {name: best_up_to(results, steps) for name, steps in STEPS.items()}
    kinds = ("of the flow's draws, weights of its own", "of resampled samples, weights of refinement")
    worth = np.percentile(as_drawn, QUANTILES, axis=0).T
    table(("efficiency, percentile", *map(str, QUANTILES)), [(kind, *row) for kind, row in zip(kinds, worth, strict=True)])
    names = list(columns["flow"])
    table(("over galaxies", *columns), [(key, *(columns[name][key] for name in columns)) for key in names])
    summary: dict[str, Any] = {
        f"{name.replace(' ', '_')}_{key}": value for name in columns for key, value in columns[name].items()
    }
    for name, percentiles in zip(("weighted", "resampled"), worth, strict=True):
        summary |= {f"{name}_efficiency_p{q}": float(value) for q, value in zip(QUANTILES, percentiles, strict=True)}
    if options.mcmc:
        summary["worst_difference_from_emcee"] = against_emcee(refiner, galaxies[:2], options.seed)
    summary |= {f"kept_{step}": float(np.mean([result.step == step for result in results])) for step in STEPS["all_steps"]}
    summary["log_evidence_error_median"] = float(np.median([result.log_evidence_error for result in results]))
    summary["cpu_seconds_mean"] = cpu_s / len(results)
    return summary | {"galaxies": options.n, "draws": options.draws}
