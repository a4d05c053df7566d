"""Scores of few-shot segmentation: mean-IoU over the new classes and binary-IoU, from counts accumulated over episodes.

Definition: intersection and union of each class are summed over all its episodes, then divided, then averaged over the classes;
not the mean of the episodes' IoU. Binary-IoU pools all objects into one class, and all backgrounds into another, and averages the
two (Wang et al., PANet, ICCV 2019; Rakelly et al., 2018). Ground truth 255 is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from rich.table import Table

from frugalseg.metrics.per_image import PerImage, array, number, percent, present_mean

VOID = 255
OBJECT, BACKGROUND = 0, 1  # rows of an episode's counts
INTERSECTION, PREDICTED, TRUTH = range(3)  # its columns


def iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of counts (..., 3); NaN where there is neither truth nor prediction."""
    intersection, predicted, truth = np.moveaxis(counts, -1, 0)
    union = predicted + truth - intersection
    return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)


class FewShotScores(PerImage):
    """Collects episodes, each with the class it asked for; prints as a table of classes. Scores are fractions.

    classes: all classes of the data, in the order of their ids. data, split: names for the protocol id, which also says shots,
    seed, the digest of the episode list and what was done with new classes in training.
    """

    metric = "mean-iou|accumulated|void255|original-size"

    def __init__(self, classes: Sequence[str], data: str = "-", split: str = "-") -> None:
        super().__init__(classes, data, split)

    def update(self, episode: str, label: int, prediction: Any, truth: Any) -> None:
        """Count one episode. episode: its name, unique. label: the class asked for, 1..C.

        prediction: (H, W) of 0 and 1. truth: (H, W) of 0, 1 and 255. ValueError for what does not fit.
        """
        predicted, true = array(prediction), array(truth)
        if predicted.shape != true.shape or predicted.ndim != 2:
            raise ValueError(f"episode {episode!r}: the prediction has size {predicted.shape}, the ground truth {true.shape}")
        if not 1 <= label <= len(self.classes):
            raise ValueError(f"episode {episode!r}: got class {label}, expected 1..{len(self.classes)}")
        known = true != VOID
        object_predicted, object_true = predicted[known] == 1, true[known] == 1
        both, found, there = (int(mask.sum()) for mask in (object_predicted & object_true, object_predicted, object_true))
        total = int(known.sum())
        background = [total - found - there + both, total - found, total - there]
        self._add(episode, np.array([[both, found, there], background, [label, 0, 0]], np.int64))

    @property
    def labels(self) -> np.ndarray:
        """(N,) the class of each episode of `names`."""
        return self.stacked()[:, 2, 0]

    @property
    def binary(self) -> float:
        """Binary-IoU."""
        return float(iou(self.stacked()[:, :2].sum(0)).mean())

    @property
    def per_class(self) -> dict[str, float]:
        """IoU of every class that was asked for."""
        return {self.classes[label - 1]: float(iou(counts)) for label, counts in zip(*self._by_class(), strict=True)}

    def score(self, weights: np.ndarray) -> np.ndarray:
        counts, columns = self.stacked()[:, OBJECT].astype(np.float64), weights.T  # doubles: exact below 2**53, and fast
        summed = np.stack([counts[at].T @ columns[at] for at in self._places()])  # (C', 3, S)
        return present_mean(iou(np.ascontiguousarray(np.moveaxis(summed, -1, 0))))

    def truth(self) -> np.ndarray:
        stacked = self.stacked()
        return np.concatenate([stacked[:, :2, TRUTH], stacked[:, 2, :1]], 1)

    @property
    def baselines(self) -> dict[str, float]:
        """Mean-IoU of calling every pixel of every query an object; nothing at all scores 0."""
        true = self.stacked()[:, :2, TRUTH]
        shares = [true[at, OBJECT].sum() / max(true[at].sum(), 1) for at in self._places()]
        return {"all object": float(np.mean(shares))}

    def _places(self) -> list[np.ndarray]:
        return [self.labels == label for label in np.unique(self.labels)]

    def _by_class(self) -> tuple[list[int], np.ndarray]:
        """The classes asked for, and their accumulated object counts (C', 3)."""
        return np.unique(self.labels).tolist(), np.stack([self.stacked()[at, OBJECT].sum(0) for at in self._places()])

    def episodes(self, name: str) -> int:
        """How often this class was asked for."""
        return int((self.labels == self.classes.index(name) + 1).sum())

    def table(self) -> Table:
        table = Table("class", "IoU %", "episodes", title=self.protocol)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, value in self.per_class.items():
            table.add_row(name, percent(value), str(self.episodes(name)))
        table.add_section()
        table.add_row("mean-IoU", percent(self.value), str(self.images), style="bold")
        table.add_row("95 % interval", str(self.interval()))
        table.add_row("binary-IoU", percent(self.binary))
        for name, value in self.baselines.items():
            table.add_row(f"baseline: {name}", percent(value))
        return table

    def to_json(self, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Everything printed, and per episode its class, then intersection, predicted and truth of object and background."""
        return {
            **self._head(samples, seed),
            "binary-iou": number(self.binary),
            "per_class": {name: number(value) for name, value in self.per_class.items()},
            "baselines": {name: number(value) for name, value in self.baselines.items()},
            "counts": {name: [int(row[2, 0]), *row[:2].flatten().tolist()] for name, row in sorted(self.rows.items())},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Back from `to_json`."""
        scores = cls(record["classes"], record["data"], record["split"])
        for name, (label, *counts) in record["counts"].items():
            scores.rows[name] = np.array([counts[:3], counts[3:], [label, 0, 0]], np.int64)
        return scores


class PresenceScores:
    """Is the class there at all? Confidences of images that show it and of images that do not, one for each question."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.confidences: list[float] = []
        self.present: list[bool] = []

    def update(self, confidence: float, present: bool) -> None:
        """One question: the confidence that the class is in an image, and whether it is."""
        self.confidences.append(confidence)
        self.present.append(present)

    @property
    def precision(self) -> float:
        """Of the images that are said to show the class, the share that do; NaN if none is said to."""
        said = np.array(self.confidences) > self.threshold
        return float(np.array(self.present)[said].mean()) if said.any() else float("nan")

    @property
    def recall(self) -> float:
        """Of the images that show the class, the share that are said to; NaN if none does."""
        present = np.array(self.present, bool)
        return float((np.array(self.confidences)[present] > self.threshold).mean()) if present.any() else float("nan")

    @property
    def ranking(self) -> float:
        """The chance that an image with the class gets a higher confidence than one without (area under the ROC curve)."""
        values, present = np.array(self.confidences), np.array(self.present, bool)
        if present.all() or not present.any():
            return float("nan")
        ordered = np.sort(values[~present])
        below, up_to = (np.searchsorted(ordered, values[present], side) for side in ("left", "right"))
        return float((below + up_to).mean() / 2 / len(ordered))

    def to_json(self) -> dict[str, Any]:
        """Everything printed."""
        figures = {name: number(getattr(self, name)) for name in ("precision", "recall", "ranking")}
        return {"threshold": self.threshold, "questions": len(self.present), "present": sum(self.present), **figures}


class FewShotResult:
    """Scores of the same task lists' seeds, and of the question whether the class is there; prints as one table."""

    def __init__(self, seeds: Mapping[int, FewShotScores], presence: PresenceScores, notes: Sequence[str] = ()) -> None:
        self.seeds, self.presence, self.notes = dict(seeds), presence, list(notes)

    @property
    def protocol(self) -> str:
        """The protocol ids of the lists, one a line."""
        return "\n".join(scores.protocol for scores in self.seeds.values())

    @property
    def value(self) -> float:
        """Mean-IoU, mean over seeds."""
        return float(np.mean([scores.value for scores in self.seeds.values()]))

    @property
    def deviation(self) -> float:
        """Standard deviation of mean-IoU over seeds; NaN for one."""
        values = [scores.value for scores in self.seeds.values()]
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    @property
    def binary(self) -> float:
        """Binary-IoU, mean over seeds."""
        return float(np.mean([scores.binary for scores in self.seeds.values()]))

    def to_json(self) -> dict[str, Any]:
        """The scores of each list by its seed, whether classes were said to be there, and what was left out."""
        lists = {str(seed): scores.to_json() for seed, scores in self.seeds.items()}
        return {"seeds": lists, "presence": self.presence.to_json(), "left_out": self.notes}

    def table(self) -> Table:
        """IoU of each class, means, intervals, and the scores of presence."""
        first = next(iter(self.seeds.values()))
        table = Table("class", "IoU %", "episodes", title=self.protocol)
        for column in table.columns[1:]:
            column.justify = "right"
        for name in first.per_class:
            found = [
                (scores.per_class[name], scores.episodes(name)) for scores in self.seeds.values() if name in scores.per_class
            ]
            table.add_row(name, percent(float(np.mean([iou for iou, _ in found]))), str(sum(count for _, count in found)))
        table.add_section()
        total = sum(scores.images for scores in self.seeds.values())
        spread = f" ± {percent(self.deviation)}" if len(self.seeds) > 1 else ""
        table.add_row("mean-IoU", percent(self.value) + spread, str(total), style="bold")
        table.add_row("95 % interval", str(first.interval()), f"seed {next(iter(self.seeds))}")
        table.add_row("binary-IoU", percent(self.binary))
        for name, value in first.baselines.items():
            table.add_row(f"baseline: {name}", percent(value))
        table.add_section()
        table.add_row("class there? precision", percent(self.presence.precision), str(len(self.presence.present)))
        table.add_row("class there? recall", percent(self.presence.recall), str(sum(self.presence.present)))
        for note in self.notes:
            table.add_row(note)
        return table
