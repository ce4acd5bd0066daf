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

from sedcast.data.artifacts import output_path
from sedcast.data.catalog import Catalog
from sedcast.data.checks import check_kind, whole_number
from sedcast.data.errors import ParameterError
from sedcast.data.outputs import write_text
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.plotting import corner_plot, mass_sfr_plane, own_style, sed_plot
from sedcast.plotting_calibration import pp_plot, sbc_plot, tarp_plot
from sedcast.plotting_model import history_plot
from sedcast.posterior.calibration import CalibrationResult
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import rows_at_most
from sedcast.posterior.posterior_catalog import PosteriorCatalog
from sedcast.posterior.quantities import SHOWN_QUANTITIES, description, percentile_column, table_cells
from sedcast.posterior.row_reasons import count_reasons
from sedcast.posterior.zero_points import zero_point_offsets
from sedcast.sampled_seds import sampled_seds

__all__ = ["write_report"]

_N_PREDICTED = 300


def write_report(
    posteriors: PosteriorCatalog,
    estimator: PosteriorEstimator,
    simulator: PhotometrySimulator,
    output: str | Path,
    *,
    rows: Sequence[int] = (),
    calibration: CalibrationResult | None = None,
    overwrite: bool = False,
) -> None:
    """Write the report: pictures are in the file, which needs no network, and text from the catalogue is escaped.

    Parameters
    ----------
    posteriors : an open file.
    estimator, simulator : those that the posteriors were made with.
    output : HTML file to write.
    rows : row numbers of the galaxies to show one by one.
    calibration : of the estimator on mocks, to be shown among the diagnostics.
    overwrite : whether a file that is there may be replaced.

    Raises
    ------
    ParameterError : if a row is not there or has no posterior, the bands are not those of the file, or `output` is there
        and may not be replaced.
    """
    output = output_path(output, overwrite=overwrite)
    check_kind("posteriors", posteriors, PosteriorCatalog, "read_posteriors(path) opens one")
    check_kind("estimator", estimator, PosteriorEstimator, "the one that the posteriors were made with")
    check_kind("simulator", simulator, PhotometrySimulator, "training_simulator(estimator) makes that of the training")
    if calibration is not None:
        check_kind("calibration", calibration, CalibrationResult, "calibrate(estimator, mocks, seed=1) makes one")
    if np.ndim(rows) != 1:
        raise ParameterError(f"rows={rows!r}: expected a sequence of row numbers, such as [0, 1]")
    rows = [whole_number("row", row, least=0) for row in rows]
    if simulator.bands != posteriors.bands:
        raise ParameterError(f"the model's bands {simulator.bands} are not those of the file, {posteriors.bands}")
    for row in rows:
        if row >= len(posteriors):
            raise ParameterError(f"row {row}: the file has rows 0 … {len(posteriors) - 1}")
        if posteriors.status[row]:
            raise ParameterError(f"row {row} has no posterior: {posteriors.status[row]}")
    kinds = Counter(part for flags in posteriors.flags for part in str(flags).split("; ") if part)
    excluded = count_reasons(posteriors.status)
    inferred = excluded.pop("", 0)
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
        diagnostics=_diagnostics(posteriors, estimator, simulator, calibration),
        calibration=[] if calibration is None else _calibration_pictures(calibration),
        provenance=[(name, json.dumps(value)) for name, value in posteriors.provenance.items() if value != ""],
    )
    write_text(output, text if text.endswith("\n") else f"{text}\n")


@own_style
def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


@own_style
def _sample_pictures(posteriors: PosteriorCatalog) -> list[tuple[str, str]]:
    table = posteriors.summary()
    good = table[table["status"] == ""]
    zred = np.asarray(good["zred_p50"] if "zred_p50" in good.colnames else good["zred"])
    mass, sfr = (np.stack([good[percentile_column(name, q)] for q in (16, 50, 84)]) for name in ("log_mstar", "log_sfr_1gyr"))
    plane = mass_sfr_plane(mass[1], sfr[1], log_mstar_error=np.ptp(mass, axis=0) / 2, log_sfr_error=np.ptp(sfr, axis=0) / 2)
    histogram = Figure(figsize=(6.2, 3.0), layout="constrained")
    axes = histogram.subplots()
    axes.hist(zred, bins=40, color="#0072B2")
    axes.set(xlabel="redshift", ylabel="galaxies")
    return [("Stellar mass formed and star-formation rate of the sample", _png(plane)), ("Redshifts", _png(histogram))]


