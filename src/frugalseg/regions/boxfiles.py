"""Proposals in the files that others hand out: selective search and MCG as .mat, Detectron's and our own as .pkl or .npz.

A pickle is a program. Here it may name arrays, lists, dicts, text and numbers; whatever else it calls is refused.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from frugalseg.data import images, matlab

NAMES = ("images", "ids", "indexes", "names")  # keys under which files keep the pictures' names
SCORES = ("scores", "objectness_logits")  # keys under which they say how good each box is
MODE = "bbox_mode"  # detectron2's key for what the four numbers are; without it they are corners
CORNERS, SIDES = "0", "1"  # (x1, y1, x2, y2) and (x, y, width, height)
LARGEST_FILE = 4_000_000_000  # bytes, packed and unpacked: 2,000 boxes of each of VOC 2012's pictures are 740 MB
SUFFIXES = (".mat", ".pkl", ".pickle", ".npz")
HEADS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}  # of numpy's arrays, by version


class BoxFileError(ValueError):
    """A file of boxes that cannot be used; the message says why and what is expected."""


class BoxFiles:
    """The boxes of each picture, by its name: `boxes = BoxFiles(path)("2007_000032")`, (P, 4) float32 xyxy, best first.

    path: a folder with a file per picture (name.mat, .pkl or .npz), or one file for many pictures. A picture is known by its
    whole name, else by the last part of it, else by the number in that: train/COCO_train2014_000000000007 is 7. The order is
    the file's where it has no scores. MATLAB's files hold (y1, x1, y2, x2) and count from 1, unless there is a 0 among them.
    Other files count from 1 where no coordinate is 0 but some are 1. Boxes counted from 1 are moved to ours, which a warning
    says. Raises BoxFileError, also where two pictures are known by the same part of their names.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._warned = path, False
        self.many: dict[str, np.ndarray] = {} if path.is_dir() else self._read(path)
        lasts = Counter(map(_last, self.many))
        self._known = {_last(name): name for name in self.many if lasts[_last(name)] == 1} | {name: name for name in self.many}
        self._users: dict[str, str] = {}  # the first picture that took the boxes, by the files' name of them

    def __call__(self, name: str) -> Tensor:
        key = self._key(name)
        if key is None:
            hint = f"it knows {_some(list(self.many))}" if self.many else f"expected {name}{SUFFIXES[0]} or the like"
            raise BoxFileError(f"{self.path}: no boxes of the picture {name!r}; {hint}")
        user = self._users.setdefault(key, name)
        if name not in (key, user):
            raise BoxFileError(f"{self.path}: no boxes of the picture {name!r}; those of {key!r} are taken for {user!r}")
        return torch.from_numpy(self.many[key] if self.many else self._read(self._places(key)[0])[""])

    def missing(self, names: Sequence[str]) -> list[str]:
        """The pictures of a data set that the files say nothing of, or nothing that belongs to one of them alone."""
        self._users.clear()
        keys = {name: self._key(name) for name in names}
        users = Counter(keys.values())
        return [name for name, key in keys.items() if key is None or (key != name and users[key] > 1)]

    def _key(self, name: str) -> str | None:
        """The files' name of a picture; none that is in another folder than the picture's own name."""
        keys = (name, _last(name), _number(_last(name)))
        known = (self._known[key] for key in keys if key in self._known) if self.many else filter(self._places, keys)
        return next((own for own in known if own == name or "/" not in own or "/" not in name), None)

    def _places(self, name: str) -> list[Path]:
        return [place for suffix in SUFFIXES if (place := self.path / f"{name}{suffix}").is_file()]

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        boxes, moved = _read(path, alone=self.path.is_dir())
        if moved and not self._warned:
            self._warned = True
            warnings.warn(f"{path}: its boxes count pixels from 1; they are moved by one pixel to count from 0", stacklevel=3)
        return boxes


