"""What do GALEX's bands add? Widths of real galaxies' posteriors and true errors on mocks, with and without FUV and NUV."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note, positive, table, verdict
from sedcast.data.catalog import load_sdss_sample
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.simulation import noise_model
from sedcast.plotting_galex import galex_plot
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.mocks import Mocks, draw_mocks
from sedcast.posterior.outlier_training import training_simulation, training_simulator

QUANTITIES = ("log_mstar", "dust1", "dust2", "dust_index", "log_sfr_1gyr", "log_sfr_100myr", "t_mw_gyr")
_ULTRAVIOLET = ("FUV", "NUV")
_NATS_BAR = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="galex-sdss", help="posterior for any subset of FUV NUV u g r i z")
    parser.add_argument("--dedicated", default="sdss-ugriz", help="posterior that needs every one of u g r i z")
    parser.add_argument("--mocks", type=positive, default=2_000, help="mocks with every band")
    parser.add_argument("--samples", type=positive, default=400, help="posterior samples of each galaxy")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture of widths with and without GALEX")


def _without(flux_ivar: np.ndarray, estimator: PosteriorEstimator) -> np.ndarray:
    """The same inverse variances with FUV and NUV unmeasured."""
    return np.where(np.isin(estimator.bands, _ULTRAVIOLET), 0.0, flux_ivar)


def quantities(
    estimator: PosteriorEstimator, theta: np.ndarray, zred: np.ndarray, names: Sequence[str] = QUANTITIES
) -> dict[str, np.ndarray]:
    """The quantities of `names` of theta (n, m, 12), (n, m) each."""
    flat = theta.reshape(-1, theta.shape[-1])
    derived = derived_properties(flat, np.repeat(zred, theta.shape[1]), estimator.bases, estimator.cosmology)
    columns = dict(zip(PARAMETER_NAMES, flat.T, strict=True)) | derived
    return {name: columns[name].reshape(theta.shape[:2]) for name in names}


def _samples(
    estimator: PosteriorEstimator, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray, options: argparse.Namespace
) -> dict[str, np.ndarray]:
    theta = estimator.sample(flux, flux_ivar, zred, options.samples, seed=options.seed, n_threads=options.threads)
    return quantities(estimator, theta, zred)


def _width(samples: np.ndarray) -> np.ndarray:
    """Half the 68% interval of samples (n, m), (n,)."""
    low, high = np.quantile(samples, [0.16, 0.84], axis=1)
    return np.asarray(high - low) / 2


def widths(estimator: PosteriorEstimator, options: argparse.Namespace) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int]:
    """Of the real galaxies with FUV and NUV: widths without and with them by quantity; and how many galaxies."""
    sample = load_sdss_sample(bands=estimator.bands)
    kept = estimator.status(sample).ok & (sample.flux_ivar > 0).all(axis=1)
    sample = sample.subset(kept)
    without = _samples(estimator, sample.flux, _without(sample.flux_ivar, estimator), sample.zred, options)
    full = _samples(estimator, sample.flux, sample.flux_ivar, sample.zred, options)
    return {name: (_width(without[name]), _width(full[name])) for name in QUANTITIES}, len(sample)


def errors(estimator: PosteriorEstimator, mocks: Mocks, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Root mean square of truth minus median on mocks, by quantity, without and with FUV and NUV; and mean log density."""
    truth = quantities(estimator, mocks.theta[:, None], mocks.zred)
    found: dict[str, dict[str, float]] = {}
    for name, ivar in (("without", _without(mocks.flux_ivar, estimator)), ("with", mocks.flux_ivar)):
        samples = _samples(estimator, mocks.flux, ivar, mocks.zred, options)
        residual = {key: np.median(samples[key], axis=1) - truth[key][:, 0] for key in QUANTITIES}
        found[name] = {key: float(np.sqrt(np.mean(value**2))) for key, value in residual.items()}
        found[name]["log_prob"] = float(estimator.log_prob(mocks.theta, mocks.flux, ivar, mocks.zred).mean())
    return found


def against_dedicated(estimator: PosteriorEstimator, options: argparse.Namespace) -> dict[str, float]:
    """Nats by which a dedicated posterior's log density of the truth exceeds the general one's, on the former's own mocks."""
    dedicated = PosteriorEstimator.find(options.dedicated)
    noise = noise_model(training_simulation(dedicated))
    mocks = draw_mocks(5 * options.mocks, training_simulator(dedicated), dedicated, noise, seed=options.seed + 1)
    columns = [estimator.bands.index(band) for band in dedicated.bands]
    flux, ivar = np.zeros((2, len(mocks), len(estimator.bands)))
    flux[:, columns], ivar[:, columns] = mocks.flux, mocks.flux_ivar
    own = dedicated.log_prob(mocks.theta, mocks.flux, mocks.flux_ivar, mocks.zred)
    figures: dict[str, float] = {"nats_mocks": len(mocks)}
    tested = {"nats_lost": estimator}
    if estimator.flow.general is not estimator.flow:
        tested["nats_lost_without_experts"] = replace(estimator, flow=estimator.flow.general)
    for name, one in tested.items():
        lost = own - one.log_prob(mocks.theta, flux, ivar, mocks.zred)
        figures |= _mean_and_error(name, lost)
    return figures


def _mean_and_error(name: str, values: np.ndarray) -> dict[str, float]:
    return {name: float(values.mean()), f"{name}_error": float(values.std() / np.sqrt(len(values)))}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the same posterior with and without GALEX, and with the one made for u g r i z."""
    estimator = PosteriorEstimator.find(options.model)
    note("  real galaxies")
    real, n_real = widths(estimator, options)
    note("  mocks")
    noise = noise_model(training_simulation(estimator))
    mocks = draw_mocks(options.mocks, training_simulator(estimator), estimator, noise, seed=options.seed)
    found = errors(estimator, mocks, options)
    rows = []
    figures: dict[str, Any] = {"model": estimator.name, "galaxies": n_real, "mocks": len(mocks), "real": {}}
    for name, (without, full) in real.items():
        narrower = float(np.median(full / without))
        figures["real"][name] = {
            "width_without": float(np.median(without)),
            "width_with": float(np.median(full)),
            "median_ratio": narrower,
            "share_narrower": float(np.mean(full < without)),
        }
        ratio = found["with"][name] / found["without"][name]
        rows.append((name, *figures["real"][name].values(), found["without"][name], found["with"][name], ratio))
    head = ("", "width without", "with GALEX", "median ratio", "narrower", "mocks: error without", "with", "ratio")
    table(head, rows)
    figures["mock_errors"] = found
    figures["nats_gained"] = found["with"]["log_prob"] - found["without"]["log_prob"]
    if estimator.flow.general is not estimator.flow:
        data = mocks.flux, mocks.flux_ivar, mocks.zred
        general = replace(estimator, flow=estimator.flow.general)
        gained = estimator.log_prob(mocks.theta, *data) - general.log_prob(mocks.theta, *data)
        figures |= _mean_and_error("nats_of_experts_with_every_band", gained)
    figures |= against_dedicated(estimator, options)
    passed = verdict(figures["nats_lost"] <= _NATS_BAR)
    note(f"  nats lost to {options.dedicated} on its own mocks: {passed} (bar {_NATS_BAR})")
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        galex_plot({name: real[name] for name in ("dust2", "log_sfr_1gyr")}).savefig(options.plot)
    return figures
