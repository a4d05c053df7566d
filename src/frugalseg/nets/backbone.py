"""Feature networks: pictures in, one feature map out, at the stride you ask for.

Every network is a list of blocks whose modules keep their library's names, so the library's weight files fit. Output strides
below a network's own come from dilation: a removed stride spreads every later kernel by the same factor, so the dense map holds
the strided network's features, and what lies between them. Shape letters: B batch, D channels, H W image, h w map.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from frugalseg.nets import resnet_ws
from frugalseg.nets.folding import fold
from frugalseg.nets.weights import Report, WeightsError, backbone_in, load_weights, weights_file

Block = dict[str, nn.Module]  # the modules of one block in their order of work, by their names in the library

NORMALIZE = {  # mean and deviation of red, green, blue in 0..255
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # torchvision and most of timm
    "half": ((128.0, 128.0, 128.0), (128.0, 128.0, 128.0)),
    "caffe": ((122.675, 116.669, 104.008), (1.0, 1.0, 1.0)),  # DeepLab's VGG-16; it also wants blue, green, red
}
STRIDES = (8, 16, 32)
STAGES = 0.85  # share of a ResNet-WS's tensors that are in its stages, where torchvision's weights fit
_OFFLINE = "Without a network: fetch the file elsewhere and type --weights FILE, or --weights null to start from random numbers"


class Backbone(nn.Module):
    """A feature network that normalises its own input.

    body: the network; its parameters have the library's names. blocks: its leading to last blocks, each a list of all modules in
    it. channels: D. stride: pixels of the image per cell of the map. ends: for a plain row of layers, where each block ends.
    shift: pixel of the picture under the middle of the map's first point. report: what the weights file filled, or None.
    """

    mean: Tensor
    deviation: Tensor

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
        for name, values in zip(("mean", "deviation"), NORMALIZE[normalize], strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) RGB, uint8 or float in 0..255. Returns (B, D, ceil(H / stride), ceil(W / stride))."""
        return self.body(self._normalized(images))

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
        images = (images.to(self.mean.dtype) - self.mean) / self.deviation
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
    torchvision's such as "IMAGENET1K_V2"; None starts from random numbers. normalize: how those weights want the picture:
    "imagenet", "half" = (x − 128) / 128, or "caffe" = BGR minus mean.
    frozen: leading blocks that stay as they are; freeze_norm: every batch norm does. level: leading blocks to use, 0 for all.
    A block is what lies between two pools (vgg16), the stem or a layer (resnet), one of `features` (mobilenet_v2: 18 end in 320
    channels, all 19 in 1,280), the stem or a stage (tiny), what timm calls a feature (timm).
    Raises ValueError on an unknown name or a setting that the network does not offer, OSError if a download fails.
    """
    _check(name, output_stride, normalize)
    if name.startswith("timm/"):
        backbone = _timm(name.removeprefix("timm/"), output_stride, weights, normalize, level)
    else:
        backbone = _sequence(name, output_stride, weights, normalize, level)
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


def _check_level(name: str, level: int, blocks: int) -> None:
    if not 0 <= level <= blocks:
        raise ValueError(f"level: got {level}, but {name} has {blocks} blocks; type a number from 1 to {blocks}, or 0 for all")


def _check_reached(name: str, wanted: int, reached: int) -> None:
    if reached != wanted:
        raise ValueError(
            f"output_stride: got {wanted}, but {name} ends at stride {reached}; type output_stride={reached} or a higher level"
        )


# ---- networks that are plain sequences of blocks


def _sequence(name: str, output_stride: int, weights: str | Path | None, normalize: str, level: int) -> Backbone:
    blocks = NETWORKS[name]()
    _check_level(name, level, len(blocks))
    blocks = blocks[: level or None]
    body = _assemble(blocks)
    reached, shift = _dilate(body, output_stride)
    _check_reached(name, output_stride, reached)
    channels = [module.out_channels for module in body.modules() if isinstance(module, nn.Conv2d)][-1]
    modules = [[module for part in block.values() for module in part.modules()] for block in blocks]
    ends = list(accumulate(len(block) for block in blocks))
    backbone = Backbone(body, modules, channels, output_stride, normalize, ends, shift)
    if weights is not None:
        file = _file(name, weights)
        head = _head(file, normalize)
        least = STAGES if name.endswith("_ws") else 1.0
        with _of_another_backbone(name, file):
            backbone.report = load_weights(body, file, prefixes={head: ""} if head else None, least=least)
        if backbone.report.missing:
            begins = "has no weights of its stem, which begins at random numbers; --frozen 0 --freeze-norm false lets it learn"
            warnings.warn(f"weights: {file} {begins}", stacklevel=4)
    return backbone


def row(body: nn.Module) -> list[nn.Module]:
    """The layers of a network made by `_assemble`, in their order of work."""
    layers = list(body.children())
    while len(layers) == 1 and isinstance(layers[0], nn.Sequential):
        layers = list(layers[0].children())
    return layers


def _assemble(blocks: list[Block]) -> nn.Sequential:
    """One sequence of all modules, under their dotted names."""
    body = nn.Sequential()
    for path, module in (item for block in blocks for item in block.items()):
        parent, _, name = path.rpartition(".")
        if parent and not hasattr(body, parent):
            body.add_module(parent, nn.Sequential())
        body.get_submodule(parent).add_module(name, module)
    return body


def _dilate(body: nn.Module, output_stride: int) -> tuple[int, float]:
    """Remove strides beyond output_stride and spread the later kernels ("à trous"); returns the stride reached and `shift`.

    The layer that loses its stride still reads the old grid: only what follows it is spread. Pools are not, as in DeepLab.
    Pools of 2×2 without padding look to the right and down.
    """
    stride, dilation, keep, shift = 1, 1, True, 0.0
    for layer in body.modules():
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            continue
        strided = layer.stride not in (1, (1, 1))
        if layer.kernel_size not in (1, (1, 1)):  # a strided 1×1 layer is the shortcut beside a 3×3 layer, already counted
            if isinstance(layer, nn.Conv2d):
                layer.dilation = (dilation, dilation)
                layer.padding = tuple(dilation * cast(int, side) for side in layer.padding)
            elif layer.padding == 0:
                shift += (cast(int, layer.kernel_size) - 1) / 2 * stride
            if strided:
                keep = stride < output_stride
                stride, dilation = (2 * stride, dilation) if keep else (stride, 2 * dilation)
        if strided and not keep:
            layer.stride = (1, 1)
    return stride, shift


def _vgg16(pool: Callable[[], nn.Module] = lambda: nn.MaxPool2d(3, stride=2, padding=1)) -> list[Block]:
    """VGG-16 with DeepLab's 3×3 pools, or others.

    DeepLab's round down where Caffe's round up: the same on DeepLab's crops of 321 = 32·10 + 1 pixels, and on even sizes without
    Caffe's extra row, which lies half outside the picture and would break the rule H / stride.
    """
    blocks, channels, index = [], 3, 0
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        block: Block = {}
        for _ in range(depth):
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, convolution.bias))
            block |= {f"features.{index}": convolution, f"features.{index + 1}": nn.ReLU(inplace=True)}
            channels, index = width, index + 2
        block[f"features.{index}"] = pool()
        blocks.append(block)
        index += 1
    return blocks


def _vgg16_plain() -> list[Block]:
    """VGG-16 as published and as its ImageNet weights know it: pools of 2×2, without the last, whose place RoI pooling takes."""
    blocks = _vgg16(resnet_ws.Pool)
    blocks[-1].popitem()
    return blocks


def _resnet(name: str) -> list[Block]:
    net = models.get_model(name, weights=None)
    stem = {part: getattr(net, part) for part in ("conv1", "bn1", "relu", "maxpool")}
    return [stem, *({part: getattr(net, part)} for part in ("layer1", "layer2", "layer3", "layer4"))]


def _mobilenet_v2() -> list[Block]:
    net = models.get_model("mobilenet_v2", weights=None)
    return [{f"features.{index}": block} for index, block in enumerate(net.features)]


def _tiny() -> list[Block]:
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
    blocks: list[Block] = [{"stem": stem}]
    for stage, (width_in, width, stride) in enumerate(((32, 32, 2), (32, 64, 2), (64, 96, 2), (96, 128, 1)), start=1):
        blocks.append({f"stage{stage}": Residual(width_in, width, stride)})
    return blocks


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al., CVPR 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(features)))
        return self.relu(self.bn2(self.conv2(inner)) + self.shortcut(features))


NETWORKS: dict[str, Callable[[], list[Block]]] = {
    "vgg16": _vgg16,
    "vgg16_plain": _vgg16_plain,
    "resnet18": lambda: _resnet("resnet18"),
    "resnet50": lambda: _resnet("resnet50"),
    "resnet101": lambda: _resnet("resnet101"),
    "resnet18_ws": lambda: resnet_ws.blocks("resnet18"),
    "resnet50_ws": lambda: resnet_ws.blocks("resnet50"),
    "resnet101_ws": lambda: resnet_ws.blocks("resnet101"),
    "mobilenet_v2": _mobilenet_v2,
    "tiny": _tiny,
}


def _head(file: Path, normalize: str) -> str:
    """What stands before the backbone's names in the file. Raises ValueError where a run saw its pictures in another range."""
    head, settings = backbone_in(file)
    own = settings.get("normalize", normalize)
    if own != normalize:
        raise ValueError(f"normalize: got {normalize!r}, but {file} was trained with {own!r}; type normalize={own}")
    return head


