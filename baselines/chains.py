"""The chains of one run: what was kept of them, and whether they have converged."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from sedcast.baselines.checkpoint import Checkpoint, Moment, Progressed
from sedcast.baselines.diagnostics import autocorrelation_time, rank_rhat
from sedcast.baselines.mcmc_result import MIN_KEPT, N_DIM, McmcConfig, McmcResult
from sedcast.baselines.starts import Start
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.likelihood import GaussianLikelihood

__all__ = ["Chains", "Meter", "Progress", "Steps"]

logger = logging.getLogger(__name__)

# Points that were drawn from the posterior by weight need to forget less than points that were merely good.
_BURN_IN_TIMES = {True: 2.0, False: 5.0}
_CHECK_GROWTH = 1.3

Progress = Callable[[int, int], None]
Steps = Callable[[Moment | None], Iterator[Moment]]
"""The states of a sampler after each step, from the start or from a moment on."""


class Meter:
    """What a run has cost since this was made, and before it was resumed.

    Parameters
    ----------
    likelihood : counts the evaluations.
    """

    def __init__(self, likelihood: GaussianLikelihood) -> None:
        self.likelihood = likelihood
        self.restart({"n_evaluations": 0, "wall_s": 0.0, "cpu_s": 0.0})

    def restart(self, before: Mapping[str, float]) -> None:
        """Count from here on, and add what was spent before."""
        self._before = before
        self._from = self.likelihood.n_evaluations, time.perf_counter(), time.process_time()

    @property
    def n_evaluations(self) -> int:
        """Model evaluations."""
        return int(self._before["n_evaluations"]) + self.likelihood.n_evaluations - self._from[0]

    @property
    def wall_s(self) -> float:
        """Seconds."""
        return self._before["wall_s"] + time.perf_counter() - self._from[1]

    @property
    def cpu_s(self) -> float:
        """Seconds of this process's CPU."""
        return self._before["cpu_s"] + time.process_time() - self._from[2]

    def spent(self) -> dict[str, float]:
        """All three by name."""
        return {"n_evaluations": self.n_evaluations, "wall_s": self.wall_s, "cpu_s": self.cpu_s}


