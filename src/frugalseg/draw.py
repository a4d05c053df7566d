"""Pictures of results: masks over images, rows of them side by side, curves of losses. Nothing here trains or measures."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from frugalseg.export.png import palette
from frugalseg.types import IGNORE, Prediction

Pixels = Tensor | np.ndarray
GAP = 8  # pixels between the pictures of a sheet
TITLE = 22  # pixels of a sheet's head line


def overlay(image: Pixels, prediction: Prediction, *, alpha: float = 0.5, legend: bool = True) -> np.ndarray:
    """The image with what the prediction says of it: (H, W, 3) uint8, same size as the image.

    Classes are tinted in VOC's colours with an outline; objects of a prediction without a class mask likewise, each on its own.
    image: (3, H, W) uint8 RGB. alpha: strength of the tint. legend: name the classes that occur in the corner.
    """
    picture = _pixels(image)
    if prediction.semantic is not None:
        return paint(picture, prediction.semantic, prediction.classes if legend else (), alpha=alpha)
    objects = prediction.instances
    for index, label in enumerate(objects.labels.tolist() if objects else ()):
        picture = paint(picture, objects.dense(index) * np.uint8(label), (), alpha=alpha)  # type: ignore[union-attr]
    return picture


def paint(image: Pixels, semantic: Pixels, classes: Sequence[str] = (), *, alpha: float = 0.5) -> np.ndarray:
    """The image, (3, H, W) or (H, W, 3), tinted by a class mask (H, W); with `classes`, a legend. Ignored pixels turn grey."""
    picture, ids = _pixels(image), np.asarray(semantic)
    if picture.shape[:2] != ids.shape:
        raise ValueError(f"got a mask of {ids.shape} for an image of {picture.shape[:2]}; they must have one size")
    colours = palette()
    colours[IGNORE] = 160
    tint = colours[ids].astype(np.float32)
    strength = np.where(ids[..., None] == 0, 0.0, alpha)
    edge = _edges(ids)[..., None] & (ids[..., None] != IGNORE)
    mixed = np.where(edge, tint, picture * (1 - strength) + tint * strength).astype(np.uint8)
    present = [int(value) for value in np.unique(ids) if 0 < value <= len(classes)]
    return _legend(mixed, [(classes[value - 1], tuple(int(part) for part in colours[value])) for value in present])


def _pixels(image: Pixels) -> np.ndarray:
    """(H, W, 3) uint8, a copy, from either order of axes."""
    pixels = image.numpy(force=True) if isinstance(image, Tensor) else image
    pixels = pixels.astype(np.uint8)
    return pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 and pixels.shape[2] != 3 else pixels


def _edges(ids: np.ndarray) -> np.ndarray:
    """Pixels of a class, (H, W) bool, that touch another class to the right or below, or are touched so."""
    edge = np.zeros(ids.shape, bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:-1] |= ids[1:] != ids[:-1]
    return edge & (ids != 0)


def _legend(picture: np.ndarray, entries: Sequence[tuple[str, tuple[int, ...]]]) -> np.ndarray:
    """Names with their colours in the upper left corner; nothing where the picture has no room for them."""
    height, width = picture.shape[:2]
    size = max(9, min(height, width) // 28)
    if not entries or len(entries) * (size + 4) + 4 > height or width < 96:
        return picture
    image = Image.fromarray(picture)
    drawing, font = ImageDraw.Draw(image, "RGBA"), ImageFont.load_default(size)
    reach = max(drawing.textlength(name, font) for name, _ in entries)
    drawing.rectangle((0, 0, reach + size + 12, len(entries) * (size + 4) + 4), fill=(0, 0, 0, 150))
    for row, (name, colour) in enumerate(entries):
        top = 4 + row * (size + 4)
        drawing.rectangle((4, top, 4 + size, top + size), fill=(*colour, 255), outline=(255, 255, 255, 255))
        drawing.text((size + 8, top - 1), name, font=font, fill=(255, 255, 255, 255))
    return np.asarray(image)


def enlarge(picture: np.ndarray, side: int) -> np.ndarray:
    """Repeat the pixels of a small picture a whole number of times, as far as its longer side stays within `side`."""
    times = max(1, side // max(picture.shape[:2]))
    return picture.repeat(times, 0).repeat(times, 1)


def row(image: Pixels, truth: Pixels | None, predicted: Pixels, classes: Sequence[str], side: int = 384) -> dict[str, np.ndarray]:
    """Image, truth and prediction, by title, small ones enlarged so that the legend has room."""
    pixels = _pixels(image)
    times = max(1, side // max(pixels.shape[:2]))
    shown = {"image": enlarge(pixels, side)}
    for title, mask in (("truth", truth), ("prediction", predicted)):
        if mask is not None:
            ids = np.asarray(mask).repeat(times, 0).repeat(times, 1)
            shown[title] = paint(shown["image"], ids, classes)
    return shown


def sheet(rows: Iterable[Mapping[str, np.ndarray]], side: int = 384) -> np.ndarray:
    """A contact sheet, (H, W, 3) uint8: one row per mapping of title to picture, each picture fitted into side × side pixels."""
    rows = list(rows)
    titles = list(dict.fromkeys(title for pictures in rows for title in pictures))
    canvas = Image.new("RGB", (GAP + len(titles) * (side + GAP), TITLE + GAP + len(rows) * (side + GAP)), "white")
    drawing, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for column, title in enumerate(titles):
        left = GAP + column * (side + GAP)
        drawing.text((left, 5), title, font=font, fill="black")
        for line, pictures in enumerate(rows):
            if title in pictures:
                thumb = Image.fromarray(pictures[title])
                thumb.thumbnail((side, side))
                canvas.paste(thumb, (left, TITLE + GAP + line * (side + GAP)))
    return np.asarray(canvas)


def png(picture: np.ndarray) -> bytes:
    """A picture, (H, W, 3) uint8, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save(path: str | Path, picture: np.ndarray) -> None:
    """Write a picture, (H, W, 3) uint8, in the format of the path's ending, creating folders on the way."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def curves(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Loss against step, one panel per training stage, as the bytes of a PNG file.

    stages: the logged lines of each stage, {"step": …, "losses": {name: value}}.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    columns = min(3, max(1, len(stages)))
    lines = -(-len(stages) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * lines), layout="constrained")
    for panel, (stage, log) in enumerate(stages.items(), 1):
        axes = figure.add_subplot(lines, columns, panel, title=stage, xlabel="step", ylabel="loss")
        for name in dict.fromkeys(name for line in log for name in line["losses"]):
            points = [(line["step"], line["losses"][name]) for line in log if name in line["losses"]]
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 5 else None)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue()
