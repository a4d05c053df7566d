"""What a file keeps of a row of object masks: the ranking of all detections, and whether each is right at every threshold.

Average precision depends on nothing else, so a few bytes a detection are enough to compute all measures again, and paired
intervals over the images. Scores, areas and overlaps would take ten times as much.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from benchmarks.packing import pack, pack_bits, unpack, unpack_bits
from frugalseg.data import Data
from frugalseg.metrics import bootstrap
from frugalseg.metrics.corloc import CorLoc
from frugalseg.metrics.instances import APR_VOLUME, COCO, FP, IGNORED, PDSL, TP, InstanceScores, Ranking, apr, precisions
from frugalseg.metrics.per_image import number, present_mean
from frugalseg.types import Instances

MEASURES = {measure.name: measure for measure in (apr(0.5), apr(0.6), apr(0.7), APR_VOLUME, COCO["AP"], *PDSL.values())}
KEPT = (APR_VOLUME, COCO["AP"], PDSL["AP25"])  # their thresholds, by the rule of each, contain those of all measures
CORLOC = "CorLoc"  # a measure of boxes, which no ranking tells
ABSENT, MISSED, LOCATED = range(3)  # a class in an image: not shown, its best box on none of its objects, on one
PLANES = [(measure.rule, threshold) for measure in KEPT for threshold in measure.thresholds]


class Ranked:
    """Scores of object masks, read back from a file: what `paired` takes, by any of MEASURES.

    rankings: one for each class, with states (len(PLANES), D). pixels: (N, C) those of each class's objects in each image.
    corloc: of the same images, where it was measured.
    """

    def __init__(
        self,
        classes: Sequence[str],
        names: Sequence[str],
        rankings: Sequence[Ranking],
        pixels: np.ndarray,
        corloc: CorLoc | None = None,
    ) -> None:
        self.classes, self.names = tuple(classes), list(names)
        self.rankings, self.pixels, self.corloc = rankings, pixels, corloc
        self.measure = next(iter(MEASURES.values()))
        self._values: dict[str, float] = {}  # by measure; these two are shared with what `of` makes
        self._drawn: dict[tuple[str, int, int], np.ndarray] = {}

    def of(self, name: str) -> Ranked | CorLoc:
        """The same images by another measure. KeyError for one that was not taken."""
        if name == CORLOC and self.corloc is not None:
            return self.corloc
        other = copy.copy(self)
        other.measure = MEASURES[name]
        return other

    def only(self, images: np.ndarray) -> Ranked:
        """Some of the images, where the mask (N,) says so."""
        place, rankings = np.cumsum(images) - 1, []
        for ranking in self.rankings:
            inside = images[ranking.images]
            states = ranking.states[:, inside]
            rankings.append(Ranking(place[ranking.images[inside]], states, ranking.objects[images]))
        names = [name for name, chosen in zip(self.names, images, strict=True) if chosen]
        subset = Ranked(self.classes, names, rankings, self.pixels[images])
        subset.measure = self.measure
        return subset

    @property
    def value(self) -> float:
        name = self.measure.name
        if name not in self._values:
            self._values[name] = float(self.score(np.ones((1, len(self.names))))[0])
        return self._values[name]

    def score(self, weights: np.ndarray) -> np.ndarray:
        """(S,) the measure when image n counts weights (S, N); NaN without an object."""
        planes = [PLANES.index((self.measure.rule, threshold)) for threshold in self.measure.thresholds]
        rankings = [Ranking(each.images, each.states[planes], each.objects) for each in self.rankings]
        return present_mean(precisions(rankings, weights, self.measure.interpolation))

    def resampled(self, samples: int = 2000, seed: int = 0) -> np.ndarray:
        """(samples,) as `PerImage.resampled`; cached, because the page asks for it in the table and in every claim."""
        key = self.measure.name, samples, seed
        if key not in self._drawn:
            drawn = bootstrap.draws(len(self.names), samples, seed)
            self._drawn[key] = np.concatenate([self.score(weights) for weights in drawn])
        return self._drawn[key]

    def truth(self) -> np.ndarray:
        """(N, 2, C) number and pixels of the objects: scores of other objects must not be compared."""
        return np.stack([np.stack([ranking.objects for ranking in self.rankings], 1), self.pixels], 1)


# -- the file --------------------------------------------------------------------------------------------------------


def row_record(scores: InstanceScores) -> dict[str, Any]:
    """What one row adds to the file. Detections of a class behind its last right one change nothing and are left out."""
    images, states = [], []
    for parts in zip(*map(scores.rankings, KEPT), strict=True):
        of_class = np.concatenate([part.states for part in parts])
        length = int(np.append(np.flatnonzero((of_class == TP).any(0)), -1).max()) + 1
        images.append(parts[0].images[:length])
        states.append(of_class[:, :length])
    every = np.concatenate(states, axis=1)
    located = {"located": pack(located_classes(scores.beside, scores.names), "u1")} if isinstance(scores.beside, CorLoc) else {}
    return {
        "protocol": scores.protocol,
        "split": scores.split,
        "images": scores.images,
        "values": means(scores),
        "baselines": trivial(scores),
        "detections": [len(of_class) for of_class in images],
        "ranking": pack(np.concatenate(images), "<u2"),
        "right": pack_bits(every == TP),
        "neither": pack_bits((every != TP) & (every != FP)),
        **located,
    }


def means(scores: InstanceScores) -> dict[str, float | None]:
    """Every measure, the mean over the classes that have objects."""
    values = {name: number(float(present_mean(scores.measured(measure)))) for name, measure in MEASURES.items()}
    return values | ({CORLOC: number(scores.beside.value)} if isinstance(scores.beside, CorLoc) else {})


def trivial(scores: InstanceScores) -> dict[str, dict[str, float | None]]:
    """The trivial baselines by each measure; CorLoc's takes the same box as that of the masks."""
    boxes = {CORLOC: next(iter(scores.beside.baselines.values()))} if isinstance(scores.beside, CorLoc) else {}
    reached = {name: {at: values[at] for at in MEASURES} | boxes for name, values in scores.baselines.items()}
    return {name: {at: number(value) for at, value in values.items()} for name, values in reached.items()}


