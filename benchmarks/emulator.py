"""Speed of the emulator: photometry and spectra in batches, one galaxy, and a step of an ensemble sampler."""

import argparse
import cProfile
import os
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    Stopwatch,
    add_emulator,
    add_repeats,
    draw,
    load_emulator,
    note,
    positive,
    provabgs_folder,
    spectra_in_threads,
    table,
    verdict,
)
from benchmarks.sps import fsps_tasks
from sedcast.data.cosmology import Cosmology
from sedcast.data.filters import FilterProjection
from sedcast.emulator.dust import DustLaw
from sedcast.emulator.histories import HistoryGrid, column
from sedcast.emulator.metallicity_inputs import MetallicityInputs
from sedcast.emulator.network import SpeculatorNetwork
from sedcast.emulator.prior import Prior
from sedcast.emulator.published_provabgs import PublishedProvabgsModel
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator

ZRED_MAX = 0.25
N_WALKER = 64
N_PUBLISHED = 1024
PUBLISHED_VARIABLE = "SEDCAST_PUBLISHED"
BARS = {"phot_per_s": 100_000.0, "spec_per_s": 20_000.0, "single_us": 300.0, "batch64_ms": 2.0}

# Each stage's functions, and those within them that are counted apart.
_STAGES: dict[str, tuple[tuple[Callable[..., Any], ...], tuple[Callable[..., Any], ...]]] = {
    "validation": ((SpectrumEmulator.check,), ()),
    "age and distance": ((Cosmology.age_gyr, Cosmology.luminosity_distance_cm), ()),
    "network": ((SpeculatorNetwork.__call__,), ()),
    "histories": ((HistoryGrid.formed, HistoryGrid.later_bins, MetallicityInputs.__call__), ()),
    "sum of templates": ((SpectrumEmulator._histories,), (SpeculatorNetwork.__call__, MetallicityInputs.__call__)),
    "burst and late bins": ((SpectrumEmulator._add_ssps,), ()),
    "dust": ((DustLaw.attenuate,), ()),
    "projection on bands": ((FilterProjection.flux,), (Cosmology.luminosity_distance_cm,)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_repeats(parser)
    add_emulator(parser)
    parser.add_argument("--galaxies", type=positive, default=16384, help="galaxies a batched call")
    parser.add_argument("--bands", nargs="+", default=["FUV", "NUV", "u", "g", "r", "i", "z"], help="photometric bands")
    parser.add_argument(
        "--published",
        type=Path,
        metavar="DIR",
        default=os.environ.get(PUBLISHED_VARIABLE),
        help=f"folder of the published PROVABGS files; {PUBLISHED_VARIABLE} if not given",
    )


def flop_per_galaxy(emulator: SpectrumEmulator, n_wave: int) -> int:
    """Multiplications and additions of the network's products and of the templates' sum over n_wave wavelengths.

    What is not a matrix product (activations, dust) or need not be one (the SSPs of the burst and of late bins) is not counted.
    """
    n_template = len(emulator.means) + len(emulator.components)
    return 2 * (sum(weight.size for weight in emulator.network.weights) + n_template * n_wave)


def published_tasks(folder: Path | None, seed: int, threads: int) -> tuple[dict[str, Callable[[], object]], str]:
    """Spectra from the published PROVABGS weights, many and one; or no tasks, and why."""
    if folder is None:
        return {}, f"neither --published nor {PUBLISHED_VARIABLE} names a folder of the published PROVABGS files"
    model = PublishedProvabgsModel.load(provabgs_folder(folder))
    # Within the ranges of both trainings, and without burst, which the published emulator lacks.
    theta, zred = draw(Prior(), N_PUBLISHED, ZRED_MAX, seed)
    theta[:, column("fburst")] = 0.0
    return {
        f"published PROVABGS, {N_PUBLISHED} spectra": lambda: spectra_in_threads(model, theta, zred, threads),
        "published PROVABGS, one spectrum": lambda: model.spectra(theta[:1], zred[:1]),
    }, ""


def shares(task: Callable[[], object], repeats: int) -> dict[str, float]:
    """Fraction of the time of `task`, in one thread, by stage."""
    task()
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(repeats):
        task()
    profile.disable()
    stats = pstats.Stats(profile)
    seconds = {key: entry[3] for key, entry in stats.stats.items()}  # type: ignore[attr-defined]

    def spent(function: Callable[..., Any]) -> float:
        code = function.__code__
        return seconds.get((code.co_filename, code.co_firstlineno, code.co_name), 0.0)

    total = stats.total_tt  # type: ignore[attr-defined]
    found = {
        stage: (sum(map(spent, functions)) - sum(map(spent, apart))) / total for stage, (functions, apart) in _STAGES.items()
    }
    return found | {"the rest": 1 - sum(found.values())}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time the emulator, the direct model on the same wavelengths and, where they run, FSPS and the published emulator."""
    emulator = load_emulator(options.emulator)
    zred_max = min(ZRED_MAX, emulator.zred_max)
    bands = tuple(options.bands)
    simulator = PhotometrySimulator(emulator, bands, zred_max)
    direct = PhotometrySimulator(emulator.model, bands, zred_max)
    theta, zred = draw(emulator.prior, options.galaxies, zred_max, options.seed)
    n, threads = len(theta), options.threads
    step, step_zred = np.resize(theta, (N_WALKER, theta.shape[1])), np.full(N_WALKER, zred[0])
    fsps, fsps_reason = fsps_tasks(options.seed)
    published, published_reason = published_tasks(options.published, options.seed, threads)
    for name, reason in (("FSPS", fsps_reason), ("the published emulator", published_reason)):
        if reason:
            note(f"  without {name}: {reason}")
    tasks: dict[str, Callable[[], object]] = {
        "photometry": lambda: simulator.flux(theta, zred, n_threads=threads),
        "spectra": lambda: spectra_in_threads(emulator, theta, zred, threads),
        "photometry, one galaxy": lambda: simulator.flux(theta[:1], zred[:1]),
        "photometry, 64 galaxies": lambda: simulator.flux(step, step_zred),
        "spectrum, one galaxy": lambda: emulator.spectra(theta[:1], zred[:1]),
        "direct photometry": lambda: direct.flux(theta, zred, n_threads=threads),
        "direct photometry, one galaxy": lambda: direct.flux(theta[:1], zred[:1]),
        "direct spectra": lambda: spectra_in_threads(emulator.model, theta, zred, threads),
        **published,
        **{name: fsps[name] for name in fsps if name == "one FSPS call"},
    }
    watch = Stopwatch(tasks, repeats=options.repeats)
    judged = {
        statistic: {
            "phot_per_s": n / seconds["photometry"],
            "spec_per_s": n / seconds["spectra"],
            "single_us": 1e6 * seconds["photometry, one galaxy"],
            "batch64_ms": 1e3 * seconds["photometry, 64 galaxies"],
        }
        for statistic, seconds in (("median", watch.seconds), ("best", watch.least))
    }
    median, best = judged.values()
    passed = {name: best[name] >= bar if name.endswith("per_s") else best[name] <= bar for name, bar in BARS.items()}
    table(
        ("figure", "bar", "median", "best", ""),
        [(name, bar, median[name], best[name], verdict(passed[name])) for name, bar in BARS.items()],
    )
    profile = {
        "batch": shares(lambda: simulator.flux(theta, zred), 1 + 20_000 // n),
        "single": shares(lambda: simulator.flux(theta[:1], zred[:1]), 1000),
    }
    table(
        ("share of the time", f"{n} galaxies", "one galaxy"),
        [(stage, f"{profile['batch'][stage]:.0%}", f"{profile['single'][stage]:.0%}") for stage in profile["batch"]],
    )
    n_used = simulator.projection.weights.shape[1]
    # A redshift lies between two rows of the projection's table, so each band is projected twice.
    flop_phot = flop_per_galaxy(emulator, n_used) + 2 * 2 * n_used * len(bands)
    flop_spec = flop_per_galaxy(emulator, len(emulator.wave_rest))
    many, one = published or ("", "")
    return {
        **median,
        **{f"{name}_best": value for name, value in best.items()},
        "speed_pass": all(passed.values()),
        "gemm_fraction": flop_phot * median["phot_per_s"] / watch.gemm_flop_per_s,
        "gemm_fraction_spec": flop_spec * median["spec_per_s"] / watch.gemm_flop_per_s,
        "phot_flop_per_galaxy": flop_phot,
        "spec_flop_per_galaxy": flop_spec,
        "gemm_flop_per_s": watch.gemm_flop_per_s,
        "direct_phot_per_s": n / watch.seconds["direct photometry"],
        "direct_spec_per_s": n / watch.seconds["direct spectra"],
        "direct_single_us": 1e6 * watch.seconds["direct photometry, one galaxy"],
        "single_spec_us": 1e6 * watch.seconds["spectrum, one galaxy"],
        "published_spec_per_s": N_PUBLISHED / watch.seconds[many] if published else None,
        "published_single_spec_us": 1e6 * watch.seconds[one] if published else None,
        **({"published_reason": published_reason} if published_reason else {}),
        "fsps_call_s": watch.seconds.get("one FSPS call"),
        **({"fsps_reason": fsps_reason} if fsps_reason else {}),
        "profile": profile,
        "n_galaxies": n,
        "n_wave": len(emulator.wave_rest),
        "n_wave_phot": n_used,
        "bands": bands,
        "zred_max": zred_max,
        "repeats": options.repeats,
    }
