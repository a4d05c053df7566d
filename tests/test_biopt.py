"""BiOpt part by part: prototypes, the init module, the inner loop against autograd, losses, and what happens at the edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from frugalseg.methods import biopt
from frugalseg.types import IGNORE

ALPHA, LR = 20.0, 0.1


def features(episodes: int = 3, positions: int = 30, channels: int = 16, norm: float = 40.0) -> Tensor:
    """Random features of about this length, (E, X, D); real ones measure 38 to 45."""
    return F.normalize(torch.randn(episodes, positions, channels, dtype=torch.float64), dim=-1) * norm


def problem(ways: int = 1, episodes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Unit query features, prototypes near some of them, and the target they give."""
    query = features(episodes)
    prototypes = query[:, : ways + 1] + torch.randn(episodes, ways + 1, 16, dtype=torch.float64)
    unit = F.normalize(query, dim=-1)
    return unit, prototypes, biopt.cosine(unit, prototypes).argmax(1)


# -- prototypes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "extent"), [((5, 7), (33, 49)), ((4, 4), (25, 25)), ((1, 3), (9, 17)), ((6, 5), (6, 5))])
def test_pooling_by_weights_equals_pooling_of_upsampled_features(size: tuple[int, int], extent: tuple[int, int]) -> None:
    maps = torch.randn(2, 8, *size, dtype=torch.float64)
    masks = torch.rand(2, *extent) < 0.3
    large = F.interpolate(maps, extent, mode="bilinear", align_corners=True)
    expected = torch.stack([large[b][:, masks[b]].mean(1) for b in range(2)])
    weights = biopt.pooling_weights(masks, size).double()
    assert weights.sum(1) == pytest.approx(masks.flatten(1).sum(1).double())
    pooled = weights[:, None] @ maps.flatten(2).mT / weights.sum(1)[:, None, None]
    torch.testing.assert_close(pooled[:, 0], expected, rtol=1e-6, atol=1e-6)


def test_an_object_of_one_pixel_still_has_a_prototype() -> None:
    masks = torch.zeros(1, 65, 65, dtype=torch.int64)
    masks[0, 30, 30] = 1
    weights = biopt.class_weights(masks, (3, 3))  # no point of the 3 × 3 map lies on it
    assert weights[0, 1].sum() == pytest.approx(1.0)
    assert weights[0].sum() == pytest.approx(65 * 65)


def test_void_pixels_are_neither_object_nor_background() -> None:
    masks = torch.tensor([[[0, 1, IGNORE]]])
    torch.testing.assert_close(biopt.class_weights(masks, (1, 3)), torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]))


def test_support_prototypes_are_means_over_shots_and_the_background_also_over_ways() -> None:
    maps, weights = torch.randn(1, 2, 3, 6, 4), torch.rand(1, 2, 3, 2, 6)
    found, shown = biopt.support_prototypes(maps, weights)
    assert shown.tolist() == [[True] * 3]

    def mean(way: int, shot: int, part: int) -> Tensor:
        weight = weights[0, way, shot, part]
        return (weight[:, None] * maps[0, way, shot]).sum(0) / weight.sum()

    background = torch.stack([mean(way, shot, 0) for way in range(2) for shot in range(3)]).mean(0)
    ways = [torch.stack([mean(way, shot, 1) for shot in range(3)]).mean(0) for way in range(2)]
    torch.testing.assert_close(found[0], torch.stack([background, *ways]), rtol=1e-4, atol=1e-4)


