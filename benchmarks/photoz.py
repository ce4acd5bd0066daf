"""Redshifts inferred from photometry beside the spectroscopic ones of the bundled SDSS sample."""

import argparse
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note, positive, table
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.errors import ParameterError
from sedcast.plotting_photoz import photoz_plot
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.infer import AT_EDGE, redshift_at_edge
from sedcast.posterior.photoz import RedshiftFigures, redshift_figures

_ROWS_PER_BLOCK = 256
_COLUMNS = ("n", "bias", "sigma_nmad", "outliers_5", "outliers_15", "sigma_median", "coverage_68", "ks")
_MIN_GALAXIES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="FILE", help="artifact of a posterior with redshift = 'inferred'")
    parser.add_argument("--samples", type=positive, default=400, help="posterior samples per galaxy")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture to write, such as docs/images/photoz.png")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Figures over the sample's galaxies in the prior's range of redshift, all and unflagged, and by magnitude and redshift."""
    estimator = PosteriorEstimator.load(options.model)
    if not estimator.infers_redshift:
        raise ParameterError(f"--model {options.model} takes the redshift as given: train one with redshift = 'inferred'")
    catalog = estimator.select(load_sdss_sample(bands=estimator.bands))
    status = estimator.status(catalog)
    rows = np.flatnonzero(status.ok & np.isfinite(catalog.zred))
    zred = _samples(estimator, catalog, rows, options.samples, options.seed)
    spec, (low, high) = catalog.zred[rows], estimator.zred_range
    edge = redshift_at_edge(estimator.zred_range, zred)
    flagged = (status.flags[rows] != "") | edge
    inside = (spec >= low) & (spec <= high)
    everything = redshift_figures(zred[inside], spec[inside], seed=options.seed)
    magnitude = 22.5 - 2.5 * np.log10(np.maximum(catalog.flux[rows, estimator.bands.index("r")], 1e-3))
    groups = {"all": inside, "not flagged": inside & ~flagged}
    for name, value, edges in (
        ("r", magnitude, (16.0, 17.0, 17.8)),
        ("z_spec", spec, (0.05, 0.1, 0.15, 0.2)),
        ("median z", np.median(zred, axis=1), (0.05, 0.1, 0.15, 0.2)),
    ):
        limits = (-np.inf, *edges, np.inf)
        for least, most in pairwise(limits):
            groups[f"{name} {least:g} … {most:g}"] = inside & (value >= least) & (value < most)
    found = {name: redshift_figures(zred[of], spec[of]) for name, of in groups.items() if of.sum() >= _MIN_GALAXIES}
    constant = _always_median_of_prior(estimator, spec[inside])
    table(("galaxies", *_COLUMNS), [(name, *(getattr(one, column) for column in _COLUMNS)) for name, one in found.items()])
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        photoz_plot(everything, spec[inside], estimator.zred_range).savefig(options.plot)
        note(f"wrote {options.plot}")
    beyond = ~inside
    return {
        "model": estimator.name,
        "trained_on": estimator.card.get("figures", {}).get("n_train"),
        "n_sample": len(catalog),
        "n_not_inferred": int(np.count_nonzero(~status.ok)),
        "n_beyond_prior": int(beyond.sum()),
        "beyond_prior_at_edge": float(edge[beyond].mean()) if beyond.any() else None,
        "at_edge": float(edge[inside].mean()),
        "flagged": float(flagged[inside].mean()),
        "flags": dict(
            Counter(AT_EDGE if at else flag for at, flag in zip(edge, status.flags[rows], strict=True) if at or flag)
        ),
        **everything.to_json_dict(),
        "sigma_nmad_of_prior_median": constant.sigma_nmad,
        "outliers_5_of_prior_median": constant.outliers_5,
        "groups": {name: one.to_json_dict() for name, one in found.items()},
    }


def _samples(estimator: PosteriorEstimator, catalog: Catalog, rows: np.ndarray, n_samples: int, seed: int) -> np.ndarray:
    """Redshift samples (n, n_samples) of rows."""
    zred = np.empty((len(rows), n_samples), dtype=np.float32)
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        block = rows[start : start + _ROWS_PER_BLOCK]
        points = estimator.sample_unbounded(*estimator.observed(catalog, block), n_samples, seed=seed, row_keys=block)
        zred[start : start + len(block)] = estimator.redshifts(points, None)
    return zred


def _always_median_of_prior(estimator: PosteriorEstimator, spec: np.ndarray) -> RedshiftFigures:
    """What the prior alone achieves."""
    assert estimator.redshift_prior is not None
    return redshift_figures(np.full((len(spec), 1), estimator.redshift_prior.quantile(np.array(0.5))), spec)
