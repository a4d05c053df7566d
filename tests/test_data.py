"""Readers: each layout gives the labels that are in its files, and no other."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from frugalseg import files
from frugalseg.data import Data, DataError, Record, file_info, images, read, shapes
from frugalseg.data.dataset import objects
from frugalseg.data.formats.voc import CLASSES

NAN = math.nan
SIZE = (6, 8)


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], (value, value, value)).save(path)
    return path


def mask(path: Path, ids: list[list[int]] | int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full(SIZE, ids, np.uint8) if isinstance(ids, int) else np.array(ids, np.uint8)
    Image.fromarray(values).save(path)
    return path


def annotation(root: Path, name: str, *objects: tuple[str, int] | tuple[str, int, tuple[int, int, int, int]]) -> None:
    """Objects as (class, difficult[, (xmin, ymin, xmax, ymax)])."""
    parts = []
    for label, difficult, *box in objects:
        corners = (
            "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), *box, strict=True))
            if box
            else ""
        )
        bounds = f"<bndbox>{corners}</bndbox>" if box else ""
        parts.append(f"<object><name>{label}</name><difficult>{difficult}</difficult>{bounds}</object>")
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(parts)}</annotation>")


def listing(root: Path, name: str, *lines: str) -> None:
    path = root / "ImageSets" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def own_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / ".cache"))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Four images: `a` with everything, `b` with tags, `c` with a mask and no annotation, `d` with nothing."""
    root = tmp_path / "VOC"
    for number, name in enumerate("abcd"):
        picture(root / "JPEGImages" / f"{name}.jpg", 10 * number)
    annotation(root, "a", ("dog", 0, (1, 1, 4, 6)), ("cat", 1, (5, 1, 8, 6)))
    annotation(root, "b", ("cat", 0))
    dog, cat = CLASSES.index("dog") + 1, CLASSES.index("cat") + 1
    mask(root / "SegmentationClass" / "a.png", [[dog] * 4 + [255] + [cat] * 3] * 6)
    mask(root / "SegmentationObject" / "a.png", [[1] * 4 + [255] + [2] * 3] * 6)
    mask(root / "SegmentationClass" / "c.png", dog)
    listing(root, "Main/train", "a", "b")
    listing(root, "Segmentation/train", "a", "c")
    listing(root, "Segmentation/val", "c")
    return root


def tags_of(data: Data, index: int) -> dict[str, float]:
    return {name: value for name, value in zip(data.classes, data.tags[index].tolist(), strict=True) if value != 0}


# -- VOC --


def test_voc_tags_come_from_annotations_and_never_from_masks(voc: Path) -> None:
    data = read(voc)
    assert data.names == ["a", "b", "c", "d"]
    assert data.classes == CLASSES
    assert tags_of(data, 0) == {"dog": 1, "cat": 1}
    assert tags_of(data, 1) == {"cat": 1}
    assert data.records[2].tags is None
    assert data.tags[2].isnan().all()
    assert read(voc, "Segmentation/val").offers == {"image", "semantic"}


def test_voc_sample_has_all_that_is_known(voc: Path) -> None:
    sample = read(voc)[0]
    assert sample.image.shape == (3, *SIZE)
    assert sample.semantic[0].tolist() == [12, 12, 12, 12, 255, 8, 8, 8]
    assert sample.instances.labels.tolist() == [12, 8]
    assert sample.instances.boxes.tolist() == [[0, 0, 4, 6], [5, 0, 8, 6]]
    assert sample.instances.masks.sum((1, 2)).tolist() == [24, 18]
    nothing = read(voc)[3]
    assert (nothing.tags, nothing.semantic, nothing.instances) == (None, None, None)


def test_voc_boxes_count_from_one_and_include_the_last_pixel(voc: Path) -> None:
    shutil.rmtree(voc / "SegmentationObject")
    found = read(voc)[0].instances
    assert found.boxes.tolist() == [[0, 0, 4, 6], [4, 0, 8, 6]]
    assert found.masks is None


