"""How the fuzzer spoils files: bytes, text, FITS headers, and artifacts whose checksum is right but whose contents are not."""

import copy
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import load_artifact, read_card, save_artifact

__all__ = ["mutate_artifact", "mutate_bytes", "mutate_fits", "mutate_text"]

_NUMBERS = ("nan", "inf", "-inf", "1e400", "-1", "0", str(2**63), str(2**64), "1" + "0" * 5000, "1e12", "1000000000000", "-0.0")
_WORDS = (
    *("", "\0", "\ufeff", "é", "𝔘", "\u202e", "a" * 70_000, "'''", '"', "\\", "#", "None", "true", "[]", "{}", "= nan"),
    *("../../../etc/passwd", "/dev/zero", "/dev/stdin", "%ECSV 1.0", "float64[1000000000]", "object", "$(touch pwned)"),
    *("!!python/object/apply:os.system ['touch pwned']", "!!python/object/new:type", "{__class__: os.system}", "&a [*a, *a]"),
    "!numpy.ndarray {buffer: !!binary '', dtype: object}",
)
_CARD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), [], [[]], {}, {"a": 1}, [None]),
    *("", "\0", "é" * 1000, "../../x", "/dev/zero", "FUV", [1e12] * 50, ["u"] * 3),
)
_FITS_VALUES = (
    *("-1", "0", "1", "8", "999999999999", "1E12", "T", "NaN", ""),
    *("'X'", "'1PE(100)'", "'99999999D'", "'D'", "'1000000A'", "'é'"),
)
_FITS_KEYS = (
    *("NAXIS1", "NAXIS2", "NAXIS", "BITPIX", "TFIELDS", "PCOUNT", "GCOUNT", "TFORM1", "TFORM2", "TTYPE2", "XTENSION", "SIMPLE"),
    *("TSCAL2", "TZERO2", "TNULL1", "THEAP", "TDIM2", "ZIMAGE", "EXTEND", "TUNIT2"),
)


def _flip(data: bytearray, rng: np.random.Generator) -> bytes:
    for place in rng.integers(0, max(1, len(data)), rng.integers(1, 9)):
        if len(data):
            data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _overwrite(data: bytearray, rng: np.random.Generator) -> bytes:
    width = int(rng.choice([1, 2, 4, 8]))
    start = int(rng.integers(0, max(1, len(data) - width)))
    value = int(rng.choice([0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**63 - 1], 1)[0]) & (256**width - 1)
    data[start : start + width] = value.to_bytes(width, str(rng.choice(["little", "big"])))  # type: ignore[arg-type]
    return bytes(data)


def _truncate(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: int(rng.integers(0, len(data) + 1))])


def _slices(data: bytearray, rng: np.random.Generator) -> bytes:
    """A section deleted, doubled, moved, or filled with zeros."""
    a, b = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    b, part = min(b, a + 4096), bytes(data[a : min(b, a + 4096)])
    kind = int(rng.integers(4))
    if kind == 0:
        return bytes(data[:a] + data[b:])
    if kind == 1:
        return bytes(data[:b] + part * int(rng.integers(1, 20)) + data[b:])
    if kind == 2:
        return bytes(data[:a] + data[b:] + part)
    return bytes(data[:a]) + b"\0" * (b - a) + bytes(data[b:])


def _insert(data: bytearray, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(0, len(data) + 1))
    return bytes(data[:place]) + rng.bytes(int(rng.integers(1, 300))) + bytes(data[place:])


def _random(data: bytearray, rng: np.random.Generator) -> bytes:
    """Another file altogether, sometimes behind the same first bytes."""
    return bytes(data[: int(rng.choice([0, 4, 16, 256]))]) + rng.bytes(int(rng.integers(0, 5000)))


def mutate_bytes(path: Path, rng: np.random.Generator) -> None:
    """Spoil a file as a sequence of bytes."""
    kinds: list[Callable[[bytearray, np.random.Generator], bytes]] = [_flip, _overwrite, _truncate, _slices, _insert, _random]
    for _ in range(int(rng.integers(1, 4))):
        path.write_bytes(kinds[int(rng.choice(6, p=[0.3, 0.25, 0.15, 0.15, 0.1, 0.05]))](bytearray(path.read_bytes()), rng))


