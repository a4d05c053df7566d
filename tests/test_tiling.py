"""Tiles cover a picture; objects cut by them come out whole, as if the picture had been predicted at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from frugalseg import rle, tiling
from frugalseg.config import UsageError
from frugalseg.types import CompactInstances, Prediction, Sample


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
    found = CompactInstances(
        torch.from_numpy(rle.boxes(codes)), torch.tensor(labels, dtype=torch.int64), torch.tensor(scores), codes
    )
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
    whole, tiled = components(sample), tiling.predict(components, sample, side, overlap)
    assert tiled.size == whole.size
    assert sorted(code["counts"] for code in tiled.instances.rles) == sorted(code["counts"] for code in whole.instances.rles)
    boxes = {code["counts"]: box for code, box in zip(whole.instances.rles, whole.instances.boxes.tolist(), strict=True)}
    labels = {code["counts"]: label for code, label in zip(whole.instances.rles, whole.instances.labels.tolist(), strict=True)}
    for index, code in enumerate(tiled.instances.rles):
        assert tiled.instances.boxes[index].tolist() == boxes[code["counts"]]
        assert tiled.instances.labels[index] == labels[code["counts"]]
    assert tiled.instances.scores.tolist() == sorted(tiled.instances.scores.tolist(), reverse=True)


def test_objects_of_different_classes_stay_apart_and_an_empty_picture_stays_empty() -> None:
    empty = tiling.predict(components, Sample("a", torch.zeros(3, 50, 50, dtype=torch.uint8)), 20, 5)
    assert len(empty.instances) == 0

    def undecided(sample: Sample) -> Prediction:
        prediction = components(sample)
        prediction.instances.labels += undecided.calls % 2
        undecided.calls += 1
        return prediction

    undecided.calls = 0
    image = torch.zeros(3, 20, 35, dtype=torch.uint8)
    image[:, 5:15, 5:30] = 100
    assert sorted(tiling.predict(undecided, Sample("a", image), 20, 5).instances.labels.tolist()) == [1, 2]


def test_a_model_of_class_masks_is_refused() -> None:
    def semantic(sample: Sample) -> Prediction:
        return Prediction(sample.name, (20, 20), ("a",), None, torch.zeros(20, 20, dtype=torch.uint8))

    with pytest.raises(UsageError, match="makes no objects"):
        tiling.predict(semantic, Sample("a", torch.zeros(3, 40, 40, dtype=torch.uint8)), 20, 5)
