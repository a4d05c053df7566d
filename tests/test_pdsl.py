"""PDSL: its losses against slow oracles, its parts on odd images, and the labels that it must not use."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv
from torch.nn import functional as F
from torchvision.ops import roi_align

import frugalseg
from frugalseg import rle
from frugalseg.boxes import mirror
from frugalseg.data import Data, detection
from frugalseg.data.transforms import shrink
from frugalseg.data.weak_detection import boxes_in_crop, jitter_colours, random_crop
from frugalseg.methods import pdsl
from frugalseg.methods.pdsl import Assigned, Pseudo
from frugalseg.nets import optim
from frugalseg.recipes.pdsl import Config
from frugalseg.regions import cues, grabcut
from frugalseg.types import Sample
from frugalseg.workflows.train import train, warn_of_random_layers

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [21, 20, 30, 30], [0, 0, 40, 40]])


# -- detection


def test_wsddn_scores_are_the_product_of_two_softmaxes_and_never_sum_past_one() -> None:
    classes, places = torch.randn(5, 3), torch.randn(5, 3)
    scores = pdsl.wsddn_scores(classes, places)
    for p in range(5):
        for c in range(3):
            by_class = math.exp(classes[p, c]) / sum(math.exp(value) for value in classes[p])
            by_place = math.exp(places[p, c]) / sum(math.exp(value) for value in places[:, c])
            assert float(scores[p, c]) == pytest.approx(by_class * by_place, rel=1e-5)
    certain = pdsl.wsddn_scores(torch.tensor([[90.0, 0.0]]), torch.zeros(1, 2))
    y = pdsl.image_scores(certain)
    assert 0 < float(y.min()) <= float(y.max()) < 1
    assert torch.isfinite(pdsl.tag_loss(y, torch.tensor([0.0, 1.0])))


def test_a_single_class_learns_from_its_tag() -> None:
    for tag, sign in ((1.0, 1), (0.0, -1)):
        what, where = torch.zeros(4, 1, requires_grad=True), torch.randn(4, 1)
        before = pdsl.image_scores(pdsl.wsddn_scores(what, where))
        pdsl.tag_loss(before, torch.tensor([tag])).backward()
        after = pdsl.image_scores(pdsl.wsddn_scores(what.detach() - what.grad, where))
        assert float(sign * (after - before).detach()) > 0.01


def test_the_tag_loss_is_binary_cross_entropy_over_known_tags() -> None:
    y = torch.tensor([0.2, 0.9, 0.5, 0.7])
    expected = -(math.log(0.2) + math.log(1 - 0.9) + math.log(1 - 0.7)) / 3
    assert float(pdsl.tag_loss(y, torch.tensor([1.0, 0.0, float("nan"), 0.0]))) == pytest.approx(expected, rel=1e-5)
    assert float(pdsl.tag_loss(y, torch.full((4,), float("nan")))) == 0.0


def test_pseudo_objects_are_the_best_proposals_of_the_tags_moved_by_their_head() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.7, 0.1, 0.9], [0.2, 0.2, 0.0], [0.3, 0.3, 0.0], [0.0, 0.0, 0.0]])
    offsets = torch.zeros(5, 3, 4)
    offsets[0, 1, 0] = 10.0  # a whole side to the right
    found = pdsl.pseudo_objects(scores, torch.tensor([1.0, 1.0, 0.0]), BOXES, offsets, (40, 40))
    assert found.rows.tolist() == [1, 0]
    assert found.labels.tolist() == [1, 2]
    assert torch.allclose(found.boxes, torch.tensor([[0.0, 0, 10, 8], [10, 0, 20, 10]]))
    none = pdsl.pseudo_objects(scores, torch.tensor([0.0, 0.0, float("nan")]), BOXES, None, (40, 40))
    assert len(none.rows) == len(none.boxes) == 0


def test_background_weighs_as_the_nearest_pseudo_object_and_far_proposals_can_be_ignored() -> None:
    pseudo = Pseudo(torch.tensor([0, 2]), torch.tensor([2, 1]), BOXES[[0, 2]])
    y = torch.tensor([0.25, 0.75])
    proposals = torch.cat([BOXES, torch.tensor([[9.0, 9, 14, 14]])])
    assigned = pdsl.assign(proposals, pseudo, y)
    assert assigned.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert assigned.weights.tolist() == [0.75, 0.75, 0.25, 0.25, 0.75, 0.75]  # of two equally far the first
    ignoring = pdsl.assign(proposals, pseudo, y, ignore=0.05)
    assert ignoring.weights.tolist() == [0.75, 0.75, 0.25, 0.25, 0.75, 0.0]
    assert ignoring.labels.tolist() == assigned.labels.tolist()


def test_without_tags_nothing_weighs_and_the_losses_are_zero_with_a_gradient() -> None:
    pseudo = pdsl.pseudo_objects(torch.rand(5, 2), torch.zeros(2), BOXES, None, (40, 40))
    assigned = pdsl.assign(BOXES, pseudo, torch.full((2,), 0.5))
    scores, offsets = torch.randn(5, 3, requires_grad=True), torch.randn(5, 2, 4, requires_grad=True)
    loss = pdsl.class_loss(scores, assigned) + pdsl.box_loss(offsets, BOXES, assigned)
    loss.backward()
    assert loss.item() == 0.0
    assert not scores.grad.any()
    assert not len(pdsl.seeds(BOXES, pseudo, 3))


def test_refinement_losses_agree_with_loops_over_proposals() -> None:
    torch.manual_seed(0)
    scores, offsets = torch.randn(5, 3), torch.randn(5, 2, 4)
    assigned = Assigned(
        torch.tensor([1, 2, 0, 1, 0]),
        torch.tensor([0.5, 0.2, 0.5, 0.0, 0.0]),
        BOXES[[1, 0, 2, 2, 0]] + torch.tensor([0.0, 0, 1, 2]),
    )
    classes = boxes = 0.0
    for p in range(5):
        classes += float(assigned.weights[p]) * float(-scores[p].log_softmax(0)[assigned.labels[p]])
        if assigned.labels[p]:
            (x1, y1, x2, y2), (u1, v1, u2, v2) = BOXES[p].tolist(), assigned.targets[p].tolist()
            width, height = x2 - x1, y2 - y1
            shift = [10 * ((u1 + u2) - (x1 + x2)) / 2 / width, 10 * ((v1 + v2) - (y1 + y2)) / 2 / height]
            aims = [*shift, 5 * math.log((u2 - u1) / width), 5 * math.log((v2 - v1) / height)]
            own = offsets[p, assigned.labels[p] - 1].tolist()
            boxes += float(assigned.weights[p]) * sum(abs(a - b) for a, b in zip(own, aims, strict=True))
    assert float(pdsl.class_loss(scores, assigned)) == pytest.approx(classes / 3, rel=1e-5)
    assert float(pdsl.box_loss(offsets, BOXES, assigned)) == pytest.approx(boxes / 5, rel=1e-4)


# -- segmentation


@pytest.mark.parametrize("far", [1e4, -1e4, 1e30, math.inf])
@pytest.mark.parametrize("place", range(4))
def test_a_pseudo_box_that_is_huge_or_empty_becomes_a_box_in_the_image_and_can_be_learned(far: float, place: int) -> None:
    offsets, tags = torch.zeros(5, 3, 4), torch.tensor([1.0, 0.0, 1.0])
    offsets[..., place] = far
    scores = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    pseudo = pdsl.pseudo_objects(scores, tags, BOXES, offsets, (40, 40))
    (left, top), (right, bottom) = pseudo.boxes[:, :2].T, pseudo.boxes[:, 2:].T
    assert float(left.min()) >= 0 <= float(top.min())
    assert float(right.max()) <= 40 >= float(bottom.max())
    assert min(float((right - left).min()), float((bottom - top).min())) > 1 - 1e-5
    assigned = pdsl.assign(BOXES, pseudo, torch.full((3,), 0.5), foreground=0.01)
    assert torch.isfinite(pdsl.box_loss(torch.zeros(5, 3, 4), BOXES, assigned))
    model = network()
    for layer in model.detection.offsets:
        torch.nn.init.constant_(layer.bias.data.view(3, 4)[:, place], max(-1e30, min(far, 1e30)))
    assert all(torch.isfinite(loss) for loss in model([item()]).values())


def test_seeds_are_the_best_proposal_of_each_tag_and_those_nearest_to_it() -> None:
    pseudo = Pseudo(torch.tensor([0, 2]), torch.tensor([1, 2]), BOXES[[0, 2]])
    assert pdsl.seeds(BOXES, pseudo, 1).tolist() == [0, 2]
    assert pdsl.seeds(BOXES, pseudo, 2).tolist() == [0, 1, 2, 3]
    assert pdsl.seeds(BOXES, pseudo, 50).tolist() == [0, 1, 2, 3, 4]
    twins = torch.cat([BOXES[:1], BOXES])
    assert pdsl.seeds(twins, Pseudo(torch.tensor([1]), torch.tensor([1]), BOXES[:1]), 1).tolist() == [1]


@pytest.mark.parametrize("soft", [False, True])
def test_mask_heads_learn_from_the_head_before_which_learns_nothing_from_them(soft: bool) -> None:
    logits = torch.randn(3, 4, 2, 2, requires_grad=True)
    targets, known = torch.rand(4, 2, 2) > 0.5, torch.tensor([True, True, False, True])
    weights = torch.tensor([0.5, 0.0, 0.25, 0.0])
    losses = pdsl.mask_losses(logits, targets, known, weights, soft)
    for head in range(3):
        rows = []
        for p in range(4):
            aim = targets[p].float() if head == 0 else logits[head - 1, p].detach().sigmoid()
            aim = aim if head == 0 or soft else (aim >= 0.5).float()
            rows.append(float(F.binary_cross_entropy(logits[head, p].sigmoid(), aim)))
        shares = known.float() / 3 if head == 0 else weights / 2
        assert float(losses[head]) == pytest.approx(sum(r * float(s) for r, s in zip(rows, shares, strict=True)), rel=1e-4)
        (gradient,) = torch.autograd.grad(losses[head], logits, retain_graph=True)
        others = [other for other in range(3) if other != head]
        assert gradient[head].any()
        assert not gradient[others].any()


def test_no_mask_to_learn_from_costs_nothing() -> None:
    losses = pdsl.mask_losses(torch.randn(2, 3, 2, 2), torch.zeros(3, 2, 2), torch.zeros(3, dtype=torch.bool), torch.zeros(3))
    assert [float(loss) for loss in losses] == [0.0, 0.0]


# -- correlation


def test_an_activation_lies_between_mean_and_maximum_as_tau_says() -> None:
    logits = torch.randn(3, 4, 4)
    probabilities = logits.sigmoid().flatten(1)
    for tau in (1e-3, 5.0, 2e3):
        oracle = ((tau * probabilities.double()).exp().mean(1).log() / tau) if tau < 1e3 else probabilities.amax(1).double()
        assert torch.allclose(pdsl.activation(logits, tau).double(), oracle, atol=2e-3)


def test_correlation_pulls_masks_to_the_detector_and_not_the_detector_to_masks() -> None:
    logits, scores = torch.randn(2, 3, 2, 2, requires_grad=True), torch.rand(3, requires_grad=True)
    inside = torch.tensor([True, False, True])
    loss = pdsl.correlation_loss(logits, scores, inside, 5.0)
    expected = sum(
        abs(math.log(sum(math.exp(5 * v) for v in logits[m, p].sigmoid().flatten().tolist()) / 4) / 5 - float(scores[p])) / 2
        for m in range(2)
        for p in (0, 2)
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert scores.grad is None
    assert logits.grad[:, [0, 2]].any()
    assert not logits.grad[:, 1].any()


# -- the model

TINY = Config(
    backbone="tiny", frozen=0, freeze_norm=False, channels=8, width=8, mask_channels=8, n_refine=2, n_mask=2, n_seed=2,
    proposals="grid", count=20, scales=(40,), longest=64, test_scales=(40,), test_flip=False, cue_side=40, crop=1.0, jitter=1.0,
    dropout=0.0, threshold=0.2, min_score=0.0,
)  # fmt: skip
CUE = cues.GrabCut(40)
ENGINE = {"workers": 0, "accelerator": "cpu", "quiet": True, "name": "run", "steps": 2, "batch": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / "cache"))


def network(**settings: Any) -> pdsl.PDSL:
    torch.manual_seed(0)
    config = replace(TINY, **settings)
    model = pdsl.build(config, toys.CLASSES).eval()
    model.cue = None if config.cue == "gradient" else cues.cue_from_config(config)
    return model


def views_of(model: pdsl.PDSL, image: torch.Tensor, **settings: Any) -> list[pdsl.View]:
    """The views of an image at test, by the model's settings or others."""
    model = model.with_settings(**settings)
    return model.views(model.collate([model.preprocess(Sample("it", image))]))[0]


