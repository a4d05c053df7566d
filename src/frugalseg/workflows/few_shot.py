"""The everyday use of BiOpt: here are three masks, find the rest. No training; each reference is encoded once.

    from frugalseg import Few
    model = Few("runs/biopt/mine").fit("references")     # or Few() for ImageNet features alone
    for prediction in model.predict("photos"):
        print(prediction.name, prediction.tags)          # the confidence that each class is there

References are a folder of images with masks of any number of classes, in any layout that `frugalseg.read` knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.data import Data, DataError, episodes, read
from frugalseg.data.episodes import Episode, class_mask
from frugalseg.data.images import BadImage
from frugalseg.inference.predictor import Predictor, load
from frugalseg.methods import METHODS
from frugalseg.methods.biopt import BiOpt, encode_supports, object_masks
from frugalseg.metrics.fewshot import iou
from frugalseg.nets.prototypes import PrototypeBank, Supports
from frugalseg.progress import track
from frugalseg.recipes.biopt import TEST_SETTINGS, Config, TrainingFree
from frugalseg.types import IGNORE, Sample, size_of

ADVISED = 20  # references of a class that are compared with each other; the work grows with their square
HURTS = -0.02  # a reference whose worth is below this is named


@dataclass(frozen=True)
class Advice:
    """What one reference of a class is worth.

    found: IoU of its mask as segmented from the other references; None for the only one. worth: how much IoU the others lose
    when it is left out, mean over them; below 0 it hurts. None with fewer than three.
    """

    name: str
    label: str
    found: float | None
    worth: float | None

    @property
    def hurts(self) -> bool:
        """Whether the others do clearly better without it."""
        return self.worth is not None and self.worth < HURTS

    def __str__(self) -> str:
        found = "" if self.found is None else f", found from the others with IoU {100 * self.found:.0f} %"
        worth = "" if self.worth is None else f", worth {100 * self.worth:+.1f} points to them"
        return f"{self.label} in {self.name}{found}{worth}{': it hurts, look at its mask' if self.hurts else ''}"


class Few:
    """A few-shot model before it has seen references.

    Args:
        model: a run folder or weights file of BiOpt, what `frugalseg.load` gave, or None for a feature network with its library's
            weights alone. A model that is passed in stays as it is.
        threshold: a class of less confidence is not drawn.
        device: "auto" takes a GPU where there is one.
        settings: of the recipe `TrainingFree`; with a model, those of the test only (`TEST_SETTINGS`). Raises UsageError for
            others.
    """

    def __init__(
        self, model: Predictor | str | Path | None = None, threshold: float = 0.5, device: str = "auto", **settings: Any
    ) -> None:
        self.network = _untrained(settings, device) if model is None else _trained(model, settings, device)
        self.threshold, self.calibrated = threshold, model is not None
        self.notes: list[str] = []
        self._bank = PrototypeBank({})
        self._chosen: dict[int, list[int]] = {}  # class -> indices of its references

    def fit(self, references: str | Path | Data, shots: int = 0, quiet: bool = True) -> Predictor:
        """Encode the references and return what `predict` is called on; `notes` says what was left out.

        references: a folder, or what `frugalseg.read` returned. shots: references of each class, its first by name; 0 takes all.
        Raises DataError for references that contradict or show nothing, UsageError for a class with fewer than `shots`.
        """
        data = references if isinstance(references, Data) else read(references, skip_limit=1.0)
        self.notes = [str(problem) for problem in data.problems if problem.effect]
        self._data, pixels = self._usable(data)
        pool = episodes.images_by_class(pixels)
        self._chosen = {label: _first(self._data, label, shown, shots) for label, shown in pool.items()}
        tasks = [Episode(label, -1, tuple(chosen)) for label, chosen in self._chosen.items()]
        self._bank = encode_supports(self.network, self._data, tasks, quiet)
        supports = self._bank.supports(task.support for task in tasks)
        supports = _by_class(supports, list(self._chosen), len(data.classes)).to(self.network.device)
        network = self.network.with_supports(supports, data.classes, self.threshold)
        return Predictor(METHODS["biopt"], network, data.classes)

    def _usable(self, data: Data) -> tuple[Data, list[dict[int, int]]]:
        """The references that show a class, each image once, with their pixels of each class."""
        masks = self.network.config.masks
        data = data.only("image", masks)
        pixels = episodes.class_pixels(data, masks)
        kept: list[int] = []
        first: dict[str, int] = {}  # digest of an image file -> the first index that has it
        for index, record in enumerate(data.records):
            if not pixels[index]:
                self.notes.append(f"skipped {record.name}: its mask shows none of the classes, or it has none")
                continue
            earlier = first.setdefault(digest(record.image), index)
            if earlier == index:
                kept.append(index)
            else:
                self._note_copy(data, earlier, index)
        if not kept:
            raise DataError("\n".join([f"{data.root}: no reference shows a class; expected images with masks.", *self.notes]))
        return data.select(kept), [pixels[index] for index in kept]

    def _note_copy(self, data: Data, first: int, copy: int) -> None:
        """Note that an image is there twice. Raises DataError if the masks differ."""
        name, other = data.names[copy], data.names[first]
        if not same_masks(data[first], data[copy], self.network.config.masks):
            raise DataError(
                f"{data.root}: {other} and {name} are the same image with different masks; "
                "delete the wrong one, or unite the masks in one file"
            )
        self.notes.append(f"skipped {name}: the same image and mask as {other}")

    @torch.no_grad()
    def advice(self, quiet: bool = True) -> list[Advice]:
        """What each reference is worth, measured by leaving it out; call it after `fit`."""
        groups = {label: chosen[:ADVISED] for label, chosen in self._chosen.items()}
        ious: dict[tuple[int, int, int], float] = {}  # (class, target, left out) -> IoU of the target from the others
        for target in track(sorted({index for group in groups.values() for index in group}), "leave one out", quiet=quiet):
            tasks = [task for label, group in groups.items() for task in _leave_one_out(label, target, group)]
            values = self._ious([task for task, _ in tasks], target) if tasks else []
            ious |= {(task.label, target, left_out): value for (task, left_out), value in zip(tasks, values, strict=True)}
        return [self._advise(label, reference, group, ious) for label, group in groups.items() for reference in group]

    def _ious(self, tasks: Sequence[Episode], target: int) -> list[float]:
        """IoU of the masks of one image, each as an episode segments it."""
        sample, masks = self._data[target], self.network.config.masks
        supports = self._bank.supports(task.support for task in tasks).to(self.network.device)
        probabilities, _ = self.network.segment(self.network.views(sample.image), supports)
        segmented = object_masks(probabilities, size_of(sample.image))
        return [mask_iou(mask, class_mask(sample, task.label, masks)) for mask, task in zip(segmented, tasks, strict=True)]

    def _advise(self, label: int, reference: int, group: Sequence[int], ious: dict[tuple[int, int, int], float]) -> Advice:
        changes = [
            ious[label, target, target] - ious[label, target, reference]
            for target in group
            if target != reference and (label, target, reference) in ious
        ]
        worth = sum(changes) / len(changes) if changes else None
        name = self._data.classes[label - 1]
        return Advice(self._data.names[reference], name, ious.get((label, reference, reference)), worth)

    def report(self, advice: bool = True, quiet: bool = True) -> list[str]:
        """What a user should know about the references, line by line."""
        counts = [f"{self._data.classes[label - 1]} {len(chosen)}" for label, chosen in self._chosen.items()]
        lines = [f"references: {', '.join(counts)}", *self.notes]
        if not self.calibrated:
            lines.append("confidences are rough for features that no data has calibrated; `frugalseg train biopt DATA` does it")
        for entry in self.advice(quiet) if advice else []:
            lines += [f"  {entry}"] if entry.found is not None else []
        return lines

    def others(self, images: Iterable[Data]) -> tuple[list[Data], list[BadImage]]:
        """The images to predict without those that are references, and a list of the latter."""
        references = {(record.image.stat().st_size, digest(record.image)): record.name for record in self._data.records}
        sizes = {size for size, _ in references}
        others: list[Data] = []
        skipped: list[BadImage] = []
        for data in images:
            kept = []
            for index, record in enumerate(data.records):
                size = record.image.stat().st_size
                reference = references.get((size, digest(record.image))) if size in sizes else None
                if reference is None:
                    kept.append(index)
                else:
                    skipped.append(BadImage(record.image, f"is the reference {reference}: its mask is known"))
            others.append(data.select(kept))
        return others, skipped


# -- networks --------------------------------------------------------------------------------------------------------


def _untrained(settings: dict[str, Any], device: str) -> BiOpt:
    """A network with its library's weights alone."""
    recipe = config.build(TrainingFree, config.resolve([TrainingFree], settings))
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return BiOpt(recipe, ()).to(chosen).eval()


