"""Training a posterior estimator: simulate or read mock galaxies, check them, fit the flow, describe the result."""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from sedcast.data.config import Config, parse_config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ConfigError, ParameterError, SedcastError
from sedcast.data.hdf5 import open_hdf5, read_whole
from sedcast.data.provenance import provenance as made_now
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.band_training import BandTrainingConfig
from sedcast.emulator.mass_simulation import changed_artifacts, simulate
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, Prior
from sedcast.emulator.simulation import SimulationConfig, default_simulator, noise_model
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.emulator.surviving import SurvivingMass
from sedcast.posterior.amplitude_flow import with_burst_choice, without_amplitudes
from sedcast.posterior.burst_choice import BURST_OPTIONS
from sedcast.posterior.conditional_flow import ConditionalFlow
from sedcast.posterior.context import ContextTransform, TrainingDomain
from sedcast.posterior.estimator import PosteriorEstimator, check_experts, with_redshift
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_training import FlowTrainer, FlowTrainingConfig, Record, TrainingResult
from sedcast.posterior.made import FlowConfig
from sedcast.posterior.outlier_training import OutlierConfig, fit_outliers, training_simulation
from sedcast.posterior.stream import Galaxies, GalaxyStream, StreamConfig
from sedcast.posterior.train_bands import TrainedBands, bands_as_configured, finished_bands
from sedcast.posterior.warm_start import check_start, warm_start

__all__ = [
    "PosteriorConfig",
    "TrainingSet",
    "fit_posterior",
    "joint_points",
    "read_training_set",
    "train_bands",
    "train_posterior",
    "training_stream",
]

logger = logging.getLogger(__name__)

Observed = tuple[np.ndarray, np.ndarray, np.ndarray | None]
_COLUMNS = ("theta_unbounded", "flux", "flux_ivar", "zred")
_MOST_COUNTED = 50_000
# Of probit coordinates: `Prior.from_unit` keeps 1e-12 from the edges of the unit cube.
_FARTHEST = 7.04


class PosteriorConfig(Config):
    """What `sedcast train posterior` makes; give either `simulation` or `simulation_file`.

    Attributes
    ----------
    name : short name of the estimator.
    simulation : the training set to simulate; with `stream`, what every epoch draws anew.
    simulation_file : an HDF5 file that `sedcast simulate` wrote.
    redshift : ``"observed"`` conditions on the redshift; ``"inferred"`` makes it a parameter, whose prior is the distribution
        that the simulations draw it from (`SimulationConfig.zred`).
    stream : draw fresh galaxies for every epoch instead of repeating a fixed set, and let bands be missing if so wanted.
    flow : architecture. Its choice is where the burst's time is, see `prior_chances`, and needs `amplitudes`.
    amplitudes : with it, burst fraction and mass are not learnt but drawn from their own posterior given the other parameters,
        which takes a small emulator of the bands that is trained first, of the spectrum emulator that `simulation` names; that
        of `start` serves if it was trained in the same way.
    start : a posterior to begin with, a bundled one's name or a file, see `warm_start`; random weights if left out.
    experts : posteriors, bundled ones' names or files, whose flows serve the galaxies measured in exactly their bands, see
        `PosteriorEstimator.with_experts`.
    training : schedule.
    outliers : the score of galaxies unlike the training set.
    """

    name: str = Field(min_length=1)
    simulation: SimulationConfig | None = None
    simulation_file: Path | None = None
    redshift: Literal["observed", "inferred"] = "observed"
    stream: StreamConfig | None = None
    flow: FlowConfig = FlowConfig()
    amplitudes: BandTrainingConfig | None = None
    start: str | None = None
    experts: tuple[str, ...] = ()
    training: FlowTrainingConfig = FlowTrainingConfig()
    outliers: OutlierConfig = OutlierConfig()

    @model_validator(mode="after")
    def _one_source(self) -> "PosteriorConfig":
        if (self.simulation is None) == (self.simulation_file is None):
            raise ValueError("give either [simulation] or simulation_file, the training set's source")
        if self.stream is not None and self.simulation is None:
            raise ValueError("[stream] draws fresh galaxies and needs [simulation], not simulation_file")
        if self.experts and (self.stream is None or self.stream.missing is None):
            raise ValueError("experts serve galaxies of certain bands among others: give [stream.missing], or drop experts")
        if self.flow.choice and self.amplitudes is None:
            raise ValueError("flow.choice, where the burst's time is, needs [amplitudes]: give that too, or drop choice")
        if self.flow.choice and self.flow.n_options not in BURST_OPTIONS:
            raise ValueError(f"flow.n_options={self.flow.n_options}: a burst has begun or not, 2, or may be young too, 3")
        if self.stream is not None and self.simulation is not None:
            self._check_stream(self.stream, self.simulation)
        return self

    def _check_stream(self, stream: StreamConfig, simulation: SimulationConfig) -> None:
        if self.training.batch_size > simulation.n_galaxies:
            raise ValueError(
                f"training.batch_size={self.training.batch_size} is above simulation.n_galaxies={simulation.n_galaxies}, the "
                "galaxies of an epoch: lower the one or raise the other"
            )
        missing = stream.missing
        if missing is not None and len(simulation.bands) == 1:
            raise ValueError(
                f"stream.missing: {simulation.band_names[0]} is the only band, and never missing: leave the table out"
            )
        if missing is None or missing.complete + missing.without_optional < 1 - 1e-9:
            return
        if always := [band for band in simulation.band_names if band not in missing.optional or missing.complete == 1]:
            raise ValueError(
                f"stream.missing: {' '.join(always)} would never be missing, and a flow for any subset of bands could not "
                "learn what that means: leave complete + without_optional below 1, for some random subsets of all bands"
            )


