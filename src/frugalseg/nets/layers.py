"""First weights of new layers, and the 1×1 convolution that narrows a map."""

from __future__ import annotations

from torch import nn


def initialise(layer: nn.Module, std: float) -> None:
    """Gaussian weights of that standard deviation, Kaiming's for 0, and biases of 0, in a convolution or linear layer."""
    weight = layer.get_parameter("weight")
    if std:
        nn.init.normal_(weight, std=std)
    else:
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.get_parameter("bias"))


def narrowing(channels_in: int, channels: int) -> tuple[nn.Module, int]:
    """A 1×1 convolution to that many channels, or nothing for 0, and the channels that come out."""
    if not channels:
        return nn.Identity(), channels_in
    layer = nn.Conv2d(channels_in, channels, 1)
    initialise(layer, 0.0)
    return nn.Sequential(layer, nn.ReLU(inplace=True)), channels
