"""Mean average precision of image tags: how well a classifier ranks the images that show a class above those that do not.

Definition: AP = Σ (R_i − R_{i−1}) P_i over the distinct scores of a class, without interpolation; images whose tag is unknown
are left out of that class; mean over the classes that some image shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from rich.table import Table

from frugalseg.metrics.per_image import PerImage, array, number, percent, present_mean


def average_precision(scores: np.ndarray, tags: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AP of one class. scores: (N,) floats. tags: (N,) of 0, 1, NaN = unknown. weights: (S, N) how often each image counts.

    Returns (S,) in [0, 1], NaN where no image shows the class. Images of equal score enter together: their order is irrelevant.
    """
    labelled = ~np.isnan(tags)
    order = np.argsort(-scores[labelled], kind="stable")
    ranked, positive, weights = scores[labelled][order], tags[labelled][order], weights[:, labelled][:, order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.empty(0, int)
    positives, listed = (np.cumsum(w, axis=1)[:, ends] for w in (weights * positive, weights))
    total = (weights * positive).sum(1)
    gained = np.diff(positives, axis=1, prepend=0)
    area = (gained * positives / np.maximum(listed, 1)).sum(1)
    return np.where(total > 0, area / np.maximum(total, 1), np.nan)


class TagScores(PerImage):
    """Collects confidences and tags image by image. Scores are fractions, tables are in percent."""

    metric = "map|tags-uninterpolated|known-tags"

    def update(self, name: str, prediction: Any, truth: Any) -> None:
        """One image. prediction: (C,) finite confidences, comparable across images. truth: (C,) of 0, 1 or NaN = unknown."""
        row = np.stack([self._vector(name, "prediction", prediction), self._vector(name, "tags", truth)])
        if not np.isfinite(row[0]).all():
            raise ValueError(f"image {name!r}: the predicted confidences hold NaN or infinity")
        if not (np.isnan(row[1]) | (row[1] == 0) | (row[1] == 1)).all():
            raise ValueError(f"image {name!r}: tags are {row[1].tolist()}, expected 0, 1 or NaN = unknown")
        self._add(name, row)

    @property
    def map(self) -> float:
        """Mean average precision; NaN if no image shows any class."""
        return self.value

    @property
    def per_class(self) -> dict[str, float]:
        """AP of every class; NaN where no image shows it."""
        return dict(zip(self.classes, self._class_ap(np.ones((1, self.images), np.int64))[0].tolist(), strict=True))

    @property
    def baselines(self) -> dict[str, float]:
        """What a random order gets on average in a long list: the share of images that show the class, mean over classes."""
        truth = self.truth()
        positive, labelled = (truth == 1).sum(0), (~np.isnan(truth)).sum(0)
        return {"random order": float(present_mean(np.where(positive > 0, positive / np.maximum(labelled, 1), np.nan)))}

    def score(self, weights: np.ndarray) -> np.ndarray:
        return present_mean(self._class_ap(weights))

    def truth(self) -> np.ndarray:
        return self.stacked()[:, 1]

    def table(self) -> Table:
        table = Table("class", "AP %", "images", title=self.protocol)
        for column in table.columns[1:]:
            column.justify = "right"
        for (name, ap), positive in zip(self.per_class.items(), (self.truth() == 1).sum(0), strict=True):
            table.add_row(name, percent(ap), str(positive))
        table.add_section()
        table.add_row("mean", percent(self.map), str(self.images), style="bold")
        table.add_row("95 % interval", str(self.interval()))
        for name, value in self.baselines.items():
            table.add_row(f"baseline: {name}", percent(value))
        return table

    def to_json(self, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Everything printed, and under "rows" each image's [confidences, tags]; an unknown tag is null."""
        return {
            **self._head(samples, seed),
            "per_class": {name: number(ap) for name, ap in self.per_class.items()},
            "baselines": {name: number(value) for name, value in self.baselines.items()},
            "rows": {name: [row[0].tolist(), [number(tag) for tag in row[1]]] for name, row in sorted(self.rows.items())},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Back from `to_json`, so that runs can be compared later."""
        try:
            scores = cls(record["classes"], record["data"], record["split"])
            for name, (confidences, tags) in record["rows"].items():
                scores.update(name, confidences, np.array(tags, dtype=float))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no JSON of tag scores ({type(error).__name__}: {error}); evaluate the run again") from error
        return scores

    def _class_ap(self, weights: np.ndarray) -> np.ndarray:
        rows = self.stacked()
        return np.stack([average_precision(rows[:, 0, c], rows[:, 1, c], weights) for c in range(len(self.classes))], axis=1)

    def _vector(self, name: str, kind: str, values: Any) -> np.ndarray:
        vector = array(values).astype(np.float64)
        if vector.shape != (len(self.classes),):
            expected = f"({len(self.classes)},), one number per class"
            raise ValueError(f"image {name!r}: {kind} has shape {vector.shape}, expected {expected}")
        return vector
