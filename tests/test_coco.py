"""The COCO reader equals pycocotools on what is sound and refuses, counted, what is not, before C code sees it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from frugalseg import rle
from frugalseg.data import DataError, read, shapes
from frugalseg.data.detection import DetectionDataset, full_masks
from frugalseg.data.formats import coco
from frugalseg.nets import roi
from frugalseg.workflows.check import check
from tests import cocos
from tests.cocos import SIZE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return cocos.write(tmp_path / "set")


def by_code(data: Any) -> dict[str, int]:
    return {problem.code: problem.count for problem in data.problems}


def test_masks_equal_pycocotools(root: Path) -> None:
    data, oracle = read(root, "train"), COCO(root / "annotations" / "instances_train.json")
    assert (data.layout, data.classes, data.problems) == ("coco", ("cat", "dog"), [])
    assert data.names == ["train/train_7", "train/train_8"]
    for index, number in enumerate((7, 8)):
        entries = [oracle.anns[key] for key in oracle.getAnnIds(imgIds=number)]
        known = data.compact(index)
        assert [oracle.annToMask(entry).tolist() for entry in entries] == rle.decode(known.rles, SIZE).astype(int).tolist()
        assert known.crowd.tolist() == [entry["iscrowd"] == 1 for entry in entries]
        assert known.areas.tolist() == [entry["area"] for entry in entries]
        assert known.labels.tolist() == [{3: 1, 90: 2}[entry["category_id"]] for entry in entries]


def test_a_sample_has_dense_masks_of_everything_but_crowds(root: Path) -> None:
    sample = read(root, "train")[0]
    assert sample.instances.labels.tolist() == [2, 1]
    assert sample.instances.boxes.tolist() == [[1, 8, 14, 12], [2, 2, 7, 7]]
    assert sample.instances.masks.sum((1, 2)).tolist() == [32, 24]
    assert not sample.instances.masks[1, 4, 4]  # the hole
    assert sample.tags.tolist() == [1, 1]
    assert read(root, "train").tags[1].tolist() == [0, 1]


def test_a_polygon_from_0_to_9_has_81_pixels(root: Path) -> None:
    cocos.spoil(root, segmentation=[cocos.square(0, 0, 9)], bbox=[0, 0, 9, 9])
    assert read(root, "train")[0].instances.masks[0].sum() == 81


def test_a_hole_through_a_slit_stays_a_hole(root: Path) -> None:
    outer, inner = [2, 2, 14, 2, 14, 14, 2, 14], [5, 5, 5, 11, 11, 11, 11, 5]
    cocos.spoil(root, segmentation=[[*outer, 2, 2, *inner, 5, 5]], bbox=[2, 2, 12, 12])
    mask = read(root, "train")[0].instances.masks[0]
    assert mask[3, 8]
    assert not mask[8, 8]


def test_only_withholds_the_masks_and_boxes(root: Path) -> None:
    data = read(root, "train")
    assert data.offers == {"image", "tags", "boxes", "instances"}
    guarded = data.only("image", "tags")
    assert all(record.outlines is None and record.boxes is None for record in guarded.records)
    assert guarded[0].instances is None
    assert guarded.compact(0) is None
    assert data.only("image", "boxes")[0].instances.masks is None
    assert data.only("image", "instances").offers == {"image", "instances"}


def test_built_in_pictures_are_the_same_in_both_layouts(tmp_path: Path) -> None:
    folder = shapes.write(tmp_path / "shapes", train=4, val=2, test=0, size=64)
    voc, ours = read(folder, "Segmentation/train"), read(folder, "train", layout="coco")
    assert ours.names == voc.names
    assert ours.classes == voc.classes
    assert ours.problems == []
    for one, other in zip(voc, ours, strict=True):
        assert torch.equal(one.tags, other.tags)
        for mask, label in zip(one.instances.masks, one.instances.labels, strict=True):
            assert any(torch.equal(mask, found) for found in other.instances.masks[other.instances.labels == label])
        assert len(one.instances) == len(other.instances)


def test_splits_and_places(root: Path, tmp_path: Path) -> None:
    assert len(read(root)) == 4
    assert read(root / "annotations" / "instances_val.json").names == read(root, "va").names
    with pytest.raises(DataError, match=r"got 'vall'.*val"):
        read(root, "vall")
    flat = tmp_path / "exported"
    shutil.move(root / "images" / "val", flat / "valid")
    shutil.copy(root / "annotations" / "instances_val.json", flat / "valid" / "_annotations.coco.json")
    assert read(flat, "valid").names == ["valid/val_7", "valid/val_8"]


def test_equal_names_in_two_splits_are_told_apart_by_their_folder(root: Path) -> None:
    for split in ("train", "val"):
        value = cocos.contents(split)
        for image in value["images"]:
            (root / "images" / split / image["file_name"]).rename(root / "images" / split / f"{image['id']}.png")
            image["file_name"] = f"{image['id']}.png"
        cocos.put(root, value, split)
    assert read(root, "val").names == ["val/7", "val/8"]


def test_sizes_are_read_from_the_picture_where_the_file_tells_none(root: Path) -> None:
    value = cocos.contents()
    for image in value["images"]:
        del image["height"]
    cocos.put(root, value)
    assert read(root, "train").problems == []


def test_boxes_alone_are_boxes(root: Path) -> None:
    value = cocos.contents()
    for entry in value["annotations"]:
        del entry["segmentation"]
    cocos.put(root, value)
    data = read(root, "train")
    assert data.offers == {"image", "tags", "boxes"}
    assert data[0].instances.boxes.tolist() == [[1, 8, 14, 12], [2, 2, 7, 7], [0, 0, 20, 16]]


NAN, FAR = float("nan"), 1e8


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"segmentation": [[1, 1, NAN, 1, 5, 5]]}, "polygon-broken"),
        ({"segmentation": [[1, 1, FAR, 1, 5, 5]]}, "polygon-broken"),
        ({"segmentation": [[1, 1, 10**400, 1, 5, 5]]}, "polygon-broken"),
        ({"segmentation": [[1, 1, float("inf"), 1, 5, 5]]}, "polygon-broken"),
        ({"segmentation": [[1, 1, "2", 1, 5, 5]]}, "polygon-broken"),
        ({"segmentation": [[1, 1, 2, 1, 5]]}, "polygon-broken"),
        ({"segmentation": [[1, 1, 2, 1]]}, "polygon-broken"),
        ({"segmentation": [[[1, 1], [2, 1], [5, 5]]]}, "polygon-broken"),
        ({"segmentation": [5]}, "polygon-broken"),
        ({"segmentation": [[0, 0, 20, 16] * 1000]}, "polygon-broken"),
        ({"segmentation": [cocos.square(-9, -9, 4)]}, "object-empty"),
        ({"segmentation": {"size": [*SIZE], "counts": [320]}}, "object-empty"),
        ({"segmentation": {"size": [20, 16], "counts": [320]}}, "rle-broken"),
        ({"segmentation": {"size": [*SIZE], "counts": "no code"}}, "rle-broken"),
        ({"segmentation": {"size": [30000, 30000], "counts": "PPYo1"}}, "rle-broken"),
        ({"segmentation": {"size": [*SIZE], "counts": None}}, "rle-broken"),
        ({"segmentation": []}, "object-without-mask"),
        ({"segmentation": "text"}, "object-without-mask"),
        ({"category_id": 4}, "object-unknown-class"),
        ({"category_id": "90"}, "object-unknown-class"),
        ({"category_id": [90]}, "object-unknown-class"),
        ({"image_id": 70}, "object-unknown-image"),
        ({"image_id": [7]}, "object-unknown-image"),
        ({"image_id": None}, "object-unknown-image"),
    ],
)
def test_a_broken_object_is_left_out_and_counted_and_the_others_stay(root: Path, changes: dict[str, Any], code: str) -> None:
    cocos.spoil(root, **changes)
    with pytest.raises(DataError, match="object left out: 1 of 4"):
        read(root, "train")
    data = read(root, "train", skip_limit=0.25)
    assert by_code(data) == {code: 1}
    assert data[0].instances.labels.tolist() == [1]
    assert data[1].instances.labels.tolist() == [2]


@pytest.mark.parametrize("box", [[1, 8, -3, 4], [NAN] * 4, "no", [1, 2, 3], [FAR] * 4, [None] * 4, [15, 0, 3, 3]])
def test_a_wrong_box_gives_way_to_the_mask(root: Path, box: Any) -> None:
    cocos.spoil(root, bbox=box)
    data = read(root, "train")
    assert by_code(data) == {"box-replaced": 1}
    assert data[0].instances.boxes[0].tolist() == [1, 8, 14, 12]


@pytest.mark.parametrize("area", [None, NAN, -1, 10**400, "much"])
def test_a_wrong_area_gives_way_to_the_masks_pixels(root: Path, area: Any) -> None:
    cocos.spoil(root, area=area)
    assert read(root, "train").compact(0).areas[0] == 32


def test_ids_of_annotations_may_be_anything(root: Path) -> None:
    value = cocos.contents()
    for entry, number in zip(value["annotations"], (0, 0, None, [1]), strict=True):
        entry["id"] = number
    cocos.put(root, value)
    data = read(root, "train")
    assert by_code(data) == {"object-duplicate-id": 2}
    assert len(data[0].instances) == 2


def test_pictures_outside_of_the_folder_are_not_reached(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 16)).save(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "..\\secret.png", None, ["x"], ""):
        value = cocos.contents()
        value["images"][0]["file_name"] = name
        cocos.put(root, value)
        data = read(root, "train", skip_limit=1.0)
        assert data.names == ["train/train_8"]
        assert by_code(data) == {"name-outside": 1}


def test_masks_of_another_size_than_the_picture_are_withheld(root: Path) -> None:
    Image.new("RGB", (40, 32)).save(root / "images" / "train" / "train_7.png")
    data = read(root, "train", skip_limit=1.0)
    assert by_code(data) == {"annotation-size": 1}
    assert data[0].instances is None
    unverified = read(root, "train", verify=False)
    with pytest.raises(ValueError, match="drawn on 20 x 16 pixels, it has 40 x 32"):
        unverified[0]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"images": 1, "annotations": [], "categories": []}', "[" * 100_000,
             '{"images": [1], "annotations": [], "categories": []}',
             '{"images": [], "annotations": [], "categories": [{"id": "1", "name": "dog"}]}',
             '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]}',
             '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "dog"}]}'],
)  # fmt: skip
def test_a_file_that_is_no_coco_is_refused_by_name(root: Path, text: str) -> None:
    (root / "annotations" / "instances_train.json").write_text(text)
    with pytest.raises(DataError, match=r"instances_train\.json|called dog|no image"):
        read(root, "train")


def test_hostile_masks_cost_neither_time_nor_memory(root: Path) -> None:
    """A zigzag of 100,000 strokes across the image, and run lengths of astronomic sizes."""
    begin = time.perf_counter()
    for segmentation in (
        [[0, 0, 20, 16] * 100_000],
        {"size": [100_000, 100_000], "counts": [10**10]},
        {"size": [*SIZE], "counts": [1] * 1_000_000},
        {"size": [*SIZE], "counts": "1" * 1_000_000},
    ):
        cocos.spoil(root, segmentation=segmentation)
        assert sum(by_code(read(root, "train", skip_limit=1.0)).values()) == 1
    assert time.perf_counter() - begin < 8


@pytest.mark.parametrize("width", [10_000_000, 100_000_000])
def test_a_polygon_is_not_drawn_as_large_as_the_file_claims(root: Path, width: int) -> None:
    value = cocos.contents()
    value["images"][0] |= {"height": 1, "width": width}
    value["annotations"][0]["segmentation"] = [[0, 0, width, 0, width, 1, 0, 1]]
    cocos.put(root, value)
    assert by_code(read(root, "train", skip_limit=1.0))["polygon-broken"] == 1


def test_a_picture_that_is_listed_twice_is_counted(root: Path) -> None:
    value = cocos.contents()
    value["images"].append(value["images"][0] | {"id": 99})
    cocos.put(root, value)
    data = read(root, "train", skip_limit=1.0)
    assert (by_code(data), len(data)) == ({"image-duplicate-id": 1}, 2)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [[-3, 1, 13, 11], [-0.5, 2, 10.5, 10], [2, 2, 8, 10], [0, 2, 10, 10]])
def test_masks_are_learned_whole_and_in_their_place_whatever_their_box(root: Path, box: list[float], flip: bool) -> None:
    cocos.spoil(root, segmentation=[[0, 2, 10, 2, 10, 12, 0, 12]], bbox=box)
    data, whole = read(root, "train"), torch.tensor([[0.0, 2, 10, 12]])
    items = DetectionDataset(data, flip=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *_: torch.tensor(0.0 if flip else 1.0))
        item = items[0]
    extent = torch.tensor([[SIZE[1] - 10.0, 2, SIZE[1], 12]]) if flip else whole
    assert item["extents"][:1].tolist() == extent.tolist()
    assert roi.mask_targets(item["crops"][:1], item["extents"][:1], extent, 10).all()
    assert full_masks(item["crops"], item["extents"], SIZE)[0].nonzero().amin(0).tolist() == extent[0, [1, 0]].tolist()
    assert int(full_masks(item["crops"], item["extents"], SIZE)[0].sum()) == 100
    annotated = torch.tensor([box[0], box[1], box[0] + box[2], box[1] + box[3]])
    mirrored = torch.tensor([SIZE[1] - annotated[2], annotated[1], SIZE[1] - annotated[0], annotated[3]])
    assert item["boxes"][0].tolist() == (mirrored if flip else annotated).tolist()


def test_random_entries_never_crash(root: Path) -> None:
    random = np.random.default_rng(0)
    odd: list[Any] = [None, -1, 0, 1, 7, 8, 90, 1e9, NAN, "x", "", [], [[]], {}, {"size": 3}, [1, 2, 3, 4], [[1] * 6], True]
    for _ in range(60):
        value = cocos.contents()
        for part in ("images", "annotations"):
            for entry in value[part]:
                for key in entry:
                    if random.random() < 0.3:
                        entry[key] = odd[random.integers(len(odd))]
        cocos.put(root, value)
        try:
            data = read(root, "train", skip_limit=1.0)
        except DataError:
            continue
        for index, sample in enumerate(data):
            assert sample.instances is None or len(sample.instances) <= len(data.compact(index) or sample.instances)


def test_real_annotations_equal_pycocotools(shared_data: Path) -> None:
    file = shared_data / "voc20" / "instances_coco80.json"
    if not file.is_file():
        pytest.skip("no instances_coco80.json")
    oracle, data = COCO(file), read(file, verify=False, skip_limit=0.0)
    assert (len(data), len(data.classes)) == (258, 80)
    places = {Path(image["file_name"]).stem: number for number, image in oracle.imgs.items()}
    for index in range(0, 258, 6):
        number = places[data.names[index].rpartition("/")[2]]
        entries = [oracle.anns[key] for key in oracle.getAnnIds(imgIds=number)]
        known = data.compact(index)
        expected = [oracle.annToRLE(entry)["counts"] for entry in entries]
        assert [code["counts"] for code in known.rles] == [text if type(text) is bytes else text.encode() for text in expected]
        assert known.areas.tolist() == pytest.approx([entry["area"] for entry in entries])


def test_check_counts_objects_and_boxes(root: Path) -> None:
    report = check(root)
    assert {problem.code for problem in report.problems} == {"all-tags", "class-everywhere"}  # few images, each with a dog
    assert (report.splits["train"].objects, report.splits["train"].boxes) == (2, 2)
    assert report.splits["train"].shown == {"cat": 1, "dog": 2}
    assert json.loads(report.to_json())["ok"]


def test_a_name_with_a_dot_is_no_ending() -> None:
    class Silent:
        def add(self, code: str, item: str) -> None: ...

    finder = coco._Finder({"a/b.c": Path("a/b.c.png")}, "train")
    assert finder.key("b.c.png", Silent()) == "a/b.c"  # type: ignore[arg-type]
