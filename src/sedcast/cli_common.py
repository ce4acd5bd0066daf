"""What the commands share: the program's options, its screen and the check of an output."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from sedcast.console import Screen

__all__ = ["AsJson", "CommandGroup", "Options", "check_writable", "make_screen", "options"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


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
