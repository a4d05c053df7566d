"""timm's networks, of which the last feature map is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn
from torch.nn.functional import pad

from frugalseg.nets.blocks import Parts, check_reached
from frugalseg.nets.weights import OFFLINE, Report, explain_other_backbone, load_weights, names_before, weights_file


class TimmFeatures(nn.Module):
    """The last feature map of a timm network, as (B, D, h, w) whatever its own order of axes."""

    def __init__(self, net: nn.Module, stride: int):
        super().__init__()
        self.net, self.stride = net, stride
        self.last_axis = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        images = pad(images, (0, -width % self.stride, 0, -height % self.stride))  # patch stems drop a ragged border
        features = self.net(images)[-1]
        output: Tensor = features.permute(0, 3, 1, 2) if self.last_axis else features
        return output


def parts(name: str, output_stride: int, weights: str | Path | None, normalize: str, level: int) -> Parts:
    """timm's network of that name; the arguments are those of `backbone.build`."""
    file = weights_file(weights) if weights is not None and weights_file(weights).is_file() else None
    if file is None and weights not in (None, "imagenet"):
        raise ValueError(f"weights: got {str(weights)!r}, which is no file; expected a .safetensors or .pth file or 'imagenet'")
    net = create(name, output_stride, level, pretrained=weights == "imagenet")
    info = net.feature_info
    check_reached(f"timm/{name}", output_stride, info.reduction()[-1])
    blocks = split_blocks(net, [entry["module"] for entry in info.info][: level or None])
    report = None if file is None else load(net, name, file, normalize)
    return Parts(TimmFeatures(net, output_stride), blocks, info.channels()[-1], [], 0.0, report)


def load(net: nn.Module, name: str, file: Path, normalize: str) -> Report:
    """Fill the network with the weights of a file in timm's layout, or of a run."""
    head = names_before(file, normalize)
    with explain_other_backbone(f"timm/{name}", file):
        return load_weights(net, file, prefixes={f"{head}net.": ""}) if head else load_whole(net, name, file)


def create(name: str, output_stride: int, level: int, pretrained: bool) -> Any:
    """Not every network knows `output_stride`, transformers know `dynamic_img_size`; the caller checks the stride reached."""
    faults = []
    for option in ({"output_stride": output_stride}, {"dynamic_img_size": True}, {}):
        try:
            return timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=(level - 1,), **option)
        except OSError as error:
            raise OSError(f"weights: could not download timm's for {name} ({error}). {OFFLINE}") from error
        except (TypeError, AssertionError, IndexError) as error:
            faults.append(f"  - with {option}: {error or type(error).__name__}")
    raise ValueError(f"timm/{name} gives no feature map for output_stride={output_stride}, level={level}:\n" + "\n".join(faults))


def split_blocks(net: nn.Module, marks: list[str]) -> list[list[nn.Module]]:
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


def load_whole(net: nn.Module, name: str, file: str | Path) -> Report:
    """The file has the names of the whole network, which timm flattens in the feature network: load whole, then hand over."""
    whole = timm.create_model(name, pretrained=False, num_classes=0)
    report = load_weights(whole, file)
    filled = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
    net.load_state_dict({key: filled[key.removeprefix("model.").replace(".", "_")] for key in net.state_dict()})
    return report
