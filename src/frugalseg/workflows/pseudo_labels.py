"""Masks that one model predicts as the labels of another: the step from tags to a network trained on full masks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from frugalseg import rle
from frugalseg.config import UsageError
from frugalseg.data import Data, Record
from frugalseg.data.dataset import Outline
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.run import Run
from frugalseg.inference import batched
from frugalseg.inference.predictor import Predictor, load
from frugalseg.types import Instances, Prediction, Sample

SHARE = 0.5  # of the best score of a class in an image, from which another object of it is trusted too
SMALLEST = 16  # pixels of a connected part of a class mask, from which it is an object
NO_MASKS = "masks_from: the model makes no masks of these classes; give a run of pdsl, aepsl, fcn or r2ios"


def load_teacher(run: str | Path, classes: Sequence[str], option: str = "masks_from") -> Predictor:
    """The model of a run whose masks are to be learned from. Raises UsageError for one of other classes.

    option: what asked for it, in errors.
    """
    teacher = load(run)
    if teacher.classes != tuple(classes):
        names, expected = ", ".join(teacher.classes), ", ".join(classes)
        raise UsageError(f"{option}: {run} knows {names}; the images have {expected}; give a run that was trained on those")
    return teacher


def pseudo_labelled(
    data: Data, teacher: Predictor, run: Run, option: str = "masks_from", store: str = "labels", label: str = "instances"
) -> Data:
    """The images with the masks that a model predicts for them, and no other label but their tags.

    Where tags are known the model is told them: they are what it learned from. The masks are predicted once in the life of the
    run that learns from them, and kept in its array store of that name. label: "instances" makes object masks, "semantic" class
    masks. Raises UsageError where not one image gets a mask.
    """
    unlabelled = data.only("image", "tags")
    teacher.network.to(run.device)
    arrays = run.stream(store, unlabelled, lambda items: predicted_arrays(items, teacher, label))
    labelled = with_class_masks if label == "semantic" else with_objects
    records, empty = labelled(unlabelled.records, arrays)
    if empty == len(records):
        raise UsageError(f"{option}: the model finds no object in any of {empty} images; train it longer")
    if empty:
        warnings.warn(f"{option}: the model finds no object in {empty} of {len(records)} images", stacklevel=2)
    return Data(data.root, data.layout, data.split, data.classes, records, data.problems, data.max_pixels)


def predicted_arrays(items: Iterable[tuple[int, Sample]], teacher: Predictor, label: str) -> Iterator[dict[str, np.ndarray]]:
    """What is stored of the prediction of each (index, image)."""
    samples = (sample for _, sample in items)
    for _, prediction in batched.predict(teacher.network, samples, told_tags, teacher.batch):
        yield {"mask": class_mask(prediction)} if label == "semantic" else to_arrays(outlines(prediction))


def told_tags(sample: Sample) -> str:
    """Whether the model is told the tags of an image: where one of them is known."""
    return "given" if sample.tags is not None and bool((~sample.tags.isnan()).any()) else "predicted"


def with_class_masks(records: Sequence[Record], arrays: ArrayStore) -> tuple[list[Record], int]:
    """The records with the class masks in the store, and how many of those are empty."""
    labelled = [replace(record, semantic=arrays.path(index)) for index, record in enumerate(records)]
    return labelled, sum(not arrays.read(index)["mask"].any() for index in range(len(records)))


def with_objects(records: Sequence[Record], arrays: ArrayStore) -> tuple[list[Record], int]:
    """The records with the objects in the store, and how many have none."""
    labelled = [replace(record, outlines=from_arrays(arrays.read(index))) for index, record in enumerate(records)]
    return labelled, sum(not record.outlines for record in labelled)


# -- from predictions to labels --------------------------------------------------------------------------------------


def class_mask(prediction: Prediction) -> np.ndarray:
    """(H, W) uint8 of 0..C: the class mask of a prediction, or that of its trusted objects, the best score on top."""
    if prediction.semantic is not None:
        return prediction.semantic.numpy()
    if prediction.instances is None:
        raise UsageError(NO_MASKS)
    instances = prediction.instances[trusted(prediction.instances)]
    labels = np.concatenate([[0], instances.labels.numpy()]).astype(np.uint8)
    return np.take(labels, rle.paint(instances.rles, prediction.size))


def outlines(prediction: Prediction) -> tuple[Outline, ...]:
    """The trusted objects of a prediction, those of a class mask being its connected parts."""
    if prediction.instances is not None:
        instances = prediction.instances[trusted(prediction.instances)]
        objects = list(zip(instances.labels.tolist(), instances.rles, strict=True))
    elif prediction.semantic is not None:
        objects = connected_parts(prediction.semantic.numpy(), len(prediction.classes))
    else:
        raise UsageError(NO_MASKS)
    codes = [code for _, code in objects]
    boxes, areas = rle.boxes(codes).tolist(), rle.areas(codes).tolist()
    return tuple(
        Outline(x1, y1, x2, y2, label, prediction.size, code["counts"], float(area))
        for (x1, y1, x2, y2), area, (label, code) in zip(boxes, areas, objects, strict=True)
    )


def trusted(instances: Instances) -> list[int]:
    """Indices of objects that score at least SHARE of the best of their class: scores of weak labels are no probabilities."""
    scores = [0.0] * len(instances) if instances.scores is None else instances.scores.tolist()
    labels = instances.labels.tolist()
    best: dict[int, float] = {}
    for label, score in zip(labels, scores, strict=True):
        best[label] = max(score, best.get(label, 0.0))
    return [i for i, (label, score) in enumerate(zip(labels, scores, strict=True)) if score >= SHARE * best[label]]


def connected_parts(mask: np.ndarray, classes: int) -> list[tuple[int, rle.RLE]]:
    """Class and run lengths of each connected part of a class mask (H, W) that has SMALLEST pixels."""
    parts = []
    for label in range(1, classes + 1):
        ids, _ = ndimage.label(mask == label, structure=np.ones((3, 3)))
        _, codes = rle.from_ids(ids)
        parts += [(label, code) for code, area in zip(codes, rle.areas(codes), strict=True) if area >= SMALLEST]
    return parts


# -- in the array store ----------------------------------------------------------------------------------------------


def to_arrays(objects: Sequence[Outline]) -> dict[str, np.ndarray]:
    """Objects as arrays: numbers (N, 8), and run lengths, separated by spaces, which they do not hold."""
    numbers = np.array([[*item[:4], item.label, item.area, *item.size] for item in objects]).reshape(-1, 8)
    return {"numbers": numbers, "counts": np.frombuffer(b" ".join(item.counts for item in objects), np.uint8)}


def from_arrays(arrays: dict[str, np.ndarray]) -> tuple[Outline, ...]:
    """Back from `to_arrays`."""
    codes = arrays["counts"].tobytes().split()
    return tuple(
        Outline(x1, y1, x2, y2, int(label), (int(height), int(width)), code, area)
        for (x1, y1, x2, y2, label, area, height, width), code in zip(arrays["numbers"].tolist(), codes, strict=True)
    )
