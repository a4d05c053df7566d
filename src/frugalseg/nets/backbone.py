"""Feature networks: images in, one feature map out, at the stride you ask for.

Every network is a list of blocks whose modules keep their library's names, so the library's weight files fit. Output strides
below a network's own come from dilation: a removed stride spreads every later kernel by the same factor, so the dense map holds
the strided network's features, and what lies between them. Shape letters: B batch, D channels, H W image, h w map.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frugalseg.nets import timm_backbone, torchvision_backbones
from frugalseg.nets.blocks import row
from frugalseg.nets.folding import fold
from frugalseg.nets.torchvision_backbones import NETWORKS
from frugalseg.nets.weights import Report

NORMALIZE = {  # mean and standard deviation of red, green, blue in 0..255
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # torchvision and most of timm
    "half": ((128.0, 128.0, 128.0), (128.0, 128.0, 128.0)),
    "caffe": ((122.675, 116.669, 104.008), (1.0, 1.0, 1.0)),  # DeepLab's VGG-16; it also wants blue, green, red
}
STRIDES = (8, 16, 32)


class Backbone(nn.Module):
    """A feature network that normalises its own input.

    body: the network; its parameters have the library's names. blocks: its leading to last blocks, each a list of all modules in
    it. channels: D. stride: pixels of the image per cell of the map. ends: for a plain row of layers, where each block ends.
    shift: pixel of the image under the middle of the map's first point. report: what the weights file filled, or None.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        blocks: list[list[nn.Module]],
        channels: int,
        stride: int,
        normalize: str = "imagenet",
        ends: Sequence[int] = (),
        shift: float = 0.0,
    ):
        super().__init__()
        self.shift = shift
        self.body, self.blocks, self.channels, self.stride, self.ends = body, blocks, channels, stride, tuple(ends)
        self.frozen, self.freeze_norm = 0, False
        self.report: Report | None = None
        self.reverse = normalize == "caffe"
        for name, values in zip(("mean", "std"), NORMALIZE[normalize], strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) RGB, uint8 or float in 0..255. Returns (B, D, ceil(H / stride), ceil(W / stride))."""
        output: Tensor = self.body(self._normalized(images))
        return output

    def maps(self, images: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """The maps behind these blocks, counted from 1, with 0 for the last, in the order asked for and from one pass.

        Raises ValueError for a block that is not there, and for a network that is no row of blocks (timm's).
        """
        wanted = self._layers_behind(levels)
        features, found = self._normalized(images), {}
        for index, layer in enumerate(row(self.body)[: max(wanted)], start=1):
            features = layer(features)
            if index in wanted:
                found[index] = features
        return [found[index] for index in wanted]

    def shapes(self, levels: Sequence[int]) -> list[tuple[int, int]]:
        """Channels and stride of each of `maps`."""
        training, side = self.training, 2 * self.stride
        with torch.no_grad():
            maps = self.eval().maps(self.mean.new_zeros(1, 3, side, side), levels)
        self.train(training)
        return [(features.shape[1], side // features.shape[2]) for features in maps]

    @property
    def has_levels(self) -> bool:
        """Whether every block can give a map (`maps`); else there is the last map only."""
        return bool(self.ends)

    def _layers_behind(self, levels: Sequence[int]) -> list[int]:
        if not self.has_levels:
            raise ValueError(f"levels: got {tuple(levels)}, but a timm backbone gives its last map only; leave levels out")
        if any(not 0 <= level <= len(self.ends) for level in levels):
            raise ValueError(f"levels: got {tuple(levels)}; type numbers from 1 to {len(self.ends)}, or 0 for the last block")
        return [self.ends[level - 1] for level in levels]

    def _normalized(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: got {tuple(images.shape)}, expected (B, 3, H, W) RGB in 0..255")
        images = (images.to(self.mean.dtype) - self.mean) / self.std
        return images.flip(1) if self.reverse else images

    def freeze(self, blocks: int, norm: bool = False) -> None:
        """Fix the leading blocks: no gradient, and batch norm and dropout as in evaluation. norm: fix every batch norm.

        Autograd records nothing before the first parameter that learns, so frozen leading blocks also cost no memory.
        """
        if not 0 <= blocks <= len(self.blocks):
            raise ValueError(f"frozen: got {blocks}, expected at most the backbone's {len(self.blocks)} blocks and at least 0")
        self.frozen, self.freeze_norm = blocks, norm
        for module in self._fixed():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        replaced = fold(self.body, {*self._fixed()})
        self.blocks = [[replaced.get(module, module) for module in block] for block in self.blocks]
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; frozen blocks, and norms that keep their statistics, stay in evaluation mode."""
        super().train(mode)
        for module in self._fixed():
            module.training = False
        return self

    def _fixed(self) -> list[nn.Module]:
        norms = [module for module in self.modules() if self.freeze_norm and isinstance(module, _BatchNorm)]
        return norms + [module for block in self.blocks[: self.frozen] for module in block]

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that learn, for rates and decay of their own: "weights", "biases", and "norms" (both)."""
        groups: dict[str, list[nn.Parameter]] = {"weights": [], "biases": [], "norms": []}
        for module in self.modules():
            norm = isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm)
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    groups["norms" if norm else "biases" if name == "bias" else "weights"].append(parameter)
        return groups


def build(
    name: str,
    output_stride: int = 16,
    weights: str | Path | None = None,
    frozen: int = 0,
    freeze_norm: bool = False,
    normalize: str = "imagenet",
    level: int = 0,
) -> Backbone:
    """The feature network of that name.

    name: vgg16 (DeepLab-LargeFOV's), vgg16_plain (as published), resnet18, resnet50, resnet101, these with _ws (`resnet_ws`),
    mobilenet_v2, tiny (0.5 M parameters, for training from scratch) or timm/<name>. output_stride: 8, 16 or 32 pixels of the
    image per cell of the map.
    weights: a file (safetensors or state dict, in the library's layout), or a name to download: "imagenet", or one of
    torchvision's such as "IMAGENET1K_V2"; None starts from random numbers. normalize: how those weights want the image:
    "imagenet", "half" = (x − 128) / 128, or "caffe" = BGR minus mean.
    frozen: leading blocks that stay as they are; freeze_norm: every batch norm does. level: leading blocks to use, 0 for all.
    A block is what lies between two pools (vgg16), the stem or a layer (resnet), one of `features` (mobilenet_v2: 18 end in 320
    channels, all 19 in 1,280), the stem or a stage (tiny), what timm calls a feature (timm).
    Raises ValueError on an unknown name or a setting that the network does not offer, OSError if a download fails.
    """
    _check(name, output_stride, normalize)
    if name.startswith("timm/"):
        parts = timm_backbone.parts(name.removeprefix("timm/"), output_stride, weights, normalize, level)
    else:
        parts = torchvision_backbones.parts(name, output_stride, weights, normalize, level)
    backbone = Backbone(parts.body, parts.blocks, parts.channels, output_stride, normalize, parts.ends, parts.shift)
    backbone.report = parts.report
    backbone.freeze(frozen, freeze_norm)
    return backbone


def has_levels(name: str) -> bool:
    """Whether the network of that name is a row of blocks that can each give a map, and can be cut behind any (`level`)."""
    return name in NETWORKS


def _check(name: str, output_stride: int, normalize: str) -> None:
    faults = []
    known = [f"timm/{model}" for model in timm.list_models()] if name.startswith("timm/") else [*NETWORKS, "timm/<name>"]
    if name.split(".")[0] not in known:  # timm names its weights after a dot: resnet50.a1_in1k
        near = difflib.get_close_matches(name, known, n=3) or known[:6]
        faults.append(f"backbone: got {name!r}, expected a known name; did you mean {', '.join(near)}?")
    if output_stride not in STRIDES:
        faults.append(f"output_stride: got {output_stride!r}, expected one of {STRIDES}")
    if normalize not in NORMALIZE:
        faults.append(f"normalize: got {normalize!r}, expected one of {tuple(NORMALIZE)}")
    if faults:
        raise ValueError("backbone is not valid:\n" + "\n".join(f"  - {fault}" for fault in faults))


# ---- timm
