"""Masks that one model made as the labels of another: the step from tags to a network trained on full masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from frugalseg import rle
from frugalseg.config import UsageError
from frugalseg.data import Data
from frugalseg.data.dataset import Outline
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.run import Run
from frugalseg.inference import batched
from frugalseg.inference.predictor import Predictor, load
from frugalseg.types import Instances, Prediction, Sample

SHARE = 0.5  # of the score of the class's best object in the picture, from which another is believed too
NO_MASKS = "masks_from: the model makes no masks of these classes; give a run of pdsl, aepsl, fcn or r2ios"
SMALLEST = 16  # pixels of a connected part of a class mask, from which it is an object


def teacher(run: str | Path, classes: Sequence[str], option: str = "masks_from") -> Predictor:
    """The model of a run whose masks are to be learned from. Raises UsageError for one of other classes or without masks.

    option: what asked for it, in errors.
    """
    found = load(run)
    if found.classes != tuple(classes):
        raise UsageError(f"{option}: {run} knows {', '.join(found.classes)}; the pictures have {', '.join(classes)}")
    return found


def relabelled(
    data: Data, predictor: Predictor, run: Run, option: str = "masks_from", store: str = "labels", label: str = "instances"
) -> Data:
    """The images with the masks that a model predicts for them, and no other label but their tags.

    Where tags are known the model is told them: they are what it learned from. The masks are predicted once in the life of the
    run that learns from them, and kept in its array store of that name. label: "instances" makes object masks, "semantic" class
    masks. Raises UsageError where not one image gets a mask.
    """
    unlabelled = data.only("image", "tags")
    predictor.network.to(run.device)
    if label == "semantic":
        arrays = predict_each(run, store, unlabelled, predictor, lambda found: {"mask": class_mask(found)})
        records = [replace(record, semantic=arrays.path(index)) for index, record in enumerate(unlabelled.records)]
        empty = sum(not arrays.read(index)["mask"].any() for index in range(len(records)))
    else:
        arrays = predict_each(run, store, unlabelled, predictor, lambda found: packed(outlines(found)))
        records = [replace(record, outlines=unpacked(arrays.read(index))) for index, record in enumerate(unlabelled.records)]
        empty = sum(not record.outlines for record in records)
    if empty == len(records):
        raise UsageError(f"{option}: the model finds no object in any of {empty} images; train it longer")
    if empty:
        warnings.warn(f"{option}: the model finds no object in {empty} of {len(records)} images", stacklevel=2)
    return Data(data.root, data.layout, data.split, data.classes, records, data.problems, data.max_pixels)


def predict_each(
    run: Run, store: str, data: Data, predictor: Predictor, arrays: Callable[[Prediction], dict[str, np.ndarray]]
) -> ArrayStore:
    """What `arrays` keeps of the prediction of each image, which is told its tags where they are known."""

    def predicted(items: Iterable[tuple[int, Sample]]) -> Iterator[dict[str, np.ndarray]]:
        samples = (sample for _, sample in items)
        for _, prediction in batched.predict(predictor.network, samples, told_tags, predictor.batch):
            yield arrays(prediction)

    return run.stream(store, data, predicted)


def told_tags(sample: Sample) -> str:
    """Whether the model is told the tags of an image: where one of them is known."""
    return "given" if sample.tags is not None and bool((~sample.tags.isnan()).any()) else "predicted"


def class_mask(prediction: Prediction) -> np.ndarray:
    """(H, W) uint8 of 0..C: the class mask of a prediction, or that of its believable objects, the surest on top."""
    if prediction.semantic is not None:
        return prediction.semantic.numpy()
    if prediction.instances is None:
        raise UsageError(NO_MASKS)
    instances = prediction.instances[believed(prediction.instances)]
    ids = rle.paint(instances.rles, prediction.size)
    return np.concatenate([[0], instances.labels.numpy()]).astype(np.uint8)[ids]


def packed(objects: Sequence[Outline]) -> dict[str, np.ndarray]:
    """Objects as arrays of a shelf; the letters of run lengths are none but `0` to `o`, so a space can part them."""
    numbers = np.array([[*item[:4], item.label, item.area, *item.size] for item in objects]).reshape(-1, 8)
    return {"numbers": numbers, "counts": np.frombuffer(b" ".join(item.counts for item in objects), np.uint8)}


def unpacked(arrays: dict[str, np.ndarray]) -> tuple[Outline, ...]:
    """Back from `packed`."""
    codes = arrays["counts"].tobytes().split()
    return tuple(
        Outline(x1, y1, x2, y2, int(label), (int(height), int(width)), code, area)
        for (x1, y1, x2, y2, label, area, height, width), code in zip(arrays["numbers"].tolist(), codes, strict=True)
    )


def outlines(found: Prediction) -> tuple[Outline, ...]:
    """The believable objects of a prediction, those of a class mask being its connected parts."""
    if found.instances is not None:
        kept = believed(found.instances)
        codes = [(int(found.instances.labels[i]), found.instances.rles[i]) for i in kept]
    elif found.semantic is not None:
        codes = parts(found.semantic.numpy(), len(found.classes))
    else:
        raise UsageError(NO_MASKS)
    boxes, areas = rle.boxes([code for _, code in codes]), rle.areas([code for _, code in codes])
    return tuple(
        Outline(x1, y1, x2, y2, label, found.size, code["counts"], float(area))
        for (x1, y1, x2, y2), area, (label, code) in zip(boxes.tolist(), areas, codes, strict=True)
    )


def believed(found: Instances) -> list[int]:
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
