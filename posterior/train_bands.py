"""The stage of a posterior's training before the flow's: the emulator of the bands with which amplitudes are drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import load_artifact, save_artifact
from sedcast.data.errors import ArtifactError
from sedcast.data.threads import usable_cores
from sedcast.emulator.band_emulator import BandEmulator
from sedcast.emulator.band_training import BandGalaxies, BandTrainingConfig, train_band_emulator
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, Prior
from sedcast.emulator.simulation import SimulationConfig, default_simulator, noise_model
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.posterior.amplitude_flow import FlowWithAmplitudes
from sedcast.posterior.context import ContextTransform
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.stream import Galaxies, GalaxyStream, StreamConfig

__all__ = ["TrainedBands", "band_checkpoint", "bands_as_configured", "finished_bands"]

_KIND = "band-emulator"
_GALAXIES_PER_CHUNK = 131_072


@dataclass(frozen=True)
class TrainedBands:
    """A band emulator, all that decides it, and what it is worth (see `train_band_emulator`)."""

    emulator: BandEmulator
    recipe: Mapping[str, Any]
    figures: Mapping[str, float]

    def complete(
        self, flow: MaskedAutoregressiveFlow, transform: ContextTransform, simulation: SimulationConfig
    ) -> FlowWithAmplitudes:
        """The density of all parameters, by a flow of all but the amplitudes."""
        return FlowWithAmplitudes(flow, self.emulator, transform, None if transform.redshift else simulation.zred)


def band_checkpoint(checkpoint: str | Path) -> Path:
    """Where a training keeps the band emulator that it has finished, beside the flow's checkpoint."""
    return Path(checkpoint).with_suffix(".bands.npz")


def bands_as_configured(
    config: BandTrainingConfig,
    simulation: SimulationConfig,
    stream: StreamConfig,
    emulator: SpectrumEmulator,
    *,
    start: PosteriorEstimator | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> TrainedBands:
    """The band emulator: that of `finished_bands`, else trained on galaxies as the flow's are.

    Parameters
    ----------
    config : what to train.
    simulation, stream : the galaxies that the flow is trained on.
    emulator : the spectrum emulator of the simulation.
    start : posterior that the flow's training begins with.
    checkpoint : of the flow's training; the finished band emulator is kept beside it.
    progress : called as (steps done, steps, figures).

    Raises
    ------
    ArtifactError : if what is kept beside the checkpoint is of another configuration.
    """
    if finished := finished_bands(config, simulation, stream, emulator, start=start, checkpoint=checkpoint):
        return finished
    training, held_out = _galaxies(config, simulation, stream)
    trained, figures = train_band_emulator(
        config,
        emulator,
        simulation.bands,
        training=training,
        held_out=held_out,
        prior=Prior.from_dict(simulation.prior),
        zred_range=(simulation.zred.min, simulation.zred.max),
        progress=progress,
    )
    recipe = _recipe(config, simulation, stream, emulator)
    if checkpoint is not None:
        save_artifact(
            band_checkpoint(checkpoint), _KIND, trained.to_arrays(), {"recipe": recipe, "figures": figures}, overwrite=True
        )
    return TrainedBands(trained, recipe, figures)


def finished_bands(
    config: BandTrainingConfig,
    simulation: SimulationConfig,
    stream: StreamConfig,
    emulator: SpectrumEmulator,
    *,
    start: PosteriorEstimator | None = None,
    checkpoint: str | Path | None = None,
) -> TrainedBands | None:
    """The band emulator of `start` or beside the checkpoint, if one was trained in the same way; parameters as above.

    Raises
    ------
    ArtifactError : if what is kept beside the checkpoint is of another configuration.
    """
    recipe = _recipe(config, simulation, stream, emulator)
    if start is not None:
        flow, described = start.flow.general, start.card.get("bands_emulator", {})
        if isinstance(flow, FlowWithAmplitudes) and described.get("recipe") == recipe:
            return TrainedBands(flow.emulator, recipe, described["figures"])
    kept = None if checkpoint is None else band_checkpoint(checkpoint)
    if kept is None or not kept.is_file():
        return None
    arrays, card = load_artifact(kept, _KIND)
    if card.get("recipe") != recipe:
        raise ArtifactError(f"{kept} is of another configuration: restore that, or remove the file to start again")
    return TrainedBands(BandEmulator.from_arrays(arrays), recipe, card["figures"])


def _recipe(
    config: BandTrainingConfig, simulation: SimulationConfig, stream: StreamConfig, emulator: SpectrumEmulator
) -> dict[str, Any]:
    recipe = {
        "amplitudes": config.model_dump(mode="json"),
        "simulation": simulation.model_dump(mode="json", exclude={"n_galaxies", "seed"}),
        "missing": None if stream.missing is None else stream.missing.model_dump(mode="json"),
        "emulator": emulator.card.get("sha256"),
    }
    # Recipes of bundled posteriors are without.
    if files := simulation.own_files():
        recipe["own_files"] = files
    return recipe


def _galaxies(
    config: BandTrainingConfig, simulation: SimulationConfig, stream: StreamConfig
) -> tuple[BandGalaxies, BandGalaxies]:
    """Galaxies as the flow is trained on, and others held out, with spectra of their own."""
    size = min(config.n_galaxies, _GALAXIES_PER_CHUNK)
    drawn = simulation.model_copy(update={"n_galaxies": size, "seed": config.seed})
    many_spectra = stream.model_copy(update={"spectra_per_galaxy": 1.0, "pool_epochs": 1, "n_validation": max(size // 8, 1)})
    simulator, mass = default_simulator(simulation), FREE_PARAMETER_NAMES.index("log_mstar")
    with GalaxyStream(simulator, noise_model(simulation), drawn, many_spectra) as source:

        def observed(galaxies: Galaxies) -> BandGalaxies:
            theta = source.prior.from_unbounded(galaxies.theta_unbounded)
            flux = simulator.flux(theta, galaxies.zred, n_threads=usable_cores())
            return BandGalaxies(theta, galaxies.zred, flux / 10 ** theta[:, mass, None], flux * np.sqrt(galaxies.flux_ivar))

        held_out = observed(source.validation())
        parts = [observed(source.chunk(index)) for index in range(-(-config.n_galaxies // size))]
    columns = [np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(BandGalaxies)]
    return BandGalaxies(*columns), held_out
