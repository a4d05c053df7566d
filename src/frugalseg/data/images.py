"""Decode images and masks from files that nobody checked.

Whatever is in the file, `load` gives uint8 RGB as a viewer shows it, or raises `BadImage` that names the file:
EXIF orientation is applied, CMYK, palette and grey become RGB, 16-bit values are scaled by their full range, transparency
is laid on white, the first frame of an animation is taken, and a size limit is enforced before a pixel is decoded.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from frugalseg import files
from frugalseg.data import mask_encodings, matlab
from frugalseg.errors import FrugalsegError

MAX_PIXELS = files.MAX_PIXELS
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"})
ARRAYS = ".npz"  # suffix of the array files that our runs write
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # no EPS and the like: PIL would start other programs for them
ORIENTATION = 0x0112  # the EXIF tag; 1 = as stored, the others are how to turn the stored pixels:
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Header(NamedTuple):
    """height, width: of the upright image. orientation: EXIF 1…8. mode: PIL's. transparent: whether a pixel may be."""

    height: int
    width: int
    orientation: int
    mode: str
    transparent: bool


_open_lock = threading.Lock()


class BadImage(FrugalsegError, ValueError):
    """A file that cannot be used as an image or mask. code: its entry in the table of problems."""

    def __init__(self, path: Path | str, reason: str, code: str = "image-broken") -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason, self.code = str(path), reason, code

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str, str]]:
        return BadImage, (self.path, self.reason, self.code)  # it crosses from data-loader workers to the main process


def load(path: Path | str, max_pixels: int = MAX_PIXELS, content: bytes | None = None) -> Tensor:
    """The image as (3, H, W) uint8 RGB, turned as its EXIF entry says. content: its bytes, where `path` is but their name.

    Raises BadImage if the file is missing, broken, no image, larger than `max_pixels`, or has values of no known range.
    """
    with _opened(path, max_pixels, content=content) as image:
        image.load()  # before EXIF is asked for: PNG decodes then too, and a fault in the pixels would pass for one in EXIF
        pixels = np.array(_rgb(_upright(image), path))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def converted(picture: np.ndarray | Image.Image) -> Tensor:
    """An image in memory as `load` gives one: an array (H, W), (H, W, 3) or (H, W, 4) or an image of Pillow.

    Raises BadImage for an array of another shape, or with values of no known range.
    """
    image = _image(picture) if isinstance(picture, np.ndarray) else picture
    return torch.from_numpy(np.array(_rgb(_upright(image), "picture"))).permute(2, 0, 1).contiguous()


def _image(array: np.ndarray) -> Image.Image:
    try:
        if array.ndim not in (2, 3):
            raise TypeError
        return Image.fromarray(array)
    except (TypeError, ValueError) as error:
        shape = " x ".join(map(str, array.shape))
        reason = f"an array of {shape}, of {array.dtype}; expected height x width (x 3) of uint8"
        raise BadImage("picture", reason) from error


