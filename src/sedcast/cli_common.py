"""What the commands share: the program's options, its screen and the check of an output."""

import contextlib
import contextvars
import errno
import inspect
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from sedcast.console import Screen
    from sedcast.data.catalog import Catalog
    from sedcast.data.executors import TaskPool
    from sedcast.data.invocation import Invocation
    from sedcast.posterior.estimator import PosteriorEstimator

__all__ = [
    "HDF5",
    "MOCK_SEED",
    "AsJson",
    "Calibrate",
    "Columns",
    "CommandGroup",
    "MockSeed",
    "Model",
    "Options",
    "Overwrite",
    "Scheduler",
    "Seed",
    "Source",
    "Unit",
    "Workers",
    "as_arguments",
    "as_invocation",
    "check_folder",
    "check_mapping",
    "check_picture",
    "check_workers",
    "check_writable",
    "complain",
    "end_in_order",
    "ended",
    "explain_os_error",
    "load_catalog",
    "load_posterior",
    "lock_output",
    "make_screen",
    "options",
    "pool_of",
    "refuse_file",
    "replace_closed_streams",
    "scalars",
    "told_to_end",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
HDF5 = (".h5", ".hdf5")
_PICTURES = (".png", ".pdf")
_GOES_ON = "; the work goes on from where it was when the same command is given again"
_KEPT = "finished parts are kept"
_RESUMED = ("simulate", "train emulator", "train posterior", "compare", "figures")
_OF_THE_SCREEN = ("as_json", "quiet", "verbose", "debug")
MOCK_SEED = 20_221_103
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]
MockSeed = Annotated[int, typer.Option("--seed", min=0, help="Seed of mocks and samples.")]
Model = Annotated[
    str,
    typer.Option(metavar="FILE", help="Posterior artifact, or bundled one: sdss-ugriz, galex-sdss, sdss-photoz."),
]
Unit = Annotated[
    str | None,
    typer.Option(
        help="Unit of the fluxes in the file: nanomaggies, maggies, nJy, uJy, mJy or Jy; by default what its columns say, "
        "nanomaggies if they say nothing."
    ),
]
Calibrate = Annotated[
    bool, typer.Option("--calibrate/--no-calibrate", help="For SDSS's own columns: apply AB offsets and error floors.")
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--mapping",
        help="Which columns are which band: a TOML file ('sedcast init mapping' writes one to start from), or nsa-v0, nsa-v1, "
        "nsa-v1-sersic, kcorrect-sdss, kcorrect-full, desi-legacy, desi-legacy-dr10.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Share the work on a Dask cluster: its scheduler's address, or 'local' for one here."),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace files that are there, whatever they hold; those of the same command are replaced anyway."
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="With --scheduler local: processes; by default the usable cores.")
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="CATALOG", help="FITS, HDF5, Parquet, ECSV or CSV table, or 'sdss' for the bundled 10,000 galaxies."
    ),
]


@dataclass
class Options:
    """The options that every command takes, before it or after it."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


options = Options()
_locks: contextvars.ContextVar[contextlib.ExitStack | None] = contextvars.ContextVar("locks", default=None)


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


def _recorded(invoke: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same invocation of a command, which notes what was asked for, and lets go of its locks in the end."""

    def call(context: Any) -> Any:
        from sedcast.data.invocation import invocation

        before = invocation.set(as_invocation(context))
        with contextlib.ExitStack() as locks:
            outer = _locks.set(locks)
            try:
                return invoke(context)
            except KeyboardInterrupt:
                # Typer would end in silence.
                raise ended(_GOES_ON if _resumes(context) else "") from None
            except Exception as error:
                if _resumes(context):
                    error.add_note(_KEPT)
                raise
            finally:
                _locks.reset(outer)
                invocation.reset(before)

    return call


# The signals by which the system, a batch system or a closed terminal told the program to end.
_told: list[int] = []


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does: unfinished files are deleted, and it is said what goes on."""
    began = os.getpid()

    def told(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != began:
            # A child that was forked has nothing to put in order.
            os.kill(os.getpid(), number)
        # Kept here, for chains that are interrupted raise another interruption when they have kept their states.
        _told.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        # Whoever ignores one, as nohup does, means it.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, told)


def told_to_end() -> bool:
    """Whether SIGTERM or SIGHUP has come."""
    return bool(_told)


def ended(more: str = "") -> SystemExit:
    """Say on standard error what ended the program, and `more`; returns its exit, of the status that shells give."""
    number = _told[-1] if _told else signal.SIGINT
    complain(f"{'interrupted' if number == signal.SIGINT else 'told to end'}{more}")
    return SystemExit(128 + number)


def complain(message: str) -> None:
    """Say on standard error why the program ends; where nobody hears it, its status still tells."""
    try:
        sys.stderr.write(f"sedcast: {message}\n")
        sys.stderr.flush()
    except OSError:
        # The terminal is gone, or the disk full. Python would try once more, and end with a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def replace_closed_streams() -> None:
    """Let standard streams that were closed be the null device: files would be opened under their numbers."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8"))


