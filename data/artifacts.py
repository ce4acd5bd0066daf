"""Artifacts: one file of arrays and a JSON card, written atomically, read without executing anything.

An artifact is a NumPy ``.npz`` archive whose member ``card`` holds UTF-8 JSON: schema version, kind,
software versions, provenance, training figures, and a SHA-256 over all arrays and the rest of the card.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from sedcast.data.checks import as_path
from sedcast.data.errors import ArtifactError, ParameterError, SedcastError
from sedcast.data.invocation import invocation

__all__ = [
    "FULL",
    "MAX_DEFLATE_RATIO",
    "SCHEMA_VERSION",
    "atomic_path",
    "consistent",
    "error_number",
    "load_artifact",
    "output_path",
    "read_card",
    "refuse_no_file",
    "reserve",
    "save_artifact",
    "software_versions",
]

SCHEMA_VERSION = 1
MAX_ARTIFACT_BYTES = 4 * 1024**3
MAX_DEFLATE_RATIO = 1032
"""DEFLATE packs no more than this many bytes into one; what claims more is damaged, or made to fill the memory."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk, a used up quota or a limit of files' sizes is known by."""

_MAX_CARD_BYTES = 64 * 1024**2
_MAX_MEMBERS = 10_000
_CARD = "card"
_CHECKSUM = "sha256"
# What zipfile, zlib and NumPy raise on files that are damaged somewhere; RuntimeError for flags of encryption, TokenError for
# headers of arrays.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError),
    SyntaxError,
)
# What constructors raise that are given arrays and cards of other shapes and types than they were written for.
_INCONSISTENT = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, RuntimeError, MemoryError)


def software_versions() -> dict[str, str]:
    """Versions of the packages that decide what an artifact holds."""
    found = {}
    for name in ("sedcast", "numpy", "scipy", "astropy", "tensorflow", "tensorflow-probability", "fsps", "speclite"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class atomic_path:
    """Context manager giving a temporary path beside `path`, moved onto it only on success.

    File and folder are flushed to disk, so a crash leaves either the old file or the new one under that name. What a killed
    process left of the same file is deleted when it is written anew.

    Parameters
    ----------
    path : path of the file to write.
    folder : where the temporary file is, if not beside `path`: a folder in the same file system.
    """

    def __init__(self, path: str | Path, *, folder: Path | None = None) -> None:
        self.path = Path(path)
        # On a shared file system a number alone might be that of a living process elsewhere.
        self._prefix = f".{self.path.name}.{platform.node()}-"
        self.temporary = (folder or self.path.parent) / f"{self._prefix}{os.getpid()}.part"

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for left in self.temporary.parent.iterdir():
            number = left.name.removeprefix(self._prefix).removesuffix(".part")
            if left.name.startswith(self._prefix) and number.isdecimal() and not _is_running(int(number)):
                left.unlink(missing_ok=True)
        return self.temporary

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, *__: object) -> None:
        if error is not None:
            self._give_up(error)
            return
        try:
            with self.temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            self.temporary.replace(self.path)
        except OSError as failed:
            self._give_up(failed)
            raise
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError:
            # Some network file systems cannot flush a folder; the rename is theirs to keep.
            pass
        finally:
            os.close(descriptor)

    def _give_up(self, error: BaseException) -> None:
        self.temporary.unlink(missing_ok=True)
        if (number := error_number(error)) in FULL:
            # Most say no name, and the others that of a file that is gone by now.
            raise OSError(number, os.strerror(number), str(self.path)) from error


def refuse_no_file(path: Path, named: str) -> None:
    """Refuse, as the place of a file, a folder, a device or a pipe, of which the error speaks as `named`.

    Raises
    ------
    ParameterError : if it is one of these.
    """
    if path.is_dir():
        raise ParameterError(f"{named} is a folder: give the name of a file")
    if path.exists() and not path.is_file():
        raise ParameterError(f"{named} is a device or a pipe, which a file would replace: give the name of a file")


