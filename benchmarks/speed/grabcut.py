"""What GrabCut on a cut-out of the box costs and what it finds, beside GrabCut on the whole image.

    python -m benchmarks.speed.grabcut [--photos 40]

Photos of voc20's training list with object masks. The boxes are those of the objects with every side moved at random, by 8 % of
the box's sides, as proposals never fit exactly. A mask outside of the box counts as missed. What a look finds more or less than
GrabCut on the whole image has an interval over photos, the same draws for both. Writes grabcut.json beside this file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import datasets
from benchmarks.speed.harness import entry, save, show

FILE = Path(__file__).with_suffix(".json")
MOVED, SMALLEST = 0.08, 20  # of a box's sides; pixels of the objects that are looked at
LOOKS = [(400, 0), (300, 0), (200, 0), (400, 128), (400, 96), (400, 64), (400, 48), (400, 32)]  # sides of image and cut-out


def moved(photos: int) -> Iterator[tuple[int, tuple[Any, Any, Any]]]:
    """Numbers of photos, each with the image (3, H, W), a box (4,) and the object's mask (H, W)."""
    import torch

    from frugalseg.data import read

    data = read(datasets.voc20(), split="Segmentation/train")
    random = torch.Generator().manual_seed(0)
    for index in torch.randperm(len(data), generator=random)[:photos].tolist():
        sample = data[index]
        for box, mask in zip(sample.instances.boxes, sample.instances.masks, strict=True):
            sides = (box[2:] - box[:2]).repeat(2)
            if sides.min() >= SMALLEST:
                yield index, (sample.image, box + sides * MOVED * torch.randn(4, generator=random), mask)


def overlap(image: Any, box: Any, mask: Any, side: int, cut: int) -> tuple[float, float]:
    """IoU of what GrabCut finds with the mask, and the seconds it took."""
    from torchvision.transforms.v2 import functional as transforms

    from frugalseg.data.transforms import shrink
    from frugalseg.regions import grabcut

    small = shrink(image, side)
    height, width = small.shape[1:]
    truth = transforms.resize(mask[None].float(), [height, width], antialias=True)[0] >= 0.5
    factors = box.new_tensor([width / image.shape[2], height / image.shape[1]]).repeat(2)
    begin = time.process_time()
    mask_in_box = grabcut.grabcut(small, tuple((box * factors).tolist()), cut=cut)
    seconds = time.process_time() - begin
    return float((mask_in_box & truth).sum() / (mask_in_box | truth).sum().clamp(min=1)), seconds


def spread_of(values: Sequence[float], photos: Sequence[int]) -> str:
    """The interval of the mean of values, when photos are drawn with all of their objects."""
    import numpy as np

    from frugalseg.metrics import bootstrap

    _, owners = np.unique(photos, return_inverse=True)
    sums, counts = np.bincount(owners, values), np.bincount(owners)
    means = np.concatenate([weights @ sums / (weights @ counts) for weights in bootstrap.draws(len(counts), 2000, 0)])
    spread = bootstrap.interval(means)
    return f"[{spread.low:+.4f}, {spread.high:+.4f}]"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--out", type=Path, default=FILE, help="the JSON file")
    options = parser.parse_args(words)
    photos, things = zip(*moved(options.photos), strict=True)
    lines: list[dict[str, Any]] = []
    whole: list[float] = []  # overlaps of the first look
    for side, cut in LOOKS:
        overlaps, seconds = zip(*(overlap(*thing, side, cut) for thing in things), strict=True)
        name = f"image of {side}, " + (f"box cut out at {cut}" if cut else "whole")
        how = f"{len(things)} objects of {options.photos} photos"
        half = 100 * statistics.mean(value >= 0.5 for value in overlaps)
        lines += [
            entry(f"{name}: time", 1000 * statistics.mean(seconds), "ms a box", how),
            entry(f"{name}: overlap with the object", statistics.mean(overlaps), "mean IoU", how),
            entry(f"{name}: overlap of at least half", half, "% of the objects", how),
        ]
        if whole:
            more = [here - first for here, first in zip(overlaps, whole, strict=True)]
            spread = f"{how}, 95 % interval over photos {spread_of(more, photos)}"
            lines.append(entry(f"{name}: overlap beside the first", statistics.mean(more), "more mean IoU", spread))
        whole = whole or list(overlaps)
    show(lines)
    save(options.out, "GrabCut", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