@pytest.mark.parametrize(("difficult", "cat"), [("present", 1.0), ("unknown", NAN), ("absent", 0.0)])
def test_difficult_alone_is_what_the_reader_is_told(voc: Path, difficult: str, cat: float) -> None:
    data = read(voc, difficult=difficult)
    assert data.tags[0, CLASSES.index("cat")].item() == pytest.approx(cat, nan_ok=True)
    assert data.tags[0, CLASSES.index("dog")] == 1
    annotation(voc, "a", ("cat", 1), ("cat", 0))
    assert read(voc, difficult=difficult).tags[0, CLASSES.index("cat")] == 1


def test_voc_list_names(voc: Path) -> None:
    listing(voc, "Main/folds/one", "d", "b.jpg")
    listing(voc, "own", "c")
    assert read(voc, "train").names == ["a", "b"]  # a bare name is looked for in Main first
    assert read(voc, "val").names == ["c"]
    assert read(voc, "Segmentation/train").names == ["a", "c"]
    assert read(voc, "Main/folds/one").names == ["d", "b"]
    assert read(voc, "own").names == ["c"]
    with pytest.raises(DataError, match=r"got 'trian', expected a list in .*Main/train"):
        read(voc, "trian")
    with pytest.raises(DataError, match="expected a list in"):
        read(voc, "../../etc/passwd")


def test_per_class_lists_give_the_tag_that_no_annotation_gives(voc: Path) -> None:
    listing(voc, "Main/dog_train", "a -1", "c  1", "d -1")
    data = read(voc, "Main/dog_train")
    assert data.names == ["a", "c", "d"]
    assert tags_of(data, 0) == {"dog": 1, "cat": 1}  # the annotation knows better
    others = [index for index, name in enumerate(CLASSES) if name != "dog"]
    assert data.tags[1:, CLASSES.index("dog")].tolist() == [1, 0]
    assert data.tags[1:, others].isnan().all()


def test_names_with_spaces_and_lists_with_more_columns(voc: Path) -> None:
    picture(voc / "JPEGImages" / "my photo 1.jpg")
    listing(voc, "Main/odd", "my photo 1", "b 3 -1", "d 2", "b")
    data = read(voc, "Main/odd")
    assert data.names == ["my photo 1", "b", "d"]
    assert "list-duplicate" in [problem.code for problem in data.problems]


def test_voc_classes_are_the_given_ones_else_vocs_else_those_found(voc: Path) -> None:
    annotation(voc, "b", ("zebra", 0))
    found = read(voc, skip_limit=1.0)
    assert found.classes == ("cat", "dog", "zebra")
    assert "class-guessed" in [problem.code for problem in found.problems]
    (voc / "classes.txt").write_text("background\ndog\ncat\n" + "".join(f"other {n}\n" for n in range(10)))
    given = read(voc)
    assert given.classes[:2] == ("dog", "cat")
    assert [(problem.code, problem.items) for problem in given.problems if problem.code.startswith("tag")] == [
        ("tag-unknown-class", ["zebra in Annotations/b.xml"])
    ]


@pytest.mark.parametrize("content", ["dog\ndog\n", "\n", "background\n"])
def test_class_list_without_meaning_is_refused(voc: Path, content: str) -> None:
    (voc / "classes.txt").write_text(content)
    with pytest.raises(DataError, match=r"classes.txt: got .* expected one class name per line"):
        read(voc)


def test_object_class_is_the_commonest_of_its_pixels_and_void_is_none() -> None:
    ids = torch.tensor([[1, 1, 1, 2, 2, 255], [3, 3, 3, 2, 0, 0]])
    classes = torch.tensor([[5, 5, 255, 255, 255, 255], [7, 5, 7, 0, 0, 5]])
    found = objects(ids, classes)
    assert found.labels.tolist() == [5, 7]  # object 2 lies on void and background alone
    assert found.boxes.tolist() == [[0, 0, 3, 1], [0, 1, 3, 2]]
    assert len(objects(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64))) == 0
    assert objects(ids, None).labels.tolist() == [1, 1, 1, 1]  # of one class there may be 255 objects and more


