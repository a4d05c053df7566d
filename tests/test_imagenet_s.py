"""ImageNet-S, in a miniature of its true layout, and the overlap of regions with its objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frugalseg.data import DataError, read
from frugalseg.methods import r2o
from frugalseg.workflows.check import check

WNIDS = ("n01440764", "n15075141")
IDS = np.array([[0, 1, 1, 919, 919, 1000]] * 4)  # nothing, two classes, the ignored part


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, masked in (("train", False), ("train-semi", True), ("validation", True), ("test", False)):
        for number, wnid in enumerate(WNIDS):
            name = f"ILSVRC2012_{split}_{number:08}"
            for folder in (split, f"{split}-segmentation")[: 1 + masked]:
                (tmp_path / folder / wnid).mkdir(parents=True)
            noise = np.random.default_rng([number, len(split)]).integers(0, 255, (4, 6, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / split / wnid / f"{name}.JPEG")
            if masked:
                colours = np.stack([IDS % 256, IDS // 256, 0 * IDS], 2).astype(np.uint8)
                Image.fromarray(colours).save(tmp_path / f"{split}-segmentation" / wnid / f"{name}.png")
    return tmp_path


def test_the_region_of_each_class_is_an_object_and_the_ignored_part_none(root: Path) -> None:
    data = read(root, split="validation")
    assert (data.layout, data.classes, data.offers) == ("imagenet-s", ("object",), {"image", "instances"})
    assert data.names == [f"validation/{wnid}/ILSVRC2012_validation_{number:08}" for number, wnid in enumerate(WNIDS)]
    masks = data[0].instances.masks
    assert [mask.sum(0).tolist() for mask in masks] == [[0, 4, 4, 0, 0, 0], [0, 0, 0, 4, 4, 0]]
    assert read(root, split="train").offers == {"image"}


def test_the_best_overlap_of_each_object_by_hand(root: Path) -> None:
    halves = torch.tensor([[0, 0, 0, 1, 1, 1]] * 4)
    truth = r2o.object_masks(read(root, split="train-semi"), 0)
    assert r2o.best_overlaps(halves, truth).tolist() == pytest.approx([2 / 3] * len(truth)), "each object is two of three columns"


def test_check_knows_its_splits_and_problems(root: Path) -> None:
    report = check(root)
    assert (report.layout, report.ok, report.problems) == ("imagenet-s", True, [])
    assert {name: (own.pictures, own.objects) for name, own in report.splits.items()} == {
        "test": (2, 0), "train": (2, 0), "train-semi": (2, 2), "validation": (2, 2),
    }  # fmt: skip
    mask = next((root / "validation-segmentation" / WNIDS[0]).iterdir())
    mask.rename(mask.with_name("other.png"))
    found = {problem.code: problem.items for problem in check(root).problems}
    assert found["mask-orphan"] == [f"validation-segmentation/{WNIDS[0]}/other.png"]
    assert found["mask-missing"] == [f"validation/{WNIDS[0]}/{mask.stem}.JPEG"]
    with pytest.raises(DataError, match=r"expected a folder in .*: test, train, train-semi, validation"):
        read(root, split="val")


def test_colours_elsewhere_are_still_no_masks(tmp_path: Path) -> None:
    for folder, mode in (("images", "RGB"), ("masks", "RGB")):
        (tmp_path / folder).mkdir()
        Image.new(mode, (6, 4), (1, 2, 3)).save(tmp_path / folder / "a.png")
    (tmp_path / "classes.txt").write_text("dog\n")
    assert "mask-rgb" in [problem.code for problem in check(tmp_path).problems]