def test_order_of_the_references_changes_nothing() -> None:
    maps, weights = torch.randn(2, 1, 5, 6, 4), torch.rand(2, 1, 5, 2, 6)
    order = torch.randperm(5)
    for one, other in zip(
        biopt.support_prototypes(maps, weights), biopt.support_prototypes(maps[:, :, order], weights[:, :, order]), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_shot_without_the_class_leaves_the_mean_to_the_others() -> None:
    maps, weights = torch.randn(1, 1, 2, 6, 4), torch.rand(1, 1, 2, 2, 6)
    weights[0, 0, 1, 1] = 0
    found, shown = biopt.support_prototypes(maps, weights)
    alone, _ = biopt.support_prototypes(maps[:, :, :1], weights[:, :, :1])
    assert shown.all()
    torch.testing.assert_close(found[:, 1], alone[:, 1])


def test_a_reference_filled_by_its_object_takes_its_background_from_the_query() -> None:
    query = features(1, 20).float()
    maps, weights = query[:, None, None, :6], torch.zeros(1, 1, 1, 2, 6)
    weights[..., 1, :] = 1
    empty, shown = biopt.support_prototypes(maps, weights)
    assert shown.tolist() == [[False, True]]
    filled = biopt.fill_empty(empty, shown, query)
    cos = F.cosine_similarity(query[0], filled[0, 1][None])
    torch.testing.assert_close(filled[0, 0], query[0, cos.argsort()[:2]].mean(0))  # the tenth of 20
    torch.testing.assert_close(filled[0, 1], empty[0, 1])
    unit = F.normalize(query, dim=-1)
    after = biopt.inner_loop(unit, filled, biopt.cosine(unit, filled).argmax(1), 10, LR, ALPHA)
    assert biopt.movement(filled, after).item() < 0.3


def test_a_zero_prototype_has_a_finite_gradient() -> None:
    unit, prototypes, target = problem()
    prototypes[:, 0] = 0
    assert torch.isfinite(biopt.inner_gradient(unit, prototypes, target, ALPHA)).all()


# -- the init module -------------------------------------------------------------------------------------------------


def test_the_untrained_init_module_is_the_plain_mean() -> None:
    one, other = torch.randn(2, 2, 8), torch.randn(2, 2, 8)
    torch.testing.assert_close(biopt.InitModule(8)(one, other), (one + other) / 2)


def test_init_module_is_equation_5() -> None:
    module = biopt.InitModule(4)
    torch.nn.init.normal_(module.fc.weight)
    support, temporary = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    for index in range(2):
        joined = torch.cat([support[0, index], temporary[0, index]])
        omega = 1 / (1 + torch.exp(-(module.fc.weight @ joined)))
        expected = omega * support[0, index] + (1 - omega) * temporary[0, index]
        torch.testing.assert_close(module(support, temporary)[0, index], expected)


def test_temporary_prototypes_average_the_query_inside_its_rough_mask() -> None:
    query, rough, support = features(2).float(), torch.randn(2, 3, 30), torch.randn(2, 3, 16)
    rough[1, 2] = -9  # nobody chooses class 2 in the second episode
    found = biopt.temporary_prototypes(query, rough, support)
    chosen = rough.argmax(1)
    for episode in range(2):
        for label in range(3):
            inside = query[episode][chosen[episode] == label]
            expected = inside.mean(0) if len(inside) else support[episode, label]
            torch.testing.assert_close(found[episode, label], expected, rtol=1e-4, atol=1e-4)


# -- the inner loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [1, 3])
def test_closed_form_gradient_equals_autograd(ways: int) -> None:
    unit, prototypes, target = problem(ways)
    prototypes.requires_grad_()
    loss = biopt.inner_loss(unit, prototypes, target, ALPHA).sum()
    (expected,) = torch.autograd.grad(loss, prototypes)
    with torch.inference_mode():
        found = biopt.inner_gradient(unit, prototypes, target, ALPHA)
    torch.testing.assert_close(found, expected)


def unrolled(unit: Tensor, prototypes: Tensor, target: Tensor, steps: int, first_order: bool) -> Tensor:
    """The inner loop as MAML writes it: autograd inside, its graph kept for the outer loop."""
    for _ in range(steps):
        loss = biopt.inner_loss(unit, prototypes, target, ALPHA).sum()
        (gradient,) = torch.autograd.grad(loss, prototypes, create_graph=not first_order, retain_graph=True)
        prototypes = prototypes - LR * gradient
    return prototypes


@pytest.mark.parametrize("first_order", [False, True])
def test_gradient_through_the_loop_equals_that_of_an_unrolled_one(first_order: bool) -> None:
    unit, prototypes, target = problem()
    gradients = []
    for loop in (
        lambda u, p: biopt.inner_loop(u, p, target, 5, LR, ALPHA, first_order),
        lambda u, p: unrolled(u, p, target, 5, first_order),
    ):
        leaves = unit.clone().requires_grad_(), prototypes.clone().requires_grad_()
        after = loop(*leaves)
        final = F.cross_entropy(ALPHA * biopt.cosine(leaves[0], after), 1 - target)
        gradients.append((after.detach(), *torch.autograd.grad(final, leaves)))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_second_order_differs_from_first() -> None:
    unit, prototypes, target = problem()
    found = []
    for first_order in (False, True):
        leaf = prototypes.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(biopt.inner_loop(unit, leaf, target, 5, LR, ALPHA, first_order).square().sum(), leaf)
        found.append(gradient)
    assert not torch.allclose(*found, rtol=1e-3)


def test_the_loop_lowers_its_own_loss_and_moves_a_little() -> None:
    unit, prototypes, target = problem()
    losses = [biopt.inner_loss(unit, biopt.inner_loop(unit, prototypes, target, k, LR, ALPHA), target, ALPHA) for k in range(11)]
    assert (torch.stack(losses).diff(dim=0) < 0).all()
    moved = biopt.movement(prototypes, biopt.inner_loop(unit, prototypes, target, 10, LR, ALPHA))
    assert ((moved > 1e-4) & (moved < 0.3)).all()


def test_no_steps_leave_the_prototypes_alone() -> None:
    unit, prototypes, target = problem()
    assert biopt.inner_loop(unit, prototypes, target, 0, LR, ALPHA) is prototypes


def test_episodes_that_share_a_query_equal_episodes_with_copies_of_it() -> None:
    unit, prototypes, _ = problem()
    shared, copies = unit[:1], unit[:1].expand(3, -1, -1).contiguous()
    target = biopt.cosine(copies, prototypes).argmax(1)
    one = biopt.inner_loop(shared, prototypes, target, 10, LR, ALPHA)
    torch.testing.assert_close(one, biopt.inner_loop(copies, prototypes, target, 10, LR, ALPHA))


# -- losses ----------------------------------------------------------------------------------------------------------


def test_mask_loss_weighs_episodes_equally_and_leaves_void_out() -> None:
    logits, masks = torch.randn(2, 2, 3, 3), torch.randint(0, 2, (2, 3, 3))
    masks[0, 0], masks[1, :, :2] = IGNORE, IGNORE
    each = [
        torch.stack([-logits[e, :, i, j].log_softmax(0)[masks[e, i, j]] for i, j in (masks[e] != IGNORE).nonzero().tolist()])
        for e in range(2)
    ]
    assert biopt.mask_loss(logits, masks).item() == pytest.approx((each[0].mean() + each[1].mean()).item() / 2)
    assert biopt.mask_loss(logits, torch.full_like(masks, IGNORE)).item() == 0
