"""What the scoring of all tasks shares: which images can be scored, the loop over predictions, and metrics.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from rich.table import Table

from frugalseg.data import Data, DataError
from frugalseg.files import write_json
from frugalseg.inference.predictor import Predictor
from frugalseg.metrics.per_image import PerImage
from frugalseg.progress import track
from frugalseg.types import Prediction, Sample


class Result(Protocol):
    """What every task gives back."""

    @property
    def protocol(self) -> str:
        """Says what was measured, on what, over how many images; numbers compare only where it is equal."""

    def table(self) -> Table:
        """The scores as the field prints them."""

    def to_json(self) -> dict[str, Any]:
        """The scores, and the counts of each image."""


def expect_classes(predictor: Predictor, data: Data) -> None:
    """Raises DataError unless the data has the model's classes, in its order."""
    if tuple(data.classes) != predictor.classes:
        got, expected = ", ".join(data.classes), ", ".join(predictor.classes)
        raise DataError(
            f"{data.root}: got the classes {got}; expected those of the model, in its order: {expected}.\nScore it on data of "
            "its classes (a folder of masks names them in classes.txt), or train a model on this data"
        )


def nothing_to_score(data: Data, label: str = "a mask") -> DataError:
    """The error of a list whose images lack the label that would score a model."""
    return DataError(f"{data.root}, list {data.split!r}: no image has {label} to score with; give another --split")


def list_name(predictor: Predictor, data: Data, tags: str) -> str:
    """The list of images, for the protocol id, with what the model was told beyond its training."""
    ground_truth = ["ground-truth-tags"] if tags == "ground-truth" else []
    boxes = [f"proposals={predictor.replaced_proposals}"] if predictor.replaced_proposals else []
    return "+".join([data.split or "all", *ground_truth, *boxes])


def predictions_folder(run: Path, images: str) -> Path:
    """Where a run keeps its predictions of a list of images, see `list_name`."""
    return run / "predictions" / images.replace("/", "_")


def predictions(
    predictor: Predictor, data: Data, label: str, tags: Literal["predicted", "given"] = "predicted", quiet: bool = False
) -> Iterator[tuple[int, Sample, Prediction]]:
    """(place in the data, image without labels, prediction) one by one, with progress under that label."""
    stream = predictor.stream(data, tags=tags)
    for index, (sample, prediction) in track(enumerate(stream), label, len(data), quiet=quiet):
        yield index, sample, prediction


def best_first(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """Score of each image (N,), sorted from best to worst, without those that have none (NaN)."""
    scored = [(name, value) for name, value in zip(names, values.tolist(), strict=True) if not np.isnan(value)]
    return dict(sorted(scored, key=lambda item: -item[1]))


def add_to_metrics(run_folder: Path, scores: PerImage, **further: Any) -> None:
    """Put scores, and further figures, into the run's metrics.json under their protocol id, beside those of others."""
    path = run_folder / "metrics.json"
    earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, earlier | {scores.protocol: scores.to_json() | further})
