"""Who stands where in an image of the built-in set, before anything is painted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .classes import BADGE, COLOURS, COMPANIONS, KINDS, OUTLINES, Floats, Kind, Piece

Colour = tuple[float, float, float]

RADIUS = (0.13, 0.39)  # half an object's extent, in sides of the image
VISIBLE = 0.45  # the fraction of an object that the ones in front of it must leave
TRIES = 12  # places tried before an object is left out
COARSE = 64  # pixels of the map on which occlusion is judged, the same for images of every size
FRACTION = 4  # binary digits after the point in the coordinates that OpenCV draws with


@dataclass(frozen=True)
class Shape:
    """Something to paint, in a frame that `frame` (2, 2) and `centre` (2,) carry to the image, whose side is 1.

    body: pieces in the image. badge: outlines in the image with their colours. hue: what the body tends to, None for any.
    """

    frame: Floats
    centre: Floats
    body: list[Piece]
    badge: list[tuple[Floats, Colour]]
    hue: float | None = None

    @property
    def outlines(self) -> list[Floats]:
        """All outlines, of body and badge."""
        return [outline for outline, _ in (*self.body, *self.badge)]


def cast(rng: Generator, index: int) -> list[int]:
    """Who is in an image: 1..3 classes, companions more often than chance has it, then more of the first: 1..4 objects.

    The first follows from the index, so that any twelve images in a row show every class.
    """
    ids = [index % len(KINDS)]
    for _ in range(rng.choice(3, p=(0.4, 0.4, 0.2))):
        others = [kind for kind in range(len(KINDS)) if kind not in ids]
        stranger, companion = int(rng.choice(others)), COMPANIONS.get(ids[-1])
        ids.append(companion if companion in others and rng.random() < 0.5 else stranger)
    return ids + [ids[0]] * int(rng.integers(0, 5 - len(ids)))


def arrange(rng: Generator, kinds: list[int]) -> list[tuple[int, Shape]]:
    """Stand the objects one before another such that each stays visible; one that finds no place is left out."""
    stage: list[tuple[int, Shape]] = []
    owner, areas = np.zeros((COARSE, COARSE), np.uint8), [0]
    for kind in kinds:
        beside = next((shape.centre for other, shape in stage if other == kind), None)
        for _ in range(TRIES):
            shape, trial = _object(rng, KINDS[kind], beside), owner.copy()
            for outline in shape.outlines:
                fill(trial, outline, len(areas), (0, 0), COARSE)
            counts = np.bincount(trial.ravel(), minlength=len(areas) + 1)
            if all(counts[number] >= VISIBLE * area for number, area in enumerate(areas)):
                owner, areas = trial, [*areas, int(counts[-1])]
                stage.append((kind, shape))
                break
    return stage


def _object(rng: Generator, kind: Kind, beside: Floats | None) -> Shape:
    """An object of random size, pose and bend somewhere in the image; beside its like, if there is one, more often than not."""
    radius = float(np.exp(rng.uniform(*np.log(RADIUS))))
    frame, bend = _frame(rng, radius, turn=0.45), rng.uniform(-0.18, 0.18)
    spot, step = rng.random(2), rng.uniform(-1.1, 1.1, 2) * radius
    if beside is not None and rng.random() < 0.7:
        spot = beside + step
    centre = np.clip(spot, 0.75 * radius, 1 - 0.75 * radius).astype(np.float32)

    def placed(outline: Floats) -> Floats:
        bent = outline + bend * outline[:, 1:] ** 2 * np.array((1, 0))
        values: Floats = (bent @ frame.T + centre).astype(np.float32)
        return values

    body = [Piece(placed(outline), tone) for outline, tone in kind.body]
    return Shape(frame, centre, body, _badge(rng, kind, placed), kind.hue)


def _badge(rng: Generator, kind: Kind, placed: Callable[[Floats], Floats]) -> list[tuple[Floats, Colour]]:
    badge, light = kind.badge, rng.uniform(0.85, 1.0)
    outline, spot = OUTLINES[badge.outline], np.array((badge.x, badge.y), np.float32)
    sizes = ((BADGE, COLOURS[badge.outer]), (BADGE / 2, COLOURS[badge.inner]))
    return [(placed(size * outline + spot), (light * red, light * green, light * blue)) for size, (red, green, blue) in sizes]


def _frame(rng: Generator, radius: float, turn: float) -> Floats:
    """Mirror, squeeze, shear, turn by up to `turn` radians and scale, all as one (2, 2) matrix."""
    squeeze, angle = np.exp(rng.uniform(-0.15, 0.15)), rng.uniform(-turn, turn)
    shape = np.array(((rng.choice((-1, 1)) * squeeze, rng.uniform(-0.2, 0.2)), (0, 1 / squeeze)))
    turned = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    values: Floats = (radius * turned @ shape).astype(np.float32)
    return values


def clutter(rng: Generator) -> list[Shape]:
    """Things of no class that stand behind the objects: textured blobs, and decoys with a badge's outline but a single colour."""
    shapes = []
    for _ in range(rng.integers(3, 8)):
        centre, frame = rng.random(2).astype(np.float32), _frame(rng, rng.uniform(0.05, 0.2), turn=np.pi)
        shapes.append(Shape(frame, centre, [Piece((_blob(rng) @ frame.T + centre).astype(np.float32), 1.0)], []))
    for _ in range(rng.integers(0, 4)):
        centre, frame = rng.random(2).astype(np.float32), _frame(rng, rng.uniform(0.03, 0.08), turn=np.pi)
        outline, colour = OUTLINES[rng.choice(list(OUTLINES))] @ frame.T + centre, COLOURS[rng.choice(list(COLOURS))]
        shapes.append(Shape(frame, centre, [], [(outline.astype(np.float32), colour)]))
    return shapes


def _blob(rng: Generator) -> Floats:
    """A wavy round outline of radius about 1, or a polygon with a quarter of its corners."""
    turns, lobes = np.linspace(0, 2 * np.pi, 25)[:-1], rng.integers(2, 6)
    radii = 1 + rng.uniform(0.1, 0.4) * np.cos(lobes * turns) + rng.uniform(0, 0.2) * np.sin(2 * turns)
    outline = np.stack((radii * np.cos(turns), radii * np.sin(turns)), axis=1).astype(np.float32)
    return outline[:: rng.choice((1, 4))]


def pixels(outline: Floats, corner: tuple[int, int], side: int) -> NDArray[np.int32]:
    """OpenCV's integer coordinates of an outline on a canvas that begins at pixel `corner` (x, y) of an image of that side."""
    corners: NDArray[np.int32] = np.rint((outline * side - np.array(corner) - 0.5) * 2**FRACTION).astype(np.int32)
    return corners


def fill(canvas: NDArray[Any], outline: Floats, value: float, corner: tuple[int, int], side: int) -> None:
    """Fill an outline on a canvas that begins at pixel `corner` (x, y) of an image of that side."""
    cv2.fillPoly(canvas, [pixels(outline, corner, side)], value, shift=FRACTION)
