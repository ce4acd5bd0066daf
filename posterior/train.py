"""Training a posterior estimator: simulate or read mock galaxies, fit the flow, describe the result."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.provenance import provenance as made_now
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.mass_simulation import simulate
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, Prior
from sedcast.emulator.segments import array_digest
from sedcast.emulator.simulation import SimulationConfig, default_simulator, noise_model
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.emulator.surviving import SurvivingMass
from sedcast.posterior.amplitude_flow import with_burst_choice, without_amplitudes
from sedcast.posterior.conditional_flow import ConditionalFlow
from sedcast.posterior.context import ContextTransform, TrainingDomain
from sedcast.posterior.estimator import PosteriorEstimator, emulator_digest, with_redshift
from sedcast.posterior.experts import check_experts
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_training import FlowTrainer, Record, TrainingResult
from sedcast.posterior.outlier_training import fit_outliers, training_simulation
from sedcast.posterior.posterior_config import PosteriorConfig
from sedcast.posterior.stream import Galaxies, GalaxyStream, StreamConfig
from sedcast.posterior.train_bands import TrainedBands, bands_as_configured, finished_bands
from sedcast.posterior.training_set import TrainingSet, read_training_set
from sedcast.posterior.warm_start import check_start, warm_start

__all__ = [
    "fit_posterior",
    "joint_points",
    "train_bands",
    "train_posterior",
    "training_stream",
]

logger = logging.getLogger(__name__)

Observed = tuple[np.ndarray, np.ndarray, np.ndarray | None]
_MOST_COUNTED = 50_000


Epochs = list[Record]
"""Records of a training's epochs, as `train_posterior` describes them."""


class TrainingProgress(Protocol):
    """Called as (done, total, figures): galaxies simulated, steps of the bands' emulator, epochs trained, mocks scored."""

    def __call__(self, done: int, total: int, figures: Mapping[str, float] | None = None, /) -> None:
        """Show progress."""
        ...


@dataclass(frozen=True)
class _Run:
    """Where a training is kept and who is told of it, as `train_posterior` describes it."""

    checkpoint: str | Path | None = None
    progress: TrainingProgress | None = None
    on_epoch: Callable[[Epochs], None] | None = None

    def trainer(
        self, config: PosteriorConfig, made_from: Mapping[str, Any], start: MaskedAutoregressiveFlow | None = None
    ) -> FlowTrainer:
        """What trains the flow of a configuration on pairs of that origin, beginning with `start`."""

        def report(epochs: Epochs) -> None:
            record = epochs[-1]
            if self.on_epoch is not None:
                self.on_epoch(epochs)
            if self.progress is not None:
                figures = {"train": record["train_nll"], "validation": record["validation_nll"]}
                done, total, limit = int(record["epoch"]) + 1, config.training.max_epochs, config.training.max_minutes
                if limit is not None:
                    total = max(done, min(total, round(done * limit / record["minutes"])))
                self.progress(done, total, figures)

        kept = self.checkpoint
        return FlowTrainer(config.flow, config.training, start=start, checkpoint=kept, made_from=made_from, progress=report)


def _made_from(
    config: PosteriorConfig,
    simulation: SimulationConfig,
    provenance: Mapping[str, Any] | None,
    training_set: TrainingSet | None = None,
) -> dict[str, Any]:
    """What decides the pairs that a flow learns: another emulator of the same name makes others."""
    start, read = _found_start(config), training_set if config.simulation_file is not None else None
    return {
        "simulation": simulation.model_dump(mode="json"),
        "stream": None if config.stream is None else config.stream.model_dump(mode="json"),
        "emulator": emulator_digest(provenance),
        "own_files": simulation.own_files(),
        "start": None if start is None else start.digest,
        # Rows that are simulated here may differ by rounding.
        "rows": None if read is None else array_digest(read.theta_unbounded, read.flux, read.flux_ivar, read.zred),
    }


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
    estimator = _train(config, _Run(checkpoint, progress, on_epoch))
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
    run: _Run,
    training_set: TrainingSet | None = None,
) -> None:
    """Refuse before the simulation and the emulator of the bands what would be refused after these minutes."""
    emulator, start = _emulator(simulation), _found_start(config)
    points = np.zeros((1, len(FREE_PARAMETER_NAMES) + (config.redshift == "inferred")))
    zred, prior = np.array([simulation.zred.max]), Prior.from_dict(simulation.prior)
    dim = _learnt(points, zred, config, prior, emulator.cosmology).shape[1]
    n_train = n_galaxies if config.stream is not None else n_galaxies - config.training.n_held_out(n_galaxies)
    run.trainer(config, _made_from(config, simulation, _provenance(emulator), training_set)).check(dim, n_train)
    if start is not None:
        check_start(start, config.flow, transform=_transform(config, simulation, softening), dim=dim)
    if config.amplitudes is not None:
        stream = config.stream or StreamConfig()
        finished_bands(config.amplitudes, simulation, stream, emulator, start=start, checkpoint=run.checkpoint)