def _read(path: Path, alone: bool) -> tuple[dict[str, np.ndarray], bool]:
    """A file's boxes by its names of the pictures, and whether they were moved. alone: it is of one picture, called ""."""
    reader = {".mat": _mat, ".pkl": _pickle, ".pickle": _pickle, ".npz": _npz}.get(path.suffix)
    if reader is None:
        raise BoxFileError(f"{path}: got a {path.suffix or 'file without suffix'}; expected {', '.join(SUFFIXES)}")
    try:
        held = reader(path)
        if not isinstance(held, Mapping):
            raise BoxFileError(f"got a {type(held).__name__}; expected a dict with 'boxes', or from names to boxes")
        mode = _name(held.get(MODE, CORNERS))
        if mode not in (CORNERS, SIDES):
            raise BoxFileError(f"got {MODE} {mode}; expected {CORNERS}, (x1, y1, x2, y2), or {SIDES}, (x, y, width, height)")
        boxes = _pictures(held, alone, mat=path.suffix == ".mat")
        moved = _moved(list(boxes.values()), mat=path.suffix == ".mat")
        if mode == SIDES:
            for own in boxes.values():
                own[:, 2:] += own[:, :2]
    except BoxFileError as error:
        raise BoxFileError(f"{path}: {error}") from None
    except Exception as error:  # readers meet hostile bytes with all kinds of exceptions; there is no closed list
        raise BoxFileError(f"{path}: cannot be read as {path.suffix} ({type(error).__name__}: {error})") from None
    return boxes, moved


def _mat(path: Path) -> Mapping[str, Any]:
    wanted = ("boxes", MODE, *NAMES, *SCORES)
    return {key: value for key, value in matlab.variables(path, wanted, LARGEST_FILE).items() if key[:2] != "__"}


