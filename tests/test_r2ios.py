"""R2-IOS part by part: recursion, gate, sub-networks, losses, early exit, and what bad input does to it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor
from torch.nn import functional as F

from frugalseg import rle
from frugalseg.data import detection, shapes
from frugalseg.engine.log import read_log
from frugalseg.engine.run import Run
from frugalseg.methods import r2ios
from frugalseg.methods.r2ios import R2IOS, Maps, Output, Refined, TrainingRegions
from frugalseg.nets import roi
from frugalseg.nets.autoencoder import Autoencoder
from frugalseg.nets.two_stride import LateralSum
from frugalseg.recipes.r2ios import Config
from frugalseg.recipes.runtime import Runtime
from frugalseg.types import Instances, Prediction, Sample

QUIET = Runtime(quiet=True, workers=0, log_every=1, accelerator="cpu")
CLASSES = ("apple", "berry", "cherry")
TINY = Config(
    backbone="tiny",
    frozen=0,
    channels=8,
    mask_channels=6,
    mask_size=6,
    code=5,
    width=12,
    dropout=0.0,
    mask_init=0.0,
    iterations=3,
    proposals="grid",
    count=40,
    rois=16,
    scale=48,
    longest=96,
    batch=2,
    steps=2,
    gate_steps=2,
    lr=0.01,
    head_lr=0.01,
)


@pytest.fixture(autouse=True)
def hasty_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, so none needs to wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def model_of(seed: int = 0, **changes: Any) -> R2IOS:
    """A network with uneven weights: it sees objects, moves boxes and changes its mind."""
    torch.manual_seed(seed)
    model = R2IOS(replace(TINY, **{"mask_init": 0.4, **changes}), CLASSES)
    with torch.no_grad():
        model.refinement.fc7.weight *= 30  # random features of random pixels hardly differ
        for layer in (model.refinement.scores, model.refinement.offsets):
            torch.nn.init.normal_(layer.weight, std=0.7)
            layer.weight[:, TINY.width :] *= 0.1
    return model.eval()


def untrained(seed: int = 0, **changes: Any) -> R2IOS:
    torch.manual_seed(seed)
    return R2IOS(replace(TINY, **changes), CLASSES).eval()


def maps_of(model: R2IOS, size: tuple[int, int] = (48, 64)) -> Maps:
    with torch.no_grad():
        return model.maps(torch.rand(1, 3, *size) * 255)


def refine(model: R2IOS, maps: Maps, regions: Tensor, size: tuple[int, int]) -> Refined:
    return model.refine(maps, regions, torch.tensor([size]).expand(len(regions), 2))


def boxes_in(size: tuple[int, int], count: int) -> Tensor:
    start = torch.rand(count, 2) * torch.tensor([size[1], size[0]]) * 0.7
    return roi.clip(torch.cat([start, start + 4 + torch.rand(count, 2) * 30], 1), torch.tensor([size]).expand(count, 2))


def toy(count: int = 3, size: tuple[int, int] = (50, 60), name: str = "toy") -> Sample:
    """Noise with `count` objects of a few pixels."""
    masks, boxes = torch.zeros(count, *size, dtype=torch.bool), torch.zeros(count, 4)
    for index in range(count):
        x, y = 3 + (7 * index) % (size[1] - 12), 2 + (5 * index) % (size[0] - 14)
        masks[index, y : y + 9, x : x + 7] = True
        boxes[index] = torch.tensor([x, y, x + 7, y + 9])
    labels = torch.arange(count) % len(CLASSES) + 1
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    return Sample(name, image, instances=Instances(boxes, labels, masks=masks))


class ToyData:
    """Samples as a data set."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def image(self, index: int) -> Tensor:
        return self.samples[index].image.as_subclass(Tensor)

    def compact(self, index: int) -> Instances:
        objects = self.samples[index].instances
        return Instances(objects.boxes.as_subclass(Tensor), objects.labels, masks=objects.rles)


def batch_of(samples: list[Sample], config: Config = TINY, count: int = 30, gate: bool = False) -> dict[str, Any]:
    boxes = [boxes_in(tuple(sample.image.shape[-2:]), count) for sample in samples]
    items = detection.DetectionDataset(ToyData(samples), boxes, config.scale, config.longest, flip=False)
    return {**detection.collate([items[i] for i in range(len(samples))], config.stride), "gate": gate}


