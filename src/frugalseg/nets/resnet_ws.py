"""ResNet-WS: residual networks for weak supervision (Shen et al., ECCV 2020), as PDSL has them.

A tag says nothing of places, so the network must keep them itself: three small convolutions in place of the large strided one,
no stride in any residual block, and maxima of 2 × 2 after the second and third stage in their place.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision import models


class Pool(nn.MaxPool2d):
    """Maximum of 2 × 2 points; a map of odd sides keeps its last row, and without a stride the map keeps its size."""

    def __init__(self) -> None:
        super().__init__(2, stride=2, ceil_mode=True)

    def forward(self, features: Tensor) -> Tensor:
        # Zeros are beyond the edge: features behind a ReLU are never below.
        output: Tensor = super().forward(features if self.stride == 2 else pad(features, (0, 1, 0, 1)))
        return output


def blocks(name: str) -> list[dict[str, nn.Module]]:
    """Stem and four stages of torchvision's network of that name, whose stages' weights fit (the stem's do not)."""
    net = models.get_model(name, weights=None)
    for layer in [*net.layer2.modules(), *net.layer3.modules(), *net.layer4.modules()]:
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
    for stage in (net.layer1, net.layer2):
        stage.add_module("pool", Pool())
    names = ("layer1", "layer2", "layer3", "layer4")
    return [{"stem": stem()}, *({part: getattr(net, part)} for part in names)]


def stem() -> nn.Sequential:
    """Three 3 × 3 convolutions of 64 channels, the first with stride 2, then a pool: 4 pixels of the image per point."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (channels, stride) in enumerate(((3, 2), (64, 1), (64, 1)), start=1):
        convolution = nn.Conv2d(channels, 64, 3, stride=stride, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        layers |= {f"conv{number}": convolution, f"bn{number}": nn.BatchNorm2d(64), f"relu{number}": nn.ReLU(inplace=True)}
    return nn.Sequential(layers | {"pool": Pool()})