def _train(config: PosteriorConfig, run: _Run) -> PosteriorEstimator:
    if config.simulation_file is not None:
        training_set = read_training_set(config.simulation_file)
        _check(config, training_set.config, training_set.softening, len(training_set), run, training_set)
    else:
        assert config.simulation is not None
        softening = noise_model(config.simulation).softening
        _check(config, config.simulation, softening, config.simulation.n_galaxies, run)
        if config.stream is not None:
            return _train_on_stream(config, run)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "simulations.h5"
            simulate(config.simulation, path, progress=run.progress)
            training_set = read_training_set(path)
    emulator = _emulator(training_set.config)
    return fit_posterior(
        training_set,
        config,
        bases=emulator.model.bases,
        cosmology=emulator.cosmology,
        provenance=_provenance(emulator),
        bands=_bands(config, training_set.config, emulator, run),
        checkpoint=run.checkpoint,
        progress=run.progress,
        on_epoch=run.on_epoch,
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
    made_from = _made_from(config, training_set.config, provenance, training_set)
    result = _Run(checkpoint, progress, on_epoch).trainer(config, made_from, start).fit(*pairs)
    trained = _trained(result, bands, (points, context), transform, training_set.config)
    n_train = len(training_set) - config.training.n_held_out(len(training_set))
    domain = _domain(transform, observed, training_set.config)
    card = _card(config, training_set.config, result, trained, {"n_train": n_train}, {**(provenance or {}), **origin})
    return _estimator(config, training_set.config, trained.flow, domain, cosmology=cosmology, bases=bases, card=card)


def train_bands(config: PosteriorConfig) -> TrainedBands | None:
    """The emulator of the bands that a configuration with ``[amplitudes]`` wants; None without that table."""
    assert config.simulation is not None
    return _bands(config, config.simulation, _emulator(config.simulation), _Run())


def _bands(config: PosteriorConfig, simulation: SimulationConfig, emulator: SpectrumEmulator, run: _Run) -> TrainedBands | None:
    if config.amplitudes is None:
        return None
    stream, start = config.stream or StreamConfig(), _found_start(config)
    return bands_as_configured(
        config.amplitudes, simulation, stream, emulator, start=start, checkpoint=run.checkpoint, progress=run.progress
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


def _train_on_stream(config: PosteriorConfig, run: _Run) -> PosteriorEstimator:
    """Train on fresh galaxies; the domain is that of the first chunk, which is as good as any."""
    simulation, stream_config = config.simulation, config.stream
    assert simulation is not None
    assert stream_config is not None
    emulator = _emulator(simulation)
    bands = _bands(config, simulation, emulator, run)
    with training_stream(config) as (stream, transform, pairs):
        held = stream.validation()
        validation = pairs(held)
        first = stream.chunk(0)
        domain = _domain(transform, _observed(first, transform), simulation)
        start, origin = _start(config, transform, validation)
        made_from = _made_from(config, simulation, _provenance(emulator))
        result = run.trainer(config, made_from, start).fit_stream(
            lambda index: pairs(stream.chunk(index) if index else first), validation=validation
        )
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
