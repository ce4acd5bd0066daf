"""`sedcast rerun`: an output made again from what it says of itself."""

import contextlib
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from sedcast.cli_common import AsJson, Overwrite, as_arguments, make_screen
from sedcast.cli_common import options as screen_options

__all__ = ["add_rerun_command"]


def add_rerun_command(app: typer.Typer) -> None:
    """Give a program the command `rerun`."""
    app.command(epilog="Examples:  sedcast rerun posteriors.h5 -o again.h5    |    sedcast rerun simulations.h5 --check")(rerun)


def rerun(
    context: typer.Context,
    made: Annotated[Path, typer.Argument(metavar="OUT", help="Simulations, posteriors, artifact, comparison's folder.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write it again.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Compare the result with OUT; exit status 1 if it differs.")] = False,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the code of a simulator that OUT's configuration names.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make an output again with the command, the configuration and the files that its header names.

    Files that it was made from must be there unchanged; short ones, such as configurations, are in the header itself.
    """
    screen = make_screen(as_json)
    from sedcast.data.errors import ParameterError
    from sedcast.data.outputs import refuse_inputs
    from sedcast.data.provenance import read_provenance
    from sedcast.rerun import header_differences, options_of, output_differences

    if output is None and not check:
        raise ParameterError("give -o, where to write, or --check, to compare only")
    if output is not None:
        refuse_inputs(output)
    header = read_provenance(made)
    with tempfile.TemporaryDirectory() as folder:
        target = output if output is not None else Path(folder) / made.name
        name, options = options_of(header, target, Path(folder), allow_code=allow_code)
        options["overwrite"] = overwrite
        root: Any = context.find_root().command
        command = root
        for word in name:
            command = command.commands[word]
        screen.note(f"repeating: {header['command']}")
        screened = [f"--{option.name}" for option in fields(screen_options) if getattr(screen_options, option.name)]
        with contextlib.redirect_stdout(sys.stderr):
            root.main(args=[*screened, *name, *as_arguments(command, options)], prog_name="sedcast", standalone_mode=False)
        figures: dict[str, Any] = {"output": str(target if output is not None else made), "command": header["command"]}
        figures["changed"] = header_differences(header, read_provenance(target))
        if check:
            figures["different"] = output_differences(made, target)
            figures["identical"] = not figures["different"]
    for line in figures["changed"]:
        screen.note(f"since then {line}")
    if check:
        screen.note("identical" if figures["identical"] else f"different: {', '.join(figures['different'])}")
    if as_json:
        screen.result(figures)
    if check and not figures["identical"]:
        raise typer.Exit(1)
