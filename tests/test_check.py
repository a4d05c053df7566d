"""`check` finds each fault that its table of codes names, and nothing in a sound data set."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from frugalseg.data import DataError, images, read, shapes
from frugalseg.data.problems import CODES, Problem, markdown
from frugalseg.methods import METHODS, Method
from frugalseg.workflows.check import check
from frugalseg.workflows.check_splits import scored_pairs
from tests import cocos

COUNT = 12  # images of each split of a sound set
THIRD, THIRD_MASK = "train/images/03.png", "train/masks/03.png"


def picture(path: Path, value: int, size: tuple[int, int] = (8, 6), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path, **options)
    return path


def mask(path: Path, *ids: int, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.resize(np.array(ids, np.uint8), (6, 8))
    Image.fromarray(values).convert(mode).save(path)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Images with tags and masks in two splits, in which nothing is wrong; class cat is 1, dog is 2."""
    rows = []
    for number in range(2 * COUNT):
        split, name = ("train", "val")[number // COUNT], f"{number:02}"
        picture(tmp_path / split / "images" / f"{name}.png", number)
        mask(tmp_path / split / "masks" / f"{name}.png", 0, number % 2 + 1, 255)
        rows.append((split, f"{name},{'dog' if number % 2 else 'cat'}\n"))
    for split in ("train", "val"):
        (tmp_path / split / "tags.csv").write_text("".join(row for own, row in rows if own == split))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOC"
    (root / "Annotations").mkdir(parents=True)
    for split, names in (("train", "abcd"), ("val", "efgh")):
        for number, name in enumerate(names):
            picture(root / "JPEGImages" / f"{name}.png", ord(name))
            annotate(root, name, ("dog", "cat")[number % 2])
        listing(root, split, *names)
    return root


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return cocos.write(tmp_path / "coco")


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Images with maps of object ids."""
    for name in "ab":
        picture(tmp_path / "maps" / "images" / f"{name}.png", ord(name))
        mask(tmp_path / "maps" / "objects" / f"{name}.png", 0, 1, 2)
    return tmp_path / "maps"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A folder of archives with two images each."""
    for split in ("train", "val"):
        with zipfile.ZipFile(tmp_path / f"{split}.zip", "w") as file:
            for name in "ab":
                file.write(picture(tmp_path / "unpacked" / f"{split}_{name}.png", ord(name)), f"{split}_{name}.png")
    (tmp_path / "packed").mkdir()
    for path in tmp_path.glob("*.zip"):
        path.rename(tmp_path / "packed" / path.name)
    return tmp_path / "packed"


def annotate(root: Path, name: str, *labels: str, box: tuple[int, int, int, int] = (1, 1, 8, 6)) -> None:
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    found = "".join(f"<object><name>{label}</name><bndbox>{corners}</bndbox></object>" for label in labels)
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{found}</annotation>")


def listing(root: Path, split: str, *names: str) -> None:
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names))