@contextmanager
def _of_another_backbone(name: str, file: Path) -> Iterator[None]:
    """Weights that do not fit because the run they are from has another network are told with what to type."""
    try:
        yield
    except WeightsError:
        theirs = backbone_in(file)[1].get("backbone", name)
        if theirs == name:
            raise
        raise WeightsError(f"weights: {file} is of the backbone {theirs}, got {name}; type --backbone {theirs}") from None


def _file(name: str, weights: str | Path) -> Path:
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
            raise OSError(f"weights: could not download {url} ({error}). {_OFFLINE}") from error
    return file


# ---- timm


class _TimmFeatures(nn.Module):
    """The last feature map of a timm network, as (B, D, h, w) whatever its own order of axes."""

    def __init__(self, net: nn.Module, stride: int):
        super().__init__()
        self.net, self.stride = net, stride
        self.last_axis = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        images = pad(images, (0, -width % self.stride, 0, -height % self.stride))  # patch stems drop a ragged border
        features = self.net(images)[-1]
        return features.permute(0, 3, 1, 2) if self.last_axis else features


def _timm(name: str, output_stride: int, weights: str | Path | None, normalize: str, level: int) -> Backbone:
    file = weights_file(weights) if weights is not None and weights_file(weights).is_file() else None
    if file is None and weights not in (None, "imagenet"):
        raise ValueError(f"weights: got {str(weights)!r}, which is no file; expected a .safetensors or .pth file or 'imagenet'")
    net = _timm_create(name, output_stride, level, pretrained=weights == "imagenet")
    info = net.feature_info
    _check_reached(f"timm/{name}", output_stride, info.reduction()[-1])
    blocks = _timm_blocks(net, [entry["module"] for entry in info.info][: level or None])
    backbone = Backbone(_TimmFeatures(net, output_stride), blocks, info.channels()[-1], output_stride, normalize)
    if file is not None:
        head = _head(file, normalize)
        with _of_another_backbone(f"timm/{name}", file):
            backbone.report = load_weights(net, file, prefixes={f"{head}net.": ""}) if head else _timm_load(net, name, file)
    return backbone


