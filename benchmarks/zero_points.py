"""Does a zero point that is off show? Offsets planted in mocks and in real galaxies, and what these show as they are."""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.common import note, table
from sedcast.data.asinh import asinh_magnitude
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.outlier_training import draw_like_training, training_simulator
from sedcast.posterior.zero_points import zero_point_offsets

_OFFSETS = (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2)
_N_MOCKS = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="bundled", help="artifact of a posterior for known redshifts, or 'bundled'")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Offsets of every band where none is planted, and of the planted band elsewhere."""
    estimator = PosteriorEstimator.find(options.model)
    simulator = training_simulator(estimator)
    drawn = draw_like_training(estimator, simulator, _N_MOCKS, seed=options.seed + 1)
    mocks = Catalog(np.arange(_N_MOCKS), estimator.bands, drawn.flux, drawn.flux_ivar, drawn.zred)
    sample = estimator.select(load_sdss_sample(bands=estimator.bands))
    figures: dict[str, Any] = {"model": estimator.name, "as they are": {}, "planted": {}}
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


def _kinds(sample: Catalog) -> Iterator[tuple[str, Catalog]]:
    magnitude = asinh_magnitude(sample.flux, np.full(len(sample.bands), 1e-3))
    g, r, i = (magnitude[:, sample.bands.index(band)] for band in "gri")
    yield "SDSS sample", sample
    kinds = {
        "g-i < 0.7": g - i < 0.7,
        "g-i 0.7 … 1.1": (g - i >= 0.7) & (g - i < 1.1),
        "g-i > 1.1": g - i >= 1.1,
        "r < 16": r < 16,
        "r > 17.5": r > 17.5,
        "z < 0.03": sample.zred < 0.03,
        "z > 0.15": sample.zred > 0.15,
    }
    for name, chosen in kinds.items():
        yield f"SDSS, {name}", sample.subset(chosen)


def _moved(catalog: Catalog, band: str, offset: float) -> Catalog:
    factor = np.where(np.array(catalog.bands) == band, 10 ** (0.4 * offset), 1.0)
    return Catalog(catalog.ids, catalog.bands, catalog.flux * factor, catalog.flux_ivar / factor**2, catalog.zred)
