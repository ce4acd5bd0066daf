"""Speed of the flow: sampling beside TFP's, training, and inferring a catalogue of real galaxies."""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import BUNDLED, Stopwatch, add_repeats, note, positive
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.config import parse_config
from sedcast.data.tensorflow import import_tensorflow
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_training import FlowTrainer, FlowTrainingConfig, as_tfp_distribution
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.made import FlowConfig, initial_parameters, parameter_masks, permutations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_repeats(parser)
    parser.add_argument("--posterior", default=BUNDLED, metavar="FILE", help="artifact of a posterior estimator")
    parser.add_argument(
        "--flow",
        type=positive,
        nargs="+",
        metavar="N",
        help="an untrained flow of so many blocks and these hidden widths, for example 8 256 256, in place of the artifact's",
    )
    parser.add_argument("--galaxies", type=positive, default=10, help="real galaxies a sampling call")
    parser.add_argument("--samples", type=positive, default=1000, help="samples a galaxy")
    parser.add_argument("--batch", type=positive, default=1024, help="galaxies a training step")
    parser.add_argument("--steps", type=positive, default=100, help="training steps an epoch; each epoch is a repeat")
    parser.add_argument("--catalog", type=positive, default=1000, help="real galaxies in the catalogue")


def untrained(config: FlowConfig, like: MaskedAutoregressiveFlow) -> MaskedAutoregressiveFlow:
    """A flow of another shape with random weights, for the same parameters and context."""
    arrays = like.to_arrays() | initial_parameters(config, like.dim, like.n_context)
    return MaskedAutoregressiveFlow(config, arrays | {"permutation": permutations(config, like.dim)})


def tfp_samplers(flow: MaskedAutoregressiveFlow, context: np.ndarray, n_samples: int) -> dict[str, Callable[[], object]]:
    """The same samples by TFP, compiled in both of TensorFlow's ways."""
    tf, _ = import_tensorflow()
    distribution = as_tfp_distribution(flow, context)
    return {
        f"TFP sampling, {name}": tf.function(lambda: distribution.sample(n_samples), jit_compile=jit)
        for name, jit in (("tf.function", False), ("XLA", True))
    }


def train_rates(flow: MaskedAutoregressiveFlow, options: argparse.Namespace) -> list[float]:
    """Galaxies per second in each epoch but the first, which compiles."""
    rng = np.random.default_rng(options.seed)
    n = options.batch * options.steps
    theta = rng.standard_normal((n, flow.dim), dtype=np.float32)
    context = rng.standard_normal((n, flow.n_context), dtype=np.float32)
    context[:, : flow.dim] += theta[:, : flow.n_context]
    training = FlowTrainingConfig(
        batch_size=options.batch, max_epochs=options.repeats + 1, patience=options.repeats + 1, seed=options.seed
    )
    trainer = FlowTrainer(flow.config, training, progress=lambda record: note(f"  {record['galaxies_per_s']:,.0f} galaxies/s"))
    validation = theta[: options.batch], context[: options.batch]
    result = trainer.fit_stream(lambda _: (theta, context), validation=validation)
    return [record["galaxies_per_s"] for record in result.history[1:]]


def inferable(estimator: PosteriorEstimator) -> Catalog:
    """The galaxies of the bundled sample that the estimator can answer for."""
    catalog = load_sdss_sample(bands=estimator.bands)
    return catalog.subset(estimator.status(catalog).ok)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time sampling in rounds with TFP's and the matrix product, then the catalogue, then training."""
    estimator = PosteriorEstimator.default() if options.posterior == BUNDLED else PosteriorEstimator.load(options.posterior)
    catalog = inferable(estimator)
    few, many = catalog.subset(slice(options.galaxies)), catalog.subset(slice(options.catalog))
    if options.flow:
        config = parse_config({"n_blocks": options.flow[0], "hidden": options.flow[1:]}, FlowConfig, "--flow")
        estimator = replace(estimator, flow=untrained(config, estimator.flow))
    flow = estimator.flow
    context = estimator.context(few.flux, few.flux_ivar, few.zred)
    n, threads = options.samples, options.threads
    photometry = few.flux, few.flux_ivar, few.zred
    tfp = tfp_samplers(flow, context, n)
    tasks: dict[str, Callable[[], object]] = {
        "sampling": lambda: flow.sample(context, n, seed=options.seed, n_threads=threads),
        "sampling to theta": lambda: estimator.sample(*photometry, n, seed=options.seed, n_threads=threads),
    }
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "posteriors.h5"
        tasks["catalogue"] = lambda: infer_catalog(estimator, many, output, n_samples=n, n_threads=threads)
        watch = Stopwatch(tasks | tfp, repeats=options.repeats)
    note("  training")
    rates = train_rates(flow, options)
    per_s = {name: len(few) * n / watch.seconds[name] for name in watch.seconds}
    fastest = min(tfp, key=lambda name: watch.seconds[name])
    masks = parameter_masks(flow.config, flow.dim)
    flop = 2 * flow.config.n_blocks * sum(int(mask.sum()) for mask in masks.values())
    return {
        "samples_per_s": per_s["sampling"],
        "tfp_samples_per_s": per_s[fastest],
        "tfp_compiled_by": fastest.removeprefix("TFP sampling, "),
        "sampling_over_tfp": per_s["sampling"] / per_s[fastest],
        "theta_samples_per_s": per_s["sampling to theta"],
        "train_per_s": float(np.median(rates)),
        "catalog_galaxies_per_s": len(many) / watch.seconds["catalogue"],
        "gemm_fraction": flop * per_s["sampling"] / watch.gemm_flop_per_s,
        "flop_per_sample": flop,
        "gemm_flop_per_s": watch.gemm_flop_per_s,
        "flow": {"untrained": bool(options.flow), **flow.config.model_dump(include={"n_blocks", "hidden", "activation"})},
        "n_galaxies": len(few),
        "n_samples": n,
        "n_catalog": len(many),
        "batch": options.batch,
        "repeats": options.repeats,
    }
