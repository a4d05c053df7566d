"""Few-shot episodes: which classes are new, which images show them, and lists of episodes that anybody can draw again.

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
from typing import Literal

import torch
from torch import Tensor

from frugalseg import rle
from frugalseg.data import file_info, images
from frugalseg.data.dataset import Data
from frugalseg.data.problems import DataError
from frugalseg.types import IGNORE, Sample

Folding = Literal["blocks", "interleaved"]
NovelPolicy = Literal["drop", "background", "ignore"]
Pixels = Sequence[Mapping[int, int]]  # for each image the number of pixels of each class that it shows


def folds(classes: int, count: int = 4, rule: Folding = "blocks") -> list[list[int]]:
    """The ids 1..classes in `count` parts; where they do not divide evenly, the first blocks are longer by one.

    Raises ValueError for more folds than classes.
    """
    if not 1 <= count <= classes:
        raise ValueError(f"folds: got {count}, expected from 1 to the {classes} classes there are")
    ids = list(range(1, classes + 1))
    if rule == "interleaved":
        return [ids[fold::count] for fold in range(count)]
    ends = [sum(len(ids[fold::count]) for fold in range(last)) for last in range(count + 1)]
    return [ids[start:end] for start, end in pairwise(ends)]


# -- masks of one class ----------------------------------------------------------------------------------------------


def class_pixels(data: Data, masks: str = "semantic") -> list[dict[int, int]]:
    """For each image the number of pixels of each class in its mask; nothing for an image without one.

    masks: "semantic" reads each mask once and remembers it until the file changes; "instances" takes the union of a class's
    objects.
    """
    if masks == "instances":
        return [_object_pixels(data, index) for index in range(len(data))]
    paths = [record.semantic for record in data.records if record.semantic is not None]
    counted = file_info.of(data.root, "areas", sorted(set(paths)), _count)
    return [
        {} if record.semantic is None else {int(key): count for key, count in counted[record.semantic].items() if key.isdigit()}
        for record in data.records
    ]


def _count(path: Path) -> file_info.Facts:
    try:
        values, counts = images.load_mask(path).unique(return_counts=True)  # type: ignore[no-untyped-call]
    except images.BadImage as error:
        return {"code": error.code, "reason": error.reason}
    classes = (values != 0) & (values != IGNORE)
    return {str(value): count for value, count in zip(values[classes].tolist(), counts[classes].tolist(), strict=True)}


def _object_pixels(data: Data, index: int) -> dict[int, int]:
    outlines = data.records[index].outlines
    if outlines is not None:  # run lengths are united as they are, and the image file stays closed
        codes: dict[int, list[rle.RLE]] = {}
        for outline in (outline for outline in outlines if not outline.crowd):  # as in a Sample
            codes.setdefault(outline.label, []).append(outline.rle)
        return {label: int(rle.areas([rle.union(parts)])[0]) for label, parts in codes.items()}
    sample = data[index]
    labels = set() if sample.instances is None else set(sample.instances.labels.tolist())
    return {label: int((class_mask(sample, label, "instances") == 1).sum()) for label in labels}


def images_by_class(pixels: Pixels, least: int = 1) -> dict[int, list[int]]:
    """For each class the indices of the images that show at least this many pixels of it."""
    indices: dict[int, list[int]] = {}
    for index, counts in enumerate(pixels):
        for label, count in counts.items():
            if count >= least:
                indices.setdefault(label, []).append(index)
    return dict(sorted(indices.items()))


def class_mask(sample: Sample, label: int, masks: str = "semantic") -> Tensor:
    """(H, W) int64: 1 where the class is, 255 where that is unknown, else 0. ValueError for an image without such masks."""
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
    """One task: the class, the query image, its references, and an image without the class; indices of images.

    absent is None where every image of the pool shows the class.
    """

    label: int
    query: int
    references: tuple[int, ...]
    absent: int | None = None

    @property
    def support(self) -> tuple[int, tuple[int, ...]]:
        """The class and its references."""
        return self.label, self.references


@dataclass(frozen=True)
class EpisodeList:
    """Episodes that are a function of the images' names and masks, the classes, `shots`, `count` and `seed` alone.

    left_out: classes with fewer images than an episode needs, and how many they have.
    """

    episodes: tuple[Episode, ...]
    shots: int
    seed: int
    digest: str
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.episodes)


def draw(data: Data, pixels: Pixels, labels: Sequence[int], shots: int, count: int, seed: int = 0, least: int = 1) -> EpisodeList:
    """`count` episodes: a class drawn evenly, then a query and `shots` other images of it, without replacement.

    pixels: of `class_pixels`. labels: the new classes. A class with fewer than shots + 1 images is left out. The list, and so
    its digest, does not depend on the order in which the images are read. Raises DataError when no class is left.
    """
    pool = {label: sorted(shown, key=data.names.__getitem__) for label, shown in images_by_class(pixels, least).items()}
    usable = [label for label in labels if len(pool.get(label, ())) > shots]
    left_out = {data.classes[label - 1]: len(pool.get(label, ())) for label in labels if label not in usable}
    if not usable:
        have = ", ".join(f"{name} {number}" for name, number in left_out.items()) or "none was asked for"
        raise DataError(
            f"{data.root}: no class has the {shots + 1} images of a {shots}-shot episode ({have}); ask for fewer shots"
        )
    shown = {index for label in usable for index in pool[label]}
    without = {label: _absent(data, pixels, label, shown) or _absent(data, pixels, label, range(len(data))) for label in usable}
    source, episodes = random.Random(f"{seed} {shots}"), []
    for _ in range(count):
        label = source.choice(usable)
        query, *references = source.sample(pool[label], shots + 1)
        episodes.append(Episode(label, query, tuple(references), source.choice(without[label]) if without[label] else None))
    return EpisodeList(tuple(episodes), shots, seed, _digest(data, episodes), left_out)


def _absent(data: Data, pixels: Pixels, label: int, among: Iterable[int]) -> list[int]:
    """Images that do not show the class; best among those that are encoded anyway."""
    return sorted((index for index in among if label not in pixels[index]), key=data.names.__getitem__)


def _digest(data: Data, episodes: Sequence[Episode]) -> str:
    """8 hexadecimal digits: equal for equal episodes, whatever the order of the images in memory."""
    text = hashlib.blake2b(digest_size=4)
    for episode in episodes:
        indices = (episode.query, *episode.references)
        text.update(repr((data.classes[episode.label - 1], [data.names[index] for index in indices])).encode())
    return text.hexdigest()


def by_query(episodes: Iterable[Episode]) -> dict[int, list[tuple[int, bool]]]:
    """For each query image, and each image without a class, the (number of the episode, whether it shows the class).

    So an image is encoded once for all episodes it is in.
    """
    questions: dict[int, list[tuple[int, bool]]] = {}
    for number, episode in enumerate(episodes):
        questions.setdefault(episode.query, []).append((number, True))
        if episode.absent is not None:
            questions.setdefault(episode.absent, []).append((number, False))
    return dict(sorted(questions.items()))


# -- what may be learned from ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BaseSplit:
    """What training may see of a data set whose classes are divided into base and novel ones.

    data: the images. labels: base classes with enough images, ids of the whole data set. novel: classes that are held back,
    whose pixels the masks of training must not tell. images: for each base class the indices in `data` of the images that show
    it. dropped: number of images left out because they show a novel class. left_out: base classes with too few images, and how
    many.
    """

    data: Data
    labels: tuple[int, ...]
    novel: tuple[int, ...]
    images: Mapping[int, tuple[int, ...]]
    dropped: int
    left_out: Mapping[str, int]


def base_split(
    data: Data, novel: Sequence[int], shots: int, least: int = 1, masks: str = "semantic", policy: NovelPolicy = "drop"
) -> BaseSplit:
    """The images with masks that training may use; policy "drop" leaves those out that show a novel class at all.

    Raises DataError when no class is left.
    """
    pixels = class_pixels(data, masks)
    kept = [i for i, counts in enumerate(pixels) if counts and not (policy == "drop" and counts.keys() & set(novel))]
    shown = images_by_class([pixels[index] for index in kept], least)
    wanted = [label for label in range(1, len(data.classes) + 1) if label not in novel]
    labels = tuple(label for label in wanted if len(shown.get(label, ())) > shots)
    left_out = {data.classes[label - 1]: len(shown.get(label, ())) for label in wanted if label not in labels}
    if not labels:
        raise DataError(_too_little(data, pixels, shots, least))
    dropped = sum(1 for counts in pixels if counts) - len(kept)
    indices = {label: tuple(shown[label]) for label in labels}
    return BaseSplit(data.select(kept), labels, tuple(novel), indices, dropped, left_out)


def _too_little(data: Data, pixels: Pixels, shots: int, least: int) -> str:
    numbers = Counter(label for counts in pixels for label in counts)
    have = ", ".join(f"{data.classes[label - 1]} {number}" for label, number in sorted(numbers.items()))
    return (
        f"{data.root}, list {data.split!r}: no class to learn from has {shots + 1} images with masks of {least} pixels "
        f"(images by class: {have or 'none'}); lower shots or least, or give more masks"
    )
