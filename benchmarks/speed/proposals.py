"""Selective search on photos: seconds, number of boxes, recall and best overlap, beside OpenCV-contrib's where it is installed.

    python -m benchmarks.speed.proposals PATH/TO/VOC2012 [--photos 24] [--modes single fast quality]

OpenCV's contrib wheel overwrites the plain one, so the comparison needs a separate environment. The tools take turns on every
photo, so that whatever else the machine does hits all. Writes proposals.json beside this file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from benchmarks.speed.harness import entry, save, show
from frugalseg.data import read
from frugalseg.metrics.regions import RegionScores
from frugalseg.regions.selective_search import MODES, selective_search

FILE = Path(__file__).with_suffix(".json")
COUNT = 2000  # boxes of a photo that are looked at


def opencv(image: Tensor, mode: str) -> Tensor:
    """OpenCV-contrib's boxes, (P, 4) xyxy."""
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image.permute(1, 2, 0).flip(2).contiguous().numpy())
    search.switchToSelectiveSearchFast() if mode == "fast" else search.switchToSelectiveSearchQuality()
    boxes = torch.from_numpy(search.process()[:COUNT]).float()
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def tools(modes: Sequence[str]) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is compared, by name."""
    ours = {f"frugalseg, {mode}": partial(selective_search, count=COUNT, mode=mode) for mode in modes}
    peers = {f"OpenCV-contrib, {mode}": partial(opencv, mode=mode) for mode in ("fast", "quality") if hasattr(cv2, "ximgproc")}
    return ours | peers


def measure(data: Any, compared: dict[str, Callable[[Tensor], Tensor]]) -> list[dict[str, Any]]:
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in compared}
    scores = {name: RegionScores(data.classes) for name in compared}
    for index in range(len(data)):
        image, truth = data.image(index), data.compact(index)
        for name, tool in compared.items():
            clock, work = time.perf_counter(), time.process_time()
            boxes = tool(image)
            seconds[name].append((time.perf_counter() - clock, time.process_time() - work))
            scores[name].update(data.names[index], boxes, truth.boxes, truth.labels)
    return [entry for name in compared for entry in measures(name, seconds[name], scores[name])]


def measures(name: str, seconds: list[tuple[float, float]], scores: RegionScores) -> list[dict[str, Any]]:
    """What one tool reached, as the page of results prints it."""
    clock, work = (statistics.median(times) for times in zip(*seconds, strict=True))
    boxes = statistics.mean(scores.proposals.values())
    how = f"{scores.images} photos, {boxes:.0f} boxes each"
    values_of_tool = [("seconds", clock, "s"), ("seconds of one core", work, "s")]
    values_of_tool += [(f"recall at {at}", value, "of the objects") for at, value in scores.recall.items()]
    values_of_tool += [("best overlap", scores.values["objects"], "mean over objects")]
    return [entry(f"{name}: {what}", value, unit, how) for what, value, unit in values_of_tool]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voc", type=Path, help="a folder in VOC layout with Segmentation/val")
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    options = parser.parse_args()
    data = read(options.voc, split="Segmentation/val")
    data = data.select(range(0, len(data), max(1, len(data) // options.photos)))
    data = data.select(range(min(options.photos, len(data))))
    rows = measure(data, tools(options.modes))
    show(rows)
    save(FILE, "Selective search", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
