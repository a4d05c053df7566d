"""Regions of interest: pool features of boxes, encode boxes as offsets, match, sample and prune them.

Boxes are (x1, y1, x2, y2) in pixels, the right and lower side exclusive. RoIs are rows (image, x1, y1, x2, y2), so that one
tensor holds the boxes of a whole batch. Shape letters: B batch, R RoIs, P proposals, N objects, D channels, h w map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, roi_align, roi_pool

from frugalseg.boxes import iou

STD = (0.1, 0.1, 0.2, 0.2)  # offsets are predicted in these units, which gives them about unit variance (MNC's constants)
GATHER_CHANNELS = 32  # from which one gather of rows is faster than two matrix products in training on a CPU
MAX_LOG_RATIO = math.log(1000 / 16)  # of the sides: one wrong prediction cannot grow a box past all bounds (detectron2's value)


def rois(boxes: Sequence[Tensor]) -> Tensor:
    """The boxes (P, 4) of each image as RoIs (R, 5)."""
    return torch.cat([F.pad(rows.as_subclass(Tensor), (1, 0), value=float(image)) for image, rows in enumerate(boxes)])


def in_chunks(work: Callable[[Tensor], Sequence[Tensor]], rows: Tensor, size: int) -> list[Tensor]:
    """The tensors that `work` returns for all rows, computed for at most `size` of them at a time to save memory."""
    parts: Iterator[Any] = (work(part) for part in torch.split(rows, size)) if len(rows) else iter([work(rows)])
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


# -- features --------------------------------------------------------------------------------------------------------


def pool(features: Tensor, regions: Tensor, size: int, stride: int, sampling: int = 2, kind: str = "align") -> Tensor:
    """Features of each RoI on a grid of size × size, (R, D, size, size).

    features: (B, D, h, w) with point i on pixel i · stride, as every convolution with padding k // 2 has it. regions: RoIs (R, 5)
    in pixels of the image. sampling: points a side whose mean is one cell. kind: "align" (He et al., ICCV 2017) or "max", the
    rounded maximum of Fast R-CNN. RoIs carry no gradient.
    """
    regions = regions.detach().float()
    if kind == "max":
        maxima: Tensor = roi_pool(features.float(), regions, size, 1 / stride)  # CPUs have none in half precision
        return maxima.to(features.dtype)
    # RoIAlign takes point i for the middle of pixels [i · stride, (i + 1) · stride), not for pixel i · stride.
    on_map = torch.cat([regions[:, :1], (regions[:, 1:] + (stride - 1) / 2) / stride], 1)
    if features.requires_grad and features.device.type == "cpu":
        return (align if features.shape[1] >= GATHER_CHANNELS else align_by_axes)(features, on_map, size, sampling)
    means: Tensor = roi_align(features, on_map, size, 1.0, sampling, aligned=True)
    return means


def align(features: Tensor, regions: Tensor, size: int, sampling: int) -> Tensor:
    """RoIAlign as one weighted gather of whole rows of channels: in training on a CPU 2 to 5 times as fast as torchvision's.

    features: (B, D, h, w). regions: (R, 5) in units of the map. Returns (R, D, size, size) in channels-last order.
    """
    batch, channels, height, width = features.shape
    rows, row_weights = _taps(regions[:, 2], regions[:, 4], height, size, sampling)
    columns, column_weights = _taps(regions[:, 1], regions[:, 3], width, size, sampling)
    first = (regions[:, 0].int() * (height * width)).view(-1, 1, 1, 1, 1)
    index = first + rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    table = features.float().permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    taps = (2 * sampling) ** 2
    cells = F.embedding_bag(index.reshape(-1, taps), table, mode="sum", per_sample_weights=weights.reshape(-1, taps))
    return cells.view(-1, size, size, channels).permute(0, 3, 1, 2)


def align_by_axes(features: Tensor, regions: Tensor, size: int, sampling: int) -> Tensor:
    """RoIAlign of few channels as a matrix product for each axis: in training on a CPU up to 4 times as fast as torchvision's.

    Shapes as for `align`, in the usual order.
    """
    height, width = features.shape[2:]
    rows = _spread(*_taps(regions[:, 2], regions[:, 4], height, size, sampling), height)
    columns = _spread(*_taps(regions[:, 1], regions[:, 3], width, size, sampling), width)
    order = regions[:, 0].argsort(stable=True)
    counts = regions[:, 0].long().bincount(minlength=len(features)).tolist()
    cells = []
    with torch.autocast(features.device.type, enabled=False):  # half precision would move the boxes
        for places, image in zip(torch.split(order, counts), features.float(), strict=True):
            half = torch.einsum("rsh,dhw->rsdw", rows[places], image)
            cells.append(torch.einsum("rsdw,rtw->rdst", half, columns[places]))
    return torch.cat(cells)[order.argsort()]


def _spread(index: Tensor, weights: Tensor, extent: int) -> Tensor:
    """Points and weights of `_taps` as rows over all points of the axis, (R, size, extent)."""
    return weights.new_zeros(*index.shape[:2], extent).scatter_add_(2, index.long(), weights)


def _taps(start: Tensor, end: Tensor, extent: int, size: int, sampling: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the points whose weighted sum is each cell, and their weights; both (R, size, 2 · sampling)."""
    steps = (torch.arange(size * sampling, device=start.device) + 0.5) / (size * sampling)
    places = start[:, None] + steps * (end - start)[:, None] - 0.5
    inside = (places >= -1) & (places <= extent)
    places = places.clamp(0, extent - 1)
    low = places.floor()
    share = places - low
    index = torch.stack([low, (low + 1).clamp(max=extent - 1)], -1).int()
    weights = torch.stack([1 - share, share], -1) * (inside / sampling)[..., None]
    return index.view(-1, size, 2 * sampling), weights.view(-1, size, 2 * sampling)


