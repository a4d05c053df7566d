"""What every task shares when it scores: the check of classes, the name of a list, and metrics.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from frugalseg.data import Data
from frugalseg.data.problems import DataError
from frugalseg.files import write_json
from frugalseg.inference.predictor import Predictor
from frugalseg.metrics.per_image import PerImage


def expect_classes(predictor: Predictor, data: Data) -> None:
    """Raises DataError unless the data has the model's classes, in its order."""
    if tuple(data.classes) != predictor.classes:
        got, expected = ", ".join(data.classes), ", ".join(predictor.classes)
        raise DataError(
            f"{data.root}: got the classes {got}; expected those of the model, in its order: {expected}.\nScore it on data of "
            "its classes (a folder of masks names them in classes.txt), or train a model on this data"
        )


def list_name(predictor: Predictor, data: Data, tags: str) -> str:
    """The list of pictures, for the protocol id, with what else the model was given than at its training."""
    told = ["ground-truth-tags"] if tags == "ground-truth" else []
    boxes = [f"proposals={predictor.others}"] if predictor.others else []
    return "+".join([data.split or "all", *told, *boxes])


def record(folder: Path, scores: PerImage, **further: Any) -> None:
    """Put the scores, and further figures, into the run's metrics.json under their protocol id, beside those of others."""
    path = folder / "metrics.json"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, known | {scores.protocol: scores.to_json() | further})