Epochs = list[Record]
"""Records of a training's epochs, as `train_posterior` describes them."""


class TrainingProgress(Protocol):
    """Called as (done, total, figures): galaxies simulated, steps of the bands' emulator, epochs trained, mocks scored."""

    def __call__(self, done: int, total: int, figures: Mapping[str, float] | None = None, /) -> None:
        """Show progress."""
        ...


@dataclass(frozen=True)
class TrainingSet:
    """Mock galaxies to train on: theta_unbounded (n, 11), flux, flux_ivar (n, n_band), zred (n,), and their configuration.

    `softening` (n_band,), nanomaggies, is that of the noise model by which they were observed; () for the usual ones.

    Raises
    ------
    ParameterError : if rows are not finite, repeat each other, or a column is constant; all are counted.
    """

    theta_unbounded: np.ndarray
    flux: np.ndarray
    flux_ivar: np.ndarray
    zred: np.ndarray
    config: SimulationConfig
    softening: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        n, n_band = len(self.zred), len(self.config.bands)
        shapes = {
            "theta_unbounded": (n, len(FREE_PARAMETER_NAMES)),
            "flux": (n, n_band),
            "flux_ivar": (n, n_band),
            "zred": (n,),
        }
        if not n:
            raise ParameterError("the training set is empty: simulate galaxies")
        problems = []
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape:
                raise ParameterError(f"training set: {name} has shape {values.shape}, expected {shape}")
            rows = values.reshape(n, -1)
            bad = int(np.count_nonzero(~np.isfinite(rows).all(axis=1)))
            if bad:
                problems.append(f"{name} is not finite in {bad} of {n} rows")
            else:
                constant = int(np.count_nonzero(rows.min(axis=0) == rows.max(axis=0)))
                if constant:
                    problems.append(f"{name} is constant in {constant} of {rows.shape[1]} columns")
        low, high = np.array([self.config.zred.min, self.config.zred.max])
        if outside := int(np.count_nonzero((self.zred < low * (1 - 1e-6)) | (self.zred > high * (1 + 1e-6)))):
            problems.append(f"zred is beyond {low:g} … {high:g}, the range of the configuration, in {outside} of {n} rows")
        if far := int(np.count_nonzero((np.abs(self.theta_unbounded) > _FARTHEST).any(axis=1))):
            problems.append(f"theta_unbounded is no probit coordinate, beyond ±{_FARTHEST:g}, in {far} of {n} rows")
        unmeasured = int(np.count_nonzero((self.flux_ivar <= 0).any(axis=1)))
        if unmeasured:
            problems.append(f"flux_ivar is not positive in {unmeasured} of {n} rows")
        repeated = n - len(np.unique(np.ascontiguousarray(self.theta_unbounded), axis=0))
        if repeated:
            problems.append(f"{repeated} of {n} rows repeat the parameters of another")
        if problems:
            raise ParameterError("the training set cannot be used: " + "; ".join(problems) + ". Simulate it again")

    def __len__(self) -> int:
        return len(self.zred)


