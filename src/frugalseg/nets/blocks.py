"""Networks as rows of blocks: put together under their library's names, cut behind a block, dilated to a finer stride."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import nn

from frugalseg.nets.weights import Report

Block = dict[str, nn.Module]  # the modules of one block in their order of work, by their names in the library


class Parts(NamedTuple):
    """What a family of networks gives to `backbone.build`; see `Backbone` for the fields."""

    body: nn.Module
    blocks: list[list[nn.Module]]
    channels: int
    ends: list[int]
    shift: float
    report: Report | None = None


def row(body: nn.Module) -> list[nn.Module]:
    """The layers of a network made by `assemble`, in their order of work."""
    layers = list(body.children())
    while len(layers) == 1 and isinstance(layers[0], nn.Sequential):
        layers = list(layers[0].children())
    return layers


def assemble(blocks: list[Block]) -> nn.Sequential:
    """One sequence of all modules, under their dotted names."""
    body = nn.Sequential()
    for path, module in (item for block in blocks for item in block.items()):
        parent, _, name = path.rpartition(".")
        if parent and not hasattr(body, parent):
            body.add_module(parent, nn.Sequential())
        body.get_submodule(parent).add_module(name, module)
    return body


def dilate(body: nn.Module, output_stride: int) -> tuple[int, float]:
    """Remove strides beyond output_stride and spread the later kernels ("à trous"); returns the stride reached and `shift`.

    The layer that loses its stride still reads the old grid: only what follows it is spread. Pools are not, as in DeepLab.
    Pools of 2×2 without padding look to the right and down.
    """
    stride, dilation, keep, shift = 1, 1, True, 0.0
    for layer in body.modules():
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            continue
        strided = layer.stride not in (1, (1, 1))
        if layer.kernel_size not in (1, (1, 1)):  # a strided 1×1 layer is the shortcut beside a 3×3 layer, already counted
            if isinstance(layer, nn.Conv2d):
                layer.dilation = (dilation, dilation)
                layer.padding = tuple(dilation * cast(int, side) for side in layer.padding)
            elif layer.padding == 0:
                shift += (cast(int, layer.kernel_size) - 1) / 2 * stride
            if strided:
                keep = stride < output_stride
                stride, dilation = (2 * stride, dilation) if keep else (stride, 2 * dilation)
        if strided and not keep:
            layer.stride = (1, 1)
    return stride, shift


def check_level(name: str, level: int, blocks: int) -> None:
    """Raise ValueError for a level that the network does not have."""
    if not 0 <= level <= blocks:
        raise ValueError(f"level: got {level}, but {name} has {blocks} blocks; type a number from 1 to {blocks}, or 0 for all")


def check_reached(name: str, wanted: int, reached: int) -> None:
    """Raise ValueError where a network cannot have the output stride that was asked for."""
    if reached != wanted:
        raise ValueError(
            f"output_stride: got {wanted}, but {name} ends at stride {reached}; type output_stride={reached} or a higher level"
        )
