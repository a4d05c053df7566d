"""Images of the best, median and worst results, drawn for a run's report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frugalseg import draw
from frugalseg.data import Data
from frugalseg.files import write_json
from frugalseg.inference.predictor import Predictor
from frugalseg.progress import track
from frugalseg.types import Prediction, Sample

SHOWN = 2  # images drawn of the best, the median and the worst
PREVIEW, PREVIEWED = "of the training", 4  # name and number of the images that are drawn where nothing was scored
SURE = 0.5  # score from which an object is drawn, where there is one


@dataclass(frozen=True)
class Example:
    """One line of a report's images.

    name: of the image. group: why it is shown: "best", "median", "worst" or "not scored". panels: (H, W, 3) uint8 by title, side
    by side. score: of this image alone, None where it has none. measure: what the score measures.
    """

    name: str
    group: str
    panels: Mapping[str, np.ndarray]
    score: float | None = None
    measure: str = "mean IoU"

    def entry(self, file: str) -> dict[str, Any]:
        """Its line in shown.json."""
        return {"name": self.name, "why": self.group, "iou": self.score, "picture": file, "measure": self.measure}


def pick_examples(names: list[str]) -> dict[str, str]:
    """Of names sorted from best to worst: the few to look at, each with its group. Short lists give each image once."""
    middle = max(0, (len(names) - SHOWN) // 2)
    groups: Mapping[str, list[str]] = {"best": names[:SHOWN], "median": names[middle : middle + SHOWN], "worst": names[-SHOWN:]}
    chosen: dict[str, str] = {}
    for group, members in groups.items():
        for name in members:
            chosen.setdefault(name, group)
    return chosen


def save_examples(folder: Path, protocol: str, examples: Iterable[Example]) -> None:
    """Draw examples into `folder`/shown, with a shown.json that says what they are.

    The list appears when all of its images are there; an earlier one goes first, so it never describes other images.
    """
    place = folder / "shown"
    (place / "shown.json").unlink(missing_ok=True)
    entries = []
    for number, example in enumerate(examples):
        draw.save(place / f"{number}.png", draw.sheet([example.panels]))
        entries.append(example.entry(f"{number}.png"))
    write_json(place / "shown.json", {"protocol": protocol, "pictures": entries})


def save_previews(folder: Path, predictor: Predictor, data: Data, quiet: bool = False) -> None:
    """Draw what a model that was not scored makes of a few images, evenly spread over the data; broken files are left out."""
    some = data.select(sorted({round(place) for place in np.linspace(0, len(data) - 1, PREVIEWED)}))
    stream = track(predictor.stream(some, skipped=[]), "draw", len(some), quiet=quiet, brief=True)
    save_examples(folder, "", (_preview(sample, prediction) for sample, prediction in stream))


def _preview(sample: Sample, prediction: Prediction) -> Example:
    """Image and prediction; of objects at least the one with the highest score."""
    scores = prediction.instances.scores if prediction.instances is not None else None
    least = min(SURE, float(scores.max())) if scores is not None and len(scores) else SURE
    image = draw.enlarge(sample.image.permute(1, 2, 0).numpy(), draw.SIDE)
    drawn = draw.enlarge(draw.overlay(sample.image, prediction, least=least), draw.SIDE)
    return Example(sample.name, "not scored", {"image": image, "prediction": drawn})
