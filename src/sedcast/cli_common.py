"""What the commands share: the program's options, its screen and the check of an output."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sedcast.console import Screen

__all__ = ["AsJson", "Options", "check_writable", "make_screen", "options"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@dataclass
class Options:
    """The options before the command, set when the program starts."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


options = Options()


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
