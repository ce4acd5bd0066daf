"""Artifacts: one file of arrays and a JSON card, written atomically, read without executing anything.

An artifact is a NumPy ``.npz`` archive whose member ``card`` holds UTF-8 JSON: schema version, kind,
software versions, provenance, training figures, and a SHA-256 over all arrays and the rest of the card.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.errors import ArtifactError

__all__ = ["SCHEMA_VERSION", "atomic_path", "load_artifact", "read_card", "save_artifact", "software_versions"]

SCHEMA_VERSION = 1
MAX_ARTIFACT_BYTES = 4 * 1024**3
_CARD = "card"
_CHECKSUM = "sha256"
# What zipfile, zlib and NumPy raise on files that are damaged somewhere; RuntimeError for flags of encryption or compression.
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError)


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

    The file is flushed to disk before it is renamed, so a crash leaves either the old file or the new one.

    Parameters
    ----------
    path : path of the file to write.
    folder : where the temporary file is, if not beside `path`: a folder in the same file system.
    """

    def __init__(self, path: str | Path, *, folder: Path | None = None) -> None:
        self.path = Path(path)
        self.temporary = (folder or self.path.parent) / f".{self.path.name}.{os.getpid()}.part"

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        with self.temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        self.temporary.replace(self.path)


def _digest(arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps({k: v for k, v in card.items() if k != _CHECKSUM}, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_artifact(path: str | Path, kind: str, arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
    """Write arrays and their card to `path` (``.npz``), atomically.

    Parameters
    ----------
    path : path of the file to write.
    kind : what it is, for example ``"spectrum-emulator"``.
    arrays : numeric or fixed-width string arrays; object arrays are refused.
    card : JSON-serialisable description; schema, kind, versions and checksum are added.

    Raises
    ------
    ArtifactError : if an array cannot be stored without pickle.
    """
    held = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in held.items():
        if array.dtype.hasobject or name == _CARD:
            raise ArtifactError(f"array {name!r} of dtype {array.dtype} cannot be stored: use numbers, another name")
    full: dict[str, Any] = dict(card) | {"schema": SCHEMA_VERSION, "kind": kind, "versions": software_versions()}
    full = json.loads(json.dumps(full))
    full[_CHECKSUM] = _digest(held, full)
    encoded = np.frombuffer(json.dumps(full, indent=1).encode(), dtype=np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, **{_CARD: encoded}, **held)  # type: ignore[arg-type]


def _open(path: str | Path) -> tuple[np.lib.npyio.NpzFile, dict[str, Any]]:
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"no artifact at {path}: check the path, or train one with 'sedcast train'")
    try:
        with path.open("rb") as handle:
            if handle.read(2) != b"PK":
                raise ArtifactError(f"{path} is not a sedcast artifact: it does not begin as an .npz file does")
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_ARTIFACT_BYTES:
            raise ArtifactError(f"{path} would unpack to {size} bytes, above the limit of {MAX_ARTIFACT_BYTES}: refused")
        archive_file = np.load(path, allow_pickle=False)
        try:
            card = json.loads(archive_file[_CARD].tobytes().decode())
        except _DAMAGE:
            archive_file.close()
            raise
    except ArtifactError:
        raise
    except _DAMAGE as error:
        raise ArtifactError(f"{path} is not a readable sedcast artifact (truncated, or another format): {error}") from error
    if not isinstance(card, dict):
        archive_file.close()
        raise ArtifactError(f"{path} has a card that is not a JSON object: it was not written by sedcast")
    return archive_file, card


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of an artifact, without its arrays and without verifying the checksum."""
    archive, card = _open(path)
    archive.close()
    return card


def load_artifact(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read an artifact of one kind and verify its checksum.

    Returns
    -------
    arrays, card : the arrays by name, and the card.

    Raises
    ------
    ArtifactError : if the file is missing, unreadable, of another kind or schema, or altered since it was written.
    """
    archive, card = _open(path)
    with archive:
        if card.get("schema") != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} has schema version {card.get('schema')!r}, this sedcast reads {SCHEMA_VERSION}: "
                "use the sedcast that wrote it, or train it again"
            )
        if card.get("kind") != kind:
            raise ArtifactError(f"{path} holds a {card.get('kind')!r}, expected a {kind!r}: pass the right file")
        try:
            arrays = {name: archive[name] for name in archive.files if name != _CARD}
        except _DAMAGE as error:
            raise ArtifactError(f"{path} is truncated or altered: {error}") from error
    if _digest(arrays, card) != card.get(_CHECKSUM):
        raise ArtifactError(f"{path} does not match its checksum: it was altered or damaged after it was written; get it again")
    return arrays, card
