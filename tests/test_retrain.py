"""Masks of one model as labels of another: which objects are believed, and that the truth stays out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import toys

from frugalseg import retrain, rle
from frugalseg.recipes.pdsl import Config
from frugalseg.training import recall, train
from frugalseg.types import CompactInstances, Prediction

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


def test_objects_far_below_the_best_of_their_class_are_not_believed() -> None:
    scores, labels = torch.tensor([0.8, 0.5, 0.3, 0.01]), torch.tensor([1, 1, 1, 2])
    assert retrain.believed(CompactInstances(torch.zeros(4, 4), labels, scores)) == [0, 1, 3]


def test_connected_parts_of_a_class_mask_are_objects() -> None:
    mask = torch.zeros(20, 30, dtype=torch.uint8)
    mask[2:8, 2:8], mask[10:18, 20:28], mask[2:8, 8:14], mask[15, 3] = 1, 1, 2, 2
    found = retrain.outlines(Prediction("it", (20, 30), ("a", "b"), semantic=mask))
    assert [(item[:4], item.label, item.area) for item in found] == [
        ((2, 2, 8, 8), 1, 36),
        ((20, 10, 28, 18), 1, 64),
        ((8, 2, 14, 8), 2, 36),
    ]
    assert np.array_equal(rle.decode([found[1].rle], (20, 30))[0], ((mask == 1) & (torch.arange(30) > 15)).numpy())


def test_a_network_learns_from_the_masks_of_a_run_and_the_truth_stays_out(tmp_path: Path) -> None:
    data = toys.write(tmp_path / "pictures")
    made = train("pdsl", data, out=str(tmp_path), **PDSL, **ENGINE)
    assert {*PDSL} <= {*Config.__dataclass_fields__}
    settings = {**R2IOS, **ENGINE, "masks_from": str(made.folder)}
    one = train("r2ios", data.only("image", "tags"), out=str(tmp_path / "a"), **settings)
    other = train("r2ios", toys.shuffled(data), out=str(tmp_path / "b"), **settings)
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    (note,) = recall(one.folder)["extra_supervision"]
    assert "pdsl" in note
    assert "learned from tags" in note
