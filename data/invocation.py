"""The command that is running: what it was asked for, the files that it reads, and the name by which its outputs know it."""

import contextlib
import contextvars
import functools
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = ["WRITTEN", "Invocation", "describe_file", "invocation"]

WRITTEN = ("output", "samples", "export", "plot")
"""Parameters of commands that name what is written."""

NEVER_DECIDE = (*WRITTEN, "n_workers", "scheduler", "overwrite")
"""Parameters of commands that do not decide what their outputs hold."""

_LONGEST_TEXT = 65_536
_MOST_HASHED = 4 * 1024**3
_COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Invocation:
    """The command that is running.

    Parameters
    ----------
    text : as one would type it.
    name : its words after ``sedcast``.
    options : the value of each of its parameters by name, as JSON has it.
    """

    text: str
    name: tuple[str, ...]
    options: Mapping[str, Any]

    @functools.cached_property
    def files(self) -> dict[str, dict[str, Any]]:
        """Files among the values of options that are read, by option, as `describe_file` has them at the first look."""
        named = {name: value for name, value in self.options.items() if isinstance(value, str) and name not in WRITTEN}
        return {name: describe_file(Path(value)) for name, value in named.items() if _is_file(value)}

    @functools.cached_property
    def inputs(self) -> tuple[Path, ...]:
        """All that is read: files and folders that options name, and files that a TOML file among them names."""
        found: list[Path] = []
        for value in (value for name, value in self.options.items() if name not in WRITTEN):
            found += [Path(text) for text in _texts(value) if _is_file(text) or _is_file(str(Path(text, _COMPARISON)))]
        tables = [path for path in found if path.suffix == ".toml"]
        return (*found, *(path for table in tables for path in _named_files(table)))

    @functools.cached_property
    def run(self) -> str:
        """A digest of all that decides the outputs: command, settings, contents of the files that are read, version.

        HDF5 files and comparisons that a command of sedcast wrote count by that command's own digest: made again, they differ
        in the time.
        """
        settings = {name: value for name, value in self.options.items() if name not in (*NEVER_DECIDE, *self.files)}
        known = {Path(str(self.options[name])): described for name, described in self.files.items()}
        read = [path / _COMPARISON if path.is_dir() else path for path in self.inputs]
        contents = [
            _made_by_run(path) or {k: v for k, v in (known.get(path) or describe_file(path)).items() if k != "text"}
            for path in read
        ]
        parts = [self.name, settings, sorted(self.files), contents, version("sedcast")]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def made_by(self) -> dict[str, str]:
        """What an output says of the command that made it."""
        return {"command": self.text, "run": self.run}

    def mark(self, text_digest: str = "-") -> str:
        """The same in one word of ASCII that any format keeps as it is; with the digest of the rest, if the output is text."""
        return f"sedcast-run:{self.run}:{text_digest}:{quote(self.text, errors='surrogateescape')}"


invocation: contextvars.ContextVar[Invocation | None] = contextvars.ContextVar("invocation", default=None)
"""Set by the command line; None where Python called."""


def describe_file(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file (of one beyond 4 GiB its time instead), and its text if it is a short one."""
    about = path.stat()
    found: dict[str, Any] = {"bytes": about.st_size}
    if about.st_size > _MOST_HASHED:
        return found | {"modified_ns": about.st_mtime_ns}
    with path.open("rb") as handle:
        found["sha256"] = hashlib.file_digest(handle, "sha256").hexdigest()
    if about.st_size <= _LONGEST_TEXT:
        with contextlib.suppress(UnicodeDecodeError):
            found["text"] = path.read_bytes().decode("utf-8")
    return found


def _made_by_run(path: Path) -> dict[str, Any] | None:
    """The `Invocation.run` that an HDF5 file or a comparison tells; None if it tells none. (Tables are for anybody to edit.)"""
    # Outputs tell of the command that is running.
    from sedcast.data.outputs import made_by

    found = made_by(path) if path.suffix in (".h5", ".hdf5") or path.name == _COMPARISON else None
    return None if found is None else {"run": found["run"]}


def _is_file(text: str) -> bool:
    # A text may be longer than any name of a file.
    with contextlib.suppress(OSError):
        return bool(text) and Path(text).is_file()
    return False


def _texts(value: Any) -> Iterator[str]:
    """The texts in nested tables and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _named_files(table: Path) -> list[Path]:
    """The files that a TOML file names, code (``module:name``) too; none if it is not TOML, which is for its reader to say."""
    try:
        texts = [*_texts(tomllib.loads(table.read_text(encoding="utf-8")))]
    except (OSError, ValueError, RecursionError):
        return []
    modules = [f"{text.partition(':')[0].replace('.', '/')}.py" for text in texts if ":" in text]
    return [Path(text) for text in (*texts, *modules) if _is_file(text)]
