"""What is said of backbones that saw no label: the overlap with human maps by hand, the files, and the page."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import page, paths, results, unsupervised
from benchmarks.sections import unsupervised as section
from benchmarks.statistics import mean_interval
from frugalseg import rle
from frugalseg.data import shapes
from frugalseg.metrics import bootstrap
from frugalseg.workflows.train import train

SMALL = {"parts_side": 48, "segments": 9, "side": 48, "mask_side": 48, "chunk": 2}
TINY = {"backbone": "tiny", "output_stride": 16}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images with two human maps each, drawn images with masks, and small settings."""
    shapes.write(tmp_path / "data" / "voc20" / "VOC2012", train=1, val=3, test=0, size=48, quiet=True)
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "data" / "bsds500" / name).mkdir(parents=True)
    for index in range(3):
        pixels = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "bsds500" / "images" / f"{index}.jpg")
        maps = {f"arr_{person}": random.integers(1, 4, (30, 40), dtype=np.uint16) for person in range(2)}
        np.savez(tmp_path / "data" / "bsds500" / "labels" / f"{index}.npz", **maps)
    monkeypatch.setenv("FRUGALSEG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(unsupervised, "MEASURED", unsupervised.MEASURED | SMALL)
    monkeypatch.setattr(unsupervised, "STARTS", tuple(unsupervised.Start("random-tiny", TINY, seed=seed) for seed in (0, 1)))
    return tmp_path


def test_the_best_overlaps_by_hand() -> None:
    left_right = torch.tensor([[0, 0, 1, 1]] * 4)
    halves = rle.from_ids(np.array([[1, 1, 2, 2]] * 4))[1]
    top_bottom = rle.from_ids(np.array([[1] * 4] * 2 + [[2] * 4] * 2))[1]
    corner = rle.from_ids(np.array([[1, 1, 2, 2]] * 2 + [[2] * 4] * 2))[1]  # 4 pixels within a half of 8, and the 12 others
    assert unsupervised.best_overlap(left_right, [halves]) == 1
    assert unsupervised.best_overlap(left_right, [top_bottom]) == pytest.approx(1 / 3)
    assert unsupervised.best_overlap(left_right, [halves, corner]) == pytest.approx((1 + (4 / 8 + 8 / 12) / 2) / 2)
    assert unsupervised.best_overlap(torch.tensor([[0, 1]]), [halves]) == 1, "a smaller label map is stretched"


def test_the_interval_is_that_of_the_mean_over_seeds_under_the_same_draws() -> None:
    values = np.random.default_rng(0).random((20, 3))
    counts = np.concatenate([*bootstrap.draws(20, 2000, 0)])
    drawn = [np.mean([np.average(values[:, seed], weights=row) for seed in range(3)]) for row in counts]
    low, high = np.quantile(drawn, [0.025, 0.975])
    expected = {"mean": values.mean(), "low": low, "high": high, "level": 0.95}
    assert mean_interval(values) == pytest.approx(expected, abs=1e-5)


def test_starts_are_measured_once_and_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(
        "r2o", place / "data" / "bsds500" / "images", **TINY, side=32, prior="whole", refine="none", batch=3, epochs=1, hidden=8,
        width=4, split="", val="", quiet=True, workers=0, accelerator="cpu", seed=7, out=str(place / "runs"), name="begun",
    ).folder  # fmt: skip
    assert unsupervised.main(["--quiet", "--run", f"r2o={run}"]) == 0
    records = results.read(place / "results")
    assert set(records) == {f"r2o/unsupervised/{name}" for name in ("random-tiny-seed0", "random-tiny-seed1", "r2o-seed7")}
    for record in records.values():
        assert record["foreground"]["protocol"] == "iou|foreground|voc20|Segmentation/val|n=3"
        assert record["regions"]["protocol"] == "abo|maps|images|bsds500|all|n=3"
        for part in ("foreground", "regions"):
            for column, value in enumerate(record[part]["values"].values()):
                assert value["mean"] == pytest.approx(np.mean([row[column] for row in record[part]["rows"]]), abs=1e-5)
                assert 0 <= value["low"] <= value["mean"] <= value["high"] <= 1
        assert record["settings"]["parts_side"] == 48, "the same for all, whatever a run's own"
        assert str(place) not in str(record)
    learned, first, second = (records[name] for name in sorted(records))
    assert first["foreground"]["rows"] != second["foreground"]["rows"], "another seed, other random numbers"
    superpixels = [[row[0] for row in record["regions"]["rows"]] for record in records.values()]
    assert superpixels[0] == superpixels[1] == superpixels[2]
    assert learned["start"]["knowledge"] == "no labels"
    text = "\n\n".join(section.section(records))
    rows = [line for line in text.splitlines() if line.startswith(("| random-tiny | none |", "| r2o | no labels |"))]
    assert [row.split("|")[-2].strip() for row in rows] == ["1", "2", "1", "2"]
    both = [np.mean([record["regions"]["rows"] for record in part], 0)[:, 1].mean() for part in ([learned], [first, second])]
    apart = [line for line in text.splitlines() if line.startswith("| r2o − random-tiny |")]
    assert f"| {100 * (both[0] - both[1]):+.2f} [" in apart[1]
    capsys.readouterr()
    assert unsupervised.main(["--quiet", "--only", "random"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"random-tiny, seed {seed}: finished" for seed in (0, 1)]
    assert section.section({}) == []
    assert text in page.render((), records, {})


def test_what_is_not_there_is_said(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(unsupervised, "STARTS", (unsupervised.Start("imagenet", TINY, "weights/none.pth"),))
    assert unsupervised.main([]) == 0
    assert "not run: weights/none.pth is not in" in capsys.readouterr().out
    monkeypatch.setenv("FRUGALSEG_DATA", str(place))
    assert unsupervised.main([]) == 1
    for wrong in ("r2o", f"r2o={place}", "a/b=c"):
        with pytest.raises(argparse.ArgumentTypeError):
            unsupervised.start_of_run(wrong)


def test_the_settings_that_all_share_are_the_methods_own() -> None:
    assert {start.knowledge for start in unsupervised.STARTS if not start.weights} == {"none"}
    assert all("supervised" in start.knowledge for start in unsupervised.STARTS if start.weights)