def item(tags: tuple[float, ...] = (1.0, 0.0, 1.0), boxes: torch.Tensor = BOXES, flip: bool = False) -> dict[str, Any]:
    image = torch.randint(0, 255, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    seen = {"image": image, "tags": torch.tensor(tags), "proposals": boxes, "size": (40, 40), "name": "it", "flip": flip}
    cue = {"original_size": (40, 40), "cue_image": image.numpy(), "original_proposals": boxes, "cropped_proposals": boxes}
    return seen | cue


def fitted(data: Data, out: Path, **settings: Any) -> dict[str, torch.Tensor]:
    return train("pdsl", data, **(vars(TINY) | ENGINE | {"out": str(out)} | settings)).network.state_dict()


def test_where_class_specific_masks_show_nothing_the_agnostic_one_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    model, size = network(threshold=0.5), (3, 2, pdsl.MASK_SIZE, pdsl.MASK_SIZE)
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0))
    logits[1:, 0], logits[1:, 1, :, :4] = -1.0, 3.0
    monkeypatch.setattr(model, "masks", lambda *_: logits)
    view = pdsl.View(torch.zeros(1, 8, 3, 3), (40, 40), False, torch.ones(4))
    for views in ([view], [view, view._replace(flip=True)]):
        found = model.mask_probabilities(views, BOXES[:2], torch.tensor([1, 2]))
        means = [(own + (own.flip(-1) if len(views) == 2 else own)) / 2 for own in (logits[0], logits[1:].mean(0))]
        torch.testing.assert_close(found, torch.stack([means[0][0], means[1][1]]).sigmoid())
    logits[:, 0] = logits[0, 0] - 9  # nowhere near the threshold, in no head
    values = logits[0, 0].sigmoid()
    found = model.mask_probabilities([view], BOXES[:2], torch.tensor([1, 2]))
    torch.testing.assert_close(found[0], values / values.max())
    assert model.mask_probabilities([view], BOXES[:0], torch.zeros(0, dtype=torch.long)).shape == (0, *size[2:])