# -- sub-networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["autoencoder", "fc", "conv"])
def test_masks_are_two_maps_of_the_papers_size(head: str) -> None:
    model = untrained(mask_head=head, mask_size=40)
    maps, regions = maps_of(model), roi.rois([boxes_in((48, 64), 3)])
    assert model.masks(maps, regions).shape == (3, 2, 40, 40)


def test_the_autoencoder_is_two_layers_without_a_last_relu() -> None:
    coder = Autoencoder(40, 512)
    assert (coder.encoder.in_features, coder.encoder.out_features) == (3200, 512)
    assert (coder.decoder.in_features, coder.decoder.out_features) == (512, 3200)
    confidence = torch.randn(4, 2, 40, 40)
    by_hand = F.linear(
        F.relu(F.linear(confidence.reshape(4, 3200), coder.encoder.weight, coder.encoder.bias)), coder.decoder.weight
    )
    decoded = coder(confidence)
    torch.testing.assert_close(decoded.reshape(4, 3200), by_hand + coder.decoder.bias)
    assert (decoded < 0).any()


def test_its_ablations_are_two_layers_of_3200_and_none_at_all() -> None:
    wide = untrained(mask_head="fc", mask_size=40).segmentation.head
    assert wide.encoder.out_features == wide.decoder.in_features == 3200
    assert sum(p.numel() for p in untrained(mask_head="conv").segmentation.head.parameters()) == 0


def test_first_weights_are_the_papers() -> None:
    model = untrained(mask_init=0.001, mask_size=40, code=512, width=512)
    stds = {
        model.refinement.scores: 0.01,
        model.refinement.offsets: 0.001,
        model.segmentation.head.encoder: 0.001,
        model.segmentation.head.decoder: 0.001,
    }
    for layer, std in stds.items():
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
        assert not layer.bias.any()


