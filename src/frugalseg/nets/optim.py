"""Optimisers with the groups of parameters that the papers mean."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim.lars import Lars
from torch import nn


def lars(model: nn.Module, lr: float, weight_decay: float, momentum: float = 0.9, trust: float = 1e-3) -> torch.optim.Optimizer:
    """LARS (You et al., 2017), timm's; biases and norms – all tensors of one dimension – get neither decay nor trust ratio.

    They are recognised by their shape, not by their name: names miss the batch norm of a stem that is called `encoder.1`. timm
    adapts no group without weight decay, so a decay of 0 would switch LARS off for the weights too; there it always adapts.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay, "always_adapt": True},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0, "always_adapt": False},
    ]
    return Lars([group for group in groups if group["params"]], lr=lr, momentum=momentum, trust_coeff=trust)


def of(config: Any, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The recipe's optimiser, "sgd" or "adamw", of these groups; its `weight_decay` holds for those that name none.

    Fused: one pass over memory instead of PyTorch's usual ten, a quarter of AdamW's time on a CPU.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay, fused=True)


def one_rate(config: Any, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser of all that learns, at `lr`. Raises ValueError when nothing does."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not learning:
        raise ValueError("nothing can learn: every layer is frozen; lower frozen, or train for 0 steps")
    return of(config, [{"params": learning, "lr": config.lr}])


def two_rates(config: Any, model: nn.Module, trunk: nn.Module, fan_in: int = 0) -> torch.optim.Optimizer:
    """The recipe's optimiser: the trunk, a part of the model, at `lr`, all other layers at `head_lr`, see `by_inputs`."""
    inside = {id(p) for p in trunk.parameters()}
    learning = [p for p in trunk.parameters() if p.requires_grad]
    new = [p for p in model.parameters() if id(p) not in inside]
    groups = [{"params": learning, "lr": config.lr}] if learning else []
    return of(config, groups + by_inputs({"params": new, "lr": config.head_lr}, fan_in))


def two_rates_free_biases(config: Any, model: nn.Module, trunk: nn.Module, fan_in: int = 0) -> torch.optim.Optimizer:
    """As `two_rates`, but biases have no weight decay and, with SGD, twice the rate, as in Fast R-CNN (Girshick, ICCV 2015)."""
    inside = {id(parameter) for parameter in trunk.parameters()}
    factor = 2.0 if config.optimizer == "sgd" else 1.0
    groups = []
    for in_trunk, lr in ((True, config.lr), (False, config.head_lr)):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad and (id(p) in inside) == in_trunk]
        weights, biases = ([p for name, p in named if name.endswith("bias") == bias] for bias in (False, True))
        groups += by_inputs({"params": weights, "lr": lr}, 0 if in_trunk else fan_in)
        groups += [{"params": biases, "lr": lr * factor, "weight_decay": 0.0}] if biases else []
    return of(config, groups)


def by_inputs(group: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """The group in parts: a layer of more inputs than `most` learns at lr · most / inputs; all as they are for 0.

    AdamW moves every weight by about its rate whatever the gradient, so a rate at which a unit of a hundred inputs learns makes
    one of thousands jump; with rates like these one rate suits all widths (Yang et al., Tensor Programs V, 2022, table 3).
    Inputs are counted by a weight's shape, as torch's initialisers do.
    """
    parts: dict[float, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        inputs = parameter[0].numel() if parameter.ndim > 1 else 1
        parts.setdefault(min(1.0, most / inputs) if most else 1.0, []).append(parameter)
    return [{**group, "params": params, "lr": group["lr"] * share} for share, params in parts.items()]