def read_training_set(path: str | Path) -> TrainingSet:
    """Read a file that `sedcast.emulator.mass_simulation.simulate` wrote.

    Raises
    ------
    ConfigError : if it cannot be read, or is not such a file.
    ParameterError : as `TrainingSet`.
    """
    try:
        with open_hdf5(path) as file:
            theta_unbounded, flux, flux_ivar, zred = (read_whole(file[name]) for name in _COLUMNS)
            names = [str(name) for name in file.attrs["free_parameter_names"]]
            config = parse_config(json.loads(file.attrs["config"]), SimulationConfig, f"{path}, attribute 'config'")
            made_with = json.loads(file.attrs.get("artifacts", "{}"))
            # Files of before softenings were learnt have none.
            softening = tuple(float(b) for b in file.attrs.get("softening", ()))
    except SedcastError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ConfigError(f"{path} is not a file of simulations ({error}): make one with 'sedcast simulate'") from error
    if made_with and (changed := changed_artifacts(config, made_with)):
        raise ConfigError(f"{path} was simulated with another {changed[0]} than is there now: put that back, or simulate again")
    if names != list(FREE_PARAMETER_NAMES):
        raise ConfigError(f"{path} has parameters {names}, this sedcast {list(FREE_PARAMETER_NAMES)}: simulate again")
    return TrainingSet(theta_unbounded, flux, flux_ivar, zred, config, softening)


def train_posterior(
    config: PosteriorConfig,
    *,
    checkpoint: str | Path | None = None,
    progress: TrainingProgress | None = None,
    on_epoch: Callable[[Epochs], None] | None = None,
) -> PosteriorEstimator:
    """Simulate or read the training set, train an estimator on it, and fit its outlier score.

    Parameters
    ----------
    config : what to make.
    checkpoint : file from which training resumes if it exists, and which is kept up to date.
    progress : see `TrainingProgress`.
    on_epoch : called after each epoch of the flow with the records of all so far, to draw curves of while it trains: ``epoch``,
        ``minutes``, ``train_nll`` and ``validation_nll`` (nats, of what the flow learns), ``galaxies_per_s``.

    Returns
    -------
    estimator : with its configuration and figures in `card`, and the records, of all parameters, under ``history``; write it
        with `PosteriorEstimator.save`.

    Raises
    ------
    ConfigError, ParameterError, ArtifactError : if a file that the configuration names is missing or wrong, or the training
        set cannot be used.
    """
    experts = _experts(config) if config.experts else []
    estimator = _train(config, checkpoint=checkpoint, progress=progress, on_epoch=on_epoch)
    if experts:
        estimator = estimator.with_experts(*experts)
    library = _emulator(training_simulation(estimator)).model.library
    estimator = replace(estimator, surviving=SurvivingMass.known(library))
    return fit_outliers(estimator, config.outliers, progress=progress)


def _experts(config: PosteriorConfig) -> list[PosteriorEstimator]:
    """The experts, which are refused before the training rather than after it if they do not suit."""
    experts = [PosteriorEstimator.find(model) for model in config.experts]
    simulation = config.simulation
    assert simulation is not None
    emulator = _emulator(simulation)
    check_experts(
        experts,
        name=config.name,
        context=_transform(config, simulation, noise_model(simulation).softening),
        zred_range=(simulation.zred.min, simulation.zred.max),
        prior=Prior.from_dict(simulation.prior),
        cosmology=emulator.cosmology,
        bases=emulator.model.bases,
        redshift_prior=simulation.zred if config.redshift == "inferred" else None,
        emulator=emulator.card.get("sha256"),
        own_files=simulation.own_files(),
    )
    return experts


def _transform(config: PosteriorConfig, simulation: SimulationConfig, softening: Iterable[float]) -> ContextTransform:
    mask = config.stream is not None and config.stream.missing is not None
    return ContextTransform(
        simulation.band_names, mask=mask, redshift=config.redshift == "observed", softening=tuple(softening)
    )


def _check(
    config: PosteriorConfig,
    simulation: SimulationConfig,
    softening: Iterable[float],
    n_galaxies: int,
    checkpoint: str | Path | None,
) -> None:
    """Refuse before the simulation and the emulator of the bands what would be refused after these minutes."""
    emulator, start = _emulator(simulation), _found_start(config)
    points = np.zeros((1, len(FREE_PARAMETER_NAMES) + (config.redshift == "inferred")))
    zred, prior = np.array([simulation.zred.max]), Prior.from_dict(simulation.prior)
    dim = _learnt(points, zred, config, prior, emulator.cosmology).shape[1]
    n_train = n_galaxies if config.stream is not None else n_galaxies - config.training.n_held_out(n_galaxies)
    _trainer(config, None, checkpoint, None, None).check(dim, n_train)
    if start is not None:
        check_start(start, config.flow, transform=_transform(config, simulation, softening), dim=dim)
    if config.amplitudes is not None:
        stream = config.stream or StreamConfig()
        finished_bands(config.amplitudes, simulation, stream, emulator, start=start, checkpoint=checkpoint)


