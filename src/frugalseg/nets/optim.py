"""Optimisers with the parameter groups that papers mean."""

from __future__ import annotations

import torch
from timm.optim import Lars
from torch import nn


def lars(model: nn.Module, lr: float, weight_decay: float, momentum: float = 0.9, trust: float = 1e-3) -> torch.optim.Optimizer:
    """LARS (You et al., 2017), timm's; biases and norms – all tensors of one dimension – get neither decay nor trust ratio.

    Told by shape, not by name: names miss the batch norm of a stem that is called `encoder.1`. timm's adapts no group without
    weight decay, so decay 0 would switch LARS off for the weights as well; there it is told to adapt always.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay, "always_adapt": True},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0, "always_adapt": False},
    ]
    return Lars([group for group in groups if group["params"]], lr=lr, momentum=momentum, trust_coeff=trust)
