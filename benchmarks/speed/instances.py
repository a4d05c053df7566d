"""Scoring of object masks beside pycocotools and faster-coco-eval: time, memory and equality, in one run on one machine.

    python benchmarks/speed/instances.py [--images 2000] [--detections 25] [--repeats 1]

From masks in memory to COCO's table, run-length encoding included: each tool gets the same detections as boolean masks cut at
their boxes, as a network's paste gives them, and annotations as run lengths. pycocotools and faster-coco-eval encode whole
images, as their interface asks; the time of encoding is also listed alone. One thread; every tool has a separate process for its
peak memory, and times are the processor's, which other work on the machine does not lengthen much. Writes instances.json beside
this file. Needs `pip install pycocotools`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import io
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from frugalseg import rle
from frugalseg.metrics.instances import COCO, InstanceScores
from frugalseg.types import Instances

SIZE = (480, 640)
CLASSES = 20
OBJECTS = 8  # on average in an image


class Cut(NamedTuple):
    """A mask (h, w) bool at its place in the image."""

    mask: np.ndarray
    top: int
    left: int


class Scene(NamedTuple):
    """The objects of an image: annotated ones as run lengths, detected ones as masks in memory."""

    truth: list[rle.RLE]
    true_labels: np.ndarray
    detections: list[Cut]
    labels: np.ndarray
    scores: np.ndarray


def scene(index: int, detections: int) -> Scene:
    """Ellipses of all sizes; two in three detections lie near an object, the others anywhere."""
    random = np.random.default_rng(index)
    count = int(random.integers(1, 2 * OBJECTS))
    places = [_place(random) for _ in range(count)]
    true_labels = random.integers(1, CLASSES + 1, count)
    targets = random.integers(0, 3 * count // 2 + 1, detections)
    detected = [_near(places[t], random) if t < count else _place(random) for t in targets]
    labels = np.array([true_labels[t] if t < count else random.integers(1, CLASSES + 1) for t in targets])
    truth = [rle.encode(*_ellipse(place), SIZE) for place in places]
    cuts, scores = [_ellipse(place) for place in detected], random.random(detections).astype(np.float32)
    return Scene(truth, true_labels, cuts, labels, scores)


def _place(random: np.random.Generator) -> np.ndarray:
    """Centre and half axes: row, column, height, width."""
    half = np.exp(random.uniform(np.log(6), np.log(110), 2))
    return np.concatenate([random.uniform(0, 1, 2) * SIZE, half])


def _near(place: np.ndarray, random: np.random.Generator) -> np.ndarray:
    moved = place.copy()
    moved[:2] += random.normal(0, 0.12, 2) * place[2:]
    moved[2:] *= random.uniform(0.8, 1.25, 2)
    return moved


def _ellipse(place: np.ndarray) -> Cut:
    row, column, height, width = place
    top, left = (int(max(0, low)) for low in (row - height, column - width))
    bottom, right = (int(min(limit, high + 1)) for limit, high in zip(SIZE, (row + height, column + width), strict=True))
    y, x = np.ogrid[top : max(bottom, top + 1), left : max(right, left + 1)]
    return Cut(((y - row) / height) ** 2 + ((x - column) / width) ** 2 <= 1, top, left)


# -- the tools: scenes -> (COCO's six numbers, seconds of encoding, seconds of all else) --


def ours(scenes: list[Scene]) -> tuple[list[float], float, float]:
    encoding = -time.process_time()
    codes = [[rle.encode(*cut, SIZE) for cut in item.detections] for item in scenes]
    encoding += time.process_time()
    begin = time.process_time()
    scores = InstanceScores([str(number) for number in range(1, CLASSES + 1)])
    for index, (item, masks) in enumerate(zip(scenes, codes, strict=True)):
        boxes, true_boxes = (torch.from_numpy(rle.boxes(part)) for part in (masks, item.truth))
        detected = Instances(boxes, torch.from_numpy(item.labels), torch.from_numpy(item.scores), masks)
        scores.update(f"{index:06}", detected, Instances(true_boxes, torch.from_numpy(item.true_labels), masks=item.truth))
    values = [scores.of(measure).value for measure in COCO.values()]
    return values, encoding, time.process_time() - begin


def theirs(scenes: list[Scene], package: str) -> tuple[list[float], float, float]:
    codec, dataset, evaluator = _library(package)
    encoding = -time.process_time()
    codes = [[codec.encode(_whole(cut)) for cut in item.detections] for item in scenes]
    encoding += time.process_time()
    begin = time.process_time()
    truth, results = _files(scenes, codes)
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = dataset()
        annotations.dataset = truth
        annotations.createIndex()
        evaluation = evaluator(annotations, annotations.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:6]], encoding, time.process_time() - begin


def _library(package: str) -> tuple[Any, Any, Any]:
    """Codec, data set and evaluation of a package."""
    if package == "pycocotools":
        from pycocotools import mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return mask, COCO, COCOeval
    from faster_coco_eval import COCO, COCOeval_faster
    from faster_coco_eval.core import mask

    return mask, COCO, COCOeval_faster


def _whole(cut: Cut) -> np.ndarray:
    whole = np.zeros(SIZE, np.uint8, order="F")
    whole[cut.top : cut.top + cut.mask.shape[0], cut.left : cut.left + cut.mask.shape[1]] = cut.mask
    return whole


def _files(scenes: list[Scene], codes: list[list[rle.RLE]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What COCO's two files would hold."""
    truth: dict[str, Any] = {"info": {}, "images": [], "annotations": []}
    truth["categories"] = [{"id": number, "name": str(number)} for number in range(1, CLASSES + 1)]
    results = []
    for number, (item, masks) in enumerate(zip(scenes, codes, strict=True), start=1):
        truth["images"].append({"id": number, "height": SIZE[0], "width": SIZE[1]})
        areas, boxes = rle.areas(item.truth).tolist(), rle.boxes(item.truth).tolist()
        for code, label, area, (x1, y1, x2, y2) in zip(item.truth, item.true_labels.tolist(), areas, boxes, strict=True):
            head = {"id": len(truth["annotations"]) + 1, "image_id": number, "category_id": label, "iscrowd": 0, "area": area}
            truth["annotations"].append(head | {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": code})
        for code, label, score in zip(masks, item.labels.tolist(), item.scores.tolist(), strict=True):
            results.append({"image_id": number, "category_id": label, "segmentation": code, "score": score})
    return truth, results


TOOLS = {
    "frugalseg": ours,
    "pycocotools": lambda scenes: theirs(scenes, "pycocotools"),
    "faster-coco-eval": lambda scenes: theirs(scenes, "faster-coco-eval"),
}


def measure(tool: str, images: int, detections: int) -> dict[str, Any]:
    """One tool in this process. growth: of the peak memory over the scenes and the imports that all tools share."""
    torch.set_num_threads(1)
    scenes = [scene(index, detections) for index in range(images)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values, encoding, rest = TOOLS[tool](scenes)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    return {"values": values, "encoding_s": encoding, "scoring_s": rest, "total_s": encoding + rest, "growth_mb": growth}


def turns(images: int, detections: int, repeats: int) -> dict[str, dict[str, Any]]:
    """The fastest run of each tool, which take turns."""
    runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
    for _ in range(repeats):
        for tool in TOOLS:
            words = [sys.executable, __file__, "--tool", tool, "--images", images, "--detections", detections]
            done = subprocess.run([*map(str, words)], check=True, capture_output=True, text=True)
            runs[tool].append(json.loads(done.stdout))
            print(tool, {name: round(value, 2) for name, value in runs[tool][-1].items() if name != "values"}, flush=True)
    return {tool: min(of_tool, key=lambda run: run["total_s"]) for tool, of_tool in runs.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--detections", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.tool:
        print(json.dumps(measure(options.tool, options.images, options.detections)))
        return
    best = turns(options.images, options.detections, options.repeats)
    expected = best["pycocotools"]["values"]
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, one thread; times are of the processor",
        "images": options.images,
        "detections": options.images * options.detections,
        "picture": f"{SIZE[1]} x {SIZE[0]}, {CLASSES} classes",
        "repeats": options.repeats,
        "versions": {name: importlib.metadata.version(name) for name in ("pycocotools", "faster-coco-eval", "numpy")},
        "tools": best,
        "largest_difference": {
            tool: max(abs(a - b) for a, b in zip(run["values"], expected, strict=True)) for tool, run in best.items()
        },
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["largest_difference"]))


if __name__ == "__main__":
    main()