def add(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    picture(path, 50, size=(6, 8), exif=exif)


def object_ids(root: Path) -> None:
    (root / "classes.txt").unlink()
    for table in root.glob("*/tags.csv"):
        table.unlink()
    for number, path in enumerate(sorted(root.glob("*/masks/*.png"))):
        mask(path, *range(1, 20 + number))


def colours(root: Path) -> None:
    for path in root.glob("*/masks/*.png"):
        mask(path, 7, mode="RGB")


def binary(root: Path) -> None:
    for path in root.glob("*/masks/*.png"):
        mask(path, 0, 255)


def twin(root: Path) -> None:
    picture(root / "val" / "images" / "20.png", 3)


def to_jpeg(path: Path) -> None:
    path.unlink()
    Image.new("L", (8, 6), 1).save(path.with_suffix(".jpg"))


def without_tags(root: Path) -> None:
    picture(root / "train" / "images" / "z.png", 99)
    add(root / "train" / "tags.csv", "z,\n")


def with_doctype(root: Path) -> None:
    (root / "Annotations" / "a.xml").write_text("<!DOCTYPE a []><a/>")


def one_class_for_all(root: Path) -> None:
    add(root / "train" / "tags.csv", "".join(f"{number:02},dog\n" for number in range(COUNT)))


def unlabelled(root: Path) -> None:
    for path in root.glob("*/tags.csv"):
        path.unlink()


def bare(root: Path) -> None:
    unlabelled(root)
    for path in root.glob("*/masks"):
        shutil.rmtree(path)


def broken(root: Path) -> None:
    for number in range(3):
        (root / "train" / "images" / f"0{number}.png").write_bytes(b"")


def large_ids(root: Path) -> None:
    (root / "objects" / "a.png").unlink()
    Image.new("I", (8, 6), 70000).save(root / "objects" / "a.tif")


def coco_boxes(root: Path, first: list[int]) -> None:
    value = cocos.contents()
    for entry in value["annotations"]:
        del entry["segmentation"]
    value["annotations"][0]["bbox"] = first
    cocos.put(root, value)


def coco_twice(root: Path) -> None:
    value = cocos.contents()
    value["annotations"].append(value["annotations"][0] | {"id": 100})
    cocos.put(root, value)


def coco_image_twice(root: Path) -> None:
    value = cocos.contents()
    value["images"].append(value["images"][0])
    cocos.put(root, value)


# code -> (which set is spoilt, how, one example that must be listed)
SPOILT: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "unreadable": ("sound", lambda root: (root / "classes.txt").write_text("dog\ndog\n"), "names twice: dog"),
    "too-many-left-out": ("sound", broken, "image left out: 3 of 12 in train"),
    "nothing-to-train": ("sound", bare, "aepsl needs tags"),
    "archive-broken": ("packed", lambda root: (root / "train-1.tar").write_bytes(b"no"), "train-1.tar (truncated header)"),
    "image-broken": ("sound", lambda root: (root / THIRD).write_bytes(b"no"), f"{THIRD} (cannot be decoded"),
    "image-too-large": ("sound", lambda root: picture(root / THIRD, 1, (99, 99)), f"{THIRD} (99 x 99 pixels"),
    "image-range": ("sound", lambda root: Image.new("F", (8, 6), -1).save(root / "train/images/z.tif"), "z.tif (values -1"),
    "image-missing": ("voc", lambda root: listing(root, "train", *"abcd", "nowhere"), "nowhere"),
    "image-twice": ("sound", lambda root: picture(root / "train/images/03.bmp", 1), THIRD),
    "list-duplicate": ("voc", lambda root: listing(root, "train", *"abcd", "a"), "a"),
    "name-outside": ("voc", lambda root: listing(root, "train", *"abcd", "../../etc/passwd"), "../../etc/passwd"),
    "file-ignored": ("sound", lambda root: (root / "train/images/x.heic").write_bytes(b""), "train/images/x.heic"),
    "image-16-bit": ("sound", lambda root: Image.new("I;16", (8, 6)).save(root / THIRD), THIRD),
    "image-alpha": ("sound", lambda root: Image.new("RGBA", (8, 6)).save(root / THIRD), THIRD),
    "exif-rotated": ("sound", lambda root: turned(root / THIRD), THIRD),
    "mask-broken": ("sound", lambda root: (root / THIRD_MASK).write_bytes(b""), f"{THIRD_MASK} (the file is empty)"),
    "mask-0-255": ("sound", binary, "train/masks/00.png (0 and 255 only)"),
    "mask-rgb": ("sound", colours, "train/masks/00.png (a mask of mode RGB"),
    "mask-lossy": ("sound", lambda root: to_jpeg(root / THIRD_MASK), "train/masks/03.jpg"),
    "mask-unknown-id": ("sound", lambda root: mask(root / THIRD_MASK, 0, 3), f"{THIRD_MASK} (id 3 of 2)"),
    "mask-object-ids": ("sound", object_ids, "up to 42 in one mask"),
    "mask-size": ("sound", lambda root: picture(root / THIRD, 3, (9, 6)), f"{THIRD_MASK} (8 x 6, image 9 x 6)"),
    "mask-missing": ("sound", lambda root: (root / THIRD_MASK).unlink(), THIRD),
    "mask-orphan": ("sound", lambda root: mask(root / "train/masks/alone.png", 1), "train/masks/alone.png"),
    "annotation-broken": ("voc", with_doctype, "Annotations/a.xml (holds a DOCTYPE)"),
    "annotation-missing": ("voc", lambda root: (root / "Annotations/a.xml").unlink(), "JPEGImages/a.png"),
    "box-outside": ("voc", lambda root: annotate(root, "a", "dog", box=(1, 1, 80, 60)), "JPEGImages/a.png"),
    "annotation-size": ("coco", lambda root: picture(root / "images/train/train_7.png", 1, (9, 9)), "train_7.png (20 x 16, im"),
    "image-duplicate-id": ("coco", coco_image_twice, "'train_7.png'"),
    "object-unknown-image": ("coco", lambda root: cocos.spoil(root, image_id=99), "99, annotation 0"),
    "object-unknown-class": ("coco", lambda root: cocos.spoil(root, category_id=4), "4, object 0 of train_7.png"),
    "object-duplicate-id": ("coco", lambda root: cocos.spoil(root, id=5), "5"),
    "object-twice": ("coco", coco_twice, "object 3 of train_7.png"),
    "object-without-mask": ("coco", lambda root: cocos.spoil(root, segmentation=None), "object 0 of train_7.png (neither"),
    "object-empty": ("coco", lambda root: cocos.spoil(root, segmentation=[[0] * 6]), "object 0 of train_7.png (its mask"),
    "polygon-broken": ("coco", lambda root: cocos.spoil(root, segmentation=[[1, 2, 3]]), "object 0 of train_7.png (its points"),
    "rle-broken": ("coco", lambda root: cocos.spoil(root, segmentation={"size": [1, 1]}), "object 0 of train_7.png (it has no"),
    "box-broken": ("coco", lambda root: coco_boxes(root, [0, 0, 0, 0]), "object 0 of train_7.png (its box is empty"),
    "box-replaced": ("coco", lambda root: cocos.spoil(root, bbox=[0, 0, 1, 1]), "object 0 of train_7.png (its box misses"),
    "object-ids": ("maps", large_ids, "objects/a.tif (id 70000)"),
    "tag-unknown-file": ("sound", lambda root: add(root / "train/tags.csv", "nowhere,dog\n"), "nowhere"),
    "tag-duplicate-row": ("sound", lambda root: add(root / "train/tags.csv", "03,dog\n"), "train/03"),
    "tag-unknown-class": ("sound", lambda root: add(root / "train/tags.csv", "03,dgo\n"), "dgo in train/images/03.png"),
    "tag-missing": ("sound", lambda root: picture(root / "train/images/z.png", 99), "train/images/z.png"),
    "no-tags": ("sound", without_tags, "train/images/z.png"),
    "all-tags": ("sound", lambda root: add(root / "train/tags.csv", "00,dog\n"), "train/images/00.png"),
    "class-without-picture": ("sound", lambda root: add(root / "classes.txt", "cow\n"), "cow"),
    "class-absent": ("voc", lambda root: [annotate(root, name, "dog") for name in "efgh"], "cat in Main/val"),
    "class-everywhere": ("sound", one_class_for_all, "dog in train"),
    "class-similar": ("sound", lambda root: add(root / "classes.txt", "D_o g\n"), "dog and D_o g"),
    "class-guessed": ("sound", lambda root: [unlabelled(root), (root / "classes.txt").unlink()], "class 1, class 2"),
    "duplicate-across-splits": ("sound", twin, f"{THIRD} in train = val/images/20.png in val"),
    "duplicate-in-split": ("sound", lambda root: picture(root / "train/images/07.png", 3), f"{THIRD} = train/images/07.png"),
    "split-empty": ("voc", lambda root: listing(root, "test"), "Main/test"),
}  # fmt: skip


