"""The built-in image set: what a seed promises, what the labels promise, what is hard about it, and what lies on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from frugalseg.data import shapes
from frugalseg.types import IGNORE, Sample

SIZE, COUNT = 64, 240
RECIPE = {"train": 5, "val": 3, "test": 2, "seed": 4, "size": SIZE, "void": True, "quiet": True}
INDEX = {name: number for number, name in enumerate(shapes.CLASSES)}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [shapes.draw(index, size=SIZE) for index in range(COUNT)]


@pytest.fixture(scope="module")
def badges() -> list[torch.Tensor]:
    return [shapes.badges(index, size=SIZE) for index in range(COUNT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.write(tmp_path_factory.mktemp("sets") / "toys", **RECIPE)


def same(one: Sample, other: Sample) -> bool:
    return torch.equal(one.image, other.image) and torch.equal(one.semantic, other.semantic)


def test_a_picture_depends_on_seed_split_and_index_alone(samples: list[Sample]) -> None:
    assert all(same(samples[index], shapes.draw(index, size=SIZE)) for index in (7, 0, 3))
    others = [shapes.draw(3, size=SIZE, split="val"), shapes.draw(3, size=SIZE, seed=1), samples[4]]
    assert not any(same(samples[3], other) for other in others)


def test_another_process_draws_the_same_pixels(samples: list[Sample]) -> None:
    code = f"from frugalseg.data import shapes; print(shapes.draw(5, size={SIZE}).image.sum(0).tolist())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "123"}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == samples[5].image.sum(0).tolist()


def test_size_is_only_resolution(samples: list[Sample]) -> None:
    for index in range(6):
        large = shapes.draw(index, size=4 * SIZE)
        assert torch.equal(large.tags, samples[index].tags)
        assert (large.semantic[2::4, 2::4] == samples[index].semantic).float().mean() > 0.97
        shrunk = large.image.float().unflatten(1, (SIZE, 4)).unflatten(3, (SIZE, 4)).mean((2, 4))
        assert (shrunk - samples[index].image).abs().mean() < 10


def test_the_labels_of_a_picture_agree(samples: list[Sample]) -> None:
    for sample in samples:
        masks, labels = sample.instances.masks, sample.instances.labels
        assert masks.any(dim=(1, 2)).all()
        assert masks.sum(0).max() == 1
        assert torch.equal((masks * labels[:, None, None]).sum(0), sample.semantic)
        assert (sample.tags.nonzero().flatten() + 1).tolist() == labels.unique().tolist()
        for mask, box in zip(masks.numpy(), sample.instances.boxes.tolist(), strict=True):
            rows, columns = np.nonzero(mask)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_void_is_a_closed_line_between_things(samples: list[Sample]) -> None:
    lined = shapes.draw(2, size=SIZE, void=True).semantic.numpy()
    plain = samples[2].semantic.numpy()
    assert ((lined == plain) | (lined == IGNORE)).all()
    for axis in (0, 1):
        length = SIZE - 1
        first, second = lined.take(range(length), axis), lined.take(range(1, SIZE), axis)
        assert ((first == second) | (first == IGNORE) | (second == IGNORE)).all()
    assert 0 < (lined == IGNORE).mean() < 0.15


def test_twelve_pictures_in_a_row_show_every_class(samples: list[Sample]) -> None:
    assert len(shapes.CLASSES) >= 12
    for start in (0, 5, 100):
        assert torch.stack([sample.tags for sample in samples[start : start + 12]]).amax(0).all()


def test_numbers_of_classes_and_objects(samples: list[Sample]) -> None:
    tags = torch.stack([sample.tags for sample in samples])
    assert set(tags.sum(1).tolist()) == {1, 2, 3}
    assert {len(sample.instances) for sample in samples} == {1, 2, 3, 4}
    assert 1 / 12 <= tags.mean(0).min() <= tags.mean(0).max() < 0.25
    assert 0.15 < torch.stack([sample.semantic > 0 for sample in samples]).float().mean() < 0.4


def test_companions_meet_more_often_than_chance(samples: list[Sample]) -> None:
    tags = torch.stack([sample.tags for sample in samples])
    frequency = tags.mean(0)
    lift = (tags.T @ tags / COUNT) / (frequency[:, None] * frequency)
    pairs = [(INDEX[one], INDEX[other]) for one, other in (("boat", "fish"), ("car", "house"), ("mushroom", "snail"))]
    assert min(lift[pair] for pair in pairs) > 1.5
    strangers = 1 - torch.eye(12)
    for one, other in pairs:
        strangers[one, other] = strangers[other, one] = 0
    assert (lift * strangers).sum() / strangers.sum() < 1


def test_boats_imply_water(samples: list[Sample]) -> None:
    def is_watery(sample: Sample) -> bool:
        ground = sample.image.float()[:, SIZE // 2 :][:, sample.semantic[SIZE // 2 :] == 0]
        return bool((ground[2] - ground[0]).median() > 30)  # more blue than red

    watery = np.array([is_watery(sample) for sample in samples])
    boats = np.array([bool(sample.tags[INDEX["boat"]]) for sample in samples])
    assert watery[boats].mean() > 0.6
    assert watery[~boats].mean() < 0.4


def test_objects_differ_threefold_in_size_and_overlap_their_like(samples: list[Sample]) -> None:
    sides = torch.cat([(sample.instances.boxes[:, 2:] - sample.instances.boxes[:, :2]).amax(1) for sample in samples])
    assert sides.quantile(0.97) / sides.quantile(0.03) > 2.5
    assert np.mean([overlap_alike(sample) for sample in samples]) > 0.25


def overlap_alike(sample: Sample) -> bool:
    """Whether boxes of two objects of one class share pixels."""
    objects = list(zip(sample.instances.boxes.tolist(), sample.instances.labels.tolist(), strict=True))
    return any(
        mine == yours and max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])
        for i, (a, mine) in enumerate(objects)
        for b, yours in objects[:i]
    )


def test_badges_are_small_parts_of_objects(samples: list[Sample], badges: list[torch.Tensor]) -> None:
    semantic, badge = torch.stack([sample.semantic for sample in samples]), torch.stack(badges)
    assert not (badge & (semantic == 0)).any()
    share = [(badge & (semantic == label)).sum() / (semantic == label).sum() for label in range(1, 13)]
    assert min(share) > 0.02
    assert max(share) < 0.2


def test_colour_tells_the_badge_far_better_than_the_body(samples: list[Sample], badges: list[torch.Tensor]) -> None:
    """The nearest class mean tells badges apart by their average colour, and bodies poorly."""
    seen = [
        (sample.image.float(), badge & (sample.semantic == label), (sample.semantic == label) & ~badge, int(label))
        for sample, badge in zip(samples, badges, strict=True)
        for label in sample.instances.labels.unique()
        if (badge & (sample.semantic == label)).sum() >= 8
    ]
    labels = np.array([label for *_, label in seen])
    on_badge = np.stack([image[:, badge].mean(1).numpy() for image, badge, *_ in seen])
    on_body = np.stack([image[:, body].mean(1).numpy() for image, _, body, _ in seen])
    assert nearest_mean_accuracy(on_badge, labels) > 0.75
    assert nearest_mean_accuracy(on_body, labels) < 0.4


def nearest_mean_accuracy(colours: np.ndarray, labels: np.ndarray) -> float:
    """Class means from the first half of the colours, (N, 3); the second half goes to the nearest."""
    half = len(labels) // 2
    means = np.stack([colours[:half][labels[:half] == label].mean(0) for label in range(1, 13)])
    guesses = np.linalg.norm(colours[half:, None] - means, axis=2).argmin(1) + 1
    return float((guesses == labels[half:]).mean())


@pytest.mark.parametrize("arguments", [{"index": -1}, {"index": 0, "seed": -1}, {"index": 0, "size": 31}])
def test_impossible_pictures_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected index and seed from 0, size from 32"):
        shapes.draw(**arguments)


def test_voc_layout_holds_what_was_drawn(folder: Path) -> None:
    assert (folder / "classes.txt").read_text().split() == list(shapes.CLASSES)
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        names = (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        assert names == (folder / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        assert len(names) == count
        for index, name in enumerate(names):
            check_voc_picture(folder, name, shapes.draw(index, seed=4, size=SIZE, split=split, void=True))
    assert len((folder / "ImageSets" / "Main" / "trainval.txt").read_text().split()) == 8


def check_voc_picture(folder: Path, name: str, sample: Sample) -> None:
    image = np.asarray(Image.open(folder / "JPEGImages" / f"{name}.jpg"))
    assert np.abs(image.astype(float) - sample.image.permute(1, 2, 0).numpy()).mean() < 4
    semantic = Image.open(folder / "SegmentationClass" / f"{name}.png")
    assert semantic.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
    assert semantic.getpalette()[-3:] == [224, 224, 192]
    assert np.array_equal(semantic, sample.semantic)
    objects = np.asarray(Image.open(folder / "SegmentationObject" / f"{name}.png"))
    assert np.array_equal(objects == IGNORE, sample.semantic == IGNORE)
    root = ElementTree.parse(folder / "Annotations" / f"{name}.xml")
    entries = root.findall("object")
    assert [entry.findtext("name") for entry in entries] == [shapes.CLASSES[label - 1] for label in sample.instances.labels]
    for number, (entry, mask) in enumerate(zip(entries, sample.instances.masks.numpy(), strict=True), start=1):
        assert np.array_equal(objects == number, mask & (objects != IGNORE))
        rows, columns = np.nonzero(mask)
        box = [int(entry.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")]
        assert box == [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]  # VOC counts from 1


def test_coco_annotations_are_read_by_pycocotools(folder: Path) -> None:
    coco = COCO(folder / "annotations" / "instances_val.json")
    assert {entry["id"]: entry["name"] for entry in coco.cats.values()} == dict(enumerate(shapes.CLASSES, start=1))
    assert len(coco.imgs) == 3
    for index, (number, image) in enumerate(coco.imgs.items()):
        sample = shapes.draw(index, seed=4, size=SIZE, split="val")
        assert (folder / image["file_name"]).is_file()
        found = coco.loadAnns(coco.getAnnIds(number))
        assert [entry["category_id"] for entry in found] == sample.instances.labels.tolist()
        for entry, mask in zip(found, sample.instances.masks.numpy(), strict=True):
            assert np.array_equal(coco.annToMask(entry), mask)
            x, y, width, height = map(int, entry["bbox"])
            assert entry["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()


def test_writing_again_does_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    shapes.write(folder, **RECIPE)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_interrupted_set_is_finished_when_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("frugalseg.data.shapes.writing._write_lists", stop)
        with pytest.raises(KeyboardInterrupt):
            shapes.write(tmp_path, train=2, val=0, test=0, size=32, quiet=True)
    with pytest.raises(FileExistsError, match=r"another image set: train=2 \(asked for: 3\)"):
        shapes.write(tmp_path, train=3, val=0, test=0, size=32, quiet=True)
    shapes.write(tmp_path, train=2, val=0, test=0, size=32, quiet=True)
    assert (tmp_path / "ImageSets" / "Main" / "train.txt").read_text() == "train_00000\ntrain_00001\n"
    assert json.loads((tmp_path / "shapes.json").read_text())["finished"]


@pytest.mark.parametrize("content", ["", "[]", '{"made_by": "someone else"}', '{"finished": true}'])
def test_a_foreign_folder_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "shapes.json").write_text(content)
    with pytest.raises(FileExistsError, match="name"):
        shapes.write(tmp_path, train=1, val=0, test=0, quiet=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["shapes.json"]
    assert (tmp_path / "shapes.json").read_text() == content


def test_a_file_in_the_way_and_no_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(FileExistsError):
        shapes.write(tmp_path / "notes", train=1)
    with pytest.raises(ValueError, match="at least one image"):
        shapes.write(tmp_path / "new", train=0, val=0, test=0)
    assert not (tmp_path / "new").exists()