def test_frozen_random_layers_give_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.warns(UserWarning, match="first 3 blocks of tiny are frozen at random numbers"):
        warn_of_random_layers(replace(TINY, frozen=3), dry=False)
    recwarn.clear()
    for recipe, dry in ((TINY, False), (replace(TINY, frozen=3, weights="a file"), False), (replace(TINY, frozen=3), True)):
        warn_of_random_layers(recipe, dry)
    assert not recwarn


def test_two_images_in_a_batch_cost_the_mean_of_each_alone() -> None:
    model, one, two = network(), item(), item((0.0, 1.0, 0.0), BOXES[2:])
    both, first, second = model([one, two]), model([one]), model([two])
    for name, loss in both.items():
        assert loss.item() == pytest.approx((first[name] + second[name]).item() / 2, rel=1e-4), name


@pytest.mark.parametrize(
    ("tags", "boxes"),
    [
        ((0.0, 0.0, 0.0), BOXES),
        ((1.0, 1.0, 1.0), BOXES),
        ((float("nan"), 1.0, 0.0), BOXES),
        ((1.0, 0.0, 0.0), BOXES[:1]),
        ((1.0, 1.0, 0.0), torch.tensor([[3.0, 3, 4, 4]])),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"cue": "gradient", "agnostic_on": "foreground"}, {"n_refine": 0, "n_mask": 0}])
