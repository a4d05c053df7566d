"""Images of results: masks over images, rows of them side by side, curves of losses. Nothing here trains or measures."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from frugalseg import rle
from frugalseg.data.png import palette
from frugalseg.types import IGNORE, Instances, Prediction

Pixels = Tensor | np.ndarray
GAP = 8  # pixels between the images of a sheet
SIDE = 384  # to which small images are enlarged for a sheet
TITLE = 22  # pixels of a sheet's head line
BAND = 1 << 18  # pixels tinted at once: tinting is done in floats, which for a whole image would be gigabytes


def overlay(image: Pixels, prediction: Prediction, *, alpha: float = 0.5, legend: bool = True, least: float = 0.5) -> np.ndarray:
    """The image with what the prediction says of it: (H, W, 3) uint8, same size as the image.

    Classes are tinted in VOC's colours with an outline; objects, where there is no class mask, see `objects`.
    image: (3, H, W) uint8 RGB. alpha: strength of the tint. legend: name the classes that occur in the corner.
    least: the score from which an object is drawn.
    """
    classes = prediction.classes if legend else ()
    if prediction.semantic is not None:
        return paint(image, prediction.semantic, classes, alpha=alpha)
    return objects(image, prediction.instances, classes, alpha=alpha, least=least)


def paint(image: Pixels, semantic: Pixels, classes: Sequence[str] = (), *, alpha: float = 0.5) -> np.ndarray:
    """The image, (3, H, W) or (H, W, 3), tinted by a class mask (H, W); with `classes`, a legend. Ignored pixels turn grey."""
    picture, ids = _pixels(image), np.asarray(semantic)
    if picture.shape[:2] != ids.shape:
        raise ValueError(f"got a mask of {ids.shape} for an image of {picture.shape[:2]}; they must have one size")
    colours = palette().astype(np.float64)
    colours[IGNORE] = 160
    _tint(picture, ids, colours, alpha, plain=IGNORE)
    present = [int(value) for value in np.unique(ids) if 0 < value <= len(classes)]
    return _legend(picture, [(classes[value - 1], tuple(int(part) for part in colours[value])) for value in present])


def objects(
    image: Pixels,
    instances: Instances | None,
    classes: Sequence[str] = (),
    *,
    alpha: float = 0.5,
    least: float = 0.5,
    side: int = 0,
) -> np.ndarray:
    """The image tinted by its objects, each in a colour of its own, with class and score written on it if there is room.

    classes: names to write. least: the score from which an object is drawn. side: enlarge small images to this, see `enlarge`.
    """
    picture = _pixels(image)
    if instances is None:
        return enlarge(picture, side)
    (height, width), shown = picture.shape[:2], sure(instances, least)
    # The golden ratio keeps neighbours in the ranking, which are many, apart on the circle of hues.
    hues = np.arange(len(shown) + 1) * 0.618034 % 1 * 6
    colours = 255 * np.clip(np.abs((hues[:, None] + [0, 4, 2]) % 6 - 3) - 1, 0.15, 1)
    picture = enlarge(picture, side)
    _tint(picture, enlarge(object_map(shown, (height, width)), side), colours.astype(np.float32), alpha)
    return _captions(picture, shown, classes, len(picture) // height) if classes else picture


def sure(instances: Instances, least: float) -> Instances:
    """The objects with at least this score, best first; all of those without scores."""
    if instances.scores is None:
        return instances
    order = [
        index for index in instances.scores.argsort(descending=True, stable=True).tolist() if instances.scores[index] >= least
    ]
    return instances[order]


def object_map(instances: Instances | None, size: tuple[int, int], least: float = 0.0) -> np.ndarray:
    """(H, W) int32 numbers of the objects, 1 for the best score, which is on top; 0 where there is none."""
    return rle.paint([] if instances is None else sure(instances, least).rles, size)


def _captions(picture: np.ndarray, instances: Instances, classes: Sequence[str], times: int) -> np.ndarray:
    """Class and score at the upper left corner of each object that is larger than the words."""
    image = Image.fromarray(picture)
    drawing, font = ImageDraw.Draw(image, "RGBA"), ImageFont.load_default(max(9, min(picture.shape[:2]) // 36))
    for index, (label, (x1, y1, x2, y2)) in enumerate(
        zip(instances.labels.tolist(), (instances.boxes * times).tolist(), strict=True)
    ):
        words = classes[label - 1] + ("" if instances.scores is None else f" {instances.scores[index]:.2f}")
        left, top, right, bottom = drawing.textbbox((x1 + 2, y1 + 1), words, font=font)
        if right - left < x2 - x1 and bottom - top < y2 - y1:
            drawing.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=(0, 0, 0, 130))
            drawing.text((x1 + 2, y1 + 1), words, font=font, fill=(255, 255, 255, 255))
    return np.asarray(image)


def _pixels(image: Pixels) -> np.ndarray:
    """(H, W, 3) uint8, a copy, from either order of axes."""
    pixels = image.numpy(force=True) if isinstance(image, Tensor) else image
    # An image 3 pixels wide looks like either order; tensors are (3, H, W) throughout the package, arrays mostly (H, W, 3).
    turned = isinstance(image, Tensor) or (pixels.shape[0] == 3 and pixels.shape[2] != 3)
    return np.array(pixels.transpose(1, 2, 0) if turned else pixels, np.uint8, order="C")


def _tint(picture: np.ndarray, ids: np.ndarray, colours: np.ndarray, alpha: float, plain: int = 0) -> None:
    """Mix the colours (N, 3) of ids (H, W) into an image (H, W, 3), in place, and outline all ids but 0 and `plain`."""
    solid, mixed = colours.astype(np.uint8), colours * alpha
    step = max(1, BAND // ids.shape[1])
    for top in range(0, len(ids), step):
        above = max(0, top - 1)
        part, part_ids = picture[top : top + step], ids[top : top + step]
        edge = _edges(ids[above : top + step + 1])[top - above :][: len(part_ids)] & (part_ids != plain)
        inside = (part_ids != 0) & ~edge
        part[inside] = part[inside] * (1 - alpha) + mixed[part_ids[inside]]
        part[edge] = solid[part_ids[edge]]


def _edges(ids: np.ndarray) -> np.ndarray:
    """Pixels of a class, (H, W) bool, that touch another class to the right or below, or are touched so."""
    edge = np.zeros(ids.shape, bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:-1] |= ids[1:] != ids[:-1]
    values: np.ndarray = edge & (ids != 0)
    return values


def _legend(picture: np.ndarray, entries: Sequence[tuple[str, tuple[int, ...]]]) -> np.ndarray:
    """Names with their colours in the upper left corner; nothing where the image has no room for them."""
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
    """Repeat the pixels of a small image a whole number of times, as far as its longer side stays within `side`."""
    times = side // max(picture.shape[:2])
    return picture if times < 2 else picture.repeat(times, 0).repeat(times, 1)


def row(image: Pixels, truth: Pixels | None, predicted: Pixels, classes: Sequence[str], side: int = 384) -> dict[str, np.ndarray]:
    """Image, truth and prediction, by title, small ones enlarged so that the legend has room."""
    shown = {"image": enlarge(_pixels(image), side)}
    for title, mask in (("truth", truth), ("prediction", predicted)):
        if mask is not None:
            shown[title] = paint(shown["image"], enlarge(np.asarray(mask), side), classes)
    return shown


def sheet(rows: Iterable[Mapping[str, np.ndarray]], side: int = 384) -> np.ndarray:
    """A contact sheet, (H, W, 3) uint8: one row per mapping of title to image, each image fitted into side × side pixels."""
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
    """An image, (H, W, 3) uint8, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save(path: str | Path, picture: np.ndarray) -> None:
    """Write an image, (H, W, 3) uint8, in the format of the path's ending, creating folders on the way."""
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
