"""The three data types everything else speaks: `Instances`, `Sample`, `Prediction`.

"Which labels do I have" is literally which fields are not None. The first two are registered with torch's pytree, so a
torchvision v2 transform moves image, masks and boxes together. Shape letters: C classes, N instances, P proposals, H W image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle_codec
from torch import Tensor
from torch.utils import _pytree as pytree
from torchvision import tv_tensors

IGNORE = 255  # the value of a semantic mask that no loss and no metric counts


def size_of(image: Tensor) -> tuple[int, int]:
    """(H, W) of an image or mask (…, H, W)."""
    return int(image.shape[-2]), int(image.shape[-1])


def _faults(checks: Iterable[tuple[bool, str]]) -> list[str]:
    return [message for good, message in checks if not good]


def _shape(value: Any) -> str:
    return f"{type(value).__name__}{tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else repr(value)


def _raise(kind: str, faults: list[str]) -> None:
    if faults:
        raise ValueError(f"{kind} is not valid:\n" + "\n".join(f"  - {fault}" for fault in faults))


@dataclass
class Instances:
    """Objects of one image. Indexable by a boolean mask, an index tensor or a slice.

    boxes: (N, 4) float32 xyxy, pixels of the image. labels: (N,) int64 in 1..C. scores: (N,) float32 or None.
    masks: (N, H, W) bool or None (never for proposals).
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        checks = [
            (self.boxes.ndim == 2 and self.boxes.shape[-1] == 4, f"boxes: got {_shape(self.boxes)}, expected (N, 4)"),
            (self.boxes.dtype == torch.float32, f"boxes: got {self.boxes.dtype}, expected float32"),
            (bool(torch.isfinite(self.boxes).all()), "boxes: contains NaN or infinity"),
            (self.labels.shape == (count,), f"labels: got {_shape(self.labels)}, expected ({count},)"),
            (self.labels.dtype == torch.int64, f"labels: got {self.labels.dtype}, expected int64"),
            (not (self.labels < 1).any(), "labels: contains values below 1; 0 is background and no object"),
        ]
        if self.scores is not None:
            checks.append((self.scores.shape == (count,), f"scores: got {_shape(self.scores)}, expected ({count},)"))
        if self.masks is not None:
            checks.append(
                (self.masks.ndim == 3 and len(self.masks) == count, f"masks: got {_shape(self.masks)}, expected ({count}, H, W)")
            )
            checks.append((self.masks.dtype == torch.bool, f"masks: got {self.masks.dtype}, expected bool"))
        _raise("Instances", _faults(checks))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor | slice) -> Instances:
        kept: list[Any] = [None if value is None else value[index] for value in _values(self)]
        return Instances(*kept)