def load_mask(
    path: Path | str, picture: Path | str | None = None, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> Tensor:
    """The ids of a label mask as (H, W) int64: palette indices or grey values of 1, 8 or 16 bits, colours only where
    `mask_encodings` has a table for the folder.

    picture: the image file that the mask belongs to. The mask must have the size of the upright image; if it has the size of the
    stored, unturned one instead, it was drawn on that and is turned along. size: (H, W) of the upright image, if it is known.
    A file .npz holds ids that a model predicted, as the array `mask`, of the upright image.
    Raises BadImage for what `load` refuses, for colour masks, for JPEG masks, and for a wrong size.
    """
    if Path(path).suffix == ARRAYS:
        with np.load(path, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["mask"].astype(np.int64))
    if Path(path).suffix == matlab.SUFFIX:
        return _matlab_mask(Path(path), size, max_pixels)
    with _opened(path, max_pixels, code="mask-broken") as image:
        if image.format == "JPEG":
            raise BadImage(path, "a mask stored as JPEG has wrong ids at borders; export it as PNG", "mask-lossy")
        code = mask_encodings.of(Path(path))
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16") and not (code and code.bands):
            raise BadImage(path, f"a mask of mode {image.mode} stores colours; expected one channel of class ids", "mask-rgb")
        image.load()
        upright = _upright(image)
        if picture is not None and (upright.height, upright.width) != size:
            upright = _turned_like(upright, picture, path, max_pixels)
        values = np.array(upright)
    return torch.from_numpy(code.ids(values, Path(path)) if code else values.astype(np.int64))


def _matlab_mask(path: Path, size: tuple[int, int] | None, max_pixels: int) -> Tensor:
    try:
        labels = matlab.label_map(path, max_pixels)
    except (ValueError, OSError) as error:
        raise BadImage(path, str(error), "mask-broken") from error
    if size is not None and labels.shape != tuple(size):
        reason = f"the mask has {labels.shape[1]} x {labels.shape[0]} pixels, its image {size[1]} x {size[0]}"
        raise BadImage(path, reason, "mask-size")
    return torch.from_numpy(labels)


def ids(mask: Tensor) -> list[int]:
    """The values that occur in a mask, sorted. Counting 16-bit values is eight times faster than sorting the pixels."""
    if int(mask.min()) >= 0 and int(mask.max()) < 1 << 16:
        return mask.flatten().bincount().nonzero().flatten().tolist()
    numbers: list[int] = np.unique(mask.numpy()).tolist()
    return numbers


def header(path: Path | str, max_pixels: int = MAX_PIXELS) -> Header:
    """What a file says of itself before its pixels are looked at; raises BadImage if it says nothing or too much."""
    with _opened(path, max_pixels) as image:
        return _header(image)


def verify(path: Path | str, max_pixels: int = MAX_PIXELS, content: bytes | None = None) -> Header:
    """The header, after decoding the whole file as cheaply as possible; raises BadImage if `load` would."""
    with _opened(path, max_pixels, content=content) as image:
        header = _header(image)
    with _opened(path, max_pixels, content=content) as image:
        if image.format == "JPEG":
            image.draft(None, (1, 1))  # reads every byte but computes an eighth of the size: 2.7 times faster
        image.load()
        if _is_wide(image):
            _rgb(image, path)
    return header


@contextmanager
def _opened(path: Path | str, max_pixels: int, code: str = "image-broken", content: bytes | None = None) -> Iterator[Image.Image]:
    """The PIL image with its header read and its size judged; whatever a decoder raises inside becomes BadImage."""
    if content is None and not Path(path).is_file():
        raise BadImage(path, "is a folder" if Path(path).is_dir() else "there is no such file", code)
    try:
        with _open_unlimited(path if content is None else io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > max_pixels:
                remedy = "shrink it or raise max_pixels (predict --max-pixels)"
                raise BadImage(path, f"{width} x {height} pixels, the limit is {max_pixels:,}; {remedy}", "image-too-large")
            yield image
    except BadImage:
        raise
    except Exception as error:  # decoders meet hostile bytes with all kinds of exceptions; there is no closed list
        size = Path(path).stat().st_size if content is None else len(content)
        reason = f"cannot be decoded ({error or type(error).__name__})" if size else "the file is empty"
        raise BadImage(path, reason.replace(f" '{path}'", ""), code) from error


def _open_unlimited(path: Path | str | io.BytesIO) -> Image.Image:
    """PIL's own limit is a global that warns, then raises; ours is exact, so PIL's is lifted while the header is read."""
    with _open_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _header(image: Image.Image) -> Header:
    orientation = _orientation(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    return Header(height, width, orientation, image.mode, image.has_transparency_data)


def _is_wide(image: Image.Image) -> bool:
    """Whether the values are of 16 or 32 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not make the image unreadable
        return 1
    return value if value in TURNS else 1


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _turned_like(mask: Image.Image, picture: Path | str, path: Path | str, max_pixels: int) -> Image.Image:
    height, width, orientation, *_ = header(picture, max_pixels)
    if mask.size == (width, height):
        return mask
    if mask.size == (height, width) and orientation >= 5:
        return mask.transpose(TURNS[orientation])
    raise BadImage(path, f"the mask has {mask.width} x {mask.height} pixels, its image {width} x {height}", "mask-size")


def _rgb(image: Image.Image, path: Path | str) -> Image.Image:
    if _is_wide(image):
        return Image.fromarray(_scaled(np.asarray(image), path)).convert("RGB")
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return image.convert("RGB")


def _scaled(values: np.ndarray, path: Path | str) -> np.ndarray:
    """Wide values to uint8 by the range of their type: 65535 for integers; for floats the first of 1, 255, 65535 that holds them.

    An image is not stretched by its own extremes: two photos of one camera would no longer be comparable.
    """
    low, high = float(values.min()), float(values.max())
    ranges = (1, 255, 65535) if values.dtype.kind == "f" else (65535,)
    top = next((top for top in ranges if low >= 0 and high <= top), None)
    if top is None:
        raise BadImage(
            path, f"values {low:g} to {high:g} fit none of the ranges 0 to {', '.join(map(str, ranges))}", "image-range"
        )
    return (values * (255.0 / top) + 0.5).astype(np.uint8)
