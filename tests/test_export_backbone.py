"""A trained backbone in other libraries: their own loaders take it strictly, and it computes there what it computed here."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import toys
from torch import nn
from torchvision import models

from frugalseg.config import UsageError
from frugalseg.export import backbone as export
from frugalseg.methods import r2o
from frugalseg.nets.backbone import build
from frugalseg.nets.weights import WeightsError, load_weights, save_weights
from frugalseg.recipes.r2o import Config
from frugalseg.workflows.train import train


def write_run(folder: Path, **settings: Any) -> tuple[Path, r2o.R2O]:
    """A run folder with the weights that R2O would leave, from random numbers."""
    torch.manual_seed(0)
    config = Config(**{"hidden": 4, "width": 4, **settings})
    network = r2o.R2O(config).eval()
    metadata = {"method": "r2o", "config": asdict(config), "classes": list(r2o.CLASSES)}
    save_weights(folder / "weights" / "last.safetensors", network.state_dict(), metadata)
    return folder, network


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, r2o.R2O]:
    return write_run(tmp_path_factory.mktemp("resnet"), backbone="resnet50")


def strictly(net: nn.Module, file: Path) -> nn.Module:
    """Through the library's own way of loading, which refuses a name too many or too few."""
    if file.suffix == ".pth":
        net.load_state_dict(torch.load(file, weights_only=True), strict=True)
    else:
        assert load_weights(net, file).unexpected == ()
    return net.eval()


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_torchvisions_resnet_takes_it_and_sees_the_same(resnet: tuple[Path, r2o.R2O], ending: str, tmp_path: Path) -> None:
    folder, network = resnet
    net = models.resnet50()
    net.fc = net.avgpool = nn.Identity()
    strictly(net, export.export(folder, tmp_path / f"net{ending}"))
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()
    with torch.inference_mode():
        normalized = network.encoder.backbone._normalized(image)
        here, there = network.encoder(image).flatten(), net(normalized).flatten()
        assert (here - there).norm() < 1e-5 * here.norm()


@pytest.mark.parametrize(
    ("name", "levels", "head"),
    [
        ("resnet18", (4, 5), "fc"),
        ("vgg16", (4, 5), "classifier"),
        ("mobilenet_v2", (14, 19), "classifier"),
    ],
)
def test_torchvisions_other_networks_take_it(name: str, levels: tuple[int, int], head: str, tmp_path: Path) -> None:
    stride = 16 if name == "vgg16" else 32
    folder, network = write_run(tmp_path / "run", backbone=name, levels=levels, output_stride=stride)
    net = models.get_model(name)
    setattr(net, head, nn.Identity())
    strictly(net, export.export(folder, tmp_path / "net.pth"))
    own = network.encoder.backbone.body.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_timms_resnets_take_it(name: str, tmp_path: Path) -> None:
    folder, _ = write_run(tmp_path / "run", backbone=name)
    strictly(timm.create_model(name, num_classes=0), export.export(folder, tmp_path / "net.pth", "timm"))


