"""The everyday use of BiOpt: "here are three masks, find the rest". No training; the references are looked at once.

    from frugalseg import Few
    model = Few("runs/biopt/mine").fit("references")     # or Few() for ImageNet features alone
    for prediction in model.predict("photos"):
        print(prediction.name, prediction.tags)          # how sure it is that each class is there

References are a folder of pictures with masks of any number of classes, in any layout that `frugalseg.read` knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.data import Data, DataError, episodes, read
from frugalseg.data.episodes import Episode, class_mask
from frugalseg.data.images import BadImage
from frugalseg.inference.predictor import Predictor, load
from frugalseg.methods import METHODS
from frugalseg.methods.biopt import Bank, BiOpt, Examples, full_size, predicted, size_of
from frugalseg.metrics.fewshot import iou
from frugalseg.progress import track
from frugalseg.recipes.biopt import AT_TEST, Config, Free
from frugalseg.tasks.few_shot import encode_supports
from frugalseg.types import Prediction, Sample

ADVISED = 20  # references of a class that are weighed against each other; the work grows with their square
HURTS = -0.02  # a reference whose worth is below this is named


class Fitted(nn.Module):
    """A network with references: what a `Predictor` needs. Memory does not depend on how many pictures it is shown."""

    def __init__(self, model: BiOpt, classes: tuple[str, ...], examples: Examples, threshold: float) -> None:
        super().__init__()
        self.model, self.classes, self.examples, self.threshold = model, classes, examples, threshold

    def predict(self, samples: Iterable[Sample], tags: str = "predicted") -> list[Prediction]:
        """Masks of the references' classes at the pictures' own sizes; tags are the confidences that a class is there."""
        return [predicted(self.model, sample, self.classes, self.examples, tags, self.threshold) for sample in samples]


@dataclass(frozen=True)
class Advice:
    """What one reference of a class is good for.

    found: IoU of its mask as found from the other references; None for the only one. worth: how much IoU the others lose when it
    is taken away, mean over them; below 0 it hurts. None with fewer than three.
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
            weights alone.
        threshold: a class that the model is less sure of is not drawn.
        device: "auto" takes a GPU where there is one.
        settings: of the recipe `Free`; with a model, those of the test only (`AT_TEST`). Raises UsageError for others.
    """

    def __init__(
        self, model: Predictor | str | Path | None = None, threshold: float = 0.5, device: str = "auto", **settings: Any
    ) -> None:
        self.network = _free(settings, device) if model is None else _trained(model, settings, device)
        self.threshold, self.calibrated = threshold, model is not None
        self.notes: list[str] = []
        self._bank, self._chosen = Bank({}), {}  # type: tuple[Bank, dict[int, list[int]]]

    def fit(self, references: str | Path | Data, shots: int = 0, quiet: bool = True) -> Predictor:
        """Look at the references and return what `predict` is called on; `notes` says what was left out.

        references: a folder, or what `frugalseg.read` returned. shots: references of each class, its first by name; 0 takes all.
        Raises DataError for references that contradict or show nothing, UsageError for a class with fewer than `shots`.
        """
        data = references if isinstance(references, Data) else read(references, skip_limit=1.0)
        self.notes = [str(problem) for problem in data.problems if problem.effect]
        self._data, pixels = self._usable(data)
        pool = episodes.members(pixels)
        self._chosen = {label: _first(self._data, label, found, shots) for label, found in pool.items()}
        whole = [Episode(label, -1, tuple(found)) for label, found in self._chosen.items()]
        self._bank = encode_supports(self.network, self._data, whole, quiet)
        device = next(self.network.parameters()).device
        examples = _table(self._bank.examples(whole), list(self._chosen), len(data.classes)).to(device)
        return Predictor(METHODS["biopt"], Fitted(self.network, data.classes, examples, self.threshold), data.classes)

    def _usable(self, data: Data) -> tuple[Data, list[dict[int, int]]]:
        """The references that show a class, each picture once, with their pixels of each class."""
        masks = self.network.config.masks
        data = data.only("image", masks)
        pixels, kept, seen = episodes.class_pixels(data, masks), [], {}  # type: Any, list[int], dict[str, int]
        for index, record in enumerate(data.records):
            if not pixels[index]:
                self.notes.append(f"skipped {record.name}: its mask shows none of the classes, or it has none")
                continue
            first = seen.setdefault(digest(record.image), index)
            if first == index:
                kept.append(index)
            elif same_masks(data[first], data[index], masks):
                self.notes.append(f"skipped {record.name}: the same picture and mask as {data.names[first]}")
            else:
                raise DataError(
                    f"{data.root}: {data.names[first]} and {record.name} are the same picture with different masks; "
                    "delete the wrong one, or unite the masks in one file"
                )
        if not kept:
            raise DataError("\n".join([f"{data.root}: no reference shows a class; expected pictures with masks.", *self.notes]))
        return data.select(kept), [pixels[index] for index in kept]

    @torch.no_grad()
    def advice(self, quiet: bool = True) -> list[Advice]:
        """What each reference is good for, found by leaving it out; call it after `fit`."""
        shares: dict[tuple[int, int, int], float] = {}  # (class, target, left out) -> IoU of the target from the others
        groups = {label: found[:ADVISED] for label, found in self._chosen.items()}
        for target in track(sorted({index for group in groups.values() for index in group}), "leave one out", quiet=quiet):
            tasks = [
                (Episode(label, target, tuple(i for i in group if i not in (target, out))), out)
                for label, group in groups.items()
                if target in group
                for out in group
                if len(group) > 1 + (out != target)
            ]
            found = self._found([task for task, _ in tasks], target) if tasks else []
            shares |= {(task.label, target, out): value for (task, out), value in zip(tasks, found, strict=True)}
        return [self._advise(label, reference, group, shares) for label, group in groups.items() for reference in group]

    def _found(self, tasks: Sequence[Episode], target: int) -> list[float]:
        """IoU of one picture's masks, as found in several ways."""
        sample = self._data[target]
        views, size = self.network.views(sample.image), size_of(sample.image)
        probabilities, _ = self.network.find(views, self._bank.examples(tasks).to(views[0].device))
        small = full_size(probabilities[:, 1:], size) > 0.5
        masks = F.interpolate(small.float(), size, mode="nearest")[:, 0].bool().cpu()
        return [
            overlap(mask, class_mask(sample, task.label, self.network.config.masks))
            for mask, task in zip(masks, tasks, strict=True)
        ]

    def _advise(self, label: int, reference: int, group: Sequence[int], shares: dict[tuple[int, int, int], float]) -> Advice:
        changes = [
            shares[label, target, target] - shares[label, target, reference]
            for target in group
            if target != reference and (label, target, reference) in shares
        ]
        worth = sum(changes) / len(changes) if changes else None
        name = self._data.classes[label - 1]
        return Advice(self._data.names[reference], name, shares.get((label, reference, reference)), worth)

    def report(self, advice: bool = True, quiet: bool = True) -> list[str]:
        """What a user should know of the references, line by line."""
        counts = [f"{self._data.classes[label - 1]} {len(found)}" for label, found in self._chosen.items()]
        lines = [f"references: {', '.join(counts)}", *self.notes]
        if not self.calibrated:
            lines.append("confidences are rough for features that no data has calibrated; `frugalseg train biopt DATA` does it")
        for entry in self.advice(quiet) if advice else []:
            lines += [f"  {entry}"] if entry.found is not None else []
        return lines

    def others(self, pictures: Iterable[Data]) -> tuple[list[Data], list[BadImage]]:
        """The pictures to predict, without those that are references, which are listed."""
        known = {(record.image.stat().st_size, digest(record.image)): record.name for record in self._data.records}
        sizes = {size for size, _ in known}
        found, skipped = [], []
        for data in pictures:
            kept = []
            for index, record in enumerate(data.records):
                size = record.image.stat().st_size
                twin = known.get((size, digest(record.image))) if size in sizes else None
                if twin is None:
                    kept.append(index)
                else:
                    skipped.append(BadImage(record.image, f"is the reference {twin}: its mask is known"))
            found.append(data.select(kept))
        return found, skipped


