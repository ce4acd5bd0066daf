"""`sedcast report`: one HTML file about a file of posteriors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sedcast.cli_common import MOCK_SEED, Overwrite, check_writable, load_posterior, make_screen

if TYPE_CHECKING:
    from sedcast.console import Screen
    from sedcast.emulator.simulation import PhotometrySimulator, SimulationConfig
    from sedcast.posterior.calibration import CalibrationResult
    from sedcast.posterior.estimator import PosteriorEstimator

__all__ = ["report"]

_N_SAMPLES = 100


def report(
    posteriors: Annotated[Path, typer.Argument(metavar="POSTERIORS", help="File that 'sedcast infer' wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path("report.html"),
    rows: Annotated[
        str | None,
        typer.Option(help="Row numbers of galaxies to show one by one, such as 0,5,12. Default: the first three posteriors."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The posterior that made the file; a bundled one is known."),
    ] = None,
    n_mocks: Annotated[
        int, typer.Option("--mocks", min=0, help="Mocks on which the posterior's calibration is shown; 0 leaves that out.")
    ] = 500,
    overwrite: Overwrite = False,
) -> None:
    """Write a self-contained HTML report: the sample, chosen galaxies, diagnostics and provenance."""
    screen = make_screen()
    import numpy as np

    from sedcast.data.errors import ParameterError
    from sedcast.posterior.calibration import LEAST_MOCKS
    from sedcast.posterior.estimator import bundled_posteriors
    from sedcast.posterior.outlier_training import training_simulation, training_simulator
    from sedcast.posterior.posterior_catalog import read_posteriors
    from sedcast.report import write_report

    if output.suffix not in (".html", ".htm"):
        raise ParameterError(f"-o {output}: expected a name that ends in .html")
    check_writable(output, overwrite=overwrite)
    if 0 < n_mocks < LEAST_MOCKS:
        raise ParameterError(f"--mocks {n_mocks}: expected at least {LEAST_MOCKS}, or 0 for a report without them")
    with read_posteriors(posteriors) as held:
        made_by = held.provenance["estimator"]
        estimator = load_posterior(model or (made_by["name"] if made_by["name"] in bundled_posteriors() else "bundled"))
        if made_by["sha256"] != estimator.card.get("sha256"):
            raise ParameterError(f"{posteriors} was made by another posterior, {made_by['name']!r}: give its file with --model")
        try:
            good = np.flatnonzero(held.status == "")[:3].tolist()
            chosen = good if rows is None else [int(row) for row in rows.split(",")]
        except ValueError as error:
            raise ParameterError(f"--rows {rows!r}: expected row numbers with commas between them, such as 0,5") from error
        simulator, settings = training_simulator(estimator), training_simulation(estimator)
        calibration = _calibration(estimator, simulator, settings, n_mocks, screen) if n_mocks else None
        write_report(held, estimator, simulator, output, rows=chosen, calibration=calibration)
    screen.note(f"wrote {output}")


def _calibration(
    estimator: "PosteriorEstimator",
    simulator: "PhotometrySimulator",
    settings: "SimulationConfig",
    n_mocks: int,
    screen: "Screen",
) -> "CalibrationResult":
    from sedcast.emulator.simulation import noise_model
    from sedcast.posterior.calibration import calibrate
    from sedcast.posterior.mocks import draw_mocks

    with screen.progress("testing the posterior on mocks") as progress:
        mocks = draw_mocks(n_mocks, simulator, estimator, noise_model(settings), seed=MOCK_SEED)
        return calibrate(estimator, mocks, n_samples=_N_SAMPLES, seed=MOCK_SEED, progress=progress)
