"""Masks that one model made as the labels of another: the step from tags to a network trained on full masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from frugalseg import rle
from frugalseg.config import UsageError
from frugalseg.data import Data, Record
from frugalseg.data.dataset import Outline
from frugalseg.predictor import Predictor, load
from frugalseg.progress import track
from frugalseg.types import CompactInstances, Prediction

SHARE = 0.5  # of the score of the class's best object in the picture, from which another is believed too
SMALLEST = 16  # pixels of a connected part of a class mask, from which it is an object


def relabelled(data: Data, run: str | Path, quiet: bool = False) -> Data:
    """The pictures with the masks that the model of `run` makes of them, and no other label but their tags.

    Where tags are known the model is told them: they are what it learned from. Raises UsageError for a model of other classes.
    """
    predictor = load(run)
    if predictor.classes != tuple(data.classes):
        raise UsageError(f"masks_from: {run} knows {', '.join(predictor.classes)}; {data.root} has {', '.join(data.classes)}")
    own = data.only("image", "tags")
    records = [taught(own, index, predictor) for index in track(range(len(own)), "masks", len(own), quiet=quiet)]
    return Data(data.root, data.layout, data.split, data.classes, records, data.problems, data.max_pixels)


def taught(data: Data, index: int, predictor: Predictor) -> Record:
    """One record with the objects that the model finds in its picture."""
    record = data.records[index]
    told = data.select([index])
    ((_, found),) = predictor.stream(told, tags="given" if "tags" in record.fields else "predicted")
    return replace(record, outlines=outlines(found))


def outlines(found: Prediction) -> tuple[Outline, ...]:
    """The believable objects of a prediction, those of a class mask being its connected parts."""
    if found.instances is not None:
        kept = believed(found.instances)
        codes = [(int(found.instances.labels[i]), found.instances.rles[i]) for i in kept]
    elif found.semantic is not None:
        codes = parts(found.semantic.numpy(), len(found.classes))
    else:
        raise UsageError("masks_from: the model makes no masks of these classes; give a run of pdsl, aepsl or r2ios")
    boxes, areas = rle.boxes([code for _, code in codes]), rle.areas([code for _, code in codes])
    return tuple(
        Outline(x1, y1, x2, y2, label, found.size, code["counts"], float(area))
        for (x1, y1, x2, y2), area, (label, code) in zip(boxes.tolist(), areas, codes, strict=True)
    )


def believed(found: CompactInstances) -> list[int]:
    """Indices of objects that score at least SHARE of the best of their class: scores of weak labels are no probabilities."""
    scores = [0.0] * len(found) if found.scores is None else found.scores.tolist()
    labels = found.labels.tolist()
    best: dict[int, float] = {}
    for label, score in zip(labels, scores, strict=True):
        best[label] = max(score, best.get(label, 0.0))
    return [i for i, (label, score) in enumerate(zip(labels, scores, strict=True)) if score >= SHARE * best[label]]


def parts(mask: np.ndarray, classes: int) -> list[tuple[int, rle.RLE]]:
    """Class and run lengths of each connected part of a class mask (H, W) that has SMALLEST pixels."""
    found = []
    for label in range(1, classes + 1):
        ids, _ = ndimage.label(mask == label, structure=np.ones((3, 3)))
        _, codes = rle.from_ids(ids)
        found += [(label, code) for code, area in zip(codes, rle.areas(codes), strict=True) if area >= SMALLEST]
    return found
