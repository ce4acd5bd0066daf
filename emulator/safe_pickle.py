"""Reading pickled lists of NumPy arrays without unpickling: the opcodes are interpreted here, and nothing they name is run.

A pickle is a program for a stack machine. `pickletools` splits it into opcodes, which executes nothing; the machine of this
module knows only those that lists, tuples, numbers, strings and arrays need. The few names that it accepts are never imported:
each stands for a rule of this module that checks its arguments, and arrays are made from the raw bytes in the file.
"""

import math
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.errors import ArtifactError

__all__ = ["read_array_pickle"]

MAX_FILE_BYTES = 256 * 1024**2
_MAX_OPCODES = 100_000
_MAX_DIMENSIONS = 4


class _Rule(Enum):
    """What an accepted name stands for."""

    RECONSTRUCT = auto()
    FROM_BUFFER = auto()
    SCALAR = auto()
    ARRAY_TYPE = auto()
    DTYPE = auto()
    LIST = auto()


_NAMES = {
    **{f"numpy.{core}.multiarray _reconstruct": _Rule.RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _Rule.SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _Rule.FROM_BUFFER for core in ("core", "_core")},
    "numpy ndarray": _Rule.ARRAY_TYPE,
    "numpy dtype": _Rule.DTYPE,
    # The list that TensorFlow 2 puts in place of a list that is an attribute of a module, before and since 2.9.
    "tensorflow.python.training.tracking.data_structures ListWrapper": _Rule.LIST,
    "tensorflow.python.trackable.data_structures ListWrapper": _Rule.LIST,
}
_DTYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = {"PROTO", "FRAME"}


class _Refused(Exception):
    """The pickle does what a list of arrays does not need."""


