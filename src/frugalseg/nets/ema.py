"""The exponential moving average of a network's parameters: BYOL's target network, a mean teacher."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(network: Module) -> Module:
    """A copy that no gradient reaches, to start the average from."""
    return deepcopy(network).requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, tau: float) -> None:
    """ξ ← τ·ξ + (1 − τ)·θ for every parameter; buffers, such as batch-norm statistics, are not averaged.

    Raises ValueError when the two do not have the same parameters.
    """
    for mean, current in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(current.to(mean.dtype), 1.0 - tau)