def _train(
    config: PosteriorConfig,
    *,
    checkpoint: str | Path | None,
    progress: TrainingProgress | None,
    on_epoch: Callable[[Epochs], None] | None,
) -> PosteriorEstimator:
    if config.simulation_file is not None:
        training_set = read_training_set(config.simulation_file)
        _check(config, training_set.config, training_set.softening, len(training_set), checkpoint)
    else:
        assert config.simulation is not None
        softening = noise_model(config.simulation).softening
        _check(config, config.simulation, softening, config.simulation.n_galaxies, checkpoint)
        if config.stream is not None:
            return _train_on_stream(config, checkpoint=checkpoint, progress=progress, on_epoch=on_epoch)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "simulations.h5"
            simulate(config.simulation, path, progress=progress)
            training_set = read_training_set(path)
    emulator = _emulator(training_set.config)
    return fit_posterior(
        training_set,
        config,
        bases=emulator.model.bases,
        cosmology=emulator.cosmology,
        provenance=_provenance(emulator),
        bands=_bands(config, training_set.config, emulator, checkpoint, progress),
        checkpoint=checkpoint,
        progress=progress,
        on_epoch=on_epoch,
    )


def fit_posterior(
    training_set: TrainingSet,
    config: PosteriorConfig,
    *,
    bases: SFHBases,
    cosmology: Cosmology,
    provenance: Mapping[str, Any] | None = None,
    bands: TrainedBands | None = None,
    checkpoint: str | Path | None = None,
    progress: TrainingProgress | None = None,
    on_epoch: Callable[[Epochs], None] | None = None,
) -> PosteriorEstimator:
    """Train an estimator on a training set; `bases` and `cosmology` are those of the model that simulated it.

    `bands` are the emulator that amplitudes are drawn with, if the configuration wants that. `provenance` goes on the card; one
    without ``{"emulator": {"sha256": ...}}`` says that no emulator of sedcast's made the set, see `training_simulator`.

    Raises
    ------
    ParameterError : if the configuration has ``[stream]``, which draws the galaxies itself, or ``[amplitudes]`` and no `bands`.
    """
    if config.stream is not None:
        raise ParameterError(
            "[stream] draws galaxies of its own, and a training set is given: leave it out, or use train_posterior"
        )
    if (bands is None) != (config.amplitudes is None):
        raise ParameterError("[amplitudes] needs a trained emulator of the bands, and only it does: use train_posterior")
    transform = _transform(config, training_set.config, training_set.softening)
    observed = _observed(training_set, transform)
    context = transform(*observed)
    points = joint_points(training_set, training_set.config, config)
    pairs = _learnt(points, training_set.zred, config, Prior.from_dict(training_set.config.prior), cosmology), context
    start, origin = _start(config, transform, pairs)
    trainer = _trainer(config, start, checkpoint, progress, on_epoch)
    result = trainer.fit(*pairs)
    trained = _trained(result, bands, (points, context), transform, training_set.config)
    n_train = len(training_set) - config.training.n_held_out(len(training_set))
    domain = _domain(transform, observed, training_set.config)
    card = _card(config, training_set.config, result, trained, {"n_train": n_train}, {**(provenance or {}), **origin})
    return _estimator(config, training_set.config, trained.flow, domain, cosmology=cosmology, bases=bases, card=card)


def train_bands(config: PosteriorConfig) -> TrainedBands | None:
    """The emulator of the bands that a configuration with ``[amplitudes]`` wants; None without that table."""
    assert config.simulation is not None
    return _bands(config, config.simulation, _emulator(config.simulation))


def _bands(
    config: PosteriorConfig,
    simulation: SimulationConfig,
    emulator: SpectrumEmulator,
    checkpoint: str | Path | None = None,
    progress: TrainingProgress | None = None,
) -> TrainedBands | None:
    if config.amplitudes is None:
        return None
    stream, start = config.stream or StreamConfig(), _found_start(config)
    return bands_as_configured(
        config.amplitudes, simulation, stream, emulator, start=start, checkpoint=checkpoint, progress=progress
    )


def _found_start(config: PosteriorConfig) -> PosteriorEstimator | None:
    return None if config.start is None else PosteriorEstimator.find(config.start)