def located_classes(corloc: CorLoc, names: Sequence[str]) -> np.ndarray:
    """(N, 2, C) for each class in these images, predicted and by the trivial baseline: ABSENT, MISSED or LOCATED."""
    rows = np.stack([corloc.rows[name] for name in names])
    return np.where(np.isnan(rows), ABSENT, np.where(np.nan_to_num(rows) > corloc.threshold, LOCATED, MISSED))


def corloc_of(shared: dict[str, Any], row: dict[str, Any]) -> CorLoc | None:
    """The inverse of `located_classes`, with overlaps of 0 and 1."""
    if "located" not in row:
        return None
    corloc = CorLoc(shared["classes"], shared["data"], row["split"])
    states = unpack(row["located"], len(shared["names"]), 2, len(shared["classes"]), kind="u1")
    corloc.rows = dict(zip(shared["names"], np.array([np.nan, 0.0, 1.0])[states], strict=True))
    return corloc


def truth_record(scores: InstanceScores) -> dict[str, Any]:
    """What is the same for all rows: the images, and for each the number and the pixels of every class's objects."""
    rows, classes = [scores.rows[name] for name in scores.names], len(scores.classes) + 1
    pixels = np.stack([np.bincount(row.true_labels, row.true_areas, classes)[1:] for row in rows])
    objects = np.stack([ranking.objects for ranking in scores.rankings(APR_VOLUME)], axis=1)
    head = {"data": scores.data, "classes": list(scores.classes), "names": scores.names}
    return head | {"truth": pack(np.stack([objects, pixels], axis=1))}


def scores_of(shared: dict[str, Any], row: dict[str, Any]) -> Ranked:
    """The inverse of `truth_record` and `row_record`."""
    images, classes, lengths = len(shared["names"]), len(shared["classes"]), row["detections"]
    objects, pixels = unpack(shared["truth"], images, 2, classes).swapaxes(0, 1)
    right, neither = (unpack_bits(row[name], len(PLANES), sum(lengths)) for name in ("right", "neither"))
    states, ends = np.where(right, TP, np.where(neither, IGNORED, FP)), np.cumsum(lengths)[:-1]
    ranking = np.split(unpack(row["ranking"], sum(lengths), kind="<u2"), ends)
    rankings = map(Ranking, ranking, np.split(states, ends, axis=1), objects.T)
    return Ranked(shared["classes"], shared["names"], list(rankings), pixels, corloc_of(shared, row))


# -- of the images ---------------------------------------------------------------------------------------------------


def crowding(data: Data) -> dict[str, float]:
    """How much the objects of each image overlap: the largest IoU of two of their boxes."""
    annotated = {data.names[index]: objects for index in range(len(data)) if (objects := data.compact(index)) is not None}
    largest = {name: max(overlaps(objects).flatten().tolist(), default=0.0) for name, objects in sorted(annotated.items())}
    return {name: round(value, 4) for name, value in largest.items()}


def overlaps(objects: Instances) -> torch.Tensor:
    """(G, G) IoU of the boxes, 0 of each with itself."""
    return box_iou(objects.boxes, objects.boxes).fill_diagonal_(0)
