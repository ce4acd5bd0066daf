"""What the commands share: the program's options, its screen and the check of an output."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from sedcast.console import Screen
    from sedcast.data.catalog import Catalog
    from sedcast.data.executors import TaskPool
    from sedcast.emulator.simulate import PhotometrySimulator, SimulationConfig
    from sedcast.posterior.estimator import PosteriorEstimator

__all__ = [
    "AsJson",
    "Calibrate",
    "CommandGroup",
    "Model",
    "Options",
    "Scheduler",
    "Seed",
    "Source",
    "Unit",
    "Workers",
    "check_writable",
    "load_catalog",
    "load_posterior",
    "make_screen",
    "options",
    "pool_of",
    "scalars",
    "simulator_of",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]
Model = Annotated[
    str,
    typer.Option(metavar="FILE", help="Posterior artifact, or bundled one: sdss-ugriz, galex-sdss."),
]
Unit = Annotated[str, typer.Option(help="Unit of the fluxes in the file: nanomaggies, maggies, uJy, mJy or Jy.")]
Calibrate = Annotated[
    bool, typer.Option("--calibrate/--no-calibrate", help="For SDSS's own columns: apply AB offsets and error floors.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Share the work on a Dask cluster: its scheduler's address, or 'local' for one here."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="With --scheduler local: processes; by default the usable cores.")
]
Source = Annotated[
    str, typer.Argument(metavar="CATALOG", help="FITS, ECSV, CSV or HDF5 table, or 'sdss' for the bundled 10,000 galaxies.")
]


@dataclass
class Options:
    """The options that every command takes, before it or after it."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


options = Options()


def _turn_on(parameter: typer.CallbackParam, wanted: bool) -> bool:
    if wanted:
        setattr(options, str(parameter.name), True)
    return wanted


def _every_command(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", callback=_turn_on, expose_value=False, help="No progress bars.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", callback=_turn_on, expose_value=False, help="Say what is being done.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", callback=_turn_on, expose_value=False, help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Declare the options that `CommandGroup` gives to each command."""


class CommandGroup(TyperGroup):
    """A group whose commands take ``--quiet``, ``--verbose`` and ``--debug`` after their name too."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, with those options."""
        command = super().get_command(ctx, cmd_name)
        if isinstance(command, TyperCommand) and all(parameter.name != "quiet" for parameter in command.params):
            carrier = typer.Typer(add_completion=False)
            carrier.command()(_every_command)
            command.params += typer.main.get_command(carrier).params
        return command


def make_screen(as_json: bool = False) -> "Screen":
    """The screen of a command, after logging has been set up for it."""
    from sedcast.console import Screen, configure_logging

    screen = Screen(quiet=options.quiet, as_json=as_json)
    configure_logging(screen.err, verbose=options.verbose)
    return screen


def check_writable(output: Path) -> None:
    """Refuse before the work, not after it, an output that cannot be written.

    Raises
    ------
    ParameterError : if `output` is a folder, or its folder cannot be made.
    """
    from sedcast.data.errors import ParameterError

    if output.is_dir():
        raise ParameterError(f"-o {output} is a folder: give the name of a file in it")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"-o {output}: cannot make its folder ({error.strerror})") from error


@contextlib.contextmanager
def pool_of(scheduler: str | None, n_workers: int | None) -> "Iterator[TaskPool | None]":
    """The processes that `--scheduler` asks for, or None."""
    from sedcast.data.executors import task_pool

    if scheduler is None:
        yield None
        return
    with task_pool(scheduler, n_workers) as pool:
        yield pool


def scalars(figures: dict[str, Any]) -> dict[str, Any]:
    """Those figures that are numbers, words or truths, for a table."""
    return {key: value for key, value in figures.items() if isinstance(value, int | float | str | bool)}


def load_catalog(source: str, estimator: "PosteriorEstimator", unit: str, calibrate: bool) -> "Catalog":
    """The bundled sample, or a table, in the estimator's bands."""
    from sedcast.data.catalog import load_sdss_sample, read_catalog

    if source == "sdss":
        return load_sdss_sample(bands=estimator.bands, calibrate=calibrate)
    ragged, redshift = estimator.context.mask, not estimator.infers_redshift
    return read_catalog(source, bands=estimator.bands, unit=unit, calibrate=calibrate, ragged=ragged, redshift=redshift)


def load_posterior(model: str) -> "PosteriorEstimator":
    """A posterior by its file, or a bundled one by its name."""
    from sedcast.posterior.estimator import PosteriorEstimator

    return PosteriorEstimator.find(model)


def simulator_of(estimator: "PosteriorEstimator") -> "tuple[PhotometrySimulator, SimulationConfig]":
    """The simulator and the settings that the estimator was trained with."""
    from sedcast.data.config import parse_config
    from sedcast.emulator.simulate import SimulationConfig, default_simulator

    settings = parse_config(estimator.card.get("simulation"), SimulationConfig, f"simulation of {estimator.name}")
    return default_simulator(settings), settings
