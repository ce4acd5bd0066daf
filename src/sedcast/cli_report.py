"""`sedcast report`: one HTML file about a file of posteriors."""

from pathlib import Path
from typing import Annotated

import typer

from sedcast.cli_common import check_writable, make_screen

__all__ = ["report"]


def report(
    posteriors: Annotated[Path, typer.Argument(metavar="POSTERIORS", help="File that 'sedcast infer' wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path("report.html"),
    rows: Annotated[
        str | None,
        typer.Option(help="Row numbers of galaxies to show one by one, such as 0,5,12. Default: the first three posteriors."),
    ] = None,
    model: Annotated[str, typer.Option(metavar="FILE", help="The posterior that made the file, or 'bundled'.")] = "bundled",
) -> None:
    """Write a self-contained HTML report: the sample, chosen galaxies, diagnostics and provenance."""
    screen = make_screen()
    import numpy as np

    from sedcast.data.config import parse_config
    from sedcast.data.errors import ParameterError
    from sedcast.emulator.simulate import SimulationConfig, default_simulator
    from sedcast.posterior.estimator import PosteriorEstimator
    from sedcast.posterior.infer import read_posteriors
    from sedcast.report import write_report

    check_writable(output)
    if output.exists() and posteriors.exists() and output.samefile(posteriors):
        raise ParameterError(f"-o {output} is the file of posteriors itself: give another name")
    with read_posteriors(posteriors) as held:
        estimator = PosteriorEstimator.find(model)
        made_by = held.provenance["estimator"]
        if made_by["sha256"] != estimator.card.get("sha256"):
            raise ParameterError(f"{posteriors} was made by another posterior, {made_by['name']!r}: give its file with --model")
        settings = parse_config(estimator.card.get("simulation"), SimulationConfig, f"simulation of {estimator.name}")
        try:
            good = np.flatnonzero(held.status == "")[:3].tolist()
            chosen = good if rows is None else [int(row) for row in rows.split(",")]
        except ValueError as error:
            raise ParameterError(f"--rows {rows!r}: expected row numbers with commas between them, such as 0,5") from error
        write_report(held, estimator, default_simulator(settings), output, rows=chosen)
    screen.note(f"wrote {output}")