def output_path(path: str | Path, *, overwrite: bool = False) -> Path:
    """The path of a file that is to be written: of a call from Python, one that is there is replaced only if that is said.

    A command has asked already (`sedcast.data.outputs.check_replaceable`).

    Raises
    ------
    ParameterError : if it is no path, or a folder, a device or a pipe; or if a file is there and `overwrite` is not true.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise ParameterError(f"{path!r} is no name of a file to write: expected a text or a Path")
    path = Path(path)
    refuse_no_file(path, str(path))
    if not overwrite and invocation.get() is None and os.path.lexists(path):
        raise ParameterError(f"{path} is there already: give another name, or overwrite=True to replace it")
    return path


def reserve(path: Path, n_bytes: int) -> None:
    """Let a file that is there have room for `n_bytes` in all, before a library that crashes on a full disk writes to it.

    Raises
    ------
    OSError : if it cannot, with ENOSPC, EDQUOT or EFBIG.
    """
    with path.open("r+b") as handle:
        held = os.fstat(handle.fileno()).st_size
        if held >= n_bytes:
            return
        try:
            os.posix_fallocate(handle.fileno(), held, n_bytes - held)
        except OSError as error:
            if error.errno in FULL:
                raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def error_number(error: BaseException) -> int | None:
    """The system's number of what went wrong with a file, or None if it is another kind of error."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    # HDF5 says the number in its message only, and not always in an OSError.
    if found := re.search(r"errno = (\d+)", str(error)):
        return int(found[1])
    if isinstance(error, OSError) and re.search(r"\d+ requested and \d+ written", str(error)):
        # NumPy's own words, in which Astropy's tables are written; without a number.
        return errno.ENOSPC
    return None


def _is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def consistent(path: str | Path, what: str, *, otherwise: str = "make it again") -> Iterator[None]:
    """Explain what goes wrong while the contents of a readable file are put together.

    Parameters
    ----------
    path : the file.
    what : it should be, for example ``"posterior estimator"``.
    otherwise : what to do if it is not.

    Raises
    ------
    ArtifactError : for whatever arrays, cards or attributes of unexpected names, shapes or types raise in the body.
    """
    try:
        yield
    except ArtifactError:
        raise
    except (SedcastError, *_INCONSISTENT) as error:
        said = f"no {error}" if isinstance(error, KeyError) else error
        raise ArtifactError(f"{path} is no consistent {what} ({said}): {otherwise}") from error


