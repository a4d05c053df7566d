"""A disk cache of what a tool computed for an image: written once, whole or not at all, shared by any number of processes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from frugalseg.files import cache_folder, write

_LIBRARIES: dict[Callable[..., Tensor], dict[str, str]] = {}
_TOP_K: dict[Callable[..., Tensor], str] = {}
Tool = TypeVar("Tool", bound=Callable[..., Tensor])


def cacheable(*libraries: str, revision: int = 1, top_k: str = "") -> Callable[[Tool], Tool]:
    """Declares a tool `(image, **arguments) -> Tensor` whose results may be cached.

    libraries: the distributions whose versions the result depends on. revision: raise it when the tool's own code changes its
    results. top_k: name of the argument that limits the number of rows; values below its default slice one cached result.
    """

    def declare(tool: Tool) -> Tool:
        _LIBRARIES[tool] = {"revision": str(revision)} | {name: importlib.metadata.version(name) for name in libraries}
        _TOP_K[tool] = top_k
        return tool

    return declare


class Cache:
    """`cache(superpixels.slic, image, segments=100)` is `superpixels.slic(image, segments=100)`, computed once per image content.

    Entries are compressed numpy arrays (masks as bits), read without pickle, in TOOL/KEY.npz. The key is a hash of the tool, all
    its arguments with their defaults, the versions it depends on, and the image. A damaged entry is computed again. If the folder
    cannot be written, results are returned all the same, with one warning.

    folder: default $FRUGALSEG_CACHE, else $XDG_CACHE_HOME/frugalseg, else ~/.cache/frugalseg.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder else cache_folder()
        self._warned = False

    def __call__(self, tool: Callable[..., Tensor], image: Tensor, **arguments: Any) -> Tensor:
        """The tool's result for the image, from disk if it is there. Raises ValueError for a tool that is not `cacheable`."""
        return self.of(image)(tool, **arguments)

    def of(self, image: Tensor) -> Callable[..., Tensor]:
        """The same for one image, as a function of (tool, **arguments); the image is hashed once for any number of results."""
        return partial(self._result, image, _hash(image))

    def _result(self, image: Tensor, content: str, tool: Callable[..., Tensor], **arguments: Any) -> Tensor:
        path = self._path(tool, image, content, arguments)
        rows, arguments = _cached_rows(tool, arguments)
        cached = _read(path)
        if cached is not None:
            return cached[:rows] if rows else cached
        result = tool(image, **arguments)
        try:
            entry = _entry(result.numpy(force=True))
            write(path, lambda file: np.savez_compressed(file, allow_pickle=False, **entry))
        except OSError as error:
            self._warn(error)
        return result[:rows] if rows else result

    def path(self, tool: Callable[..., Tensor], image: Tensor, **arguments: Any) -> Path:
        """Where the result is, or will be."""
        return self._path(tool, image, _hash(image), arguments)

    def _path(self, tool: Callable[..., Tensor], image: Tensor, content: str, arguments: dict[str, Any]) -> Path:
        if tool not in _LIBRARIES:
            raise ValueError(f'cache: {tool!r} declares no versions; put @cacheable("library", …) above its definition')
        bound = _signature(tool).bind(image, **_cached_rows(tool, arguments)[1])
        bound.apply_defaults()
        _, *others = bound.arguments.items()
        name = f"{tool.__module__.rpartition('.')[2]}.{tool.__name__}"
        identity = json.dumps([name, dict(others), _LIBRARIES[tool]], sort_keys=True, default=_hash)
        return self.folder / name / f"{_digest(identity.encode(), content.encode())}.npz"

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            advice = "results are computed each time; set FRUGALSEG_CACHE to a folder with space"
            warnings.warn(f"the cache {self.folder} cannot be written ({error}); {advice}", stacklevel=3)


_signature = lru_cache(inspect.signature)  # uncached, it takes as long as reading a small result


def _cached_rows(tool: Callable[..., Tensor], arguments: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """How many rows of the cached result are wanted, 0 for all of them, and the arguments that it is computed with."""
    name = _TOP_K.get(tool)
    rows, default = (arguments.get(name, 0), _signature(tool).parameters[name].default) if name else (0, 0)
    return (rows, arguments | {name: default}) if name and 1 <= rows < default else (0, arguments)


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _hash(value: Tensor | np.ndarray) -> str:
    """Hash of an array: its shape, its type, its bytes."""
    if not isinstance(value, Tensor | np.ndarray):
        raise TypeError(f"cache: got an argument of {type(value).__name__}, expected numbers, text, sequences of them, or arrays")
    array = np.ascontiguousarray(value.numpy(force=True) if isinstance(value, Tensor) else value)
    return _digest(f"{array.shape}{array.dtype}".encode(), array.tobytes())


def _entry(array: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a file. Masks are packed, eight pixels to a byte: inflating them would be most of the reading time."""
    return {"bits": np.packbits(array), "shape": np.array(array.shape)} if array.dtype == bool else {"result": array}


def _read(path: Path) -> Tensor | None:
    """The result in a file, or None where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as entry:
            if "bits" not in entry:
                return torch.from_numpy(entry["result"])
            shape: list[int] = entry["shape"].tolist()
            return torch.from_numpy(np.unpackbits(entry["bits"], count=math.prod(shape)).reshape(shape).view(bool))
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error):
        return None
