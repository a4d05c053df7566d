"""Tiles cover a picture; objects cut by them come out whole, as if the picture had been predicted at once."""

from __future__ import annotations

import time
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from frugalseg import rle
from frugalseg.config import UsageError
from frugalseg.inference import tiling
from frugalseg.types import Instances, Prediction, Sample


def components(sample: Sample) -> Prediction:
    """A network that finds the connected bright regions of each of two grey levels."""
    image = sample.image[0].numpy()
    masks, labels, scores = [], [], []
    for label, level in ((1, 100), (2, 200)):
        ids, count = ndimage.label(image == level)
        for number in range(1, count + 1):
            masks.append(ids == number)
            labels.append(label)
            scores.append(min(1.0, 0.2 + (ids == number).sum() / 1000))
    codes = [rle.encode(mask) for mask in masks]
    found = Instances(torch.from_numpy(rle.boxes(codes)), torch.tensor(labels, dtype=torch.int64), torch.tensor(scores), codes)
    return Prediction(sample.name, (image.shape[0], image.shape[1]), ("a", "b"), torch.tensor([0.1, 0.2]), instances=found)


@pytest.mark.parametrize(
    ("size", "side", "overlap"), [((10, 10), 20, 5), ((33, 70), 16, 4), ((100, 16), 16, 15), ((50, 51), 7, 0)]
)
def test_tiles_cover_the_picture_and_overlap(size: tuple[int, int], side: int, overlap: int) -> None:
    seen = np.zeros(size, int)
    found = tiling.tiles(size, side, overlap)
    for tile in found:
        assert 0 <= tile.top < tile.bottom <= size[0]
        assert 0 <= tile.left < tile.right <= size[1]
        assert (tile.bottom - tile.top, tile.right - tile.left) == (min(side, size[0]), min(side, size[1]))
        seen[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert seen.min() >= 1
    lefts = sorted({tile.left for tile in found})
    assert all(b - a <= side - overlap for a, b in pairwise(lefts))


def test_wrong_overlaps_are_refused() -> None:
    with pytest.raises(UsageError, match="got side 16 and overlap 16"):
        tiling.tiles((40, 40), 16, 16)


def scene(seed: int, size: tuple[int, int] = (90, 130)) -> torch.Tensor:
    """Rectangles with space between them, small and larger than a tile, of two kinds."""
    random = np.random.default_rng(seed)
    image = np.zeros(size, np.uint8)
    for _ in range(60):
        y, x, h, w = (*random.integers(0, size), *random.integers(2, 60, 2))
        if not image[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2].any():
            image[y : y + h, x : x + w] = random.choice([100, 200])
    return torch.from_numpy(image).expand(3, -1, -1).contiguous()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("side", "overlap"), [(40, 12), (64, 8), (200, 50)])
def test_tiled_equals_whole(seed: int, side: int, overlap: int) -> None:
    sample = Sample("a", scene(seed))
    whole, tiled = components(sample), tiling.predict(partial(map, components), sample, side, overlap)
    assert tiled.size == whole.size
    assert sorted(code["counts"] for code in tiled.instances.rles) == sorted(code["counts"] for code in whole.instances.rles)
    boxes = {code["counts"]: box for code, box in zip(whole.instances.rles, whole.instances.boxes.tolist(), strict=True)}
    labels = {code["counts"]: label for code, label in zip(whole.instances.rles, whole.instances.labels.tolist(), strict=True)}
    for index, code in enumerate(tiled.instances.rles):
        assert tiled.instances.boxes[index].tolist() == boxes[code["counts"]]
        assert tiled.instances.labels[index] == labels[code["counts"]]
    assert tiled.instances.scores.tolist() == sorted(tiled.instances.scores.tolist(), reverse=True)


def test_objects_of_different_classes_stay_apart_and_an_empty_picture_stays_empty() -> None:
    empty = tiling.predict(partial(map, components), Sample("a", torch.zeros(3, 50, 50, dtype=torch.uint8)), 20, 5)
    assert len(empty.instances) == 0

    def undecided(sample: Sample) -> Prediction:
        prediction = components(sample)
        prediction.instances.labels += undecided.calls % 2
        undecided.calls += 1
        return prediction

    undecided.calls = 0
    image = torch.zeros(3, 20, 35, dtype=torch.uint8)
    image[:, 5:15, 5:30] = 100
    assert sorted(tiling.predict(partial(map, undecided), Sample("a", image), 20, 5).instances.labels.tolist()) == [1, 2]


SIZE = (40, 60)
PAIR = [tiling.Tile(0, 0, 40, 35), tiling.Tile(0, 25, 40, 60)]


