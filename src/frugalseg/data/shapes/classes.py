"""What the twelve classes look like: outlines in a frame where x points right, y down, and an object fills [-1, 1]."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Piece(NamedTuple):
    """A part of a body. outline: (K, 2) corners of a closed polygon. tone: its brightness relative to the body's texture."""

    outline: Floats
    tone: float


class Badge(NamedTuple):
    """The small part that gives a class away: an outline in one bright colour, its half-size copy in another, round (x, y)."""

    outline: str
    outer: str
    inner: str
    x: float
    y: float


class Kind(NamedTuple):
    """A class. hue: what its bodies tend to, in turns. The pieces of the body are painted in order, the badge at last."""

    name: str
    hue: float
    badge: Badge
    body: list[Piece]


def polygon(tone: float, *xy: float) -> Piece:
    """A polygon with these corners, x and y in turn."""
    return Piece(np.array(xy, np.float32).reshape(-1, 2), tone)


def box(tone: float, left: float, top: float, right: float, bottom: float) -> Piece:
    """A rectangle with these sides."""
    return polygon(tone, left, top, right, top, right, bottom, left, bottom)


def oval(tone: float, x: float, y: float, width: float, height: float, start: float = 0.0, stop: float = 1.0) -> Piece:
    """An ellipse with these half-axes, or the part of it between two turns, counted clockwise from the right."""
    turns = 2 * np.pi * np.linspace(start, stop, 33)
    return Piece(np.stack((x + width * np.cos(turns), y + height * np.sin(turns)), axis=1).astype(np.float32), tone)


def mirrored(*pieces: Piece) -> list[Piece]:
    """Each piece with its mirror image, for bodies that are alike on both sides."""
    return [Piece(outline * np.array((side, 1), np.float32), tone) for outline, tone in pieces for side in (1, -1)]


def star(points: int, inner: float, turn: float = -0.25) -> Floats:
    """A star of radius 1 whose first point lies at `turn`, and whose notches lie at radius `inner`."""
    turns = 2 * np.pi * (turn + np.arange(2 * points) / (2 * points))
    radii = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return np.stack((radii * np.cos(turns), radii * np.sin(turns)), axis=1).astype(np.float32)


BADGE = 0.26  # radius of a badge
OUTLINES = {
    "disc": oval(1, 0, 0, 1, 1).outline,
    "square": box(1, -0.85, -0.85, 0.85, 0.85).outline,
    "diamond": star(2, 0.71),
    "triangle": star(3, 0.5),
    "cross": star(4, 0.45, turn=0.0),
    "star": star(5, 0.5),
}
COLOURS = {
    "red": (0.93, 0.10, 0.13),
    "yellow": (1.00, 0.88, 0.05),
    "green": (0.05, 0.80, 0.25),
    "cyan": (0.10, 0.90, 0.95),
    "blue": (0.10, 0.25, 0.95),
    "pink": (1.00, 0.25, 0.80),
}

