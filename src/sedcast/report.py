"""One self-contained HTML file about a file of posteriors: the sample, chosen galaxies, diagnostics and provenance."""

import base64
import io
import json
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure

from sedcast.data.artifacts import atomic_path
from sedcast.data.errors import ParameterError
from sedcast.data.filters import flux_density
from sedcast.emulator.histories import BETA, GAMMA, HistoryGrid, burst_fraction, column
from sedcast.emulator.simulate import PhotometrySimulator
from sedcast.plotting import corner_plot, mass_sfr_plane, sed_plot
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.infer import PosteriorCatalog

__all__ = ["history_plot", "write_report"]

_CORNER = ("log_mstar", "log_sfr_1gyr", "log_z_mw", "t_mw_gyr", "dust2", "dust_index")
_N_PREDICTED = 300


def write_report(
    posteriors: PosteriorCatalog,
    estimator: PosteriorEstimator,
    simulator: PhotometrySimulator,
    output: str | Path,
    *,
    rows: Sequence[int] = (),
) -> None:
    """Write the report: pictures are in the file, which needs no network, and text from the catalogue is escaped.

    Parameters
    ----------
    posteriors : an open file.
    estimator, simulator : those that the posteriors were made with.
    output : HTML file to write.
    rows : row numbers of the galaxies to show one by one.

    Raises
    ------
    ParameterError : if a row is not there or has no posterior, or the bands are not those of the file.
    """
    if simulator.bands != posteriors.bands:
        raise ParameterError(f"the model's bands {simulator.bands} are not those of the file, {posteriors.bands}")
    for row in rows:
        if not 0 <= row < len(posteriors):
            raise ParameterError(f"row {row}: the file has rows 0 … {len(posteriors) - 1}")
        if posteriors.status[row]:
            raise ParameterError(f"row {row} has no posterior: {posteriors.status[row]}")
    kinds = Counter(part for flags in posteriors.flags for part in str(flags).split("; ") if part)
    excluded = Counter(str(reason) for reason in posteriors.status if reason)
    inferred = int(np.count_nonzero(posteriors.status == ""))
    page = Environment(autoescape=True).from_string((files("sedcast") / "report.html.j2").read_text(encoding="utf-8"))
    text = page.render(
        title=f"Posteriors of {len(posteriors):,} galaxies",
        counts=[
            ("galaxies", len(posteriors)),
            ("with a posterior", inferred),
            *((f"flagged: {flag}", count) for flag, count in kinds.most_common(20)),
            *((f"excluded: {reason}", count) for reason, count in excluded.most_common(20)),
        ],
        pictures=_sample_pictures(posteriors) if inferred else [],
        galaxies=[_galaxy(posteriors, estimator, simulator, row) for row in rows],
        diagnostics=_diagnostics(posteriors),
        provenance=[(name, json.dumps(value)) for name, value in posteriors.provenance.items()],
    )
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _sample_pictures(posteriors: PosteriorCatalog) -> list[tuple[str, str]]:
    table = posteriors.summary()
    good = table[table["status"] == ""]
    zred = np.asarray(good["zred_p50"] if "zred_p50" in good.colnames else good["zred"])
    plane = mass_sfr_plane(np.asarray(good["log_mstar_p50"]), np.asarray(good["log_sfr_1gyr_p50"]))
    histogram = Figure(figsize=(6.2, 3.0), layout="constrained")
    axes = histogram.subplots()
    axes.hist(zred, bins=40, color="#0072B2")
    axes.set(xlabel="redshift", ylabel="galaxies")
    return [("Stellar mass and star-formation rate of the sample", _png(plane)), ("Redshifts", _png(histogram))]


