"""The three data types: what they refuse, how objects are chosen, and that transforms move all parts of a sample together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree
from torchvision.transforms import v2

from frugalseg import rle
from frugalseg.types import Instances, Sample


def three(masks: bool = True) -> Instances:
    """Three objects in an image of 6 x 8, the second a crowd."""
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [2.0, 1.0, 6.0, 4.0], [5.0, 4.0, 8.0, 6.0]])
    dense = torch.zeros(3, 6, 8, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(dense, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    crowd = torch.tensor([False, True, False])
    return Instances(boxes, torch.tensor([1, 2, 1]), torch.tensor([0.9, 0.5, 0.7]), dense if masks else None, crowd=crowd)


def test_masks_are_run_lengths_and_dense_on_demand() -> None:
    found = three()
    assert found.size == (6, 8)
    assert [len(found.rles), found.masks.shape, found.masks.dtype] == [3, (3, 6, 8), torch.bool]
    assert found.masks.flatten(1).sum(1).tolist() == rle.areas(found.rles).tolist() == [4, 12, 6]
    assert np.array_equal(found.mask(1), found.masks[1].numpy())
    again = Instances(found.boxes, found.labels, found.scores, found.rles)
    assert again.rles == found.rles


def test_boxes_alone_have_no_masks() -> None:
    found = three(masks=False)
    assert (found.masked, found.masks, found.size, found.rles) == (False, None, None, [])
    with pytest.raises(ValueError, match="boxes alone"):
        found.mask(0)


@pytest.mark.parametrize(
    ("index", "labels"),
    [
        (slice(1, None), [2, 1]),
        ([2, 0], [1, 1]),
        ([], []),
        (torch.tensor([True, False, True]), [1, 1]),
        (np.array([False, True, False]), [2]),
        (torch.tensor([1]), [2]),
    ],
)
@pytest.mark.parametrize("masks", [True, False])
def test_every_part_is_indexed(index: object, labels: list[int], masks: bool) -> None:
    found, chosen = three(masks), three(masks)[index]
    assert chosen.labels.tolist() == labels
    assert len(chosen) == len(chosen.boxes) == len(chosen.scores) == len(chosen.crowd) == len(labels)
    places = [found.scores.tolist().index(score) for score in chosen.scores.tolist()]
    assert torch.equal(chosen.boxes, found.boxes[places])
    assert chosen.rles == ([found.rles[place] for place in places] if masks else [])
    assert chosen.size == found.size, "also of no object"


def test_crowd_and_difficult_objects_are_ignored() -> None:
    assert three().ignored.tolist() == [False, True, False]
    found = three()
    found.difficult = torch.tensor([True, False, False])
    assert found.ignored.tolist() == [True, True, False]
    assert Instances.none().ignored.tolist() == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("boxes", torch.zeros(2, 3), r"boxes: got Tensor\(2, 3\) .*expected \(N, 4\)"),
        ("boxes", torch.zeros(2, 4, dtype=torch.float64), "boxes: got torch.float64, expected float32"),
        ("boxes", torch.full((2, 4), torch.nan), "boxes: contains NaN"),
        ("labels", torch.tensor([1]), r"labels: got .*expected \(2,\)"),
        ("labels", torch.tensor([1.0, 2.0]), "labels: got torch.float32, expected int64"),
        ("labels", torch.tensor([0, 1]), "below 1; 0 is background"),
        ("scores", torch.zeros(3), r"scores: got .*expected \(2,\)"),
        ("crowd", torch.zeros(1), r"crowd: got .*expected \(2,\)"),
        ("masks", torch.zeros(1, 4, 4, dtype=torch.bool), r"masks: got .*expected \(2, H, W\)"),
        ("masks", torch.zeros(2, 4, 4), "masks: got torch.float32, expected bool"),
        ("masks", [rle.encode(np.ones((4, 4), bool))], "masks: got 1 run lengths, expected 2"),
        ("masks", [rle.encode(np.ones((4, 4), bool)), rle.encode(np.ones((4, 5), bool))], "expected one"),
    ],
)
def test_a_faulty_field_is_named(field: str, value: object, message: str) -> None:
    fields = {"boxes": torch.zeros(2, 4), "labels": torch.tensor([1, 2])} | {field: value}
    with pytest.raises(ValueError, match=message):
        Instances(**fields)


def test_all_faults_are_told_together() -> None:
    with pytest.raises(ValueError, match=r"(?s)boxes: got torch.float64.*labels: contains values below 1"):
        Instances(torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0]))


def test_masks_of_another_size_than_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"instances.masks: got size \(6, 8\), expected the image's size \(5, 8\)"):
        Sample("a", torch.zeros(3, 5, 8, dtype=torch.uint8), instances=three())


@pytest.mark.parametrize("masks", [True, False])
def test_a_transform_moves_image_masks_and_boxes_together(masks: bool) -> None:
    image, semantic = torch.zeros(3, 6, 8, dtype=torch.uint8), torch.zeros(6, 8, dtype=torch.int64)
    image[:, 1:4, 2:6], semantic[1:4, 2:6] = 255, 2
    sample = Sample("a", image, semantic=semantic, instances=three(masks))
    flipped = v2.RandomHorizontalFlip(1.0)(sample)
    assert isinstance(flipped, Sample)
    assert flipped.instances.boxes[1].tolist() == [2.0, 1.0, 6.0, 4.0], "the middle one is its own mirror image"
    assert flipped.instances.boxes[0].tolist() == [6.0, 0.0, 8.0, 2.0]
    assert torch.equal(flipped.semantic, semantic.flip(-1))
    assert flipped.instances.labels.tolist() == [1, 2, 1]
    if masks:
        assert torch.equal(flipped.instances.masks, sample.instances.masks.flip(-1))
    else:
        assert flipped.instances.masks is None


def test_pytree_rebuilds_what_it_took_apart() -> None:
    sample = Sample("a", torch.zeros(3, 6, 8, dtype=torch.uint8), instances=three())
    again = pytree.tree_map(lambda value: value, sample)
    assert again.instances.rles == sample.instances.rles
    assert torch.equal(again.instances.boxes, sample.instances.boxes)
    names = pytree.tree_map(lambda _: "*", sample)
    assert names.instances.labels == "*", "placeholders pass the checks by"
