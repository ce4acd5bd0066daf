"""MCMC of the page's galaxy in a process of its own, which leaves the page free and can be ended at once."""

import multiprocessing
import signal
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from sedcast.data.errors import SedcastError
from sedcast.explore.compute import Observed

__all__ = ["McmcJob", "McmcSamples"]

_N_KEPT = 10_000


@dataclass(frozen=True)
class McmcSamples:
    """What a run left.

    Attributes
    ----------
    run : number of the run.
    observed : the galaxy.
    theta : (n, 12) samples, thinned.
    facts : how good they are, for people.
    """

    run: int
    observed: Observed
    theta: np.ndarray
    facts: str


@dataclass
class McmcJob:
    """At most one run at a time.

    Attributes
    ----------
    model : the posterior's file or name, whose likelihood and prior the chains have.
    """

    model: str
    _process: BaseProcess | None = None
    _pipe: Connection | None = None
    _asked: Observed | None = None
    _number: int = 0
    _state: dict[str, Any] = field(default_factory=lambda: {"status": "none"})
    _samples: McmcSamples | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def samples(self) -> McmcSamples | None:
        """Those of the last run that came to its end."""
        return self._samples

    def start(self, observed: Observed) -> None:
        """Run emcee on a galaxy, instead of any other run."""
        with self._lock:
            self.cancel()
            # Forking a process that has threads may lock it up.
            context = multiprocessing.get_context("spawn")
            self._pipe, child = context.Pipe(duplex=False)
            self._asked, self._samples = observed, None
            self._number += 1
            self._state = {"status": "running", "done": 0, "total": 0}
            self._process = context.Process(target=_run, args=(child, self.model, observed), daemon=True)
            self._process.start()
            child.close()

    def cancel(self, run: int | None = None) -> None:
        """End the run, if there is one, and of that number if one is given; samples of a finished one are kept."""
        with self._lock:
            if self._process is not None and run in (None, self._number):
                self._process.terminate()
                self._finish({"status": "cancelled"})

    def state(self) -> dict[str, Any]:
        """Its number and status, ``none``, ``running``, ``done``, ``failed`` or ``cancelled``, with progress or message."""
        with self._lock:
            while self._process is not None and self._pipe is not None:
                try:
                    if not self._pipe.poll():
                        break
                    kind, value = self._pipe.recv()
                except (EOFError, OSError):
                    self._finish({"status": "failed", "message": "the process of the chains ended without a result"})
                    break
                self._take(kind, value)
            return self._state | {"run": self._number}

    def _take(self, kind: str, value: Any) -> None:
        if kind == "progress":
            self._state = {"status": "running", "done": value[0], "total": value[1]}
        elif kind == "failed":
            self._finish({"status": "failed", "message": value})
        else:
            assert self._asked is not None
            self._samples = McmcSamples(self._number, self._asked, *value)
            self._finish({"status": "done", "message": value[1]})

    def _finish(self, state: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._pipe is not None
        self._process.join()
        self._pipe.close()
        self._process = self._pipe = None
        self._state = state


def _run(pipe: Connection, model: str, observed: Observed) -> None:
    from sedcast.baselines.coordinates import FlowMap
    from sedcast.baselines.mcmc import McmcConfig, run_emcee
    from sedcast.posterior.estimator import PosteriorEstimator
    from sedcast.posterior.likelihood import GaussianLikelihood
    from sedcast.posterior.outlier_training import training_simulator

    # Ctrl-C is for the server, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        estimator = PosteriorEstimator.find(model)
        simulator = training_simulator(estimator)
        flux, ivar, zred = observed.flux, observed.flux_ivar, observed.zred
        likelihood = GaussianLikelihood(simulator, estimator.prior, flux=flux, flux_ivar=ivar, zred=zred)
        config = McmcConfig(max_steps=20_000)
        flow = FlowMap.at(estimator, flux, ivar, zred)
        result = run_emcee(likelihood, config, flow=flow, progress=lambda done, total: pipe.send(("progress", (done, total))))
    except SedcastError as error:
        pipe.send(("failed", str(error)))
        return
    facts = f"emcee {result.reason}; {config.n_total} walkers in {result.wall_s:.1f} s"
    pipe.send(("done", (result.thinned(_N_KEPT), facts)))