@dataclass
class Sample:
    """All that is known about one image; a label nobody gave is None.

    name: unique within its data set. image: (3, H, W) uint8 RGB. tags: (C,) float32 of {0, 1, nan = unknown}.
    semantic: (H, W) int64 of 0 = background, 1..C, 255 = ignore. proposals: (P, 4) float32 xyxy. regions: (H, W) int64 ids.
    """

    name: str
    image: Tensor
    tags: Tensor | None = None
    semantic: Tensor | None = None
    instances: Instances | None = None
    proposals: Tensor | None = None
    regions: Tensor | None = None

    def __post_init__(self) -> None:
        size = tuple(self.image.shape[-2:])
        checks = [
            (self.image.ndim == 3 and self.image.shape[0] == 3, f"image: got {_shape(self.image)}, expected (3, H, W)"),
            (self.image.dtype == torch.uint8, f"image: got {self.image.dtype}, expected uint8"),
        ]
        if self.tags is not None:
            allowed = torch.isnan(self.tags) | (self.tags == 0) | (self.tags == 1)
            checks.append(
                (self.tags.ndim == 1 and bool(allowed.all()), f"tags: got {_shape(self.tags)}, expected (C,) of 0, 1 or nan")
            )
        for name in ("semantic", "regions"):
            value = getattr(self, name)
            if value is not None:
                checks.append((tuple(value.shape) == size, f"{name}: got {_shape(value)}, expected the image's size {size}"))
                checks.append((value.dtype == torch.int64, f"{name}: got {value.dtype}, expected int64"))
        if self.instances is not None and self.instances.masks is not None:
            got = tuple(self.instances.masks.shape[-2:])
            checks.append((got == size, f"instances.masks: got size {got}, expected the image's size {size}"))
        if self.proposals is not None:
            checks.append(
                (
                    self.proposals.ndim == 2 and self.proposals.shape[-1] == 4,
                    f"proposals: got {_shape(self.proposals)}, expected (P, 4)",
                )
            )
        _raise(f"Sample {self.name!r}", _faults(checks))
        self._wrap(size)

    def _wrap(self, size: tuple[int, ...]) -> None:
        """torchvision's transforms tell an image from a mask from a box by the tensor's class."""
        self.image = (
            tv_tensors.wrap(self.image, like=self.image)
            if isinstance(self.image, tv_tensors.Image)
            else tv_tensors.Image(self.image)
        )
        for name in ("semantic", "regions"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, tv_tensors.Mask(value))
        if self.proposals is not None:
            self.proposals = _boxes(self.proposals, size)
        if self.instances is not None:
            self.instances.boxes = _boxes(self.instances.boxes, size)
            if self.instances.masks is not None:
                self.instances.masks = tv_tensors.Mask(self.instances.masks)


def _boxes(boxes: Tensor, size: tuple[int, ...]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size)  # type: ignore[call-overload]


def _values(item: Any) -> list[Any]:
    return [getattr(item, f.name) for f in fields(item)]


def _register(kind: type) -> None:
    """Pytree rebuilds with placeholders that are no tensors, so it goes round `__post_init__` and its checks."""

    def unflatten(values: Iterable[Any], context: Any) -> Any:
        item: Any = object.__new__(kind)
        for f, value in zip(fields(kind), values, strict=True):
            setattr(item, f.name, value)
        return item

    pytree.register_pytree_node(
        kind, lambda item: (_values(item), None), unflatten, serialized_type_name=f"frugalseg.{kind.__name__}"
    )


_register(Instances)
_register(Sample)


@dataclass
class CompactInstances:
    """Objects of one image, masks as run lengths (`frugalseg.rle`): a thousand objects on a 12-Mpx photo stay in kilobytes.

    boxes: (N, 4) float32 xyxy. labels: (N,) int64 in 1..C. scores: (N,) float32, None for annotated objects.
    rles: N dictionaries {"size": [H, W], "counts": bytes}, or none at all where only boxes are known.
    areas: (N,) float64 as the annotation tells them; None: the masks' pixels. crowd, difficult: (N,) bool, objects whose finding
    is neither right nor wrong, those of COCO, of which a detection may be a part, and those of VOC; None: there is no such.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    rles: list[dict[str, Any]] = field(default_factory=list)
    areas: Tensor | None = None
    crowd: Tensor | None = None
    difficult: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def passed(self) -> np.ndarray:
        """(N,) bool: the crowds and the difficult ones."""
        marks = [np.asarray(mark, bool) for mark in (self.crowd, self.difficult) if mark is not None]
        return np.logical_or.reduce([np.zeros(len(self), bool), *marks])

    def dense(self, index: int) -> np.ndarray:
        """The mask of one object, (H, W) bool."""
        return rle_codec.decode(self.rles[index]).astype(bool)


@dataclass
class Prediction:
    """What a model says of one image, at the image's original size.

    tags: (C,) float32 confidences. semantic: (H, W) uint8 of 0 = background, 1..C. instances: compact objects.
    Draw it with `frugalseg.draw`, write it with `frugalseg.export`.
    """

    name: str
    size: tuple[int, int]
    classes: tuple[str, ...]
    tags: Tensor | None = None
    semantic: Tensor | None = None
    instances: CompactInstances | None = None