def found(problems: list[Problem], code: str) -> Problem | None:
    return next((problem for problem in problems if problem.code == code), None)


def test_a_sound_set_has_no_problem(sound: Path) -> None:
    report = check(sound)
    assert report.problems == []
    assert report.ok
    assert (report.layout, report.classes, list(report.splits)) == ("masks", ("cat", "dog"), ["train", "val"])
    train = report.splits["train"]
    assert (train.pictures, train.tagged, train.partly, train.masks, train.objects, train.boxes) == (12, 12, 0, 12, 0, 0)
    assert train.tags == train.shown == {"cat": 6, "dog": 6}


@pytest.mark.parametrize("code", CODES)
def test_each_fault_is_found_by_its_code(code: str, request: pytest.FixtureRequest) -> None:
    kind, spoil, example = SPOILT[code]
    root = request.getfixturevalue(kind)
    assert found(check(root).problems, code) is None
    spoil(root)
    # Images alone are enough for R2O, so what cannot be trained is a method that needs labels.
    methods = {"aepsl": METHODS["aepsl"]} if code == "nothing-to-train" else None
    report = check(root, max_pixels=9000, methods=methods)
    problem = found(report.problems, code)
    assert problem is not None, [problem.code for problem in report.problems]
    assert any(example in item for item in problem.items), problem.items
    assert problem.count >= len(problem.items) > 0
    if problem.severity == "error":
        assert not report.ok


