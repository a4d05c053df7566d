"""A backbone as a row of layers, to be split where its map becomes coarser."""

from __future__ import annotations

import torch
from torch import nn

from frugalseg.nets.backbone import Backbone
from frugalseg.nets.blocks import row

PROBE = 128  # side in pixels of the image that finds out the stride behind each layer


def expect_a_row(name: str, advice: str) -> None:
    """Raises ValueError, which ends with the advice, for a backbone that gives its last map only."""
    if name.startswith("timm/"):
        raise ValueError(f"backbone: got {name}, which gives its last map only; expected one with a map at each stride; {advice}")


def layers(backbone: Backbone) -> list[nn.Module]:
    """The layers of a backbone that is a row of them, see `expect_a_row`."""
    return row(backbone.body)


def shapes(backbone: Backbone) -> list[tuple[int, int]]:
    """Channels and stride of the map after each of `layers`."""
    results, training = [], backbone.training
    backbone.eval()
    with torch.no_grad():
        features = torch.zeros(1, 3, PROBE, PROBE)
        for layer in layers(backbone):
            features = layer(features)
            results.append((features.shape[1], PROBE // features.shape[2]))
    backbone.train(training)
    return results
