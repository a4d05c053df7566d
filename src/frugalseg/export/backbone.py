"""A trained backbone for other libraries: the same tensors under the names that torchvision, timm, detectron2 or mmseg expect.

Each tensor is written once, under one name: files with aliases do not load strictly.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frugalseg import files
from frugalseg.config import UsageError
from frugalseg.nets.weights import backbone_in, read_weights, save_weights, weights_file

LAYOUTS = ("torchvision", "timm", "detectron2", "mmsegmentation")
# detectron2's names of a ResNet, from its tool for torchvision's weights; in this order.
DETECTRON2 = (
    (r"layer(\d)\.", lambda found: f"res{int(found[1]) + 1}."),
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"downsample\.0\.", "shortcut."),
    (r"downsample\.1\.", "shortcut.norm."),
)


def export(source: str | Path, target: str | Path, layout: str = "torchvision") -> Path:
    """Write the backbone of a run folder or its weights file for another library; gives the file.

    torchvision, timm: the model's own names without the classifier, .safetensors or a state dict (.pth). mmsegmentation: .pth
    with `state_dict`, for `ResNet` (not `ResNetV1c`, whose stem differs). detectron2: .pkl of its own format; the config needs
    RGB input, torchvision's mean and standard deviation, and STRIDE_IN_1X1 False.
    Raises UsageError for a file of others, another ending, or a network that the library does not name so.
    """
    path, place = weights_file(source), Path(target)
    if layout not in LAYOUTS:
        raise UsageError(f"--to: got {layout!r}, expected one of {', '.join(LAYOUTS)}")
    endings = {"detectron2": (".pkl",), "mmsegmentation": (".pth",)}.get(layout, (".safetensors", ".pth"))
    if place.suffix not in endings:
        raise UsageError(f"got the file {place.name}, but {layout} reads those that end in {' or '.join(endings)}")
    tensors, settings = body(path)
    named = renamed(tensors, settings["backbone"], layout)
    about = {"format": "pt", "backbone": settings["backbone"], "normalize": settings.get("normalize", "imagenet")}
    if place.suffix == ".safetensors":
        save_weights(place, named, about)
    elif layout == "detectron2":
        content = {"model": {name: value.numpy() for name, value in named.items()}, "__author__": "frugalseg"}
        files.write(place, lambda file: pickle.dump({**content, "matching_heuristics": True}, file))
    else:
        files.write(
            place, lambda file: torch.save({"state_dict": named, "meta": about} if layout == "mmsegmentation" else named, file)
        )
    return place


def body(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The backbone's tensors under its library's names, and its training's settings. Raises UsageError for files of others."""
    head, settings = backbone_in(path)
    if not head:
        raise UsageError(f"{path} was not written by a training here: its names are those of another library already")
    tensors = {name.removeprefix(head): value for name, value in read_weights(path)[0].items() if name.startswith(head)}
    return {re.sub(r"^net\.(model\.)?", "", name): value.contiguous() for name, value in tensors.items()}, settings


def renamed(tensors: dict[str, Tensor], backbone: str, layout: str) -> dict[str, Tensor]:
    """The tensors under the names of the layout. Raises UsageError for a network the layout has no such names for."""
    resnet, transformer = backbone in ("resnet18", "resnet50", "resnet101"), backbone.startswith("timm/")
    fits = {"torchvision": resnet or backbone in ("vgg16", "vgg16_plain", "mobilenet_v2"), "timm": resnet or transformer}.get(
        layout, resnet
    )
    if not fits:
        raise UsageError(f"a backbone {backbone} has no names in {layout}; ResNets have them in all of {', '.join(LAYOUTS)}")
    return {_detectron2(name) if layout == "detectron2" else name: value for name, value in tensors.items()}


def _detectron2(name: str) -> str:
    for pattern, replacement in DETECTRON2:
        name = re.sub(pattern, replacement, name)
    return name
