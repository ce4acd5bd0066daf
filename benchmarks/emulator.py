"""Speed of the emulator: photometry and spectra in batches, one galaxy, and a step of an ensemble sampler."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import Stopwatch, add_emulator, add_repeats, draw, load_emulator, note, positive, spectra_in_threads
from benchmarks.sps import fsps_tasks
from sedcast.emulator.simulate import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator

ZRED_MAX = 0.25
N_WALKER = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_repeats(parser)
    add_emulator(parser)
    parser.add_argument("--galaxies", type=positive, default=16384, help="galaxies a batched call")
    parser.add_argument("--bands", nargs="+", default=["FUV", "NUV", "u", "g", "r", "i", "z"], help="photometric bands")


def flop_per_galaxy(emulator: SpectrumEmulator, n_wave: int) -> int:
    """Multiplications and additions of the network's products and of the templates' sum over n_wave wavelengths.

    What is not a matrix product (activations, dust) or need not be one (the burst's SSP) is not counted.
    """
    n_template = len(emulator.means) + len(emulator.components)
    return 2 * (sum(weight.size for weight in emulator.network.weights) + n_template * n_wave)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time the emulator, the direct model on the same wavelengths and, where it runs, one FSPS call."""
    emulator = load_emulator(options.emulator)
    zred_max = min(ZRED_MAX, emulator.zred_max)
    bands = tuple(options.bands)
    simulator = PhotometrySimulator(emulator, bands, zred_max, emulator.cosmology)
    direct = PhotometrySimulator(emulator.model, bands, zred_max, emulator.cosmology)
    theta, zred = draw(emulator.prior, options.galaxies, zred_max, options.seed)
    n, threads = len(theta), options.threads
    step, step_zred = np.resize(theta, (N_WALKER, theta.shape[1])), np.full(N_WALKER, zred[0])
    fsps, reason = fsps_tasks(options.seed)
    if reason:
        note(f"  without FSPS: {reason}")
    tasks: dict[str, Callable[[], object]] = {
        "photometry": lambda: simulator.flux(theta, zred, n_threads=threads),
        "spectra": lambda: spectra_in_threads(emulator, theta, zred, threads),
        "photometry, one galaxy": lambda: simulator.flux(theta[:1], zred[:1]),
        "photometry, 64 galaxies": lambda: simulator.flux(step, step_zred),
        "direct photometry": lambda: direct.flux(theta, zred, n_threads=threads),
        "direct spectra": lambda: spectra_in_threads(emulator.model, theta, zred, threads),
    }
    watch = Stopwatch(tasks | {name: fsps[name] for name in fsps if name == "one FSPS call"}, repeats=options.repeats)
    rate = {name: n / watch.seconds[name] for name in tasks}
    n_used = simulator.projection.weights.shape[1]
    # A redshift lies between two rows of the projection's table, so each band is projected twice.
    flop_phot = flop_per_galaxy(emulator, n_used) + 2 * 2 * n_used * len(bands)
    flop_spec = flop_per_galaxy(emulator, len(emulator.wave_rest))
    return {
        "phot_per_s": rate["photometry"],
        "spec_per_s": rate["spectra"],
        "single_us": 1e6 * watch.seconds["photometry, one galaxy"],
        "batch64_ms": 1e3 * watch.seconds["photometry, 64 galaxies"],
        "gemm_fraction": flop_phot * rate["photometry"] / watch.gemm_flop_per_s,
        "gemm_fraction_spec": flop_spec * rate["spectra"] / watch.gemm_flop_per_s,
        "phot_flop_per_galaxy": flop_phot,
        "spec_flop_per_galaxy": flop_spec,
        "gemm_flop_per_s": watch.gemm_flop_per_s,
        "direct_phot_per_s": rate["direct photometry"],
        "direct_spec_per_s": rate["direct spectra"],
        "fsps_call_s": watch.seconds.get("one FSPS call"),
        **({"fsps_reason": reason} if reason else {}),
        "n_galaxies": n,
        "n_wave": len(emulator.wave_rest),
        "n_wave_phot": n_used,
        "bands": bands,
        "zred_max": zred_max,
        "repeats": options.repeats,
    }
