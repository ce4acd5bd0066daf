"""Speed and memory of the mass simulation: prior, emulator, filters, noise and writing."""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import BUNDLED, add_emulator, add_repeats, note, positive
from sedcast.data.config import load_config, parse_config
from sedcast.emulator.mass_simulation import simulate
from sedcast.emulator.simulation import SimulationConfig, default_simulator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_repeats(parser, default=3)
    add_emulator(parser)
    parser.add_argument("--galaxies", type=positive, default=100_000, help="galaxies to keep, each repeat")
    parser.add_argument("--bands", nargs="+", default=["u", "g", "r", "i", "z"], help="photometric bands")
    parser.add_argument("--noise", default=BUNDLED, metavar="FILE", help="artifact of a noise model")
    parser.add_argument("--config", type=Path, help="simulation configuration, instead of the options above and --seed")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Simulate into temporary files, after a short run that is not timed."""
    if options.config is not None:
        config = load_config(options.config, SimulationConfig)
    else:
        settings = {"n_galaxies": options.galaxies, "bands": options.bands}
        settings |= {name: getattr(options, name) for name in ("seed", "emulator", "noise")}
        config = parse_config(settings, SimulationConfig, "options")
    simulator = default_simulator(config)
    kept, proposed = [], []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "galaxies.h5"
        simulate(
            config.model_copy(update={"n_galaxies": min(1000, config.n_galaxies)}), output, simulator=simulator, overwrite=True
        )
        for repeat in range(options.repeats):
            started = time.perf_counter()
            figures = simulate(
                config.model_copy(update={"seed": config.seed + repeat}), output, simulator=simulator, overwrite=True
            )
            seconds = time.perf_counter() - started
            kept.append(figures["n_galaxies"] / seconds)
            proposed.append(figures["n_proposed"] / seconds)
            note(f"  round {repeat + 1} of {options.repeats}: {kept[-1]:,.0f} kept/s of {proposed[-1]:,.0f} proposed/s")
        size = output.stat().st_size
    return {
        "galaxies_per_s": float(np.median(kept)),
        "proposals_per_s": float(np.median(proposed)),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "kept_fraction": figures["n_galaxies"] / figures["n_proposed"],
        "n_galaxies": config.n_galaxies,
        "file_bytes_per_galaxy": size / config.n_galaxies,
        "bands": config.bands,
        "repeats": options.repeats,
    }
