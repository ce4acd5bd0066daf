"""Runs on disk: HDF5 files of emcee's layout, for emcee and zeus alike, from which a run goes on as if nothing had happened."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import emcee
import numpy as np

from sedcast.data.artifacts import atomic_path
from sedcast.data.checks import as_path
from sedcast.data.errors import ArtifactError
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.likelihood import GaussianLikelihood

__all__ = ["Checkpoint", "Held", "Moment", "Progressed", "identity"]

FORMAT = "sedcast-chains-1"
_PROBES = 3
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError)
_REMEDY = "pass another file, or delete this one to begin anew"


@dataclass(frozen=True)
class Moment:
    """All that a sampler needs to go on after a step.

    Attributes
    ----------
    points, log_prob : (n_walker, 11) and (n_walker,) in the run's coordinates and the sampler's order.
    random_state : of `numpy.random.RandomState`, as its `get_state` gives it.
    extra : anything else, of what JSON knows.
    """

    points: np.ndarray
    log_prob: np.ndarray
    random_state: tuple[Any, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Progressed:
    """How far a run has come: its last moment, the steps taken, and what they have cost (see `Meter.spent`)."""

    moment: Moment
    n_steps: int
    spent: Mapping[str, float]


@dataclass(frozen=True)
class Held(Progressed):
    """What a checkpoint holds: also the chain (n, n_walker, 11) and log_prob (n, n_walker), in the run's coordinates."""

    chain: np.ndarray
    log_prob: np.ndarray


def identity(
    sampler: str, likelihood: GaussianLikelihood, settings: Mapping[str, Any], start: np.ndarray, coordinates: str
) -> dict[str, str]:
    """Digests of all that makes a chain what it is, by name: what must agree before a run is resumed.

    The model is known by its fluxes at three points of the prior, to five digits.

    Parameters
    ----------
    sampler : its name.
    likelihood : galaxy, prior and model.
    settings : that decide the chain; not its targets and limits.
    start : (n_walker, 11) start points.
    coordinates : their name.
    """
    probes = likelihood.prior.from_unbounded(np.linspace(-1, 1, _PROBES)[:, None] * np.ones(len(FREE_PARAMETER_NAMES)))
    model = likelihood.model_flux(probes)
    return {
        "sampler": sampler,
        "galaxy": _digest(*likelihood.data),
        "model": _digest(" ".join(f"{value:.5g}" for value in model.ravel())),
        "prior": _digest(json.dumps(likelihood.prior.to_dict(), sort_keys=True)),
        "settings": json.dumps(dict(settings), sort_keys=True),
        "start points": _digest(coordinates, start.round(8)),
    }


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part, dtype=float).tobytes())
    return digest.hexdigest()[:16]


class Checkpoint:
    """One run's file, which `emcee.backends.HDFBackend` reads too.

    It is replaced as a whole, so that a crash leaves either the old state or the new one.

    Parameters
    ----------
    path : of the file; it need not exist.
    described : the run's `identity`.
    n_walker : walkers.
    """

    def __init__(self, path: str | Path, described: Mapping[str, str], n_walker: int) -> None:
        self.path, self.described, self.n_walker = as_path("checkpoint", path), dict(described), n_walker

    def load(self) -> Held | None:
        """What the file holds; None if there is none.

        Raises
        ------
        ArtifactError : if it is not such a file, damaged, or of another run.
        """
        if not self.path.exists():
            return None
        try:
            with emcee.backends.HDFBackend(str(self.path), read_only=True).open() as file:
                group = file["mcmc"]
                if group.attrs.get("format") != FORMAT:
                    raise ArtifactError(f"{self.path} is HDF5, but no checkpoint of sedcast: {_REMEDY}")
                self._check(json.loads(group.attrs["identity"]))
                chain, log_prob = group["chain"][:], group["log_prob"][:]
                points, last_log_prob = group["last/coords"][:], group["last/log_prob"][:]
                random_state = tuple(group.attrs[f"random_state_{k}"] for k in range(5))
                progress = json.loads(group.attrs["progress"])
                n_kept = int(group.attrs["iteration"])
        except ArtifactError:
            raise
        except _DAMAGE as error:
            raise ArtifactError(f"checkpoint {self.path} is damaged or no HDF5 file ({error}): {_REMEDY}") from error
        shape = (n_kept, self.n_walker, len(FREE_PARAMETER_NAMES))
        if chain.shape != shape or log_prob.shape != shape[:2] or points.shape != shape[1:] or not np.isfinite(log_prob).all():
            raise ArtifactError(f"checkpoint {self.path} is damaged: its chain is {chain.shape}, expected {shape}: {_REMEDY}")
        state = (
            str(random_state[0]),
            np.asarray(random_state[1]),
            *(int(v) for v in random_state[2:4]),
            float(random_state[4]),
        )
        moment = Moment(points, last_log_prob, state, progress["extra"])
        return Held(moment, progress["n_steps"], progress["spent"], chain, log_prob)

    def save(self, chain: Sequence[np.ndarray], log_prob: Sequence[np.ndarray], now: Progressed, *, first: int) -> None:
        """Put steps into the chain from row `first` on, each (n_walker, 11) and (n_walker,), and replace the last state."""
        with atomic_path(self.path) as temporary:
            backend = emcee.backends.HDFBackend(str(temporary))
            if self.path.exists():
                shutil.copyfile(self.path, temporary)
            else:
                backend.reset(self.n_walker, len(FREE_PARAMETER_NAMES))
            last = first + len(chain)
            # Steps are there already if an interrupt came between this and the caller's taking note of it.
            backend.grow(max(last - backend.iteration, 0), None)
            with backend.open("a") as file:
                group = file["mcmc"]
                if chain:
                    group["chain"][first:last], group["log_prob"][first:last] = np.stack(chain), np.stack(log_prob)
                for name, values in (("coords", now.moment.points), ("log_prob", now.moment.log_prob)):
                    group.require_dataset(f"last/{name}", values.shape, float)[...] = values
                for k, value in enumerate(now.moment.random_state):
                    group.attrs[f"random_state_{k}"] = value
                group.attrs["iteration"] = last
                group.attrs["format"] = FORMAT
                group.attrs["identity"] = json.dumps(self.described)
                progress = {"n_steps": now.n_steps, "spent": dict(now.spent), "extra": dict(now.moment.extra)}
                group.attrs["progress"] = json.dumps(progress)

    def _check(self, found: Mapping[str, str]) -> None:
        different = [name for name, value in self.described.items() if found.get(name) != value]
        if different:
            raise ArtifactError(
                f"checkpoint {self.path} is of another run: {', '.join(different)} differ. {_REMEDY.capitalize()}"
            )