@dataclass(frozen=True)
class _Trained:
    """The density of all parameters, and of what was not the flow's to learn the loss and what the card says of it."""

    flow: ConditionalFlow
    nats: float
    described: dict[str, Any]


def _trained(
    result: TrainingResult,
    bands: TrainedBands | None,
    pairs: tuple[np.ndarray, np.ndarray],
    transform: ContextTransform,
    simulation: SimulationConfig,
) -> _Trained:
    """The trained flow, completed by the amplitudes' posterior; `pairs` are points, held out if they can be, and context."""
    if bands is None:
        return _Trained(result.flow, 0.0, {})
    flow = bands.complete(result.flow, transform, simulation)
    log_density = flow.amplitude_log_density(*(values[:_MOST_COUNTED] for values in pairs))
    described = {"recipe": dict(bands.recipe), "figures": dict(bands.figures)}
    # One galaxy where the emulator fails must not decide the loss alone.
    known = np.isfinite(log_density)
    described["figures"] |= {"amplitudes_nats": -float(log_density[known].mean()), "impossible": int(np.count_nonzero(~known))}
    _, log_slope = flow.to_learn(*pairs)
    nats = described["figures"]["amplitudes_nats"] - float(log_slope.mean())
    return _Trained(flow, nats, {"bands_emulator": described})


def _estimator(
    config: PosteriorConfig,
    simulation: SimulationConfig,
    flow: ConditionalFlow,
    domain: TrainingDomain,
    *,
    cosmology: Cosmology,
    bases: SFHBases,
    card: dict[str, Any],
) -> PosteriorEstimator:
    redshift_prior = simulation.zred if config.redshift == "inferred" else None
    prior = Prior.from_dict(simulation.prior)
    return PosteriorEstimator(flow, domain, prior, cosmology, bases, card, redshift_prior=redshift_prior)


def joint_points(galaxies: TrainingSet | Galaxies, simulation: SimulationConfig, config: PosteriorConfig) -> np.ndarray:
    """What the posterior is of: the parameters, and the redshift if it is inferred, in probit space."""
    if config.redshift == "observed":
        return galaxies.theta_unbounded
    return with_redshift(galaxies.theta_unbounded, galaxies.zred, simulation.zred)


def _learnt(points: np.ndarray, zred: np.ndarray, config: PosteriorConfig, prior: Prior, cosmology: Cosmology) -> np.ndarray:
    """What of it a flow learns."""
    if config.amplitudes is None:
        return points
    return (
        with_burst_choice(points, zred, config.flow.n_options, prior=prior, cosmology=cosmology)[0]
        if config.flow.choice
        else without_amplitudes(points)
    )


def _observed(galaxies: TrainingSet | Galaxies, transform: ContextTransform) -> Observed:
    return galaxies.flux, galaxies.flux_ivar, galaxies.zred if transform.redshift else None


@contextlib.contextmanager
def training_stream(
    config: PosteriorConfig,
) -> Iterator[tuple[GalaxyStream, ContextTransform, Callable[[Galaxies], tuple[np.ndarray, np.ndarray]]]]:
    """Fresh galaxies of a configuration with ``[stream]``, their context, and what makes pairs to learn, points and context."""
    simulation, stream_config = config.simulation, config.stream
    assert simulation is not None
    assert stream_config is not None
    noise = noise_model(simulation)
    transform = _transform(config, simulation, noise.softening)
    prior, cosmology = Prior.from_dict(simulation.prior), _emulator(simulation).cosmology

    def pairs(galaxies: Galaxies) -> tuple[np.ndarray, np.ndarray]:
        points = joint_points(galaxies, simulation, config)
        return _learnt(points, galaxies.zred, config, prior, cosmology), transform(*_observed(galaxies, transform))

    with GalaxyStream(default_simulator(simulation), noise, simulation, stream_config) as stream:
        yield stream, transform, pairs


