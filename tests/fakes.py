"""A method so simple that its results are known beforehand: it calls bright pixels class 1, and learns nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from frugalseg.methods import METHODS, Method
from frugalseg.nets.network import Network, Tensors
from frugalseg.types import Prediction, Sample


@dataclass(frozen=True)
class Config:
    """Threshold: bright is class 1.

    Args:
        level: grey level above which a pixel is bright.
        rounds: how often nothing is learned.
        mode: of learning nothing, 50 % slow.
        scales: unused.
    """

    level: float = 128.0
    rounds: int = 3
    mode: Literal["slow", "fast"] = "slow"
    scales: tuple[float, ...] = (1.0,)

    needs = frozenset({"image", "tags"})
    external_supervision = ("a <b>guess</b>",)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds}: expected at least 1")


class Answers(Network):
    """A network that computes nothing: a subclass says in `answer` what it makes of a sample."""

    device = torch.device("cpu")

    def __init__(self, classes: Iterable[str], config: Any = None) -> None:
        super().__init__(config, tuple(classes))

    def preprocess(self, sample: Sample, tags: str = "predicted") -> Tensors:
        return {"size": torch.tensor(sample.image.shape[-2:])}

    def infer(self, batch: Tensors) -> Tensors:
        return batch

    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        return self.answer(sample, tags)

    def answer(self, sample: Sample, tags: str) -> Prediction:
        raise AssertionError("nobody says what it answers")


class Threshold(Answers):
    def __init__(self, config: Config, classes: Iterable[str]) -> None:
        super().__init__(classes, config)
        self.level = nn.Parameter(torch.tensor(config.level))

    def answer(self, sample: Sample, tags: str) -> Prediction:
        assert sample.semantic is None, "a model must not see the truth"
        mask = (sample.image.float().mean(0) > self.level).to(torch.uint8)
        if tags == "given" and not sample.tags[0]:
            mask = torch.zeros_like(mask)
        size = (int(mask.shape[0]), int(mask.shape[1]))
        return Prediction(sample.name, size, self.classes, torch.tensor([float(mask.any())] * len(self.classes)), mask)


def train(config: Config, data: Any, run: Any) -> Threshold:
    assert data.offers == {"image", "tags"}, "a training must not see other labels than it needs"
    for step in range(1, config.rounds + 1):
        run.log(stage="threshold", step=step, steps=config.rounds, losses={"label": 1 / step}, lr=1.0)
    run.log(stage="threshold", event="done", seconds=65.0, peak_memory=1234)
    return Threshold(config, data.classes)


def install(monkeypatch: pytest.MonkeyPatch) -> Method:
    """Make the fake method known as `threshold`, beside the real ones, for one test."""
    module = ModuleType("threshold_method")
    module.Config, module.train, module.build = Config, train, Threshold  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "threshold_method", module)
    needs = frozenset({"image", "tags"})
    method = Method("threshold", "Threshold: bright is an object", needs, "semantic", "threshold_method", "threshold_method")
    monkeypatch.setitem(METHODS, "threshold", method)
    return method


def write_bright(folder: Path, wrong: int = 0) -> Path:
    """Four training and four validation images of a bright square, with tags and masks; `wrong` of the val masks are empty."""
    rows, lists = ["image,tags"], ["image,split"]
    for split in ("train", "val"):
        for index in range(4):
            pixels = np.zeros((32, 40, 3), np.uint8)
            pixels[4 : 12 + index, 4:20] = 255
            mask = (pixels[..., 0] > 0).astype(np.uint8) * (not (split == "val" and index < wrong))
            name = f"{split}{index}"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
            rows.append(f"images/{name}.png,square" if mask.any() else f"images/{name}.png,")
            lists.append(f"images/{name}.png,{split}")
    (folder / "tags.csv").write_text("\n".join(rows) + "\n")
    (folder / "splits.csv").write_text("\n".join(lists) + "\n")
    (folder / "classes.txt").write_text("square\n")
    return folder
