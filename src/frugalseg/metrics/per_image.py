"""What all metrics share: one row of numbers per image. Rows are collected by name, so batches, shards and ranks need no care."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import StringIO
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.table import Table

from frugalseg.metrics import bootstrap


class PerImage(ABC):
    """Scores of one run on one split: `rows` holds an array of the same shape for every image, keyed by the image's name.

    classes: names of the object classes 1..C, without the background. data, split: printed in the protocol id.
    A metric adds `metric` (the head of its protocol id), `score`, `truth`, `table` and its JSON.
    """

    metric: str

    def __init__(self, classes: Sequence[str], data: str = "-", split: str = "-") -> None:
        self.classes = _object_classes(classes)
        self.data, self.split = data, split
        self.rows: dict[str, Any] = {}
        self._stacked = np.empty(0)

    @abstractmethod
    def score(self, weights: np.ndarray) -> np.ndarray:
        """The metric when image i of `names` counts weights[:, i] times: (S, N) whole numbers -> (S,), NaN where undefined."""

    @abstractmethod
    def truth(self) -> np.ndarray:
        """(N, ...) what the rows hold of the ground truth, in the order of `names`."""

    @abstractmethod
    def table(self) -> Table:
        """The field's table."""

    @abstractmethod
    def to_json(self, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Everything printed, and what was kept of each image; `from_json` reads it."""

    @property
    def names(self) -> list[str]:
        """The images in sorted order: no result depends on the order in which they arrived."""
        return sorted(self.rows)

    @property
    def images(self) -> int:
        """How many images have been scored."""
        return len(self.rows)

    @property
    def protocol(self) -> str:
        """Says what was measured, on what, over how many images: numbers compare only where this is equal."""
        return f"{self.metric}|{self.data}|{self.split}|n={self.images}"

    @property
    def value(self) -> float:
        """The metric as a fraction. ValueError before the first image."""
        self._need_images()
        return float(self.score(np.ones((1, self.images), np.int64))[0])

    def stacked(self) -> np.ndarray:
        """(N, ...) the rows in the order of `names`. Kept, since every draw asks for it: rows come, none changes or goes."""
        self._need_images()
        if len(self._stacked) != len(self.rows):
            self._stacked = np.stack([self.rows[name] for name in self.names])
            self._stacked.setflags(write=False)
        return self._stacked

    def resampled(self, samples: int = 2000, seed: int = 0) -> np.ndarray:
        """(samples,) the metric over images drawn with replacement. Equal seeds draw the same images in every run.

        All NaN for a single image: its draws are all the same and say nothing of the spread.
        """
        self._need_images()
        if self.images == 1:
            return np.full(samples, np.nan)
        return np.concatenate([self.score(weights) for weights in bootstrap.draws(self.images, samples, seed)])

    def interval(self, samples: int = 2000, seed: int = 0, level: float = 0.95) -> bootstrap.Interval:
        """Bootstrap interval over images; NaN for a single image."""
        return bootstrap.interval(self.resampled(samples, seed), level)

    def merge(self, other: Self) -> Self:
        """Take over the images of another shard or rank. An image met twice must have equal rows and counts once."""
        mine, theirs = ((scores.classes, scores.data, scores.split) for scores in (self, other))
        if mine != theirs or self.metric != other.metric:
            raise ValueError(f"cannot merge scores of {(other.metric, *theirs)} into scores of {(self.metric, *mine)}")
        for name, row in other.rows.items():
            self._add(name, row)
        return self

    def __str__(self) -> str:
        text = StringIO()
        Console(file=text, width=100, color_system=None).print(self.table())
        return text.getvalue().rstrip()

    def _same(self, one: Any, other: Any) -> bool:
        return np.array_equal(one, other, equal_nan=other.dtype.kind == "f")

    def _add(self, name: str, row: Any) -> None:
        """Distributed samplers pad the last batch with images met before: the same row again is dropped, another one a clash."""
        if not self._same(self.rows.setdefault(name, row), row):
            raise ValueError(f"image {name!r} was scored twice with different results; image names must be unique within a split")

    def _need_images(self) -> None:
        if not self.rows:
            raise ValueError("no image was scored yet; call update(name, prediction, truth) for every image first")

    def _head(self, samples: int, seed: int) -> dict[str, Any]:
        spread = self.interval(samples, seed)
        limits = {"low": number(spread.low), "high": number(spread.high), "level": spread.level}
        return {
            "protocol": self.protocol,
            "data": self.data,
            "split": self.split,
            "classes": list(self.classes),
            "images": self.images,
            self.metric.split("|")[0]: number(self.value),
            "interval": {**limits, "samples": samples, "seed": seed},
        }


def present_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    present = ~np.isnan(values)
    count = present.sum(-1)
    return np.where(count > 0, np.where(present, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def number(value: float) -> float | None:
    """JSON knows no NaN: a score that does not exist is null."""
    return None if np.isnan(value) else float(value)


def percent(value: float) -> str:
    """A fraction as a percentage with two decimals; a dash for NaN."""
    return "–" if np.isnan(value) else f"{100 * value:.2f}"


def array(values: Any) -> np.ndarray:
    """A numpy array of a tensor on any device, or of anything numpy takes, without importing torch."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _object_classes(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str) or not classes or len(set(classes)) < len(classes) or "background" in classes:
        raise ValueError(f"classes: got {classes!r}, expected distinct object names without 'background', which is always id 0")
    return tuple(classes)
