"""What an existing file was made by, and the one rule of when a command may replace it.

A command replaces a file only if the file says that the same command made it, of the same settings and inputs: a repeated
command loses nothing. Anything else is replaced with ``--overwrite`` alone, and what the command reads, never. A call from
Python says ``overwrite=True``, whatever the file holds (`sedcast.data.artifacts.output_path`).
"""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from sedcast.data.artifacts import atomic_path, read_card, refuse_no_file
from sedcast.data.errors import ParameterError, SedcastError
from sedcast.data.invocation import invocation
from sedcast.data.provenance import read_provenance

__all__ = ["check_replaceable", "made_by", "mark_for", "refuse_inputs", "remove_outdated", "write_text"]

_MARK = re.compile(rb"sedcast-run:([0-9a-f]{16}):([0-9a-f]{16}|-):([\w%./~-]*)")
_HEADED = (".h5", ".hdf5", ".fits", ".parquet", ".ecsv")
_SILENT = (".csv", ".pkl", ".toml")
"""Kinds in which there is no room for a mark."""

_MOST_SEARCHED = 256 * 1024**2
_FRAMES = {".html": "<!-- {} -->\n", ".htm": "<!-- {} -->\n", ".md": "<!-- {} -->\n", ".json": '\n "made_by": "{}",'}
_KEYS = {"png": "Comment", "pdf": "Keywords", "svg": "Description"}


def check_replaceable(paths: Iterable[Path], option: str = "-o", *, overwrite: bool = False) -> None:
    """Refuse, before the work, to replace files that hold something else than the running command makes.

    Parameters
    ----------
    paths : files that are to be written, as far as they are there.
    option : that names them.
    overwrite : whether whatever they hold may be lost; not that of files which the command reads.

    Raises
    ------
    ParameterError : naming the first file that may not be replaced, and what it holds; or if one is a folder, a device or a
        pipe.
    """
    running = invocation.get()
    for path in paths:
        if not os.path.lexists(path):
            continue
        refuse_no_file(path, f"{option} {path}")
        refuse_inputs(path, option)
        found = None if overwrite else made_by(path)
        if overwrite or (running is not None and found is not None and found["run"] == running.run):
            continue
        raise ParameterError(
            f"{option} {path} is there already, {_described(path, found)}: give another name, or --overwrite to replace it"
        )


def refuse_inputs(path: Path, option: str = "-o") -> None:
    """Refuse an output that is, under whatever name, one of the files or folders that the running command reads.

    Raises
    ------
    ParameterError : if it is.
    """
    running = invocation.get()
    if running is not None and path.exists() and any(path.samefile(read) for read in running.inputs):
        raise ParameterError(f"{option} {path} is read by the command itself, and would be overwritten: give another name")


def remove_outdated(folder: Path, names: Iterable[str]) -> None:
    """Delete what other commands wrote to a folder, once the running one, by ``--overwrite``, has written there.

    Of pictures that are named by galaxy, those of other galaxies would stay, and the same command be refused for them.

    Parameters
    ----------
    folder : that was written to.
    names : patterns of its files; what sedcast did not write is left alone.
    """
    if (running := invocation.get()) is None:
        return
    for path in [path for name in names for path in folder.glob(name)]:
        if (found := made_by(path)) is not None and found["run"] != running.run:
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text that says, where its kind has room for it, which command made it; it has its name when it is whole.

    Parameters
    ----------
    path : the file; HTML and Markdown get a comment, a JSON object an entry ``made_by``.
    text : ends with a line's end; of JSON, indented by one.
    """
    running = invocation.get()
    if running is not None and (frame := _FRAMES.get(path.suffix)):
        said = frame.format(running.mark(_digest(text.encode())))
        text = f"{{{said}{text[1:]}" if path.suffix == ".json" else text + said
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def mark_for(kind: str) -> dict[str, str]:
    """What a picture, as matplotlib takes it, says of the command that made it; `kind` such as ``png``."""
    running = invocation.get()
    return {} if running is None or kind not in _KEYS else {_KEYS[kind]: running.mark()}


def made_by(path: Path) -> dict[str, str] | None:
    """The command that made a file, and its `Invocation.run`; None if it does not say, or was changed since."""
    try:
        if path.suffix == ".npz":
            found = read_card(path).get("made_by")
        elif path.suffix in _HEADED:
            found = read_provenance(path)
        else:
            return _marked_by(path)
    except (SedcastError, ImportError):
        # Parquet without pyarrow, for one.
        return None
    if not isinstance(found, dict) or not isinstance(found.get("run"), str):
        return None
    return {"command": str(found.get("command")), "run": found["run"]}


def _marked_by(path: Path) -> dict[str, str] | None:
    try:
        held = path.read_bytes() if path.stat().st_size <= _MOST_SEARCHED else b""
    except OSError:
        return None
    if (mark := _MARK.search(held)) is None:
        return None
    run, digest, command = (part.decode("ascii") for part in mark.groups())
    if digest != "-":
        said = _FRAMES.get(path.suffix, "").format(mark[0].decode("ascii")).encode()
        if _digest(held.replace(said, b"", 1)) != digest:
            return None
    return {"command": unquote(command, errors="surrogateescape"), "run": run}


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def _described(path: Path, found: dict[str, str] | None) -> str:
    """What a file that may not be replaced holds."""
    running = invocation.get()
    if found is not None:
        same = running is not None and found["command"] == running.text
        more = " before an input was changed or made again, or by another version" if same else ""
        return f"made by {found['command']!r}{more}"
    if not path.exists():
        return "a link to what is not there"
    if path.suffix in _SILENT:
        return f"and a {path.suffix} file does not say what made it"
    return "and is not, or not any more, what a command of sedcast wrote"
