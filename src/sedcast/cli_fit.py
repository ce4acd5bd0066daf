"""`sedcast fit`: the posterior of one galaxy whose magnitudes are typed in."""

import math
from pathlib import Path
from typing import Annotated

import typer

from sedcast.cli_common import AsJson, Overwrite, Seed, check_picture, check_writable, make_screen

__all__ = ["add_fit_command", "parse_errors", "parse_magnitudes"]


def add_fit_command(app: typer.Typer) -> None:
    """Give a program the command `fit`."""
    app.command(
        epilog="Examples:  sedcast fit --mags u=18.95,g=17.67,r=16.94,i=16.53,z=16.26 --errors 0.067,0.021,0.021,0.021,0.033 "
        "--redshift 0.09    |    a picture: ... --plot galaxy.png    |    samples to keep: ... -o galaxy.csv    |    "
        "for 'sedcast report': ... -o galaxy.h5"
    )(fit)


def fit(
    mags: Annotated[str, typer.Option("--mags", metavar="BAND=MAG,...", help="AB magnitudes, such as u=18.95,g=17.67.")],
    errors: Annotated[
        str, typer.Option("--errors", metavar="ERR,...", help="Their errors, in that order; or one for all; or u=0.07,g=0.02.")
    ],
    redshift: Annotated[
        float | None, typer.Option("--redshift", "-z", metavar="Z", help="Redshift; inferred with the rest if left out.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Posterior artifact or bundled one; by default the bundled one for these bands."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Samples: .csv, .ecsv, .fits or .parquet; .h5 for 'show' and 'report'."),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draw posterior and SED: .png or .pdf.")] = None,
    n_samples: Annotated[int, typer.Option(min=100, help="Posterior samples.")] = 5000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fit one galaxy: type its magnitudes, get its mass, star formation, metallicity, age and dust.

    Magnitudes are AB, total (the same aperture in every band), and corrected for Galactic extinction. Errors should include the
    uncertainty of the calibration: 0.02 mag and more. The table gives medians and 68% intervals; the last column
    is the width of the interval over that of the prior: near 1, the photometry says nothing.
    """
    screen = make_screen(as_json)
    from sedcast.data.errors import ParameterError
    from sedcast.data.provenance import provenance
    from sedcast.galaxy_fit import fit_galaxy
    from sedcast.plotting import save_figure
    from sedcast.posterior.quantities import table_cells
    from sedcast.posterior.summary_tables import TABLE_SUFFIXES, check_table, write_table

    magnitudes, sigmas = parse_magnitudes(mags), parse_errors(errors)
    check_picture(plot, overwrite=overwrite)
    if output is not None:
        if output.suffix not in (kinds := (".csv", *TABLE_SUFFIXES, ".h5")):
            raise ParameterError(f"-o {output}: expected a name that ends in {', '.join(kinds)}")
        check_writable(output, overwrite=overwrite)
        if output.suffix in TABLE_SUFFIXES:
            check_table(output)
    kept = output if output is not None and output.suffix == ".h5" else None
    found = fit_galaxy(magnitudes, errors=sigmas, zred=redshift, model=model, n_samples=n_samples, seed=seed, output=kept)
    # Files first, for standard output may be a pipe that is closed.
    if output is not None and kept is None:
        header = provenance(config={}, artifacts={"estimator": found.estimator.digest})
        write_table(output, iter([found.samples]), n_samples, header, extension="SAMPLES")
    if plot is not None:
        save_figure(found.posterior_figure(), plot)
    if as_json:
        figures = {name: getattr(found, name) for name in ("flags", "score", "efficiency", "log_evidence")}
        screen.result({"model": found.estimator.name, **figures, "quantities": found.intervals})
        return
    given = "redshift inferred" if redshift is None else f"redshift {redshift:g}"
    screen.table(
        f"{' '.join(magnitudes)} and {given}, by {found.estimator.name}",
        ("quantity", "unit", "median", "68% from", "to", "width/prior"),
        [
            (
                row["quantity"],
                row["unit"],
                *table_cells(row["name"], (row["median"], row["p16"], row["p84"])),
                f"{row['width']:.2f}",
            )
            for row in found.summary()
        ],
    )
    if math.isfinite(found.efficiency):
        screen.note(f"weighed draws of the flow: efficiency {found.efficiency:.0%}, ln evidence {found.log_evidence:.2f}")
    if found.flags:
        screen.note("flags:" + "".join(f"\n- {flag}" for flag in found.flags.split("; ")))
    else:
        screen.note("flags: none, the photometry is like that of the training simulations")
    for path in filter(None, (output, plot)):
        screen.note(f"wrote {path}")


def parse_magnitudes(text: str) -> dict[str, float]:
    """``u=18.9,g=17.6`` as a dictionary.

    Raises
    ------
    ParameterError : if it reads otherwise, or a band is named twice.
    """
    from sedcast.data.errors import ParameterError

    found: dict[str, float] = {}
    for part in _parts(text):
        band, equals, value = part.partition("=")
        if not (band and equals) or (magnitude := _number(value)) is None:
            raise ParameterError(f"--mags: {part!r} is not BAND=MAGNITUDE; expected such as u=18.95,g=17.67,r=16.94")
        if band in found:
            raise ParameterError(f"--mags names band {band!r} twice")
        found[band] = magnitude
    return found


def parse_errors(text: str) -> dict[str, float] | list[float] | float:
    """Errors as `fit_galaxy` takes them: ``0.05,0.02`` in the bands' order, ``0.05`` for all, or ``u=0.05,g=0.02``.

    Raises
    ------
    ParameterError : if it reads otherwise, or a band is named twice.
    """
    from sedcast.data.errors import ParameterError

    bands, values = [], []
    for part in _parts(text):
        band, _, value = part.rpartition("=")
        if (error := _number(value)) is None:
            raise ParameterError(f"--errors: {part!r} is not an error; expected such as 0.07,0.02 or u=0.07,g=0.02")
        bands.append(band)
        values.append(error)
    if not any(bands):
        return values if len(values) > 1 else values[0]
    if not all(bands):
        raise ParameterError(f"--errors {text}: name the band of every error, or of none")
    if len(set(bands)) < len(bands):
        raise ParameterError(f"--errors {text} names a band twice: one error each")
    return dict(zip(bands, values, strict=True))


def _parts(text: str) -> list[str]:
    return text.replace(" ", "").strip(",").split(",")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