def _resumes(context: Any) -> bool:
    """Whether a command keeps what it has done when it is interrupted."""
    name = " ".join(context.command_path.split()[1:])
    # Of infer, all but HDF5: tables of summaries.
    return name in _RESUMED or (name == "infer" and Path(context.params["output"]).suffix not in HDF5)


def as_invocation(context: Any) -> "Invocation":
    """The command of a context with the values of all its options, those of the screen left out."""
    from sedcast.data.invocation import Invocation

    name = tuple(context.command_path.split()[1:])
    options = {key: _plain(value) for key, value in context.params.items() if key not in _OF_THE_SCREEN}
    return Invocation(shlex.join(("sedcast", *name, *as_arguments(context.command, options))), name, options)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def as_arguments(command: Any, options: Mapping[str, Any]) -> list[str]:
    """The words that give a command these values; values of parameters that it does not have are left out."""
    words: list[str] = []
    positional: list[str] = []
    for parameter in command.params:
        value = options.get(str(parameter.name))
        if value is None or value == parameter.default:
            continue
        if parameter.param_type_name == "argument":
            positional += map(str, value) if isinstance(value, list) else [str(value)]
        elif isinstance(value, bool):
            words += (parameter.opts if value else parameter.secondary_opts)[:1]
        else:
            words += [parameter.opts[-1], str(value)]
    return [*words, *(["--"] if any(word.startswith("-") for word in positional) else []), *positional]


class CommandGroup(TyperGroup):
    """A group whose commands take ``--quiet``, ``--verbose`` and ``--debug`` after their name too."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, with those options."""
        command = super().get_command(ctx, cmd_name)
        if isinstance(command, TyperCommand) and all(parameter.name != "quiet" for parameter in command.params):
            carrier = typer.Typer(add_completion=False)
            carrier.command()(_every_command)
            command.params += typer.main.get_command(carrier).params
            # Typer keeps the line ends of all paragraphs but the first, and wraps what is between them once more.
            command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(command.help or ""))
            command.invoke = _recorded(command.invoke)  # type: ignore[method-assign, assignment]
        return command


def make_screen(as_json: bool = False) -> "Screen":
    """The screen of a command, after logging has been set up for it."""
    from sedcast.console import Screen, configure_logging

    screen = Screen(quiet=options.quiet, as_json=as_json)
    configure_logging(screen.err, verbose=options.verbose)
    return screen


def check_writable(output: Path, option: str = "-o", *, overwrite: bool) -> None:
    """Refuse before the work, not after it, an output that cannot be written; and keep other runs off it till the command ends.

    Raises
    ------
    ConfigError : if another process is writing it.
    ParameterError : if `output`, which `option` names, is a folder, is there and may not be replaced (`check_replaceable`), or
        its folder cannot be made or written to.
    """
    from sedcast.data.outputs import check_replaceable

    lock_output(output, option)
    check_replaceable([output], option, overwrite=overwrite)
    check_name(output, option)


def check_picture(path: Path | None, *, overwrite: bool) -> None:
    """The same as `check_writable`, of what ``--plot`` names, if it is given: a picture.

    Raises
    ------
    ConfigError, ParameterError : as `check_writable`; or if the name ends in something else than ``.png`` or ``.pdf``.
    """
    from sedcast.data.errors import ParameterError

    if path is None:
        return
    if path.suffix not in _PICTURES:
        raise ParameterError(f"--plot {path}: expected a name that ends in {', '.join(_PICTURES)}")
    check_writable(path, "--plot", overwrite=overwrite)


def check_folder(output: Path, names: Iterable[str], option: str = "-o", *, overwrite: bool) -> None:
    """The same as `check_writable`, of a folder for files whose names fit one of the patterns `names`.

    Raises
    ------
    ConfigError, ParameterError : as `check_writable`, but if `output` is a file.
    """
    from sedcast.data.outputs import check_replaceable

    refuse_file(output, option)
    lock_output(output, option)
    check_replaceable(sorted(path for name in names for path in output.glob(name)), option, overwrite=overwrite)


def refuse_file(output: Path, option: str = "-o") -> None:
    """Refuse a file as the folder to write to.

    Raises
    ------
    ParameterError : if `output` is one.
    """
    from sedcast.data.errors import ParameterError

    if output.exists() and not output.is_dir():
        raise ParameterError(f"{option} {output} is a file: give a folder")


