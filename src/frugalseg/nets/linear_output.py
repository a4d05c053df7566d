"""Feature networks whose features take both signs: without the ReLU, and the pool, behind their last block."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from frugalseg.nets.tiny import Residual

RESIDUAL = (Bottleneck, BasicBlock, Residual)
REMOVED = (nn.MaxPool2d, nn.ReLU, nn.ReLU6)


class LinearOutputBlock(nn.Module):
    """A residual block without the ReLU behind its sum; its layers keep their names and parameters."""

    relu: nn.Module

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        steps = [number for number in (1, 2, 3) if hasattr(block, f"conv{number}")]
        self.steps = [(f"conv{number}", f"bn{number}") for number in steps]
        self.skip = "shortcut" if isinstance(block, Residual) else "downsample"
        self.train(block.training)

    def forward(self, features: Tensor) -> Tensor:
        inner = features
        for place, (conv, norm) in enumerate(self.steps):
            inner = self.relu(inner) if place else inner
            inner = getattr(self, norm)(getattr(self, conv)(inner))
        shortcut = getattr(self, self.skip, None)
        return inner + (features if shortcut is None else shortcut(features))


def remove_last_relu(body: nn.Module) -> None:
    """Let the features of a network take both signs; a network that ends in another way, as timm's do, stays as it is.

    A residual block at the end is replaced; a ReLU at the end goes, with the pool behind it.
    """
    blocks = [(parent, name) for parent in body.modules() for name, child in parent.named_children() if type(child) in RESIDUAL]
    if blocks:
        parent, name = blocks[-1]
        setattr(parent, name, LinearOutputBlock(parent.get_submodule(name)))
        return
    last = [*body.modules()][-1]
    if isinstance(last, REMOVED):
        parent = next(module for module in reversed([*body.modules()]) if last in module.children())
        for name, child in reversed([*cast(nn.Sequential, parent).named_children()]):
            if not isinstance(child, REMOVED):
                break
            delattr(parent, name)
