"""First weights of new layers, the 1×1 convolution that narrows a map, and batch norms of another class."""

from __future__ import annotations

from contextlib import suppress
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from frugalseg.nets.weights import WeightsError, load_weights

Norm = TypeVar("Norm", bound=_BatchNorm)


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


def load_vgg_layers(fc6: nn.Linear, fc7: nn.Linear, file: str) -> None:
    """Copy VGG-16's two fully connected layers, which read 7 × 7 cells of its map, from a weights file that has them.

    Layers of other shapes, and files without them, leave everything as it is.
    """
    with suppress(WeightsError):
        layers = nn.ModuleDict({"fc6": fc6, "fc7": fc7})
        load_weights(layers, file, prefixes={"classifier.0.": "fc6.", "classifier.3.": "fc7."})


def norm_as(kind: type[Norm], norm: _BatchNorm) -> Norm:
    """A batch norm of that class with the parameters and buffers of another, to take its place."""
    settings = norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    other = kind(*settings, device="meta")
    for tensors in ("_parameters", "_buffers"):
        setattr(other, tensors, dict(getattr(norm, tensors)))
    return other.train(norm.training)
