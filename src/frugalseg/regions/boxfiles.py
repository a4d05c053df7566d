"""Proposals from files: selective search's and MCG's as .mat, Detectron's as .pkl, or .npz."""

from __future__ import annotations

import os
import warnings
import zipfile
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from frugalseg.data import images, matlab, safe_pickle
from frugalseg.data.safe_pickle import PickledArray, PickleRefused
from frugalseg.errors import FrugalsegError

NAMES = ("images", "ids", "indexes", "names")  # keys under which files list the names of the images
SCORES = ("scores", "objectness_logits")  # keys under which they list the scores of the boxes
MODE = "bbox_mode"  # detectron2's key for what the four numbers are; without it they are corners
CORNERS, SIDES = "0", "1"  # (x1, y1, x2, y2) and (x, y, width, height)
LARGEST_FILE = 4_000_000_000  # bytes, packed and unpacked: 2,000 boxes of each image of VOC 2012 are 740 MB
SUFFIXES = (".mat", ".pkl", ".pickle", ".npz")
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}  # of numpy's arrays, by version


class BoxFileError(FrugalsegError, ValueError):
    """A file of boxes that cannot be used; the message says why and what is expected."""


class BoxFiles:
    """The boxes of each image, by its name: `BoxFiles(path)("2007_000032")` is (P, 4) float32 xyxy, best first.

    path: a folder with a file for each image (name.mat, .pkl or .npz), or one file for many. An image is found by its whole name,
    else by the last part of it, else by the number in that: train/COCO_train2014_000000000007 is 7. Without scores the boxes
    stay in the file's order. MATLAB's files hold (y1, x1, y2, x2) and count from 1, unless they contain a 0. Other files count
    from 1 if they contain 1 and no 0. Boxes that count from 1 are shifted to count from 0, with a warning.
    Raises BoxFileError, also where two images are found by the same part of their names.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._warned = path, False
        self.by_name: dict[str, np.ndarray] = {} if path.is_dir() else self._read(path)
        counts = Counter(map(_last_part, self.by_name))
        unique = {_last_part(name): name for name in self.by_name if counts[_last_part(name)] == 1}
        self._names = unique | {name: name for name in self.by_name}
        self._taken_by: dict[str, str] = {}  # name in the files -> the first image that took its boxes

    def __call__(self, name: str) -> Tensor:
        key = self._key(name)
        if key is None:
            hint = f"it has {_listed(list(self.by_name))}" if self.by_name else f"expected {name}{SUFFIXES[0]} or the like"
            raise BoxFileError(f"{self.path}: no boxes of the image {name!r}; {hint}")
        first = self._taken_by.setdefault(key, name)
        if name not in (key, first):
            raise BoxFileError(f"{self.path}: no boxes of the image {name!r}; those of {key!r} are taken for {first!r}")
        return torch.from_numpy(self.by_name[key] if self.by_name else self._read(self._files(key)[0])[""])

    def missing(self, names: Sequence[str]) -> list[str]:
        """The images of a data set that the files do not have, or share with another image of it."""
        self._taken_by.clear()
        keys = {name: self._key(name) for name in names}
        counts = Counter(keys.values())
        return [name for name, key in keys.items() if key is None or (key != name and counts[key] > 1)]

    def _key(self, name: str) -> str | None:
        """The files' name of an image; none that is in another folder than the image's own name."""
        keys = (name, _last_part(name), _number(_last_part(name)))
        present = (self._names[key] for key in keys if key in self._names) if self.by_name else filter(self._files, keys)
        return next((key for key in present if key == name or "/" not in key or "/" not in name), None)

    def _files(self, name: str) -> list[Path]:
        return [file for suffix in SUFFIXES if (file := self.path / f"{name}{suffix}").is_file()]

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        boxes, shifted = _read(path, single=self.path.is_dir())
        if shifted and not self._warned:
            self._warned = True
            warnings.warn(f"{path}: its boxes count pixels from 1; they are shifted by one pixel to count from 0", stacklevel=3)
        return boxes


# -- files -------------------------------------------------------------------------------------------------------------


def _read(path: Path, single: bool) -> tuple[dict[str, np.ndarray], bool]:
    """A file's boxes by its names of the images, and whether they were shifted. single: it is of one image, called ""."""
    reader = {".mat": _mat, ".pkl": safe_pickle.load, ".pickle": safe_pickle.load, ".npz": _npz}.get(path.suffix)
    if reader is None:
        raise BoxFileError(f"{path}: got a {path.suffix or 'file without suffix'}; expected {', '.join(SUFFIXES)}")
    try:
        return _interpreted(reader(path), single, mat=path.suffix == ".mat")
    except (BoxFileError, PickleRefused) as error:
        raise BoxFileError(f"{path}: {error}") from None
    except Exception as error:  # hostile bytes raise all kinds of exceptions in the readers; there is no closed list
        raise BoxFileError(f"{path}: cannot be read as {path.suffix} ({type(error).__name__}: {error})") from None


