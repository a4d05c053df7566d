"""How well objects are found: average precision of masks, boxes or mask borders, as VOC, SDS and COCO define it.

    scores = InstanceScores(classes)
    for name, prediction, truth in …: scores.update(name, prediction.instances, truth)
    print(scores)                                   # AP^r@0.5, AP^r@0.7, AP^r_vol, COCO AP, …
    scores.measured(apr(0.6, rule="sds"))           # any other, from the same overlaps
    paired(scores.of(COCO["AP"]), other.of(COCO["AP"]))

What is kept of an image is its overlaps, so every threshold, rule and interpolation can be computed later, and under any
weighting of the images. Void pixels count as "no object": a prediction that covers them has a larger union (SDS; Hariharan et
al., ECCV 2014).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import torch
from rich.table import Table
from scipy import sparse

from frugalseg import boxes, rle
from frugalseg.metrics.average_precision import COCO_THRESHOLDS, Interpolation, Rule, average_precision, match
from frugalseg.metrics.per_image import PerImage, array, number, percent, present_mean
from frugalseg.types import Instances

Kind = Literal["mask", "box", "boundary"]
FP, TP, IGNORED, OVER_LIMIT = range(4)  # what becomes of a detection; OVER_LIMIT: not among the first `most` of its image
WHOLE = "the whole picture as one object of each class"  # the trivial answer; JSON files have it by this name
BORDER = 0.02  # width of a mask's border as a share of the image's diagonal (Cheng et al., Boundary IoU, CVPR 2021)


@dataclass(frozen=True)
class Measure:
    """One kind of average precision: the mean over classes and thresholds.

    name: as in the field's tables. thresholds: overlaps from which a detection is right. rule, interpolation: see `matching`.
    areas: smallest and largest area of the objects that count, both included. most: detections per class and image that count.
    """

    name: str
    thresholds: tuple[float, ...]
    rule: Rule = "voc"
    interpolation: Interpolation = "area"
    areas: tuple[float, float] | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        if not self.thresholds or not all(0 < threshold <= 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds: got {self.thresholds}, expected overlaps above 0 and up to 1")


def apr(threshold: float, rule: Rule = "voc", interpolation: Interpolation = "area") -> Measure:
    """AP^r of the regions' papers at one overlap (Hariharan et al., ECCV 2014)."""
    return Measure(f"AP^r@{threshold:g}", (threshold,), rule, interpolation)


def coco(
    name: str, thresholds: Sequence[float] = COCO_THRESHOLDS, areas: tuple[float, float] | None = None, most: int = 100
) -> Measure:
    """An average precision of COCO's table, or one like it at other thresholds."""
    return Measure(name, tuple(thresholds), "coco", "coco101", areas, most)


APR_VOLUME = Measure("AP^r_vol", tuple(step / 10 for step in range(1, 10)))
COCO = {
    "AP": coco("AP"),
    "AP50": coco("AP50", [0.5]),
    "AP75": coco("AP75", [0.75]),
    "APs": coco("APs", areas=(0, 32**2)),
    "APm": coco("APm", areas=(32**2, 96**2)),
    "APl": coco("APl", areas=(96**2, 1e10)),
}
PDSL = {name: coco(name, [at]) for name, at in (("AP25", 0.25), ("AP50", 0.5), ("AP70", 0.7), ("AP75", 0.75))}
VOC07, VOC12 = Measure("mAP VOC07", (0.5,), "voc", "11pt"), Measure("mAP VOC12", (0.5,), "voc", "area")
TABLES: dict[str, tuple[Measure, ...]] = {
    "mask": (apr(0.5), apr(0.6), apr(0.7), APR_VOLUME, *COCO.values(), PDSL["AP25"], PDSL["AP70"]),
    "box": (VOC12, VOC07, *COCO.values()),
    "boundary": tuple(COCO.values()),
}
COLUMNS = ("AP^r@0.5", "AP^r@0.7", "AP^r_vol", "mAP VOC12", "AP", "AP50", "AP75")  # of the table; the others stand below it
WITH_INTERVAL = ("AP^r@0.5", "AP^r@0.7", "AP", "mAP VOC12")