def _digest(arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps({k: v for k, v in card.items() if k != _CHECKSUM}, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_artifact(
    path: str | Path, kind: str, arrays: Mapping[str, np.ndarray], card: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Write arrays and their card to `path` (``.npz``), atomically.

    Parameters
    ----------
    path : path of the file to write.
    kind : what it is, for example ``"spectrum-emulator"``.
    arrays : numeric or fixed-width string arrays; object arrays are refused.
    card : JSON-serialisable description; schema, kind, versions, the command that made it and a checksum are added.
    overwrite : whether a file that is there may be replaced.

    Raises
    ------
    ParameterError : if a file is there that may not be replaced.
    ArtifactError : if an array cannot be stored without pickle.
    """
    path = output_path(path, overwrite=overwrite)
    held = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in held.items():
        if array.dtype.hasobject or name == _CARD:
            raise ArtifactError(f"array {name!r} of dtype {array.dtype} cannot be stored: use numbers, another name")
    running = invocation.get()
    full: dict[str, Any] = dict(card) | {"schema": SCHEMA_VERSION, "kind": kind, "versions": software_versions()}
    full["made_by"] = None if running is None else running.made_by
    full = json.loads(json.dumps(full))
    full[_CHECKSUM] = _digest(held, full)
    encoded = np.frombuffer(json.dumps(full, indent=1).encode(), dtype=np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, **{_CARD: encoded}, **held)  # type: ignore[arg-type]


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse what would not fit into memory, or is no flat list of arrays, by the archive's table of contents alone."""
    members, size = archive.infolist(), path.stat().st_size
    names = [member.filename for member in members]
    if len(members) > _MAX_MEMBERS or len(set(names)) != len(names):
        raise ArtifactError(f"{path} has {len(names)} members, some of them repeated or too many: not written by sedcast")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArtifactError(f"{path} packs {member.filename!r} by another method than DEFLATE: not written by sedcast")
        if not member.filename.endswith(".npy") or "/" in member.filename or "\\" in member.filename:
            raise ArtifactError(f"{path} has a member {member.filename!r}: expected arrays only, without folders")
        if member.compress_size > size or member.file_size > MAX_DEFLATE_RATIO * member.compress_size:
            raise ArtifactError(
                f"{path}: {member.filename!r} claims {member.file_size} bytes, more than it can hold: truncated or altered"
            )
    total = sum(member.file_size for member in members)
    if total > MAX_ARTIFACT_BYTES:
        raise ArtifactError(f"{path} would unpack to {total} bytes, above the limit of {MAX_ARTIFACT_BYTES}: refused")


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One member, whose header is checked against its size before memory is asked for."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as handle:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(npy.read_magic(handle))
        if read_header is None:
            raise ValueError(f"array {name!r} is of an unknown version of NumPy's format")
        shape, _, dtype = read_header(handle)
        if dtype.kind not in "biufcSU" or dtype.itemsize == 0:
            raise ValueError(f"array {name!r} is of type {dtype}, expected numbers or text")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != member.file_size - handle.tell():
            raise ValueError(f"array {name!r} of shape {shape} does not have the {member.file_size} bytes that it has")
    with archive.open(member) as handle:
        return np.asarray(npy.read_array(handle, allow_pickle=False))


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
    """The archive and its card; what damage raises, here and in the body, is explained."""
    path = as_path("path", path)
    if not path.is_file():
        raise ArtifactError(f"no artifact at {path}: check the path, or train one with 'sedcast train'")
    try:
        with path.open("rb") as handle:
            if handle.read(2) != b"PK":
                raise ArtifactError(f"{path} is not a sedcast artifact: it does not begin as an .npz file does")
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            if archive.getinfo(f"{_CARD}.npy").file_size > _MAX_CARD_BYTES:
                raise ArtifactError(f"{path} has a card of more than {_MAX_CARD_BYTES} bytes: refused")
            card = json.loads(_read_array(archive, _CARD).tobytes().decode())
            if not isinstance(card, dict):
                raise ArtifactError(f"{path} has a card that is not a JSON object: it was not written by sedcast")
            yield archive, card
    except ArtifactError:
        raise
    except _DAMAGE as error:
        raise ArtifactError(f"{path} is not a readable sedcast artifact (truncated, or another format): {error}") from error


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of an artifact, without its arrays and without verifying the checksum."""
    with _opened(path) as (_, card):
        return card


def _check_schema(path: str | Path, card: Mapping[str, Any]) -> None:
    schema = card.get("schema")
    if schema == SCHEMA_VERSION:
        return
    versions = card.get("versions")
    writer = f"sedcast {versions['sedcast']}" if isinstance(versions, dict) and "sedcast" in versions else "another sedcast"
    newer = isinstance(schema, int) and schema > SCHEMA_VERSION
    raise ArtifactError(
        f"{path} has schema version {schema!r}, written by {writer}; this sedcast reads {SCHEMA_VERSION}: "
        + ("update sedcast, or make it again" if newer else "use the sedcast that wrote it, or make it again")
    )


def load_artifact(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read an artifact of one kind and verify its checksum.

    Sizes are checked before memory is asked for: no file takes more than about 1000 times its own size, nor more than 4 GiB.

    Returns
    -------
    arrays, card : the arrays by name, and the card.

    Raises
    ------
    ArtifactError : if the file is missing, unreadable, of another kind or schema, or altered since it was written.
    """
    with _opened(path) as (archive, card):
        _check_schema(path, card)
        if card.get("kind") != kind:
            raise ArtifactError(f"{path} holds a {card.get('kind')!r}, expected a {kind!r}: pass the right file")
        names = [member.removesuffix(".npy") for member in archive.namelist()]
        arrays = {name: _read_array(archive, name) for name in names if name != _CARD}
        if _digest(arrays, card) != card.get(_CHECKSUM):
            raise ArtifactError(
                f"{path} does not match its checksum: it was altered or damaged after it was written; get it again"
            )
    return arrays, card
