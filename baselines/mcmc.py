"""Ensemble MCMC of one galaxy with emcee or zeus, run until a target effective sample size, on the flow's own posterior."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import emcee
import numpy as np
from pydantic import Field, field_validator, model_validator

from sedcast.baselines.coordinates import Coordinates, choose_coordinates
from sedcast.baselines.diagnostics import autocorrelation_time, split_rhat
from sedcast.data.config import Config
from sedcast.data.errors import ParameterError, SedcastError
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.likelihood import GaussianLikelihood

__all__ = ["McmcConfig", "McmcResult", "run_emcee", "run_zeus"]

logger = logging.getLogger(__name__)

_N_DIM = len(FREE_PARAMETER_NAMES)
_BURN_IN_TIMES = 5
_RHAT_GROUPS = 4
_CHECK_GROWTH = 1.3
_JITTER = 1e-2
_MIN_KEPT = 20
_ZEUS_BLOCK = 100
# On two SDSS-like mock galaxies the slowest autocorrelation time is 271 and 334 steps with this mix, 900 and 720 with
# stretch moves alone, and about the same with other shares of the three. DESnookerMove is left out: in emcee 3.1.6 it
# breaks detailed balance (fixed by emcee's pull request 531), and narrows an 11-dimensional normal to 0.60 of its variance.
_EMCEE_MOVES = ((emcee.moves.DEMove(), 0.8), (emcee.moves.DEMove(gamma0=1.0), 0.1), (emcee.moves.StretchMove(), 0.1))

Progress = Callable[[int, int], None]
Steps = Iterator[tuple[np.ndarray, np.ndarray]]


class McmcConfig(Config):
    """How long and how wide to sample.

    Attributes
    ----------
    n_walkers : walkers of the ensemble, even.
    max_steps : steps of the ensemble after which a run ends unconverged.
    target_ess : effective samples of the worst parameter at which a run may end.
    max_rhat : largest split R-hat at which a run may end.
    check_every : steps before the first check of both; later checks come at growing intervals.
    thin : keep every so many steps.
    n_screen : prior draws among which the start points are picked.
    seed : of start points and sampler.
    """

    n_walkers: int = Field(default=64, ge=2 * _N_DIM)
    max_steps: int = Field(default=40_000, ge=_MIN_KEPT)
    target_ess: float = Field(default=1000.0, gt=0)
    max_rhat: float = Field(default=1.01, gt=1)
    check_every: int = Field(default=200, ge=_MIN_KEPT)
    thin: int = Field(default=10, ge=1)
    n_screen: int = Field(default=8192, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("n_walkers")
    @classmethod
    def _even(cls, n_walkers: int) -> int:
        if n_walkers % _RHAT_GROUPS:
            raise ValueError(
                f"must be a multiple of {_RHAT_GROUPS}: ensembles move by halves, R-hat compares {_RHAT_GROUPS} groups"
            )
        return n_walkers

    @model_validator(mode="after")
    def _enough_kept(self) -> "McmcConfig":
        if min(self.check_every, self.max_steps) < _MIN_KEPT * self.thin:
            raise ValueError(f"check_every and max_steps must be at least {_MIN_KEPT} times thin={self.thin}")
        return self


@dataclass(frozen=True)
class McmcResult:
    """Samples of one galaxy's posterior and how good they are.

    Attributes
    ----------
    sampler : ``"emcee"`` or ``"zeus"``.
    theta : (n_step * n_walker, 12) samples after burn-in.
    chain : (n_step, n_walker, 11) the same in probit space, by step and walker.
    log_prob : (n_step, n_walker) log posterior in probit space, up to the evidence.
    autocorrelation_steps : (11,) integrated autocorrelation times in steps of the ensemble (before thinning).
    ess : (11,) effective sample sizes.
    rhat : largest split R-hat over the parameters and log_prob.
    converged : whether the targets were met.
    reason : why the run ended.
    interrupted : whether the user stopped it.
    n_steps, n_burn_in : steps run, and steps discarded at the start.
    n_evaluations : model evaluations, those of the start points included.
    wall_s : seconds.
    seed : of the run.
    """

    sampler: str
    theta: np.ndarray
    chain: np.ndarray
    log_prob: np.ndarray
    autocorrelation_steps: np.ndarray
    ess: np.ndarray
    rhat: float
    converged: bool
    reason: str
    interrupted: bool
    n_steps: int
    n_burn_in: int
    n_evaluations: int
    wall_s: float
    seed: int

    @property
    def theta_unbounded(self) -> np.ndarray:
        """(n_step * n_walker, 11) samples in probit space, the rows of `theta`."""
        return self.chain.reshape(-1, self.chain.shape[2])


def run_emcee(
    likelihood: GaussianLikelihood,
    config: McmcConfig,
    *,
    start: np.ndarray | None = None,
    progress: Progress | None = None,
) -> McmcResult:
    """Sample one galaxy's posterior with emcee's affine-invariant ensemble, by differential evolution and stretch moves.

    Parameters
    ----------
    likelihood : the galaxy.
    config : length and width of the run.
    start : (n, 12) parameters to start from, for example the flow's samples; needs n_walkers distinct ones of finite
        posterior. Default, the best of `config.n_screen` prior draws.
    progress : called with (steps done, max_steps) at every check.

    Raises
    ------
    ParameterError : if start points are too few, or the posterior is zero at all of them.

    References
    ----------
    Foreman-Mackey et al. 2013, arXiv:1202.3665; Nelson et al. 2014, arXiv:1311.5229 (differential evolution).
    """
    began, evaluated = time.perf_counter(), likelihood.n_evaluations
    points, coordinates = _start_points(likelihood, config, start)
    sampler = emcee.EnsembleSampler(config.n_walkers, _N_DIM, coordinates.log_prob, moves=list(_EMCEE_MOVES), vectorize=True)
    state = emcee.State(points, random_state=np.random.RandomState(config.seed).get_state())

    def steps() -> Steps:
        for now in sampler.sample(state, iterations=config.max_steps, store=False, skip_initial_state_check=True):
            yield now.coords, now.log_prob

    run = _Run("emcee", likelihood, coordinates, config, began, evaluated)
    return run.until_converged(steps(), n_tuning=lambda: 0, progress=progress)


def run_zeus(
    likelihood: GaussianLikelihood,
    config: McmcConfig,
    *,
    start: np.ndarray | None = None,
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

    began, evaluated = time.perf_counter(), likelihood.n_evaluations
    points, coordinates = _start_points(likelihood, config, start)
    with _zeus_globals(config.seed):
        with _root_logger_kept():
            sampler = zeus.EnsembleSampler(config.n_walkers, _N_DIM, coordinates.log_prob, vectorize=True, verbose=False)

        def steps() -> Steps:
            here: np.ndarray | None = points
            while True:
                for x, log_prob, _ in sampler.sample(here, iterations=_ZEUS_BLOCK, progress=False):
                    yield x, log_prob
                sampler.reset()
                here = None

        run = _Run("zeus", likelihood, coordinates, config, began, evaluated)
        try:
            return run.until_converged(steps(), n_tuning=lambda: len(sampler.mus), progress=progress)
        except RuntimeError as error:
            raise SedcastError(f"zeus gave up after {run.n_steps} steps: {' '.join(str(error).split())}") from error


class _Run:
    """The states of one run, and when it may end."""

    def __init__(
        self,
        name: str,
        likelihood: GaussianLikelihood,
        coordinates: Coordinates,
        config: McmcConfig,
        began: float,
        evaluated: int,
    ) -> None:
        self.name, self.likelihood, self.coordinates, self.config = name, likelihood, coordinates, config
        self.began, self.evaluated = began, evaluated
        self.n_steps = 0
        self._y: list[np.ndarray] = []
        self._y_log_prob: list[np.ndarray] = []
        self._chain = np.empty((0, config.n_walkers, _N_DIM))
        self._log_prob = np.empty((0, config.n_walkers))

    def until_converged(self, steps: Steps, *, n_tuning: Callable[[], int], progress: Progress | None) -> McmcResult:
        """Take steps until the targets are met, `max_steps` are done or the user interrupts."""
        config = self.config
        check_at = min(config.check_every, config.max_steps)
        interrupted = False
        try:
            for y, log_prob in steps:
                self.n_steps += 1
                if self.n_steps % config.thin == 0:
                    self._y.append(y.copy())
                    self._y_log_prob.append(log_prob.copy())
                if self.n_steps < check_at:
                    continue
                if progress is not None:
                    progress(self.n_steps, config.max_steps)
                result = self._result(n_tuning(), interrupted=False)
                logger.debug("%s after %d steps: %s", self.name, self.n_steps, result.reason)
                if result.converged or self.n_steps >= config.max_steps:
                    return result
                check_at = min(config.max_steps, int(np.ceil(check_at * _CHECK_GROWTH)))
        except KeyboardInterrupt:
            interrupted = True
            if len(self._chain) + len(self._y) < _MIN_KEPT:
                raise
        return self._result(n_tuning(), interrupted=interrupted)

    def _decode(self) -> None:
        """Move the states kept since the last check into probit space."""
        if not self._y:
            return
        y, log_prob = np.concatenate(self._y), np.concatenate(self._y_log_prob)
        x, log_prob = self.coordinates.decode(y, log_prob)
        shape = (len(self._y), self.config.n_walkers)
        self._chain = np.concatenate([self._chain, x.reshape(*shape, _N_DIM)])
        self._log_prob = np.concatenate([self._log_prob, log_prob.reshape(shape)])
        self._y, self._y_log_prob = [], []

    def _result(self, n_tuning: int, *, interrupted: bool) -> McmcResult:
        config = self.config
        self._decode()
        chain, log_prob = self._chain, self._log_prob
        half = len(chain) // 2
        slowest = float(autocorrelation_time(chain[half:]).max()) * config.thin
        wanted = max(n_tuning, _BURN_IN_TIMES * slowest)
        n_burn_in = min(half, int(np.ceil(min(wanted, self.n_steps) / config.thin)))
        chain, log_prob = chain[n_burn_in:], log_prob[n_burn_in:]
        times = autocorrelation_time(chain)
        ess = chain.shape[0] * chain.shape[1] / times
        rhat = float(split_rhat(np.concatenate([chain, log_prob[..., None]], axis=2), n_groups=_RHAT_GROUPS).max())
        met = ess.min() >= config.target_ess and rhat <= config.max_rhat and n_burn_in * config.thin >= wanted
        figures = (
            f"ESS {ess.min():.0f} (target {config.target_ess:g}), R-hat {rhat:.3f} (at most {config.max_rhat:g}), "
            f"burn-in {n_burn_in * config.thin} of {wanted:.0f} steps"
        )
        ended = "targets met" if met else f"interrupted at step {self.n_steps}" if interrupted else f"{self.n_steps} steps done"
        return McmcResult(
            sampler=self.name,
            theta=self.likelihood.prior.from_unbounded(chain.reshape(-1, _N_DIM)),
            chain=chain,
            log_prob=log_prob,
            autocorrelation_steps=times * config.thin,
            ess=ess,
            rhat=rhat,
            converged=bool(met and not interrupted),
            reason=f"{ended}: {figures}",
            interrupted=interrupted,
            n_steps=self.n_steps,
            n_burn_in=n_burn_in * config.thin,
            n_evaluations=self.likelihood.n_evaluations - self.evaluated,
            wall_s=time.perf_counter() - self.began,
            seed=config.seed,
        )


def _start_points(
    likelihood: GaussianLikelihood, config: McmcConfig, start: np.ndarray | None
) -> tuple[np.ndarray, Coordinates]:
    """Distinct start points of finite posterior, (n_walkers, 11) in the coordinates that come with them."""
    rng = np.random.default_rng(config.seed)
    if start is None:
        x = rng.standard_normal((config.n_screen, _N_DIM))
        coordinates = choose_coordinates(likelihood, x)
        y = coordinates.candidates(x)
        where = f"{len(y)} prior draws"
    else:
        x = np.unique(likelihood.prior.to_unbounded(likelihood.prior.validate(start)), axis=0)
        coordinates = choose_coordinates(likelihood, x)
        y = coordinates.encode(x)
        where = f"{len(y)} distinct start points"
    log_prob = coordinates.log_prob(y)
    alive = np.flatnonzero(np.isfinite(log_prob))
    if len(alive) == 0:
        raise ParameterError(
            f"the posterior is zero at all of {where}: check the units of flux and flux_ivar (nanomaggies) and that the "
            "simulator returns finite fluxes"
        )
    if start is not None:
        if len(alive) < config.n_walkers:
            raise ParameterError(
                f"start has {len(alive)} distinct points of finite posterior, {config.n_walkers} walkers need one each: "
                "pass more samples"
            )
        chosen = y[rng.choice(alive, config.n_walkers, replace=False)]
        if np.linalg.matrix_rank(chosen - chosen.mean(axis=0)) < _N_DIM:
            raise ParameterError("start points share a plane, which an ensemble never leaves: pass samples that vary in all")
        return chosen, coordinates
    best = y[alive[np.argsort(-log_prob[alive], kind="stable")[: config.n_walkers]]]
    if len(best) < config.n_walkers:
        # Few draws survive: walkers share them, apart by a little, since an ensemble needs distinct points.
        best = best[np.arange(config.n_walkers) % len(best)] + _JITTER * rng.standard_normal((config.n_walkers, _N_DIM))
        if not np.isfinite(coordinates.log_prob(best)).all():
            raise ParameterError(f"only {len(alive)} of {where} have a posterior above zero: raise n_screen or pass start")
    return best, coordinates


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Put the root logger's handlers and level back: zeus replaces them on construction."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _not_from_zeus(record: logging.LogRecord) -> bool:
    return record.module != "ensemble"


@contextmanager
def _zeus_globals(seed: int) -> Iterator[None]:
    """Seed the global generators that zeus draws from and drop its root-logger chatter, then put everything back."""
    root = logging.getLogger()
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - the generator that zeus uses
    python_state = random.getstate()
    with _root_logger_kept():
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        root.addFilter(_not_from_zeus)
        try:
            yield
        finally:
            root.removeFilter(_not_from_zeus)
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
