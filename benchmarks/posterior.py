"""Speed of the flow: sampling beside TFP's, log-probabilities, latencies, training, and inferring real galaxies."""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import BUNDLED, Stopwatch, add_repeats, note, positive
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.config import parse_config
from sedcast.data.tensorflow import import_tensorflow
from sedcast.posterior.conditional_flow import ConditionalFlow
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_tensorflow import as_tfp_distribution
from sedcast.posterior.flow_training import FlowTrainer, FlowTrainingConfig
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.made import FlowConfig, initial_parameters, parameter_masks, permutations

_TFP = "TFP sampling, "
_AS_IT_COMES = "as it comes"
_SURVEY_GALAXIES = 33_884
_SURVEY_SAMPLES = 10_000
_SHAPE = {"n_blocks", "hidden", "activation", "embedding", "choice", "n_options", "transform"}


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
    parser.add_argument("--activation", choices=("relu", "tanh", "elu", "silu"), default="silu", help="of the flow of --flow")
    parser.add_argument("--galaxies", type=positive, default=10, help="real galaxies a sampling call")
    parser.add_argument("--samples", type=positive, default=1000, help="samples a galaxy")
    parser.add_argument("--batch", type=positive, default=1024, help="galaxies a training step")
    parser.add_argument("--steps", type=positive, default=100, help="training steps an epoch; each epoch is a repeat")
    parser.add_argument("--catalog", type=positive, default=1000, help="real galaxies in the catalogue, inferred once")
    parser.add_argument("--survey", type=positive, default=200, help="real galaxies of 10,000 samples each, drawn once")


def untrained(config: FlowConfig, like: ConditionalFlow) -> MaskedAutoregressiveFlow:
    """A flow of another shape with random weights, of all parameters, for the same context."""
    arrays = {name: array for name, array in like.trained.to_arrays().items() if name in ("context_mean", "context_std")}
    arrays |= {"theta_mean": np.zeros(like.dim), "theta_std": np.ones(like.dim)}
    arrays |= {"permutation": permutations(config, like.dim)}
    return MaskedAutoregressiveFlow(config, arrays | initial_parameters(config, like.dim, like.n_context))


def tfp_samplers(flow: MaskedAutoregressiveFlow, context: np.ndarray, n_samples: int) -> dict[str, Callable[[], object]]:
    """The same samples by TFP: as it comes, and compiled in both of TensorFlow's ways."""
    tf, _ = import_tensorflow()
    # All choices take TFP as long.
    distribution = as_tfp_distribution(flow, context, np.ones(len(context)))
    compiled = {
        f"{_TFP}{name}": tf.function(lambda: distribution.sample(n_samples), jit_compile=jit)
        for name, jit in (("tf.function", False), ("XLA", True))
    }
    return {_TFP + _AS_IT_COMES: lambda: distribution.sample(n_samples)} | compiled


def flop_per_sample(flow: MaskedAutoregressiveFlow) -> tuple[int, int]:
    """Floating-point operations of the weights that the masks leave, and of all weights, masked ones included.

    Two per weight; neither the context's weights, used once per galaxy, nor activations and exponentials count.
    """
    masks = parameter_masks(flow.config, flow.n_real).values()
    left, every = sum(int(mask.sum()) for mask in masks), sum(mask.size for mask in masks)
    return 2 * flow.config.n_blocks * left, 2 * flow.config.n_blocks * every


def train_rates(flow: MaskedAutoregressiveFlow, options: argparse.Namespace) -> list[float]:
    """Galaxies per second in each epoch but the first, which compiles."""
    rng = np.random.default_rng(options.seed)
    n = options.batch * options.steps
    theta = rng.standard_normal((n, flow.dim), dtype=np.float32)
    context = rng.standard_normal((n, flow.n_context), dtype=np.float32)
    context[:, : flow.dim] += theta[:, : flow.n_context]
    if flow.config.choice:
        theta[:, -1] = rng.integers(flow.config.n_options, size=n)
    training = FlowTrainingConfig(
        batch_size=options.batch, max_epochs=options.repeats + 1, patience=options.repeats + 1, seed=options.seed
    )
    trainer = FlowTrainer(flow.config, training, progress=lambda all_: note(f"  {all_[-1]['galaxies_per_s']:,.0f} galaxies/s"))
    validation = theta[: options.batch], context[: options.batch]
    result = trainer.fit_stream(lambda _: (theta, context), validation=validation)
    return [record["galaxies_per_s"] for record in result.history[1:]]


def inferable(estimator: PosteriorEstimator) -> Catalog:
    """The galaxies of the bundled sample that the estimator can answer for."""
    catalog = load_sdss_sample(bands=estimator.bands)
    return catalog.subset(estimator.status(catalog).ok)


