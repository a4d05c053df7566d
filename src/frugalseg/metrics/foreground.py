"""How well the object of an image is found when nobody says which it is: overlap of the foreground, with and without an oracle.

An oracle picks, of the parts of an image, the one that fits the truth best. It is how R2O's 71.2 on CUB-200-2011 was measured
(fig. A4), lifts every network, and cannot be had without masks; both are always given, beside what one part for the whole
image would score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from rich.table import Table

from frugalseg.metrics.per_image import PerImage, array, number, percent

Protocol = Literal["foreground", "mean", "foreground-oracle", "mean-oracle"]
PROTOCOLS: tuple[Protocol, ...] = ("foreground", "mean", "foreground-oracle", "mean-oracle")
WORDS = {
    "foreground": "overlap of the foreground",
    "mean": "mean of foreground and background",
    "foreground-oracle": "overlap of the foreground, best part by the truth",
    "mean-oracle": "mean of foreground and background, best part by the truth",
}


class ForegroundScores(PerImage):
    """Collects the overlaps of each image. A row is (4,): the values in the order of PROTOCOLS.

    protocol: which of them `value`, `interval` and `paired` are about. baselines: the values of answers that take no learning, by
    name, beside which the scores are shown.
    """

    def __init__(self, data: str = "-", split: str = "-", kind: Protocol = "foreground") -> None:
        super().__init__(("object",), data, split)
        self.kind: Protocol = kind
        self.baselines: dict[str, dict[Protocol, float]] = {}

    @property
    def metric(self) -> str:  # type: ignore[override]
        """The first part of the protocol: which overlap."""
        return f"iou|{self.kind}"

    def update(self, name: str, parts: Any, chosen: int, truth: Any, ignore: Any = None) -> None:
        """One image. parts: (H, W) ids. chosen: the part that is said to be the object. truth: (H, W) bool.

        ignore: (H, W) bool of pixels that do not count. Raises ValueError for an image without foreground, or other sizes.
        """
        ids, mask = array(parts), array(truth).astype(bool)
        if ids.shape != mask.shape:
            raise ValueError(f"image {name!r}: got parts of size {ids.shape}, expected that of the truth, {mask.shape}")
        if ignore is not None:
            ids, mask = ids[~array(ignore)], mask[~array(ignore)]
        if not mask.any():
            raise ValueError(f"image {name!r} shows no object; leave it out")
        overlaps = {int(part): overlap(ids == part, mask) for part in np.unique(ids)}
        best = max(overlaps.values())
        self._add(name, np.array([*overlaps.get(chosen, overlap(np.zeros_like(mask), mask)), *best]))

    @property
    def values(self) -> dict[Protocol, float]:
        """Mean over images in all four ways."""
        return dict(zip(PROTOCOLS, self.stacked().mean(0).tolist(), strict=True))

    def score(self, weights: np.ndarray) -> np.ndarray:
        self._need_images()
        values: np.ndarray = weights @ self.stacked()[:, PROTOCOLS.index(self.kind)] / weights.sum(1)
        return values

    def truth(self) -> np.ndarray:
        return np.zeros((self.images, 0))

    def table(self) -> Table:
        table = Table("overlap", "%", title=self.protocol)
        for kind, value in self.values.items():
            table.add_row(WORDS[kind], percent(value))
        table.add_row(f"95 % interval of: {WORDS[self.kind]}", str(self.interval()))
        for name, values in self.baselines.items():
            table.add_row(f"trivial: {name}", percent(values[self.kind]))
        return table

    def to_json(self, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Everything printed, and each image's overlaps."""
        return {
            **self._head(samples, seed),
            "kind": self.kind,
            "per_class": {"object": number(self.value)},
            "values": {kind: number(value) for kind, value in self.values.items()},
            "baselines": {
                name: {kind: number(value) for kind, value in values.items()} for name, values in self.baselines.items()
            },
            "rows": {name: row.tolist() for name, row in sorted(self.rows.items())},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Back from `to_json`. Raises ValueError for a record of something else."""
        try:
            scores = cls(record["data"], record["split"], record["kind"])
            scores.rows = {name: np.array(row, float).reshape(4) for name, row in record["rows"].items()}
            scores.baselines = {name: dict(values) for name, values in record.get("baselines", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"no JSON of foreground scores ({type(error).__name__}: {error}); evaluate the run again") from error
        return scores


def overlap(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Intersection over union of the foreground, and its mean with that of the background; 1 where a union is empty."""
    both = [((one & other).sum(), (one | other).sum()) for one, other in ((found, truth), (~found, ~truth))]
    front, back = (inter / union if union else 1.0 for inter, union in both)
    return float(front), float((front + back) / 2)