def _trained(model: Predictor | str | Path, settings: dict[str, Any], device: str) -> BiOpt:
    """The network of a trained model, with other settings for the test."""
    predictor = model if isinstance(model, Predictor) else load(model, device)
    network = predictor.network
    if not isinstance(network, BiOpt):
        raise UsageError(f"{model}: got a model of {predictor.method.name}, expected one of biopt")
    fixed = sorted(settings.keys() - TEST_SETTINGS)
    if fixed:
        allowed = ", ".join(sorted(TEST_SETTINGS))
        raise UsageError(f"{', '.join(fixed)}: a trained model brings its own; beside --model only {allowed}")
    values = config.resolve([Config], {field.name: getattr(network.config, field.name) for field in fields(Config)} | settings)
    config.build(Config, values)  # raises UsageError for values that are not valid beside those of the training
    return network.with_settings(**{name: values[name] for name in settings})


# -- references ------------------------------------------------------------------------------------------------------


def _first(data: Data, label: int, references: Sequence[int], shots: int) -> list[int]:
    """The first `shots` references of a class by name, all for 0."""
    ordered = sorted(references, key=data.names.__getitem__)
    if len(ordered) < shots:
        raise UsageError(f"shots={shots}: {data.classes[label - 1]} has {len(ordered)} references; give more, or ask for fewer")
    return ordered[: shots or None]