def _galaxy(
    posteriors: PosteriorCatalog, estimator: PosteriorEstimator, simulator: PhotometrySimulator, row: int
) -> dict[str, Any]:
    samples, theta = posteriors.samples(row), posteriors.theta(row).astype(float)
    zred = np.asarray(samples["zred"], dtype=float) if "zred" in samples else np.full(len(theta), posteriors.zred[row])
    shown, at = slice(0, _N_PREDICTED), float(np.median(zred))
    model = simulator.model
    wave, spectra = flux_density(model.spectra(theta[shown], zred[shown]), model.wave_rest, at, estimator.cosmology)
    sed = sed_plot(
        simulator.bands,
        posteriors.flux[row],
        posteriors.flux_ivar[row],
        predicted_flux=simulator.flux(theta[shown], zred[shown]),
        wave_obs=wave,
        predicted_spectrum=spectra,
    )
    corner = corner_plot({"posterior": np.stack([samples[name] for name in _CORNER], axis=1)}, _CORNER)
    intervals = {name: np.percentile(values, [16, 50, 84]) for name, values in samples.items()}
    return {
        "title": f"Galaxy {posteriors.ids[row]}, row {row}, z = {at:.4f}",
        "facts": [
            ("flags", posteriors.flags[row] or "none"),
            *((name, f"{q[1]:.4g}  (68%: {q[0]:.4g} to {q[2]:.4g})") for name, q in intervals.items()),
        ],
        "pictures": [
            ("Observed and predicted photometry, spectrum", _png(sed)),
            ("Corner plot of the posterior", _png(corner)),
            ("Star-formation and metallicity histories", _png(history_plot(theta, at, estimator))),
        ],
    }


def history_plot(theta: np.ndarray, zred: float, estimator: PosteriorEstimator) -> Figure:
    """Star-formation rate (burst included) and metallicity against lookback time: medians, 68% and 95% bands.

    Parameters
    ----------
    theta : (n_sample, 12) posterior samples.
    zred : redshift of the galaxy, which sets its age.
    estimator : whose bases and cosmology the histories have.
    """
    grid = HistoryGrid(estimator.bases)
    age = estimator.cosmology.age_gyr(np.full(len(theta), zred))
    burst, time = burst_fraction(theta, age)[:, None], theta[:, column("tburst")]
    masses = (1 - burst) * grid.masses(theta[:, BETA], age)
    within = np.clip(np.searchsorted(grid.edges_gyr, time, side="right") - 1, 0, grid.n_bin - 1)
    masses[np.arange(len(theta)), within] += burst[:, 0]
    # Four bins of 0.1 dex at once, or a burst would be a spike as high as its bin is narrow.
    last = int(grid.closing_bin(age)[0][0])
    starts = np.arange(0, last + 1, 4)
    edges = np.append(grid.edges_gyr[starts], age[0])
    formed = np.add.reduceat(masses[:, : last + 1], starts, axis=1)
    rate = formed * 10 ** theta[:, [column("log_mstar")]] / (np.diff(edges) * 1e9)
    metallicity = np.log10(grid.metallicities(theta[:, GAMMA], age)[:, : last + 1])
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    low95, low, median, high, high95 = np.percentile(rate, [2.5, 16, 50, 84, 97.5], axis=0)
    upper.stairs(high95, edges, baseline=low95, fill=True, color="#0072B2", alpha=0.2, label="95%")
    upper.stairs(high, edges, baseline=low, fill=True, color="#0072B2", alpha=0.35, label="68%")
    upper.stairs(median, edges, baseline=None, color="#0072B2", label="median")
    upper.set(ylabel=r"SFR [M$_\odot$ yr$^{-1}$]")
    upper.legend(frameon=False, fontsize=9)
    bands = np.percentile(metallicity, [2.5, 16, 50, 84, 97.5], axis=0)
    centres = np.append(grid.centres_gyr[:last], grid.closing_bin(age)[1][0])
    lower.fill_between(centres, bands[0], bands[4], color="#0072B2", alpha=0.2, linewidth=0)
    lower.fill_between(centres, bands[1], bands[3], color="#0072B2", alpha=0.35, linewidth=0)
    lower.plot(centres, bands[2], color="#0072B2")
    lower.set(ylabel=r"$\log_{10} Z$", xlabel="lookback time [Gyr]", xlim=(0, age[0]))
    return figure


def _diagnostics(posteriors: PosteriorCatalog) -> list[tuple[str, str]]:
    score = posteriors.score[np.isfinite(posteriors.score)]
    found = [("rows with an outlier score", f"{len(score)}")]
    if len(score):
        found.append(("outlier score, 1%, 50%", ", ".join(f"{q:.3g}" for q in np.percentile(score, [1, 50]))))
    for name, values in posteriors.refinement.items():
        if values.dtype.kind == "f" and np.isfinite(values).any():
            found.append((f"{name}, 5%, 50%, 95%", ", ".join(f"{q:.3g}" for q in np.nanpercentile(values, [5, 50, 95]))))
    return found