class Chains:
    """Takes a sampler's steps, and decides when there are enough.

    Parameters
    ----------
    sampler : its name.
    meter : running since before the start points were looked for.
    found : where the chains start, and their coordinates.
    config : targets and limits.
    moves : for the record.
    checkpoint : where the run is kept, None if nowhere; what it holds already is taken up.
    order : (n_walker,) the sampler's walkers, group by group.
    n_tuning : steps to be discarded whatever the autocorrelation.
    """

    def __init__(
        self,
        sampler: str,
        meter: Meter,
        found: Start,
        config: McmcConfig,
        *,
        moves: tuple[str, ...],
        checkpoint: Checkpoint | None,
        order: np.ndarray | slice = slice(None),
        n_tuning: int = 0,
    ) -> None:
        self.sampler, self.meter, self.found, self.config = sampler, meter, found, config
        self.moves, self.checkpoint, self.order, self.n_tuning = moves, checkpoint, order, n_tuning
        self.n_steps = 0
        self._y: list[np.ndarray] = []
        self._y_log_prob: list[np.ndarray] = []
        self._chain = np.empty((0, config.n_total, N_DIM))
        self._log_prob = np.empty((0, config.n_total))

    def until_converged(self, steps: Steps, *, progress: Progress | None) -> McmcResult:
        """Take steps until the targets are met, a limit is reached or the user interrupts."""
        config = self.config
        moment = resumed = self._resume()
        check_at, interrupted, due = config.check_every, False, False
        while check_at <= self.n_steps:
            check_at, due = _next_check(check_at), check_at == self.n_steps
        # As a run that never stopped would: it does not look where the user interrupted.
        if due or self._limit():
            result = self._result(interrupted=False)
            if result.converged or self._limit():
                return result
        try:
            for moment in steps(resumed):
                self.n_steps += 1
                if self.n_steps % config.thin == 0:
                    self._y.append(moment.points[self.order])
                    self._y_log_prob.append(moment.log_prob[self.order])
                limit = self._limit()
                if self.n_steps < check_at and not limit:
                    continue
                if progress is not None:
                    progress(self.n_steps, config.max_steps)
                self._keep(moment)
                result = self._result(interrupted=False)
                logger.debug("%s after %d steps: %s", self.sampler, self.n_steps, result.reason)
                if result.converged or limit:
                    return result
                check_at = _next_check(check_at)
        except KeyboardInterrupt:
            interrupted = True
            if moment is not None:
                self._keep(moment)
            if len(self._chain) < MIN_KEPT:
                raise
        return self._result(interrupted=interrupted)

    def _limit(self) -> str:
        """Which limit has been reached, if one has."""
        config = self.config
        if self.n_steps >= config.max_steps:
            return "max_steps"
        if self.n_steps < MIN_KEPT * config.thin:
            return ""
        if self.meter.n_evaluations >= config.max_evaluations:
            return "max_evaluations"
        return "max_seconds" if config.max_seconds is not None and self.meter.wall_s >= config.max_seconds else ""

    def _resume(self) -> Moment | None:
        held = None if self.checkpoint is None else self.checkpoint.load()
        if held is None:
            return None
        self.n_steps = held.n_steps
        self._y, self._y_log_prob = [*held.chain], [*held.log_prob]
        self._chain, self._log_prob = self._decoded()
        self._y, self._y_log_prob = [], []
        self.meter.restart(held.spent)
        return held.moment

    def _keep(self, moment: Moment) -> None:
        """Move the states kept since the last time into probit space, and into the checkpoint."""
        # First, for it costs evaluations, which the checkpoint tells of.
        decoded = self._decoded()
        if self.checkpoint is not None:
            now = Progressed(moment, self.n_steps, self.meter.spent())
            self.checkpoint.save(self._y, self._y_log_prob, now, first=len(self._chain))
        # At once, lest an interrupt between them leaves steps in both.
        self._chain, self._log_prob, self._y, self._y_log_prob = *decoded, [], []

    def _decoded(self) -> tuple[np.ndarray, np.ndarray]:
        """The chain in probit space, and its log_prob, with the states kept since the last time."""
        # One by one, for rounding depends on how many points a model is given, and a resumed run has other pieces.
        steps = [self.found.coordinates.decode(y, log_prob) for y, log_prob in zip(self._y, self._y_log_prob, strict=True)]
        chain = np.concatenate([self._chain, *(x[None] for x, _ in steps)])
        return chain, np.concatenate([self._log_prob, *(log_prob[None] for _, log_prob in steps)])

    def _result(self, *, interrupted: bool) -> McmcResult:
        config = self.config
        chain, log_prob = self._chain, self._log_prob
        half = len(chain) // 2
        slowest = float(autocorrelation_time(chain[half:]).max()) * config.thin
        wanted = max(self.n_tuning, _BURN_IN_TIMES[self.found.weighted] * slowest)
        n_burn_in = min(half, int(np.ceil(min(wanted, self.n_steps) / config.thin)))
        chain, log_prob = chain[n_burn_in:], log_prob[n_burn_in:]
        times = autocorrelation_time(chain)
        ess = chain.shape[0] * chain.shape[1] / times
        rhat = rank_rhat(np.concatenate([chain, log_prob[..., None]], axis=2), n_groups=config.n_groups)
        wrong = _shortcomings(ess, rhat, n_burn_in * config.thin, wanted, config)
        converged = not (wrong or interrupted)
        cost = f"after {self.n_steps} steps, {self.meter.n_evaluations:.2g} evaluations"
        if converged:
            reason = f"converged: ESS {ess.min():.0f}, R-hat {rhat.max():.3f} {cost}"
        else:
            ended = "interrupted" if interrupted else self._limit()
            reason = f"not converged: {', '.join(wrong) or 'targets met'} {cost}" + (f" ({ended})" if ended else "")
        return McmcResult(
            sampler=self.sampler,
            theta=self.meter.likelihood.prior.from_unbounded(chain.reshape(-1, N_DIM)),
            chain=chain,
            log_prob=log_prob,
            n_groups=config.n_groups,
            autocorrelation_steps=times * config.thin,
            ess=ess,
            rhat=float(rhat.max()),
            converged=converged,
            reason=reason,
            interrupted=interrupted,
            n_steps=self.n_steps,
            n_burn_in=n_burn_in * config.thin,
            n_evaluations=self.meter.n_evaluations,
            wall_s=self.meter.wall_s,
            cpu_s=self.meter.cpu_s,
            seed=config.seed,
            moves=self.moves,
            coordinates=self.found.coordinates.name,
            start=self.found.origin,
        )


def _next_check(check_at: int) -> int:
    return int(np.ceil(check_at * _CHECK_GROWTH))


def _shortcomings(ess: np.ndarray, rhat: np.ndarray, n_burn_in: int, wanted: float, config: McmcConfig) -> list[str]:
    """What keeps a run from being converged, in words."""
    wrong = []
    if not rhat.max() <= config.max_rhat:
        wrong.append(f"R-hat {rhat.max():.3f} for {(*FREE_PARAMETER_NAMES, 'log_prob')[int(rhat.argmax())]}")
    if not ess.min() >= config.target_ess:
        wrong.append(f"ESS {ess.min():.0f} of {config.target_ess:g} for {FREE_PARAMETER_NAMES[int(ess.argmin())]}")
    if n_burn_in < wanted:
        wrong.append(f"burn-in {n_burn_in} of {wanted:.0f} steps")
    return wrong
