"""Training of the small emulator of a few bands on galaxies as they are observed."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sedcast.data.config import Config
from sedcast.data.errors import ParameterError, SedcastError
from sedcast.data.filters import band_name
from sedcast.data.sfh_bases import N_SFH_BASES
from sedcast.data.tensorflow import import_tensorflow
from sedcast.emulator.band_emulator import MAX_LOG, BandEmulator, network_widths
from sedcast.emulator.histories import burst_fraction, column
from sedcast.emulator.prior import Prior
from sedcast.emulator.soap import Soap
from sedcast.emulator.spectrum_emulator import SpectrumEmulator

__all__ = ["BandGalaxies", "BandTrainingConfig", "train_band_emulator"]

logger = logging.getLogger(__name__)

_STEPS_PER_CALL = 100
_WARMUP_STEPS = 200
_FINAL_RATE = 0.01
_AVERAGE_DECAY = 0.998
_CLIP_NORM = 1.0
# Few bursts are young, and those change fastest: so many of each batch are, with these ages.
_YOUNG_SHARE, _YOUNG_GYR = 0.3, 0.7
_LEAST_LOG = -80.0

Width = Annotated[int, Field(ge=1)]


class BandTrainingConfig(Config):
    """The small emulator of the bands, and how it is trained.

    Attributes
    ----------
    n_galaxies : to train on; of more than 131,072, as many times 131,072 as hold them, 1,048,576 for 1,000,000.
    hidden, burst_hidden : widths of the hidden layers of the network of the SFH bases, and of the burst's.
    steps, batch_size : of the optimiser (SOAP).
    learning_rate : its highest rate, which falls along a cosine.
    seed : of galaxies, weights and batches.
    """

    n_galaxies: Annotated[int, Field(ge=100)] = 1_000_000
    hidden: Annotated[tuple[Width, ...], Field(min_length=1)] = (96, 96)
    burst_hidden: Annotated[tuple[Width, ...], Field(min_length=1)] = (128, 128)
    steps: Annotated[int, Field(ge=1)] = 12_000
    batch_size: Annotated[int, Field(ge=1)] = 4096
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class BandGalaxies:
    """Galaxies as they are observed.

    Attributes
    ----------
    theta : (n, 12) parameters.
    zred : (n,) redshifts.
    unit_flux : (n, n_band) noiseless fluxes per solar mass formed, nanomaggies.
    signal_to_noise : (n, n_band) noiseless fluxes over the errors, 0 where a band is not measured.
    """

    theta: np.ndarray
    zred: np.ndarray
    unit_flux: np.ndarray
    signal_to_noise: np.ndarray

    def check(self, bands: tuple[str, ...]) -> None:
        """Raise a ParameterError if shapes disagree, there is no galaxy, or a band is dark in all of them."""
        shapes = [self.unit_flux.shape, self.signal_to_noise.shape]
        expected = (len(self.zred), len(bands))
        if shapes != [expected, expected] or len(self.theta) != len(self.zred) or not len(self.zred):
            raise ParameterError(
                f"galaxies have fluxes and signal-to-noise ratios of shapes {shapes}, expected {expected} of both"
            )
        dark = [band for band, flux in zip(bands, self.unit_flux.T, strict=True) if not (flux > 0).any()]
        if dark:
            raise ParameterError(f"no galaxy has light in {', '.join(dark)}: leave the band out, or lower zred.max")

    def columns(self, emulator: BandEmulator) -> list[np.ndarray]:
        """What the graph takes: inputs, shares of the components, ln of fluxes over the emulator's scale, signal-to-noise."""
        inputs = emulator.inputs(self.theta, self.zred)
        f_burst = burst_fraction(self.theta, emulator.cosmology.age_gyr(self.zred))
        with np.errstate(divide="ignore"):
            ratio = np.maximum(np.log(self.unit_flux) - inputs.log_scale, _LEAST_LOG)
        others = [BandEmulator.shares(self.theta, f_burst), ratio, self.signal_to_noise]
        return [inputs.history, inputs.burst, inputs.node, inputs.share, *(values.astype(np.float32) for values in others)]


