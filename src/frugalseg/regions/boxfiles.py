"""Proposals in the files that others hand out: selective search and MCG as .mat, Detectron's and our own as .pkl or .npz.

A pickle is a program. Here it may build numpy arrays, lists, dicts, text and numbers; whatever else it calls is refused.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frugalseg.data import matlab

NAMES = ("images", "ids", "indexes", "names")  # keys under which files keep the pictures' names
LARGEST_FILE = 4_000_000_000  # bytes, packed and unpacked: 2,000 boxes of each of VOC 2012's pictures are 740 MB
SUFFIXES = (".mat", ".pkl", ".pickle", ".npz")


class BoxFileError(ValueError):
    """A file of boxes that cannot be used; the message says why and what is expected."""


class BoxFiles:
    """The boxes of each picture, by its name: `boxes = BoxFiles(path)("2007_000032")`, (P, 4) float32 xyxy.

    path: a folder with a file per picture (name.mat, .pkl or .npz), or one file for many pictures. MATLAB's files hold
    (y1, x1, y2, x2) and count from 1, unless there is a 0 among them. Other files count from 1 where no coordinate is 0 but some
    are 1. Boxes counted from 1 are moved to ours, which a warning says. Raises BoxFileError.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._warned = path, False
        self.many: dict[str, np.ndarray] = {} if path.is_dir() else self._table(path)

    def __call__(self, name: str) -> Tensor:
        own = self._of_folder(name) if self.path.is_dir() else self.many.get(name, self.many.get(_digits(name)))
        if own is None:
            raise BoxFileError(f"{self.path}: no boxes of the picture {name!r}; it knows {_some(list(self.many))}")
        return torch.from_numpy(own)

    def missing(self, names: Sequence[str]) -> list[str]:
        """The pictures that the files say nothing of."""
        if self.path.is_dir():
            return [name for name in names if self._file(name) is None]
        return [name for name in names if name not in self.many and _digits(name) not in self.many]

    def _file(self, name: str) -> Path | None:
        return next((place for suffix in SUFFIXES if (place := self.path / f"{name}{suffix}").is_file()), None)

    def _of_folder(self, name: str) -> np.ndarray:
        found = self._file(name)
        if found is None:
            raise BoxFileError(f"{self.path}: no boxes of the picture {name!r}; expected {name}{SUFFIXES[0]} or the like")
        held, turned = _read(found), found.suffix == ".mat"
        if "boxes" not in held:
            raise BoxFileError(f"{found}: got {_some(list(held))}; expected an array 'boxes' (P, 4)")
        (own,) = self._moved([_boxes(found, held["boxes"], turned)], found)
        return own

    def _table(self, path: Path) -> dict[str, np.ndarray]:
        held = _read(path)
        rows = held.get("boxes")
        names = next((held[key] for key in NAMES if key in held), None)
        if rows is None or names is None:  # a mapping from names to arrays
            pairs = {key: value for key, value in held.items() if np.ndim(value) == 2}
            rows, names = list(pairs.values()), list(pairs)
        rows, names = _cells(rows), [_name(name) for name in _cells(names)]
        if not rows or len(rows) != len(names):
            got = f"{len(rows)} arrays of boxes and {len(names)} names under {_some(list(held))}"
            raise BoxFileError(
                f"{path}: got {got}; expected one array 'boxes' (P, 4) for each of {' or '.join(map(repr, NAMES))}"
            )
        boxes = self._moved([_boxes(path, own, path.suffix == ".mat") for own in rows], path)
        return dict(zip(names, boxes, strict=True))

    def _moved(self, boxes: list[np.ndarray], path: Path) -> list[np.ndarray]:
        """Boxes counted from 1, both ends inside, as boxes counted from 0 whose ends lie one past the last pixel."""
        starts = np.concatenate([own[:, :2].ravel() for own in boxes])
        least = np.nanmin(starts, initial=np.inf)
        if not 1 <= least < np.inf or (least > 1 and path.suffix != ".mat"):
            return boxes
        if not self._warned:
            self._warned = True
            warnings.warn(f"{path}: its boxes count pixels from 1; they are moved by one pixel to count from 0", stacklevel=4)
        return [own - np.array([1, 1, 0, 0], np.float32) for own in boxes]


