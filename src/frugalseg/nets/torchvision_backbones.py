"""Networks that are plain rows of blocks, most of them torchvision's, with its weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from torch import nn
from torchvision import models

from frugalseg.nets import resnet_ws
from frugalseg.nets.blocks import Block, Parts, assemble, check_level, check_reached, dilate
from frugalseg.nets.tiny import tiny
from frugalseg.nets.vgg import vgg16, vgg16_plain
from frugalseg.nets.weights import OFFLINE, Report, explain_other_backbone, load_weights, names_before, weights_file

STAGES = 0.85  # share of a ResNet-WS's tensors that are in its stages, where torchvision's weights fit


def resnet(name: str) -> list[Block]:
    """torchvision's ResNet of this name, without weights: the stem and four stages."""
    net = models.get_model(name, weights=None)
    stem = {part: getattr(net, part) for part in ("conv1", "bn1", "relu", "maxpool")}
    return [stem, *({part: getattr(net, part)} for part in ("layer1", "layer2", "layer3", "layer4"))]


def mobilenet_v2() -> list[Block]:
    """torchvision's MobileNetV2, without weights: a block for each of its features."""
    net = models.get_model("mobilenet_v2", weights=None)
    return [{f"features.{index}": block} for index, block in enumerate(net.features)]


NETWORKS: dict[str, Callable[[], list[Block]]] = {
    "vgg16": vgg16,
    "vgg16_plain": vgg16_plain,
    "resnet18": lambda: resnet("resnet18"),
    "resnet50": lambda: resnet("resnet50"),
    "resnet101": lambda: resnet("resnet101"),
    "resnet18_ws": lambda: resnet_ws.blocks("resnet18"),
    "resnet50_ws": lambda: resnet_ws.blocks("resnet50"),
    "resnet101_ws": lambda: resnet_ws.blocks("resnet101"),
    "mobilenet_v2": mobilenet_v2,
    "tiny": tiny,
}


def parts(name: str, output_stride: int, weights: str | Path | None, normalize: str, level: int) -> Parts:
    """The network of that name in NETWORKS; the arguments are those of `backbone.build`."""
    blocks = NETWORKS[name]()
    check_level(name, level, len(blocks))
    blocks = blocks[: level or None]
    body = assemble(blocks)
    reached, shift = dilate(body, output_stride)
    check_reached(name, output_stride, reached)
    channels = [module.out_channels for module in body.modules() if isinstance(module, nn.Conv2d)][-1]
    modules = [[module for part in block.values() for module in part.modules()] for block in blocks]
    ends = list(accumulate(len(block) for block in blocks))
    report = None if weights is None else load(body, name, file_of(name, weights), normalize)
    return Parts(body, modules, channels, ends, shift, report)


def load(body: nn.Module, name: str, file: Path, normalize: str) -> Report:
    """Fill the network with the weights of a file in the library's layout, or of a run."""
    head = names_before(file, normalize)
    with explain_other_backbone(name, file):
        report = load_weights(body, file, prefixes={head: ""} if head else None, least=STAGES if name.endswith("_ws") else 1.0)
    if report.missing:
        begins = "has no weights of its stem, which begins at random numbers; --frozen 0 --freeze-norm false lets it learn"
        warnings.warn(f"weights: {file} {begins}", stacklevel=5)
    return report


def file_of(name: str, weights: str | Path) -> Path:
    """The file itself, the last weights of a run folder, or the library's of that name, downloaded because the user asked."""
    if weights_file(weights).is_file():
        return weights_file(weights)
    known = {} if name == "tiny" else dict(models.get_model_weights(name.removesuffix("_ws").removesuffix("_plain")).__members__)
    if known:
        known["imagenet"] = known["IMAGENET1K_V1"]
    if str(weights) not in known:
        choices = f", or one of {', '.join(sorted(known))}" if known else ""
        raise ValueError(f"weights: got {str(weights)!r}, which is no file; expected a .safetensors or .pth file{choices}")
    url = known[str(weights)].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
        except OSError as error:
            raise OSError(f"weights: could not download {url} ({error}). {OFFLINE}") from error
    return file
