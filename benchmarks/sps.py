"""Speed of the direct model, beside FSPS called bin by bin and a single FSPS call."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import Stopwatch, add_repeats, draw, note, positive, spectra_in_threads
from sedcast.data.errors import MissingDependencyError
from sedcast.data.fsps_link import fsps_spectrum
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.fsps_model import FSPSModel
from sedcast.emulator.prior import Prior
from sedcast.emulator.sps import SPSModel

ZRED_MAX = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_repeats(parser)
    parser.add_argument("--galaxies", type=positive, default=4096, help="galaxies a call of the direct model")


def fsps_tasks(seed: int) -> tuple[dict[str, Callable[[], object]], str]:
    """One galaxy by FSPS and one FSPS call, each time with other parameters; or no tasks, and why."""
    try:
        model = FSPSModel()
    except MissingDependencyError as error:
        return {}, str(error)
    theta, zred = draw(Prior(), 1000, ZRED_MAX, seed)
    # Sets FSPS's dust, so that a single call does the same work as those of the model.
    model.spectra(theta[:1], zred[:1])
    rng = np.random.default_rng(seed)
    row = 0

    def one_galaxy() -> object:
        nonlocal row
        row = (row + 1) % len(theta)
        return model.spectra(theta[row : row + 1], zred[row : row + 1])

    def one_call() -> object:
        return fsps_spectrum(model.population, 10 ** rng.uniform(-4, -1.5), 10 ** rng.uniform(-3, 1))

    return {"FSPS model, one galaxy": one_galaxy, "one FSPS call": one_call}, ""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time the direct model on the bundled library, float64 and float32, and FSPS where it runs."""
    library = SSPLibrary.popstar()
    theta, zred = draw(Prior(), options.galaxies, ZRED_MAX, options.seed)
    models = {name: SPSModel(library, dtype=getattr(np, name)) for name in ("float64", "float32")}
    tasks: dict[str, Callable[[], object]] = {
        f"direct model, {len(theta)} galaxies, {name}": lambda model=model: spectra_in_threads(  # type: ignore[misc]
            model, theta, zred, options.threads
        )
        for name, model in models.items()
    }
    fsps, reason = fsps_tasks(options.seed)
    if reason:
        note(f"  without FSPS: {reason}")
    watch = Stopwatch(tasks | fsps, repeats=options.repeats)
    double, single = (len(theta) / watch.seconds[name] for name in tasks)
    return {
        "direct_per_s": double,
        "direct_float32_per_s": single,
        "direct_n_wave": len(library.wave_rest),
        "fsps_call_s": watch.seconds.get("one FSPS call"),
        "fsps_model_s": watch.seconds.get("FSPS model, one galaxy"),
        **({"fsps_reason": reason} if reason else {}),
        "n_galaxies": len(theta),
        "gemm_flop_per_s": watch.gemm_flop_per_s,
        "repeats": options.repeats,
    }