def test_timms_transformer_takes_it(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    folder, _ = write_run(tmp_path / "run", backbone=f"timm/{name}", output_stride=16, side=64)
    tensors = torch.load(export.export(folder, tmp_path / "net.pth", "timm"), weights_only=True)
    missing, strange = timm.create_model(name, num_classes=0).load_state_dict(tensors, strict=False)
    assert strange == []
    assert all(key.startswith("norm.") for key in missing), "features end before the last norm"


def test_detectron2_gets_its_own_names(resnet: tuple[Path, r2o.R2O], tmp_path: Path) -> None:
    content = pickle.loads(export.export(resnet[0], tmp_path / "net.pkl", "detectron2").read_bytes())
    names = set(content["model"])
    assert len(names) == len(models.resnet50().state_dict()) - 2, "all but the classifier, each once"
    assert {"stem.conv1.weight", "stem.conv1.norm.running_var", "res2.0.shortcut.weight", "res2.0.shortcut.norm.bias"} <= names
    assert {"res5.2.conv3.weight", "res5.2.conv3.norm.running_mean"} <= names
    assert not any(part in name for name in names for part in ("layer", "bn", "downsample"))
    assert content["matching_heuristics"] is True


def test_mmsegmentation_gets_a_checkpoint(resnet: tuple[Path, r2o.R2O], tmp_path: Path) -> None:
    content = torch.load(export.export(resnet[0], tmp_path / "net.pth", "mmsegmentation"), weights_only=True)
    assert content["state_dict"].keys() == {key for key in models.resnet50().state_dict() if not key.startswith("fc.")}


@pytest.mark.parametrize(("layout", "file"), [("detectron2", "a.pth"), ("onnx", "a.pth"), ("mmsegmentation", "a.pkl")])
def test_a_layout_that_does_not_fit_is_named(resnet: tuple[Path, r2o.R2O], tmp_path: Path, layout: str, file: str) -> None:
    with pytest.raises(UsageError, match=layout):
        export.export(resnet[0], tmp_path / file, layout)


def test_files_of_others_and_networks_without_names_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "other.safetensors", {"conv.weight": torch.zeros(1)})
    with pytest.raises(UsageError, match="not written by a training here"):
        export.export(tmp_path / "other.safetensors", tmp_path / "net.pth")
    for name, stride in (("tiny", 16), ("resnet18_ws", 8)):
        folder, _ = write_run(tmp_path / name, backbone=name, output_stride=stride)
        with pytest.raises(UsageError, match=f"backbone {name} has no names in torchvision"):
            export.export(folder, tmp_path / "net.pth")


# -- a training that starts from a run -------------------------------------------------------------------------------


def test_a_run_folder_and_its_file_are_weights_for_any_backbone(tmp_path: Path) -> None:
    folder, network = write_run(tmp_path / "run", backbone="tiny", output_stride=16)
    for place in (folder, folder / "weights" / "last.safetensors"):
        net = build("tiny", 16, weights=place)
        assert net.report.missing == ()
        for name, value in network.encoder.backbone.body.state_dict().items():
            assert torch.equal(net.body.state_dict()[name], value)


def test_a_transformer_starts_from_a_run(tmp_path: Path) -> None:
    folder, network = write_run(tmp_path / "run", backbone="timm/vit_tiny_patch16_224", output_stride=16, side=64)
    net = build("timm/vit_tiny_patch16_224", 16, weights=folder)
    assert net.report.missing == ()
    assert torch.equal(net.body.net.model.pos_embed, network.encoder.backbone.body.net.model.pos_embed)


def test_another_network_or_range_is_refused(tmp_path: Path) -> None:
    folder, _ = write_run(tmp_path / "run", backbone="tiny", output_stride=16)
    with pytest.raises(WeightsError, match=r"is of the backbone tiny, got resnet18; type --backbone tiny"):
        build("resnet18", 16, weights=folder)
    with pytest.raises(ValueError, match=r"normalize: got 'half'.*trained with 'imagenet'"):
        build("tiny", 16, weights=folder, normalize="half")


def test_a_run_is_where_another_method_starts(tmp_path: Path) -> None:
    folder, network = write_run(tmp_path / "run", backbone="tiny", output_stride=16)
    data = toys.write(tmp_path / "pictures")
    own: dict[str, Any] = {"backbone": "tiny", "frozen": 5, "freeze_norm": True, "segment": "cam", "channels": 0, "rounds": 1}
    own |= {
        "output_stride": 16,
        "crop": 32,
        "batch": 2,
        "classifier_epochs": 1,
        "workers": 0,
        "quiet": True,
        "accelerator": "cpu",
    }
    model = train("aepsl", data, weights=str(folder), out=str(tmp_path / "runs"), **own)
    trunk = model.network.backbone.body.state_dict()
    assert all(torch.equal(trunk[name], value) for name, value in network.encoder.backbone.body.state_dict().items())
