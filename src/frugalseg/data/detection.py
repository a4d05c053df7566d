"""Pictures with object masks as a detector learns from them: resized, mirrored, masks cut out at their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from frugalseg import rle
from frugalseg.types import Instances, Prediction, Sample

PADDING = (124, 116, 104)  # ImageNet's mean colour: what networks take for nothing


def learnable(data: Any) -> Any:
    """The pictures whose objects have masks, with no other label. Raises ValueError if there is none."""
    masked = [index for index, record in enumerate(data.records) if "instances" in record.fields]
    if not masked:
        raise ValueError(
            f"{data.root}, list {data.split!r}: no picture has object masks, boxes alone do not do; `frugalseg check`"
        )
    return data.only("image", "instances").select(masked)


def scaled(size: tuple[int, int], scale: int, longest: int) -> tuple[int, int]:
    """The (H, W) whose shorter side is `scale`, unless the longer one would pass `longest`; scale 0 keeps the size."""
    factor = min(scale / min(size), longest / max(size)) if scale else 1.0
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The picture (3, H, W) at that (H, W), a plain tensor."""
    return transforms.resize(image.as_subclass(Tensor), list(size), antialias=True)


def ratio(size: tuple[int, int], now: tuple[int, int]) -> Tensor:
    """(4,) factors for boxes of a picture of `size` that is resized to `now`."""
    return torch.tensor([now[1] / size[1], now[0] / size[0]]).repeat(2)


def padded(images: Sequence[Tensor], multiple: int) -> Tensor:
    """Pictures (3, H, W) in one batch (B, 3, H', W') float, with sides that are multiples, filled up with PADDING."""
    height, width = (-(-max(image.shape[axis] for image in images) // multiple) * multiple for axis in (1, 2))
    batch = torch.tensor(PADDING, dtype=torch.float32, device=images[0].device).view(1, 3, 1, 1)
    batch = batch.repeat(len(images), 1, height, width)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def cut(mask: Tensor, extent: Tensor) -> Tensor:
    """An object's mask (H, W) inside its extent (4,), whole pixels, with a rim of one empty pixel, uint8.

    So a thousand objects of a large picture take the memory of their extents, not of a thousand pictures.
    """
    x1, y1, x2, y2 = extent.int().tolist()
    return F.pad(mask[y1:y2, x1:x2].to(torch.uint8), (1, 1, 1, 1))


def dense(cuts: Sequence[Tensor], corners: Tensor, size: tuple[int, int]) -> Tensor:
    """The masks (N, H, W) uint8 that were cut out at `corners` (N, 4)."""
    masks = torch.zeros((len(cuts), *size), dtype=torch.uint8)
    for mask, own, (x1, y1, x2, y2) in zip(masks, cuts, corners.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = own[1:-1, 1:-1]
    return masks


def allowed(sample: Sample) -> Tensor:
    """The classes (K,) bool of the picture's tags, for predictions that are told them. Raises ValueError if it has none."""
    if sample.tags is None:
        raise ValueError(f"{sample.name}: tags='given' needs the picture's tags and it has none; leave the option out")
    return sample.tags > 0


def predicted(
    sample: Sample, classes: tuple[str, ...], boxes: Tensor, labels: Tensor, scores: Tensor, codes: list[rle.RLE]
) -> Prediction:
    """The prediction of a picture from its objects, without those whose mask holds no pixel; a class's tag is its best object."""
    full = torch.from_numpy(rle.areas(codes) > 0)
    kept = [code for code, there in zip(codes, full.tolist(), strict=True) if there]
    boxes, labels, scores = (values.cpu()[full] for values in (boxes, labels, scores))
    tags = torch.zeros(len(classes)).scatter_reduce_(0, labels - 1, scores, "amax")
    size = (int(sample.image.shape[-2]), int(sample.image.shape[-1]))
    return Prediction(sample.name, size, classes, tags, instances=Instances(boxes, labels, scores, kept))


class Objects:
    """Items of a detector's training data.

    data: a `Data` whose objects have masks. boxes: gives each picture's proposals (P, 4) in its own pixels; None has none.
    scale, longest: see `scaled`. flip: mirror half of the pictures.

    An item is a dict: image (3, h, w) uint8; boxes (N, 4), as annotated, and proposals (P, 4) in its pixels; labels (N,); cuts:
    as `cut` makes them, in the picture's own pixels, at corners (N, 4), the masks' extents; ratio (4,): resized over own pixels.
    """

    def __init__(self, data: Any, boxes: Any = None, scale: int = 0, longest: int = 0, flip: bool = True) -> None:
        self.data, self.boxes, self.scale, self.longest, self.flip = data, boxes, scale, longest, flip

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._own_pixels(index)
        size = (item["image"].shape[1], item["image"].shape[2])
        if self.flip and torch.rand(()) < 0.5:
            item = mirrored(item, size[1])
        now = scaled(size, self.scale, self.longest)
        factors = ratio(size, now)
        item |= {"ratio": factors, "image": resized(item["image"], now)}
        return item | {"boxes": item["boxes"] * factors, "proposals": item["proposals"] * factors}

    def _own_pixels(self, index: int) -> dict[str, Any]:
        known = self.data.compact(index)
        if known is None:
            raise ValueError(f"{self.data.names[index]}: got no object masks; learn from pictures that have them")
        single = (~known.ignored).nonzero()[0].tolist()
        corners = torch.from_numpy(rle.boxes([known.rles[number] for number in single]))  # a box may be wrong about its mask
        cuts = [cut(torch.from_numpy(known.mask(number)), extent) for number, extent in zip(single, corners, strict=True)]
        own = torch.zeros(0, 4) if self.boxes is None else self.boxes[index]
        item = {"image": self.data.image(index), "boxes": known.boxes[single], "labels": known.labels[single], "cuts": cuts}
        return item | {"corners": corners, "proposals": own}


def mirrored(item: dict[str, Any], width: int) -> dict[str, Any]:
    """The item of a picture turned left to right."""
    boxes = {name: width - item[name][:, [2, 1, 0, 3]] for name in ("boxes", "corners", "proposals")}
    for name, own in boxes.items():
        own[:, [1, 3]] = item[name][:, [1, 3]]
    return item | boxes | {"image": item["image"].flip(-1), "cuts": [mask.flip(-1) for mask in item["cuts"]]}


def stack(items: Sequence[dict[str, Any]], multiple: int) -> dict[str, Any]:
    """A batch: images (B, 3, H, W) padded to multiples, sizes (B, 2) of the pictures in it, and lists of the rest."""
    images = [item["image"] for item in items]
    lists = {name: [item[name] for item in items] for name in ("boxes", "labels", "cuts", "corners", "ratio", "proposals")}
    sizes = torch.tensor([image.shape[1:] for image in images])
    return {"images": padded(images, multiple), "sizes": sizes, **lists}