KINDS = (
    Kind(
        "bird",
        2 / 12,
        Badge("disc", "yellow", "red", 0.62, -0.62),
        [
            polygon(0.8, -0.4, -0.1, -1, -0.3, -0.9, 0.3),
            box(0.5, -0.1, 0.4, -0.02, 0.95),
            box(0.5, 0.15, 0.4, 0.23, 0.95),
            polygon(1.0, 0.1, -0.2, 0.45, -0.7, 0.75, -0.6, 0.6, 0.2),
            oval(1.0, 0, 0.1, 0.66, 0.42),
            oval(0.7, -0.15, 0.05, 0.38, 0.22),
        ],
    ),
    Kind(
        "boat",
        7 / 12,
        Badge("square", "red", "cyan", 0, -0.78),
        [
            box(0.5, -0.06, -0.9, 0.06, 0.4),
            polygon(1.2, 0.1, -0.6, 0.85, 0.25, 0.1, 0.25),
            polygon(0.9, -0.1, -0.45, -0.7, 0.25, -0.1, 0.25),
            polygon(0.75, -1, 0.35, 1, 0.35, 0.65, 0.9, -0.7, 0.9),
        ],
    ),
    Kind(
        "bottle",
        5 / 12,
        Badge("cross", "green", "pink", 0, -0.74),
        [
            polygon(1.0, -0.17, -0.8, 0.17, -0.8, 0.17, -0.45, 0.42, -0.15, 0.42, 0.97, -0.42, 0.97, -0.42, -0.15, -0.17, -0.45),
            box(1.3, -0.42, 0.1, 0.42, 0.6),
        ],
    ),
    Kind(
        "butterfly",
        10 / 12,
        Badge("diamond", "pink", "yellow", 0, -0.55),
        [
            *mirrored(oval(1.0, 0.5, -0.32, 0.48, 0.44), oval(0.8, 0.42, 0.45, 0.36, 0.4)),
            oval(0.5, 0, 0.1, 0.11, 0.7),
        ],
    ),
    Kind(
        "car",
        8 / 12,
        Badge("triangle", "yellow", "blue", -0.05, -0.62),
        [
            polygon(1.3, -0.62, -0.05, -0.42, -0.52, 0.35, -0.52, 0.62, -0.05),
            polygon(1.0, -1, -0.05, 0.9, -0.1, 1, 0.15, 1, 0.5, -1, 0.5),
            *mirrored(oval(0.4, 0.55, 0.5, 0.27, 0.27)),
        ],
    ),
    Kind(
        "crab",
        0 / 12,
        Badge("star", "cyan", "red", 0, -0.1),
        [
            *mirrored(
                polygon(0.7, 0.4, 0.1, 0.95, 0, 1, 0.1, 0.5, 0.25),
                polygon(0.7, 0.4, 0.3, 0.95, 0.5, 0.9, 0.6, 0.4, 0.45),
                polygon(0.7, 0.3, 0.4, 0.65, 0.85, 0.55, 0.9, 0.2, 0.55),
                polygon(0.7, 0.35, 0, 0.7, -0.55, 0.85, -0.45, 0.55, 0.1),
                oval(0.9, 0.76, -0.58, 0.24, 0.3),
            ),
            oval(1.0, 0, 0.2, 0.65, 0.46),
        ],
    ),
    Kind(
        "fish",
        6 / 12,
        Badge("disc", "blue", "yellow", 0.58, -0.02),
        [
            polygon(0.75, -0.5, 0, -1, -0.5, -0.85, 0, -1, 0.5),
            polygon(0.75, -0.25, -0.3, -0.05, -0.75, 0.35, -0.3),
            polygon(0.75, -0.1, 0.3, -0.1, 0.65, 0.2, 0.3),
            oval(1.0, 0.15, 0, 0.8, 0.44),
        ],
    ),
    Kind(
        "house",
        1 / 12,
        Badge("square", "pink", "green", 0, -0.38),
        [
            box(0.6, 0.35, -0.8, 0.58, -0.3),
            box(1.0, -0.72, -0.15, 0.72, 0.92),
            polygon(0.65, -0.95, -0.1, 0, -0.9, 0.95, -0.1),
            box(1.5, 0.2, 0.15, 0.52, 0.47),
            box(0.5, -0.5, 0.2, -0.1, 0.92),
        ],
    ),
    Kind(
        "mushroom",
        11 / 12,
        Badge("triangle", "red", "green", 0.3, -0.3),
        [
            polygon(1.25, -0.2, 0, 0.2, 0, 0.32, 0.95, -0.32, 0.95),
            oval(0.6, 0, 0.1, 0.92, 0.16),
            oval(0.95, 0, 0.1, 0.95, 0.95, 0.5, 1.0),
        ],
    ),
    Kind(
        "rocket",
        9 / 12,
        Badge("star", "green", "yellow", 0, -0.62),
        [
            *mirrored(polygon(0.65, 0.25, 0, 0.75, 0.6, 0.7, 0.9, 0.2, 0.6)),
            polygon(0.4, -0.2, 0.6, 0.2, 0.6, 0.28, 0.9, -0.28, 0.9),
            polygon(1.0, 0, -1, 0.2, -0.75, 0.34, -0.3, 0.3, 0.68, -0.3, 0.68, -0.34, -0.3, -0.2, -0.75),
        ],
    ),
    Kind(
        "snail",
        3 / 12,
        Badge("diamond", "cyan", "blue", 0.74, -0.3),
        [
            polygon(0.8, -1, 0.85, -0.6, 0.45, 0.5, 0.45, 0.6, -0.2, 0.95, -0.2, 0.95, 0.85),
            oval(1.0, -0.2, -0.05, 0.64, 0.62),
            oval(0.7, -0.14, 0, 0.4, 0.38),
            oval(1.1, -0.2, 0.04, 0.17, 0.16),
        ],
    ),
    Kind(
        "tree",
        4 / 12,
        Badge("cross", "blue", "pink", 0, -0.72),
        [
            box(0.5, -0.13, 0.4, 0.13, 0.97),
            polygon(0.75, 0, -0.2, 0.78, 0.6, -0.78, 0.6),
            polygon(0.95, 0, -0.6, 0.62, 0.15, -0.62, 0.15),
            polygon(1.15, 0, -0.9, 0.45, -0.25, -0.45, -0.25),
        ],
    ),
)
CLASSES = tuple(kind.name for kind in KINDS)  # in alphabetical order, so that readers which sort the names agree
BOAT = CLASSES.index("boat")
_PAIRS = (("boat", "fish"), ("car", "house"), ("mushroom", "snail"))
COMPANIONS = {CLASSES.index(one): CLASSES.index(other) for pair in _PAIRS for one, other in (pair, pair[::-1])}
