"""Mass simulation: noisy galaxies by the million into one HDF5 file, resumable, in bounded memory."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import output_path, software_versions
from sedcast.data.checks import check_kind, whole_number
from sedcast.data.errors import ConfigError
from sedcast.data.executors import TaskPool
from sedcast.data.filters import load_filter
from sedcast.data.noise import NoiseModel
from sedcast.data.provenance import provenance
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES, Prior
from sedcast.emulator.segments import Segments, array_digest, open_segments
from sedcast.emulator.simulation import (
    PROPOSALS_PER_CHUNK,
    Draws,
    FluxSimulator,
    PhotometrySimulator,
    SimulationConfig,
    SpectrumModel,
    default_simulator,
    draw_galaxies,
    noise_model,
)
from sedcast.emulator.sps import SPSModel, library_digest

__all__ = ["changed_artifacts", "simulate", "simulator_identity"]

_CHUNKS_PER_SEGMENT = 8


def simulate(
    config: SimulationConfig,
    output: str | Path,
    *,
    simulator: PhotometrySimulator | None = None,
    n_workers: int = 2,
    pool: TaskPool | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Simulate `config.n_galaxies` noisy galaxies into an HDF5 file.

    Datasets (first axis galaxies): `theta` (n, 12), `theta_unbounded` (n, 11), `zred` (n,), `flux_true`, `flux`
    (nanomaggies) and `flux_ivar` (nanomaggies^-2), each (n, n_band), float32. Configuration, versions and figures are
    attributes. If it is interrupted, the same call goes on from what is in the folder ``OUTPUT.partial``; the result
    depends neither on that nor on `n_workers`, which are threads, or on the `pool` of processes that is used instead.

    Returns
    -------
    figures : galaxies kept and proposed, and how many of those kept an interrupted run had left.

    Raises
    ------
    ConfigError : if `simulator` has other bands than the configuration; if hardly any proposal is kept, so that the run would
        not end; if ``OUTPUT.partial`` holds an interrupted run of another configuration, version or artifact.
    ParameterError : if `output` is there already, unless `overwrite` says that it may be replaced.
    """
    output, n_workers = output_path(output, overwrite=overwrite), whole_number("n_workers", n_workers)
    check_kind("config", config, SimulationConfig, "SimulationConfig(n_galaxies=...), or load_config of a file")
    prior = Prior.from_dict(config.prior)
    noise = noise_model(config)
    if simulator is None:
        simulator = default_simulator(config)
    if simulator.bands != config.band_names:
        raise ConfigError(f"the simulator has bands {simulator.bands}, the configuration {config.band_names}: give it those")
    attributes = _attributes(config, prior, noise, simulator)
    with open_segments(
        output, {name: json.loads(attributes[name]) for name in ("config", "versions", "artifacts")}
    ) as segments:
        n_resumed = min(segments.n_rows, config.n_galaxies)
        draws = draw_galaxies(
            simulator,
            prior,
            noise,
            config.zred,
            seed=config.seed,
            n_workers=n_workers,
            first_chunk=segments.next_chunk,
            pool=pool,
        )
        with contextlib.closing(draws):
            _fill(segments, draws, config.n_galaxies, progress)
        figures = {"n_galaxies": config.n_galaxies, "n_proposed": segments.n_proposed}
        segments.join(output, config.n_galaxies, attributes | {"figures": json.dumps(figures)})
    return figures | {"n_resumed": n_resumed}


def _fill(
    segments: Segments,
    draws: Iterator[tuple[int, Draws]],
    n_galaxies: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Append segments of chunks until there are `n_galaxies` rows."""
    names = [column.name for column in fields(Draws)]
    if progress is not None and segments.n_rows:
        progress(min(segments.n_rows, n_galaxies), n_galaxies)
    while segments.n_rows < n_galaxies:
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        n_chunks, kept, proposed = 0, segments.n_rows, 0
        while n_chunks < _CHUNKS_PER_SEGMENT and kept < n_galaxies:
            n_proposed, drawn = next(draws)
            for name in names:
                parts[name].append(getattr(drawn, name))
            n_chunks, kept, proposed = n_chunks + 1, kept + len(drawn), proposed + n_proposed
            if progress is not None:
                progress(min(kept, n_galaxies), n_galaxies)
        segments.append(parts, n_proposed=proposed, n_chunks=n_chunks)
        if segments.n_proposed >= 50 * PROPOSALS_PER_CHUNK and segments.n_rows < segments.n_proposed * 1e-4:
            message = f"only {segments.n_rows} of {segments.n_proposed} proposals resemble the noise model's catalogue"
            segments.discard()
            raise ConfigError(f"{message}: check zred and prior")


def _identity(model: SpectrumModel) -> str:
    """An artifact's checksum, or that of all that a direct model is made of, or the name of what the model is."""
    named = type(model).__name__
    if isinstance(model, SPSModel):
        library, bases = np.array(library_digest(model.library)), model.bases
        of_bases = bases.t_lookback_gyr, bases.sfh, bases.zh
        named = f"{named} {array_digest(library, *of_bases, np.array(model.t_birth_cloud_gyr))}"
    return str(getattr(model, "card", {}).get("sha256", named))


def simulator_identity(simulator: FluxSimulator) -> str:
    """What a simulator is made of, its model, filters and cosmology, in one word; of a user's own, its type."""
    if not isinstance(simulator, PhotometrySimulator):
        return type(simulator).__name__
    curves = [part for curve in simulator.projection.curves for part in (curve.wave, curve.response)]
    return array_digest(*curves, np.array([_identity(simulator.model), simulator.cosmology.name]))


def changed_artifacts(config: SimulationConfig, made_with: Mapping[str, str]) -> list[str]:
    """Which of the artifacts in a file of simulations are others than those that its configuration names now."""
    now = _artifacts(config, noise_model(config), default_simulator(config))
    return [name for name, identity in now.items() if made_with.get(name, identity) != identity]


def _artifacts(config: SimulationConfig, noise: NoiseModel, simulator: PhotometrySimulator) -> dict[str, str]:
    curves = [load_filter(band) for band in config.bands]
    noise_arrays = (noise.median, noise.scatter, noise.magnitude_range, noise.ln_sigma_range, noise.log_cap, noise.log_norm)
    return {
        "emulator": _identity(simulator.model),
        "cosmology": simulator.cosmology.name,
        "noise": array_digest(*noise_arrays),
        "softening": array_digest(noise.softening),
        "filters": array_digest(*(part for curve in curves for part in (curve.wave, curve.response))),
    }


def _attributes(config: SimulationConfig, prior: Prior, noise: NoiseModel, simulator: PhotometrySimulator) -> dict[str, Any]:
    """What the file says of itself; `config`, `versions` and `artifacts` decide its rows."""
    artifacts = _artifacts(config, noise, simulator)
    return {
        "config": config.model_dump_json(),
        "prior": json.dumps(prior.to_dict()),
        "bands": list(config.band_names),
        "softening": noise.softening,
        "parameter_names": list(PARAMETER_NAMES),
        "free_parameter_names": list(FREE_PARAMETER_NAMES),
        "versions": json.dumps(software_versions()),
        "artifacts": json.dumps(artifacts),
        "provenance": json.dumps(provenance(config=config.model_dump(mode="json"), artifacts=artifacts)),
    }
