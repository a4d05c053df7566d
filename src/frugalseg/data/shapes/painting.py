"""Painting on a canvas (3, 2H, 2W) with values in [0, 1]: at twice the size and averaged down, so that edges are smooth."""

from __future__ import annotations

import colorsys
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .classes import Floats
from .layout import FRACTION, Shape, fill, pixels

Bools = NDArray[np.bool_]
Numbers = NDArray[np.uint8]
Window = tuple[slice, slice]  # rows, columns


def background(rng: Generator, side: int, water: bool) -> Floats:
    """A textured ground with uneven light; where there is water, it fills the lower part with waves."""
    x: Floats = ((np.arange(side) + 0.5) / side).astype(np.float32)
    y = x[:, None]
    ground = _two_colours(rng, _texture(rng, 2 * x, 2 * y), vivid=0.3)
    for cells in (5, 17, 64):
        light = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        ground += 0.12 * cv2.resize(light, (side, side), interpolation=cv2.INTER_CUBIC)
    shore, sway, hue = rng.uniform(0.25, 0.6), rng.uniform(0, 6), rng.uniform(0.5, 0.62)
    if water:
        swell = 0.13 * np.sin(70 * y + 2.5 * np.sin(9 * x + sway) + sway)
        sea = np.array(colorsys.hsv_to_rgb(hue, 0.6, 0.65), np.float32)[:, None, None] + swell
        np.copyto(ground, sea, where=y > shore + 0.02 * np.sin(12 * x + sway))
    return ground


def paint(rng: Generator, canvas: Floats, shape: Shape) -> tuple[Window, Bools, Bools]:
    """Paint one shape and its shadow. Returns the window of the canvas it lies in, its pixels therein, and its badge's."""
    side = canvas.shape[-1]
    window = _window(shape, side)
    patch, corner, edge = canvas[:, *window], (window[1].start, window[0].start), rng.uniform(0.45, 0.9)
    tones, ink = np.zeros(patch.shape[1:], np.float32), np.zeros(patch.shape[1:], np.uint8)
    for outline, tone in shape.body:
        fill(tones, outline, tone, corner, side)
        cv2.polylines(tones, [pixels(outline, corner, side)], True, tone * edge, max(1, side // 128), shift=FRACTION)
    for number, (outline, _) in enumerate(shape.badge, start=1):
        fill(ink, outline, number, corner, side)
    whole = (tones > 0) | (ink > 0)
    _shadow(patch, whole, side)
    np.copyto(patch, _surface(rng, shape, window, side) * tones, where=tones > 0)
    for number, (_, colour) in enumerate(shape.badge, start=1):
        np.copyto(patch, np.array(colour, np.float32)[:, None, None], where=ink == number)
    return window, whole, ink > 0


def _window(shape: Shape, side: int) -> Window:
    """The rows and columns that a shape covers, with room for its shadow."""
    corners = np.concatenate(shape.outlines)
    left, top = np.clip((corners.min(0) - 0.01) * side, 0, side).astype(int).tolist()
    right, bottom = np.clip((corners.max(0) + 0.04) * side, 0, side).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


def _shadow(patch: Floats, whole: Bools, side: int) -> None:
    """Darken what lies a little down and to the right of a shape that is about to be painted."""
    soft, shift = cv2.GaussianBlur(whole.astype(np.float32), (0, 0), side / 128), side // 60
    patch[:, shift:, shift:] *= 1 - 0.4 * soft[:-shift, :-shift]


def _surface(rng: Generator, shape: Shape, window: Window, side: int) -> Floats:
    """The texture of a shape, lit from a random direction, over its window: (3, H, W); it turns and scales with the shape."""
    y, x = ((np.arange(part.start, part.stop, dtype=np.float32) + 0.5) / side for part in window)
    (a, b), (c, d) = np.linalg.inv(shape.frame).astype(np.float32)
    x, y = x - shape.centre[0], (y - shape.centre[1])[:, None]
    x, y = a * x + b * y, c * x + d * y
    light = rng.uniform(-0.25, 0.25, 2).astype(np.float32)
    values: Floats = _two_colours(rng, _texture(rng, x, y), shape.hue) * (1 + light[0] * x + light[1] * y)
    return values


def _texture(rng: Generator, x: Floats, y: Floats) -> Floats:
    """A pattern in [0, 1]: stripes, checks, spots, rings, clouds or a plain slope."""
    pattern, hardness = rng.integers(6), np.float32(rng.uniform(1, 6))
    angle, phase = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    frequency = np.float32(np.exp(rng.uniform(np.log(4), np.log(16))))
    waves = rng.normal(0, frequency / 2, (4, 2)).astype(np.float32)
    u = frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase
    v = frequency * (np.cos(angle) * y - np.sin(angle) * x)
    if pattern == 0:
        height = np.sin(u)
    elif pattern == 1:
        height = np.sin(u) * np.sin(v)
    elif pattern == 2:
        height = np.cos(u) + np.cos(v) - np.float32(0.7)
    elif pattern == 3:
        height = np.sin(np.sqrt(u * u + v * v))
    elif pattern == 4:
        height = np.sum([np.sin(a * x + b * y + phase * i) for i, (a, b) in enumerate(waves)], axis=0) / 2
    else:
        height = (u - phase) / frequency / 2
    values: Floats = (np.clip(hardness * height, -1, 1) + 1) / 2
    return values


def _two_colours(rng: Generator, pattern: Floats, hue: float | None = None, vivid: float = 0.65) -> Floats:
    """Colour a pattern (H, W): (3, H, W). The second colour is part of the way to any other, so that contrast varies."""
    first, second, contrast = _muted(rng, hue, vivid), _muted(rng, None, vivid), np.float32(rng.uniform(0.4, 1.0))
    return first[:, None, None] + (contrast * (second - first))[:, None, None] * pattern


def _muted(rng: Generator, hue: float | None, vivid: float) -> Floats:
    """A colour of saturation up to `vivid`; given a hue, four times out of five one near it and not too grey."""
    if hue is None or rng.random() < 0.2:
        colour = (rng.random(), rng.uniform(0.05, vivid), rng.uniform(0.3, 0.95))
    else:
        colour = (rng.normal(hue, 0.04) % 1, rng.uniform(0.5 * vivid, vivid), rng.uniform(0.3, 0.95))
    return np.array(colorsys.hsv_to_rgb(*colour), np.float32)


def _quarters(canvas: NDArray[Any]) -> NDArray[Any]:
    """The four pixels of (…, 2H, 2W) that become one of (…, H, W), stacked in front."""
    return np.stack([canvas[..., row::2, column::2] for row in (0, 1) for column in (0, 1)])


def develop(rng: Generator, canvas: Floats) -> Numbers:
    """Average down to the image's size and expose: contrast, brightness, grain. Grain is last: it alone depends on the size."""
    image = _quarters(canvas).mean(0)
    image = (image - 0.5) * np.float32(rng.uniform(0.8, 1.1)) + np.float32(0.5 + rng.uniform(-0.08, 0.08))
    image += np.float32(rng.uniform(0.005, 0.03)) * rng.standard_normal(image.shape, dtype=np.float32)
    numbers: Numbers = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return numbers


def majority(owner: Numbers) -> Numbers:
    """Each pixel goes to the number that has most of its quarters, the lowest when tied."""
    quarters = _quarters(owner)
    votes = np.stack([(quarters == number).sum(0, dtype=np.uint8) for number in range(int(owner.max()) + 1)])
    numbers: Numbers = votes.argmax(0).astype(np.uint8)
    return numbers