def mutate_text(path: Path, rng: np.random.Generator) -> None:
    """Spoil a text file: its numbers, its words, its lines; or as bytes."""
    if rng.random() < 0.3:
        mutate_bytes(path, rng)
        return
    text = path.read_text(encoding="utf-8")
    for _ in range(int(rng.integers(1, 4))):
        lines = text.splitlines(keepends=True) or [""]
        line, kind = int(rng.integers(len(lines))), int(rng.integers(6))
        tokens = list(re.finditer(r"[\w.+-]+" if kind < 3 else r"\S+", lines[line]))
        word = str(rng.choice(_NUMBERS if kind in (0, 1) else _WORDS))
        if kind < 4 and tokens:
            token = tokens[int(rng.integers(len(tokens)))]
            lines[line] = lines[line][: token.start()] + word + lines[line][token.end() :]
        elif kind == 4:
            lines.insert(int(rng.integers(len(lines) + 1)), lines[line] if rng.random() < 0.7 else f"{word}\n")
        else:
            del lines[line]
        text = "".join(lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def mutate_fits(path: Path, rng: np.random.Generator) -> None:
    """Spoil a FITS file: a card of a header, or its bytes."""
    if rng.random() < 0.4:
        mutate_bytes(path, rng)
        return
    data = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        key, value = str(rng.choice(_FITS_KEYS)), str(rng.choice(_FITS_VALUES))
        places = [m.start() for m in re.finditer(re.escape(f"{key:<8}="), data.decode("latin-1"))]
        places = places or [80 * int(rng.integers(0, max(1, min(len(data), 8640) // 80)))]
        start = places[int(rng.integers(len(places)))]
        data[start : start + 80] = f"{key:<8}= {value:>20}".encode("latin-1").ljust(80)[:80]
    path.write_bytes(data)


def mutate_artifact(path: Path, rng: np.random.Generator) -> None:
    """Spoil an artifact: its bytes, its archive, or its contents under a checksum that is right."""
    kind = float(rng.random())
    if kind < 0.3:
        mutate_bytes(path, rng)
    elif kind < 0.45:
        _mutate_archive(path, rng)
    else:
        arrays, card = load_artifact(path, read_card(path)["kind"])
        for _ in range(int(rng.integers(1, 3))):
            if rng.random() < 0.5:
                _mutate_arrays(arrays, rng)
            else:
                _mutate_card(card, rng)
        kept = {key: value for key, value in card.items() if key not in ("schema", "kind", "versions", "sha256")}
        save_artifact(path, card["kind"] if isinstance(card.get("kind"), str) else "x", arrays, kept, overwrite=True)


def _mutate_arrays(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    if not arrays:
        return
    name = str(rng.choice(sorted(arrays)))
    array = arrays[name]
    choices: list[Callable[[], np.ndarray]] = [
        lambda: array.astype("f8") * np.nan if array.dtype.kind in "iuf" else array,
        lambda: array[:0] if array.ndim else array[None],
        lambda: array[None],
        lambda: array.ravel(),
        lambda: np.array(["text"]),
        lambda: np.zeros(()),
        lambda: -array if array.dtype.kind in "if" else np.flip(array),
        lambda: array.astype("f8") * 1e300 if array.dtype.kind in "iuf" else array,
        lambda: np.zeros_like(array),
        lambda: np.swapaxes(array, 0, -1) if array.ndim > 1 else np.flip(array),
        lambda: array.astype("c16") if array.dtype.kind in "iuf" else array,
        lambda: array[:-1] if array.ndim else array,
    ]
    if rng.random() < 0.15:
        del arrays[name]
        return
    with np.errstate(all="ignore"):
        arrays[name] = choices[int(rng.integers(len(choices)))]()


def _mutate_card(card: Any, rng: np.random.Generator) -> None:
    """Replace or delete something somewhere in nested mappings and lists."""
    while isinstance(card, dict | list) and card:
        key = list(card)[int(rng.integers(len(card)))] if isinstance(card, dict) else int(rng.integers(len(card)))
        inner = card[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            card = inner
            continue
        if rng.random() < 0.25:
            del card[key]
        else:
            card[key] = copy.deepcopy(_CARD_VALUES[int(rng.integers(len(_CARD_VALUES)))])
        return


def _npy(shape: str, dtype: str, body: bytes) -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def _mutate_archive(path: Path, rng: np.random.Generator) -> None:
    """Write the archive anew with members that lie about their size, hold pickles, or are named to escape."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    lies = {
        "huge.npy": _npy("(1000000, 1000000)", "'<f8'", b"\0" * 64),
        "empty.npy": _npy("(1000000000000,)", "'<U0'", b""),
        "objects.npy": _npy("(1,)", "'|O'", b"\x80\x04cposix\nsystem\n(X\x0b\x00\x00\x00touch pwnedtR."),
        "deep.npy": _npy("(" * 500 + ")" * 500, "'<f8'", b""),
        "negative.npy": _npy("(-1,)", "'<f8'", b"\0" * 8),
        "fields.npy": _npy("(1,)", "[('a', '<f8', (1000000000,))]", b"\0" * 8),
        "../../escaped.npy": b"x",
        "/tmp/escaped.npy": b"x",
        "card.npy": json.dumps([1]).encode(),
        "bomb.npy": _npy("(4000000,)", "'|u1'", b"\0" * 4_000_000),
    }
    name = str(rng.choice(sorted(lies)))
    if rng.random() < 0.3:
        # Under a name that is read for sure.
        members[str(rng.choice(sorted(members)))] = lies[name]
    else:
        members[name] = lies[name]
    method = (
        zipfile.ZIP_DEFLATED
        if rng.random() < 0.8
        else int(rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED]))
    )
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    if rng.random() < 0.2:
        mutate_bytes(path, rng)