@pytest.mark.parametrize("code", [4 * 36, 4 * 10 + 3])
def test_an_autoencoder_can_begin_as_a_low_pass(code: int) -> None:
    model, maps = Autoencoder(6, code), torch.randn(5, 2, 6, 6)
    model.initialise_as_low_pass()
    waves = scipy.fft.dctn(maps.numpy(), axes=(2, 3), norm="ortho")
    rows, columns = np.mgrid[:6, :6]
    lowest = np.argsort((rows**2 + columns**2).ravel(), kind="stable")[: code // 4]
    kept = np.zeros(36)
    kept[lowest] = 1
    expected = scipy.fft.idctn(waves * kept.reshape(6, 6), axes=(2, 3), norm="ortho")
    torch.testing.assert_close(model(maps), torch.from_numpy(expected).float(), atol=1e-5, rtol=0)


def test_with_no_std_masks_begin_undecided_and_learn_at_once() -> None:
    branch = untrained(mask_init=0.0, mask_size=10, code=80).segmentation
    prepared = torch.randn(1, 2, 12, 16, requires_grad=True)
    masks = branch.head(roi.pool(prepared * 1e-3, roi.rois([boxes_in((48, 64), 4)]), 10, 4))
    assert masks.detach().abs().max() < 0.01
    masks[:, 1].sum().backward()
    assert prepared.grad is not None
    assert prepared.grad[0, 1].sum() > 10 * prepared.grad[0, 0].abs().sum(), "each map answers for its own"


def test_class_scores_depend_on_the_mask_only_with_seg_aware() -> None:
    for seg_aware in (True, False):
        model = model_of(seg_aware=seg_aware)
        cells, masks = torch.randn(2, 8, 7, 7), torch.randn(2, 2, 6, 6, requires_grad=True)
        for output in model.refinement(cells, masks):
            (gradient,) = torch.autograd.grad(output.square().sum(), masks, retain_graph=True, allow_unused=True)
            assert (gradient is not None and bool(gradient.any())) is seg_aware


def test_narrowing_before_pooling_is_narrowing_after_it() -> None:
    """A 1×1 convolution commutes with RoIAlign: done once for the image, it gives what the paper's order gives."""
    model = untrained()
    features, regions = torch.randn(1, 8, 6, 8), roi.rois([boxes_in((48, 64), 5)])
    branch = model.segmentation
    papers = branch.head(branch.score(branch.narrow(roi.pool(features, regions, 6, 8)).relu()).contiguous())
    torch.testing.assert_close(branch(branch.prepare(features), regions, 8), papers)


@pytest.mark.parametrize("pool", ["features", "scores"])
@pytest.mark.parametrize("pooling", ["align", "max"])
@pytest.mark.parametrize("features", ["dilated", "lateral", "same"])
def test_every_way_to_cut_masks_out_learns(features: str, pooling: str, pool: str) -> None:
    model = R2IOS(replace(TINY, mask_features=features, pooling=pooling, mask_pool=pool), CLASSES)
    losses = model(batch_of([toy()]))
    torch.stack([*losses.values()]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_lateral_map_keeps_what_lies_where() -> None:
    """A coarse and a fine ramp of pixel positions stay ramps, at odd and at even sizes."""
    for height, width in ((7, 9), (8, 10)):
        lateral = LateralSum(1, 1, 1, 2)
        for layer in (lateral.fine, lateral.coarse):
            torch.nn.init.ones_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        fine = (torch.arange(float(width)) * 8).expand(1, 1, height, width)
        coarse = fine[..., ::2, ::2]
        last = (coarse.shape[-1] - 1) * 2 + 1
        torch.testing.assert_close(lateral(fine, coarse)[..., :last], 2 * fine[..., :last])


# -- losses ----------------------------------------------------------------------------------------------------------


def sample_of(model: R2IOS, samples: list[Sample]) -> tuple[Maps, TrainingRegions]:
    batch = batch_of(samples, model.config)
    return model.maps(batch["images"]), model.sample(batch, batch["proposals"])


def test_class_box_and_mask_come_from_the_object_that_overlaps_the_proposal_most() -> None:
    model, batch = model_of(), batch_of([toy(4), toy(2)])
    sampled = model.sample(batch, batch["proposals"])
    inside, place = sampled.labels > 0, 0
    assert inside.any()
    for region, label in zip(sampled.regions, sampled.labels, strict=True):
        number = int(region[0])
        overlaps = roi.match(region[None, 1:], batch["boxes"][number])
        assert (label > 0) == (overlaps[1] >= 0.5)
        if label:
            index = int(overlaps[0])
            assert label == batch["labels"][number][index]
            assert torch.equal(sampled.truth[place], batch["boxes"][number][index])
            assert sampled.crops[place] is batch["crops"][number][index]
            torch.testing.assert_close(sampled.extents[place] * sampled.ratio[place], sampled.truth[place])
            place += 1
    assert place == len(sampled.crops)


def losses_by_hand(model: R2IOS, maps: Maps, sampled: TrainingRegions, gate: bool) -> dict[str, Tensor]:
    """Eq. 1 for every region by itself, background computed anew at each iteration."""
    totals = {name: torch.zeros(()) for name in ("class", "box", "mask")}
    place = 0
    for region, label in zip(sampled.regions, sampled.labels.tolist(), strict=True):
        here, terms, confidences = region[None], [], []
        for _ in range(model.config.iterations):
            output = model.iteration(maps, here)
            term = {"class": F.cross_entropy(output.scores, torch.tensor([label]))}
            if label:
                offsets = output.offsets[0, label - 1]
                target = roi.encode(here[:, 1:], sampled.truth[place : place + 1])[0]
                term["box"] = F.smooth_l1_loss(offsets, target, reduction="sum")
                own = here[:, 1:] / sampled.ratio[place]
                mask = roi.mask_targets([sampled.crops[place]], sampled.extents[place : place + 1], own, model.config.mask_size)
                term["mask"] = F.cross_entropy(output.masks, mask)
                here = torch.cat([here[:, :1], roi.decode(here[:, 1:], offsets.detach()[None], sampled.sizes[:1])], 1)
            terms.append(term)
            confidences.append(output.scores.softmax(1)[0, label].item())
        last = int(np.argmax(confidences)) if gate else model.config.iterations - 1
        for term in terms[: last + 1 if label or not gate else 1]:
            for name, value in term.items():
                totals[name] = totals[name] + value
        place += label > 0
    return {
        "class": totals["class"] / len(sampled.labels),
        "box": totals["box"] / len(sampled.labels),
        "mask": totals["mask"] / place,
    }


@pytest.mark.parametrize("gate", [False, True])
def test_losses_equal_eq_1_region_by_region(gate: bool) -> None:
    model = model_of(seed=3)
    maps, sampled = sample_of(model, [toy(4)])
    found, expected = model.losses(maps, sampled, gate), losses_by_hand(model, maps, sampled, gate)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    weight = model.refinement.fc6.weight
    own, hand = (torch.autograd.grad(sum(terms.values()), weight, retain_graph=True)[0] for terms in (found, expected))
    torch.testing.assert_close(own, hand, rtol=1e-3, atol=1e-5)


def test_the_gate_drops_the_losses_after_the_best_iteration() -> None:
    confidences = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.5, 0.2], [0.1, 0.4, 0.9]])
    assert r2ios.optimal_iteration(confidences).tolist() == [1, 0, 2], "the first of equal ones"
    assert r2ios.loss_weights(confidences, gate=True).tolist() == [[1, 1, 1], [1, 0, 1], [0, 0, 1]]
    assert r2ios.loss_weights(confidences, gate=False).tolist() == [[1, 1, 1]] * 3


