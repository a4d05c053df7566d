"""Cityscapes, in a miniature of its true layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugalseg.cli import main
from frugalseg.data import DataError, read
from frugalseg.workflows.check import check

IDS = [0, 3, 7, 8, 11, 24, 33, 29]  # unlabelled, ignored, road, sidewalk, building, person, bicycle, caravan
TRAINED = [255, 255, 1, 2, 3, 12, 19, 255]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, city, number in (("train", "ulm", 1), ("train", "bremen", 2), ("val", "munster", 3)):
        stem = f"{city}_{number:06d}_000019"
        pictures, masks = tmp_path / "leftImg8bit" / split / city, tmp_path / "gtFine" / split / city
        pictures.mkdir(parents=True)
        masks.mkdir(parents=True)
        noise = np.random.default_rng(number).integers(0, 255, (4, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{stem}_leftImg8bit.png")
        ids = np.tile(np.array(IDS, np.uint8), (4, 1))
        Image.fromarray(ids).save(masks / f"{stem}_gtFine_labelIds.png")
        Image.fromarray(noise).save(masks / f"{stem}_gtFine_color.png")
        Image.fromarray(ids.astype(np.uint16) * 1000).save(masks / f"{stem}_gtFine_instanceIds.png")
        (masks / f"{stem}_gtFine_polygons.json").write_text("{}")
    return tmp_path


def test_splits_names_classes_and_trained_ids(root: Path) -> None:
    data = read(root, split="train")
    assert (data.layout, len(data.classes)) == ("cityscapes", 19)
    assert data.names == ["train/bremen/bremen_000002_000019", "train/ulm/ulm_000001_000019"]
    assert data[0].semantic.tolist() == [TRAINED] * 4
    assert [data.classes[number - 1] for number in (1, 12, 19)] == ["road", "person", "bicycle"]
    assert data.problems == []
    assert len(read(root)) == 3


def test_check_reads_it_and_an_unknown_split_is_named(root: Path) -> None:
    report = check(root)
    assert report.ok
    assert {name: counts.pictures for name, counts in report.splits.items()} == {"train": 2, "val": 1}
    with pytest.raises(DataError, match=r"expected a folder .*train, val"):
        read(root, split="tes")


def test_a_backbone_is_judged_on_it_though_it_has_no_tags(root: Path, tmp_path: Path) -> None:
    recipe = Path(__file__).parents[1] / "configs" / "aepsl_transfer_cityscapes.yaml"
    own = {"backbone": "tiny", "channels": 8, "crop": 33, "resize": 40, "workers": 0, "out": tmp_path / "runs", "name": "run"}
    options = [word for name, value in own.items() for word in (f"--{name}", str(value))]
    assert main(["train", "aepsl", str(root), "--config", str(recipe), "--dry-run", "--quiet", *options]) == 0
    (scores,) = json.loads((tmp_path / "runs" / "aepsl" / "run" / "metrics.json").read_text()).values()
    assert scores["images"] == 1