def _train_on_stream(
    config: PosteriorConfig,
    *,
    checkpoint: str | Path | None,
    progress: TrainingProgress | None,
    on_epoch: Callable[[Epochs], None] | None,
) -> PosteriorEstimator:
    """Train on fresh galaxies; the domain is that of the first chunk, which is as good as any."""
    simulation, stream_config = config.simulation, config.stream
    assert simulation is not None
    assert stream_config is not None
    emulator = _emulator(simulation)
    bands = _bands(config, simulation, emulator, checkpoint, progress)
    with training_stream(config) as (stream, transform, pairs):
        held = stream.validation()
        validation = pairs(held)
        first = stream.chunk(0)
        domain = _domain(transform, _observed(first, transform), simulation)
        start, origin = _start(config, transform, validation)
        trainer = _trainer(config, start, checkpoint, progress, on_epoch)
        result = trainer.fit_stream(lambda index: pairs(stream.chunk(index) if index else first), validation=validation)
        trained = _trained(result, bands, (joint_points(held, simulation, config), validation[1]), transform, simulation)
        n_spectra = stream.spectra_per_chunk * (len(result.history) + stream_config.pool_epochs - 1)
    figures = {"n_train": result.n_seen, "n_spectra": n_spectra, "n_validation": len(validation[0])}
    card = _card(config, simulation, result, trained, figures, _provenance(emulator) | origin)
    bases, cosmology = emulator.model.bases, emulator.cosmology
    return _estimator(config, simulation, trained.flow, domain, cosmology=cosmology, bases=bases, card=card)


def _emulator(simulation: SimulationConfig) -> SpectrumEmulator:
    return SpectrumEmulator.default() if simulation.emulator == "bundled" else SpectrumEmulator.load(simulation.emulator)


def _provenance(emulator: SpectrumEmulator) -> dict[str, Any]:
    return {"emulator": {"config": emulator.card.get("config"), "sha256": emulator.card.get("sha256")}}


def _domain(transform: ContextTransform, observed: Observed, simulation: SimulationConfig) -> TrainingDomain:
    return TrainingDomain.of(transform, *observed, zred_range=(simulation.zred.min, simulation.zred.max))


def _start(
    config: PosteriorConfig, transform: ContextTransform, pairs: tuple[np.ndarray, np.ndarray]
) -> tuple[MaskedAutoregressiveFlow | None, dict[str, Any]]:
    """The flow to begin with, and what to say of where it comes from."""
    estimator = _found_start(config)
    if estimator is None:
        return None, {}
    flow = warm_start(estimator, config.flow, transform=transform, context=pairs[1], dim=pairs[0].shape[1])
    return flow, {"start": estimator.origin}


def _trainer(
    config: PosteriorConfig,
    start: MaskedAutoregressiveFlow | None,
    checkpoint: str | Path | None,
    progress: TrainingProgress | None,
    on_epoch: Callable[[Epochs], None] | None,
) -> FlowTrainer:
    def report(epochs: Epochs) -> None:
        record = epochs[-1]
        if on_epoch is not None:
            on_epoch(epochs)
        if progress is not None:
            figures = {"train": record["train_nll"], "validation": record["validation_nll"]}
            done, total, limit = int(record["epoch"]) + 1, config.training.max_epochs, config.training.max_minutes
            if limit is not None:
                total = max(done, min(total, round(done * limit / record["minutes"])))
            progress(done, total, figures)

    return FlowTrainer(config.flow, config.training, start=start, checkpoint=checkpoint, progress=report)


def _card(
    config: PosteriorConfig,
    simulation: SimulationConfig,
    result: TrainingResult,
    trained: _Trained,
    counts: Mapping[str, int],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    # Losses of all parameters, those that the flow learnt and the amplitudes.
    history = [
        record | {name: record[name] + trained.nats for name in ("train_nll", "validation_nll")} for record in result.history
    ]
    best = history[result.best_epoch]
    seconds = 60 * history[-1]["minutes"]
    figures = {
        **counts,
        "epochs": len(history),
        "best_epoch": int(best["epoch"]),
        "train_nll_nats": best["train_nll"],
        "validation_nll_nats": best["validation_nll"],
        "seconds": seconds,
        "galaxies_per_s": result.n_seen / seconds,
        "stopped": result.reason,
    }
    known = {name: origin for name, origin in provenance.items() if isinstance(origin, Mapping)}
    artifacts = {name: origin["sha256"] for name, origin in known.items() if origin.get("sha256")}
    logger.info("trained %s: validation %.4f nats in %.0f s", config.name, best["validation_nll"], seconds)
    return trained.described | {
        "name": config.name,
        "config": config.model_dump(mode="json", exclude={"simulation", "simulation_file"}),
        "simulation": simulation.model_dump(mode="json"),
        "own_files": simulation.own_files(),
        "figures": figures,
        "history": [{name: float(f"{value:.6g}") for name, value in record.items()} for record in history],
        "provenance": made_now(config=config.model_dump(mode="json"), artifacts=artifacts) | dict(provenance),
    }