@dataclass(frozen=True, eq=False)
class Row:
    """One image: D detections, G objects, and the overlap of each pair of one class that has any.

    labels, scores, areas: (D,). true_labels, true_areas: (G,). crowd: (G,) whether finding it counts neither way, VOC's difficult
    ones too. pairs: (P, 2) detection and object. overlaps: (P,) float64.
    """

    labels: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    true_labels: np.ndarray
    true_areas: np.ndarray
    crowd: np.ndarray
    pairs: np.ndarray
    overlaps: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


class InstanceScores(PerImage):
    """Collects objects image by image; prints as the field's table. Scores are fractions, tables are in percent.

    classes: names of the ids 1..C. kind: what overlaps: masks, boxes, or masks and their borders, the smaller of the two.
    measure: the one that `value`, `interval` and `paired` are about.

    Boxes end where the next pixel begins, so their overlap is that of VOC's code, which counts pixels from corner to corner.
    """

    def __init__(
        self, classes: Sequence[str], data: str = "-", split: str = "-", kind: Kind = "mask", measure: Measure | None = None
    ) -> None:
        super().__init__(classes, data, split)
        self.kind: Kind = kind
        self.measure = measure or TABLES[kind][0]
        self.rows: dict[str, Row] = {}
        self.beside: PerImage | None = None  # further scores of the same predictions, shown below the table
        self.baselines: dict[str, dict[str, float]] = {}  # `values` of each trivial answer on these images, by its name
        self._ranked: dict[Measure, list[Ranking]] = {}

    @property
    def metric(self) -> str:  # type: ignore[override]
        """The first part of the protocol: the measure, with its rule and limits."""
        at = self.measure
        limits = [f"area{at.areas[0]:g}-{at.areas[1]:g}"] if at.areas else []
        most = [f"max{at.most}"] if at.most else []
        return "|".join([at.name, self.kind, at.rule, at.interpolation, *limits, *most])

    def of(self, measure: Measure) -> Self:
        """The same images with another measure for `value`, `interval` and `paired`."""
        other = copy.copy(self)
        other.measure = measure
        return other

    def update(self, name: str, prediction: Instances | None, truth: Instances) -> None:
        """One image. prediction: objects with scores, None for none. truth: all objects of the image, crowds among them, whose
        overlap is the share of the detection that is inside.

        ValueError for labels outside the class list, scores that are missing or no numbers, masks of different sizes.
        """
        detected = prediction if prediction is not None else Instances.none()
        labels, true_labels = self._labels(name, detected), self._labels(name, truth)
        scores = array(detected.scores if detected.scores is not None else [np.nan] * len(labels)).astype(np.float64)
        if scores.shape != labels.shape or not np.isfinite(scores).all():
            raise ValueError(f"image {name!r}: got scores {scores.tolist()[:5]}, expected a finite number for each object")
        crowd = np.zeros(len(true_labels), bool) if truth.crowd is None else array(truth.crowd).astype(bool)
        pairs, overlaps = self._overlaps(name, detected, truth, labels, true_labels, crowd)
        row = Row(labels, scores, self._areas(detected), true_labels, self._areas(truth), truth.ignored, pairs, overlaps)
        self._ranked.clear()
        self._add(name, row)

    def measured(self, measure: Measure) -> np.ndarray:
        """(C,) the average precision of each class, mean over thresholds; NaN for a class without an object."""
        values: np.ndarray = self._class_values(measure, np.ones((1, self.images), np.int64))[0]
        return values

    def recall(self, measure: Measure) -> np.ndarray:
        """(C,) the share of the objects found, mean over thresholds; COCO's AR for its measures."""
        shares = []
        for ranking in self.rankings(measure):
            objects = ranking.objects.sum()
            shares.append((ranking.states == TP).sum(1).mean() / objects if objects else np.nan)
        return np.array(shares)

    @property
    def values(self) -> dict[str, float]:
        """The measures of the table, each the mean over the classes that have objects."""
        return {measure.name: float(present_mean(self.measured(measure))) for measure in TABLES[self.kind]}

    @property
    def per_class(self) -> dict[str, float]:
        """The measure of each class; NaN for one without objects."""
        return dict(zip(self.classes, self.measured(self.measure).tolist(), strict=True))

    def score(self, weights: np.ndarray) -> np.ndarray:
        return present_mean(self._class_values(self.measure, weights))

    def truth(self) -> list[np.ndarray]:  # type: ignore[override]
        rows = [self.rows[name] for name in self.names]
        return [np.stack([row.true_labels, row.true_areas, row.crowd]) for row in rows]

    def table(self) -> Table:
        shown = [measure for measure in TABLES[self.kind] if measure.name in COLUMNS]
        others = [f"{name} {percent(value)}" for name, value in self.values.items() if name not in COLUMNS]
        table = Table("class", *(measure.name for measure in shown), "objects", title=self.protocol)
        table.caption = "means: " + " · ".join(others) + self._beside()
        for column in table.columns[1:]:
            column.justify = "right"
        values = np.stack([self.measured(measure) for measure in shown], axis=1)
        objects = [int(ranking.objects.sum()) for ranking in self.rankings(shown[0])]
        for name, row, count in zip(self.classes, values, objects, strict=True):
            table.add_row(name, *map(percent, row), str(count))
        table.add_section()
        table.add_row("mean", *map(percent, present_mean(values.T)), str(sum(objects)), style="bold")
        spreads = [self.of(at).interval() if at.name in WITH_INTERVAL else None for at in shown]
        table.add_row("95 % low", *("" if at is None else percent(at.low) for at in spreads), f"{self.images} images")
        table.add_row("95 % high", *("" if at is None else percent(at.high) for at in spreads))
        for name, reached in self.baselines.items():
            table.add_row(f"baseline: {name}", *(percent(reached[measure.name]) for measure in shown))
        return table

    def to_json(self, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Everything printed, and each image's detections, objects and overlaps."""
        spreads = {at.name: self.of(at).interval(samples, seed) for at in TABLES[self.kind] if at.name in WITH_INTERVAL}
        return {
            **self._head(samples, seed),
            "kind": self.kind,
            "values": {name: number(value) for name, value in self.values.items()},
            "protocols": {at.name: self.of(at).protocol for at in TABLES[self.kind]},
            "intervals": {name: [number(spread.low), number(spread.high)] for name, spread in spreads.items()},
            "per_class": {name: number(ap) for name, ap in self.per_class.items()},
            "baselines": {name: {at: number(value) for at, value in reached.items()} for name, reached in self.baselines.items()},
            "rows": {
                name: {f.name: getattr(row, f.name).tolist() for f in fields(row)} for name, row in sorted(self.rows.items())
            },
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Back from `to_json`, so that runs can be compared later."""
        try:
            scores = cls(record["classes"], record["data"], record["split"], record["kind"])
            for name, row in record["rows"].items():
                kinds = {f.name: bool if f.name == "crowd" else np.int64 for f in fields(Row)}
                kinds |= dict.fromkeys(("scores", "areas", "true_areas", "overlaps"), np.float64)  # type: ignore[arg-type]
                parts = {key: np.array(row[key], kind) for key, kind in kinds.items()}
                scores.rows[name] = Row(**parts | {"pairs": parts["pairs"].reshape(-1, 2)})
            for name, reached in record["baselines"].items():
                scores.baselines[name] = {at: np.nan if value is None else value for at, value in reached.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"no JSON of instance scores ({type(error).__name__}: {error}); evaluate the run again") from error
        return scores

    def _labels(self, name: str, objects: Instances) -> np.ndarray:
        labels = array(objects.labels).astype(np.int64)
        if len(labels) and not (labels.min() >= 1 and labels.max() <= len(self.classes)):
            got = f"ids {labels.min()} to {labels.max()}"
            raise ValueError(f"image {name!r}: got objects with the class {got}, expected 1 to {len(self.classes)}")
        if self.kind != "box" and len(objects.rles) != len(labels):
            raise ValueError(f"image {name!r}: got {len(objects.rles)} masks for {len(labels)} objects; kind='box' needs none")
        return labels

    def _beside(self) -> str:
        if self.beside is None:
            return ""
        return f"\n{self.beside.protocol}: {percent(self.beside.value)} {self.beside.interval()}"

    def _areas(self, objects: Instances) -> np.ndarray:
        """As annotated, else of what is scored: a mask's pixels, a box's sides."""
        if objects.areas is not None:
            return array(objects.areas).astype(np.float64)
        if self.kind == "box":
            corners = array(objects.boxes).astype(np.float64).reshape(-1, 4)
            values: np.ndarray = (corners[:, 2:] - corners[:, :2]).prod(1)
            return values
        return rle.areas(objects.rles).astype(np.float64)

    def _overlaps(
        self,
        name: str,
        detected: Instances,
        truth: Instances,
        labels: np.ndarray,
        true_labels: np.ndarray,
        crowd: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(P, 2) and (P,): the pairs of one class that overlap, and how much."""
        sizes = {tuple(code["size"]) for code in (*detected.rles, *truth.rles)} if self.kind != "box" else set()
        if len(sizes) > 1:
            raise ValueError(f"image {name!r}: got masks of the sizes {sorted(sizes)}; predict at the image's original size")
        pairs, overlaps = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
        for label in np.intersect1d(labels, true_labels):
            these, those = np.flatnonzero(labels == label), np.flatnonzero(true_labels == label)
            values = OVERLAPS[self.kind](detected, truth, these, those, crowd[those])
            first, second = np.nonzero(values)
            pairs.append(np.stack([these[first], those[second]], 1))
            overlaps.append(values[first, second])
        return np.concatenate(pairs), np.concatenate(overlaps)

    def rankings(self, measure: Measure) -> list[Ranking]:
        """For each class its detections, best first, and what becomes of them: all that average precision depends on."""
        if measure not in self._ranked:
            self._need_images()
            self._ranked[measure] = _rank([self.rows[name] for name in self.names], measure, len(self.classes))
        return self._ranked[measure]

    def _class_values(self, measure: Measure, weights: np.ndarray) -> np.ndarray:
        """(S, C) under weights (S, N) of the images."""
        return precisions(self.rankings(measure), weights, measure.interpolation)

    def _same(self, one: Row, other: Row) -> bool:
        return one == other


def whole(size: tuple[int, int], classes: int) -> Instances:
    """WHOLE: all of an image of (H, W) as one object of each class, all equally sure."""
    boxes = torch.tensor([[0.0, 0.0, size[1], size[0]]]).repeat(classes, 1)
    mask = rle.from_counts(np.array([0, size[0] * size[1]]), size)
    return Instances(boxes, torch.arange(classes) + 1, torch.ones(classes), [mask] * classes)


# -- what overlaps: (D, G) of the detections `these` and the objects `those` --


def _of_masks(detected: Instances, truth: Instances, these: np.ndarray, those: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    return rle.overlaps([detected.rles[i] for i in these], [truth.rles[i] for i in those], crowd.tolist())


def _of_boxes(detected: Instances, truth: Instances, these: np.ndarray, those: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    corners = [array(objects.boxes).astype(np.float64)[which] for objects, which in ((detected, these), (truth, those))]
    return boxes.iou_with_crowds(corners[0], corners[1], crowd)


def _of_borders(detected: Instances, truth: Instances, these: np.ndarray, those: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """The smaller of the masks' overlap and their inner borders' (as the code of Cheng et al., CVPR 2021)."""
    inner = [_border(detected.rles[i]) for i in these]
    true = [_border(truth.rles[i]) for i in those]
    values: np.ndarray = np.minimum(_of_masks(detected, truth, these, those, crowd), rle.overlaps(inner, true, crowd.tolist()))
    return values


def _border(code: rle.RLE) -> rle.RLE:
    """The pixels of a mask that are near its edge, as wide as the code of Cheng et al. rounds it, which the library does not."""
    return rle.border(code, max(1, round(BORDER * float(np.hypot(*code["size"])))))


OVERLAPS = {"mask": _of_masks, "box": _of_boxes, "boundary": _of_borders}


# -- ranking --


@dataclass(frozen=True)
class Ranking:
    """The detections of one class in the whole set, best score first.

    images: (D,) where each is. states: (T, D) what becomes of it at each threshold: TP, FP, or anything else for neither.
    objects: (N,) those to be found in each image.
    """

    images: np.ndarray
    states: np.ndarray
    objects: np.ndarray

    def average_precision(self, weights: np.ndarray, interpolation: Interpolation) -> np.ndarray:
        """(S,) mean over thresholds when image n counts weights (N, S), which are float64 for speed."""
        right = self.states == TP
        ends, objects = np.flatnonzero(right.any(0)), self.objects @ weights
        values = []
        totals: dict[bytes, np.ndarray] = {}
        for hits, counted in zip(right, right | (self.states == FP), strict=True):
            key = counted.tobytes()  # which detections count is mostly the same at all thresholds
            if key not in totals:
                totals[key] = self._listed(counted, ends, weights)
            places = np.flatnonzero(hits)
            found, listed = np.cumsum(weights[self.images[places]], axis=0), totals[key][np.searchsorted(ends, places)]
            values.append(average_precision(found, listed, objects, interpolation))
        mean: np.ndarray = np.mean(values, axis=0)
        return mean

    def _listed(self, counted: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(E, S) how many detections, of those that `counted` (D,) names, come up to each of the places `ends` (E,)."""
        limits = np.append(0, np.cumsum(counted)[ends])
        images = self.images[counted][: limits[-1]]
        between = sparse.csr_array((np.ones(len(images)), images, limits), shape=(len(ends), len(weights)))
        return np.cumsum(between @ weights, axis=0)


def precisions(rankings: Sequence[Ranking], weights: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """(S, C) the average precision of every class, mean over thresholds, when image n counts weights (S, N)."""
    columns = np.ascontiguousarray(weights.T, np.float64)
    return np.stack([ranking.average_precision(columns, interpolation) for ranking in rankings], axis=1)


def _rank(rows: Sequence[Row], measure: Measure, classes: int) -> list[Ranking]:
    """One ranking per class. Equal scores stay in the order of images and, in an image, of the prediction."""
    counts = np.zeros((len(rows), classes), np.int64)
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    for index, row in enumerate(rows):
        ignored = row.crowd | _outside(row.true_areas, measure.areas)
        counts[index] = np.bincount(row.true_labels[~ignored], minlength=classes + 1)[1:]
        order = np.argsort(-row.scores, kind="stable")
        states = _judge(row, order, ignored, measure)
        for key, values in (("image", np.full(len(order), index)), ("label", row.labels[order]), ("score", row.scores[order])):
            parts[key].append(values)
        parts["states"].append(states[:, order])
    images, labels, scores, states = (np.concatenate(parts[key], -1) for key in ("image", "label", "score", "states"))
    order = np.argsort(-scores, kind="stable")
    chosen = [order[labels[order] == label] for label in range(1, classes + 1)]
    return [Ranking(images[own], states[:, own], counts[:, place]) for place, own in enumerate(chosen)]


def _judge(row: Row, order: np.ndarray, ignored: np.ndarray, measure: Measure) -> np.ndarray:
    """(T, D) what becomes of each detection of an image at each threshold."""
    outside = np.where(_outside(row.areas, measure.areas), IGNORED, FP)
    states = np.tile(outside.astype(np.uint8), (len(measure.thresholds), 1))
    if measure.most is not None:
        for label in np.unique(row.labels):
            states[:, order[row.labels[order] == label][measure.most :]] = OVER_LIMIT
    overlaps: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (detection, target), value in zip(row.pairs.tolist(), row.overlaps.tolist(), strict=True):
        overlaps[detection].append((target, value))
    # Pairs are of one class each, so all classes can be matched in one go; what overlaps nothing cannot be right.
    ranked = [detection for detection in order.tolist() if detection in overlaps and states[0, detection] != OVER_LIMIT]
    passed, crowd = ignored.tolist(), row.crowd.tolist()
    for place, threshold in enumerate(measure.thresholds):
        found = match([overlaps[detection] for detection in ranked], passed, crowd, measure.rule, threshold)
        for detection, target in zip(ranked, found, strict=True):
            if target >= 0:
                states[place, detection] = IGNORED if passed[target] else TP
    return states


def _outside(areas: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    return np.zeros(len(areas), bool) if limits is None else (areas < limits[0]) | (areas > limits[1])
