"""Class activation maps as objects: connected parts and nearest proposals by hand, and what the method may not look at."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from PIL import Image
from torch import Tensor

from frugalseg import cli, rle
from frugalseg.data import Data, read, shapes
from frugalseg.methods import cam
from frugalseg.methods.cam import CAM
from frugalseg.recipes.cam import Config
from frugalseg.types import Sample
from frugalseg.workflows.run_folder import read_run_info
from frugalseg.workflows.train import train

TINY = Config(
    backbone="tiny", crop=32, batch=2, epochs=1, lr=0.01, head_lr=0.01, min_score=0.0, proposals="grid", count=50, cue_side=40
)
ENGINE = {"workers": 0, "accelerator": "cpu", "quiet": True, "name": "run"}
SIZE = (20, 30)


def blobs() -> np.ndarray:
    """A map with a high blob of 6 × 6, a lower one of 4 × 8 whose corner meets one of 2 × 2, and specks, on a negative ground."""
    values = np.full(SIZE, -0.5, np.float32)
    values[2:8, 2:8], values[10:14, 12:20], values[14:16, 20:22], values[18, 28], values[2, 20] = 2.0, 1.0, 0.7, 1.0, 0.3
    return values


class Fixed(CAM):
    """A network whose maps and confidences are fixed."""

    def __init__(self, fixed: Tensor, v: Tensor, **settings: Any) -> None:
        super().__init__(replace(TINY, **settings), toys.CLASSES)
        self.fixed, self.v = fixed, v

    def localize(self) -> list[cam.Detection]:
        return self.localized(self.fixed, self.v, range(len(self.v)), SIZE)


def fixed(**settings: Any) -> Fixed:
    empty, other = np.full(SIZE, -1.0, np.float32), np.zeros(SIZE, np.float32)
    other[10:14, 12:21] = 5.0
    return Fixed(torch.from_numpy(np.stack([blobs(), empty, other])), torch.tensor([0.8, 0.9, 0.3]), **settings)


def test_parts_are_what_is_connected_above_a_share_of_the_maximum() -> None:
    parts = cam.connected_parts(blobs(), fraction=0.2, smallest=0.01)
    assert [peak for _, peak in parts] == [1.0, 0.5]
    assert rle.boxes([code for code, _ in parts]).tolist() == [[2, 2, 8, 8], [12, 10, 22, 16]]
    assert rle.areas([code for code, _ in parts]).tolist() == [36, 36]
    specks = cam.connected_parts(blobs(), fraction=0.1, smallest=0.0)
    assert sorted(rle.areas([code for code, _ in specks]).tolist()) == [1, 1, 36, 36]
    (largest, _), *others = cam.connected_parts(blobs()[:, 9:], fraction=0.2, smallest=1.0)
    assert rle.areas([largest]).tolist() == [36]
    assert others == []
    assert cam.connected_parts(np.zeros(SIZE, np.float32), 0.2, 0.0) == []


def test_objects_score_the_confidence_of_their_class_times_their_peak() -> None:
    objects = fixed().localize()
    assert [item.label for item in objects] == [1, 1, 3]
    assert [item.score for item in objects] == pytest.approx([0.8, 0.4, 0.3])
    assert [list(item.box) for item in objects] == [[2, 2, 8, 8], [12, 10, 22, 16], [12, 10, 21, 14]]
    assert len(fixed(detections=1).localize()) == 1


def test_an_object_becomes_its_nearest_proposal_and_a_proposal_is_one_object_of_a_class(tmp_path: Path) -> None:
    boxes = torch.tensor([[1.0, 1, 9, 9], [12, 9, 22, 15], [0, 0, 30, 20]])
    ids = np.zeros(SIZE, np.uint8)
    ids[3:7, 3:7], ids[11:13, 13:22] = 1, 2
    Image.fromarray(ids).save(tmp_path / "it.png")
    sample = Sample("it", torch.zeros(3, *SIZE, dtype=torch.uint8), proposals=boxes)
    model = fixed(objects="proposal", cue=str(tmp_path))
    objects = model.proposed(sample, model.localize())
    assert [(item.label, list(item.box)) for item in objects] == [
        (1, [1, 1, 9, 9]),
        (1, [12, 9, 22, 15]),
        (3, [12, 9, 22, 15]),
    ]
    assert rle.areas([item.code for item in objects]).tolist() == [16, 18, 18]
    whole = model.proposed(replace(sample, proposals=boxes[2:]), model.localize())
    assert [(item.label, item.score) for item in whole] == [(1, pytest.approx(0.8)), (3, pytest.approx(0.3))]
    assert len(model.proposed(replace(sample, proposals=boxes[:0]), model.localize())) == 2, "the image stands in"


@pytest.mark.parametrize("kind", ["parts", "proposal"])
def test_given_tags_make_objects_of_their_classes_alone(kind: str) -> None:
    torch.manual_seed(0)
    model = CAM(replace(TINY, objects=kind, min_score=0.999), toys.CLASSES)
    torch.nn.init.normal_(model.fc.weight, std=5.0)
    image = torch.randint(0, 255, (3, 40, 48), dtype=torch.uint8)
    (free,) = model.predict([Sample("it", image)])
    (told,) = model.predict([Sample("it", image, tags=torch.tensor([1.0, 0.0, 1.0]))], tags="given")
    assert set(told.instances.labels.tolist()) <= {1, 3}
    assert len(told.instances)
    assert (free.instances.scores >= 0).all()
    with pytest.raises(ValueError, match="needs the image's tags"):
        model.predict([Sample("it", image)], tags="given")


@pytest.mark.parametrize("scales", [(1.0,), (0.7, 1.3)])
def test_a_batch_of_images_gives_the_objects_of_each_alone(scales: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    model = CAM(replace(TINY, cam_scales=scales, cam_flip=True), toys.CLASSES).eval()
    torch.nn.init.normal_(model.fc.weight, std=5.0)
    samples = [Sample(f"image{i}", torch.randint(0, 255, (3, 40, 48), dtype=torch.uint8)) for i in range(2)]
    with torch.no_grad():
        together = model.predict_batch([model.preprocess(sample) for sample in samples], samples)
    for one, other in zip(model.predict(samples), together, strict=True):
        assert len(one.instances) > 0
        torch.testing.assert_close(one.tags, other.tags, atol=1e-4, rtol=0)
        torch.testing.assert_close(one.instances.scores, other.instances.scores, atol=1e-4, rtol=0)
        overlaps = [float(rle.overlaps([a], [b])[0, 0]) for a, b in zip(one.instances.rles, other.instances.rles, strict=True)]
        assert min(overlaps) > 0.99


def test_masks_and_boxes_of_other_images_change_nothing(tmp_path: Path) -> None:
    def fitted(data: Data, out: Path) -> dict[str, Tensor]:
        settings = {field.name: getattr(TINY, field.name) for field in fields(TINY)}
        return train("cam", data, out=str(out), **settings, **ENGINE).network.state_dict()

    data = toys.write(tmp_path / "images")
    one, other = fitted(data, tmp_path / "a"), fitted(toys.shuffled(data), tmp_path / "b")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_came_in_beside_the_tags_is_said() -> None:
    assert replace(TINY, proposals="mcg/", cue="masks/").external_supervision == ()
    told = replace(TINY, weights="w.pth", proposals="mcg/", cue="masks/", objects="proposal").external_supervision
    assert [note.split()[0] for note in told] == ["backbone", "proposals", "masks"]
    with pytest.raises(ValueError, match=r"(?s)fraction=2.*cam_scales"):
        replace(TINY, fraction=2, cam_scales=())


def test_cams_of_known_tags_become_the_cue_of_pdsl_by_three_commands(tmp_path: Path) -> None:
    root = shapes.write(tmp_path / "set", train=4, val=0, test=0, size=48, quiet=True)
    engine = ["--workers", "0", "--accelerator", "cpu", "--quiet", "--val", "", "--out", str(tmp_path), "--name", "run"]
    small = ["--split", "Main/train", "--backbone", "tiny", "--batch", "2", *engine]
    assert cli.main(["train", "cam", str(root), *small, "--crop", "48", "--epochs", "1", "--label-loss", "squared"]) == 0
    words = ["predict", str(tmp_path / "cam" / "run"), str(root), "--tags", "given", "--split", "Main/train", "--min-score", "0"]
    assert cli.main([*words, "--out", str(tmp_path / "cams"), "--no-overlays", "--quiet"]) == 0
    data = read(root, split="Main/train")
    rows = (tmp_path / "cams" / "tags.csv").read_text().splitlines()[1:]
    found = torch.tensor([[float(value) for value in row.split(",")[1:]] for row in rows])
    assert found.any()
    assert not found[data.tags == 0].any(), "other classes are none"
    masks = tmp_path / "cams" / "objects"
    light = [
        "--proposals",
        "grid",
        "--count",
        "20",
        "--scales",
        "[48]",
        "--test-scales",
        "[48]",
        "--longest",
        "64",
        "--steps",
        "2",
    ]
    heads = ["--width", "8", "--channels", "8", "--mask-channels", "8", "--frozen", "0"]
    maps = str(tmp_path / "cam" / "run")
    assert cli.main(["train", "pdsl", str(root), *small, *light, *heads, "--cue", str(masks), "--weights", maps]) == 0
    weights, cue, before = read_run_info(tmp_path / "pdsl" / "run")["extra_supervision"]
    assert str(masks) in cue
    assert (weights, before) == (f"backbone weights {maps}", f"{maps} learned from tags")
