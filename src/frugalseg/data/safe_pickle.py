"""Pickles of plain values and numpy arrays, read without running any code.

A pickle is a program. Here it may build lists, dicts, text, numbers and arrays; any other call is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

MALFORMED = "the pickle builds an array in a way that numpy does not"


class PickleRefused(ValueError):
    """A pickle that holds more than plain values and arrays, or arrays that contradict themselves."""


def load(path: Path) -> Any:
    """The value in a pickle file, with lists for its tuples and `PickledArray` for its arrays.

    Raises PickleRefused, and for damaged files whatever their bytes make Python's reader raise.
    """
    with path.open("rb") as file:
        return Unpickler(file, encoding="latin1").load()  # latin1: pickles of Python 2 hold arrays as such text


# -- arrays ------------------------------------------------------------------------------------------------------------


class PickledType:
    """Replaces numpy's dtype, which trusts the pickle: numbers, truth values, text or objects, no fields."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch("[biuf][0-9]{1,2}|[SU][0-9]{1,9}|O8?", code):
            raise PickleRefused(f"the pickle has an array of {code:.20}; expected numbers or text")
        self.dtype = np.dtype(code)

    def fill(self, state: list[Any]) -> None:
        """Take the state that the pickle gives it."""
        _, order, base, names, fields, *_ = state
        if order not in ("<", ">", "=", "|") or (base, names, fields) != (None, None, None):
            raise PickleRefused(MALFORMED)
        self.dtype = self.dtype.newbyteorder(order)


class PickledArray:
    """Replaces numpy's array and scalar, which trust the pickle."""

    def fill(self, state: list[Any]) -> None:
        """Take the state that the pickle gives it."""
        *_, shape, kind, fortran, data = state
        sides_valid = len(shape) <= 32 and all(type(side) is int and 0 <= side < 2**40 for side in shape)
        if not isinstance(kind, PickledType) or not sides_valid:
            raise PickleRefused(MALFORMED)
        self.shape, self.dtype, self.fortran, self.data = tuple(shape), kind.dtype, bool(fortran), data
        expected, size = (list, 1) if self.dtype.hasobject else ((bytes, str), self.dtype.itemsize)
        if not isinstance(data, expected) or len(data) != size * prod(shape):
            raise PickleRefused(MALFORMED)

    def opened(self) -> Any:
        """(*shape) of numbers or text, or the objects as a list. Made anew each time: many arrays may name the same bytes."""
        if self.dtype.hasobject:
            return self.data
        raw = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        return np.frombuffer(raw, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(*_: Any) -> PickledArray:
    """Replaces numpy's function of that name: an array that the pickle fills afterwards."""
    return PickledArray()


def _scalar(kind: Any, data: Any) -> PickledArray:
    """Replaces numpy's function of that name."""
    return _frombuffer(data, kind, [], "C")


def _frombuffer(data: Any, kind: Any, shape: list[int], order: str) -> PickledArray:
    """Replaces numpy's function of that name."""
    if order not in ("C", "F"):
        raise PickleRefused(MALFORMED)
    array = PickledArray()
    array.fill([shape, kind, order == "F", data])
    return array


def _same(value: Any = "", *_: Any) -> Any:
    """Replaces calls that turn text into bytes, or a number into its name."""
    return value


# -- the reader --------------------------------------------------------------------------------------------------------

ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledType,
    ("_codecs", "encode"): _same,  # how newer Pythons write bytes for older ones
    ("__builtin__", "bytes"): _same,  # … and no bytes at all
    ("detectron2.structures.boxes", "BoxMode"): _same,
}


def _tuple(length: int) -> Callable[[Any], None]:
    """The operation that makes a list of the last values where pickle makes a tuple."""

    def operation(reader: Any) -> None:
        reader.stack[-length:] = [reader.stack[-length:]]

    return operation


def _build(reader: Any) -> None:
    state = reader.stack.pop()
    reader.stack[-1].fill(state)


OPERATIONS = pickle._Unpickler.dispatch


class Unpickler(pickle._Unpickler):
    """Reads pickles of plain values and numpy arrays, and calls nothing else.

    The C implementation allocates all the memory that a few bytes ask for, so this is the Python one. Tuples become lists, which
    cannot be keys: Python crashes when it hashes a deep tuple.
    """

    dispatch: ClassVar = {
        **OPERATIONS,
        pickle.BUILD[0]: _build,
        pickle.EMPTY_TUPLE[0]: OPERATIONS[pickle.EMPTY_LIST[0]],
        pickle.TUPLE[0]: OPERATIONS[pickle.LIST[0]],
        pickle.TUPLE1[0]: _tuple(1),
        pickle.TUPLE2[0]: _tuple(2),
        pickle.TUPLE3[0]: _tuple(3),
        pickle.BYTEARRAY8[0]: OPERATIONS[pickle.BINBYTES8[0]],  # a bytearray would be allocated at the length it claims
    }

    def find_class(self, module: str, name: str) -> Any:
        """The replacement of a function or class that the pickle names."""
        allowed = ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if allowed is None:
            raise PickleRefused(f"the pickle calls {module}.{name}, which plain values do not need; it was not run")
        return allowed
