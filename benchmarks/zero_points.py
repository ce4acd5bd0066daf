"""Does a zero point that is off show? Offsets planted in mocks and in real galaxies, and what these show as they are."""

import argparse
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.common import note, table
from benchmarks.galex import quantities
from benchmarks.gas import gas_libraries
from sedcast.data.asinh import asinh_magnitude
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.simulation import PhotometrySimulator, noiseless_flux
from sedcast.emulator.sps import SPSModel
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.outlier_training import (
    OutlierScorer,
    draw_like_training,
    predict,
    training_simulation,
    training_simulator,
)
from sedcast.posterior.outliers import FALSE_ALARM_RATE, MISFIT_SAMPLES, misfit
from sedcast.posterior.zero_points import zero_point_offsets

_OFFSETS = (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2)
_N_MOCKS = 300
_N_SAMPLES = 16
_N_GALAXIES = 300
_ZRED_EDGES = (0.0, 0.03, 0.05, 0.07, 0.09, 0.3)
"""Hα leaves r for i between 0.05 and 0.07."""
_RESULTS = ("log_mstar", "log_sfr_1gyr", "log_z_mw", "a_v")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="bundled", help="artifact of a posterior for known redshifts, or 'bundled'")
    parser.add_argument("--gas", action="store_true", help="look instead at what ionised gas does to the SDSS sample's offsets")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Offsets of every band where none is planted, and of the planted band elsewhere; or with and without ionised gas."""
    estimator = PosteriorEstimator.find(options.model)
    simulator = training_simulator(estimator)
    sample = estimator.select(load_sdss_sample(bands=estimator.bands))
    figures: dict[str, Any] = {"model": estimator.name}
    if options.gas:
        return figures | {"gas": _gas(estimator, simulator, sample, options)}
    drawn = draw_like_training(estimator, simulator, _N_MOCKS, seed=options.seed + 1)
    mocks = Catalog(np.arange(_N_MOCKS), estimator.bands, drawn.flux, drawn.flux_ivar, drawn.zred)
    figures |= {"as they are": {}, "planted": {}}
    rows = []
    for name, catalog in {"mocks": mocks, **dict(_kinds(sample))}.items():
        found = zero_point_offsets(estimator, simulator, catalog, seed=options.seed)
        figures["as they are"][name] = found.to_json_dict()
        worst = found.worst
        gain = "" if worst is None else f"{found.bands[worst]} {found.gain[worst]:.2f}"
        rows.append((name, found.n_galaxies, *(f"{offset:+.3f}" for offset in found.offset), gain))
    table(("as they are", "galaxies", *estimator.bands, "most gained by, nats a galaxy"), rows)
    rows = []
    for band in estimator.bands:
        for offset in _OFFSETS:
            note(f"  {band} {offset:+g}")
            row: list[Any] = [band, offset]
            for name, catalog in {"mocks": mocks, "SDSS sample": sample}.items():
                found = zero_point_offsets(estimator, simulator, _moved(catalog, band, offset), seed=options.seed)
                b, said = estimator.bands.index(band), " ".join(found.suspects)
                figures["planted"][f"{name} {band} {offset:+g}"] = {"offset_mag": float(found.offset[b]), "warned_of": said}
                row += [found.offset[b], said]
            rows.append(tuple(row))
    table(("band", "planted", "mocks: found", "warned of", "SDSS sample: found", "warned of"), rows)
    return figures


def _gas(
    estimator: PosteriorEstimator, simulator: PhotometrySimulator, sample: Catalog, options: argparse.Namespace
) -> dict[str, Any]:
    """Offsets of the sample as it is and without the light that ionised gas has in its samples, and how well samples fit it."""
    zred_max = training_simulation(estimator).zred.max
    with_gas = {
        name: PhotometrySimulator(SPSModel(library, dtype=np.float32), estimator.bands, zred_max)
        for name, library in {"stars": SSPLibrary.popstar(), **gas_libraries()}.items()
    }
    scorer = OutlierScorer(estimator)
    figures: dict[str, Any] = {}
    rows: list[tuple[Any, ...]] = []
    results: list[tuple[Any, ...]] = []
    for kind, catalog in _kinds(sample):
        ok = np.flatnonzero(estimator.status(catalog).ok)
        if "g-i" not in kind or not len(ok):
            continue
        chosen = catalog.subset(ok[np.linspace(0, len(ok) - 1, min(len(ok), _N_GALAXIES)).round().astype(int)])
        points = estimator.draw(chosen.flux, chosen.flux_ivar, chosen.zred, _N_SAMPLES, seed=options.seed).points
        finite = np.isfinite(points).all(axis=(1, 2))
        chosen, points = chosen.subset(finite), points[finite]
        theta = estimator.to_theta(points).reshape(-1, len(PARAMETER_NAMES))
        light = {
            name: noiseless_flux(model, theta, chosen.zred.repeat(_N_SAMPLES), n_threads=options.threads)
            for name, model in with_gas.items()
        }
        brighter = {
            name: (2.5 * np.log10(flux / light["stars"])).reshape(*points.shape[:2], -1) for name, flux in light.items()
        }
        figures[kind] = {}
        for name, delta in brighter.items():
            mean = delta.mean(axis=1)
            factor = 10 ** (-0.4 * mean)
            bare = Catalog(chosen.ids, chosen.bands, chosen.flux * factor, chosen.flux_ivar / factor**2, chosen.zred)
            found = zero_point_offsets(estimator, simulator, bare, seed=options.seed)
            observed = bare.flux, bare.flux_ivar, bare.zred
            drawn = estimator.draw(*observed, MISFIT_SAMPLES, seed=options.seed)
            chi2 = np.nanmedian(misfit(predict(estimator, simulator, drawn.points, bare.zred), bare.flux, bare.flux_ivar))
            score = scorer(*observed, drawn, seed=options.seed, row_keys=np.arange(len(bare))).score
            of_all = dict(zip(estimator.bands, mean.mean(axis=0).tolist(), strict=True))
            inferred = _inferred(estimator, drawn.points, bare.zred)
            if name == "stars":
                before = inferred
                spread = {quantity: float(np.nanmedian(np.std(values, axis=1))) for quantity, values in inferred.items()}
            shift = {
                quantity: float(np.nanmedian(np.median(values, axis=1) - np.median(before[quantity], axis=1)))
                for quantity, values in inferred.items()
            }
            figures[kind][name] = {
                "brighter_mag": of_all,
                "offsets": found.to_json_dict(),
                "misfit": float(chi2),
                "flagged": float(np.mean(score <= FALSE_ALARM_RATE)),
                "shift": shift,
                "posterior_std": spread,
            }
            what = "as they are" if name == "stars" else f"without {name}"
            rows.append((f"{kind}, {what}", len(bare), *(f"{offset:+.3f}" for offset in found.offset), float(chi2)))
            moved = [f"{shift[quantity]:+.3f} ({spread[quantity]:.2f})" for quantity in _RESULTS]
            results.append((f"{kind}, {what}", f"{figures[kind][name]['flagged']:.3f}", *moved))
            if name != "stars":
                rows.append((f"    brightness of {name}", "", *(f"{magnitudes:.3f}" for magnitudes in of_all.values()), ""))
    table(("", "galaxies", *estimator.bands, "χ² of samples, median"), rows)
    table(("shift of medians (posterior's σ)", "flagged", *_RESULTS), results)
    return figures


def _inferred(estimator: PosteriorEstimator, points: np.ndarray, zred: np.ndarray) -> dict[str, np.ndarray]:
    """`_RESULTS` of samples, (n, n_samples) each; NaN of a galaxy without any."""
    finite = np.isfinite(points).all(axis=(1, 2))
    found = {name: np.full(points.shape[:2], np.nan) for name in _RESULTS}
    for name, values in quantities(estimator, estimator.to_theta(points[finite]), zred[finite], _RESULTS).items():
        found[name][finite] = values
    return found


def _kinds(sample: Catalog) -> Iterator[tuple[str, Catalog]]:
    magnitude = asinh_magnitude(sample.flux, np.full(len(sample.bands), 1e-3))
    g, r, i = (magnitude[:, sample.bands.index(band)] for band in "gri")
    yield "SDSS sample", sample
    blue = (g - i >= 0.7) & (g - i < 1.1)
    kinds = {
        "g-i < 0.7": g - i < 0.7,
        "g-i 0.7 … 1.1": blue,
        "g-i > 1.1": g - i >= 1.1,
        "r < 16": r < 16,
        "r > 17.5": r > 17.5,
        "z < 0.03": sample.zred < 0.03,
        "z > 0.15": sample.zred > 0.15,
    }
    for low, high in pairwise(_ZRED_EDGES):
        kinds[f"g-i 0.7 … 1.1, z {low} … {high}"] = blue & (sample.zred >= low) & (sample.zred < high)
    if "NUV" in sample.bands:
        measured = sample.flux_ivar[:, sample.bands.index("NUV")] > 0
        kinds |= {"g-i 0.7 … 1.1, NUV measured": blue & measured, "g-i > 1.1, NUV measured": (g - i >= 1.1) & measured}
    for name, chosen in kinds.items():
        yield f"SDSS, {name}", sample.subset(chosen)


def _moved(catalog: Catalog, band: str, offset: float) -> Catalog:
    factor = np.where(np.array(catalog.bands) == band, 10 ** (0.4 * offset), 1.0)
    return Catalog(catalog.ids, catalog.bands, catalog.flux * factor, catalog.flux_ivar / factor**2, catalog.zred)