def test_recursion_only_at_test_learns_from_one_iteration() -> None:
    several = model_of(recursion="test_only")
    maps, sampled = sample_of(several, [toy(4)])
    alone = several.with_settings(iterations=1, recursion="trained").losses(maps, sampled, gate=False)
    for name, value in several.with_settings(iterations=4).losses(maps, sampled, gate=False).items():
        assert torch.equal(value, alone[name])


def test_moved_boxes_carry_no_gradient() -> None:
    region, offsets = torch.tensor([[0.0, 5.0, 5.0, 20.0, 20.0]]), torch.ones(1, 4, requires_grad=True)
    assert not R2IOS.moved(region, offsets, torch.tensor([[48, 64]])).requires_grad


# -- recursion and gate at test ----------------------------------------------------------------------------------------


def test_before_training_all_iterations_agree_and_the_gate_takes_the_first() -> None:
    model = untrained(iterations=4, mask_init=0.001)
    maps, regions = maps_of(model), roi.rois([boxes_in((48, 64), 12)])
    first = model.iteration(maps, regions)
    here = regions
    for _ in range(4):
        output = model.iteration(maps, here)
        for own, before in zip(output, first, strict=True):
            torch.testing.assert_close(own, before, atol=1e-2, rtol=0)
        here = R2IOS.moved(here, output.offsets[:, 0], torch.tensor([[48, 64]]).expand(12, 2))
    torch.nn.init.zeros_(model.refinement.offsets.weight)  # boxes stay: all iterations tie
    assert refine(model, maps, regions, (48, 64)).iterations.unique().tolist() == [0]