def _read(path: Path) -> Mapping[str, Any]:
    """What a file holds by its keys."""
    reader = {".mat": _mat, ".pkl": _pickle, ".pickle": _pickle, ".npz": _npz}.get(path.suffix)
    if reader is None:
        raise BoxFileError(f"{path}: got a {path.suffix or 'file without suffix'}; expected {', '.join(SUFFIXES)}")
    try:
        held = reader(path)
    except BoxFileError:
        raise
    except Exception as error:  # readers meet hostile bytes with all kinds of exceptions; there is no closed list
        raise BoxFileError(f"{path}: cannot be read as {path.suffix} ({type(error).__name__}: {error})") from None
    if not isinstance(held, Mapping):
        raise BoxFileError(f"{path}: got a {type(held).__name__}; expected a dict with 'boxes', or from names to boxes")
    return {str(key): value for key, value in held.items()}


def _mat(path: Path) -> Mapping[str, Any]:
    return {key: value for key, value in matlab.variables(path, ("boxes", *NAMES), LARGEST_FILE).items() if key[:2] != "__"}


def _npz(path: Path) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return Arrays(file, encoding="latin1").load()  # latin1: what pickles of Python 2 keep arrays in


class Arrays(pickle.Unpickler):
    """Reads pickles of plain values and numpy arrays, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = HARMLESS.get((module.replace("numpy._core", "numpy.core"), name))
        if known is None:
            raise BoxFileError(f"the pickle calls {module}.{name}, which reading boxes does not need; it was not run")
        return known


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """numpy's `_reconstruct`: an empty array that the pickle fills afterwards."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise BoxFileError("the pickle builds an array in a way that numpy does not")
    return np.ndarray((0,), "b")


def _scalar(kind: np.dtype, data: Any = None) -> Any:
    """numpy's `scalar`, for numbers alone."""
    if not isinstance(kind, np.dtype) or kind.hasobject:
        raise BoxFileError("the pickle builds a number in a way that numpy does not")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind, count=1)[0]


def _frombuffer(data: Any, kind: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """numpy's of the same name, for numbers alone."""
    if not isinstance(kind, np.dtype) or kind.hasobject or order not in ("C", "F"):
        raise BoxFileError("the pickle builds an array in a way that numpy does not")
    return np.frombuffer(data, kind).reshape(shape, order="F" if order == "F" else "C")


def _dtype(*arguments: Any) -> np.dtype:
    return np.dtype(*arguments)


def _encode(text: str, encoding: str = "utf8") -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf8")


HARMLESS: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,  # how newer Pythons write bytes for older ones
}


def _boxes(path: Path, values: Any, turned: bool) -> np.ndarray:
    """One picture's array as (P, 4) float32 xyxy. turned: it holds (y1, x1, y2, x2)."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or (array.size and (array.ndim != 2 or array.shape[1] < 4)):
        raise BoxFileError(f"{path}: got boxes of shape {array.shape} and type {array.dtype}; expected numbers (P, 4)")
    corners = array[:, :4].astype(np.float32) if array.size else np.zeros((0, 4), np.float32)
    return corners[:, [1, 0, 3, 2]] if turned else corners


def _cells(values: Any) -> list[Any]:
    """A list, a row of MATLAB's cells, or an array's rows, as a list."""
    if isinstance(values, np.ndarray) and values.dtype == object:
        return list(values.ravel())
    return list(values)


def _name(value: Any) -> str:
    """A picture's name, however deep MATLAB has wrapped it; the digits alone of a number."""
    while isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    return Path(value).stem if isinstance(value, str) else str(value)


def _digits(name: str) -> str:
    """The name as files have it that keep names as numbers: 2007_000032 is 2007000032, 000005 is 5."""
    digits = name.replace("_", "")
    return str(int(digits)) if digits.isdigit() else name


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "") if names else "nothing"
