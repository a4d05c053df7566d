"""Augmentation of whole samples: image, masks and boxes move together (torchvision transforms v2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from frugalseg.types import IGNORE, longer_side


def squashed(image: Tensor, side: int) -> Tensor:
    """The image (3, H, W) uint8 squashed to a square (3, side, side), whatever its shape was."""
    output: Tensor = F.resize(image, [side, side], InterpolationMode.BICUBIC).contiguous()
    return output


def shrink(image: Tensor, longest: int) -> Tensor:
    """The image (3, H, W) with its longer side at most `longest`; a smaller one as it is."""
    image = image.as_subclass(Tensor)
    height, width = (int(side) for side in image.shape[-2:])
    factor = min(1.0, longest / max(height, width))
    return image if factor == 1.0 else F.resize(image, [max(1, round(height * factor)), max(1, round(width * factor))])


class ZoomCrop(v2.Transform):  # type: ignore[misc]  # torchvision's class has no types
    """Zoom to a longer side, by a random factor, and cut a random square; outside is `fill` in images, ignore in masks.

    Args:
        crop: side of the square in pixels.
        resize: longer side before the random zoom; 0 keeps the image's own.
        scales: range of the random zoom, drawn uniformly.
        fill: RGB of the padding.
    """

    def __init__(
        self, crop: int, resize: int = 0, scales: tuple[float, float] = (1.0, 1.0), fill: tuple[float, ...] = (0, 0, 0)
    ) -> None:
        super().__init__()
        self.crop, self.resize, self.scales, self.fill = crop, resize, scales, list(fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """torchvision asks: size after the zoom and place of the crop, drawn once for a whole sample."""
        height, width = next(tuple(item.shape[-2:]) for item in flat_inputs if isinstance(item, tv_tensors.Image))
        zoom = float(torch.empty(()).uniform_(*self.scales))
        side = round(zoom * (self.resize or max(height, width)))
        size = longer_side((height, width), side)
        space = [extent - self.crop for extent in size]
        # An image smaller than the crop lands anywhere inside it; a larger one is cut anywhere.
        top, left = (int(torch.randint(min(0, gap), max(0, gap) + 1, ())) for gap in space)
        return {"size": size, "top": top, "left": left}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """torchvision asks: the image, mask or boxes after zoom, crop and padding."""
        (height, width), top, left = params["size"], params["top"], params["left"]
        fill = {tv_tensors.Image: self.fill, tv_tensors.Mask: IGNORE}.get(type(inpt), 0)
        inpt = F.resize(inpt, size=[height, width], antialias=True)
        inpt = F.crop(inpt, max(top, 0), max(left, 0), min(height, self.crop), min(width, self.crop))
        over = [max(-left, 0), max(-top, 0), max(self.crop - width + min(left, 0), 0), max(self.crop - height + min(top, 0), 0)]
        return F.pad(inpt, padding=over, fill=fill) if any(over) else inpt


class Augmented:
    """The samples of a data set, cropped and mirrored at random, as dicts of tensors: image, tags and semantic, where known."""

    def __init__(self, data: Any, crop: ZoomCrop) -> None:
        self.data, self.transform = data, v2.Compose([crop, v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = self.transform(self.data[index])
        fields = {name: getattr(sample, name) for name in ("image", "tags", "semantic")}
        return {name: value.as_subclass(Tensor) for name, value in fields.items() if value is not None}


def stack(items: list[dict[str, Tensor]]) -> dict[str, Any]:
    """A batch of such items."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