def rectangle(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def seen(masks: list[np.ndarray], scores: list[float], tile: tiling.Tile) -> Instances:
    """Objects of class 1, given by their masks in the picture, as one tile has them."""
    codes = [rle.encode(mask[tile.top : tile.bottom, tile.left : tile.right]) for mask in masks]
    boxes, labels = torch.from_numpy(rle.boxes(codes)), torch.ones(len(codes), dtype=torch.int64)
    return tiling.moved(Instances(boxes, labels, torch.tensor(scores), codes), tile, masks[0].shape)


def joined(*parts: tuple[list[np.ndarray], list[float]]) -> list[tuple[float, int]]:
    """Score and pixels of what becomes of the objects of PAIR."""
    whole = tiling.merged([seen(*part, tile) for part, tile in zip(parts, PAIR, strict=True)], PAIR, SIZE)
    return [(round(score, 3), area) for score, area in zip(whole.scores.tolist(), rle.areas(whole.rles).tolist(), strict=True)]


def test_an_improbable_mask_does_not_make_a_sure_object_larger() -> None:
    sure, junk, rest = rectangle(10, 15, 20, 35), rectangle(9, 25, 20, 60), rectangle(10, 25, 20, 42)
    assert joined(([sure], [0.95]), ([junk], [0.01])) == [(0.95, 200), (0.01, 385)]
    assert joined(([sure], [0.95]), ([junk, rest], [0.01, 0.6])) == [(0.95, 270), (0.01, 385)]
    assert joined(([sure], [0.02]), ([junk], [0.01])) == [(0.02, 100 + 385)], "two that are alike are one"


def test_an_object_has_one_partner_in_a_tile_the_surest() -> None:
    sure, exact, rough = rectangle(10, 15, 20, 35), rectangle(10, 25, 20, 40), rectangle(10, 25, 22, 44)
    assert joined(([sure], [0.9]), ([exact, rough], [0.5, 0.8])) == [(0.9, 100 + 12 * 19), (0.5, 150)]
    assert joined(([sure], [0.9]), ([rough, exact], [0.8, 0.8])) == [(0.9, 250), (0.8, 12 * 19)], "then what agrees best"
    assert joined(([rough, sure], [0.7, 0.6]), ([exact], [0.9])) == [(0.9, 12 * 10 + 50), (0.6, 200)]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_tiles_and_objects_does_not_matter(seed: int) -> None:
    random = np.random.default_rng(seed)
    cut = tiling.tiles((60, 60), 24, 8)
    corners = [(*random.integers(0, 56, 2), *random.integers(4, 20, 2)) for _ in range(40)]
    masks = [rectangle(top, left, top + height, left + width, (60, 60)) for top, left, height, width in corners]
    scores = random.random((len(cut), len(masks)))
    there = [[mask[tile.top : tile.bottom, tile.left : tile.right].any() for mask in masks] for tile in cut]

    def outcome(tiles: np.ndarray, order: np.ndarray) -> list[tuple[float, bytes]]:
        listed = [[number for number in order if there[place][number]] for place in tiles]
        parts = [
            seen([masks[number] for number in numbers], scores[place, numbers].tolist(), cut[place])
            for place, numbers in zip(tiles, listed, strict=True)
        ]
        whole = tiling.merged(parts, [cut[place] for place in tiles], (60, 60))
        return sorted(zip(whole.scores.tolist(), (code["counts"] for code in whole.rles), strict=True))

    expected = outcome(np.arange(len(cut)), np.arange(len(masks)))
    assert len(expected) < sum(map(sum, there))
    assert outcome(random.permutation(len(cut)), random.permutation(len(masks))) == expected


@pytest.mark.parametrize("seed", range(5))
def test_ragged_masks_are_moved_and_united_as_pixels_would_be(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(SIZE) < random.choice([0.5, 0.9, 1.0])
    some = [mask & (random.random(SIZE) < 0.9) for _ in PAIR]
    parts = [seen([one], [0.9], tile) for one, tile in zip(some, PAIR, strict=True)]
    expected = [np.zeros(SIZE, bool), np.zeros(SIZE, bool)]
    for one, tile, part, place in zip(some, PAIR, parts, expected, strict=True):
        place[:, tile.left : tile.right] = one[:, tile.left : tile.right]
        assert part.rles == [rle.encode(place)]
    assert tiling.merged(parts, PAIR, SIZE).rles == [rle.encode(expected[0] | expected[1])]


def test_joining_takes_the_time_of_the_objects_not_of_the_picture() -> None:
    size = (20_000, 20_000)
    cut = [tiling.Tile(0, 0, 1000, 1000), tiling.Tile(0, 900, 1000, 1900)]
    codes = [rle.encode(np.ones((50, 80), bool), top, left, size) for top in (100, 300) for left in (100, 910, 1500)]
    objects = Instances(torch.from_numpy(rle.boxes(codes)), torch.ones(6, dtype=torch.int64), torch.ones(6), codes)
    begin = time.process_time()
    assert len(tiling.merged([objects, objects], cut, size)) == 10
    assert time.process_time() - begin < 1


def test_tiles_have_the_tags_of_their_picture() -> None:
    def told(sample: Sample) -> Prediction:
        assert sample.tags.tolist() == [1, 0]
        return components(sample)

    sample = Sample("a", scene(0), torch.tensor([1.0, 0.0]))
    assert len(tiling.predict(partial(map, told), sample, 40, 12).instances) == len(components(sample).instances)


def test_a_model_of_class_masks_is_refused() -> None:
    def semantic(sample: Sample) -> Prediction:
        return Prediction(sample.name, (20, 20), ("a",), None, torch.zeros(20, 20, dtype=torch.uint8))

    with pytest.raises(UsageError, match="makes no objects"):
        tiling.predict(partial(map, semantic), Sample("a", torch.zeros(3, 40, 40, dtype=torch.uint8)), 20, 5)
