"""One method on one galaxy: run in any process, kept in a file, so that an interrupted comparison goes on."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.baselines.coordinates import FlowMap
from sedcast.baselines.mcmc import McmcResult, run_emcee, run_zeus
from sedcast.baselines.nested import run_nautilus
from sedcast.baselines.outcomes import (
    COMPARED_NAMES,
    Galaxy,
    Method,
    Outcome,
    Setting,
    compared_columns,
    physical,
    run_key,
    save_outcome,
)
from sedcast.data.errors import ParameterError
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import rows_at_most, thinned_rows
from sedcast.posterior.importance import Refiner
from sedcast.posterior.likelihood import GaussianLikelihood

__all__ = ["RunTask", "independent_draws", "run_method", "run_task"]

logger = logging.getLogger(__name__)

_CHAINS: dict[str, Callable[..., McmcResult]] = {"emcee": run_emcee, "zeus": run_zeus}
_PERCENTILES = (16.0, 50.0, 84.0)
_MAX_FOR_QUANTILES = 10_000
_DEATHS = 2


@dataclass(frozen=True)
class RunTask:
    """One method on one galaxy; `session` is a name of the whole call, the same for all its tasks."""

    galaxy: Galaxy
    method: Method
    path: Path
    session: str


@dataclass(frozen=True)
class _Found:
    """Samples in probit space: all (n, 11), independent ones (m, 11), and figures for `Outcome`."""

    samples: np.ndarray
    draws: np.ndarray
    figures: dict[str, Any] = field(default_factory=dict)


def run_task(setting: Setting, task: RunTask) -> Outcome:
    """Run one method on one galaxy and keep the result; a failure is an outcome too, but is not kept, so it is tried again."""
    attempt = task.path.with_suffix(".attempt")
    deaths = attempt.read_text(encoding="utf-8").split().count(task.session) if attempt.exists() else 0
    if deaths >= _DEATHS:
        attempt.unlink()
        return _failure(f"the process died {deaths} times: killed, or out of memory", 0.0, 0.0, 0)
    attempt.write_text(f"{task.session} " * (deaths + 1), encoding="utf-8")
    with _not_at_fault(attempt, f"{task.session} " * deaths):
        outcome = run_method(setting, task.galaxy, task.method)
    if not outcome.failed:
        key = run_key(setting, task.galaxy, task.method)
        save_outcome(outcome, task.path, key=key, galaxy=task.galaxy, method=task.method)
    attempt.unlink(missing_ok=True)
    return outcome


@contextlib.contextmanager
def _not_at_fault(attempt: Path, before: str) -> Iterator[None]:
    """Put an attempt's file back to what it held if the process is told to end, by another run's death or a user."""

    def ended(number: int, _: Any) -> None:
        attempt.write_text(before, encoding="utf-8")
        signal.signal(number, usual)
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


def run_method(setting: Setting, galaxy: Galaxy, method: Method) -> Outcome:
    """Run one method on one galaxy; whatever it raises becomes the reason of a failed outcome."""
    wall, cpu = time.perf_counter(), time.process_time()
    likelihood = None
    try:
        likelihood = GaussianLikelihood(
            setting.simulator, setting.estimator.prior, flux=galaxy.flux, flux_ivar=galaxy.flux_ivar, zred=galaxy.zred
        )
        if method == "flow":
            found = _flow(setting, galaxy)
        elif method == "refined":
            found = _refined(setting, galaxy)
        else:
            found = _sampled(setting, galaxy, likelihood, method)
        if not np.isfinite(found.samples).all():
            raise ParameterError("samples are not finite: the photometry is far outside what the method can describe")
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        columns = physical(found.samples, galaxy.zred, setting.estimator)
        return Outcome(
            draws=found.draws.astype(np.float32),
            quantiles=np.percentile(compared_columns(found.samples, columns), _PERCENTILES, axis=0),
            physical=np.percentile(columns, _PERCENTILES, axis=0),
            wall_s=wall_s,
            cpu_s=cpu_s,
            **found.figures,
        )
    except Exception as error:  # whatever a simulator or a sampler raises must not take the other galaxies along
        logger.warning("%s failed on galaxy %s: %s", method, galaxy.name, error)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        n = likelihood.n_evaluations if likelihood is not None else 0
        return _failure(reason, time.perf_counter() - wall, time.process_time() - cpu, n)


def _failure(reason: str, wall_s: float, cpu_s: float, n_evaluations: int) -> Outcome:
    draws = np.empty((0, len(FREE_PARAMETER_NAMES)), dtype=np.float32)
    none, nothing = np.full((3, len(COMPARED_NAMES)), np.nan), np.full((3, len(COMPARED_NAMES) + 1), np.nan)
    return Outcome(draws, none, nothing, wall_s, cpu_s, n_evaluations, converged=False, reason=reason, failed=True)


def _flow(setting: Setting, galaxy: Galaxy) -> _Found:
    config = setting.config
    row = (galaxy.flux[None], galaxy.flux_ivar[None], np.array([galaxy.zred]))
    drawn = setting.estimator.draw(*row, config.n_samples, seed=galaxy.seed(config.seed))
    points, efficiency = drawn.points[0].astype(float), float(drawn.efficiency[0])
    figures: dict[str, Any] = {"ess": float(len(points))}
    if np.isfinite(efficiency):
        log_evidence = float(drawn.log_evidence[0])
        figures = {"ess": efficiency * len(points), "log_evidence": log_evidence, "reason": f"efficiency {efficiency:.2f}"}
    # Copies of a draw are beside each other.
    n = int(np.clip(figures["ess"], 2, min(config.n_draws, len(points))))
    return _Found(points, points[thinned_rows(len(points), n)], figures)


def _refined(setting: Setting, galaxy: Galaxy) -> _Found:
    config = setting.config
    if not isinstance(setting.estimator, PosteriorEstimator):
        raise ParameterError("refinement needs a PosteriorEstimator")
    refiner = Refiner(setting.estimator, setting.simulator, config.refine)
    result = refiner(
        galaxy.flux, galaxy.flux_ivar, galaxy.zred, config.n_samples, seed=galaxy.seed(config.seed), key=galaxy.row, n_threads=1
    )
    # Beyond as many as the weights are worth, samples repeat.
    n = min(config.n_draws, max(2, int(result.ess)))
    figures = {
        "n_evaluations": result.n_evaluations,
        "ess": result.ess,
        "converged": result.flag == "",
        "reason": f"{result.step}, efficiency {result.efficiency:.2f}, k-hat {result.khat:.2f}"
        + (f"; {result.flag}" if result.flag else ""),
        "log_evidence": result.log_evidence,
    }
    return _Found(result.theta_unbounded, result.theta_unbounded[:n], figures)


def _sampled(setting: Setting, galaxy: Galaxy, likelihood: GaussianLikelihood, method: Method) -> _Found:
    config = setting.config
    seed = galaxy.chain_seed(config.seed, method)
    settings = config.mcmc.model_copy(update={"seed": seed})
    if method == "nautilus":
        result = run_nautilus(likelihood, settings)
    else:
        flow = None
        if isinstance(setting.estimator, PosteriorEstimator) and not config.independent:
            flow = FlowMap.at(setting.estimator, galaxy.flux, galaxy.flux_ivar, galaxy.zred)
        result = _CHAINS[method](likelihood, settings, flow=flow).unless_interrupted()
    ess = float(result.ess.min())
    samples = result.theta_unbounded
    kept = samples[rows_at_most(len(samples), _MAX_FOR_QUANTILES)]
    figures = {
        "n_evaluations": result.n_evaluations,
        "ess": ess,
        "rhat": result.rhat if np.isfinite(result.rhat) else None,
        "log_evidence": result.log_evidence,
        "converged": result.converged,
        "reason": result.reason,
    }
    return _Found(kept, independent_draws(result.chain, ess, config.n_draws, seed=galaxy.seed(config.seed)), figures)


def independent_draws(chain: np.ndarray, ess: float, n: int, *, seed: int) -> np.ndarray:
    """Up to n states (m, n_dim) of a chain (n_step, n_walker, n_dim), no more than its effective samples.

    They are of evenly spaced steps, which are then an autocorrelation time or more apart, and come walker by walker: of
    walkers in independent groups, the first half and the second are independent.
    """
    n_step, n_walker, n_dim = chain.shape
    n = int(np.clip(ess, 2, min(n, n_step * n_walker)))
    steps = rows_at_most(n_step, max(1, -(-int(ess) // n_walker)))
    points = chain[steps].swapaxes(0, 1).reshape(-1, n_dim)
    return points[np.sort(np.random.default_rng(seed).choice(len(points), n, replace=False))]
