"""Numbers that all processes share: sums, and batch norm over the images of all of them, on CPUs too."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from frugalseg.nets.layers import norm_as

M = TypeVar("M", bound=nn.Module)


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; gradients go back through it."""
    if processes() == 1:
        return value
    summed: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]
    return summed


def gathered(rows: Tensor) -> tuple[Tensor, int]:
    """The rows (N, D) of all processes in the order of their ranks, and the place of this one's first; gradients reach each.

    Each process puts its rows into zeros and all are added: the numbers of rows may differ.
    """
    if processes() == 1:
        return rows, 0
    rank = distributed.get_rank()
    counts = torch.zeros(processes(), device=rows.device)
    counts[rank] = len(rows)
    counts = total(counts).long()
    start, rest = int(counts[:rank].sum()), int(counts[rank + 1 :].sum())
    return total(torch.cat([rows.new_zeros(start, rows.shape[1]), rows, rows.new_zeros(rest, rows.shape[1])])), start


def shared_norms(module: M, device: torch.device) -> M:
    """The module with every batch norm inside it taking its statistics over all processes; unchanged for one process.

    torch's SyncBatchNorm works on GPUs only, so on other devices the norms are replaced by `SharedNorm`.
    """
    if processes() == 1:
        return module
    if device.type == "cuda":
        converted: M = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for parent in module.modules():
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, norm_as(SharedNorm, child))
    return module


class RowNorm(nn.BatchNorm1d):
    """Batch norm of rows (N, D) that takes its running statistics when there are fewer than two rows to normalise by."""

    def forward(self, rows: Tensor) -> Tensor:
        if self.training and len(rows) < 2:
            return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(rows)


class SharedNorm(_BatchNorm):
    """Batch norm over the batches of all processes; the same images give the same result as in one process."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return self._eval(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        dtype, shape = features.dtype, [1, -1] + [1] * (features.ndim - 2)
        features = features.to(torch.promote_types(dtype, self.running_mean.dtype))  # sums in bfloat16 would lose most digits
        axes = [0, *range(2, features.ndim)]
        count = total(torch.tensor(float(features.numel() // features.shape[1]), device=features.device))
        if count < 2:
            return self._eval(features)
        mean = total(features.sum(axes)) / count
        centred = features - mean.view(shape)
        variance = total(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum or 0.0)
            self.num_batches_tracked += 1
        return (centred * (variance + self.eps).rsqrt().view(shape) * self.weight.view(shape) + self.bias.view(shape)).to(dtype)

    def _eval(self, features: Tensor) -> Tensor:
        return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def _check_input_dim(self, input: Tensor) -> None:
        """Rows and maps alike."""
