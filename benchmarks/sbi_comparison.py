"""The flow beside the `sbi` package's MAF of similar size: the same simulations, the same wall time, held-out log-probability.

Both see the same context and the same theta in probit space, whose log density is compared, in nats, on galaxies that neither
trained on or stopped by. They train one after the other on the same cores. `sbi` is a benchmark extra, in this interpreter
or another.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note, positive, table
from sedcast.data.errors import MissingDependencyError, ParameterError
from sedcast.emulator.mass_simulation import simulate
from sedcast.emulator.simulation import SimulationConfig
from sedcast.posterior.context import ContextTransform
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_training import FlowTrainer, FlowTrainingConfig, TrainingResult
from sedcast.posterior.made import FlowConfig
from sedcast.posterior.training_set import read_training_set

_VALIDATION_FRACTION = 0.1
_SAMPLING_GALAXIES, _SAMPLING_SAMPLES = 10, 1000
_SAMPLING_SECONDS = 5.0
_ENDLESS = 100_000
_EMBEDDING = (64, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--simulations", type=Path, metavar="FILE", help="what 'sedcast simulate' wrote; made if left out")
    parser.add_argument("--n-galaxies", type=positive, default=220_000, help="galaxies to simulate without --simulations")
    parser.add_argument("--held-out", type=positive, default=20_000, help="galaxies of them, the last, that are held out")
    parser.add_argument("--minutes", type=float, default=8.0, help="wall time of each training")
    parser.add_argument("--blocks", type=positive, default=8, help="MADE blocks, sbi's transforms")
    parser.add_argument("--hidden", type=positive, default=256, help="width of hidden layers")
    parser.add_argument("--batch", type=positive, default=1024, help="our galaxies a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="our highest rate")
    parser.add_argument("--sbi-batch", type=positive, default=1024, help="sbi's galaxies a step; its default is 200")
    parser.add_argument("--sbi-rate", type=float, default=5e-4, help="sbi's learning rate; this is its default")
    parser.add_argument(
        "--sbi-blocks",
        type=positive,
        default=2,
        help="sbi's layers per transform after the first: 2, its default, or 1 as ours",
    )
    parser.add_argument("--sbi-python", default=sys.executable, metavar="PATH", help="interpreter that has sbi")


def read_pairs(options: argparse.Namespace) -> tuple[dict[str, np.ndarray], int]:
    """theta and context, float32, of training and held-out galaxies."""
    if options.simulations is not None:
        training_set = read_training_set(options.simulations)
    else:
        note(f"  simulating {options.n_galaxies:,} galaxies")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "simulations.h5"
            simulate(SimulationConfig(n_galaxies=options.n_galaxies, seed=options.seed), path)
            training_set = read_training_set(path)
    n_train = len(training_set) - options.held_out
    if n_train < options.batch:
        raise ParameterError(f"{len(training_set)} simulations leave {n_train} to train on: simulate more, hold out fewer")
    transform = ContextTransform(training_set.config.band_names, softening=training_set.softening)
    context = transform(training_set.flux, training_set.flux_ivar, training_set.zred)
    theta = training_set.theta_unbounded.astype(np.float32)
    pairs = {"theta": theta[:n_train], "context": context[:n_train]}
    return pairs | {"held_theta": theta[n_train:], "held_context": context[n_train:]}, n_train


def train_ours(
    pairs: dict[str, np.ndarray], options: argparse.Namespace, *, minutes: float | None = None, epochs: int = _ENDLESS
) -> tuple[TrainingResult, dict[str, Any]]:
    """Train until the time or the epochs are over, without patience; our learning rate falls until then."""
    flow = FlowConfig(n_blocks=options.blocks, hidden=(options.hidden, options.hidden), embedding=_EMBEDDING, seed=options.seed)
    training = FlowTrainingConfig(
        batch_size=options.batch,
        learning_rate=options.learning_rate,
        max_minutes=minutes,
        max_epochs=epochs,
        patience=epochs,
        validation_fraction=_VALIDATION_FRACTION,
        seed=options.seed,
    )
    trainer = FlowTrainer(
        flow,
        training,
        progress=lambda all_: note(f"  ours: epoch {len(all_)}, validation {all_[-1]['validation_nll']:.3f}"),
    )
    cpu, started = os.times(), time.monotonic()
    result = trainer.fit(pairs["theta"], pairs["context"])
    seconds, after = time.monotonic() - started, os.times()
    figures = {
        "epochs": len(result.history),
        "seconds": seconds,
        "cpu_seconds": after.user + after.system - cpu.user - cpu.system,
        "galaxies_per_s": float(np.median([record["galaxies_per_s"] for record in result.history])),
        "n_weights": sum(array.size for name, array in result.flow.to_arrays().items() if "kernel" in name or "bias" in name),
        "validation_nll": [record["validation_nll"] for record in result.history],
    }
    return result, figures


def sampling_rate(flow: MaskedAutoregressiveFlow, context: np.ndarray, threads: int) -> float:
    """Samples per second of ten galaxies with 1,000 samples each."""
    galaxies, n_calls = context[:_SAMPLING_GALAXIES], 0
    flow.sample(galaxies, _SAMPLING_SAMPLES, seed=0, n_threads=threads)
    started = time.monotonic()
    while time.monotonic() - started < _SAMPLING_SECONDS:
        flow.sample(galaxies, _SAMPLING_SAMPLES, seed=n_calls, n_threads=threads)
        n_calls += 1
    return len(galaxies) * _SAMPLING_SAMPLES * n_calls / (time.monotonic() - started)


def train_sbi(pairs: dict[str, np.ndarray], options: argparse.Namespace) -> tuple[np.ndarray, dict[str, Any]]:
    """sbi's held-out log-probabilities (n_held,) and figures, from a process of its own on the same cores."""
    settings = {
        "threads": options.threads,
        "seed": options.seed,
        "minutes": options.minutes,
        "hidden": options.hidden,
        "n_blocks": options.blocks,
        "blocks_per_transform": options.sbi_blocks,
        "batch": options.sbi_batch,
        "learning_rate": options.sbi_rate,
        "validation_fraction": _VALIDATION_FRACTION,
        "sampling_galaxies": _SAMPLING_GALAXIES,
        "sampling_samples": _SAMPLING_SAMPLES,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "pairs.npz", **pairs)  # type: ignore[arg-type]
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        worker = Path(__file__).resolve().with_name("sbi_worker.py")
        # sbi writes its logs where it runs.
        subprocess.run([_interpreter(options.sbi_python), str(worker), name], check=True, stdout=sys.stderr, cwd=name)
        return np.load(folder / "held_log_prob.npy"), json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _interpreter(python: str) -> str:
    """The path of an interpreter, or MissingDependencyError if it has no sbi."""
    path = shutil.which(python)
    if path is None or subprocess.run([path, "-c", "import sbi"], check=False, capture_output=True).returncode:
        raise MissingDependencyError(
            f"{python} has no sbi: pip install 'sedcast[benchmark]', or name another interpreter that has it by --sbi-python"
        )
    return str(Path(path).absolute())


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train sbi, ours for the same time, and ours for the same number of epochs; then compare."""
    _interpreter(options.sbi_python)
    pairs, n_train = read_pairs(options)
    note(f"  sbi: {options.minutes:g} minutes on {n_train:,} galaxies")
    sbi_log_prob, sbi = train_sbi(pairs, options)
    # sbi ends with an epoch, beyond its budget: ours gets as long as it took.
    minutes = sbi["seconds"] / 60
    note(f"  ours: {minutes:.2f} minutes")
    timed, ours = train_ours(pairs, options, minutes=minutes)
    note(f"  ours: {sbi['epochs']} epochs")
    same_epochs, ours_epochs = train_ours(pairs, options, epochs=sbi["epochs"])
    held = pairs["held_theta"], pairs["held_context"]
    log_prob = {"sbi": sbi_log_prob, "ours": timed.flow.log_prob(*held), "ours, same epochs": same_epochs.flow.log_prob(*held)}
    ours["samples_per_s"] = sampling_rate(timed.flow, pairs["held_context"], options.threads)
    runs = {"sbi": sbi, "ours": ours, "ours, same epochs": ours_epochs}
    rows = []
    for name, values in log_prob.items():
        gain = values - sbi_log_prob
        runs[name] |= {
            "held_out_log_prob": float(values.mean()),
            "over_sbi_nats": float(gain.mean()),
            "over_sbi_error": float(gain.std() / np.sqrt(len(gain))),
        }
        figures = [
            runs[name][key] for key in ("held_out_log_prob", "over_sbi_nats", "over_sbi_error", "epochs", "galaxies_per_s")
        ]
        rows.append((name, *figures))
    table(("flow", "held-out log-prob", "over sbi", "±", "epochs", "galaxies/s"), rows)
    return {
        "over_sbi_nats": runs["ours"]["over_sbi_nats"],
        "over_sbi_error": runs["ours"]["over_sbi_error"],
        "sampling_over_sbi": ours["samples_per_s"] / sbi["samples_per_s"],
        "n_train": n_train,
        "n_held_out": len(sbi_log_prob),
        "minutes": minutes,
        "sbi_batch": options.sbi_batch,
        "sbi_learning_rate": options.sbi_rate,
        "runs": runs,
    }
