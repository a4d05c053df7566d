"""R2-IOS's instance-aware denoising autoencoder. Shape letters: R regions, S side of a map."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Two maps of each region through a short code, (R, 2, S, S) -> (R, 2, S, S) (Liang et al., CVPR 2016, sec. 3.1).

    What it removes are the other objects in the box; no noise is added. The output has no ReLU: logits may be negative.
    """

    def __init__(self, size: int, code: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(2 * size * size, code), nn.Linear(code, 2 * size * size)

    def forward(self, confidence: Tensor) -> Tensor:
        """confidence: (R, 2, S, S) logits of background and foreground."""
        decoded: Tensor = self.decoder(self.encoder(confidence.flatten(1)).relu())
        return decoded.view_as(confidence)

    @torch.no_grad()
    def initialise_as_low_pass(self) -> None:
        """First weights that let the maps through without their finest detail; ours, for short trainings.

        The code holds the lowest waves of both maps, each once more negated, so that the ReLU loses nothing. With random weights
        the convolutions before the autoencoder learn only through it, and it learns only from them.
        """
        code, inputs = self.encoder.weight.shape
        area = inputs // 2
        waves = lowest_waves(math.isqrt(area), min(code // 4, area))
        signed = torch.cat([waves, -waves])
        for values in (self.decoder.weight, self.encoder.bias, self.decoder.bias, self.encoder.weight[: 2 * len(signed)]):
            nn.init.zeros_(values)
        for place in range(2):
            units, cells = slice(place * len(signed), (place + 1) * len(signed)), slice(place * area, (place + 1) * area)
            self.encoder.weight[units, cells], self.decoder.weight[cells, units] = signed, signed.T


def lowest_waves(side: int, count: int) -> Tensor:
    """The two-dimensional waves (DCT-II) of lowest frequency of a square map, (count, side²), orthonormal."""
    waves = torch.from_numpy(dct(np.eye(side), norm="ortho", axis=0))
    planes = torch.einsum("uy,vx->uvyx", waves, waves).reshape(side**2, side**2)
    order = (torch.arange(side)[:, None].square() + torch.arange(side).square()).flatten()
    return planes[order.sort(stable=True).indices[:count]].float()