def _by_class(supports: Supports, labels: Sequence[int], classes: int) -> Supports:
    """The supports of some classes as a row for each class, empty where there are none."""
    places = torch.tensor(labels) - 1
    return Supports(*(part.new_zeros(classes, *part.shape[1:]).index_copy(0, places, part) for part in supports))


def _leave_one_out(label: int, target: int, group: Sequence[int]) -> list[tuple[Episode, int]]:
    """Episodes that segment one reference of a class from the others without one of them, and which one is left out.

    Where that is the target itself, all others are the references.
    """
    if target not in group:
        return []
    return [
        (Episode(label, target, tuple(index for index in group if index not in (target, left_out))), left_out)
        for left_out in group
        if len(group) > 1 + (left_out != target)
    ]


def digest(path: Path) -> str:
    """A digest of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def same_masks(one: Sample, other: Sample, masks: str) -> bool:
    """Whether two samples of one image have the same labels."""
    if masks == "semantic" and one.semantic is not None and other.semantic is not None:
        return torch.equal(one.semantic, other.semantic)
    labels = {int(label) for sample in (one, other) if sample.instances is not None for label in sample.instances.labels}
    return all(torch.equal(class_mask(one, label, masks), class_mask(other, label, masks)) for label in labels)


def mask_iou(mask: Tensor, truth: Tensor) -> float:
    """IoU of a mask (H, W) bool and a truth of 0, 1 and 255 = ignore."""
    labelled = truth != IGNORE
    counts = [int((mask & (truth == 1)).sum()), int((mask & labelled).sum()), int((truth == 1).sum())]
    return float(np.nan_to_num(iou(np.array(counts))))