@dataclass
class _Dtype:
    """A dtype whose byte order comes after it."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass
class _Array:
    """An array whose content comes after it."""

    value: np.ndarray | None = None


class _Machine:
    """The stack machine; `run` returns what the pickle holds."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.array_bytes = 0
        self._steps: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "TUPLE": lambda _: self.stack.append(tuple(self._since_mark())),
            "APPEND": lambda _: self._extend(self._pop(1)),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "GLOBAL": lambda name: self.stack.append(_rule(name)),
            "STACK_GLOBAL": lambda _: self._stack_global(),
            "MEMOIZE": lambda _: self._remember(len(self.memo)),
            "BINPUT": self._remember,
            "LONG_BINPUT": self._remember,
            "BINGET": lambda index: self.stack.append(self._recall(index)),
            "LONG_BINGET": lambda index: self.stack.append(self._recall(index)),
            "REDUCE": lambda _: self._reduce(),
            "BUILD": lambda _: self._build(),
        }

    def run(self, data: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            name = opcode.name
            if count >= _MAX_OPCODES:
                raise _Refused(f"it has more than {_MAX_OPCODES} opcodes")
            if name == "STOP":
                (result,) = self._pop(1)
                return result
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _TUPLES:
                self.stack.append(tuple(self._pop(_TUPLES[name])))
            elif name in self._steps:
                self._steps[name](argument)
            elif name not in _NO_EFFECT:
                raise _Refused(f"its opcode {name} is not one that lists of arrays need")
        raise _Refused("it does not end")

    def _pop(self, n: int) -> list[Any]:
        """The top `n` values, arrays in place of their stand-ins."""
        start = len(self.stack) - n
        if start < (self.marks[-1] if self.marks else 0):
            raise _Refused("its stack is empty where a value is needed")
        values = self.stack[start:]
        del self.stack[start:]
        return [_finished(value) for value in values]

    def _since_mark(self) -> list[Any]:
        if not self.marks:
            raise _Refused("it lacks a mark")
        n = len(self.stack) - self.marks[-1]
        values = self._pop(n)
        self.marks.pop()
        return values

    def _top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _Refused("its stack is empty where a value is needed")
        return self.stack[-1]

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise _Refused(f"it appends to a {type(target).__name__}")
        target.extend(values)

    def _remember(self, index: int) -> None:
        self.memo[index] = self._top()

    def _recall(self, index: int) -> Any:
        if index not in self.memo:
            raise _Refused(f"it recalls entry {index}, which it never stored")
        return self.memo[index]

    def _stack_global(self) -> None:
        module, name = self._pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _Refused("it names something by other than strings")
        self.stack.append(_rule(f"{module} {name}"))

    def _reduce(self) -> None:
        rule, arguments = self._pop(2)
        match rule, arguments:
            case _Rule.LIST, (list(values),):
                self.stack.append(values)
            case _Rule.RECONSTRUCT, (_Rule.ARRAY_TYPE, (0,), b"b"):
                self.stack.append(_Array())
            case _Rule.DTYPE, (str(code), 0 | False, 1 | True) if code in _DTYPES:
                self.stack.append(_Dtype(code))
            case _Rule.SCALAR, (_Dtype() as dtype, bytes(raw)):
                self.stack.append(self._array((), dtype, raw, "C")[()])
            case _Rule.FROM_BUFFER, (bytes() | bytearray() as raw, _Dtype() as dtype, tuple(shape), "C" | "F" as order):
                self.stack.append(self._array(shape, dtype, raw, order))
            case _:
                raise _Refused(f"it calls {_describe(rule)} with arguments that no array of numbers has")

    def _build(self) -> None:
        (state,) = self._pop(1)
        match self._top(), state:
            case _Dtype() as dtype, (3, "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
                dtype.order = order
            case _Array(value=None) as array, (1, tuple(shape), _Dtype() as dtype, bool(fortran), bytes(raw)):
                array.value = self._array(shape, dtype, raw, "F" if fortran else "C")
            case target, _:
                raise _Refused(f"it sets a state that no {type(target).__name__.strip('_').lower()} of numbers has")

    def _array(self, shape: tuple[Any, ...], dtype: _Dtype, raw: bytes | bytearray, order: str) -> np.ndarray:
        if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
            raise _Refused(f"an array's shape is not made of 0 to {_MAX_DIMENSIONS} natural numbers")
        numpy_dtype = dtype.numpy()
        if len(raw) != math.prod(shape) * numpy_dtype.itemsize:
            raise _Refused(f"an array of shape {shape} and dtype {numpy_dtype} has {len(raw)} bytes")
        # One string of bytes may be named many times, so that a small file could ask for much memory.
        self.array_bytes += len(raw)
        if self.array_bytes > MAX_FILE_BYTES:
            raise _Refused(f"its arrays would take more than {MAX_FILE_BYTES} bytes")
        flat = np.frombuffer(raw, dtype=numpy_dtype).astype(numpy_dtype.newbyteorder("="))
        return flat.reshape(shape, order="F" if order == "F" else "C")


def _finished(value: Any) -> Any:
    if not isinstance(value, _Array):
        return value
    if value.value is None:
        raise _Refused("it uses an array before giving its content")
    return value.value


def _rule(name: str) -> _Rule:
    if name not in _NAMES:
        raise _Refused(f"it names {name.replace(' ', '.')!r:.120}, which is none of NumPy's array constructors")
    return _NAMES[name]


def _describe(rule: Any) -> str:
    return rule.name.lower() if isinstance(rule, _Rule) else f"a {type(rule).__name__}"


def read_array_pickle(path: str | Path) -> Any:
    """What a pickle of lists, tuples, numbers, strings and NumPy arrays holds; nothing in it is executed or imported.

    Lists that TensorFlow 2 wrapped come back as lists. Arrays are writable copies in the machine's byte order.

    Parameters
    ----------
    path : a pickle of protocol 3 to 5, at most 256 MiB.

    Raises
    ------
    ArtifactError : if the file is missing, too large, truncated, no pickle, or asks for anything else than such data.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ArtifactError(f"{path} is larger than {MAX_FILE_BYTES} bytes: it is not an emulator's weight file")
    try:
        with warnings.catch_warnings():
            # pickletools decodes the escapes of a Python 2 string, which is refused, but not before a warning.
            warnings.simplefilter("ignore", DeprecationWarning)
            return _Machine().run(data)
    except _Refused as reason:
        raise ArtifactError(
            f"{path} was refused, and nothing in it was run: {reason}; get it from its authors again"
        ) from reason
    except (ValueError, OverflowError) as error:
        raise ArtifactError(f"{path} is not a complete pickle (truncated, or another format): {error}") from error
