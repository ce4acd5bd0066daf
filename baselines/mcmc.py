"""MCMC of one galaxy with emcee or zeus, until measured convergence, on the flow's own posterior."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emcee
import numpy as np

from sedcast.baselines.chains import Chains, Meter, Progress
from sedcast.baselines.checkpoint import Checkpoint, Moment, identity
from sedcast.baselines.coordinates import FlowCoordinates, FlowMap
from sedcast.baselines.mcmc_result import N_DIM, McmcConfig, McmcResult, check_run
from sedcast.baselines.moves import ZeusGroups, emcee_moves, emcee_sampler
from sedcast.baselines.starts import Start, find_start
from sedcast.baselines.zeus_globals import GlobalGenerators, legacy_state, root_logger_kept
from sedcast.data.checks import check_kind
from sedcast.data.errors import SedcastError
from sedcast.data.locks import output_lock
from sedcast.data.threads import one_blas_thread
from sedcast.posterior.likelihood import GaussianLikelihood

__all__ = ["McmcConfig", "McmcResult", "run_emcee", "run_zeus"]

_ZEUS_BLOCK = 100
# zeus's own rule for when tuning ends forgets its count when a run is resumed.
_NEVER = 10**9
# In the flow's noise the posterior's scale is known: slices are about 9 standard deviations wide, and nothing is tuned.
_ZEUS_WIDTH = 1.4
# As zeus's light mode does, by about as much: slices of a tuned width, which no longer step out, are wider.
_ZEUS_LIGHT = 2.0


@one_blas_thread()
def run_emcee(
    likelihood: GaussianLikelihood,
    config: McmcConfig,
    *,
    start: np.ndarray | None = None,
    flow: FlowMap | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> McmcResult:
    """Sample one galaxy's posterior with emcee: differential evolution, stretch and independence moves.

    Parameters
    ----------
    likelihood : the galaxy.
    config : length and width of the run.
    start : (n, 12) parameters to start from; needs as many distinct ones of finite posterior as there are walkers.
    flow : a trained flow at the galaxy's photometry (`FlowMap.at`): the chains move in its base noise and start from its
        draws. Its errors cost time, never exactness. Without `start` and `flow`, chains start from points that
        population Monte Carlo finds from prior draws on, independently of any flow.
    checkpoint : HDF5 file, readable by emcee's backend, written at every check; if it exists, the run goes on from there
        and gives what an uninterrupted one would have given.
    progress : called with (steps done, max_steps) at every check.

    Raises
    ------
    ParameterError : if start points are too few, the posterior is zero at all of them, or the likelihood is not
        `GaussianLikelihood.resolved`.
    ConfigError : if another process is writing the checkpoint.
    ArtifactError : if the checkpoint is damaged, or of another galaxy, model, prior, sampler, start or configuration.

    References
    ----------
    Foreman-Mackey et al. 2013, arXiv:1202.3665; Nelson et al. 2014, arXiv:1311.5229 (differential evolution).
    """
    _check(likelihood, config, flow)
    meter = Meter(likelihood)
    of_start, of_sampler = np.random.SeedSequence(config.seed).spawn(2)
    found = find_start(likelihood, config.n_total, n_screen=config.n_screen, seed=of_start, start=start, flow=flow)
    moves, names = emcee_moves(config.n_groups, found.proposal)
    sampler = emcee_sampler(found.coordinates.log_prob, (config.n_total, N_DIM), moves)

    def steps(moment: Moment | None) -> Iterator[Moment]:
        if moment is None:
            state = emcee.State(found.points, random_state=legacy_state(of_sampler))
        else:
            state = emcee.State(moment.points, log_prob=moment.log_prob, random_state=moment.random_state)
        for now in sampler.sample(state, iterations=None, store=False, skip_initial_state_check=True):
            yield Moment(now.coords.copy(), now.log_prob.copy(), now.random_state)

    held = _checkpoint("emcee", checkpoint, likelihood, config, found)
    chains = Chains("emcee", meter, found, config, moves=names, checkpoint=held)
    with _locked(checkpoint):
        return chains.until_converged(steps, progress=progress)


@one_blas_thread()
def run_zeus(
    likelihood: GaussianLikelihood,
    config: McmcConfig,
    *,
    start: np.ndarray | None = None,
    flow: FlowMap | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> McmcResult:
    """Sample one galaxy's posterior with zeus's ensemble slice sampler.

    zeus draws from the global generators of NumPy and of `random`: they are seeded for the run and put back after it, so
    run it in one thread at a time. Parameters and errors are those of `run_emcee`.

    Raises
    ------
    SedcastError : also if zeus gives up, for example because its slices do not close.

    References
    ----------
    Karamanis, Beutler & Peacock 2021, arXiv:2105.03468; Karamanis & Beutler 2020, arXiv:2002.06212.
    """
    import zeus

    _check(likelihood, config, flow)
    meter = Meter(likelihood)
    of_start, of_sampler = np.random.SeedSequence(config.seed).spawn(2)
    found = find_start(likelihood, config.n_total, n_screen=config.n_screen, seed=of_start, start=start, flow=flow)
    in_noise = isinstance(found.coordinates, FlowCoordinates)
    if in_noise:
        move, name = zeus.moves.GaussianMove(tune=False, mu0=_ZEUS_WIDTH), "slices along random directions, fixed width"
    else:
        move, name = zeus.moves.DifferentialMove(), "slices along differences of walkers, tuned width"
    n_tuning = 0 if in_noise else config.check_every
    held = _checkpoint("zeus", checkpoint, likelihood, config, found)
    groups = ZeusGroups(move, config.n_groups)
    order = groups.order(config.n_total)
    chains = Chains("zeus", meter, found, config, moves=(name,), checkpoint=held, order=order, n_tuning=n_tuning)
    with _locked(checkpoint), GlobalGenerators(of_sampler) as generators:
        with root_logger_kept():
            options = {"vectorize": True, "verbose": False, "shuffle_ensemble": False, "patience": _NEVER}
            sampler = zeus.EnsembleSampler(config.n_total, N_DIM, found.coordinates.log_prob, moves=groups, **options)
            # In place of zeus's wrapper of it, which prints what it raises again, as emcee's does.
            sampler.logprob_fn = found.coordinates.log_prob
        try:
            return chains.until_converged(
                lambda moment: _zeus_steps(sampler, moment, found, generators, n_tuning), progress=progress
            )
        except RuntimeError as error:
            raise SedcastError(f"zeus gave up after {chains.n_steps} steps: {' '.join(str(error).split())}") from error


def _zeus_steps(
    sampler: Any, moment: Moment | None, found: Start, generators: GlobalGenerators, n_tuning: int
) -> Iterator[Moment]:
    """The states of a zeus sampler, whose slices step out and are tuned for the first `n_tuning` steps only."""
    points: np.ndarray | None = found.points
    log_prob: np.ndarray | None = None
    done = 0
    if moment is not None:
        points, log_prob, done, sampler.mu = moment.points, moment.log_prob, moment.extra["n_steps"], moment.extra["mu"]
        generators.set(moment.random_state, moment.extra["python_random"])
    widened = done > n_tuning
    while True:
        if done >= n_tuning:
            sampler.tune, sampler.maxsteps = False, 1
            if not widened and n_tuning:
                sampler.mu, widened = sampler.mu * _ZEUS_LIGHT, True
        n_steps = n_tuning - done if done < n_tuning else _ZEUS_BLOCK
        for x, z, _ in sampler.sample(points, log_prob0=log_prob, iterations=n_steps, progress=False):
            done += 1
            random_state, python_random = generators.get()
            yield Moment(
                x.copy(), z.copy(), random_state, {"n_steps": done, "mu": float(sampler.mu), "python_random": python_random}
            )
        sampler.reset()
        # Without points it goes on from its own last state.
        points = log_prob = None


def _check(likelihood: GaussianLikelihood, config: McmcConfig, flow: FlowMap | None) -> None:
    """Refuse arguments of another kind before any work."""
    check_run(likelihood, config)
    if flow is not None:
        check_kind("flow", flow, FlowMap, "FlowMap.at(estimator, flux, flux_ivar, zred) makes one")


def _locked(checkpoint: str | Path | None) -> contextlib.AbstractContextManager[None]:
    """Keep other processes off a checkpoint."""
    return contextlib.nullcontext() if checkpoint is None else output_lock(checkpoint)


def _checkpoint(
    sampler: str, path: str | Path | None, likelihood: GaussianLikelihood, config: McmcConfig, found: Start
) -> Checkpoint | None:
    if path is None:
        return None
    settings = config.model_dump(include={"n_walkers", "n_groups", "thin", "n_screen", "seed", "check_every"})
    described = identity(sampler, likelihood, settings, found.points, found.coordinates.name)
    return Checkpoint(path, described, config.n_total)
