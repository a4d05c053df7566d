"""The three data types everything else speaks: `Instances`, `Sample`, `Prediction`.

"Which labels do I have" is literally which fields are not None. The first two are registered with torch's pytree, so a
torchvision v2 transform moves image, masks and boxes together. Shape letters: C classes, N instances, P proposals, H W image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torchvision import tv_tensors

from frugalseg import rle

IGNORE = 255  # the value of a semantic mask that no loss and no metric counts


def size_of(image: Tensor) -> tuple[int, int]:
    """(H, W) of an image or mask (…, H, W)."""
    return int(image.shape[-2]), int(image.shape[-1])


def longer_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The (H, W) of an image whose longer side becomes `side`; 0 keeps it."""
    scale = side / max(size) if side else 1.0
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _faults(checks: Iterable[tuple[bool, str]]) -> list[str]:
    return [message for good, message in checks if not good]


def _shape(value: Any) -> str:
    return f"{type(value).__name__}{tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else repr(value)


def _raise(kind: str, faults: list[str]) -> None:
    if faults:
        raise ValueError(f"{kind} is not valid:\n" + "\n".join(f"  - {fault}" for fault in faults))


# -- objects -----------------------------------------------------------------------------------------------------------


class Instances:
    """Objects of one image, annotated or predicted. Indexable by a boolean mask, an index tensor, a list or a slice.

    Masks are kept as run lengths (`frugalseg.rle`), so that a thousand objects on a 12-Mpx photo stay in kilobytes; `masks`
    makes them dense on demand.

    rles: the run lengths, none where only boxes are known. masked: whether masks are known.

    Args:
        boxes: (N, 4) float32 xyxy, pixels of the image.
        labels: (N,) int64 in 1..C.
        scores: (N,) float32, or None for annotated objects.
        masks: (N, H, W) bool, or N run lengths {"size": [H, W], "counts": bytes}; None where only boxes are known.
        areas: (N,) float64 as the annotation has them; None: the masks' pixels.
        crowd: (N,) bool, COCO's `iscrowd`: many objects in one mask. difficult: (N,) bool, VOC's. Both are ignored in evaluation.

    Raises:
        ValueError: names each field that does not fit.
    """

    def __init__(
        self,
        boxes: Tensor,
        labels: Tensor,
        scores: Tensor | None = None,
        masks: Tensor | Sequence[rle.RLE] | None = None,
        areas: Tensor | None = None,
        crowd: Tensor | None = None,
        difficult: Tensor | None = None,
    ) -> None:
        self.boxes, self.labels, self.scores = boxes, labels, scores
        self.areas, self.crowd, self.difficult = areas, crowd, difficult
        self._size: tuple[int, int] | None = None
        _raise("Instances", _faults([*self._checks(), *_mask_checks(masks, len(boxes))]))
        self.masked = masks is not None
        self.rles = self._encoded(masks)

    @classmethod
    def none(cls) -> Instances:
        """No object, as a model finds it: with scores and masks, of which there are none."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), [])

    def _checks(self) -> Iterable[tuple[bool, str]]:
        count = len(self.boxes)
        yield self.boxes.ndim == 2 and self.boxes.shape[-1] == 4, f"boxes: got {_shape(self.boxes)}, expected (N, 4)"
        yield self.boxes.dtype == torch.float32, f"boxes: got {self.boxes.dtype}, expected float32"
        yield bool(torch.isfinite(self.boxes).all()), "boxes: contains NaN or infinity"
        yield self.labels.dtype == torch.int64, f"labels: got {self.labels.dtype}, expected int64"
        yield not (self.labels < 1).any(), "labels: contains values below 1; 0 is background and no object"
        for name in ("labels", "scores", "areas", "crowd", "difficult"):
            value = getattr(self, name)
            yield value is None or value.shape == (count,), f"{name}: got {_shape(value)}, expected ({count},)"

    def _encoded(self, masks: Tensor | Sequence[rle.RLE] | None) -> list[rle.RLE]:
        if not isinstance(masks, Tensor):
            return list(masks or ())
        self._size = size_of(masks)
        return [rle.encode(mask) for mask in masks.numpy(force=True)]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        masks = "with masks" if self.masked else "without masks"
        return f"Instances({len(self)} of classes {sorted(set(self.labels.tolist()))}, {masks})"

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the masks; None where there is none to tell."""
        return tuple(self.rles[0]["size"]) if self.rles else self._size

    @property
    def masks(self) -> Tensor | None:
        """(N, H, W) bool, dense: N · H · W bytes; None where only boxes are known."""
        return torch.from_numpy(rle.decode(self.rles, self.size or (0, 0))) if self.masked else None

    def mask(self, index: int) -> np.ndarray:
        """The mask of one object, (H, W) bool. Raises ValueError where no masks are known."""
        if not self.masked:
            raise ValueError("Instances: these objects have boxes alone, no masks")
        values: np.ndarray = rle.decode([self.rles[index]], (0, 0))[0]
        return values

    @property
    def ignored(self) -> np.ndarray:
        """(N,) bool: COCO `iscrowd` and VOC `difficult` objects, which evaluation ignores."""
        marks = [np.asarray(mark, bool) for mark in (self.crowd, self.difficult) if mark is not None]
        values: np.ndarray = np.logical_or.reduce([np.zeros(len(self), bool), *marks])
        return values

    def __getitem__(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> Instances:
        if not isinstance(index, slice):  # an empty list would be one of floats
            index = torch.as_tensor(index) if len(index) else torch.zeros(0, dtype=torch.int64)
        places = torch.arange(len(self))[index]
        kept: dict[str, Any] = {name: getattr(self, name) for name in PARTS}
        kept = {name: None if value is None else value[places] for name, value in kept.items()}
        chosen = Instances(**kept, masks=[self.rles[place] for place in places.tolist()] if self.masked else None)
        chosen._size = self.size
        return chosen


def _mask_checks(masks: Any, count: int) -> Iterable[tuple[bool, str]]:
    if isinstance(masks, Tensor):
        yield masks.ndim == 3 and len(masks) == count, f"masks: got {_shape(masks)}, expected ({count}, H, W)"
        yield masks.dtype == torch.bool, f"masks: got {masks.dtype}, expected bool"
    elif masks is not None:
        yield len(masks) == count, f"masks: got {len(masks)} run lengths, expected {count}"
        sizes = {tuple(code["size"]) for code in masks}
        yield len(sizes) <= 1, f"masks: got run lengths of the sizes {sorted(sizes)}, expected one"


CompactInstances = Instances  # the name of this form while there was a dense one beside it


# -- images ------------------------------------------------------------------------------------------------------------


@dataclass
class Sample:
    """All that is known about one image; a label nobody gave is None.

    name: unique within its data set. image: (3, H, W) uint8 RGB. tags: (C,) float32 of {0, 1, nan = unknown}.
    semantic: (H, W) int64 of 0 = background, 1..C, 255 = ignore. proposals: (P, 4) float32 xyxy.
    """

    name: str
    image: Tensor
    tags: Tensor | None = None
    semantic: Tensor | None = None
    instances: Instances | None = None
    proposals: Tensor | None = None

    def __post_init__(self) -> None:
        size = tuple(self.image.shape[-2:])
        _raise(f"Sample {self.name!r}", _faults(self._checks(size)))
        self._wrap(size)

    def _checks(self, size: tuple[int, ...]) -> Iterable[tuple[bool, str]]:
        yield self.image.ndim == 3 and self.image.shape[0] == 3, f"image: got {_shape(self.image)}, expected (3, H, W)"
        yield self.image.dtype == torch.uint8, f"image: got {self.image.dtype}, expected uint8"
        if self.tags is not None:
            allowed = torch.isnan(self.tags) | (self.tags == 0) | (self.tags == 1)
            yield self.tags.ndim == 1 and bool(allowed.all()), f"tags: got {_shape(self.tags)}, expected (C,) of 0, 1 or nan"
        if self.semantic is not None:
            got = tuple(self.semantic.shape)
            yield got == size, f"semantic: got {_shape(self.semantic)}, expected the image's size {size}"
            yield self.semantic.dtype == torch.int64, f"semantic: got {self.semantic.dtype}, expected int64"
        masks = None if self.instances is None else self.instances.size
        yield masks in (None, size), f"instances.masks: got size {masks}, expected the image's size {size}"
        if self.proposals is not None:
            boxes = self.proposals
            yield boxes.ndim == 2 and boxes.shape[-1] == 4, f"proposals: got {_shape(boxes)}, expected (P, 4)"

    def _wrap(self, size: tuple[int, ...]) -> None:
        """torchvision's transforms tell an image from a mask from a box by the tensor's class."""
        self.image = (
            tv_tensors.wrap(self.image, like=self.image)
            if isinstance(self.image, tv_tensors.Image)
            else tv_tensors.Image(self.image)
        )
        if self.semantic is not None:
            self.semantic = tv_tensors.Mask(self.semantic)
        if self.proposals is not None:
            self.proposals = _boxes(self.proposals, size)
        if self.instances is not None:
            self.instances.boxes = _boxes(self.instances.boxes, size)


def _boxes(boxes: Tensor, size: tuple[int, ...]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size)


# -- torch's pytree: what transforms move --------------------------------------------------------------------------------

PARTS = ("boxes", "labels", "scores", "areas", "crowd", "difficult")  # the tensors of Instances, beside the masks


def _flatten_instances(item: Instances) -> tuple[list[Any], Any]:
    masks = item.masks if item.masked is True else item.masked
    dense = tv_tensors.Mask(masks) if isinstance(masks, Tensor) else masks or None
    return [*(getattr(item, name) for name in PARTS), dense], None


def _unflatten_instances(values: Iterable[Any], _: Any) -> Instances:
    """Pytree rebuilds with placeholders that are no tensors, so it goes round the checks of `__init__`."""
    item, values = object.__new__(Instances), list(values)
    for name, value in zip(PARTS, values, strict=False):
        setattr(item, name, value)
    masks = values[-1]
    item._size, item.rles, item.masked = None, [], False if masks is None else masks
    if isinstance(masks, Tensor):
        item.masked, item.rles = True, item._encoded(masks.as_subclass(Tensor) > 0)
    return item


def _flatten_sample(item: Sample) -> tuple[list[Any], Any]:
    return [getattr(item, field.name) for field in fields(item)], None


def _unflatten_sample(values: Iterable[Any], _: Any) -> Sample:
    item: Sample = object.__new__(Sample)
    for field, value in zip(fields(Sample), values, strict=True):
        setattr(item, field.name, value)
    return item


pytree.register_pytree_node(Instances, _flatten_instances, _unflatten_instances, serialized_type_name="frugalseg.Instances")
pytree.register_pytree_node(Sample, _flatten_sample, _unflatten_sample, serialized_type_name="frugalseg.Sample")


# -- predictions -------------------------------------------------------------------------------------------------------


@dataclass
class Prediction:
    """What a model says of one image, at the image's original size.

    tags: (C,) float32 confidences. semantic: (H, W) uint8 of 0 = background, 1..C. instances: objects, best first.
    Draw it with `frugalseg.draw`, write it with `frugalseg.workflows.predict`.
    """

    name: str
    size: tuple[int, int]
    classes: tuple[str, ...]
    tags: Tensor | None = None
    semantic: Tensor | None = None
    instances: Instances | None = None
