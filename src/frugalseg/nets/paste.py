"""Soft masks of regions back onto the image, at its own resolution, straight into run lengths.

Two thousand dense masks of a 12-Mpx photo would be 24 GB. Here one strip of one mask is dense at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from frugalseg import rle

STRIP = 2**22  # pixels that are dense at a time: 16 MB of float32


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> list[rle.RLE]:
    """Run lengths of the pixels in which regions reach the threshold.

    The value of a pixel is interpolated bilinearly at its centre between the centres of the mask's cells, with 0 beyond the mask:
    rounding boxes to whole pixels first would shift small objects (the convention of Detectron2's paste_masks_in_image).

    Args:
        masks: (R, h, w) probabilities.
        boxes: (R, 4) xyxy of the masks' outlines in pixels of the image; parts outside of it are cut off.
        size: (H, W) of the image.
        threshold: in (0, 1].

    Returns R masks of `frugalseg.rle`, some perhaps empty. Raises ValueError for shapes that do not fit, boxes that are not
    finite, and a threshold that every pixel reaches.
    """
    if masks.ndim != 3 or boxes.shape != (len(masks), 4) or not torch.isfinite(boxes).all():
        raise ValueError(
            f"paste: got masks {tuple(masks.shape)} and boxes {tuple(boxes.shape)}, expected (R, h, w) and finite (R, 4)"
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"paste: got threshold={threshold}, expected one in (0, 1]")
    corners = boxes.double().cpu().tolist()
    return [_pasted(mask, box, size, threshold) for mask, box in zip(masks.float(), corners, strict=True)]


def _pasted(mask: Tensor, box: list[float], size: tuple[int, int], threshold: float) -> rle.RLE:
    (x1, y1, x2, y2), (height, width) = box, size
    rows, columns = _covered(y1, y2, height, mask.shape[0]), _covered(x1, x2, width, mask.shape[1])
    if not rows or not columns:
        return rle.from_bounds(np.zeros(0, np.int64), size)
    stretched = _weights(rows, y1, y2, mask.shape[0]).to(mask.device) @ mask
    bounds, step = [], max(1, STRIP // len(rows))
    for start in range(columns.start, columns.stop, step):
        strip = range(start, min(start + step, columns.stop))
        values = stretched @ _weights(strip, x1, x2, mask.shape[1]).to(mask.device).T
        bounds.append(rle.bounds((values >= threshold).cpu().numpy(), rows.start, start, height))
    return rle.from_bounds(np.concatenate(bounds), size)


def _covered(low: float, high: float, extent: int, cells: int) -> range:
    """Pixels along an axis whose value a mask of so many cells can change: half a cell beyond its outline on either side."""
    if high <= low:
        return range(0)
    margin = (high - low) / cells / 2
    first, last = max(low - margin, -1.0), min(high + margin, extent + 1.0)
    return range(max(0, int(np.floor(first))), min(extent, int(np.ceil(last))))


def _weights(pixels: range, low: float, high: float, cells: int) -> Tensor:
    """(pixels, cells) float32 weights of the cells in each pixel's value: bilinear, 1 at a cell's centre, 0 at the next one's."""
    centres = torch.arange(pixels.start, pixels.stop, dtype=torch.float64) + 0.5
    places = (centres - low) * (cells / (high - low)) - 0.5
    return (1 - (places[:, None] - torch.arange(cells)).abs()).clamp(min=0).float()
