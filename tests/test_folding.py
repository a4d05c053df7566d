"""Layers that take the place of others: their tensors, their names, and nothing else."""

from __future__ import annotations

import torch
from torch import nn

from frugalseg.nets.backbone import build
from frugalseg.nets.folding import FoldedConv2d, FoldedNorm
from frugalseg.nets.layers import norm_as
from frugalseg.nets.sync import SharedNorm


def test_folded_layers_have_the_tensors_of_those_they_replace() -> None:
    net = build("tiny")
    before, names = {id(tensor) for tensor in net.state_dict(keep_vars=True).values()}, [*net.state_dict()]
    net.freeze(2, norm=True)
    assert [*net.state_dict()] == names
    assert {id(tensor) for tensor in net.state_dict(keep_vars=True).values()} == before
    assert sum(isinstance(module, FoldedConv2d) for module in net.modules()) > 2


def test_the_blocks_of_a_backbone_are_made_of_its_layers() -> None:
    net = build("tiny", frozen=2).train()
    layers = {*net.body.modules()}
    assert all(module in layers for block in net.blocks for module in block)
    assert all(not module.training for block in net.blocks[:2] for module in block)
    assert any(isinstance(module, FoldedNorm) for module in net.blocks[0])


def test_folding_draws_no_random_numbers() -> None:
    draws = []
    for frozen in (0, 5):
        torch.manual_seed(0)
        build("tiny", frozen=frozen)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]


def test_a_norm_of_another_class_computes_with_the_same_tensors() -> None:
    norm, features = nn.BatchNorm2d(3, eps=0.1, momentum=0.3), torch.randn(4, 3, 5, 5)
    other = norm_as(SharedNorm, norm)
    assert other.weight is norm.weight
    assert (other.eps, other.momentum, other.training) == (0.1, 0.3, True)
    expected = norm(features)
    after = norm.running_mean.clone()
    norm.reset_running_stats()
    torch.testing.assert_close(other(features), expected)
    torch.testing.assert_close(norm.running_mean, after)  # moved through the other
    assert not norm_as(SharedNorm, norm.eval()).training