def _free(settings: dict[str, Any], device: str) -> BiOpt:
    """A network with its library's weights alone."""
    values = config.resolve([Free], settings)
    recipe = config.build(Free, values)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return BiOpt(recipe, ()).to(chosen).eval()


def _trained(model: Predictor | str | Path, settings: dict[str, Any], device: str) -> BiOpt:
    predictor = model if isinstance(model, Predictor) else load(model, device)
    network = predictor.network
    if not isinstance(network, BiOpt):
        raise UsageError(f"{model}: got a model of {predictor.method.name}, expected one of biopt")
    fixed = sorted(settings.keys() - AT_TEST)
    if fixed:
        raise UsageError(f"{', '.join(fixed)}: a trained model brings its own; beside --model only {', '.join(sorted(AT_TEST))}")
    values = {field.name: getattr(network.config, field.name) for field in fields(Config)} | settings
    network.config = replace(network.config, **{name: config.resolve([Config], values)[name] for name in settings})
    return network


def _first(data: Data, label: int, found: Sequence[int], shots: int) -> list[int]:
    ordered = sorted(found, key=data.names.__getitem__)
    if len(ordered) < shots:
        raise UsageError(f"shots={shots}: {data.classes[label - 1]} has {len(ordered)} references; give more, or ask for fewer")
    return ordered[: shots or None]


def _table(examples: Examples, labels: Sequence[int], classes: int) -> Examples:
    """Examples of some classes as a row for each class, empty where there are none."""
    places = torch.tensor(labels) - 1
    wide = [part.new_zeros(classes, *part.shape[1:]).index_copy(0, places, part) for part in examples]
    return Examples(*wide)


def digest(path: Path) -> str:
    """Of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def same_masks(one: Sample, other: Sample, masks: str) -> bool:
    """Whether two samples of one picture have the same labels."""
    if masks == "semantic" and one.semantic is not None and other.semantic is not None:
        return torch.equal(one.semantic, other.semantic)
    labels = {int(label) for sample in (one, other) if sample.instances is not None for label in sample.instances.labels}
    return all(torch.equal(class_mask(one, label, masks), class_mask(other, label, masks)) for label in labels)


def overlap(mask: torch.Tensor, truth: torch.Tensor) -> float:
    """IoU of a mask (H, W) bool and a truth of 0, 1, 255."""
    known = truth != 255
    counts = [int((mask & (truth == 1)).sum()), int((mask & known).sum()), int((truth == 1).sum())]
    return float(np.nan_to_num(iou(np.array(counts))))
