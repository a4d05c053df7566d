"""One image of the built-in set with all its labels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from ...types import IGNORE, Instances, Sample
from .classes import BOAT, CLASSES
from .layout import arrange, cast, clutter
from .painting import Bools, Numbers, background, develop, majority, paint

SMALLEST = 32  # pixels; below, the smallest badge is less than two pixels wide


def draw(index: int, seed: int = 0, size: int = 128, split: str = "train", void: bool = False) -> Sample:
    """One image with all its labels: a function of (seed, split, index); `size` only sets the resolution.

    Instances have their visible pixels as masks, and tight boxes whose x2, y2 lie one past the last pixel.

    Args:
        index: any number from 0; images need not be drawn in order.
        size: pixels of both sides, at least 32.
        void: mark a line of one pixel round things as 255 in the semantic mask, as VOC does.

    Raises:
        ValueError: a negative index or seed, or a size that is too small.
    """
    drawn = _picture(index, seed, size, split)
    owner, labels = torch.from_numpy(drawn.owner).long(), torch.tensor(drawn.labels)
    masks = owner == torch.arange(1, len(labels) + 1)[:, None, None]
    seen = masks.any(dim=(1, 2))  # at the smallest sizes, what is left of a half hidden object can fall between the pixels
    masks, labels = masks[seen], labels[seen]
    boxes = masks_to_boxes(masks) + torch.tensor((0.0, 0.0, 1.0, 1.0))  # torchvision's end at the last pixel
    semantic = torch.tensor([0, *drawn.labels])[owner]
    if void:
        semantic[ring(owner)] = IGNORE
    tags = torch.zeros(len(CLASSES)).index_fill_(0, labels - 1, 1.0)
    return Sample(f"{split}_{index:05d}", torch.from_numpy(drawn.image), tags, semantic, Instances(boxes, labels, masks=masks))


def badges(index: int, seed: int = 0, size: int = 128, split: str = "train") -> Tensor:
    """The visible pixels of the badges in `draw`'s image of the same arguments, (H, W) bool.

    No label of the set: it is there to ask whether a method sees more than the part that gives a class away.
    """
    return torch.from_numpy(_picture(index, seed, size, split).badges)


def ring(owner: Tensor) -> Tensor:
    """Of a map of who owns each pixel, (H, W): the pixels whose right or lower neighbour belongs to another, (H, W) bool."""
    line = torch.zeros(owner.shape, dtype=torch.bool)
    line[:, :-1] |= owner[:, :-1] != owner[:, 1:]
    line[:-1] |= owner[:-1] != owner[1:]
    return line


@dataclass(frozen=True)
class Picture:
    """image: (3, H, W). owner: (H, W) of 0 = nobody, i = the i-th of `labels`. badges: (H, W). labels: class ids from 1."""

    image: Numbers
    owner: Numbers
    badges: Bools
    labels: list[int]


def _picture(index: int, seed: int, size: int, split: str) -> Picture:
    """Everything random but the grain is drawn alike for every size, so that an image is the same scene at any resolution.

    Raises ValueError for a negative index or seed and for a size that is too small.
    """
    if min(index, seed) < 0 or size < SMALLEST:
        raise ValueError(f"got index={index}, seed={seed}, size={size}; expected index and seed from 0, size from {SMALLEST}")
    rng = np.random.default_rng((seed, zlib.crc32(split.encode()), index))  # Python's own hash differs from run to run
    stage = arrange(rng, cast(rng, index))
    boat = any(kind == BOAT for kind, _ in stage)
    canvas = background(rng, 2 * size, water=rng.random() < (0.85 if boat else 0.08))
    for shape in clutter(rng):
        paint(rng, canvas, shape)
    owner, badges = np.zeros((2, 2 * size, 2 * size), np.uint8)
    for number, (_, shape) in enumerate(stage, start=1):
        window, whole, badge = paint(rng, canvas, shape)
        owner[window][whole] = number
        badges[window][whole] = badge[whole]
    return Picture(develop(rng, canvas), majority(owner), majority(badges) > 0, [kind + 1 for kind, _ in stage])
