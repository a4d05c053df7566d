"""CorLoc, correct localisation: in how many images that show a class its best box meets an object of it.

Definition (Deselaers et al., IJCV 2012): for each class, the share of the images that show it in which the best box of the
class, by confidence, has IoU > 0.5 with any of its objects; mean over the classes that some image shows. Crowds are no objects.
The trivial answer, the whole image as the box of every class, is scored beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from rich.table import Table

from frugalseg.metrics.per_image import PerImage, array, number, percent, present_mean

FOUND, WHOLE = 0, 1  # the parts of a row


def best_overlaps(detected: Any, truth: Any, classes: int, size: tuple[int, int]) -> np.ndarray:
    """(2, C) highest IoU of each class's most confident box with its objects, and of the whole image with them.

    0 where no box is found, NaN where no object is shown. found, truth: `types.Instances`, the first with scores. size:
    (H, W) of the image.
    """
    boxes, labels, scores = array(detected.boxes), array(detected.labels), array(detected.scores)
    single = ~truth.ignored
    objects, shown = array(truth.boxes)[single], array(truth.labels)[single]
    rows, whole = np.full((2, classes), np.nan), np.array([0.0, 0.0, size[1], size[0]])
    for label in np.unique(shown):
        places, there = np.flatnonzero(labels == label), objects[shown == label]
        rows[FOUND, label - 1] = overlap(boxes[places[scores[places].argmax()]], there).max() if len(places) else 0.0
        rows[WHOLE, label - 1] = overlap(whole, there).max()
    return rows


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) IoU of a box (4,) with others (N, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(1)
    values: np.ndarray = shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared)
    return values


class CorLoc(PerImage):
    """Collects best overlaps image by image. The score is a fraction, the table is in percent."""

    metric = "corloc|boxes|iou>0.5"
    threshold = 0.5

    def update(self, name: str, found: Any, truth: Any, size: tuple[int, int]) -> None:
        """One image of that (H, W): what was found, with scores, and its objects, both `types.Instances`."""
        self._add(name, best_overlaps(found, truth, len(self.classes), size))

    @property
    def per_class(self) -> dict[str, float]:
        """CorLoc of every class; NaN where no image shows it."""
        return dict(zip(self.classes, self._class_shares(np.ones((1, self.images), np.int64))[0].tolist(), strict=True))

    @property
    def baselines(self) -> dict[str, float]:
        """What takes no learning."""
        shares = self._class_shares(np.ones((1, self.images), np.int64), WHOLE)
        return {"the whole picture as the box of every class": float(present_mean(shares)[0])}

    def score(self, weights: np.ndarray) -> np.ndarray:
        return present_mean(self._class_shares(weights))

    def truth(self) -> np.ndarray:
        values: np.ndarray = ~np.isnan(self.stacked()[:, FOUND])
        return values

    def table(self) -> Table:
        table = Table("class", "CorLoc %", "pictures", title=self.protocol)
        for column in table.columns[1:]:
            column.justify = "right"
        for (name, share), shown in zip(self.per_class.items(), self.truth().sum(0), strict=True):
            table.add_row(name, percent(share), str(shown))
        table.add_section()
        table.add_row("mean", percent(self.value), str(self.images), style="bold")
        table.add_row("95 % interval", str(self.interval()))
        for name, share in self.baselines.items():
            table.add_row(f"trivial: {name}", percent(share))
        return table

    def to_json(self, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Everything printed, and under "rows" each image's best overlaps; a class that is not there is null."""
        return {
            **self._head(samples, seed),
            "per_class": {name: number(share) for name, share in self.per_class.items()},
            "baselines": {name: number(share) for name, share in self.baselines.items()},
            "rows": {name: [[number(value) for value in part] for part in row] for name, row in sorted(self.rows.items())},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Back from `to_json`, so that runs can be compared later."""
        try:
            scores = cls(record["classes"], record["data"], record["split"])
            for name, row in record["rows"].items():
                scores._add(name, np.array(row, dtype=float))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no JSON of CorLoc ({type(error).__name__}: {error}); evaluate the run again") from error
        return scores

    def _class_shares(self, weights: np.ndarray, of: int = FOUND) -> np.ndarray:
        rows = self.stacked()[:, of]
        shown, right = ~np.isnan(rows), np.nan_to_num(rows) > self.threshold
        total, met = weights @ shown.astype(np.int64), weights @ right.astype(np.int64)
        return np.where(total > 0, met / np.maximum(total, 1), np.nan)