def test_odd_images_reach_every_parameter_with_finite_losses(
    tags: tuple[float, ...], boxes: torch.Tensor, settings: dict[str, Any]
) -> None:
    model = network(**settings)
    losses = model([item(tags, boxes)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    torch.stack([*losses.values()]).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert missing == []


def test_the_class_agnostic_head_has_one_channel_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, labels = network(), torch.tensor([1, 2, 3, 1, 2])
    assert model.segmentation.agnostic.out_channels == 1
    maps = model.narrow(model.encode(item()["image"][None]))
    whole = model.masks(maps, BOXES, labels)
    assert whole.shape == (3, 5, 28, 28)
    monkeypatch.setattr(pdsl, "CHUNK", 2)
    assert torch.allclose(model.masks(maps, BOXES, labels), whole, atol=1e-5)


def test_the_cascade_asks_how_much_each_place_speaks_for_a_tag() -> None:
    """Scaling one place's features changes y by the gradient there times these features."""
    model, tags = network(cue="gradient", pooling="align"), torch.tensor([0.0, 1.0, 0.0])
    torch.nn.init.normal_(model.detection.where.weight)
    features = torch.rand(1, model.backbone.channels, 5, 5, requires_grad=True)

    def y(values: torch.Tensor) -> torch.Tensor:
        return pdsl.image_scores(model.detect(model.narrow(values), BOXES).wsddn)

    gradients = pdsl.class_gradients(features, y(features), tags)
    slopes = torch.zeros(25)
    for place in range(25):
        scale = torch.ones(25)
        scale[place] = 1.05
        with torch.no_grad():
            slopes[place] = (y(features * scale.view(5, 5)) - y(features / scale.view(5, 5)))[1]
    expected = slopes.relu() / slopes.max()
    assert torch.allclose(gradients[1].flatten(), expected, atol=0.03)
    assert 0 < (expected > 0.1).sum() < 25
    assert not gradients[[0, 2]].any()


def test_the_cascades_targets_pass_half_of_the_highest_value_in_the_box() -> None:
    model, gradients = network(cue="gradient"), torch.zeros(3, 11, 11)
    gradients[0, 3:6, 3:6], gradients[0, 8, 8], gradients[1] = 0.4, 1.0, 0.3
    boxes = torch.tensor([[0.0, 0, 48, 48], [0, 0, 80, 80], [0, 0, 48, 48]])
    found = model.gradient_targets(gradients, boxes, torch.tensor([1, 1, 2]))
    near, far, even = (mask.float().mean().item() for mask in found)
    assert near > 0.2, "the brighter place lies outside of the box"
    assert 0 < far < 0.05, "and inside of this one it is the only one"
    assert even == 1.0
    assert not model.gradient_targets(gradients, boxes[:1], torch.tensor([3])).any(), "a class that nothing speaks for"


def test_targets_of_a_mirrored_image_are_mirrored_targets() -> None:
    pseudo = Pseudo(torch.tensor([0]), torch.tensor([1]), BOXES[:1])
    seeds = pdsl.seeds(BOXES, pseudo, TINY.n_seed)
    plain, valid = pdsl.cue_targets(CUE, item(), torch.arange(5), seeds)
    mirrored = item(boxes=mirror(BOXES, 40), flip=True) | {"original_proposals": BOXES, "cropped_proposals": BOXES}
    assert torch.equal(pdsl.cue_targets(CUE, mirrored, torch.arange(5), seeds)[0], plain.flip(-1))
    assert valid.tolist() == [True, True, False, False, True]  # two boxes are far from every seed
    assert plain[0].any()


def test_the_cue_sees_a_reduced_image_and_finds_the_object_where_it_is() -> None:
    y, x = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    disc = (y - 110) ** 2 + (x - 110) ** 2 <= 24**2
    image = torch.where(disc, torch.tensor([220.0, 30, 40])[:, None, None], torch.tensor([30.0, 120, 60])[:, None, None])
    image = (image + torch.rand(image.shape) * 9).to(torch.uint8)
    box = torch.tensor([[80.0, 80, 140, 140]])
    seen = item((1.0, 0.0, 0.0), box) | {"original_size": (160, 160), "cue_image": shrink(image, 40).numpy()}
    (found,), _ = pdsl.cue_targets(CUE, seen, torch.arange(1), torch.arange(1))
    true = roi_align(disc.float()[None, None], [box], 28, aligned=True)[0, 0] >= 0.5
    assert (found & true).sum() / (found | true).sum() > 0.8


def test_a_view_there_and_back_is_the_same_box_and_one_view_is_the_plain_test() -> None:
    model, size = network(), torch.tensor([40, 40])
    image = item()["image"]
    for view in views_of(model, image, test_scales=(56,), test_flip=True):
        assert torch.allclose(view.to_image(view.from_image(BOXES)), BOXES, atol=1e-4)
    (plain,) = views_of(model, image)
    scores, boxes = model.scores([plain], BOXES, size)
    alone = model.view_scores(plain, BOXES)
    assert torch.equal(scores, alone[0])
    assert torch.allclose(boxes, alone[1], atol=1e-4)
    twice = model.scores([plain, plain], BOXES, size)
    assert torch.allclose(twice[0], scores)
    assert torch.allclose(twice[1], boxes, atol=1e-4)


def test_views_are_averaged_row_by_row() -> None:
    """Rows of several scales and mirrored views are those of the same proposals, each looked at alone."""
    model, image, size = network(test_scales=(40, 56), test_flip=True), item()["image"], torch.tensor([40, 40])
    for layer in (*model.detection.scores, *model.detection.offsets):
        layer.weight.data *= 1000
    views = views_of(model, image)
    assert [(view.size, view.flip) for view in views] == [
        ((40, 40), False),
        ((40, 40), True),
        ((56, 56), False),
        ((56, 56), True),
    ]
    scores, moved = model.scores(views, BOXES, size)
    for row, box in enumerate(BOXES):
        outputs = [model.view_scores(view, view.from_image(box[None])) for view in views]
        backs = [view.to_image(boxes[0]) for view, (_, boxes) in zip(views, outputs, strict=True)]
        torch.testing.assert_close(scores[row], torch.stack([rows[0] for rows, _ in outputs]).mean(0), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(moved[row], torch.stack(backs).mean(0), atol=1e-4, rtol=1e-4)
    again, mirrored = model.scores(views_of(model, image.flip(-1)), mirror(BOXES, 40), size)
    torch.testing.assert_close(again, scores, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(mirror(mirrored.flatten(0, 1), 40).view_as(moved), moved, atol=1e-4, rtol=1e-4)
    apart = (scores[:, None] - scores).abs().amax(-1).fill_diagonal_(1.0)
    assert float(apart.min()) > 1e-3, "rows differ, so that an exchanged one would be seen"


def test_given_tags_leave_only_their_classes() -> None:
    sample = Sample("it", item()["image"], tags=torch.tensor([0.0, 1.0, 0.0]))
    (free,), (restricted,) = network().predict([sample]), network().predict([sample], tags="given")
    assert set(free.instances.labels.tolist()) > {2}
    assert set(restricted.instances.labels.tolist()) == {2}


@pytest.mark.parametrize("settings", [{}, {"test_scales": (40, 56), "test_flip": True}, {"n_refine": 0, "n_mask": 0}])
def test_a_batch_equals_its_images_one_by_one(settings: dict[str, Any]) -> None:
    model = network(**settings)
    for layer in (*model.detection.scores, *model.detection.offsets):
        layer.weight.data *= 100
    images = torch.randint(0, 255, (3, 3, 40, 52), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    rows = (BOXES, BOXES[:2], torch.cat([BOXES, BOXES + 3]))
    samples = [Sample(f"{place}", image, proposals=boxes) for place, (image, boxes) in enumerate(zip(images, rows, strict=True))]
    inputs = [model.preprocess(sample) for sample in samples]
    assert len({model.batch_key(each) for each in inputs}) == 1, "other numbers of proposals, the same batch"
    with torch.no_grad():
        together = model.predict_batch(inputs, samples)
    for one, other in zip(model.predict(samples), together, strict=True):
        assert len(one.instances) == len(other.instances) > 0
        assert torch.equal(one.instances.labels, other.instances.labels)
        torch.testing.assert_close(one.instances.boxes, other.instances.boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(one.instances.scores, other.instances.scores, atol=1e-4, rtol=1e-4)
        masks = zip(one.instances.masks, other.instances.masks, strict=True)
        assert all((mask != same).float().mean() < 1e-3 for mask, same in masks)


def test_a_folder_of_masks_is_needed_to_learn_from_and_not_to_predict_with(tmp_path: Path) -> None:
    data = toys.write(tmp_path / "images")
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, (height, width) in zip(data.names, toys.SIZES, strict=True):
        Image.fromarray(np.tri(height, width, dtype=np.uint8)).save(folder / f"{name}.png")
    fitted(data, tmp_path / "out", cue=str(folder))
    shutil.rmtree(folder)
    (found,) = frugalseg.load(tmp_path / "out" / "pdsl" / "run", "cpu").predict(data.records[0].image)
    assert len(found.instances)
    with pytest.raises(ValueError, match=r"cue: got .*masks"):
        fitted(data, tmp_path / "other", cue=str(folder))
    assert not list((tmp_path / "other").rglob("proposals")), "its error comes before any work"


def test_masks_by_grabcut_are_those_of_the_boxes_found() -> None:
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    disc = (y - 20) ** 2 + (x - 20) ** 2 <= 10**2
    image = torch.where(disc, torch.tensor([220.0, 30, 40])[:, None, None], torch.tensor([30.0, 120, 60])[:, None, None])
    sample = Sample("it", (image + torch.rand(image.shape) * 9).to(torch.uint8))
    (plain,), (cut,) = network().predict([sample]), network(masks="grabcut").predict([sample])
    assert torch.equal(plain.instances.boxes, cut.instances.boxes)
    assert torch.equal(plain.instances.scores, cut.instances.scores)
    small = shrink(sample.image, 400)
    for box, code in zip(cut.instances.boxes.tolist(), cut.instances.rles, strict=True):
        own = grabcut.grabcut(small, tuple(box))
        assert torch.equal(torch.from_numpy(rle.decode([code], (40, 40))[0]).bool(), own)


# -- training


@pytest.mark.parametrize("settings", [{}, {"pooling": "align"}, {"cue": "gradient"}])
def test_half_precision_keeps_the_scores_of_tags_in_floats_and_every_loss_finite(settings: dict[str, Any]) -> None:
    corners = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * 30
    model, boxes = network(**settings), torch.cat([corners, corners + 8], 1)
    torch.nn.init.constant_(model.detection.what.bias.data[:1], 90.0)  # sure of its first class in every proposal
    with torch.autocast("cpu", torch.bfloat16):
        found = model.detect(model.narrow(model.encode(item()["image"][None])), boxes)
        y = pdsl.image_scores(found.wsddn)
        losses = model([item(boxes=boxes)])
    assert found.scores[0].dtype == torch.bfloat16, "half precision is what is tested"
    assert found.wsddn.dtype == y.dtype == torch.float32
    assert 0.999 < float(y.max()) < 1
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values()), losses
    torch.stack([*losses.values()]).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(("optimizer", "factor"), [("sgd", 2.0), ("adamw", 1.0)])
def test_biases_learn_without_decay_and_with_sgd_at_twice_the_rate(optimizer: str, factor: float) -> None:
    model = network(optimizer=optimizer, lr=0.1, head_lr=0.01, weight_decay=0.5)
    made = optim.two_rates_free_biases(model.config, model, model.backbone)
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in made.param_groups for p in group["params"]}
    assert len(settings) == len([*model.parameters()])
    for name, parameter in model.named_parameters():
        rate, bias = 0.1 if name.startswith("backbone.") else 0.01, name.endswith("bias")
        assert settings[id(parameter)] == pytest.approx((rate * factor if bias else rate, 0.0 if bias else 0.5)), name
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model([item()])["tags"].backward()
    made.step()
    for name in ("detection.what.weight", "detection.what.bias") if optimizer == "sgd" else ():
        decay, rate = (0.0, 0.02) if name.endswith("bias") else (0.5, 0.01)
        parameter = model.get_parameter(name)
        expected = before[name] - rate * (parameter.grad + decay * before[name])
        torch.testing.assert_close(parameter.detach(), expected)


def test_masks_and_boxes_of_other_images_change_nothing(tmp_path: Path) -> None:
    data = toys.write(tmp_path / "images")
    one, other = fitted(data, tmp_path / "a"), fitted(toys.shuffled(data), tmp_path / "b")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_stored_features_are_those_of_the_image(tmp_path: Path) -> None:
    data = toys.write(tmp_path / "images")
    frozen = {"frozen": 5, "freeze_norm": True}
    fresh, stored = fitted(data, tmp_path / "a", **frozen), fitted(data, tmp_path / "b", cache_features=True, **frozen)
    assert all(torch.allclose(fresh[name], stored[name], atol=3e-3) for name in fresh)
    with pytest.raises(ValueError, match="backbone learns"):
        fitted(data, tmp_path / "c", cache_features=True)


def test_joined_maps_are_standardized_over_the_images_and_stay_so(tmp_path: Path) -> None:
    data, joined = toys.write(tmp_path / "images"), {"levels": (4, 5), "standardize": True, "scales": (24, 32, 48)}
    frozen = {"frozen": 5, "freeze_norm": True}
    fresh = fitted(data, tmp_path / "a", **joined, **frozen)
    stored = fitted(data, tmp_path / "b", cache_features=True, **joined, **frozen)
    assert all(torch.allclose(fresh[name], stored[name], atol=3e-3) for name in fresh)
    model = network(**joined).eval()
    model.load_state_dict(fresh)
    images = [sample.image.as_subclass(torch.Tensor) for sample in data]
    sizes = [detection.scaled((image.shape[1], image.shape[2]), 32, TINY.longest) for image in images]
    seen = [detection.resized(*pair) for pair in zip(images, sizes, strict=True)]
    with torch.no_grad():
        maps = [model.backbone.maps(image[None].float(), (4, 5)) for image in seen]
    cells = [torch.cat(levels, 1).double() for levels in maps]
    mean = torch.stack([own.mean((0, 2, 3)) for own in cells]).mean(0)
    spread = torch.stack([own.square().mean((0, 2, 3)) for own in cells]).mean(0) - mean.square()
    torch.testing.assert_close(fresh["norm.running_mean"], mean.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fresh["norm.running_var"], spread.float(), rtol=1e-3, atol=1e-5)
    model.train()([item()])
    assert torch.equal(model.norm.get_buffer("running_mean"), fresh["norm.running_mean"])
    expected = (cells[0] - mean[:, None, None]) / (spread[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(model.norm(cells[0].float()), expected.float(), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="levels=\\(0,\\)"):
        Config(levels=(0,))


def test_teacher_boxes_replace_pseudo_objects_of_their_labels() -> None:
    own = Pseudo(torch.tensor([4, 1]), torch.tensor([1, 3]), BOXES[[4, 1]] + 0.5)
    found = pdsl.apply_teacher_boxes(own, BOXES, torch.tensor([[2, 3], [3, 3], [0, 2]]))
    assert found.rows.tolist() == [2, 3, 0, 4]
    assert found.labels.tolist() == [3, 3, 2, 1]
    assert found.boxes.tolist() == [*BOXES[[2, 3, 0]].tolist(), (BOXES[4] + 0.5).tolist()]
    nothing = pdsl.apply_teacher_boxes(own, BOXES, torch.zeros(0, 2, dtype=torch.int64))
    assert nothing.rows.tolist() == own.rows.tolist()


def test_the_first_head_alone_learns_from_objects_of_another_model() -> None:
    model, given = network(dropout=0.0, n_refine=2), item((1.0, 0.0, 0.0))
    starts = torch.tensor([[2, 1]])
    found = model.detect(model.narrow(model.encode(given["image"][None])), BOXES)
    y = pdsl.image_scores(found.wsddn)
    first = pdsl.assign(BOXES, Pseudo(torch.tensor([2]), torch.tensor([1]), BOXES[2:3]), y)
    scores = found.scores[0].softmax(1)[:, 1:]
    second = pdsl.assign(BOXES, pdsl.pseudo_objects(scores, given["tags"], BOXES, found.offsets[0], (40, 40)), y)
    expected = pdsl.class_loss(found.scores[0], first) + pdsl.class_loss(found.scores[1], second)
    taught, alone = model([given | {"starts": starts}]), model([given])
    torch.testing.assert_close(taught["class"], expected)
    assert torch.equal(taught["tags"], alone["tags"])
    best = int(found.wsddn[:, 0].argmax())
    same = model([given | {"starts": torch.tensor([[best, 1]])}])
    torch.testing.assert_close(same["class"], alone["class"])


def test_one_class_and_images_of_one_colour_can_be_learned_from(tmp_path: Path) -> None:
    data = toys.write(tmp_path / "images", ((1,), (0,), (1,), (1,), (0,), (1,)), ("apple",))
    Image.new("RGB", (33, 40), (9, 9, 9)).save(data.records[0].image)
    weights = fitted(data.select([0, 1]), tmp_path / "out", proposals="selective_search")
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())


def test_a_crop_keeps_boxes_that_keep_half_of_their_area() -> None:
    cut, kept = boxes_in_crop(BOXES, (0, 0, 25, 40))
    assert kept.tolist() == [0, 1, 2, 4]
    assert cut.tolist() == [[0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 25, 30], [0, 0, 25, 40]]
    alone, rows = boxes_in_crop(BOXES[2:3], (0, 0, 22, 40))
    assert rows.tolist() == [0]
    assert alone.tolist() == [[20, 20, 22, 30]]
    for seed in range(20):
        torch.manual_seed(seed)
        left, top, right, bottom = random_crop((40, 100), 0.9)
        assert 0 <= left < right <= 100
        assert 0 <= top < bottom <= 40
        assert right - left >= 90
        assert bottom - top >= 36


@pytest.mark.parametrize("seed", range(4))
def test_exposure_and_saturation_change_as_in_hsv(seed: int) -> None:
    image = torch.randint(0, 256, (3, 9, 12), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    image[:, 0], image[:, 1] = 0, 200  # black and grey have no hue
    torch.manual_seed(seed)
    found = jitter_colours(image, 1.5)
    torch.manual_seed(seed)
    exposure, saturation = (1.5 ** float(2 * torch.rand(()) - 1) for _ in range(2))
    hsv = rgb2hsv(image.permute(1, 2, 0).numpy())
    hsv[..., 1:] = (hsv[..., 1:] * [saturation, exposure]).clip(max=1)
    expected = torch.from_numpy(hsv2rgb(hsv) * 255).permute(2, 0, 1)
    assert found.dtype == torch.uint8
    assert float((found - expected).abs().max()) <= 0.51
    assert jitter_colours(image, 1.0) is image


def test_settings_that_cannot_be_are_named_together() -> None:
    with pytest.raises(ValueError, match=r"(?s)n_seed=0.*cache_features"):
        Config(n_seed=0, cache_features=True)


def test_the_plan_of_its_measurements_trains_with_settings_that_exist() -> None:
    from benchmarks.claims.pdsl import PLAN

    for variant in PLAN.variants:
        if not variant.method:
            replace(TINY, **variant.settings)
    rows = {row.name for variant in PLAN.variants for row in variant.rows}
    assert {name for claim in PLAN.claims for name in (claim.better, claim.worse)} <= rows
