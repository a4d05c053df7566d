"""Folds, episode lists, and what training may see of classes that are held back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from PIL import Image

from frugalseg import rle
from frugalseg.data import Data, DataError, Record, episodes
from frugalseg.data.dataset import Outline
from frugalseg.data.formats import voc
from frugalseg.types import IGNORE


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Twelve images of three classes: each class alone in three, all three classes in three."""
    ones = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)) * 3
    folder = tmp_path_factory.mktemp("episodes")
    parts = [toys.write(folder / str(part), ones[6 * part : 6 * part + 6]) for part in range(2)]
    records = [
        Record(
            f"{part}/{record.name}",
            record.image,
            record.tags,
            record.semantic,
            record.objects,
            record.object_classes,
            record.boxes,
        )
        for part, data in enumerate(parts)
        for record in data.records
    ]
    return Data(folder, "masks", "train", toys.CLASSES, records)


def test_pascal_5i_folds_are_the_published_ones() -> None:
    names = [[voc.CLASSES[label - 1] for label in fold] for fold in episodes.folds(20)]
    assert names[0] == ["aeroplane", "bicycle", "bird", "boat", "bottle"]
    assert names[3] == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]


def test_coco_20i_folds_are_the_published_ones() -> None:
    assert episodes.folds(80)[2] == list(range(41, 61))  # split A
    split_b = episodes.folds(80, rule="interleaved")
    assert split_b[0][:3] == [1, 5, 9]
    assert split_b[3][-2:] == [76, 80]


@pytest.mark.parametrize("rule", ["blocks", "interleaved"])
@pytest.mark.parametrize(("classes", "count"), [(20, 4), (12, 4), (7, 3), (5, 5), (3, 1)])
def test_folds_part_the_classes_evenly(classes: int, count: int, rule: episodes.Folding) -> None:
    parts = episodes.folds(classes, count, rule)
    assert sorted(label for part in parts for label in part) == list(range(1, classes + 1))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match=f"from 1 to the {classes} classes"):
        episodes.folds(classes, classes + 1)


def test_pixels_of_classes_are_those_of_the_masks(images: Data) -> None:
    for index, counts in enumerate(episodes.class_pixels(images)):
        mask = images[index].semantic
        assert counts == {label: int((mask == label).sum()) for label in (1, 2, 3) if (mask == label).any()}


def test_class_and_object_masks_of_an_image_agree_where_nothing_overlaps(images: Data) -> None:
    assert episodes.class_pixels(images, "instances") == episodes.class_pixels(images, "semantic")
    sample = images[3]
    assert torch.equal(episodes.class_mask(sample, 2, "instances"), episodes.class_mask(sample, 2))
    sample.semantic[0, 0] = IGNORE
    assert episodes.class_mask(sample, 2)[0, 0] == IGNORE


def test_an_episode_asks_for_one_class_with_distinct_images(images: Data) -> None:
    pixels = episodes.class_pixels(images)
    drawn = episodes.draw(images, pixels, [1, 2, 3], shots=2, count=60)
    for task in drawn.episodes:
        shown = (task.query, *task.references)
        assert len(set(shown)) == 3
        assert all(task.label in pixels[index] for index in shown)
        assert task.absent is not None
        assert task.label not in pixels[task.absent]
    assert set(Counter(task.label for task in drawn.episodes)) == {1, 2, 3}


def test_a_list_depends_on_seed_and_images_and_not_on_their_order(images: Data) -> None:
    def drawn(data: Data, seed: int = 0, shots: int = 1) -> tuple[str, list[tuple[str, ...]]]:
        found = episodes.draw(data, episodes.class_pixels(data), [1, 3], shots, 20, seed)
        return found.digest, [tuple(data.names[index] for index in (task.query, *task.references)) for task in found.episodes]

    turned = images.select(reversed(range(len(images))))
    assert drawn(images) == drawn(turned)
    assert len({drawn(images, seed)[0] for seed in range(5)} | {drawn(images, 0, 2)[0]}) == 6


def test_classes_with_too_few_images_are_left_out_by_name(images: Data) -> None:
    some = images.select([0, 1, 4, 5])  # apple, berry, apple, berry again … and no cherry but one
    some = some.select([0, 1, 3])
    found = episodes.draw(images.select([0, 4, 8, 1]), episodes.class_pixels(images.select([0, 4, 8, 1])), [1, 2, 3], 1, 5)
    assert found.left_out == {"berry": 1, "cherry": 0}
    assert {task.label for task in found.episodes} == {1}
    with pytest.raises(DataError, match="no class has the 6 images of a 5-shot episode"):
        episodes.draw(some, episodes.class_pixels(some), [1, 2, 3], 5, 5)


def test_small_objects_neither_teach_nor_are_asked_for(tmp_path: Path) -> None:
    data = toys.write(tmp_path)
    for index, record in enumerate(data.records[:2]):
        mask = np.zeros(toys.SIZES[index], np.uint8)
        mask[0, :3] = 1
        Image.fromarray(mask).save(record.semantic)
    pixels = episodes.class_pixels(data)
    assert 0 in episodes.images_by_class(pixels, 3)[1]
    assert 0 not in episodes.images_by_class(pixels, 4)[1]


def test_dropped_images_show_no_class_that_is_held_back(images: Data) -> None:
    found = episodes.base_split(images, novel=[2], shots=1, policy="drop")
    assert found.labels == (1, 3)
    assert set(found.labels).isdisjoint(found.novel)
    assert all(2 not in counts for counts in episodes.class_pixels(found.data))
    assert (len(found.data), found.dropped) == (6, 6)
    for label, indices in found.images.items():
        assert all(label in episodes.class_pixels(found.data)[index] for index in indices)


@pytest.mark.parametrize("policy", ["background", "ignore"])
def test_other_policies_keep_the_images(images: Data, policy: episodes.NovelPolicy) -> None:
    found = episodes.base_split(images, novel=[2], shots=1, policy=policy)
    assert (found.labels, found.dropped) == ((1, 3), 0)
    assert len(found.data) == 12
    assert sorted(found.images[1]) == [0, 3, 4, 7, 8, 11]


def test_too_little_to_learn_from_is_an_error_with_numbers(images: Data) -> None:
    with pytest.raises(DataError, match=r"no class to learn from has 7 images .*apple 6, berry 6, cherry 6"):
        episodes.base_split(images, novel=[], shots=6)


def test_pixels_of_outlines_are_those_of_their_union(tmp_path: Path) -> None:
    """Two overlapping objects of a class count once, and a crowd does not count."""
    tall, wide, crowd = (np.zeros((20, 30), np.uint8) for _ in range(3))
    tall[2:12, 3:6], wide[8:12, 3:20], crowd[15:, :] = 1, 1, 1
    outlines = tuple(
        Outline(0.0, 0.0, 30.0, 20.0, label, (20, 30), rle.encode(mask.astype(bool))["counts"], float(mask.sum()), many)
        for mask, label, many in ((tall, 2, False), (wide, 2, False), (wide, 3, False), (crowd, 1, True))
    )
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    data = Data(tmp_path, "coco", None, toys.CLASSES, [Record("a", tmp_path / "a.png", outlines=outlines)])
    (counts,) = episodes.class_pixels(data, "instances")
    assert counts == {2: int((tall | wide).sum()), 3: int(wide.sum())}
    assert counts == {label: int((episodes.class_mask(data[0], label, "instances") == 1).sum()) for label in (2, 3)}