def _npz(path: Path) -> Mapping[str, Any]:
    with zipfile.ZipFile(path) as packed:
        size = sum(_claimed(packed, entry) for entry in packed.infolist())
    if size > LARGEST_FILE:
        raise BoxFileError(
            f"its arrays claim {size:,} bytes; expected at most {LARGEST_FILE:,}, those of fewer pictures in a file"
        )
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _claimed(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Bytes that an array in a zip file will take, by its head and the zip file's: one byte there can stand for a thousand."""
    with packed.open(entry) as file:
        shape, _, dtype = HEADS[npy.read_magic(file)](file)
    return max(entry.file_size, prod(shape) * dtype.itemsize)


def _pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return Unpickler(file, encoding="latin1").load()  # latin1: what pickles of Python 2 keep arrays in


# -- pickles -----------------------------------------------------------------------------------------------------------

ODD = "the pickle builds an array in a way that numpy does not"


class Kind:
    """Stands in for numpy's dtype, which believes what a pickle tells it: numbers, truth values, text or objects, no fields."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch("[biuf][0-9]{1,2}|[SU][0-9]{1,9}|O8?", code):
            raise BoxFileError(f"the pickle has an array of {code:.20}; expected numbers or text")
        self.dtype = np.dtype(code)

    def fill(self, state: list[Any]) -> None:
        """What the pickle says of the dtype after its code: byte order only. Raises BoxFileError for fields."""
        _, order, base, names, fields, *_ = state
        if order not in ("<", ">", "=", "|") or (base, names, fields) != (None, None, None):
            raise BoxFileError(ODD)
        self.dtype = self.dtype.newbyteorder(order)


class Array:
    """Stands in for numpy's array and number, which believe what a pickle tells them."""

    def fill(self, state: list[Any]) -> None:
        """What the pickle says of the array: shape, dtype, order and bytes, checked against each other. Raises BoxFileError."""
        *_, shape, kind, fortran, data = state
        if not isinstance(kind, Kind) or len(shape) > 32 or not all(type(side) is int and 0 <= side < 2**40 for side in shape):
            raise BoxFileError(ODD)
        self.shape, self.dtype, self.fortran, self.data = tuple(shape), kind.dtype, bool(fortran), data
        held, size = (list, 1) if self.dtype.hasobject else ((bytes, str), self.dtype.itemsize)
        if not isinstance(data, held) or len(data) != size * prod(shape):
            raise BoxFileError(ODD)

    def opened(self) -> Any:
        """(*shape) of numbers or text, or the objects as a list. Made anew each time: many arrays may name the same bytes."""
        if self.dtype.hasobject:
            return self.data
        raw = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        return np.frombuffer(raw, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(*_: Any) -> Array:
    """numpy's of the same name: an array that the pickle fills afterwards."""
    return Array()


def _scalar(kind: Any, data: Any) -> Array:
    """numpy's of the same name."""
    return _frombuffer(data, kind, [], "C")


def _frombuffer(data: Any, kind: Any, shape: list[int], order: str) -> Array:
    """numpy's of the same name."""
    if order not in ("C", "F"):
        raise BoxFileError(ODD)
    made = Array()
    made.fill([shape, kind, order == "F", data])
    return made


def _same(value: Any = "", *_: Any) -> Any:
    """For calls that turn text into bytes, or a number into its name."""
    return value


HARMLESS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Kind,
    ("_codecs", "encode"): _same,  # how newer Pythons write bytes for older ones
    ("__builtin__", "bytes"): _same,  # … and no bytes at all
    ("detectron2.structures.boxes", "BoxMode"): _same,
}


def _tuple(length: int) -> Callable[[Any], None]:
    def load(reader: Any) -> None:
        reader.stack[-length:] = [reader.stack[-length:]]

    return load


def _build(reader: Any) -> None:
    state = reader.stack.pop()
    reader.stack[-1].fill(state)


LOADS = pickle._Unpickler.dispatch


class Unpickler(pickle._Unpickler):
    """Reads pickles of plain values and numpy arrays, and calls nothing else.

    The reader in C takes all the memory that a few bytes ask for, so this is the one in Python. Tuples come as lists, which are
    no keys: Python crashes at the hash of a deep tuple.
    """

    dispatch: ClassVar = {
        **LOADS,
        pickle.BUILD[0]: _build,
        pickle.EMPTY_TUPLE[0]: LOADS[pickle.EMPTY_LIST[0]],
        pickle.TUPLE[0]: LOADS[pickle.LIST[0]],
        pickle.TUPLE1[0]: _tuple(1),
        pickle.TUPLE2[0]: _tuple(2),
        pickle.TUPLE3[0]: _tuple(3),
        pickle.BYTEARRAY8[0]: LOADS[pickle.BINBYTES8[0]],  # a bytearray is zeroed at the length it claims
    }

    def find_class(self, module: str, name: str) -> Any:
        """The harmless stand-in for what the pickle calls. Raises BoxFileError for all else: nothing of it is run."""
        known = HARMLESS.get((module.replace("numpy._core", "numpy.core"), name))
        if known is None:
            raise BoxFileError(f"the pickle calls {module}.{name}, which reading boxes does not need; it was not run")
        return known


# -- what the files hold -----------------------------------------------------------------------------------------------


def _pictures(held: Mapping[Any, Any], alone: bool, mat: bool) -> dict[str, np.ndarray]:
    """The boxes of each picture as the file counts them, best first."""
    told = _some([key for key in held if isinstance(key, str)])
    rows, names, scores = (next((held[key] for key in keys if key in held), None) for keys in (("boxes",), NAMES, SCORES))
    if alone:
        if rows is None:
            raise BoxFileError(f"got {told}; expected an array 'boxes' (P, 4)")
        rows, names, scores = [rows], [""], None if scores is None else [scores]
    elif rows is None or names is None:  # a mapping from names to arrays
        pairs = {key: value for key, value in held.items() if _may_be_boxes(value)}
        rows, names, scores = list(pairs.values()), list(pairs), None
    rows, names = _cells(rows), _cells(names)
    scores = [None] * len(rows) if scores is None else _cells(scores)
    if not rows or len(rows) != len(names):
        got = f"{len(rows)} arrays of boxes and {len(names)} names under {told}"
        raise BoxFileError(f"got {got}; expected one array 'boxes' (P, 4) for each of {' or '.join(map(repr, NAMES))}")
    if len(scores) != len(rows):
        raise BoxFileError(f"got {len(scores)} arrays of scores for {len(rows)} of boxes; expected one for each")
    found: dict[str, np.ndarray] = {}
    left = LARGEST_FILE
    for name, own, worth in zip(map(_name, names), rows, scores, strict=True):
        if name in found:
            raise BoxFileError(f"got the picture {name!r} twice; expected each once")
        found[name] = _ranked(_boxes(own, turned=mat), worth)
        left -= found[name].nbytes
        if left < 0:  # a pickle may name the same bytes again and again
            raise BoxFileError(f"its boxes take more than {LARGEST_FILE:,} bytes")
    return found


def _may_be_boxes(value: Any) -> bool:
    """Whether it has two dimensions, or nothing at all."""
    if isinstance(value, list):
        return not value or isinstance(value[0], (list, Array))
    shape = getattr(value, "shape", (1,))
    return len(shape) == 2 or 0 in shape


def _boxes(values: Any, turned: bool) -> np.ndarray:
    """One picture's array as (P, 4) float32, a copy. turned: it holds (y1, x1, y2, x2)."""
    values = _opened(values)
    if isinstance(values, list):  # numpy would go into lists of lists of lists, which a pickle can make without end
        sides = array("d", (_opened(side) for row in values for side in _opened(row)[:4]))
        values = np.array(sides).reshape(len(values) if sides else 0, 4)
    values = np.asarray(values)
    if values.dtype.kind not in "iuf" or (values.size and (values.ndim != 2 or values.shape[1] < 4)):
        raise BoxFileError(f"got boxes of shape {values.shape} and type {values.dtype}; expected numbers (P, 4)")
    corners = values[:, :4].astype(np.float32) if values.size else np.zeros((0, 4), np.float32)
    return corners[:, [1, 0, 3, 2]] if turned else corners


def _ranked(boxes: np.ndarray, scores: Any) -> np.ndarray:
    """The boxes, best first, where there are scores."""
    if scores is None:
        return boxes
    scores = _opened(scores)
    worth = np.array(array("d", map(_opened, scores)) if isinstance(scores, list) else scores, np.float64).ravel()
    if len(worth) != len(boxes):
        raise BoxFileError(f"got {len(worth)} scores of {len(boxes)} boxes; expected one for each")
    return boxes[np.argsort(-worth, kind="stable")]


def _moved(boxes: list[np.ndarray], mat: bool) -> bool:
    """Whether the boxes counted from 1, both ends inside. They then count from 0, and end one past the last pixel."""
    least = min(np.fmin.reduce(own[:, :2], axis=None, initial=np.inf) for own in boxes)
    if not 1 <= least < np.inf or (least > 1 and not mat):
        return False
    for own in boxes:
        own[:, :2] -= 1
    return True


def _opened(value: Any) -> Any:
    return value.opened() if isinstance(value, Array) else value


def _cells(values: Any) -> list[Any]:
    """A list, a row of MATLAB's cells, or an array's rows, as a list."""
    values = _opened(values)
    return list(values.ravel() if isinstance(values, np.ndarray) and values.dtype == object else values)


# -- names -------------------------------------------------------------------------------------------------------------


def _name(value: Any) -> str:
    """A picture's name without a picture's ending, however deep MATLAB has wrapped it; the digits alone of a number."""
    value = _opened(value)
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        return _name(value.item())
    if isinstance(value, list) and len(value) == 1:
        return _name(value[0])
    if isinstance(value, bytes):
        return _name(value.decode(errors="replace"))
    if not isinstance(value, str | int | float):
        raise BoxFileError(f"got a {type(value).__name__} as the name of a picture; expected text or a number")
    stem, ending = os.path.splitext(str(value))
    return stem if ending.lower() in images.SUFFIXES else str(value)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _number(name: str) -> str:
    """The name as files have it that keep names as numbers: 2007_000032 is 2007000032, 000005 is 5, COCO_train2014_0007 is 7."""
    digits = name.replace("_", "")
    digits = digits if digits.isdecimal() else name[len(name.rstrip("0123456789")) :]
    return (digits.lstrip("0") or "0") if digits else name


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "") if names else "nothing"
