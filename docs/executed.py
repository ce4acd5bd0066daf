"""Runs the code of pages that say ``<!-- executed -->``, and shows below each block what it printed: a Sphinx extension.

On such a page Python blocks run in order with common names; lines of bash blocks that begin with ``sedcast`` run as the program
would; a TOML block that begins with ``# file: NAME`` is written to NAME. All in an empty folder. What fails, fails the build.
"""

import contextlib
import io
import logging
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["MARK", "execute", "setup"]

MARK = "<!-- executed -->"
_BLOCK = re.compile(r"^```(python|bash|toml)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
_WIDTH = 100


def execute(text: str, folder: Path) -> str:
    """Run a page's code in a folder; the page with what was printed."""
    names: dict[str, Any] = {"__name__": "page"}

    def shown(block: re.Match[str]) -> str:
        kind, code = block.groups()
        printed = {"python": _python, "bash": _bash, "toml": _toml}[kind](code, folder, names).rstrip()
        return block.group() + (f"\n```text\n{printed}\n```\n" if printed else "")

    # The pages show what is printed; log lines would fill the screen of the build.
    logging.disable(logging.WARNING)
    try:
        with contextlib.chdir(folder):
            return _BLOCK.sub(shown, text)
    finally:
        logging.disable(logging.NOTSET)


def _python(code: str, folder: Path, names: dict[str, Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, str(folder), "exec"), names)
    return printed.getvalue()


def _bash(code: str, folder: Path, names: dict[str, Any]) -> str:
    from typer.testing import CliRunner

    from sedcast.cli import app

    printed = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["sedcast"]:
            continue
        result = CliRunner(env={"COLUMNS": str(_WIDTH)}).invoke(app, words[1:], catch_exceptions=False)
        if result.exit_code != 0:
            raise RuntimeError(f"{line!r} ended with status {result.exit_code}:\n{result.output}")
        printed.append(result.stdout)
    return "".join(printed)


def _toml(code: str, folder: Path, names: dict[str, Any]) -> str:
    if found := re.match(r"# file: (\S+)", code):
        (folder / found[1]).write_text(code, encoding="utf-8")
    return ""


def _on_read(app: Any, name: str, source: list[str]) -> None:
    if MARK in source[0]:
        with tempfile.TemporaryDirectory() as folder:
            source[0] = execute(source[0], Path(folder))


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", _on_read)
    return {"parallel_read_safe": False}