def _galaxy(
    posteriors: PosteriorCatalog, estimator: PosteriorEstimator, simulator: PhotometrySimulator, row: int
) -> dict[str, Any]:
    # Half precision keeps neither the prior's ranges nor its sums.
    samples, theta = posteriors.samples(row), estimator.prior.validate(posteriors.theta(row))
    redshifts = estimator.redshift_prior
    zred = np.full(len(theta), posteriors.zred[row]) if redshifts is None else redshifts.in_range(samples["zred"])
    shown, at = rows_at_most(len(theta), _N_PREDICTED), float(np.median(zred))
    sed = sed_plot(
        posteriors.flux[row],
        posteriors.flux_ivar[row],
        predicted=sampled_seds(simulator, theta[shown], zred[shown]),
    )
    pictures = [("Observed and predicted photometry, spectrum", _png(sed))]
    # Fewer samples than panels on a side have no contours.
    names = [*SHOWN_QUANTITIES, *(["zred"] if "zred" in samples else [])]
    if len(theta) > len(names):
        stacked = np.stack([samples[name] for name in names], axis=1)
        pictures.append(
            ("Corner plot of the posterior, 68% and 95% of the samples", _png(corner_plot({"posterior": stacked}, names)))
        )
    history = history_plot(theta, at, estimator.bases, estimator.cosmology)
    pictures.append(("Star-formation and metallicity histories", _png(history)))
    intervals = {name: np.percentile(values, [16, 50, 84]) for name, values in samples.items()}
    return {
        "title": f"Galaxy {posteriors.ids[row]}, row {row}, {'' if redshifts is None else 'inferred '}z = {at:.4f}",
        "facts": [("flags", posteriors.flags[row] or "none")],
        "intervals": [
            (f"{name}: {description(name)}", "{1}  (68%: {0} to {2})".format(*table_cells(name, q)))
            for name, q in intervals.items()
        ],
        "pictures": pictures,
    }


def _calibration_pictures(result: CalibrationResult) -> list[tuple[str, str]]:
    return [
        ("p–p plot of the posterior on mocks", _png(pp_plot(result.pit, result.names))),
        ("Ranks of the mocks' true parameters", _png(sbc_plot(result.pit, result.names))),
        ("Expected coverage on mocks (TARP)", _png(tarp_plot(result.tarp, len(result.pit)))),
    ]


def _diagnostics(
    posteriors: PosteriorCatalog,
    estimator: PosteriorEstimator,
    simulator: PhotometrySimulator,
    calibration: CalibrationResult | None,
) -> list[tuple[str, str]]:
    score = posteriors.score[np.isfinite(posteriors.score)]
    found = [("rows with an outlier score", f"{len(score)}")]
    if len(score):
        found.append(("outlier score, 1%, 50%", ", ".join(f"{q:.3g}" for q in np.percentile(score, [1, 50]))))
    weights = {"efficiency": posteriors.efficiency, "log evidence": posteriors.log_evidence}
    for name, values in (posteriors.refinement or weights).items():
        if values.dtype.kind == "f" and np.isfinite(values).any():
            found.append((f"{name}, 5%, 50%, 95%", ", ".join(f"{q:.3g}" for q in np.nanpercentile(values, [5, 50, 95]))))
    observed = Catalog(posteriors.ids, posteriors.bands, posteriors.flux, posteriors.flux_ivar, posteriors.zred)
    offsets = zero_point_offsets(estimator, simulator, observed)
    found += [
        (f"zero point of {band} beside the other bands, mag", "beyond ±0.5, or another band's is") for band in offsets.far
    ]
    for band, known in offsets.to_json_dict().items():
        offset = "{offset_mag:+.3f} ± {error_mag:.3f}, gains {gain_nats:.2f} nats a galaxy".format(**known)
        found.append((f"zero point of {band} beside the other bands, mag", offset))
    if calibration is not None:
        figures = calibration.to_json_dict()
        found.append(("mocks of the calibration below", f"{len(calibration.pit):,}"))
        # Each family is corrected by itself.
        for words, of_others in (("uniform ranks", False), ("ranks of the other derived quantities", True)):
            least = min(p for name, p in figures["ks_p_holm"].items() if (name in calibration.others) is of_others)
            found.append((f"smallest p-value of {words}, after Holm", f"{least:.2g}"))
    return found