def train_band_emulator(
    config: BandTrainingConfig,
    emulator: SpectrumEmulator,
    bands: tuple[str, ...],
    *,
    training: "BandGalaxies",
    held_out: "BandGalaxies",
    prior: Prior,
    zred_range: tuple[float, float],
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> tuple[BandEmulator, dict[str, float]]:
    """Fit a band emulator to fluxes of a spectrum emulator, errors being measured in units of the galaxies' noise.

    Parameters
    ----------
    config : what to train, and how.
    emulator : whose model it is.
    bands : band names, or paths of a user's own filter curves, which become their names.
    training, held_out : galaxies with these bands, to train on and to test on.
    prior : parameter ranges to serve.
    zred_range : redshifts to serve.
    progress : called as (steps done, steps, figures).

    Returns
    -------
    emulator, figures : the emulator, and what it is worth on the galaxies held out: the mean χ² that its errors add
        (``chi2``), the 99th percentile of abs(Δm) in mag where the signal-to-noise ratio exceeds 3, worst band (``p99_mag``).

    Raises
    ------
    ParameterError : if shapes disagree, there are no galaxies, or a band is dark in all of them.
    SedcastError : if the training diverges.
    """
    names = tuple(band_name(band) for band in bands)
    for galaxies in (training, held_out):
        galaxies.check(names)
    fixed = BandEmulator.blank(emulator, bands, prior, zred_range)
    rng = np.random.default_rng([config.seed, 0])
    weights = _initial(config, fixed, len(bands), rng)
    blank = BandEmulator(names, prior, emulator.cosmology, fixed | weights | {"base": np.zeros(len(bands))})
    lit = np.where(training.unit_flux > 0, training.unit_flux, np.nan)
    fixed["base"] = np.nanmedian(np.log(lit) - blank.inputs(training.theta, training.zred).log_scale, axis=0)
    blank = replace(blank, arrays=fixed | weights)
    young = np.flatnonzero(training.theta[:, column("tburst")] < _YOUNG_GYR)
    graph = _Graph(config, weights, training.columns(blank), len(bands))
    began = time.monotonic()
    for done in range(0, config.steps, _STEPS_PER_CALL):
        steps = np.arange(done, min(done + _STEPS_PER_CALL, config.steps))
        rows = rng.integers(len(training.zred), size=(len(steps), config.batch_size), dtype=np.int32)
        if len(young):
            chosen = rng.random(rows.shape) < _YOUNG_SHARE
            rows[chosen] = rng.choice(young, np.count_nonzero(chosen))
        cosine = _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + np.cos(np.pi * steps / config.steps))
        loss = graph.steps(rows, config.learning_rate * cosine * np.minimum((steps + 1) / _WARMUP_STEPS, 1))
        if not np.isfinite(loss):
            raise SedcastError(f"training of the band emulator diverged at step {done}: lower its learning_rate")
        if progress is not None:
            progress(int(steps[-1]) + 1, config.steps, {"train": loss})
    residual = graph.residual(held_out.columns(blank))
    strong = held_out.signal_to_noise > 3
    magnitude = 2.5 / np.log(10) * np.abs(residual) / np.where(strong, held_out.signal_to_noise, np.inf)
    p99 = [float(np.quantile(magnitude[strong[:, b], b], 0.99)) for b in range(len(bands)) if strong[:, b].any()]
    figures = {
        "chi2": float(np.mean(np.sum(residual**2, axis=1))),
        "p99_mag": max(p99, default=float("nan")),
        "n_galaxies": len(training.zred),
        "steps": config.steps,
        "seconds": time.monotonic() - began,
    }
    logger.info("band emulator: mean chi-squared %.4f, 99%% of errors below %.4f mag", figures["chi2"], figures["p99_mag"])
    return replace(blank, arrays=fixed | graph.averages()), figures


