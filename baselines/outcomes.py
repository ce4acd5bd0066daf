"""What a comparison is made of: galaxies, settings, and what a method found for a galaxy, as it is kept in a file."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from sedcast.baselines.mcmc_result import McmcConfig
from sedcast.data.artifacts import load_artifact, save_artifact, software_versions
from sedcast.data.config import Config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, ConfigError
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES, Prior
from sedcast.emulator.simulation import FluxSimulator
from sedcast.posterior.exact import chain_seed
from sedcast.posterior.importance import RefineConfig
from sedcast.posterior.resampling import SAMPLES_VERSION, PosteriorDraws

__all__ = [
    "COMPARED_NAMES",
    "METHODS",
    "PHYSICAL_NAMES",
    "SAMPLERS",
    "CompareConfig",
    "Galaxy",
    "Method",
    "Outcome",
    "PosteriorSampler",
    "Setting",
    "compared_columns",
    "load_kept",
    "load_outcome",
    "physical",
    "quantities",
    "run_draws",
    "run_key",
    "run_path",
    "save_outcome",
]

logger = logging.getLogger(__name__)

Method = Literal["flow", "refined", "emcee", "zeus", "nautilus"]
METHODS: tuple[Method, ...] = ("flow", "refined", "emcee", "zeus")
"""Methods that run by default; nautilus is optional."""

SAMPLERS: tuple[Method, ...] = ("emcee", "zeus", "nautilus")
"""Methods that sample the likelihood itself, as `McmcConfig` says."""

# The other derived properties follow these or a parameter closely: tests of them would only weaken Holm's correction.
_DERIVED = ("log_sfr_1gyr", "log_sfr_100myr", "log_ssfr_1gyr", "log_z_mw", "t_mw_gyr")

COMPARED_NAMES = (*FREE_PARAMETER_NAMES, *_DERIVED)
"""What is compared: the free parameters in probit space, and derived properties."""

PHYSICAL_NAMES = (*PARAMETER_NAMES, *_DERIVED)
"""What is shown of each run: the same, in physical units."""

KIND = "comparison-run"


class PosteriorSampler(Protocol):
    """What the comparison needs of a `PosteriorEstimator`."""

    @property
    def bands(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def prior(self) -> Prior: ...  # noqa: D102
    @property
    def bases(self) -> SFHBases: ...  # noqa: D102
    @property
    def cosmology(self) -> Cosmology: ...  # noqa: D102
    @property
    def card(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102

    def draw(
        self, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray | None, n_samples: int, *, seed: int
    ) -> PosteriorDraws:
        """Points of probit space (n, n_samples, 11), and what they are worth."""
        ...


class CompareConfig(Config):
    """What to run on each galaxy.

    Attributes
    ----------
    methods : which to run; nautilus needs its package.
    n_draws : effectively independent draws of each method that two-sample tests and ranks see.
    n_samples : samples of the flow and of the refined flow, for their quantiles and their time.
    mcmc : of each chain, its seed apart.
    refine : of the importance refinement.
    independent : chains know nothing of the flow; otherwise they start from its draws and move in its noise, which is as exact
        and faster.
    seed : every galaxy and method gets a stream of its own from it.
    """

    methods: tuple[Method, ...] = METHODS
    n_draws: int = Field(default=1000, ge=20)
    n_samples: int = Field(default=10_000, ge=20)
    mcmc: McmcConfig = McmcConfig()
    refine: RefineConfig = RefineConfig()
    independent: bool = False
    seed: int = Field(default=0, ge=0, lt=2**32)


@dataclass(frozen=True)
class Galaxy:
    """One galaxy to compare methods on.

    Attributes
    ----------
    group : ``"real"`` or ``"mock"``.
    row : its number in the catalogue or among the mocks.
    name : identifier.
    flux, flux_ivar : (n_band,) nanomaggies and nanomaggies^-2.
    zred : redshift.
    truth : (11,) true parameters of a mock in probit space.
    """

    group: Literal["real", "mock"]
    row: int
    name: str
    flux: np.ndarray
    flux_ivar: np.ndarray
    zred: float
    truth: np.ndarray | None = None

    def seed(self, seed: int) -> int:
        """A seed of the galaxy's own for the flow, which does not depend on what other galaxies there are."""
        stream = (seed, self.group == "mock", self.row)
        return int(np.random.SeedSequence(stream).generate_state(1)[0])

    def chain_seed(self, seed: int, method: Method) -> int:
        """The same for a sampler, which shares its random numbers neither with other galaxies nor with other samplers."""
        return chain_seed(seed, self.group == "mock", self.row, SAMPLERS.index(method))


@dataclass(frozen=True)
class Setting:
    """What all runs share: the flow, the likelihood's simulator with a name for it, and what to run."""

    estimator: PosteriorSampler
    simulator: FluxSimulator
    simulator_name: str
    config: CompareConfig


