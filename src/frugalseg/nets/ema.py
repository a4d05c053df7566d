"""A teacher that follows its student: the exponential moving average of the student's parameters."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def teacher(student: Module) -> Module:
    """A copy of the student that no gradient reaches."""
    return deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update(teacher: nn.Module, student: nn.Module, tau: float) -> None:
    """ξ ← τ·ξ + (1 − τ)·θ for every parameter; buffers, such as batch-norm statistics, stay the teacher's own.

    Raises ValueError when the two do not have the same parameters.
    """
    for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
        own.lerp_(other.to(own.dtype), 1.0 - tau)