def _timm_create(name: str, output_stride: int, level: int, pretrained: bool) -> Any:
    """Not every network knows `output_stride`, transformers know `dynamic_img_size`; the caller checks the stride reached."""
    faults = []
    for option in ({"output_stride": output_stride}, {"dynamic_img_size": True}, {}):
        try:
            return timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=(level - 1,), **option)
        except OSError as error:
            raise OSError(f"weights: could not download timm's for {name} ({error}). {_OFFLINE}") from error
        except (TypeError, AssertionError, IndexError) as error:
            faults.append(f"  - with {option}: {error or type(error).__name__}")
    raise ValueError(f"timm/{name} gives no feature map for output_stride={output_stride}, level={level}:\n" + "\n".join(faults))


def _timm_blocks(net: nn.Module, marks: list[str]) -> list[list[nn.Module]]:
    """All modules in their order of work; a block ends with the module that timm names as the source of a feature."""
    marks = [mark.replace(".", "_") + "_" for mark in marks]  # timm flattens stages.0 to stages_0 in some networks
    blocks: list[list[nn.Module]] = [[]]
    within = False
    for path, module in net.named_modules():
        key = path.removeprefix("model.").replace(".", "_") + "_"
        if within and not key.startswith(marks[len(blocks) - 1]) and len(blocks) < len(marks):
            blocks.append([])
        within = key.startswith(marks[len(blocks) - 1])
        blocks[-1].append(module)
    return blocks


def _timm_load(net: nn.Module, name: str, file: str | Path) -> Report:
    """The file has the names of the whole network, which timm flattens in the feature network: load whole, then hand over."""
    whole = timm.create_model(name, pretrained=False, num_classes=0)
    report = load_weights(whole, file)
    filled = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
    net.load_state_dict({key: filled[key.removeprefix("model.").replace(".", "_")] for key in net.state_dict()})
    return report
