"""Redshifts inferred from photometry beside the spectroscopic ones of the bundled SDSS sample.

Once with the posterior as trained, whose prior has redshift and mass independent, so that a magnitude says nothing of the
redshift; once with samples reweighted to constant density in comoving volume and a measured mass function.
"""

import argparse
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note, positive, table
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.plotting_photoz import photoz_plot
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.photoz import RedshiftFigures, redshift_figures
from sedcast.posterior.reweight import LogDensity, PriorModel, reweight_to
from sedcast.posterior.row_reasons import AT_EDGE, redshift_at_edge

_ROWS_PER_BLOCK = 256
_COLUMNS = ("n", "bias", "sigma_nmad", "outliers_5", "outliers_15", "sigma_median", "coverage_68", "ks")
_MIN_GALAXIES = 20
_RETURNED = 0.4
"""Share of the mass formed that is returned: mass functions count what survives."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="sdss-photoz", help="posterior that infers the redshift")
    parser.add_argument("--samples", type=positive, default=400, help="posterior samples per galaxy")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture to write, such as docs/images/photoz.png")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Figures over the sample's galaxies in the prior's range of redshift, all and unflagged, and by magnitude and redshift."""
    estimator = PosteriorEstimator.find(options.model)
    if not estimator.infers_redshift:
        raise ParameterError(f"--model {options.model} takes the redshift as given: train one with redshift = 'inferred'")
    catalog = estimator.select(load_sdss_sample(bands=estimator.bands))
    status = estimator.status(catalog)
    rows = np.flatnonzero(status.ok & np.isfinite(catalog.zred))
    rows, zred, weighted, ess = _samples(estimator, catalog, rows, options.samples, options.seed)
    spec, (low, high) = catalog.zred[rows], estimator.zred_range
    edge = redshift_at_edge(estimator.zred_range, zred)
    flagged = (status.flags[rows] != "") | edge
    inside = (spec >= low) & (spec <= high)
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
    groups = {name: of for name, of in groups.items() if of.sum() >= _MIN_GALAXIES}
    found = {name: redshift_figures(zred[of], spec[of], seed=options.seed) for name, of in groups.items()}
    found_weighted = {name: redshift_figures(weighted[of], spec[of], seed=options.seed) for name, of in groups.items()}
    constant = _always_median_of_prior(estimator, spec[inside])
    for title, kind in (("the posterior as trained", found), ("reweighted to a mass function", found_weighted)):
        note(f"{title}:")
        table(("galaxies", *_COLUMNS), [(name, *(getattr(one, column) for column in _COLUMNS)) for name, one in kind.items()])
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        second = options.plot.with_name(f"{options.plot.stem}_reweighted{options.plot.suffix}")
        for path, kind in ((options.plot, found), (second, found_weighted)):
            photoz_plot(kind["all"], spec[inside], estimator.zred_range).savefig(path)
            note(f"wrote {path}")
    beyond = ~inside
    return {
        "model": estimator.name,
        "trained_on": estimator.card.get("figures", {}).get("n_train"),
        "n_sample": len(catalog),
        "n_not_inferred": int(np.count_nonzero(np.isfinite(catalog.zred))) - len(rows),
        "n_beyond_prior": int(beyond.sum()),
        "beyond_prior_at_edge": float(edge[beyond].mean()) if beyond.any() else None,
        "at_edge": float(edge[inside].mean()),
        "flagged": float(flagged[inside].mean()),
        "flags": dict(
            Counter(AT_EDGE if at else flag for at, flag in zip(edge, status.flags[rows], strict=True) if at or flag)
        ),
        **found["all"].to_json_dict(),
        "sigma_nmad_of_prior_median": constant.sigma_nmad,
        "outliers_5_of_prior_median": constant.outliers_5,
        "groups": {name: one.to_json_dict() for name, one in found.items()},
        "reweighted": {name: one.to_json_dict() for name, one in found_weighted.items()},
        "reweighted_ess_median": float(np.median(ess)),
        "reweighted_sigma_nmad": found_weighted["all"].sigma_nmad,
        "reweighted_outliers_5": found_weighted["all"].outliers_5,
    }


def _samples(
    estimator: PosteriorEstimator, catalog: Catalog, rows: np.ndarray, n_samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows (n,) that have samples; their redshifts (n, n_samples), and reweighted; the weights' effective numbers (n,)."""
    model, wanted = PriorModel.of(estimator), _mass_function_prior(estimator.cosmology, estimator.zred_range)
    zred, weighted = np.empty((2, len(rows), n_samples), dtype=np.float32)
    ess = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        block = rows[start : start + _ROWS_PER_BLOCK]
        points = estimator.sample_unbounded(*estimator.observed(catalog, block), n_samples, seed=seed, row_keys=block)
        zred[start : start + len(block)] = estimator.redshifts(points, None)
        for row, theta in enumerate(estimator.to_theta(points), start=start):
            if np.isnan(theta).any():
                zred[row] = np.nan
                continue
            new = reweight_to(theta, wanted, ("log_mstar", "zred"), model=model, zred=zred[row])
            weighted[row], ess[row] = zred[row, new.resample(n_samples, seed + row)], new.ess
    known = ~np.isnan(zred).any(axis=1)
    return rows[known], zred[known], weighted[known], ess[known]


def _mass_function_prior(cosmology: Cosmology, zred_range: tuple[float, float]) -> LogDensity:
    """Constant density in comoving volume, and the mass function of Baldry et al. 2012, arXiv:1111.5707, without evolution."""
    grid = np.linspace(*zred_range, 500)
    comoving = cosmology.luminosity_distance_cm(grid) / (1 + grid)
    log_volume = 2 * np.log(comoving) + np.log(np.gradient(comoving, grid))

    def log_density(columns: Mapping[str, np.ndarray]) -> np.ndarray:
        mass = 10 ** (columns["log_mstar"] + np.log10(1 - _RETURNED) - 10.66)
        number = np.log(3.96 * mass ** (1 - 0.35) + 0.79 * mass ** (1 - 1.47)) - mass
        return number + np.interp(columns["zred"], grid, log_volume)

    return log_density


def _always_median_of_prior(estimator: PosteriorEstimator, spec: np.ndarray) -> RedshiftFigures:
    """What the prior alone achieves."""
    assert estimator.redshift_prior is not None
    return redshift_figures(np.full((len(spec), 1), estimator.redshift_prior.quantile(np.array(0.5))), spec)
