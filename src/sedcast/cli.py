"""The command line: `sedcast`. Everything heavy is imported inside the commands, so that ``--help`` answers at once."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sedcast._version import __version__

if TYPE_CHECKING:
    from sedcast.console import Screen
    from sedcast.data.catalog import Catalog
    from sedcast.posterior.estimator import PosteriorEstimator

__all__ = ["app", "main"]

EXIT_UNEXPECTED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="sedcast",
    help="Full Bayesian posteriors of galaxy properties from photometry.",
    epilog="Start with:  sedcast demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
train_app = typer.Typer(help="Train an emulator or a posterior.", no_args_is_help=True)
app.add_typer(train_app, name="train")


@dataclass
class _Options:
    quiet: bool = False
    verbose: bool = False
    debug: bool = False


_options = _Options()

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file; templates are in the project's examples/.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]
Model = Annotated[str, typer.Option(metavar="FILE", help="Posterior artifact, or 'bundled'.")]
Unit = Annotated[str, typer.Option(help="Unit of the fluxes in the file: nanomaggies, maggies, uJy, mJy or Jy.")]
Source = Annotated[
    str, typer.Argument(metavar="CATALOG", help="FITS, ECSV, CSV or HDF5 table, or 'sdss' for the bundled 10,000 galaxies.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sedcast {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is being done.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    _options.quiet, _options.verbose, _options.debug = quiet, verbose, debug


def _screen(as_json: bool = False) -> "Screen":
    from sedcast.console import Screen, configure_logging

    screen = Screen(quiet=_options.quiet, as_json=as_json)
    configure_logging(screen.err, verbose=_options.verbose)
    return screen


def _load_catalog(source: str, estimator: "PosteriorEstimator", unit: str) -> "Catalog":
    from sedcast.data.catalog import load_sdss_sample, read_catalog

    if source == "sdss":
        return load_sdss_sample(bands=estimator.bands)
    return read_catalog(source, bands=estimator.bands, unit=unit)


def _load_posterior(model: str) -> "PosteriorEstimator":
    from sedcast.posterior.estimator import PosteriorEstimator

    return PosteriorEstimator.default() if model == "bundled" else PosteriorEstimator.load(model)


@app.command(epilog="Example:  sedcast demo -o my-demo")
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")] = Path("sedcast-demo"),
    n_galaxies: Annotated[int, typer.Option(min=10, max=10_000, help="How many galaxies of the bundled sample.")] = 300,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Infer real SDSS galaxies with the bundled posterior, compare one with MCMC, and write pictures."""
    screen = _screen(as_json)
    from sedcast.demo import run_demo

    summary = run_demo(output, n_galaxies=n_galaxies, seed=seed, screen=screen)
    if as_json:
        screen.result(summary)


@train_app.command("emulator", epilog="Example:  sedcast train emulator examples/emulator.toml -o emulator.npz")
def train_emulator_command(
    config: ConfigPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Artifact to write.")] = Path("emulator.npz"),
    as_json: AsJson = False,
) -> None:
    """Train a spectrum emulator of the SPS model."""
    screen = _screen(as_json)
    from sedcast.data.config import load_config
    from sedcast.emulator.spectrum_emulator import EmulatorConfig, train_emulator

    settings = load_config(config, EmulatorConfig)
    _check_writable(output)
    with screen.progress("training the emulator, epochs") as report:
        emulator = train_emulator(settings, progress=report)
    emulator.save(output)
    screen.note(f"wrote {output}")
    screen.result(_scalars(emulator.card["figures"]), title="Training figures")


@train_app.command("posterior", epilog="Example:  sedcast train posterior examples/posterior.toml -o posterior.npz")
def train_posterior_command(
    config: ConfigPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Artifact to write.")] = Path("posterior.npz"),
    as_json: AsJson = False,
) -> None:
    """Train a posterior estimator on simulated galaxies."""
    screen = _screen(as_json)
    from sedcast.data.config import load_config
    from sedcast.posterior.train import PosteriorConfig, train_posterior

    settings = load_config(config, PosteriorConfig)
    _check_writable(output)
    with screen.progress("training the posterior") as report:
        estimator = train_posterior(settings, progress=report)
    estimator.save(output)
    screen.note(f"wrote {output}")
    screen.result(_scalars(estimator.card["figures"]), title="Training figures")


