"""Masks of one model as labels of another: which objects are believed, and that the truth stays out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from torchvision.ops import box_iou

from frugalseg import config, rle
from frugalseg.config import UsageError
from frugalseg.data import Data
from frugalseg.data.weak_detection import Augmentation, TrainingItems
from frugalseg.engine.run import Run
from frugalseg.recipes.pdsl import Config
from frugalseg.recipes.runtime import Runtime
from frugalseg.regions import precompute
from frugalseg.types import Instances, Prediction, Sample
from frugalseg.workflows import pseudo_labels
from frugalseg.workflows.run_folder import read_run_info
from frugalseg.workflows.train import train

ENGINE = {"workers": 0, "accelerator": "cpu", "quiet": True, "name": "run"}
PDSL = {
    "backbone": "tiny", "frozen": 0, "channels": 8, "width": 8, "mask_channels": 8, "n_refine": 1, "n_mask": 1,
    "proposals": "grid", "count": 20, "scales": (40,), "longest": 64, "test_scales": (40,), "cue_side": 40,
    "threshold": 0.1, "steps": 2, "batch": 2,
}  # fmt: skip
R2IOS = {
    "backbone": "tiny", "frozen": 0, "channels": 8, "mask_size": 6, "code": 8, "width": 8, "iterations": 1, "proposals": "grid",
    "rois": 8, "scale": 33, "longest": 48, "batch": 2, "steps": 1, "gate_steps": 0,
}  # fmt: skip

AEPSL = {
    "backbone": "tiny", "channels": 0, "crop": 33, "rounds": 1, "plus": 0, "crf": False, "batch": 2, "classifier_epochs": 1,
    "epochs": 1, "label_loss": "squared", "segment": "cam",
}  # fmt: skip
CAM = {
    "backbone": "tiny", "crop": 33, "batch": 2, "epochs": 1, "label_loss": "squared",
}  # fmt: skip
MASKRCNN = {
    "backbone": "tiny", "frozen": 0, "stride": 16, "channels": 8, "width": 8, "mask_channels": 8, "proposals": 20, "rois": 8,
    "scale": 33, "longest": 48, "batch": 2, "steps": 1,
}  # fmt: skip
TEACHERS: dict[str, dict[str, Any]] = {"pdsl": PDSL, "aepsl": AEPSL, "cam": CAM}
FCN = {
    "backbone": "tiny", "channels": 8, "crop": 33, "batch": 2, "epochs": 1,
}  # fmt: skip
STUDENTS: dict[str, dict[str, Any]] = {"r2ios": R2IOS, "maskrcnn": MASKRCNN, "fcn": FCN}


def test_objects_far_below_the_best_of_their_class_are_not_trusted() -> None:
    scores, labels = torch.tensor([0.8, 0.5, 0.3, 0.01]), torch.tensor([1, 1, 1, 2])
    assert pseudo_labels.trusted(Instances(torch.zeros(4, 4), labels, scores)) == [0, 1, 3]


def test_connected_parts_of_a_class_mask_are_objects() -> None:
    mask = torch.zeros(20, 30, dtype=torch.uint8)
    mask[2:8, 2:8], mask[10:18, 20:28], mask[2:8, 8:14], mask[15, 3] = 1, 1, 2, 2
    found = pseudo_labels.outlines(Prediction("it", (20, 30), ("a", "b"), semantic=mask))
    assert [(item[:4], item.label, item.area) for item in found] == [
        ((2, 2, 8, 8), 1, 36),
        ((20, 10, 28, 18), 1, 64),
        ((8, 2, 14, 8), 2, 36),
    ]
    assert np.array_equal(rle.decode([found[1].rle], (20, 30))[0], ((mask == 1) & (torch.arange(30) > 15)).numpy())


def test_a_class_mask_of_objects_shows_the_best_on_top_and_no_object_that_is_not_trusted() -> None:
    masks = torch.zeros(3, 6, 9, dtype=torch.bool)
    masks[0, 1:4, 1:5], masks[1, 2:5, 3:8], masks[2, 5, :] = True, True, True
    instances = Instances(torch.zeros(3, 4), torch.tensor([2, 1, 1]), torch.tensor([0.9, 0.8, 0.1]), masks)
    expected = np.zeros((6, 9), np.uint8)
    expected[2:5, 3:8] = 1
    expected[1:4, 1:5] = 2
    found = pseudo_labels.class_mask(Prediction("it", (6, 9), ("a", "b"), instances=instances))
    assert np.array_equal(found, expected)
    semantic = torch.from_numpy(expected)
    assert np.array_equal(pseudo_labels.class_mask(Prediction("it", (6, 9), ("a", "b"), semantic=semantic)), expected)


def test_objects_survive_the_store() -> None:
    mask = torch.zeros(20, 30, dtype=torch.uint8)
    mask[2:8, 2:8], mask[10:18, 20:28] = 1, 2
    found = pseudo_labels.outlines(Prediction("it", (20, 30), ("a", "b"), semantic=mask))
    assert pseudo_labels.from_arrays(pseudo_labels.to_arrays(found)) == found
    assert pseudo_labels.from_arrays(pseudo_labels.to_arrays(())) == ()


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Data, dict[str, Path]]:
    """Images, and runs that learned from their tags."""
    out = tmp_path_factory.mktemp("teachers")
    data = toys.write(out / "pictures")
    runs = {name: train(name, data, out=str(out), **settings, **ENGINE).folder for name, settings in TEACHERS.items()}
    return data, runs


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_network_learns_from_the_masks_of_a_run_and_the_truth_stays_out(
    teacher: str, student: str, teachers: tuple[Data, dict[str, Path]], tmp_path: Path
) -> None:
    data, runs = teachers
    settings = {**STUDENTS[student], **ENGINE, "masks_from": str(runs[teacher])}
    one = train(student, data.only("image", "tags"), out=str(tmp_path / "a"), **settings)
    other = train(student, toys.shuffled(data), out=str(tmp_path / "b"), **settings)
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    (note,) = read_run_info(one.folder)["extra_supervision"]
    assert teacher in note
    assert "learned from tags" in note


@pytest.mark.parametrize("teacher", ["cam", "aepsl"])
def test_pdsl_begins_with_the_objects_of_a_run(teacher: str, teachers: tuple[Data, dict[str, Path]], tmp_path: Path) -> None:
    """They are of its images and proposals, mirrored with them, and the truth stays out."""
    data, runs = teachers
    settings = {**TEACHERS["pdsl"], **ENGINE, "start_from": str(runs[teacher])}
    one = train("pdsl", data.only("image", "tags"), out=str(tmp_path / "a"), **settings)
    other = train("pdsl", toys.shuffled(data), out=str(tmp_path / "b"), **settings)
    alone = train("pdsl", data, out=str(tmp_path / "c"), **(settings | {"start_from": None}))
    ours, theirs, without = (run.network.state_dict() for run in (one, other, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not all(torch.equal(ours[name], without[name]) for name in ours)
    (note,) = read_run_info(one.folder)["extra_supervision"]
    assert teacher in note
    assert "learned from tags" in note


@pytest.mark.parametrize("crop", [1.0, 0.9])
@pytest.mark.parametrize("flip", [False, True])
def test_the_objects_of_a_run_become_the_nearest_proposals(
    flip: bool, crop: float, teachers: tuple[Data, dict[str, Path]], tmp_path: Path
) -> None:
    data, _ = teachers
    recipe = Config(**PDSL, crop=crop)
    run = Run(tmp_path / "run", Runtime(quiet=True, workers=0, accelerator="cpu"))
    boxes = precompute.stored_proposals(data, recipe.proposals, recipe.count, run)
    augmentation = Augmentation(recipe.scales, recipe.longest, recipe.flip, recipe.crop, recipe.jitter)
    for index in range(len(data)):
        torch.manual_seed(index)
        item = TrainingItems(data, boxes, augmentation, recipe.cue_side, data).item(index, recipe.scales[0], flip)
        truth = data.boxed(index)
        assert item["starts"][:, 1].tolist() == truth.labels.tolist()
        overlaps = box_iou(truth.boxes, item["original_proposals"])
        assert overlaps[range(len(truth)), item["starts"][:, 0]].tolist() == overlaps.amax(1).tolist()
        assert bool((item["starts"][:, 0] < len(item["proposals"])).all())


def test_masks_are_made_once_and_again_only_where_they_are_missing(
    teachers: tuple[Data, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, runs = teachers
    asked: list[str] = []

    def counted(sample: Sample) -> str:
        asked.append(sample.name)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return told_tags(sample)

    told_tags = pseudo_labels.told_tags
    monkeypatch.setattr(pseudo_labels, "told_tags", counted)
    settings = {**STUDENTS["r2ios"], **ENGINE, "masks_from": str(runs["aepsl"]), "out": str(tmp_path)}
    with pytest.raises(KeyboardInterrupt):
        train("r2ios", data, **settings)
    again = train("r2ios", data, **settings)
    assert asked == [*data.names[:4], *data.names[3:]]
    assert train("r2ios", data, **settings).folder == again.folder
    assert len(asked) == 7, "the finished run asks for nothing"
    assert config.read(again.folder / "config.yaml")["masks_from"] == str(runs["aepsl"])


def test_class_masks_are_the_models_own(teachers: tuple[Data, dict[str, Path]], tmp_path: Path) -> None:
    data, runs = teachers
    model, run = (
        pseudo_labels.load_teacher(runs["aepsl"], data.classes),
        Run(tmp_path, Runtime(quiet=True, workers=0, accelerator="cpu")),
    )
    labelled = pseudo_labels.pseudo_labelled(data, model, run, label="semantic")
    assert labelled.offers == {"image", "tags", "semantic"}
    for index, (_, prediction) in enumerate(model.stream(data.only("image", "tags"), tags="given")):
        assert torch.equal(labelled[index].semantic.long(), prediction.semantic.long())


def test_teachers_that_cannot_teach_are_refused(teachers: tuple[Data, dict[str, Path]], tmp_path: Path) -> None:
    data, runs = teachers
    renamed = Data(data.root, data.layout, data.split, ("pear", "plum", "fig"), data.records)
    with pytest.raises(UsageError, match="knows apple, berry, cherry; the images have pear, plum, fig"):
        train("r2ios", renamed, out=str(tmp_path), **{**STUDENTS["r2ios"], **ENGINE}, masks_from=str(runs["aepsl"]))
    blind = train("cam", data, out=str(tmp_path / "blind"), **{**TEACHERS["cam"], "label_loss": "bce"}, **ENGINE)
    with torch.no_grad():
        blind.network.fc.weight.fill_(-1.0)
    run = Run(tmp_path / "run", Runtime(quiet=True, workers=0, accelerator="cpu"))
    with pytest.raises(UsageError, match="no object in any of 6 images"):
        pseudo_labels.pseudo_labelled(data, blind, run)