def _initial(
    config: BandTrainingConfig, fixed: dict[str, np.ndarray], n_band: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random first weights."""
    hidden = {"history": config.hidden, "burst": config.burst_hidden}
    weights = {}
    for name, (n_input, n_output) in network_widths(fixed, n_band).items():
        widths = (n_input, *hidden[name], n_output)
        for k, (n_in, n_out) in enumerate(pairwise(widths)):
            scale = 0.05 if k == len(widths) - 2 else np.sqrt(2 / n_in)
            weights[f"{name}_kernel_{k}"] = (scale * rng.standard_normal((n_in, n_out))).astype(np.float32)
            weights[f"{name}_bias_{k}"] = np.zeros(n_out, np.float32)
    ages = 0.3 * rng.standard_normal((len(fixed["age_nodes"]), config.burst_hidden[0]))
    return weights | {"burst_ages": ages.astype(np.float32)}


class _Graph:
    """The compiled training steps; `data` are the columns of inputs, shares, targets and signal-to-noise ratios."""

    def __init__(self, config: BandTrainingConfig, weights: dict[str, np.ndarray], data: list[np.ndarray], n_band: int) -> None:
        self._tf, _ = import_tensorflow()
        tf = self._tf
        self._n_band = n_band
        self._depth = {"history": len(config.hidden), "burst": len(config.burst_hidden)}
        self._weights = {name: tf.Variable(value) for name, value in weights.items()}
        self._averages = {name: tf.Variable(value) for name, value in weights.items()}
        self._soap = Soap(list(self._weights.values()), second_decay=0.98, observe=4, refresh=20)
        self._data = [tf.constant(values) for values in data]
        self._steps = tf.function(self._run, reduce_retracing=True)

    def averages(self) -> dict[str, np.ndarray]:
        return {name: variable.numpy() for name, variable in self._averages.items()}

    def steps(self, rows: np.ndarray, rates: np.ndarray) -> float:
        """One step for each row of `rows` (n_step, batch); returns the mean loss."""
        return float(self._steps(self._tf.constant(rows), self._tf.constant(rates.astype(np.float32)))) / len(rates)

    def residual(self, columns: list[np.ndarray]) -> np.ndarray:
        """Errors of the averaged weights in units of the noise, (n, n_band), of galaxies' columns."""
        found = self._residual(self._averages, [self._tf.constant(values) for values in columns])
        return np.asarray(found.numpy(), dtype=float)

    def _run(self, rows: Any, rates: Any) -> Any:
        tf, total = self._tf, self._tf.constant(0.0)
        for index in tf.range(tf.shape(rates)[0]):
            total += self._one_step([tf.gather(values, rows[index]) for values in self._data], rates[index])
        return total

    def _one_step(self, batch: list[Any], rate: Any) -> Any:
        tf = self._tf
        with tf.GradientTape() as tape:
            # Its logarithm, lest the few worst decide.
            loss = tf.reduce_mean(tf.math.log1p(tf.reduce_sum(self._residual(self._weights, batch) ** 2, axis=1)))
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, list(self._weights.values()))]
        gradients, _ = tf.clip_by_global_norm(gradients, _CLIP_NORM)
        self._soap.apply(gradients, rate)
        step = tf.cast(self._soap.step, tf.float32)
        decay = tf.minimum(_AVERAGE_DECAY, step / (9 + step))
        for name, average in self._averages.items():
            average.assign(decay * average + (1 - decay) * self._weights[name])
        return loss

    def _residual(self, weights: dict[str, Any], batch: list[Any]) -> Any:
        tf = self._tf
        history, burst, node, share, shares, ratio, signal = batch
        ages = weights["burst_ages"]
        first = (1 - share)[:, None] * tf.gather(ages, node) + share[:, None] * tf.gather(ages, node + 1)
        parts = [
            tf.reshape(self._network(weights, "history", history, 0.0), [-1, N_SFH_BASES, self._n_band]),
            self._network(weights, "burst", burst, first)[:, None],
        ]
        light = tf.exp(tf.clip_by_value(tf.concat(parts, axis=1), -MAX_LOG, MAX_LOG))
        found = tf.math.log(tf.reduce_sum(light * shares[:, :, None], axis=1))
        return (tf.exp(tf.clip_by_value(found - ratio, -10.0, 3.0)) - 1) * signal

    def _network(self, weights: dict[str, Any], name: str, inputs: Any, first: Any) -> Any:
        tf = self._tf
        hidden = tf.matmul(inputs, weights[f"{name}_kernel_0"]) + weights[f"{name}_bias_0"] + first
        for k in range(1, self._depth[name] + 1):
            hidden = tf.matmul(tf.nn.silu(hidden), weights[f"{name}_kernel_{k}"]) + weights[f"{name}_bias_{k}"]
        return hidden
