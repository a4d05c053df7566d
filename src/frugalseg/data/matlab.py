"""Label maps of MATLAB files, as the Semantic Boundaries Dataset has them, read with care.

`scipy.io` believes what a file claims. So only version-5 files are taken, and what they unpack to is measured before.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy import io as scipy_io

SUFFIX = ".mat"
LARGEST_FILE = 256_000_000  # bytes
HEADER = 128  # bytes before the first element
COMPRESSED = 15  # the type of an element that is packed with zlib
KINDS = ("GTcls", "GTinst")  # of the variable: classes, objects


def label_map(path: Path, max_pixels: int) -> np.ndarray:
    """(H, W) ids from the field `Segmentation` of GTcls or GTinst. Raises ValueError with the reason, OSError."""
    found = variables(path, KINDS, limit=LARGEST_FILE)
    value = next((found[kind] for kind in KINDS if kind in found), None)
    try:
        ids = np.asarray(value["Segmentation"][0, 0])  # type: ignore[index]
    except (TypeError, IndexError, KeyError, ValueError) as error:
        raise ValueError(f"holds neither {' nor '.join(KINDS)} with a Segmentation") from error
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size:
        raise ValueError(f"its Segmentation is {ids.dtype}{ids.shape}, expected integers (height, width)")
    if ids.size > max_pixels:
        raise ValueError(f"{ids.shape[1]} x {ids.shape[0]} pixels, the limit is {max_pixels:,}")
    return ids.astype(np.int64)


def variables(path: Path, names: tuple[str, ...], limit: int = LARGEST_FILE) -> dict[str, Any]:
    """Those of the named variables that a version-5 file has. Raises OSError; ValueError beyond `limit` bytes, unpacked too."""
    if path.stat().st_size > limit:
        raise ValueError(f"larger than {limit:,} bytes")
    raw = path.read_bytes()
    if not raw.startswith(b"MATLAB 5.0") or raw[126:128] != b"IM":
        raise ValueError("no MATLAB file of version 5; save it with -v7")
    _measure(raw, limit)
    try:
        contents: dict[str, Any] = scipy_io.loadmat(io.BytesIO(raw), variable_names=list(names))
        return contents
    except Exception as error:  # the parser meets hostile bytes with all kinds of exceptions
        raise ValueError(f"cannot be decoded ({error or type(error).__name__})") from error


def _measure(raw: bytes, limit: int) -> None:
    """Raises ValueError where the packed elements of a file are damaged or unpack to more than `limit` bytes."""
    place = HEADER
    while place + 8 <= len(raw):
        kind, count = struct.unpack_from("<II", raw, place)
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            try:
                limit -= len(unpacker.decompress(raw[place + 8 : place + 8 + count], limit))
            except zlib.error as error:
                raise ValueError(f"cannot be unpacked ({error})") from error
            if limit <= 0 or unpacker.unconsumed_tail:
                raise ValueError("unpacks to more than a label map needs")
        place += 8 + count
