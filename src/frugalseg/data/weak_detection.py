"""Images with tags and object proposals as a detector learns from them that knows no boxes: cropped, mirrored, resized, coloured.

Shape letters: K classes, P proposals, S objects to start from, D channels, H W image, h w the same augmented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from frugalseg.boxes import areas, iou, mirror
from frugalseg.data import detection
from frugalseg.data.dataset import Data
from frugalseg.data.transforms import shrink
from frugalseg.types import size_of

Item = dict[str, Any]
Crop = tuple[int, int, int, int]  # left, top, right, bottom


class Store(Protocol):
    """Arrays by index, such as `engine.array_store.ArrayStore`."""

    def read(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of one item, by name."""
        ...


@dataclass(frozen=True)
class Augmentation:
    """What varies from one look at an image to the next.

    scales: shorter sides in pixels, one of which is drawn. longest: the longer side, at most. flip: mirror half of the images.
    crop: least share of each side that is kept. jitter: largest factor of exposure and saturation; 1 keeps the colours.
    """

    scales: tuple[int, ...]
    longest: int
    flip: bool
    crop: float
    jitter: float


class TrainingItems:
    """Items to learn from, each a dict.

    What the network sees: image (3, h, w), tags (K,), proposals (P, 4) in its pixels, size (h, w). With `features`, arrays that
    are numbered as `EveryView` numbers its items, an item has these (1, D, h', w') in place of the image. With `starts`, the
    images with the objects of another model, it has starts (S, 2): the proposal nearest to each object, and its label.

    What the cue sees, the image without augmentation: name, original_size (H, W), cue_image (3, H', W') numpy, shrunk to
    `cue_side`, original_proposals (P, 4) in the original's pixels, cropped_proposals (P, 4) the same cut to the crop, flip.
    """

    def __init__(
        self,
        data: Data,
        proposals: Store,
        augmentation: Augmentation,
        cue_side: int,
        starts: Data | None = None,
        features: Store | None = None,
    ) -> None:
        self.data, self.proposals, self.augmentation, self.cue_side = data, proposals, augmentation, cue_side
        self.starts, self.features = starts, features

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        scale = int(torch.randint(len(self.augmentation.scales), ()))
        flip = bool(self.augmentation.flip and torch.rand(()) < 0.5)
        item = self.item(index, self.augmentation.scales[scale], flip)
        if self.features is not None:
            del item["image"]
            stored = self.features.read(EveryView.number(self.augmentation, index, scale, flip))
            item["features"] = torch.from_numpy(stored["features"])
        return item

    def item(self, index: int, scale: int, flip: bool) -> Item:
        """An image at one scale, perhaps mirrored; crop and colours are drawn from torch's random numbers."""
        sample, rows = self.data[index], torch.from_numpy(self.proposals.read(index)["boxes"])
        image = sample.image.as_subclass(Tensor)
        original_size = size_of(image)
        crop = left, top, right, bottom = random_crop(original_size, self.augmentation.crop)
        cropped, kept = boxes_in_crop(rows, crop)
        extent = bottom - top, right - left
        size = detection.scaled(extent, scale, self.augmentation.longest)
        view = detection.resized(jitter_colours(image[:, top:bottom, left:right], self.augmentation.jitter), size)
        shifted = cropped - cropped.new_tensor([left, top, left, top])
        return self._starts(index, rows[kept]) | {
            "image": view.flip(-1) if flip else view,
            "tags": sample.tags,
            "proposals": (mirror(shifted, extent[1]) if flip else shifted) * detection.ratio(extent, size),
            "size": size,
            "name": sample.name,
            "original_size": original_size,
            "cue_image": shrink(image, self.cue_side).numpy(),
            "original_proposals": rows[kept],
            "cropped_proposals": cropped,
            "flip": flip,
        }

    def _starts(self, index: int, proposals: Tensor) -> Item:
        """The objects of the other model as rows of the image's proposals (P, 4) and labels."""
        objects = self.starts.boxed(index) if self.starts is not None else None
        if objects is None:
            return {}
        return {"starts": torch.stack([iou(objects.boxes, proposals).argmax(1), objects.labels], 1)}


class EveryView:
    """The image of every item at every scale and mirrored, for a frozen backbone to see once."""

    def __init__(self, items: TrainingItems) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items) * len(self.items.augmentation.scales) * 2

    def __getitem__(self, number: int) -> Tensor:
        number, flip = divmod(number, 2)
        index, scale = divmod(number, len(self.items.augmentation.scales))
        image: Tensor = self.items.item(index, self.items.augmentation.scales[scale], bool(flip))["image"]
        return image

    @staticmethod
    def number(augmentation: Augmentation, index: int, scale: int, flip: bool) -> int:
        """The number of the view of an image; scale: its place in the augmentation's scales."""
        return 2 * (index * len(augmentation.scales) + scale) + flip


def random_crop(size: tuple[int, int], least: float) -> Crop:
    """A random part of an image of that (H, W), with at least that share of each side."""
    spans = []
    for side in (size[1], size[0]):
        length = max(1, round(side * (least + (1 - least) * float(torch.rand(())))))
        start = int(torch.randint(side - length + 1, ()))
        spans.append((start, start + length))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def boxes_in_crop(rows: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
    """Boxes (P, 4) cut to a crop, without those that lose more than half of their area, and the rows (P',) that stay."""
    left, top, right, bottom = crop
    low, high = rows.new_tensor([left, top]), rows.new_tensor([right, bottom])
    cut = torch.cat([rows[:, :2].clamp(min=low, max=high - 1), rows[:, 2:].clamp(max=high)], 1)
    cut = torch.cat([cut[:, :2], cut[:, 2:].maximum(cut[:, :2] + 1)], 1)
    kept = (areas(cut) >= areas(rows) / 2).nonzero().flatten()
    kept = kept if len(kept) else torch.arange(len(rows))
    return cut[kept], kept


def jitter_colours(image: Tensor, largest: float) -> Tensor:
    """The image with exposure and saturation, V and S of HSV, multiplied or divided by up to `largest`."""
    if largest == 1:
        return image
    exposure, saturation = (largest ** float(2 * torch.rand(()) - 1) for _ in range(2))
    pixels = image.float()
    value, least = pixels.amax(0), pixels.amin(0)
    spread = (value / (value - least).clamp(min=1)).clamp(max=saturation)  # a fully saturated colour cannot be saturated further
    brightness = (exposure * value).clamp(max=255) / value.clamp(min=1)
    changed: Tensor = (value - (value - pixels) * spread) * brightness
    return changed.round().to(torch.uint8)