def _interpreted(content: Any, single: bool, mat: bool) -> tuple[dict[str, np.ndarray], bool]:
    """The boxes by image that a file's content means, xyxy from 0, and whether they counted from 1."""
    if not isinstance(content, Mapping):
        raise BoxFileError(f"got a {type(content).__name__}; expected a dict with 'boxes', or from names to boxes")
    mode = _name(content.get(MODE, CORNERS))
    if mode not in (CORNERS, SIDES):
        raise BoxFileError(f"got {MODE} {mode}; expected {CORNERS}, (x1, y1, x2, y2), or {SIDES}, (x, y, width, height)")
    boxes = _by_image(content, single, mat)
    shifted = _shift_to_zero(list(boxes.values()), mat)
    if mode == SIDES:
        for rows in boxes.values():
            rows[:, 2:] += rows[:, :2]
    return boxes, shifted


def _mat(path: Path) -> Mapping[str, Any]:
    wanted = ("boxes", MODE, *NAMES, *SCORES)
    return {key: value for key, value in matlab.variables(path, wanted, LARGEST_FILE).items() if key[:2] != "__"}


def _npz(path: Path) -> Mapping[str, Any]:
    with zipfile.ZipFile(path) as packed:
        size = sum(_claimed(packed, entry) for entry in packed.infolist())
    if size > LARGEST_FILE:
        raise BoxFileError(f"its arrays claim {size:,} bytes; expected at most {LARGEST_FILE:,}, those of fewer images in a file")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _claimed(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Bytes that an array in a zip file will take, by its header and the zip file's: one packed byte can mean a thousand."""
    with packed.open(entry) as file:
        shape, _, dtype = HEADERS[npy.read_magic(file)](file)
    return max(entry.file_size, prod(shape) * dtype.itemsize)


# -- what the files hold -----------------------------------------------------------------------------------------------


def _by_image(content: Mapping[Any, Any], single: bool, mat: bool) -> dict[str, np.ndarray]:
    """The boxes of each image as the file counts them, best first."""
    arrays, names, scores = _single(content) if single else _many(content)
    boxes: dict[str, np.ndarray] = {}
    left = LARGEST_FILE
    for name, values, worth in zip(map(_name, names), arrays, scores, strict=True):
        if name in boxes:
            raise BoxFileError(f"got the image {name!r} twice; expected each once")
        boxes[name] = _ranked(_boxes(values, swapped=mat), worth)
        left -= boxes[name].nbytes
        if left < 0:  # a pickle may name the same bytes again and again
            raise BoxFileError(f"its boxes take more than {LARGEST_FILE:,} bytes")
    return boxes


def _single(content: Mapping[Any, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Arrays of boxes, names and scores of a file of one image."""
    if content.get("boxes") is None:
        raise BoxFileError(f"got {_keys(content)}; expected an array 'boxes' (P, 4)")
    return [content["boxes"]], [""], [_first(content, SCORES)]


def _many(content: Mapping[Any, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Arrays of boxes, names and scores of a file of many images."""
    arrays, names, scores = content.get("boxes"), _first(content, NAMES), _first(content, SCORES)
    if arrays is None or names is None:  # a mapping from names to arrays
        pairs = {key: value for key, value in content.items() if _may_be_boxes(value)}
        arrays, names, scores = list(pairs.values()), list(pairs), None
    arrays, names = _listed_cells(arrays), _listed_cells(names)
    scores = [None] * len(arrays) if scores is None else _listed_cells(scores)
    if not arrays or len(arrays) != len(names):
        got = f"{len(arrays)} arrays of boxes and {len(names)} names under {_keys(content)}"
        raise BoxFileError(f"got {got}; expected one array 'boxes' (P, 4) for each of {' or '.join(map(repr, NAMES))}")
    if len(scores) != len(arrays):
        raise BoxFileError(f"got {len(scores)} arrays of scores for {len(arrays)} of boxes; expected one for each")
    return arrays, names, scores


def _first(content: Mapping[Any, Any], keys: Sequence[str]) -> Any:
    """The value of the first of the keys that is there, or None."""
    return next((content[key] for key in keys if key in content), None)


def _keys(content: Mapping[Any, Any]) -> str:
    return _listed([key for key in content if isinstance(key, str)])


def _may_be_boxes(value: Any) -> bool:
    """Whether it has two dimensions, or is empty."""
    if isinstance(value, list):
        return not value or isinstance(value[0], (list, PickledArray))
    shape = getattr(value, "shape", (1,))
    return len(shape) == 2 or 0 in shape


def _boxes(values: Any, swapped: bool) -> np.ndarray:
    """The array of one image as (P, 4) float32, a copy. swapped: it holds (y1, x1, y2, x2)."""
    values = _opened(values)
    if isinstance(values, list):  # numpy would go into lists of lists of lists, which a pickle can make without end
        sides = array("d", (_opened(side) for row in values for side in _opened(row)[:4]))
        values = np.array(sides).reshape(len(values) if sides else 0, 4)
    values = np.asarray(values)
    if values.dtype.kind not in "iuf" or (values.size and (values.ndim != 2 or values.shape[1] < 4)):
        raise BoxFileError(f"got boxes of shape {values.shape} and type {values.dtype}; expected numbers (P, 4)")
    corners = values[:, :4].astype(np.float32) if values.size else np.zeros((0, 4), np.float32)
    return corners[:, [1, 0, 3, 2]] if swapped else corners


def _ranked(boxes: np.ndarray, scores: Any) -> np.ndarray:
    """The boxes, best first, where there are scores."""
    if scores is None:
        return boxes
    scores = _opened(scores)
    worth = np.array(array("d", map(_opened, scores)) if isinstance(scores, list) else scores, np.float64).ravel()
    if len(worth) != len(boxes):
        raise BoxFileError(f"got {len(worth)} scores of {len(boxes)} boxes; expected one for each")
    return boxes[np.argsort(-worth, kind="stable")]


def _shift_to_zero(boxes: list[np.ndarray], mat: bool) -> bool:
    """Make boxes that count from 1, both ends inside, count from 0 and end one past the last pixel; whether they did."""
    least = min(np.fmin.reduce(rows[:, :2], axis=None, initial=np.inf) for rows in boxes)
    if not 1 <= least < np.inf or (least > 1 and not mat):
        return False
    for rows in boxes:
        rows[:, :2] -= 1
    return True


def _opened(value: Any) -> Any:
    return value.opened() if isinstance(value, PickledArray) else value


def _listed_cells(values: Any) -> list[Any]:
    """A list, a row of MATLAB's cells, or an array's rows, as a list."""
    values = _opened(values)
    return list(values.ravel() if isinstance(values, np.ndarray) and values.dtype == object else values)


# -- names -------------------------------------------------------------------------------------------------------------


def _name(value: Any) -> str:
    """An image's name without an image's ending, however deep MATLAB has wrapped it; of a number its digits."""
    value = _opened(value)
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        return _name(value.item())
    if isinstance(value, list) and len(value) == 1:
        return _name(value[0])
    if isinstance(value, bytes):
        return _name(value.decode(errors="replace"))
    if not isinstance(value, str | int | float):
        raise BoxFileError(f"got a {type(value).__name__} as the name of an image; expected text or a number")
    stem, ending = os.path.splitext(str(value))
    return stem if ending.lower() in images.SUFFIXES else str(value)


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _number(name: str) -> str:
    """The name in files that store numbers: 2007_000032 is 2007000032, 000005 is 5, COCO_train2014_0007 is 7."""
    digits = name.replace("_", "")
    digits = digits if digits.isdecimal() else name[len(name.rstrip("0123456789")) :]
    return (digits.lstrip("0") or "0") if digits else name


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "") if names else "nothing"