def test_docs_and_code_name_the_same_problems() -> None:
    page = (Path(__file__).parents[1] / "docs" / "check.md").read_text(encoding="utf-8")
    assert markdown() in page, "docs/check.md: replace its table by what `frugalseg.data.problems.markdown()` returns"


def test_a_class_whose_images_are_all_broken_stays_and_is_said(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / ("cat", "dog")[number % 2] / f"{number}.png", number)
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "9.png").write_bytes(b"no")
    report = check(tmp_path, skip_limit=0.5)
    assert (report.layout, report.classes, report.ok) == ("classes", ("ant", "cat", "dog"), True)
    assert [(item.code, item.items) for item in report.problems if item.code.startswith("class")] == [
        ("class-without-picture", ["ant"])
    ]


def test_half_broken_set_is_ok_only_if_allowed(sound: Path) -> None:
    """By the share of the list that is trained on: 3 of its 12 images, though there are 24 in all."""
    broken(sound)
    assert not check(sound).ok
    for limit, fine in ((0.2, False), (0.25, True)):
        assert check(sound, skip_limit=limit).ok == fine
        with nullcontext() if fine else pytest.raises(DataError, match="3 of 12"):
            read(sound, "train", skip_limit=limit)


def test_partial_labels_are_counted_apart(sound: Path) -> None:
    (sound / "train" / "tags.csv").write_text("00,dog\n01,?dog\n02,?dog;?cat\n")
    train = check(sound).splits["train"]
    assert (train.tagged, train.partly, train.tags) == (1, 1, {"cat": 0, "dog": 1})


def test_what_can_be_trained_follows_from_the_labels(sound: Path) -> None:
    def method(name: str, *needs: str) -> Method:
        return Method(name, "", frozenset({"image", *needs}), "semantic", "", "")

    methods = {name: method(name, *needs) for name, needs in {"none": (), "few": ("semantic",), "full": ("instances",)}.items()}
    (sound / "train" / "masks" / "03.png").unlink()
    report = check(sound, methods=methods)
    assert [(item.method, item.pictures, item.missing) for item in report.methods] == [
        ("none", 12, ()),
        ("few", 11, ()),
        ("full", 0, ("instances",)),
    ]
    assert report.ok
    assert not check(sound, methods={"full": methods["full"]}).ok


