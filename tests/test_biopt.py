"""BiOpt part by part: the init module, the inner loop against autograd, losses, and what happens at the edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from torch import Tensor
from torch.nn import functional as F

from frugalseg.data import Data, DataError, episodes, read
from frugalseg.data.episode_sampler import EpisodeSampler
from frugalseg.engine.run import Run
from frugalseg.methods import biopt
from frugalseg.nets.prototypes import Supports, cosine, fill_empty, reference_prototypes, support_prototypes
from frugalseg.recipes.biopt import Config
from frugalseg.recipes.runtime import Runtime
from frugalseg.types import IGNORE, Sample

ALPHA, LR = 20.0, 0.1
TINY: dict[str, Any] = {"backbone": "tiny", "side": 33, "test_scales": (1.0,)}


def features(episodes: int = 3, positions: int = 30, channels: int = 16, norm: float = 40.0) -> Tensor:
    """Random features of about this length, (E, X, D); real ones measure 38 to 45."""
    return F.normalize(torch.randn(episodes, positions, channels, dtype=torch.float64), dim=-1) * norm


def problem(ways: int = 1, episodes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Unit query features, prototypes near some of them, and the target they give."""
    query = features(episodes)
    prototypes = query[:, : ways + 1] + torch.randn(episodes, ways + 1, 16, dtype=torch.float64)
    unit = F.normalize(query, dim=-1)
    return unit, prototypes, cosine(unit, prototypes).argmax(1)


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
        final = F.cross_entropy(ALPHA * cosine(leaves[0], after), 1 - target)
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
    target = cosine(copies, prototypes).argmax(1)
    one = biopt.inner_loop(shared, prototypes, target, 10, LR, ALPHA)
    torch.testing.assert_close(one, biopt.inner_loop(copies, prototypes, target, 10, LR, ALPHA))


def test_a_reference_filled_by_its_object_takes_its_background_from_the_query() -> None:
    query = features(1, 20).float()
    maps, weights = query[:, None, None, :6], torch.zeros(1, 1, 1, 2, 6)
    weights[..., 1, :] = 1
    empty, shown = support_prototypes(maps, weights)
    assert shown.tolist() == [[False, True]]
    filled = fill_empty(empty, shown, query)
    cos = F.cosine_similarity(query[0], filled[0, 1][None])
    torch.testing.assert_close(filled[0, 0], query[0, cos.argsort()[:2]].mean(0))  # the tenth of 20
    torch.testing.assert_close(filled[0, 1], empty[0, 1])
    unit = F.normalize(query, dim=-1)
    after = biopt.inner_loop(unit, filled, cosine(unit, filled).argmax(1), 10, LR, ALPHA)
    assert biopt.movement(filled, after).item() < 0.3


def test_a_zero_prototype_has_a_finite_gradient() -> None:
    unit, prototypes, target = problem()
    prototypes[:, 0] = 0
    assert torch.isfinite(biopt.inner_gradient(unit, prototypes, target, ALPHA)).all()


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


# -- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "level", "channels"),
    [
        ("vgg16", 0, 512),
        ("resnet18", 0, 512),
        ("resnet50", 4, 1024),
        ("tiny", 0, 128),
        ("mobilenet_v2", 0, 1280),
        ("mobilenet_v2", 14, 96),
    ],
)
def test_features_take_both_signs_on_a_map_whose_corners_align(name: str, level: int, channels: int) -> None:
    model = biopt.BiOpt(Config(backbone=name, level=level, side=33), ("a",)).eval()
    with torch.no_grad():
        found = model.features(model.square(torch.randint(256, (3, 20, 40), dtype=torch.uint8)))
    assert found.shape == (1, 5, 5, channels)
    assert (found < 0).any()


@pytest.mark.parametrize(
    ("side", "stride", "expected"), [(417, 8, 417), (417, 16, 417), (291.9, 8, 289), (542.1, 8, 545), (3, 16, 17)]
)
def test_sides_lie_on_the_grid(side: float, stride: int, expected: int) -> None:
    assert biopt.on_grid(side, stride) == expected


# -- whole episodes --------------------------------------------------------------------------------------------------


def network(**changes: Any) -> biopt.BiOpt:
    torch.manual_seed(1)
    model = biopt.BiOpt(Config(**{**TINY, **changes}), ("a", "b", "c")).train()
    torch.nn.init.normal_(model.init.fc.weight, std=0.05)
    return model


def batch_of(episodes: int = 3, shots: int = 2, side: int = 33) -> dict[str, Tensor]:
    masks = torch.randint(2, (episodes, shots + 1, side, side))
    images = torch.randint(256, (episodes, shots + 1, 3, side, side), dtype=torch.uint8)
    names = {"query": images[:, 0], "query_mask": masks[:, 0], "references": images[:, 1:], "reference_masks": masks[:, 1:]}
    return {name: value.clone() for name, value in names.items()}