def mask_targets(crops: Sequence[Tensor], extents: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The object's mask inside a box that may lie anywhere, bilinear to size × size, 1 from 0.5 on, (R, size, size) int64.

    crops: for each RoI its object's mask as `data.detection.crop_mask` makes it, with a border of one empty pixel. extents:
    (R, 4) where it was cropped. boxes: (R, 4) in the same pixels. RoIs that share a tensor of `crops` are done together.
    """
    targets = boxes.new_zeros((len(boxes), size, size), dtype=torch.int64)
    in_crop = boxes.float() - (extents[:, [0, 1, 0, 1]] - 1)
    rows_of: dict[int, list[int]] = {}
    for row, mask in enumerate(crops):
        rows_of.setdefault(id(mask), []).append(row)
    for rows in rows_of.values():
        mask = crops[rows[0]][None, None].float()
        targets[rows] = (roi_align(mask, [in_crop[rows]], size, 1.0, 2, aligned=True)[:, 0] >= 0.5).long()
    return targets


# -- boxes -----------------------------------------------------------------------------------------------------------


def encode(boxes: Tensor, targets: Tensor, std: Sequence[float] = STD) -> Tensor:
    """Offsets (R, 4) that move boxes onto targets: shift of the centre in box sides, log ratio of the sides (Girshick, 2014)."""
    centre, sides = _centred(boxes)
    target_centre, target_sides = _centred(targets)
    return torch.cat([(target_centre - centre) / sides, (target_sides / sides).log()], 1) / boxes.new_tensor(std)


def decode(boxes: Tensor, offsets: Tensor, sizes: Tensor, std: Sequence[float] = STD) -> Tensor:
    """Boxes (R, 4) moved by offsets (R, 4), inside their images and no smaller than one pixel. sizes: (R, 2) of (H, W)."""
    centre, sides = _centred(boxes)
    offsets = offsets.float() * boxes.new_tensor(std)
    centre = centre + offsets[:, :2] * sides
    sides = sides * offsets[:, 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return clip(torch.cat([centre - sides / 2, centre + sides / 2], 1), sizes)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (R, 2) and sides (R, 2) of boxes."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (R, 4) inside images of sizes (R, 2), each at least one pixel wide and high."""
    limits = sizes.flip(1).to(boxes)
    start = boxes[:, :2].clamp(min=0).minimum(limits - 1)
    return torch.cat([start, boxes[:, 2:].minimum(limits).maximum(start + 1)], 1)


def match(boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """For each box the object (N, 4) it overlaps most and their IoU, both (R,); without objects the IoU is 0."""
    if not len(truth):
        return torch.zeros(len(boxes), dtype=torch.long, device=boxes.device), boxes.new_zeros(len(boxes))
    best = iou(boxes, truth).max(1)
    return best.indices, best.values


def sample(overlaps: Tensor, count: int, share: float, threshold: float = 0.5, lowest: float = 0.0) -> tuple[Tensor, Tensor]:
    """Indices of at most `count` boxes to learn from, objects and background, at random.

    overlaps: (P,) IoU with the best object. share: of objects among them, at most; background fills up. threshold: IoU from
    which a box is an object. lowest: IoU from which one below the threshold is background (Fast R-CNN: 0.1; R2-IOS: 0).
    """
    objects, others = overlaps >= threshold, (overlaps < threshold) & (overlaps >= lowest)
    foreground = _random_subset(objects.nonzero().flatten(), round(count * share))
    return foreground, _random_subset(others.nonzero().flatten(), count - len(foreground))


def _random_subset(candidates: Tensor, count: int) -> Tensor:
    return candidates[torch.randperm(len(candidates), device=candidates.device)[:count]]


def nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, most: int) -> Tensor:
    """Indices of the best `most` boxes, best first; none overlaps a better one of its class by more than the threshold."""
    kept: Tensor = batched_nms(boxes, scores, labels, threshold)
    return kept[:most]
