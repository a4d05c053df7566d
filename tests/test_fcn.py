"""FCN part by part: its loss, its heads, its predictions, what may reach the loss, and that it learns."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from PIL import Image
from torch.nn import functional as F

from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.data import Data, read, shapes
from frugalseg.engine.run import Run
from frugalseg.methods import METHODS, aepsl, choose, fcn, kinds
from frugalseg.methods.fcn import FCN
from frugalseg.metrics import SemanticScores
from frugalseg.nets.heads import FCN as TwoLayers
from frugalseg.nets.heads import LargeFOV
from frugalseg.recipes.aepsl import Config as AepslConfig
from frugalseg.recipes.fcn import Config
from frugalseg.recipes.runtime import Runtime
from frugalseg.types import IGNORE, Sample
from frugalseg.workflows.train import train as train_method

CONFIGS = Path(__file__).parents[1] / "configs"
QUIET = Runtime(quiet=True, workers=0, log_every=1, accelerator="cpu")
TINY = Config(backbone="tiny", output_stride=8, channels=8, dilation=2, crop=32, batch=3, epochs=1, lr=0.1, head_lr=0.1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return toys.write(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def hasty_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, so none needs to wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def train(data: Data, folder: Path, **changes: Any) -> FCN:
    return fcn.train(replace(TINY, **changes), data, Run(folder, QUIET, method="fcn"))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def settled(settings: Config = TINY) -> FCN:
    """A network with uneven random weights in evaluation mode."""
    torch.manual_seed(0)
    network = FCN(settings, toys.CLASSES)
    torch.nn.init.normal_(network.score.weight)
    return network.eval()


def noise(count: int, size: tuple[int, int] = (33, 33)) -> list[Sample]:
    torch.manual_seed(1)
    return [Sample(f"noise{number}", torch.randint(0, 255, (3, *size), dtype=torch.uint8)) for number in range(count)]


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_cross_entropy_over_the_labelled_pixels_of_each_image() -> None:
    network, pictures = settled(), torch.rand(2, 3, 33, 33) * 255
    masks = torch.randint(0, 4, (2, 33, 33))
    masks[0, :30] = IGNORE
    scores = network.score(network.features(pictures))
    logits = F.interpolate(scores, (33, 33), mode="bilinear", align_corners=True)
    by_hand = [F.cross_entropy(logits[[i]], masks[[i]], ignore_index=IGNORE) for i in range(2)]
    losses = network({"image": pictures, "semantic": masks})
    assert losses.keys() == {"segmentation"}
    torch.testing.assert_close(losses["segmentation"], torch.stack(by_hand).mean())


def test_an_image_without_a_labelled_pixel_gives_no_loss_and_a_finite_gradient() -> None:
    network = settled()
    loss = network({"image": torch.rand(1, 3, 33, 33) * 255, "semantic": torch.full((1, 33, 33), IGNORE)})["segmentation"]
    (gradient,) = torch.autograd.grad(loss, network.score.weight)
    assert loss.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("head", ["fcn", "largefov", "linear"])
def test_heads_are_the_papers(head: str) -> None:
    network = FCN(replace(TINY, head=head), toys.CLASSES)
    kind, channels = {"fcn": (TwoLayers, 8), "largefov": (LargeFOV, 8), "linear": (torch.nn.Identity, 128)}[head]
    assert isinstance(network.head, kind)
    assert network.score.in_channels == channels
    assert network.features(torch.zeros(1, 3, 41, 33)).shape == (1, channels, 6, 5)


def test_the_network_is_the_one_that_aepsl_had_without_its_label_branch() -> None:
    """So that runs and results of `aepsl --masks given --no-label-branch --head fcn` can be told as those of fcn."""
    shared = {field.name: getattr(TINY, field.name) for field in fields(TINY) if hasattr(AepslConfig, field.name)}
    before = aepsl.build(AepslConfig(**shared, masks="given", label_branch=False, threshold=0.0), toys.CLASSES).eval()
    network = settled()
    missing = before.load_state_dict(network.state_dict(), strict=False).missing_keys
    assert {name.split(".")[0] for name in missing} == {"fc"}, "the label branch, which nothing reads"
    batch = {"image": torch.rand(2, 3, 33, 33) * 255, "semantic": torch.randint(0, 4, (2, 33, 33)), "online": False}
    assert torch.equal(network(batch)["segmentation"], before(batch)["segmentation"])
    for one, other in zip(network.predict(noise(2)), before.predict(noise(2)), strict=True):
        assert torch.equal(one.semantic, other.semantic)
        assert torch.equal(one.tags, other.tags)


# -- predictions -------------------------------------------------------------------------------------------------------


def test_a_pixel_shows_its_likeliest_class() -> None:
    network, (sample,) = settled(), noise(1)
    (prediction,) = network.predict([sample])
    scores = network.score(network.features(sample.image[None].float()))
    dense = F.interpolate(scores.softmax(1), (33, 33), mode="bilinear", align_corners=True)[0]
    assert torch.equal(prediction.semantic, dense.argmax(0).to(torch.uint8))
    torch.testing.assert_close(prediction.tags, scores.softmax(1)[0, 1:].amax((1, 2)))
    assert len(prediction.semantic.unique()) > 1


def test_given_tags_leave_their_classes_and_background(images: Data) -> None:
    network = settled()
    for index, tags in enumerate(toys.TAGS):
        (prediction,) = network.predict([images[index]], tags="given")
        assert set(prediction.semantic.unique().tolist()) <= {0} | {place + 1 for place, tag in enumerate(tags) if tag}
    with pytest.raises(ValueError, match="needs the image's tags"):
        network.predict(noise(1), tags="given")


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (37, 2), (40, 40)])
def test_tiny_and_empty_images_are_predicted_at_their_size(size: tuple[int, int]) -> None:
    network = settled(replace(TINY, crf=True, crf_iterations=2, resize=24, test_scales=(0.5, 1.0), test_flip=True))
    (prediction,) = network.predict([Sample("grey", torch.full((3, *size), 90, dtype=torch.uint8))])
    assert tuple(prediction.semantic.shape) == prediction.size == size


def test_a_batch_of_images_gives_the_masks_of_each_alone() -> None:
    network = settled(replace(TINY, test_scales=(0.7, 1.3), test_flip=True))
    samples = noise(3, (40, 33))
    with torch.no_grad():
        together = network.predict_batch([network.preprocess(sample) for sample in samples], samples)
    for one, other in zip(network.predict(samples), together, strict=True):
        torch.testing.assert_close(one.tags, other.tags, atol=1e-4, rtol=0)
        assert (one.semantic != other.semantic).float().mean() < 1e-3


# -- training ----------------------------------------------------------------------------------------------------------


def test_only_class_masks_reach_the_loss(images: Data, tmp_path: Path) -> None:
    whole = train(images, tmp_path / "whole")
    assert same(whole, train(images.only("image", "semantic"), tmp_path / "withheld"))
    retagged = [replace(record, objects=None, boxes=None, tags=record.tags[::-1]) for record in images.records]
    assert same(whole, train(toys.with_records(images, retagged), tmp_path / "retagged"))
    emptied = []
    for record in images.records:
        Image.fromarray(np.zeros_like(np.asarray(Image.open(record.semantic)))).save(tmp_path / f"{record.name}.png")
        emptied.append(replace(record, semantic=tmp_path / f"{record.name}.png"))
    assert not same(whole, train(toys.with_records(images, emptied), tmp_path / "emptied")), "the masks do"


def test_images_without_masks_are_left_out(images: Data, tmp_path: Path) -> None:
    bare = replace(images.records[0], name="bare", semantic=None)
    mixed = toys.with_records(images, [bare, *images.records])
    assert same(train(mixed, tmp_path / "mixed"), train(images, tmp_path / "masked"))
    with pytest.raises(ValueError, match="no image has semantic"):
        train(toys.with_records(images, [bare]), tmp_path / "none")


def test_the_learning_rate_falls_as_the_recipe_says() -> None:
    stepped = [fcn.rate(replace(TINY, drops=(0.7, 0.9)), step, 10) for step in range(10)]
    assert stepped == pytest.approx([1.0] * 7 + [0.1] * 2 + [0.01])
    poly = [fcn.rate(replace(TINY, lr_schedule="poly"), step, 10) for step in range(10)]
    assert poly == pytest.approx([(1 - step / 10) ** 0.9 for step in range(10)])


def test_wrong_settings_are_named_together() -> None:
    with pytest.raises(ValueError, match=r"(?s)channels=-1.*test_scales=\(\).*drops=2.*label_stride=3: expected a divisor"):
        replace(TINY, channels=-1, test_scales=(), drops=(2.0,), label_stride=3)


def test_it_learns_where_the_classes_are(tmp_path: Path) -> None:
    """On images it has seen, far better than the best answer without looking: background everywhere."""
    data = read(shapes.write(tmp_path / "set", train=8, val=0, test=0, size=48, quiet=True), split="Segmentation/train")
    settings = {"head": "linear", "crop": 49, "scales": (1.0, 1.0), "batch": 4, "epochs": 30, "lr_schedule": "poly"}
    network = train(data, tmp_path / "run", **settings, optimizer="adamw", lr=0.004, head_lr=0.004)
    scores, trivial = (SemanticScores(data.classes, split="train") for _ in range(2))
    for index in range(len(data)):
        sample = data[index]
        (prediction,) = network.predict([sample])
        scores.update(sample.name, prediction.semantic.numpy(), sample.semantic.numpy())
        trivial.update(sample.name, np.zeros_like(prediction.semantic.numpy()), sample.semantic.numpy())
    assert scores.miou > 3 * trivial.miou


# -- how it is chosen --------------------------------------------------------------------------------------------------


def test_class_masks_choose_it() -> None:
    assert choose({"image", "semantic"}).name == "fcn"
    assert choose({"image", "semantic", "tags"}).name == "fcn"
    assert choose({"image", "tags"}).name == "aepsl"
    assert choose({"image", "semantic", "tags", "instances"}).name == "r2ios"


def test_training_on_data_with_class_masks_is_fcn(images: Data, tmp_path: Path) -> None:
    small = {"backbone": "tiny", "channels": 8, "crop": 32, "batch": 2, "epochs": 0.1, "workers": 0, "accelerator": "cpu"}
    predictor = train_method("fcn", images.only("image", "semantic"), **small, quiet=True, out=str(tmp_path))
    assert (predictor.method.name, predictor.method.makes) == ("fcn", "semantic masks")
    with pytest.raises(UsageError, match=r"fcn needs semantic, but .* has tags"):
        train_method("fcn", images.only("image", "tags"), **small, quiet=True, out=str(tmp_path))


@pytest.mark.parametrize("name", ["cityscapes", "cpu", "shapes", "small", "voc12"])
def test_recipes_for_judging_backbones_say_the_same_under_both_names(name: str) -> None:
    """The settings that AE-PSL's old recipe resolves to are those of fcn's, so a run by either is the same training."""
    old = config.resolve(kinds(METHODS["aepsl"]), config.read(CONFIGS / f"aepsl_transfer_{name}.yaml"))
    new = config.resolve(kinds(METHODS["fcn"]), config.read(CONFIGS / f"fcn_transfer_{name}.yaml"))
    shared = [key for key in old.keys() & new.keys() if key != "drops" or old["lr_schedule"] == "step"]
    assert {key: new[key] for key in shared} == {key: old[key] for key in shared}
    assert (old["masks"], old["label_branch"], old["threshold"], old["background_weight"]) == ("given", False, 0, 1)