@app.command(epilog="Example:  sedcast simulate examples/simulate.toml -o simulations.h5")
def simulate(
    config: ConfigPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file to write.")] = Path("simulations.h5"),
    as_json: AsJson = False,
) -> None:
    """Simulate galaxies: draw from the prior, emulate, redshift, project, add noise."""
    import time

    screen = _screen(as_json)
    from sedcast.data.config import load_config
    from sedcast.emulator.simulate import SimulationConfig
    from sedcast.emulator.simulate import simulate as run

    settings = load_config(config, SimulationConfig)
    _check_writable(output)
    started = time.perf_counter()
    with screen.progress("simulating") as report:
        figures = run(settings, output, progress=report)
    seconds = time.perf_counter() - started
    screen.note(f"wrote {output}")
    screen.result(figures | {"wall_s": seconds, "galaxies_per_s": figures["n_galaxies"] / seconds}, title="Simulation")


@app.command(epilog="Examples:  sedcast infer sdss -o posteriors.h5    |    sedcast infer mine.csv -o mine.h5 --unit uJy")
def infer(
    catalog: Source,
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file to write.")],
    model: Model = "bundled",
    n_samples: Annotated[int, typer.Option(min=1, help="Samples per galaxy.")] = 1000,
    seed: Seed = 0,
    unit: Unit = "nanomaggies",
    as_json: AsJson = False,
) -> None:
    """Infer a catalogue: samples, summaries, derived properties and flags of every galaxy, in one HDF5 file.

    Rows that cannot be inferred stay in the file with the reason. A table needs the columns flux_u, flux_ivar_u (or
    flux_err_u) … for each band of the model, and zred; SDSS's own layout is recognised.
    """
    screen = _screen(as_json)
    from sedcast.posterior.infer import infer_catalog

    estimator = _load_posterior(model)
    galaxies = _load_catalog(catalog, estimator, unit)
    _check_writable(output)
    with screen.progress("inferring galaxies") as report:
        figures = infer_catalog(estimator, galaxies, output, n_samples=n_samples, seed=seed, progress=report)
    screen.note(f"wrote {output}")
    screen.result(_scalars(figures), title="Inference")


def _check_writable(output: Path) -> None:
    """Refuse before the work, not after it, an output that cannot be written."""
    from sedcast.data.errors import ParameterError

    if output.is_dir():
        raise ParameterError(f"-o {output} is a folder: give the name of a file in it")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"-o {output}: cannot make its folder ({error.strerror})") from error


def _scalars(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if isinstance(value, int | float | str | bool)}


def _parse_rows(rows: str, n: int) -> list[int]:
    from sedcast.data.errors import CatalogError, ParameterError

    try:
        chosen = [int(row) for row in rows.split(",")]
    except ValueError as error:
        raise ParameterError(f"--rows {rows!r}: expected row numbers with commas between them, such as 0,5,12") from error
    for row in chosen:
        if not 0 <= row < n:
            raise CatalogError(f"--rows: there is no row {row}, the catalogue has rows 0 … {n - 1}")
    return chosen


def main() -> None:
    """Run the command line: user errors end with one line and status 2, unexpected ones with status 1."""
    try:
        app(prog_name="sedcast")
    except KeyboardInterrupt:
        sys.stderr.write("sedcast: interrupted\n")
        raise SystemExit(EXIT_INTERRUPTED) from None
    except Exception as error:
        if _options.debug:
            raise
        from sedcast.data.errors import SedcastError

        if isinstance(error, SedcastError):
            sys.stderr.write(f"sedcast: {error}\n")
            raise SystemExit(EXIT_USER_ERROR) from None
        sys.stderr.write(f"sedcast: unexpected {type(error).__name__}: {error} ('sedcast --debug ...' shows where)\n")
        raise SystemExit(EXIT_UNEXPECTED) from None