@pytest.mark.parametrize("settings", [{}, {"init": "support"}, {"align": 1.0}, {"first_order": True}])
def test_an_episode_does_not_depend_on_those_beside_it(settings: dict[str, Any]) -> None:
    model, batch = network(**settings), batch_of()
    batch["reference_masks"][1] = 1  # one of them has no background
    whole = model(batch)
    alone = [model({name: value[e : e + 1] for name, value in batch.items()}) for e in range(3)]
    for name, loss in whole.items():
        assert loss.item() == pytest.approx(sum(each[name].item() for each in alone) / 3, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"rough", "initial", "final"}),
        ({"init": "support"}, {"rough", "final"}),
        ({"inner_steps": 0}, {"rough", "initial"}),
        ({"init": "support", "inner_steps": 0}, {"rough"}),
        ({"init": "support", "inner_steps": 0, "align": 1.0}, {"rough", "align"}),
    ],
)
def test_every_distinct_prediction_has_its_loss(settings: dict[str, Any], names: set[str]) -> None:
    losses = network(**settings)(batch_of())
    assert losses.keys() == names
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())


def test_without_steps_the_final_prediction_is_the_initial_one() -> None:
    query, support = features(2).float(), torch.randn(2, 2, 16)
    model = network(inner_steps=0)
    model.init = biopt.InitModule(16)
    found = model.solve(query, support)
    assert torch.equal(found.final, found.initial)
    model.config = replace(model.config, init="support")
    assert torch.equal(model.solve(query, support).final, model.solve(query, support).rough)


def test_all_losses_reach_the_features_and_the_init_module() -> None:
    model = network()
    torch.stack([*model(batch_of()).values()]).sum().backward()
    assert model.init.fc.weight.grad.abs().sum() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.backbone.parameters() if p.requires_grad)


def test_stored_features_give_the_losses_of_their_images() -> None:
    model, batch = network().eval(), batch_of()
    with torch.no_grad():
        stored = {**batch, "query": model.features(batch["query"])}
        stored["references"] = model.features(batch["references"].flatten(0, 1)).unflatten(0, (3, 2))
        for one, other in zip(model(batch).values(), model(stored).values(), strict=True):
            assert one.item() == pytest.approx(other.item(), rel=1e-4)


def test_a_query_that_is_all_background_has_a_finite_loss() -> None:
    model, batch = network(), batch_of()
    batch["query_mask"][:] = 0
    torch.stack([*model(batch).values()]).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_one_class_sought_together_is_the_same_as_alone() -> None:
    model = network().eval()
    supports = Supports(torch.randn(1, 2, 128), torch.ones(1, 2, dtype=torch.bool), torch.ones(1))
    with torch.no_grad():
        views = model.views(torch.randint(256, (3, 30, 30), dtype=torch.uint8))
        for one, other in zip(model.segment(views, supports), model.segment(views, supports.joined()), strict=True):
            torch.testing.assert_close(one, other)


def test_scales_of_the_query_are_averaged() -> None:
    model = network(test_scales=(1.0, 2.0)).eval()
    supports = Supports(torch.randn(3, 2, 128), torch.ones(3, 2, dtype=torch.bool), torch.ones(3))
    with torch.no_grad():
        views = model.views(torch.randint(256, (3, 30, 30), dtype=torch.uint8))
        assert [view.shape[1] for view in views] == [5, 9]
        both, _ = model.segment(views, supports)
        each = [model.segment([view], supports)[0] for view in views]
        small = F.interpolate(each[0], (9, 9), mode="bilinear", align_corners=True)
    torch.testing.assert_close(both, (small + each[1]) / 2)


# -- prediction ------------------------------------------------------------------------------------------------------


def with_references(**changes: Any) -> tuple[biopt.BiOpt, Supports]:
    """A network with references of two of three classes."""
    model, shown = network(**changes).eval(), torch.tensor([[True, True], [True, False], [True, True]])
    return model, Supports(torch.randn(3, 2, 128) * 4, shown, torch.tensor([1.0, 0.0, 2.0]))


@pytest.mark.parametrize("tags", ["predicted", "given"])
def test_a_batch_is_predicted_as_one_by_one(tags: str) -> None:
    model, supports = with_references(test_scales=(1.0, 1.5))
    model = model.with_supports(supports, ("a", "b", "c"), threshold=0.0)
    generator = torch.Generator().manual_seed(0)
    sizes, known = ((40, 30), (33, 50)), torch.tensor([1.0, 0.0, 1.0])
    samples = [
        Sample(str(size), torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator), tags=known) for size in sizes
    ]
    items = [model.preprocess(sample) for sample in samples]
    assert len({model.batch_key(inputs) for inputs in items}) == 1
    with torch.no_grad():
        together, alone = model.infer(model.collate(items)), [model.infer(model.collate([inputs])) for inputs in items]
        for name, values in together.items():
            torch.testing.assert_close(values, torch.cat([outputs[name] for outputs in alone]), atol=1e-4, rtol=1e-4)
        batched = model.predict_batch(items, samples, tags)
    for one, other, size in zip(batched, model.predict(samples, tags), sizes, strict=True):
        assert one.size == tuple(one.semantic.shape) == size
        torch.testing.assert_close(one.tags, other.tags, atol=1e-4, rtol=1e-4)
        assert (one.semantic != other.semantic).float().mean() < 1e-2, "nothing but a pixel on a border may turn"
        assert 0 < int(one.semantic.bool().sum()) < one.semantic.numel()
        assert set(one.semantic.unique().tolist()) <= {0, 1, 3}


