"""VGG-16's fully connected layers go into heads of their shape, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from frugalseg.nets.layers import load_vgg_layers


def weights(folder: Path, inputs: int = 12, width: int = 6, names: tuple[str, str] = ("classifier.0", "classifier.3")) -> str:
    """A small file with layers as torchvision's VGG-16 names them, and others."""
    shapes = {f"{names[0]}.weight": (width, inputs), f"{names[0]}.bias": (width,), "features.0.weight": (4, 3, 3, 3)}
    shapes |= {f"{names[1]}.weight": (width, width), f"{names[1]}.bias": (width,), "classifier.6.weight": (10, width)}
    save_file({name: torch.rand(shape) for name, shape in shapes.items()}, folder / "vgg.safetensors")
    return str(folder / "vgg.safetensors")


def test_layers_of_the_same_shape_are_copied(tmp_path: Path) -> None:
    fc6, fc7 = nn.Linear(12, 6), nn.Linear(6, 6)
    stored = load_file(weights(tmp_path))
    load_vgg_layers(fc6, fc7, str(tmp_path / "vgg.safetensors"))
    for layer, name in ((fc6, "classifier.0"), (fc7, "classifier.3")):
        assert torch.equal(layer.weight, stored[f"{name}.weight"])
        assert torch.equal(layer.bias, stored[f"{name}.bias"])


@pytest.mark.parametrize("other", [{"inputs": 13}, {"width": 7}, {"names": ("fc1", "fc2")}])
def test_other_files_leave_both_layers_as_they_are(other: dict, tmp_path: Path) -> None:
    layers = [nn.Linear(12, 6), nn.Linear(6, 6)]
    before = [parameter.clone() for layer in layers for parameter in layer.parameters()]
    load_vgg_layers(*layers, weights(tmp_path, **other))
    after = [parameter for layer in layers for parameter in layer.parameters()]
    assert all(torch.equal(one, same) for one, same in zip(before, after, strict=True))
