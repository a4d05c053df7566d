"""Arrays as text for the JSON files of results: zlib and base64, a hundred times smaller than lists."""

from __future__ import annotations

import base64
import zlib

import numpy as np


def pack(counts: np.ndarray, kind: str = "<i4") -> str:
    """Counts as text, row by row. kind: their numpy type, by default signed 32 bits, little-endian."""
    return _text(np.ascontiguousarray(counts, kind).tobytes())


def unpack(text: str, *shape: int, kind: str = "<i4") -> np.ndarray:
    """The counts in `text`, as int64 of this shape."""
    return np.frombuffer(_bytes(text), kind).reshape(shape).astype(np.int64)


def pack_bits(flags: np.ndarray) -> str:
    """Flags as text, one bit each."""
    return _text(np.packbits(flags).tobytes())


def unpack_bits(text: str, *shape: int) -> np.ndarray:
    """The flags in `text`, as bool of this shape."""
    return np.unpackbits(np.frombuffer(_bytes(text), np.uint8), count=int(np.prod(shape))).reshape(shape).astype(bool)


def _text(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _bytes(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
