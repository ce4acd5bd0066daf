"""Whether the model spans real galaxies: prior colours and best fits beside the bundled SDSS sample."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note, positive, provabgs_folder, table
from benchmarks.gas import gas_libraries
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.histories import column, derived_properties
from sedcast.emulator.prior import Prior
from sedcast.emulator.published_provabgs import PublishedProvabgsModel
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.sps import SPSModel

ZRED_MAX = 0.3
_NEAR = 0.01
_WAVES = (2000.0, 12_000.0)
_KINDS = {"g-i 0.7 … 1.1": (0.7, 1.1), "g-i 1.1 … 1.4": (1.1, 1.4)}
_MARGIN = 0.05
"""Of g - i, beyond a kind's range, for mocks that its galaxies are set beside."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=positive, default=40_000, help="prior draws, at redshifts of the sample")
    parser.add_argument("--fits", type=positive, default=300, help="galaxies for which the best of the draws is sought")
    parser.add_argument("--published", type=Path, help="folder of the published PROVABGS bases, to set beside the bundled ones")
    parser.add_argument(
        "--library", default="popstar", help="file of an SSP library, 'popstar', or 'gas': with continuum and lines"
    )
    parser.add_argument(
        "--birth-cloud", type=float, default=0.1, metavar="GYR", help="age up to which stars are in birth clouds"
    )
    parser.add_argument(
        "--no-burst", action="store_true", help="draws without a burst, and with --published those of its emulator too"
    )


def coverage(model: SPSModel | PublishedProvabgsModel, options: argparse.Namespace) -> dict[str, Any]:
    """Shares of real colours beyond the prior's 0.1–99.9% range, and the best χ² among prior draws of free mass."""
    sample = load_sdss_sample()
    good = sample.ok & (sample.zred < ZRED_MAX) & (sample.flux > 0).all(axis=1)
    flux, sigma, zred = sample.flux[good], sample.sigma[good], sample.zred[good]
    rng = np.random.default_rng(options.seed)
    theta, z = Prior().sample(options.draws, rng), rng.choice(zred, options.draws)
    if options.no_burst:
        theta[:, column("fburst")] = 0.0
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
    ssfr = derived_properties(theta, z, model.bases, model.cosmology)["log_ssfr_1gyr"]
    names = [f"{blue}-{red}" for blue, red in zip(sample.bands[:-1], sample.bands[1:], strict=True)]
    noisy = mock * (1 + np.median(sigma / flux, axis=0) * rng.standard_normal(mock.shape))
    seen = (noisy > 0).all(axis=1)
    beside = beside_others(colours, zred, 2.5 * np.diff(np.log10(noisy[seen]), axis=1), z[seen])
    return {
        "missed_fraction": dict(zip(names, missed.tolist(), strict=True)),
        "best_chi2_p50_p95": np.percentile(best, [50, 95]).tolist(),
        "log_mstar_p01_p50_p99": np.percentile(mass, [1, 50, 99]).tolist(),
        "prior_log_ssfr_p05_p50_p95": np.percentile(ssfr, [5, 50, 95]).tolist(),
        "beside_others": {kind: dict(zip(names, pairs, strict=True)) for kind, pairs in beside.items()},
    }


def beside_others(
    colours: np.ndarray, zred: np.ndarray, mock_colours: np.ndarray, mock_zred: np.ndarray
) -> dict[str, list[tuple[float, float]]]:
    """How much redder each colour of real galaxies is than that of mocks with the same other colours and redshift.

    Colours are u-g, g-r, r-i, i-z, (n, 4), the mocks' with noise. By kind and colour: the median, and the mocks' scatter.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for kind, (low, high) in _KINDS.items():
        near, alike = (
            (values[:, 1:3].sum(axis=1) > low - margin) & (values[:, 1:3].sum(axis=1) < high + margin)
            for values, margin in ((colours, 0.0), (mock_colours, _MARGIN))
        )
        found[kind] = []
        for j in range(colours.shape[1]):
            real, mock = (
                np.column_stack([np.delete(values[rows], j, axis=1), z[rows]])
                for values, z, rows in ((colours, zred, near), (mock_colours, mock_zred, alike))
            )
            middle, width = mock.mean(axis=0), mock.std(axis=0)
            terms = _quadratic((mock - middle) / width)
            fitted = np.linalg.lstsq(terms, mock_colours[alike, j], rcond=None)[0]
            scatter = np.std(mock_colours[alike, j] - terms @ fitted)
            offset = np.median(colours[near, j] - _quadratic((real - middle) / width) @ fitted)
            found[kind].append((float(offset), float(scatter)))
    return found


def _quadratic(values: np.ndarray) -> np.ndarray:
    """1, each column, and each product of two, (n, 1 + d + d (d + 1) / 2)."""
    one, two = np.triu_indices(values.shape[1])
    return np.column_stack([np.ones(len(values)), values, values[:, one] * values[:, two]])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Coverage by the bundled bases and, where their folder is given, by the published ones."""
    named = {"popstar": SSPLibrary.popstar, "gas": lambda: gas_libraries()["gas"]}
    library = named.get(options.library, lambda: SSPLibrary.load(options.library))().trimmed(*_WAVES)
    bases = {"bundled": SFHBases.default()}
    if options.published is not None:
        bases["published"] = SFHBases.from_published(provabgs_folder(options.published))
    models: dict[str, SPSModel | PublishedProvabgsModel] = {
        name: SPSModel(library, each, t_birth_cloud_gyr=options.birth_cloud, dtype=np.float32) for name, each in bases.items()
    }
    if options.published is not None and options.no_burst:
        models["published emulator"] = PublishedProvabgsModel.load(provabgs_folder(options.published))
    results = {}
    for name, model in models.items():
        note(f"  {name} bases" if name in bases else f"  {name}")
        results[name] = coverage(model, options)
        table(("colour", "real galaxies beyond the prior's 99.8%"), list(results[name]["missed_fraction"].items()))
        rows = [
            (kind, colour, offset, scatter)
            for kind, pairs in results[name]["beside_others"].items()
            for colour, (offset, scatter) in pairs.items()
        ]
        table(("real galaxies", "colour", "redder than mocks of the same other colours by", "mocks' scatter"), rows)
    return {"n_draws": options.draws, **results}