def naive(model: R2IOS, maps: Maps, regions: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Sec. 3.4 for each proposal by itself; all iterations, background and all."""
    results = []
    for region in regions:
        here, best = region[None].clone(), None
        for t in range(model.config.iterations):
            output = model.iteration(maps, here)
            probabilities = output.scores.softmax(1)[0]
            label, moved = int(probabilities.argmax()), here
            result = None
            if label:
                moved = R2IOS.moved(here, output.offsets[:, label - 1], torch.tensor([size]))
                mask = output.masks.softmax(1)[0, 1]
                result = {"t": t, "label": label, "score": float(probabilities[label]), "input": here[0, 1:], "box": moved[0, 1:]}
                result["mask"] = mask
            if not model.config.gate or (result and (best is None or result["score"] > best["score"])):
                best = result
            here = moved
        results.append(best)
    return results


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("gate", [True, False])
@torch.no_grad()
def test_recursion_equals_each_proposal_by_itself(gate: bool, early_exit: bool) -> None:
    model = model_of(seed=3, gate=gate, early_exit=early_exit, iterations=4)
    maps, regions = maps_of(model), roi.rois([boxes_in((48, 64), 60)])
    found, expected = refine(model, maps, regions, (48, 64)), naive(model, maps, regions, (48, 64))
    assert found.decided.tolist() == [result is not None for result in expected]
    for place, result in enumerate(expected):
        if result:
            assert (found.iterations[place], found.labels[place]) == (result["t"], result["label"])
            torch.testing.assert_close(found.scores[place].item(), result["score"], atol=1e-5, rtol=1e-5)
            for own, name in ((found.mask_boxes, "input"), (found.boxes, "box"), (found.masks, "mask")):
                torch.testing.assert_close(own[place], result[name], atol=1e-3, rtol=1e-4)
    iterations = {result["t"] for result in expected if result}
    assert not gate or len(iterations) > 1, "the case must have proposals whose best iterations differ"
    assert any(result is None for result in expected)


@torch.no_grad()
def test_the_early_exit_computes_less_and_changes_nothing() -> None:
    for undecided in ("drop", "keep"):
        trained = model_of(seed=3, iterations=4, undecided=undecided)
        sample = toy()
        maps, regions = maps_of(trained), roi.rois([boxes_in((48, 64), 60)])
        results, predictions = [], []
        for early_exit in (True, False):
            model = trained.with_settings(early_exit=early_exit)
            results.append(refine(model, maps, regions, (48, 64)))
            predictions.append(model.predict([sample])[0].instances)
        assert results[0].computed < results[1].computed == 4 * 60
        for name in ("decided", "labels", "iterations"):
            assert torch.equal(getattr(results[0], name), getattr(results[1], name))
        for name in ("scores", "mask_boxes", "boxes", "masks"):
            torch.testing.assert_close(getattr(results[0], name), getattr(results[1], name), atol=1e-4, rtol=1e-4)
        assert len(predictions[0]) > 0
        assert predictions[0].rles == predictions[1].rles
        assert torch.equal(predictions[0].labels, predictions[1].labels)


@torch.no_grad()
def test_background_repeats_itself_bit_by_bit() -> None:
    model = model_of(seed=3)
    maps, regions = maps_of(model), roi.rois([boxes_in((48, 64), 60)])
    first = model.iteration(maps, regions)
    background = first.scores.argmax(1) == 0
    assert background.any()
    moved = R2IOS.moved(regions, first.offsets[:, 0], torch.tensor([[48, 64]]).expand(60, 2))
    second = model.iteration(maps, torch.where(background[:, None], regions, moved))
    for own, again in zip(first, second, strict=True):
        assert torch.equal(own[background], again[background])


@torch.no_grad()
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(seed=3)
    maps, regions = maps_of(model), roi.rois([boxes_in((48, 64), 33)])
    whole = refine(model, maps, regions, (48, 64))
    monkeypatch.setattr(r2ios, "CHUNK", 4)
    parts = refine(model, maps, regions, (48, 64))
    assert torch.equal(whole.labels, parts.labels)
    torch.testing.assert_close(whole.masks, parts.masks)


class Scripted(R2IOS):
    """A network whose outputs are written down: for each iteration a row of class probabilities and an offset for each class."""

    def __init__(self, script: list[tuple[list[float], list[list[float]]]], **changes: Any) -> None:
        super().__init__(replace(TINY, iterations=len(script), **changes), CLASSES)
        self.script, self.turn, self.seen = script, 0, []

    def iteration(self, maps: Maps, regions: Tensor) -> Output:
        probabilities, offsets = self.script[self.turn]
        self.turn += 1
        self.seen.append(regions[0, 1:].clone())
        masks = torch.zeros(len(regions), 2, 6, 6)
        masks[:, 1] = 10.0 * self.turn
        return Output(torch.tensor([probabilities]).log(), torch.tensor([offsets]), masks)


BOX = torch.tensor([[0.0, 10.0, 10.0, 20.0, 20.0]])
RIGHT, DOWN, STAY = [10.0, 0.0, 0.0, 0.0], [0.0, 10.0, 0.0, 0.0], [0.0] * 4  # one box side, in units of roi.STD


def test_boxes_move_by_the_offsets_of_their_present_class() -> None:
    moves = [RIGHT, DOWN, STAY]
    model = Scripted([([0.1, 0.8, 0.1, 0.0], moves), ([0.1, 0.1, 0.8, 0.0], moves), ([0.1, 0.1, 0.8, 0.0], moves)])
    refine(model, Maps(torch.zeros(1), torch.zeros(1)), BOX, (60, 60))
    expected = torch.tensor([[10.0, 10.0, 20.0, 20.0], [20.0, 10.0, 30.0, 20.0], [20.0, 20.0, 30.0, 30.0]])
    torch.testing.assert_close(torch.stack(model.seen), expected)


def test_class_score_box_and_mask_are_of_the_same_iteration_and_the_mask_belongs_to_its_input() -> None:
    moves = [RIGHT, DOWN, STAY]
    model = Scripted([([0.3, 0.7, 0.0, 0.0], moves), ([0.05, 0.0, 0.95, 0.0], moves), ([0.2, 0.8, 0.0, 0.0], moves)])
    best: Refined = refine(model, Maps(torch.zeros(1), torch.zeros(1)), BOX, (60, 60))
    assert (best.iterations.item(), best.labels.item()) == (1, 2)
    assert best.scores.item() == pytest.approx(0.95)
    torch.testing.assert_close(best.mask_boxes, torch.tensor([[20.0, 10.0, 30.0, 20.0]]))
    torch.testing.assert_close(best.boxes, torch.tensor([[20.0, 20.0, 30.0, 30.0]]))
    torch.testing.assert_close(best.masks[0, 0, 0].item(), float(torch.tensor(20.0).sigmoid()))


def test_without_the_gate_the_last_iteration_counts() -> None:
    moves = [RIGHT, DOWN, STAY]
    script = [([0.3, 0.7, 0.0, 0.0], moves), ([0.05, 0.0, 0.95, 0.0], moves), ([0.2, 0.8, 0.0, 0.0], moves)]
    found = refine(Scripted(script, gate=False), Maps(torch.zeros(1), torch.zeros(1)), BOX, (60, 60))
    assert (found.iterations.item(), found.labels.item()) == (2, 1)
    script[2] = ([0.9, 0.1, 0.0, 0.0], moves)
    assert not refine(Scripted(script, gate=False), Maps(torch.zeros(1), torch.zeros(1)), BOX, (60, 60)).decided


def test_a_confident_background_beats_no_object() -> None:
    moves = [STAY] * 3
    script = [([0.4, 0.6, 0.0, 0.0], moves), ([0.99, 0.01, 0.0, 0.0], moves)]
    found = refine(Scripted(script), Maps(torch.zeros(1), torch.zeros(1)), BOX, (60, 60))
    assert found.decided.item()
    assert found.scores.item() == pytest.approx(0.6)


@pytest.mark.parametrize("mask_box", ["input", "repool"])
def test_the_mask_is_pasted_where_it_was_predicted(mask_box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scripted([([0.1, 0.9, 0.0, 0.0], [RIGHT, DOWN, STAY])], mask_box=mask_box, scale=30, longest=30)
    monkeypatch.setattr(model, "masks", lambda maps, regions: torch.tensor([-9.0, 9.0]).view(1, 2, 1, 1).expand(1, 2, 6, 6))
    sample = Sample("square", torch.zeros(3, 60, 60, dtype=torch.uint8), proposals=torch.tensor([[20.0, 20.0, 40.0, 40.0]]))
    found = model.predict([sample])[0].instances
    expected = np.zeros((60, 60), bool)
    expected[20:40, (20, 40)[mask_box == "repool"] : (40, 60)[mask_box == "repool"]] = True
    assert (found.mask(0) ^ expected).sum() <= 4, "all but the corners, which interpolation rounds"
    torch.testing.assert_close(found.boxes, torch.tensor([[40.0, 20.0, 60.0, 40.0]]))


def test_undecided_proposals_are_dropped_or_kept_at_their_low_confidence() -> None:
    script = [([0.6, 0.1, 0.3, 0.0], [RIGHT, DOWN, STAY])]
    sample = Sample("square", torch.zeros(3, 48, 48, dtype=torch.uint8), proposals=BOX[:, 1:])
    assert len(Scripted(script).predict([sample])[0].instances) == 0
    kept = Scripted(script, undecided="keep").predict([sample])[0].instances
    assert kept.labels.tolist() == [2]
    assert kept.scores.item() == pytest.approx(0.3)


def test_given_tags_rule_out_other_classes() -> None:
    script = [([0.1, 0.9, 0.0, 0.0], [STAY] * 3)]
    sample = Sample("square", torch.zeros(3, 48, 48, dtype=torch.uint8), torch.tensor([0.0, 1.0, 1.0]), proposals=BOX[:, 1:])
    assert len(Scripted(script).predict([sample])[0].instances) == 1
    assert len(Scripted(script).predict([sample], tags="given")[0].instances) == 0
    with pytest.raises(ValueError, match="tags='given'"):
        Scripted(script).predict([replace(sample, tags=None)], tags="given")


# -- batches -----------------------------------------------------------------------------------------------------------


def together(model: R2IOS, samples: list[Sample], tags: str = "predicted") -> list[Prediction]:
    """Predictions of all samples as one batch."""
    with torch.no_grad():
        items = [model.preprocess(sample, tags) for sample in samples]
        assert len({model.batch_key(item) for item in items}) == 1, "they can stand in one batch"
        return model.predict_batch(items, samples, tags)


def assert_same_objects(one: Prediction, other: Prediction) -> None:
    first, second = one.instances, other.instances
    assert len(first) > 0
    assert torch.equal(first.labels, second.labels)
    torch.testing.assert_close(first.scores, second.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(first.boxes, second.boxes, atol=1e-2, rtol=1e-4)
    for index in range(len(first)):
        assert (first.mask(index) ^ second.mask(index)).sum() <= 1, "a pixel at the threshold"


def numbered_images(sizes: list[tuple[int, int]]) -> list[Sample]:
    random = torch.Generator().manual_seed(7)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random) for size in sizes]
    return [Sample(str(number), image, torch.tensor([0.0, 1.0, 1.0])) for number, image in enumerate(images)]


@pytest.mark.parametrize("tags", ["predicted", "given"])
@pytest.mark.parametrize("changes", [{}, {"mask_box": "repool"}, {"gate": False}, {"proposals": "rpn"}])
def test_a_batch_of_images_of_like_size_equals_them_one_by_one(changes: dict[str, Any], tags: str) -> None:
    model = model_of(seed=3, undecided="keep", **changes)
    samples = numbered_images([(50, 60), (51, 61), (50, 60)])  # resized to 48 × 58 and 48 × 57, padded to 48 × 64
    for one, other in zip(model.predict(samples, tags), together(model, samples, tags), strict=True):
        assert_same_objects(one, other)


def test_a_batch_of_different_numbers_of_proposals_equals_its_images_one_by_one() -> None:
    model = model_of(seed=3, undecided="keep")
    samples = numbered_images([(50, 60)] * 4)
    for sample, count in zip(samples, (30, 0, 3, 200), strict=True):
        sample.proposals = boxes_in((50, 60), count)
    one_by_one, batch = model.predict(samples), together(model, samples)
    assert [len(prediction.instances) for prediction in batch] == [len(prediction.instances) for prediction in one_by_one]
    for place in (0, 2, 3):
        assert_same_objects(one_by_one[place], batch[place])
    assert len(batch[1].instances) == 0


def test_images_with_proposals_and_without_are_in_batches_of_their_own_where_some_are_learned() -> None:
    model = model_of(proposals="rpn")
    learned, other = numbered_images([(50, 60)] * 2)
    other.proposals = boxes_in((50, 60), 5)
    assert model.batch_key(model.preprocess(learned)) != model.batch_key(model.preprocess(other))


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("seg_aware", [True, False])
@pytest.mark.parametrize("kind", ["no object", "no foreground", "no proposal", "nothing", "one pixel"])
def test_images_without_much_to_learn_from_give_finite_gradients_everywhere(kind: str, seg_aware: bool, gate: bool) -> None:
    model = R2IOS(replace(TINY, seg_aware=seg_aware, add_truth=kind in ("no proposal", "one pixel")), CLASSES)
    sample = toy(0 if kind in ("no object", "nothing") else 2)
    if kind == "one pixel":
        masks = torch.zeros(1, 50, 60, dtype=torch.bool)
        masks[0, 20, 30] = True
        sample.instances = Instances(torch.tensor([[30.0, 20.0, 31.0, 21.0]]), torch.tensor([1]), masks=masks)
    batch = batch_of([sample], count=0 if kind in ("no proposal", "nothing") else 20, gate=gate)
    if kind == "no foreground":
        batch["proposals"] = [torch.tensor([[0.0, 0.0, 2.0, 2.0]]).expand(20, 4)]
    losses = model(batch)
    torch.stack([*losses.values()]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name}: parallel training waits for it"
        assert parameter.grad.isfinite().all(), name


def test_a_thousand_objects_are_learned_from() -> None:
    sample = toy(1000)
    losses = R2IOS(TINY, CLASSES)(batch_of([sample]))
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (300, 20)])
def test_images_of_any_shape_are_predicted(size: tuple[int, int]) -> None:
    sample = Sample("strip", torch.randint(0, 256, (3, *size), dtype=torch.uint8))
    (prediction,) = model_of(undecided="keep").predict([sample])
    assert prediction.size == size
    assert all(tuple(code["size"]) == size for code in prediction.instances.rles)


def test_zero_proposals_give_zero_objects() -> None:
    sample = Sample("empty", torch.zeros(3, 40, 50, dtype=torch.uint8), proposals=torch.zeros(0, 4))
    (prediction,) = model_of().predict([sample])
    assert len(prediction.instances) == 0
    assert prediction.tags.tolist() == [0, 0, 0]


def test_broken_proposals_are_left_out() -> None:
    bad = torch.tensor([[float("nan"), 0, 5, 5], [90, 90, 95, 95], [5, 5, 5, 9], [8, 8, 2, 2], [-9, -9, 30, 30]])
    sample = Sample("bad", torch.zeros(3, 40, 50, dtype=torch.uint8), proposals=torch.cat([bad, bad]))
    (prediction,) = model_of(undecided="keep", nms=1.0).predict([sample])
    assert len(prediction.instances) <= 1


def test_masks_of_detections_are_never_empty() -> None:
    (prediction,) = model_of(undecided="keep", count=200).predict([toy()])
    assert len(prediction.instances) > 0
    assert (rle.areas(prediction.instances.rles) > 0).all()


# -- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes_data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from frugalseg.data import read

    return read(shapes.write(tmp_path_factory.mktemp("shapes") / "set", 6, 0, 0, size=64, quiet=True), split="Segmentation/train")


def test_both_phases_are_trained_and_logged(shapes_data: Any, tmp_path: Path) -> None:
    run = Run(tmp_path, QUIET)
    r2ios.train(replace(TINY, proposals="rpn"), shapes_data, run)
    stages = [line["stage"] for line in read_log(tmp_path) if "step" in line]
    assert stages == ["recursion"] * 2 + ["gate"] * 2
    assert set(run.logged("gate")[0]["losses"]) == {"class", "box", "mask", "objectness", "rpn_box"}


def test_learned_proposals_need_no_selective_search(shapes_data: Any, tmp_path: Path) -> None:
    network = r2ios.train(replace(TINY, proposals="rpn", undecided="keep"), shapes_data, Run(tmp_path, QUIET))
    again = r2ios.build(network.config, network.classes)
    again.load_state_dict(network.state_dict())
    sample = shapes_data.only("image")[0]
    before, after = (each.predict([sample])[0].instances for each in (network, again))
    assert len(before) > 0
    assert before.rles == after.rles


def test_a_few_images_can_be_learned_by_heart(shapes_data: Any, tmp_path: Path) -> None:
    """Trained on two images, the two without a very small object, the network finds most of their objects, with masks."""
    config = replace(TINY, mask_size=14, channels=32, mask_channels=32, width=64, code=64, scale=64, count=300, rois=32)
    config = replace(config, mask_features="lateral", optimizer="adamw", lr=2e-3, head_lr=2e-3, steps=70, gate_steps=20)
    data = shapes_data.select([4, 5])
    model = r2ios.train(config, data, Run(tmp_path, QUIET))
    found = total = 0
    for index in range(2):
        sample = data[index]
        (prediction,) = model.predict([sample])
        dense = torch.stack([torch.from_numpy(prediction.instances.mask(i)) for i in range(len(prediction.instances))])
        for mask, label in zip(sample.instances.masks, sample.instances.labels, strict=True):
            own = dense[prediction.instances.labels == label]
            overlap = (own & mask).sum((1, 2)) / (own | mask).sum((1, 2))
            found, total = found + bool((overlap > 0.5).any()), total + 1
    assert found >= 0.7 * total
