"""Whether the model spans real galaxies: prior colours and best fits beside the bundled SDSS sample."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note, positive, provabgs_folder, table
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import Prior
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.sps import SPSModel

ZRED_MAX = 0.3
_NEAR = 0.01
_WAVES = (2000.0, 12_000.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=positive, default=40_000, help="prior draws, at redshifts of the sample")
    parser.add_argument("--fits", type=positive, default=300, help="galaxies for which the best of the draws is sought")
    parser.add_argument("--published", type=Path, help="folder of the published PROVABGS bases, to set beside the bundled ones")


def coverage(bases: SFHBases, options: argparse.Namespace) -> dict[str, Any]:
    """Shares of real colours beyond the prior's 0.1–99.9% range, and the best χ² among prior draws of free mass."""
    sample = load_sdss_sample()
    good = sample.ok & (sample.zred < ZRED_MAX) & (sample.flux > 0).all(axis=1)
    flux, sigma, zred = sample.flux[good], sample.sigma[good], sample.zred[good]
    model = SPSModel(SSPLibrary.popstar().trimmed(*_WAVES), bases, dtype=np.float32)
    rng = np.random.default_rng(options.seed)
    theta, z = Prior().sample(options.draws, rng), rng.choice(zred, options.draws)
    mock = PhotometrySimulator(model, sample.bands, ZRED_MAX).flux(theta, z, n_threads=options.threads)
    colours, mock_colours = (2.5 * np.diff(np.log10(values), axis=1) for values in (flux, mock))
    low, high = np.percentile(mock_colours, [0.1, 99.9], axis=0)
    missed = ((colours < low) | (colours > high)).mean(axis=0)
    best, mass = [], []
    for row in rng.choice(len(zred), min(options.fits, len(zred)), replace=False):
        near = np.abs(z - zred[row]) < _NEAR
        weight = sigma[row] ** -2
        scale = (mock[near] * flux[row] * weight).sum(axis=1) / (mock[near] ** 2 * weight).sum(axis=1)
        chi2 = ((flux[row] - scale[:, None] * mock[near]) ** 2 * weight).sum(axis=1)
        best.append(chi2.min())
        mass.append(theta[near][chi2.argmin(), 0] + np.log10(scale[chi2.argmin()]))
    ssfr = derived_properties(theta, z, bases, model.cosmology)["log_ssfr_1gyr"]
    names = [f"{blue}-{red}" for blue, red in zip(sample.bands[:-1], sample.bands[1:], strict=True)]
    return {
        "missed_fraction": dict(zip(names, missed.tolist(), strict=True)),
        "best_chi2_p50_p95": np.percentile(best, [50, 95]).tolist(),
        "log_mstar_p01_p50_p99": np.percentile(mass, [1, 50, 99]).tolist(),
        "prior_log_ssfr_p05_p50_p95": np.percentile(ssfr, [5, 50, 95]).tolist(),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Coverage by the bundled bases and, where their folder is given, by the published ones."""
    sets = {"bundled": SFHBases.default()}
    if options.published is not None:
        sets["published"] = SFHBases.from_published(provabgs_folder(options.published))
    results = {}
    for name, bases in sets.items():
        note(f"  {name} bases")
        results[name] = coverage(bases, options)
        table(("colour", "real galaxies beyond the prior's 99.8%"), list(results[name]["missed_fraction"].items()))
    return {"n_draws": options.draws, **results}
