"""Prediction and evaluation from other proposals than those of the training, by command and in Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_cam
import test_maskrcnn
import test_pdsl
import test_r2ios
import torch
import toys
from fakes import Answers

import frugalseg
from frugalseg import cli
from frugalseg.config import UsageError
from frugalseg.data import Data, read, shapes
from frugalseg.inference.predictor import Predictor
from frugalseg.methods import METHODS, maskrcnn
from frugalseg.methods.cam import CAM
from frugalseg.methods.r2ios import R2IOS
from frugalseg.regions import proposals
from frugalseg.regions.boxfiles import BoxFileError
from frugalseg.types import Instances, Prediction, Sample

IMAGE = torch.randint(0, 255, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / "cache"))


def boxes_of(data: Data, file: Path, count: int) -> Path:
    """A file of boxes of all images of a data set."""
    np.savez(file, **{name: proposals.grid(data.image(index), count).numpy() for index, name in enumerate(data.names)})
    return file


def made(kind: type, method: str, config: Any) -> Predictor:
    torch.manual_seed(0)
    return Predictor(METHODS[method], kind(config, toys.CLASSES).eval(), toys.CLASSES)


def same(one: Prediction, other: Prediction) -> bool:
    found: list[Instances] = [prediction.instances for prediction in (one, other) if prediction.instances is not None]
    first, second = found
    return len(first) > 0 and first.boxes.equal(second.boxes) and first.rles == second.rles


def test_a_model_of_box_files_sees_other_images_by_other_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shapes.write(tmp_path / "set", train=2, val=2, test=0, size=48, quiet=True)
    train, val = read(root, split="Main/train"), read(root, split="Segmentation/val")
    test_pdsl.fitted(train, tmp_path, proposals=str(boxes_of(train, tmp_path / "train.npz", 20)))
    run, photo = tmp_path / "pdsl" / "run", val.records[0].image
    with pytest.raises(BoxFileError, match=r"no boxes of the image .*--proposals selective_search\|grid\|random\|FILE"):
        frugalseg.load(run, "cpu").predict(photo)

    (found,) = frugalseg.load(run, "cpu", proposals="grid").predict(photo)
    own = Sample(photo.stem, val.image(0), proposals=proposals.grid(val.image(0), 20))
    assert same(found, frugalseg.load(run, "cpu").predict(own)[0])

    out = tmp_path / "out"
    assert cli.main(["predict", str(run), str(photo), "--proposals", "grid", "--out", str(out), "--quiet"]) == 0
    assert len(json.loads((out / "results.json").read_text())) == len(found.instances)

    other = boxes_of(val, tmp_path / "val.npz", 5)
    assert cli.main(["evaluate", str(run), str(root), "--split", val.split, "--proposals", str(other), "--quiet"]) == 0
    scores = json.loads((run / "metrics.json").read_text())
    assert {record["proposals"] for record in scores.values()} == {str(other)}
    assert all("|Segmentation/val+proposals=val.npz|" in protocol for protocol in scores)
    assert cli.main(["evaluate", str(run), str(root), "--split", val.split, "--proposals", "gird", "--quiet"]) == 2
    assert "got 'gird'; expected selective_search, grid, random, or a file or folder" in capsys.readouterr().err


def test_given_boxes_take_the_place_of_learned_ones() -> None:
    predictor = made(R2IOS, "r2ios", replace(test_r2ios.TINY, proposals="rpn", undecided="keep"))
    learned, own = (
        predictor.predict(IMAGE),
        Sample("picture", IMAGE, proposals=proposals.grid(IMAGE, predictor.network.config.count)),
    )
    given = predictor.predict(own)
    predictor = predictor.with_proposals("rpn")
    assert same(predictor.predict(IMAGE)[0], learned[0])
    trained = predictor.network
    predictor = predictor.with_proposals("grid")
    assert same(predictor.predict(IMAGE)[0], given[0])
    assert (trained.config.proposals, predictor.network.config.proposals) == ("rpn", "grid"), "the model itself stays"
    assert not same(learned[0], given[0])
    with pytest.raises(UsageError, match="got 'rpn'; expected"):
        predictor = predictor.with_proposals("rpn")


def test_models_that_look_at_no_proposals_say_so() -> None:
    numbered = made(maskrcnn.MaskRCNN, "maskrcnn", test_maskrcnn.TINY)
    parts, without = made(CAM, "cam", test_cam.TINY), Predictor(METHODS["aepsl"], Answers(()), ())
    for predictor in (numbered, parts, without):
        with pytest.raises(UsageError, match=rf"model of {predictor.method.name} takes none; leave --proposals out"):
            predictor.with_proposals("grid")
    boxes = made(CAM, "cam", replace(test_cam.TINY, objects="proposal", proposals="boxes.npz"))
    boxes = boxes.with_proposals("random")
    assert boxes.proposals == "random"


def test_boxes_of_whole_images_are_refused_in_tiles() -> None:
    predictor = made(R2IOS, "r2ios", replace(test_r2ios.TINY, proposals="boxes.npz"))
    with pytest.raises(UsageError, match=r"boxes of whole images; type --proposals selective_search with --tile"):
        next(predictor.stream(IMAGE, tile=32))
    predictor = predictor.with_proposals("grid")
    ((_, found),) = predictor.stream(IMAGE, tile=32)
    assert found.size == (40, 50)
