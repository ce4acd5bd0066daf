"""What each part of the flow's design and training is worth: the same minutes with one of them changed."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note, positive, table
from sedcast.data.config import load_config
from sedcast.posterior.conditional_flow import ConditionalFlow
from sedcast.posterior.flow_training import FlowTrainer
from sedcast.posterior.posterior_config import PosteriorConfig
from sedcast.posterior.train import joint_points, train_bands, training_stream
from sedcast.posterior.train_bands import TrainedBands

VARIANTS: dict[str, dict[str, Any]] = {
    "as bundled": {},
    "burst fraction and mass learnt too": {"amplitudes": None, "choice": (), "n_options": 2},
    "not told whether the burst has begun": {"choice": (), "n_options": 2},
    "not told whether it is young": {"n_options": 2},
    "a fixed set": {},
    "relu": {"activation": "relu"},
    "no embedding": {"embedding": ()},
    "a third of the rate": {"learning_rate": 1e-3},
    "hidden layers of 256": {"hidden": (256, 256)},
    "hidden layers of 384": {"hidden": (384, 384)},
    "8 blocks": {"n_blocks": 8},
    "affine": {"transform": "affine"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, default=Path("configs/posterior_sdss_ugriz.toml"), help="the design that is varied"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=3.0,
        help="of each training, the making of the fixed set left out",
    )
    parser.add_argument("--fixed", type=positive, default=1_000_000, help="galaxies of the fixed set")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants to train")


def changed(config: PosteriorConfig, changes: dict[str, Any], minutes: float) -> PosteriorConfig:
    """The configuration with some fields of its flow or its training replaced."""
    values = config.model_dump()
    values["training"] |= {"max_minutes": minutes}
    for key, value in changes.items():
        next(part for part in (values["flow"], values["training"], values) if key in part)[key] = value
    values.pop("simulation_file")
    return PosteriorConfig.model_validate(values)


def train(config: PosteriorConfig, bands: TrainedBands | None, n_fixed: int | None) -> dict[str, Any]:
    """Figures of one training, on fresh galaxies or on a fixed number of them, held out on the stream's own."""
    with training_stream(config) as (stream, transform, pairs):
        galaxies = stream.validation()
        validation = pairs(galaxies)
        trainer = FlowTrainer(config.flow, config.training)
        if n_fixed is None:
            result = trainer.fit_stream(lambda index: pairs(stream.chunk(index)), validation=validation)
        else:
            chunks = [pairs(stream.chunk(index)) for index in range(-(-n_fixed // stream.simulation.n_galaxies))]
            result = trainer.fit_stream(lambda index: chunks[index % len(chunks)], validation=validation)
    last = result.history[-1]
    whole: ConditionalFlow = result.flow
    if bands is not None and config.amplitudes is not None:
        whole = bands.complete(result.flow, transform, stream.simulation)
    # What burst fraction and mass add, if they were not learnt, is the same for every flow of the others.
    log_prob = whole.log_prob(joint_points(galaxies, stream.simulation, config), validation[1])
    # One galaxy where the emulator of the bands fails must not decide alone.
    nats = -float(log_prob[np.isfinite(log_prob)].mean())
    added = nats - result.best_validation_nll
    return {
        "held_out_nats": nats,
        "last_held_out_nats": last["validation_nll"] + added,
        "training_nats": last["train_nll"] + added,
        "n_seen": result.n_seen,
        "impossible": int(np.count_nonzero(~np.isfinite(log_prob))),
        "galaxies_per_s": result.n_seen / (60 * last["minutes"]),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train every variant for `--minutes`."""
    base = load_config(options.config, PosteriorConfig)
    bands = train_bands(base)
    found = {}
    for name in options.only:
        n_fixed = options.fixed if name == "a fixed set" else None
        found[name] = train(changed(base, VARIANTS[name], options.minutes), bands, n_fixed)
        note(f"{name}: {found[name]['held_out_nats']:.3f} nats held out")
    head = ("variant", "held out, nats", "in the last epoch", "training", "galaxies seen", "impossible", "galaxies/s")
    table(head, [(name, *figures.values()) for name, figures in found.items()])
    return {"minutes": options.minutes, "n_fixed": options.fixed, "variants": found}