@dataclass(frozen=True)
class Outcome:
    """What one method found for one galaxy.

    Attributes
    ----------
    draws : (n, 11) effectively independent posterior draws in probit space, a chain's walker by walker; no rows if it failed.
    quantiles : (3, 16) 16, 50 and 84% quantiles of `COMPARED_NAMES` from all samples.
    physical : (3, 17) the same of `PHYSICAL_NAMES`.
    wall_s, cpu_s : seconds.
    n_evaluations : model evaluations; 0 for the flow.
    ess : effective samples of the worst parameter.
    rhat : of the worst parameter; None if it is no chain.
    converged : whether a chain met its targets, a refinement is unflagged; None for the flow.
    reason : why a run ended, or why it failed.
    failed : whether there are no samples.
    log_evidence : nats, where the method gives it.
    """

    draws: np.ndarray
    quantiles: np.ndarray
    physical: np.ndarray
    wall_s: float
    cpu_s: float
    n_evaluations: int = 0
    ess: float = 0.0
    rhat: float | None = None
    converged: bool | None = None
    reason: str = ""
    failed: bool = False
    log_evidence: float | None = None

    def figures(self) -> dict[str, Any]:
        """Everything but arrays."""
        return {name: value for name, value in asdict(self).items() if not isinstance(value, np.ndarray)}


def run_path(folder: str | Path, group: str, row: int, method: str) -> Path:
    """Where a run is kept."""
    return Path(folder) / "runs" / f"{group}-{row}-{method}.npz"


def run_key(setting: Setting, galaxy: Galaxy, method: Method) -> str:
    """A digest of everything that the run's result depends on."""
    config = setting.config
    used: dict[str, Any] = {"n_draws": config.n_draws, "quantities": [COMPARED_NAMES, PHYSICAL_NAMES]}
    if method in SAMPLERS:
        used |= {"mcmc": config.mcmc.model_dump(mode="json", exclude={"seed"}), "independent": config.independent}
    else:
        used |= {"n_samples": config.n_samples, "samples_version": SAMPLES_VERSION}
    if method == "refined":
        used["refine"] = config.refine.model_dump(mode="json")
    data = [np.asarray(value, dtype=float).tobytes().hex() for value in (galaxy.flux, galaxy.flux_ivar, galaxy.zred)]
    estimator = setting.estimator.digest
    version = software_versions().get("sedcast", "")
    seed = galaxy.chain_seed(config.seed, method) if method in SAMPLERS else galaxy.seed(config.seed)
    parts = [method, used, seed, data, estimator, setting.simulator_name, version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load_kept(
    path: Path, kind: str, key: str, *, overwrite: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Arrays and card of a result of that key; None if there is none, or another's that may be overwritten, or it is damaged.

    Raises
    ------
    ConfigError : if there is another's that may not.
    """
    if not path.exists():
        return None
    try:
        arrays, card = load_artifact(path, kind)
    except ArtifactError as error:
        logger.warning("run again: %s", error)
        return None
    if card["key"] == key:
        return arrays, card
    if not overwrite:
        raise ConfigError(
            f"{path} is a finished run of other data, settings or another version, and would be replaced: give another folder, "
            "or --overwrite (in Python overwrite=True)"
        )
    return None


def load_outcome(path: Path, key: str, *, overwrite: bool) -> Outcome | None:
    """The finished run of that key in a file, if it is there (see `load_kept`)."""
    if (kept := load_kept(path, KIND, key, overwrite=overwrite)) is None:
        return None
    fields: dict[str, Any] = {**kept[0], **kept[1]["figures"]}
    return Outcome(**fields)


def run_draws(path: Path) -> np.ndarray:
    """The draws (n, 11) of a finished run, in probit space.

    Raises
    ------
    ArtifactError : if there is none, or it is damaged.
    """
    return load_artifact(path, KIND)[0]["draws"].astype(float)


def save_outcome(outcome: Outcome, path: Path, *, key: str, galaxy: Galaxy, method: Method) -> None:
    """Keep a run; ``key`` is that of `run_key`."""
    arrays = {"draws": outcome.draws, "quantiles": outcome.quantiles, "physical": outcome.physical}
    save_artifact(
        path, KIND, arrays, {"key": key, "galaxy": galaxy.name, "method": method, "figures": outcome.figures()}, overwrite=True
    )


def quantities(points: np.ndarray, zred: float, estimator: PosteriorSampler) -> np.ndarray:
    """`COMPARED_NAMES` (n, 16) of points of probit space (n, 11)."""
    return compared_columns(points, physical(points, zred, estimator))


def compared_columns(points: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`quantities` of points, where the columns of `physical` are known already."""
    return np.concatenate([points, columns[:, -len(_DERIVED) :]], axis=1)


def physical(points: np.ndarray, zred: float, estimator: PosteriorSampler) -> np.ndarray:
    """`PHYSICAL_NAMES` (n, 17) of points of probit space (n, 11)."""
    theta = estimator.prior.from_unbounded(np.asarray(points, dtype=float))
    derived = derived_properties(theta, zred, estimator.bases, estimator.cosmology)
    return np.column_stack([theta, *(derived[name] for name in _DERIVED)])
