"""Images with object masks as a detector learns from them: resized, mirrored, masks cropped to their objects.

Shape letters: B batch, N objects, P proposals, K classes, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from frugalseg import rle
from frugalseg.data.dataset import Data
from frugalseg.types import Instances, Prediction, Sample, size_of

PADDING = (124, 116, 104)  # ImageNet's mean colour, which networks take for nothing


class Boxes(Protocol):
    """Proposals (P, 4) of each image of a data set."""

    def __getitem__(self, index: int) -> Tensor: ...


# -- images ------------------------------------------------------------------------------------------------------------


def scaled(size: tuple[int, int], scale: int, longest: int) -> tuple[int, int]:
    """The (H, W) whose shorter side is `scale`, unless the longer one would pass `longest`; scale 0 keeps the size."""
    factor = min(scale / min(size), longest / max(size)) if scale else 1.0
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The image (3, H, W) at that (H, W), a plain tensor."""
    plain: Tensor = transforms.resize(image.as_subclass(Tensor), list(size), antialias=True)
    return plain


def ratio(before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """(4,) factors for the boxes of an image that is resized from one (H, W) to another."""
    return torch.tensor([after[1] / before[1], after[0] / before[0]]).repeat(2)


def padded(images: Sequence[Tensor], multiple: int) -> Tensor:
    """Images (3, H, W) in one batch (B, 3, H', W') float, with sides that are multiples, filled up with PADDING."""
    height, width = (-(-max(image.shape[axis] for image in images) // multiple) * multiple for axis in (1, 2))
    batch = torch.tensor(PADDING, dtype=torch.float32, device=images[0].device).view(1, 3, 1, 1)
    batch = batch.repeat(len(images), 1, height, width)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


# -- masks -------------------------------------------------------------------------------------------------------------


def crop_mask(mask: Tensor, extent: Tensor) -> Tensor:
    """An object's mask (H, W) inside its extent (4,), whole pixels, with a border of one empty pixel, uint8.

    So a thousand objects of a large image take the memory of their extents, not of a thousand images.
    """
    x1, y1, x2, y2 = extent.int().tolist()
    return F.pad(mask[y1:y2, x1:x2].to(torch.uint8), (1, 1, 1, 1))


def full_masks(crops: Sequence[Tensor], extents: Tensor, size: tuple[int, int]) -> Tensor:
    """The masks (N, H, W) uint8 that were cropped at `extents` (N, 4)."""
    masks = torch.zeros((len(crops), *size), dtype=torch.uint8)
    for mask, crop, (x1, y1, x2, y2) in zip(masks, crops, extents.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = crop[1:-1, 1:-1]
    return masks


# -- training ----------------------------------------------------------------------------------------------------------


class DetectionDataset:
    """Items of a detector's training data.

    data: images whose objects have masks. boxes: their proposals, each in its image's pixels; None has none. scale, longest: see
    `scaled`. flip: mirror half of the images.

    An item is a dict: image (3, H, W) uint8; boxes (N, 4), as annotated, and proposals (P, 4) in its pixels; labels (N,); crops:
    N masks of `crop_mask` in the pixels of the original image, and their extents (N, 4) there; ratio (4,): pixels of `image` per
    pixel of the original.
    """

    def __init__(self, data: Data, boxes: Boxes | None = None, scale: int = 0, longest: int = 0, flip: bool = True) -> None:
        self.data, self.boxes, self.scale, self.longest, self.flip = data, boxes, scale, longest, flip

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._unscaled(index)
        size = size_of(item["image"])
        if self.flip and torch.rand(()) < 0.5:
            item = mirrored(item, size[1])
        scaled_size = scaled(size, self.scale, self.longest)
        factors = ratio(size, scaled_size)
        item |= {"ratio": factors, "image": resized(item["image"], scaled_size)}
        return item | {"boxes": item["boxes"] * factors, "proposals": item["proposals"] * factors}

    def _unscaled(self, index: int) -> dict[str, Any]:
        objects = self.data.compact(index)
        if objects is None:
            raise ValueError(f"{self.data.names[index]}: got no object masks, expected some; take `data.having('instances')`")
        single = (~objects.ignored).nonzero()[0].tolist()
        extents = torch.from_numpy(rle.boxes([objects.rles[place] for place in single]))  # the annotated box may be another one
        masks = (torch.from_numpy(objects.mask(place)) for place in single)
        return {
            "image": self.data.image(index),
            "boxes": objects.boxes[single],
            "labels": objects.labels[single],
            "crops": [crop_mask(mask, extent) for mask, extent in zip(masks, extents, strict=True)],
            "extents": extents,
            "proposals": torch.zeros(0, 4) if self.boxes is None else self.boxes[index],
        }


def mirrored(item: dict[str, Any], width: int) -> dict[str, Any]:
    """An item of an unscaled image of that width, turned left to right."""
    boxes = {name: width - item[name][:, [2, 1, 0, 3]] for name in ("boxes", "extents", "proposals")}
    for name, turned in boxes.items():
        turned[:, [1, 3]] = item[name][:, [1, 3]]
    return item | boxes | {"image": item["image"].flip(-1), "crops": [crop.flip(-1) for crop in item["crops"]]}


def collate(items: Sequence[dict[str, Any]], multiple: int) -> dict[str, Any]:
    """A batch: images (B, 3, H, W) padded to multiples, sizes (B, 2) of them without the padding, and lists of the rest."""
    images = [item["image"] for item in items]
    lists = {name: [item[name] for item in items] for name in ("boxes", "labels", "crops", "extents", "ratio", "proposals")}
    sizes = torch.tensor([image.shape[1:] for image in images])
    return {"images": padded(images, multiple), "sizes": sizes, **lists}


# -- prediction --------------------------------------------------------------------------------------------------------


def instance_prediction(
    sample: Sample, classes: tuple[str, ...], boxes: Tensor, labels: Tensor, scores: Tensor, masks: list[rle.RLE]
) -> Prediction:
    """The prediction of an image from its objects, without those of empty masks; a class's tag is its best object's score."""
    full = torch.from_numpy(rle.areas(masks) > 0)
    kept = [mask for mask, keep in zip(masks, full.tolist(), strict=True) if keep]
    boxes, labels, scores = (values.cpu()[full] for values in (boxes, labels, scores))
    tags = torch.zeros(len(classes)).scatter_reduce_(0, labels - 1, scores, "amax")
    objects = Instances(boxes, labels, scores, kept)
    return Prediction(sample.name, size_of(sample.image), classes, tags, instances=objects)