def catalog_seconds(estimator: PosteriorEstimator, catalog: Catalog, options: argparse.Namespace) -> float:
    """Seconds for a file of samples, derived properties and summaries of the catalogue."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "posteriors.h5"
        # The first call fills the caches of cosmology and bases.
        for rows in (slice(2), slice(None)):
            part = catalog.subset(rows)
            started = time.perf_counter()
            infer_catalog(estimator, part, output, n_samples=options.samples, n_threads=options.threads, overwrite=True)
    return time.perf_counter() - started


def survey_figures(estimator: PosteriorEstimator, catalog: Catalog, options: argparse.Namespace) -> dict[str, Any]:
    """The time of 33,884 galaxies of 10,000 samples each, the published catalogue's, from that of fewer galaxies."""
    started, busy = time.perf_counter(), time.process_time()
    for first in range(0, len(catalog), 10):
        observed = estimator.observed(catalog, slice(first, first + 10))
        estimator.sample_unbounded(*observed, _SURVEY_SAMPLES, seed=options.seed, n_threads=options.threads)
    times = _SURVEY_GALAXIES / len(catalog)
    return {
        "survey_wall_hours": (time.perf_counter() - started) * times / 3600,
        "survey_cpu_hours": (time.process_time() - busy) * times / 3600,
        "survey_from_samples": len(catalog) * _SURVEY_SAMPLES,
    }


def time_calls(estimator: PosteriorEstimator, catalog: Catalog, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of single calls, timed in rounds with TFP's and the matrix product."""
    flow, learnt, n, threads = estimator.flow, estimator.flow.trained, options.samples, options.threads

    def to_theta(n_galaxies: int) -> Callable[[], object]:
        rows = catalog.subset(np.arange(n_galaxies) % len(catalog))
        photometry = rows.flux, rows.flux_ivar, rows.zred
        return lambda: estimator.sample(*photometry, n, seed=options.seed, n_threads=threads)

    few = catalog.subset(slice(options.galaxies))
    observed = estimator.observed(few, slice(None))
    context = estimator.context(*observed)
    theta = flow.sample(context, n, seed=options.seed)
    tfp = tfp_samplers(learnt, context, n)
    tasks: dict[str, Callable[[], object]] = {
        "sampling": lambda: estimator.sample_unbounded(*observed, n, seed=options.seed, n_threads=threads),
        "sampling by the flow alone": lambda: flow.sample(context, n, seed=options.seed, n_threads=threads),
        "sampling what was learnt": lambda: learnt.sample(context, n, seed=options.seed, n_threads=threads),
        "log-probability": lambda: flow.log_prob(theta, context, n_threads=threads),
        "sampling to theta": to_theta(len(few)),
        "one galaxy": to_theta(1),
        "64 galaxies": to_theta(64),
    }
    watch = Stopwatch(tasks | tfp, repeats=options.repeats)
    per_s = {name: len(few) * n / watch.seconds[name] for name in watch.seconds}
    as_it_comes = per_s.pop(_TFP + _AS_IT_COMES)
    fastest = max((name for name in tfp if name in per_s), key=per_s.__getitem__)
    left, every = flop_per_sample(learnt)
    of_learnt = per_s["sampling what was learnt"]
    return {
        "samples_per_s": per_s["sampling"],
        "flow_samples_per_s": per_s["sampling by the flow alone"],
        "learnt_samples_per_s": of_learnt,
        "tfp_samples_per_s": per_s[fastest],
        "tfp_compiled_by": fastest.removeprefix(_TFP),
        "tfp_as_it_comes_per_s": as_it_comes,
        "sampling_over_tfp": of_learnt / per_s[fastest],
        "theta_samples_per_s": per_s["sampling to theta"],
        "log_prob_per_s": per_s["log-probability"],
        "one_galaxy_ms": 1e3 * watch.seconds["one galaxy"],
        "batch64_ms": 1e3 * watch.seconds["64 galaxies"],
        "gemm_fraction": left * of_learnt / watch.gemm_flop_per_s,
        "gemm_fraction_of_all_weights": every * of_learnt / watch.gemm_flop_per_s,
        "flop_per_sample": left,
        "flop_per_sample_of_all_weights": every,
        "gemm_flop_per_s": watch.gemm_flop_per_s,
        "n_galaxies": len(few),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time calls in rounds, then what takes long: the catalogue, the survey, training."""
    started = time.perf_counter()
    estimator = PosteriorEstimator.find(options.posterior)
    load_s = time.perf_counter() - started
    catalog = inferable(estimator)
    if options.flow:
        shape = {"n_blocks": options.flow[0], "hidden": options.flow[1:], "activation": options.activation}
        config = parse_config(shape, FlowConfig, "--flow")
        estimator = replace(estimator, flow=untrained(config, estimator.flow))
    flow = estimator.flow
    figures = time_calls(estimator, catalog, options)
    many, surveyed = catalog.subset(slice(options.catalog)), catalog.subset(slice(options.survey))
    note(f"  a catalogue of {len(many)} galaxies")
    seconds = catalog_seconds(estimator, many, options)
    note(f"  {len(surveyed)} galaxies of {_SURVEY_SAMPLES:,} samples")
    survey = survey_figures(estimator, surveyed, options)
    note("  training")
    return {
        "load_s": load_s,
        **figures,
        "catalog_seconds": seconds,
        "catalog_galaxies_per_s": len(many) / seconds,
        **survey,
        "train_per_s": float(np.median(train_rates(flow.trained, options))),
        "flow": {
            "untrained": bool(options.flow),
            **flow.config.model_dump(include=_SHAPE),
            "learnt_parameters": flow.trained.n_real,
        },
        "n_samples": options.samples,
        "n_catalog": len(many),
        "batch": options.batch,
        "repeats": options.repeats,
    }