def test_built_in_pictures_are_read_as_they_were_drawn(tmp_path: Path) -> None:
    shapes.write(tmp_path / "shapes", train=3, val=2, test=0, size=64)
    data = read(tmp_path / "shapes", "val")
    assert len(data) == 2
    assert data.classes == tuple(shapes.CLASSES)
    for index, sample in enumerate(data):
        drawn = shapes.draw(index, seed=0, size=64, split="val")
        assert torch.equal(sample.tags, drawn.tags)
        assert torch.equal(sample.semantic, drawn.semantic)
        assert sorted(sample.instances.labels.tolist()) == sorted(drawn.instances.labels.tolist())


def test_real_photos(shared_data: Path) -> None:
    root = shared_data / "voc20" / "VOC2012"
    train, val, seg = (read(root, split, verify=False) for split in ("train", "val", "Segmentation/train"))
    assert (len(train), len(val), len(seg)) == (616, 84, 163)
    assert train.classes == CLASSES
    assert sum(record.semantic is not None for record in train.records) == 163
    assert not set(train.names) & set(val.names)
    for sample in (val[0], seg[10]):
        shown = {int(number) for number in sample.semantic.unique()} - {0, 255}
        assert shown == {int(number) + 1 for number in sample.tags.nonzero()}


# -- folders --