def check_workers(scheduler: str | None, n_workers: int | None) -> None:
    """Refuse `--workers` of a command that has none without `--scheduler`.

    Raises
    ------
    ParameterError : if they are given alone.
    """
    from sedcast.data.errors import ParameterError

    if n_workers is not None and scheduler is None:
        raise ParameterError("--workers are those of --scheduler: give that too, or leave them out")


def check_name(output: Path, option: str = "-o") -> None:
    """Refuse a name that leaves no room for those of the files that are beside it while it is made.

    Raises
    ------
    ParameterError : telling how long it may be.
    """
    from sedcast.data.artifacts import atomic_path
    from sedcast.data.errors import ParameterError

    limit, length = os.pathconf(output.parent, "PC_NAME_MAX"), len(os.fsencode(output.name))
    # Files beside it have longer names: unfinished ones, checkpoints, and numbers of processes differ in length.
    most = limit - len(os.fsencode(atomic_path(output).temporary.name)) + length - len(".checkpoint.bands.npz")
    if limit > 0 and length > most:
        raise ParameterError(f"{option} {output}: the name has {length} bytes, and may have {most} here: choose a shorter one")


def lock_output(output: Path, option: str = "-o") -> None:
    """Keep other runs off a file or folder till the command ends.

    Raises
    ------
    ConfigError, ParameterError : as `check_writable`.
    """
    from sedcast.data.errors import ParameterError
    from sedcast.data.locks import output_lock

    try:
        with contextlib.ExitStack() as until_checked:
            (_locks.get() or until_checked).enter_context(output_lock(output))
    except OSError as error:
        raise ParameterError(
            f"{option} {output}: cannot write in the folder {output.parent} ({error.strerror}): choose another"
        ) from error


def explain_os_error(error: BaseException) -> str | None:
    """What to do about a file that cannot be written or read, or None if `error` is of another kind."""
    from sedcast.data.artifacts import FULL, error_number

    if (number := error_number(error)) is None:
        return None
    name = getattr(error, "filename", None) or "a file"
    if number in FULL:
        kept = f", {_KEPT}" if _KEPT in getattr(error, "__notes__", ()) else ""
        return f"cannot write {name}: the disk is full; free some space and repeat the command{kept}"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {name}: choose another place, or have the permission changed"
    return f"{name}: {os.strerror(number)}"


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
    """Those figures that are numbers, words or truths, for a table; a seed as it is typed, without commas."""
    shown = {key: value for key, value in figures.items() if isinstance(value, int | float | str | bool)}
    return shown | ({"seed": str(shown["seed"])} if "seed" in shown else {})


def check_mapping(source: str, *, mapping: str | None, unit: str | None, calibrate: bool) -> None:
    """Refuse options of a catalogue that do not go together.

    Raises
    ------
    ParameterError : naming them.
    """
    from sedcast.data.errors import ParameterError

    for option, value in (("--unit", unit), ("--mapping", mapping)):
        if source == "sdss" and value is not None:
            raise ParameterError(f"{option} {value} is that of a file: the bundled sample has its own; leave it out")
    if mapping is not None and unit is not None:
        raise ParameterError(f"--unit {unit} goes without --mapping: write unit = {unit!r} into the mapping file")
    if mapping is not None and not calibrate:
        raise ParameterError("--no-calibrate is for SDSS's own columns: change offsets and floors in the mapping file instead")


def load_catalog(
    source: str,
    estimator: "PosteriorEstimator",
    *,
    mapping: str | None,
    unit: str | None,
    calibrate: bool,
    n_rows: int | None = None,
) -> "Catalog":
    """The bundled sample, or a table, or its first rows, in the estimator's bands.

    Raises
    ------
    CatalogError, ConfigError : if the table or the mapping cannot be read, or do not suit each other or the estimator.
    ParameterError : as `check_mapping`.
    """
    from sedcast.data.catalog import load_sdss_sample, read_catalog
    from sedcast.data.mapping import load_mapping, read_mapped
    from sedcast.posterior.streaming import mapping_for

    check_mapping(source, mapping=mapping, unit=unit, calibrate=calibrate)
    if mapping is not None:
        columns = mapping_for(load_mapping(mapping), estimator)
        return estimator.select(read_mapped(source, columns, n_rows=n_rows))
    if source == "sdss":
        return load_sdss_sample(bands=estimator.bands, calibrate=calibrate).subset(slice(n_rows))
    ragged, redshift = estimator.context.mask, not estimator.infers_redshift
    table = read_catalog(source, bands=estimator.bands, unit=unit, calibrate=calibrate, ragged=ragged, redshift=redshift)
    return table.subset(slice(n_rows))


def load_posterior(model: str) -> "PosteriorEstimator":
    """A posterior by its file, or a bundled one by its name."""
    from sedcast.posterior.estimator import PosteriorEstimator

    return PosteriorEstimator.find(model)