def test_references_of_other_classes_give_a_new_network() -> None:
    model, supports = with_references()
    other = model.with_supports(supports.at(torch.tensor([0, 2])), ("x", "y"), threshold=0.3)
    assert (model.classes, model.threshold, model.known_shown.any().item()) == (("a", "b", "c"), 0.5, False)
    assert (other.classes, other.threshold, other.usable.tolist()) == (("x", "y"), 0.3, [0, 1])
    assert other.backbone is model.backbone


# -- data ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return toys.write(tmp_path_factory.mktemp("images"))


def sampler(config: Config, images: Data) -> EpisodeSampler:
    base = episodes.base_split(images, [], 1)
    return EpisodeSampler(base, config.shots, biopt.square_reader(config, base), config.augment)


def test_training_items_are_functions_of_torchs_random_numbers(images: Data) -> None:
    config = Config(**TINY)
    tasks = sampler(config, images)
    items = []
    for _ in range(2):
        torch.manual_seed(5)
        items.append(tasks[0])
    assert all(torch.equal(items[0][name], items[1][name]) for name in items[0])
    shapes = {name: tuple(value.shape) for name, value in items[0].items()}
    assert shapes == {"query": (3, 33, 33), "query_mask": (33, 33), "references": (1, 3, 33, 33), "reference_masks": (1, 33, 33)}


def test_a_cropped_reference_keeps_its_object(images: Data) -> None:
    tasks = sampler(Config(**TINY), images)
    assert all((tasks[0]["reference_masks"] == 1).any() for _ in range(30))


@pytest.mark.parametrize(("policy", "expected"), [("background", 0), ("ignore", IGNORE)])
def test_pixels_of_a_class_that_is_held_back_are_never_its_own(images: Data, policy: str, expected: int) -> None:
    config = Config(**TINY, novel=("berry",), novel_in_train=policy)
    base = episodes.base_split(images, [2], 1, policy=policy)
    _, mask = biopt.square_reader(config, base).read(4, 1)  # shows all three classes
    assert mask[base.data[4].semantic == 2].unique().tolist() == [expected]


def test_ready_made_features_are_stored_and_learned_from(images: Data, tmp_path: Path) -> None:
    config = Config(**{**TINY, "frozen": 5, "augment": False, "steps": 3, "batch": 2, "pairs": 0})
    model = biopt.train(config, images, Run(tmp_path, Runtime(quiet=True, workers=0, accelerator="cpu")))
    assert len([*(tmp_path / "state" / "features").rglob("*.npz")]) == 5  # of six images one shows nothing
    assert model.init.fc.weight.abs().sum() > 0


def test_held_back_classes_are_named_and_unknown_to_the_model(images: Data, tmp_path: Path) -> None:
    config = Config(**{**TINY, "steps": 0, "novel": ("cherry",), "novel_in_train": "background"})
    model = biopt.train(config, images, Run(tmp_path, Runtime(quiet=True, workers=0, accelerator="cpu")))
    assert model.novel == ("cherry",)
    assert model.known_shown[:, 1].tolist() == [True, True, False]
    assert all(int(found.semantic.max()) < 3 for found in model.eval().predict(images.only("image")))
    with pytest.raises(DataError, match="novel: got plum, expected some of the classes apple, berry, cherry"):
        biopt.novel_labels(Config(novel=("plum",)), images.classes)


# -- real features ---------------------------------------------------------------------------------------------------


def test_on_real_features_the_loop_moves_a_little(shared_data: Path) -> None:
    weights = str(shared_data / "weights" / "mobilenet_v2_imagenet.pth")
    settings = {
        "backbone": "mobilenet_v2",
        "level": 14,
        "output_stride": 16,
        "weights": weights,
        "normalize": "half",
        "side": 257,
    }
    model = biopt.BiOpt(Config(**settings, test_scales=(1.0,)), ("object",)).eval()
    data = read(shared_data / "voc20" / "VOC2012", split="Segmentation/val", verify=False)
    with torch.no_grad():
        views = [model.views(data.image(index))[0] for index in range(6)]
        masks = [data[index].semantic.clamp(max=1) for index in range(6)]
        parts = [reference_prototypes(view, [mask]) for view, mask in zip(views, masks, strict=True)]
        moved = []
        for query, (support, pixels) in zip(views[1:], parts, strict=False):
            found = model.solve(query.flatten(1, 2), fill_empty(support, pixels > 0, query.flatten(1, 2)))
            moved.append(biopt.movement(found.start, found.end).item())
    assert 20 < torch.cat(views).norm(dim=-1).mean() < 60
    assert 1e-4 < float(np.median(moved)) < 0.3