def test_masks_beside_images(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            picture(tmp_path / split / "images" / f"{name}.jpg")
    mask(tmp_path / "train" / "masks" / "a.png", 2)
    mask(tmp_path / "val" / "labels" / "b.png", 1)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = read(tmp_path)
    assert data.layout == "masks"
    assert data.names == ["train/a", "train/b", "val/a", "val/b"]
    assert [record.semantic is not None for record in data.records] == [True, False, False, True]
    assert data.offers == {"image", "semantic"}
    assert read(tmp_path, "val").names == ["val/a", "val/b"]
    assert (read(tmp_path, "train")[0].semantic == 2).all()


def test_splits_may_lie_below_images_and_masks(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "a.jpg")
    picture(tmp_path / "images" / "val" / "deep" / "b.jpg")
    mask(tmp_path / "masks" / "val" / "deep" / "b.png", 1)
    assert read(tmp_path, "train").names == ["train/a"]
    assert read(tmp_path, "val").names == ["val/deep/b"]
    assert read(tmp_path, "val").offers == {"image", "semantic"}


def test_classes_nobody_named_are_numbered_over_all_splits(tmp_path: Path) -> None:
    for split, number in (("train", 1), ("val", 3)):
        picture(tmp_path / split / "images" / "a.jpg")
        mask(tmp_path / split / "masks" / "a.png", number)
    data = read(tmp_path, "train")
    assert data.classes == ("class 1", "class 2", "class 3")
    assert [problem.code for problem in data.problems] == ["class-guessed"]


def test_masks_and_tags_together_need_a_class_list(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    picture(tmp_path / "images" / "b.jpg")
    mask(tmp_path / "masks" / "a.png", 1)
    (tmp_path / "tags.csv").write_text("a,dog\nb,cat\n")
    with pytest.raises(DataError, match=r"Write .*classes.txt"):
        read(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    data = read(tmp_path)
    assert data.tags.tolist() == [[1, 0], [0, 1]]
    assert data.offers == {"image", "tags", "semantic"}


TABLE = {
    "plain": "a.jpg,dog;cat\nb.jpg,\nc.jpg,cat\n",
    "header": "image,tags\na.jpg,dog;cat\nb.jpg,\nc.jpg,cat\n",
    "without endings": "a,dog;cat\nb,\nc,cat\n",
    "paths": "images/a.jpg,dog;cat\n./images/b.jpg,\nimages/c,cat\n",
    "quoted": '"a.jpg","dog; cat"\n"b.jpg",""\n"c.jpg"," cat "\n',
    "a column per tag": "a.jpg,dog,cat\nb.jpg,,\nc.jpg,cat,\n",
    "Windows": "\ufeffimage,tags\r\na.jpg,dog;cat\r\n\r\nb.jpg,\r\nc.jpg,cat\r\n",
    "rows of one image": "a,dog\nb,\nc,cat\na,cat\n",
    "background": "a,dog;cat\nb,background\nc,cat;background\n",
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.jpg")
    return tmp_path / "tags.csv"


@pytest.mark.parametrize("kind", TABLE)
def test_tag_tables_as_people_write_them(table: Path, kind: str) -> None:
    table.write_text(TABLE[kind], encoding="utf-8", newline="")
    data = read(table.parent)
    assert (data.layout, data.classes) == ("tags", ("cat", "dog"))
    assert data.tags.tolist() == [[1, 1], [0, 0], [1, 0]]


def test_tags_may_be_unknown_one_by_one_or_altogether(table: Path) -> None:
    table.write_text("a,dog;?cat\nb,?dog\n")
    data = read(table.parent)
    assert data.tags[:2].tolist() == pytest.approx(np.array([[NAN, 1], [0, NAN]]), nan_ok=True)
    assert data.records[2].tags is None
    assert [(problem.code, problem.items) for problem in data.problems] == [("tag-missing", ["images/c.jpg"])]


def test_table_rows_that_name_no_picture_are_counted_and_limited(table: Path) -> None:
    table.write_text("a,dog\nb,\nc,cat\nnowhere,dog\n")
    with pytest.raises(DataError, match="row left out: 1 of 4"):
        read(table.parent)
    (problem,) = read(table.parent, skip_limit=0.25).problems
    assert (problem.code, problem.items) == ("tag-unknown-file", ["nowhere"])


@pytest.mark.parametrize("content", [b'a,"dog\nb', b"a,d\xf6g\n"])
def test_unreadable_table_is_named(table: Path, content: bytes) -> None:
    table.write_bytes(content)
    with pytest.raises(DataError, match=r"tags\.csv"):
        read(table.parent)


def test_split_table(table: Path) -> None:
    table.write_text("a,dog\nb,cat\nc,zebra\n")
    (table.parent / "splits.csv").write_text("image,split\na.jpg,train\nb,holdout\n")
    assert read(table.parent, "holdout").names == ["b"]
    assert read(table.parent, "train").classes == ("cat", "dog", "zebra")  # ids must not depend on the split
    assert read(table.parent).names == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"got 'val', expected one that .* has: holdout, train"):
        read(table.parent, "val")


def test_folder_per_class(tmp_path: Path) -> None:
    for name in ("train/dog/a", "train/cat/b", "train/background/c", "val/cat/a"):
        picture(tmp_path / f"{name}.jpg")
    data = read(tmp_path, "train")
    assert (data.layout, data.classes) == ("classes", ("cat", "dog"))
    assert data.names == ["train/background/c", "train/cat/b", "train/dog/a"]
    assert data.tags.tolist() == [[0, 0], [1, 0], [0, 1]]
    assert read(tmp_path, "val").tags.tolist() == [[1, 0]]


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    for name in ("aeroplane/a", "train/b"):
        picture(tmp_path / f"{name}.jpg")
    data = read(tmp_path)
    assert data.classes == ("aeroplane", "train")
    assert data.tags.tolist() == [[1, 0], [0, 1]]


def test_plain_folder_has_pictures_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "deep/c.png", ".hidden.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "d.heic").write_bytes(b"")
    data = read(tmp_path, "train")
    assert (data.layout, data.names, data.offers) == ("images", ["a", "b", "deep/c"], {"image"})
    assert [(problem.code, problem.items) for problem in data.problems] == [("file-ignored", ["d.heic"])]


def test_two_files_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", 1)
    picture(tmp_path / "a.png", 2)
    data = read(tmp_path, skip_limit=1.0)
    assert (data.names, [problem.code for problem in data.problems]) == (["a"], ["image-twice"])


def test_wrong_words_are_refused_with_the_right_ones(tmp_path: Path, voc: Path) -> None:
    with pytest.raises(DataError, match=r"got layout='vok'.*expected one of voc, coco, sbd, cityscapes, cub, imagenet-s"):
        read(voc, layout="vok")
    with pytest.raises(DataError, match=r"difficult='maybe'.*present, unknown, absent"):
        read(voc, difficult="maybe")
    with pytest.raises(DataError, match=f"lies deeper; type {voc}"):
        read(voc.parent)


# -- Data --


def test_withheld_labels_cannot_be_reached(voc: Path) -> None:
    guarded = read(voc).only("image", "tags")
    assert guarded.offers == {"image", "tags"}
    for record in guarded.records:
        paths = [value for value in (getattr(record, name) for name in Record.__dataclass_fields__) if isinstance(value, Path)]
        assert paths == [record.image]
        assert record.boxes is None
    for folder in ("SegmentationClass", "SegmentationObject", "Annotations"):
        shutil.rmtree(voc / folder)
    assert [sample.name for sample in guarded] == ["a", "b", "c", "d"]


def test_only_keeps_each_label_it_names_and_no_other(voc: Path) -> None:
    data = read(voc)
    for field in ("tags", "semantic", "boxes", "instances"):
        assert data.only("image", field).offers == {"image", field}
    assert torch.equal(data.only("instances")[0].instances.labels, data[0].instances.labels)
    assert data.only("boxes")[0].instances.masks is None
    with pytest.raises(ValueError, match="got masks; expected some of image, tags, semantic, boxes, instances"):
        data.only("masks")


def test_masks_have_no_way_into_a_data_set_of_tags(voc: Path) -> None:
    """Masks of other images, other sizes or no masks at all: what a method of tags sees stays the same to the bit."""
    before = read(voc).only("image", "tags")
    seen = [(sample.name, sample.image, sample.tags) for sample in before]
    mask(voc / "SegmentationClass" / "a.png", 3)
    mask(voc / "SegmentationClass" / "c.png", [[1, 2], [3, 4]])
    (voc / "SegmentationObject" / "a.png").write_bytes(b"")
    after = read(voc, skip_limit=1.0).only("image", "tags")
    assert after.fingerprint == before.fingerprint
    for (name, image, tags), sample in zip(seen, after, strict=True):
        assert sample.name == name
        assert torch.equal(sample.image, image)
        assert (sample.tags is None) if tags is None else torch.equal(sample.tags, tags)


def test_select_takes_records_in_the_given_order(voc: Path) -> None:
    data = read(voc)
    assert data.select([2, 0]).names == ["c", "a"]
    assert data.select(torch.tensor([3])).names == ["d"]
    assert data.select([]).offers == frozenset()


def test_fingerprint_changes_with_what_it_names_and_nothing_else(voc: Path) -> None:
    before = read(voc).fingerprint
    assert read(voc).fingerprint == before
    os.utime(voc / "JPEGImages" / "a.jpg", (1, 1))
    assert read(voc).fingerprint == before
    assert read(voc, "train").fingerprint != before
    annotation(voc, "b", ("dog", 0))
    assert read(voc).fingerprint != before


def test_repr_says_what_is_there(voc: Path) -> None:
    assert repr(read(voc, "train")) == (
        "Data(VOC/train: 2 images, 20 classes (aeroplane, bicycle, bird, …), offers image tags semantic boxes instances)"
    )


def test_data_serves_worker_processes(voc: Path) -> None:
    loader = DataLoader(read(voc), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [sample.name for sample in loader] == ["a", "b", "c", "d"]


# -- verification --


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that were verified, in any order."""
    seen: list[str] = []
    verify = images.verify

    def watched(path: Path, *others: Any) -> images.Header:
        seen.append(path.name)
        return verify(path, *others)

    monkeypatch.setattr(images, "verify", watched)
    return seen


def test_each_picture_is_verified_once_until_it_changes(voc: Path, decoded: list[str]) -> None:
    read(voc)
    assert sorted(decoded) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    read(voc, "train")
    assert len(decoded) == 4
    (voc / "JPEGImages" / "b.jpg").write_bytes(b"")
    assert [problem.code for problem in read(voc, skip_limit=1.0).problems if problem.effect] == ["image-broken"]
    assert decoded[4:] == ["b.jpg"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"a": 1}', b'{"a": [1, 2, 3]}', b'{"a": {"x": 1, "y": 2, "z": 3}}', b"\xff"]
)
def test_broken_cache_is_made_again(voc: Path, decoded: list[str], content: bytes) -> None:
    read(voc)
    for store in (files.cache_folder() / "facts").iterdir():
        store.write_bytes(content)
    assert len(read(voc)) == 4
    assert len(decoded) == 8
    for store in (files.cache_folder() / "facts").iterdir():
        assert json.loads(store.read_bytes())


@pytest.mark.parametrize("field", [*images.Header._fields, "hash", "ids", "objects"])
def test_facts_that_another_version_wrote_without_a_field_are_found_anew(voc: Path, field: str) -> None:
    expected = read(voc)
    for store in (files.cache_folder() / "facts").iterdir():
        known = json.loads(store.read_bytes())
        for *_, found in known.values():
            found.pop(field, None)
        store.write_text(json.dumps(known))
    again = read(voc)
    assert [repr(record) for record in again.records] == [repr(record) for record in expected.records]
    stores = [json.loads(store.read_bytes()) for store in (files.cache_folder() / "facts").iterdir()]
    assert any(field in found for store in stores for *_, found in store.values())


def test_cache_that_cannot_be_written_is_no_error(voc: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / "file"))
    assert len(read(voc)) == 4


def test_interrupted_verification_goes_on_where_it_stopped(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []

    def look(path: Path) -> file_info.Facts:
        looked.append(path)
        if len(looked) == 3:
            raise KeyboardInterrupt
        return {"name": path.name}

    monkeypatch.setattr(file_info, "CHUNK", 1)
    paths = sorted((voc / "JPEGImages").iterdir())
    with pytest.raises(KeyboardInterrupt):
        file_info.of(voc, "test", paths, look)
    assert file_info.of(voc, "test", paths, look) == {path: {"name": path.name} for path in paths}
    assert [path.name for path in looked] == ["a.jpg", "b.jpg", "c.jpg", "c.jpg", "d.jpg"]


def test_an_annotation_without_a_box_says_nothing_of_boxes(tmp_path: Path) -> None:
    """Its objects are tags; a file with no object at all says that there is no box to find."""
    texts = {
        "boxed": "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object>",
        "unboxed": "<object><name>cat</name></object>",
        "mixed": "<object><name>dog</name></object>"
        "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object>",
        "empty": "",
    }
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name, annotated in texts.items():
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(f"<annotation>{annotated}</annotation>")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("\n".join(texts))
    data = read(tmp_path, "train")
    boxes = {record.name: None if record.boxes is None else len(record.boxes) for record in data.records}
    assert boxes == {"boxed": 1, "unboxed": None, "mixed": None, "empty": 0}
    assert all("tags" in record.fields for record in data.records)
    assert ["boxes" in record.fields for record in data.records] == [True, False, False, True]
    assert data[1].instances is None
