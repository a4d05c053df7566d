"""Few-shot episodes: which classes are new, which pictures show them, and lists of tasks that anybody can draw again.

The folds of PASCAL-5i and COCO-20i are rules on the order of the classes, so any data set can be folded: blocks of neighbouring
classes (PASCAL-5i: 4 of 5, Shaban et al., BMVC 2017; COCO-20i split A: 4 of 20, Wang et al., ICCV 2019), or every 4th class
(COCO-20i split B, Nguyen and Todorovic, ICCV 2019).
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from frugalseg import rle
from frugalseg.data import file_info, images
from frugalseg.data.dataset import Data
from frugalseg.data.problems import DataError
from frugalseg.types import IGNORE, Sample

Folding = Literal["blocks", "interleaved"]
Novel = Literal["drop", "background", "ignore"]


def folds(classes: int, count: int = 4, rule: Folding = "blocks") -> list[list[int]]:
    """The ids 1..classes in `count` parts; where they do not divide evenly, the first blocks are longer by one.

    ValueError for more folds than classes.
    """
    if not 1 <= count <= classes:
        raise ValueError(f"folds: got {count}, expected from 1 to the {classes} classes there are")
    ids = list(range(1, classes + 1))
    if rule == "interleaved":
        return [ids[fold::count] for fold in range(count)]
    ends = [sum(len(ids[fold::count]) for fold in range(last)) for last in range(count + 1)]
    return [ids[start:end] for start, end in pairwise(ends)]


def class_pixels(data: Data, masks: str = "semantic") -> list[dict[int, int]]:
    """For each picture the number of pixels of each class in its mask; nothing for a picture without one.

    masks: "semantic", read once and remembered until the file changes, or "instances", the union of a class's objects.
    """
    if masks == "instances":
        return [_object_pixels(data, index) for index in range(len(data))]
    paths = [record.semantic for record in data.records if record.semantic is not None]
    known = file_info.of(data.root, "areas", sorted(set(paths)), _count)
    return [
        {} if record.semantic is None else {int(key): count for key, count in known[record.semantic].items() if key.isdigit()}
        for record in data.records
    ]


def _count(path: Path) -> file_info.Facts:
    try:
        values, counts = images.load_mask(path).unique(return_counts=True)
    except images.BadImage as error:
        return {"code": error.code, "reason": error.reason}
    known = (values != 0) & (values != IGNORE)
    return {str(value): count for value, count in zip(values[known].tolist(), counts[known].tolist(), strict=True)}


def _object_pixels(data: Data, index: int) -> dict[int, int]:
    outlines = data.records[index].outlines
    if outlines is not None:  # run lengths are united as they are, and the picture stays closed
        codes: dict[int, list[Any]] = {}
        for outline in (outline for outline in outlines if not outline.crowd):  # as in a Sample
            codes.setdefault(outline.label, []).append(outline.rle)
        return {label: int(rle.areas([rle.union(parts)])[0]) for label, parts in codes.items()}
    sample = data[index]
    labels = set() if sample.instances is None else set(sample.instances.labels.tolist())
    return {label: int((class_mask(sample, label, "instances") == 1).sum()) for label in labels}


def members(pixels: Sequence[Mapping[int, int]], least: int = 1) -> dict[int, list[int]]:
    """For each class the indices of the pictures that show at least this many pixels of it."""
    found: dict[int, list[int]] = {}
    for index, counts in enumerate(pixels):
        for label, count in counts.items():
            if count >= least:
                found.setdefault(label, []).append(index)
    return dict(sorted(found.items()))


def class_mask(sample: Sample, label: int, masks: str = "semantic") -> Tensor:
    """(H, W) int64: 1 where the class is, 255 where nobody knows, else 0. ValueError for a picture without such masks."""
    if masks == "instances":
        if sample.instances is None or sample.instances.masks is None:
            raise ValueError(f"{sample.name}: has no object masks; expected data whose objects have masks")
        return sample.instances.masks.as_subclass(Tensor)[sample.instances.labels == label].any(0).long()
    if sample.semantic is None:
        raise ValueError(f"{sample.name}: has no class mask; expected data with masks")
    semantic = sample.semantic.as_subclass(Tensor)
    return torch.where(semantic == IGNORE, IGNORE, (semantic == label).long())


# -- lists of episodes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Episode:
    """One task: the class, the query picture, its references, and a picture without the class; indices of pictures.

    absent is None where every picture of the pool shows the class.
    """

    label: int
    query: int
    references: tuple[int, ...]
    absent: int | None = None


@dataclass(frozen=True)
class EpisodeList:
    """Episodes that are a function of the pictures' names and masks, the classes, `shots`, `count` and `seed` alone.

    left_out: classes with fewer pictures than an episode needs, and how many they have.
    """

    episodes: tuple[Episode, ...]
    shots: int
    seed: int
    digest: str
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.episodes)


def draw(
    data: Data, pixels: Sequence[Mapping[int, int]], labels: Sequence[int], shots: int, count: int, seed: int = 0, least: int = 1
) -> EpisodeList:
    """`count` episodes: a class drawn evenly, then a query and `shots` other pictures of it, without replacement.

    pixels: of `class_pixels`. labels: the new classes. A class with fewer than shots + 1 pictures is left out. The list, and so
    its digest, does not depend on the order in which the pictures are read. Raises DataError when no class is left.
    """
    pool = {label: sorted(found, key=data.names.__getitem__) for label, found in members(pixels, least).items()}
    usable = [label for label in labels if len(pool.get(label, ())) > shots]
    left_out = {data.classes[label - 1]: len(pool.get(label, ())) for label in labels if label not in usable}
    if not usable:
        have = ", ".join(f"{name} {number}" for name, number in left_out.items()) or "none was asked for"
        raise DataError(
            f"{data.root}: no class has the {shots + 1} pictures of a {shots}-shot episode ({have}); ask for fewer shots"
        )
    shown = {index for label in usable for index in pool[label]}
    without = {label: _absent(data, pixels, label, shown) or _absent(data, pixels, label, range(len(data))) for label in usable}
    source, episodes = random.Random(f"{seed} {shots}"), []
    for _ in range(count):
        label = source.choice(usable)
        query, *references = source.sample(pool[label], shots + 1)
        episodes.append(Episode(label, query, tuple(references), source.choice(without[label]) if without[label] else None))
    return EpisodeList(tuple(episodes), shots, seed, _digest(data, episodes), left_out)


def _absent(data: Data, pixels: Sequence[Mapping[int, int]], label: int, among: Iterable[int]) -> list[int]:
    """Pictures that do not show the class; best among those that are looked at anyway."""
    return sorted((index for index in among if label not in pixels[index]), key=data.names.__getitem__)


def _digest(data: Data, episodes: Sequence[Episode]) -> str:
    """8 hexadecimal digits: equal for equal tasks, whatever the order of the pictures in memory."""
    text = hashlib.blake2b(digest_size=4)
    for episode in episodes:
        pictures = (episode.query, *episode.references)
        text.update(repr((data.classes[episode.label - 1], [data.names[index] for index in pictures])).encode())
    return text.hexdigest()


# -- what may be learned from ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """What training may see of a data set whose classes are divided into base and new ones.

    data: the pictures. labels: base classes with enough pictures, ids of the whole data set. hidden: new classes, whose pixels
    the masks of training must not tell. pictures: for each base class the indices in `data` of the pictures that show it.
    dropped: pictures left out because they show a new class. left_out: base classes with too few pictures, and how many.
    """

    data: Data
    labels: tuple[int, ...]
    hidden: tuple[int, ...]
    pictures: Mapping[int, tuple[int, ...]]
    dropped: int
    left_out: Mapping[str, int]


def base(data: Data, hidden: Sequence[int], shots: int, least: int = 1, masks: str = "semantic", policy: Novel = "drop") -> Base:
    """The pictures with masks that training may use; policy "drop" leaves those out that show a hidden class at all.

    Raises DataError when no class is left.
    """
    pixels = class_pixels(data, masks)
    kept = [i for i, counts in enumerate(pixels) if counts and not (policy == "drop" and counts.keys() & set(hidden))]
    found = members([pixels[index] for index in kept], least)
    wanted = [label for label in range(1, len(data.classes) + 1) if label not in hidden]
    labels = tuple(label for label in wanted if len(found.get(label, ())) > shots)
    left_out = {data.classes[label - 1]: len(found.get(label, ())) for label in wanted if label not in labels}
    if not labels:
        numbers = Counter(label for counts in pixels for label in counts)
        have = ", ".join(f"{data.classes[label - 1]} {number}" for label, number in sorted(numbers.items()))
        raise DataError(
            f"{data.root}, list {data.split!r}: no class to learn from has {shots + 1} pictures with masks of {least} pixels "
            f"(pictures by class: {have or 'none'}); lower shots or least, or give more masks"
        )
    pictures = {label: tuple(found[label]) for label in labels}
    dropped = sum(1 for counts in pixels if counts) - len(kept)
    return Base(data.select(kept), labels, tuple(hidden), pictures, dropped, left_out)
