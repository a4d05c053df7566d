"""Run lengths equal pycocotools', whatever the mask; what comes from a file is checked before C code sees it."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as oracle

from frugalseg import rle


def blobs(seed: int, count: int = 12) -> list[np.ndarray]:
    """Masks of many kinds: noise, full, empty, single pixels, stripes across the borders."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 40, (count, 2))
    found = [random.random(size) < random.random() for size in sizes]
    return [*found, np.ones((3, 5), bool), np.zeros((3, 5), bool), np.eye(4, dtype=bool), np.ones((1, 1), bool)]


@pytest.mark.parametrize("seed", range(5))
def test_codes_equal_those_of_pycocotools(seed: int) -> None:
    for mask in blobs(seed):
        expected = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle.encode(mask) == expected
        assert np.array_equal(rle.decode([expected], mask.shape)[0], mask)
        assert rle.checked({"size": list(mask.shape), "counts": expected["counts"].decode()}, mask.shape) == expected
        assert rle.from_counts(rle.parse(expected["counts"]), mask.shape) == expected
        assert rle.areas([expected]).tolist() == [mask.sum()]


def test_hand_case() -> None:
    assert rle.parse(rle.encode(np.array([[0, 1], [1, 1]], bool))["counts"]).tolist() == [1, 3]


@pytest.mark.parametrize("seed", range(5))
def test_a_crop_is_encoded_as_if_the_picture_had_been(seed: int) -> None:
    random = np.random.default_rng(seed)
    for mask in blobs(seed):
        top, left, *more = random.integers(0, 4, 4) * random.integers(0, 2, 4)
        whole = np.pad(mask, [(top, more[0]), (left, more[1])])
        assert rle.encode(mask, top, left, whole.shape) == rle.encode(whole)


def test_object_maps_give_each_object_its_mask() -> None:
    ids = np.random.default_rng(0).integers(0, 7, (9, 11)).astype(np.uint16) * 9
    numbers, codes = rle.from_ids(ids)
    assert numbers == [9, 18, 27, 36, 45, 54]
    for number, mask in zip(numbers, rle.decode(codes, ids.shape), strict=True):
        assert np.array_equal(mask, ids == number)
    assert rle.boxes(codes)[0].tolist() == [min(np.nonzero(ids == 9)[1]), min(np.nonzero(ids == 9)[0]),
                                            max(np.nonzero(ids == 9)[1]) + 1, max(np.nonzero(ids == 9)[0]) + 1]  # fmt: skip


def test_overlaps_are_ratios_of_pixels() -> None:
    random = np.random.default_rng(0)
    these, those = random.random((4, 6, 7)) < 0.5, random.random((3, 6, 7)) < 0.5
    found = rle.overlaps([rle.encode(mask) for mask in these], [rle.encode(mask) for mask in those], [False, True, False])
    for i, a in enumerate(these):
        for j, b in enumerate(those):
            assert found[i, j] == (a & b).sum() / (a.sum() if j == 1 else (a | b).sum())
    assert rle.overlaps([], [rle.encode(those[0])]).shape == (0, 1)


def test_a_zero_run_in_the_middle_is_read_as_the_mask_it_means() -> None:
    expected = rle.encode(np.array([[0, 1, 1, 0]], bool))
    assert rle.checked({"size": [1, 4], "counts": [1, 1, 0, 1, 1]}, (1, 4)) == expected
    assert rle.checked({"size": [1, 4], "counts": [1, 2, 1, 0]}, (1, 4)) == expected


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ({"size": [2, 2], "counts": [4]}, "for an image of"),
        ({"size": [3, 4]}, "no run lengths"),
        ([1, 2], "no run lengths"),
        ({"size": [3, 4], "counts": [5]}, "cover 5 pixels"),
        ({"size": [3, 4], "counts": [-1, 13]}, "natural"),
        ({"size": [3, 4], "counts": [10**30]}, "natural"),
        ({"size": [3, 4], "counts": [1.5, 10.5]}, "natural"),
        ({"size": [3, 4], "counts": [True, 11]}, "natural"),
        ({"size": [3, 4], "counts": []}, "natural"),
        ({"size": [3, 4], "counts": [0] * 1000}, "fits the image"),
        ({"size": [3, 4], "counts": ""}, "no run-length code"),
        ({"size": [3, 4], "counts": "ä"}, "ascii"),
        ({"size": [3, 4], "counts": "o"}, "no run-length code"),
        ({"size": [3, 4], "counts": "ooooooooooo1"}, "too large"),
        ({"size": [3, 4], "counts": "oooooo1"}, "natural|cover"),
        ({"size": None, "counts": "1"}, "for an image of None"),
        ({"size": 3, "counts": "1"}, "for an image of 3"),
    ],
)
def test_what_is_no_code_is_refused_with_its_reason(code: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rle.checked(code, (3, 4))


def test_random_texts_are_refused_or_fill_the_picture() -> None:
    random = np.random.default_rng(0)
    for _ in range(3000):
        text = bytes(random.integers(40, 120, random.integers(1, 12)).astype(np.uint8))
        try:
            code = rle.checked({"size": [5, 8], "counts": text}, (5, 8))
        except ValueError:
            continue
        assert rle.decode([code], (5, 8)).shape == (1, 5, 8)