def test_only_the_training_split_counts_as_trainable(sound: Path) -> None:
    (sound / "train" / "tags.csv").unlink()
    report = check(sound, methods={"aepsl": METHODS["aepsl"]})
    assert report.splits["val"].tagged == COUNT
    assert found(report.problems, "nothing-to-train") is not None


def test_lists_are_compared_only_where_one_is_scored_on_the_other() -> None:
    names = ["Main/train", "Main/val", "Segmentation/val", "Main/trainval", "Main/cv0_train", "Segmentation/cv0_val", "Main/tags"]
    pairs = {(first[0], second[0]) for first, second in scored_pairs({name: [] for name in names})}
    assert pairs == {("Main/train", "Main/val"), ("Main/train", "Segmentation/val"), ("Main/cv0_train", "Segmentation/cv0_val")}


def test_the_report_prints_and_dumps_what_it_found(sound: Path) -> None:
    (sound / "train" / "images" / "[red]03.png").write_bytes(b"")
    report = check(sound, skip_limit=0.1)
    for text in (
        "layout masks, 2 classes",
        "train",
        "warning image-broken: 1, image left out",
        "[red]03",
        "Training may start",
    ):
        assert text in str(report)
    console = Console(width=60, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(report)
    dumped = json.loads(report.to_json())
    assert dumped["ok"] is True
    assert dumped["splits"]["val"]["tags"] == {"cat": 6, "dog": 6}
    assert {"code", "count", "items", "severity", "message", "fix"} <= set(dumped["problems"][0])


@pytest.mark.parametrize("width", [60, 80, 130])
def test_no_name_is_cut_on_a_narrow_terminal(voc: Path, width: int) -> None:
    """A name longer than its column goes on below: the letters of each column, put together, hold every name."""
    splits, classes = ["segmentation_of_pets_cv3_0_train", "cv3_10_validation_of_everything"], ["golden retriever", "x" * 50]
    for split in splits:
        listing(voc, split, *"abcd")
    for name in "abcd":
        annotate(voc, name, *classes)
    console = Console(width=width)
    with console.capture() as capture:
        console.print(check(voc))
    text = capture.get()
    assert all(len(line) <= width for line in text.splitlines())
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in text.splitlines()]
    columns = ["".join(cells) for cells in zip_longest(*rows, fillvalue="")]
    for name in ("Main/train", "Main/val", *(f"Main/{split}" for split in splits), *classes):
        assert name.replace(" ", "") in "".join(columns).replace(" ", ""), name
    assert "…" not in text.replace(", …", "")


def test_check_reports_instead_of_raising(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        report = check(path)
        assert not report.ok
        assert "Training may not start" in str(report)
        json.loads(report.to_json())


def test_built_in_images_are_sound(tmp_path: Path) -> None:
    report = check(shapes.write(tmp_path / "shapes", train=60, val=40, test=1, size=32))
    assert report.ok
    assert {problem.code for problem in report.problems} <= {"no-tags", "class-absent"}  # few images may miss a rare class


@pytest.mark.slow  # decodes 755 photos
def test_real_photos(shared_data: Path) -> None:
    report = check(shared_data / "voc20" / "VOC2012")
    assert report.ok
    assert [problem.code for problem in report.problems] == ["no-tags"]
    train = report.splits["Main/train"]
    assert (train.pictures, train.tagged, train.masks, train.objects, train.boxes) == (616, 616, 163, 163, 616)
    from_tags = {item.method: item.pictures for item in report.methods if METHODS[item.method].needs == {"image", "tags"}}
    assert from_tags == {"aepsl": 616, "pdsl": 616, "cam": 616}
