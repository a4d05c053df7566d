"""AE-PSL part by part: maps, losses, erasing, the assembled mask, the online mask, and what may reach a loss."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from frugalseg.data import Data, Record
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.log import read_log
from frugalseg.engine.run import Run
from frugalseg.inference.predictor import load
from frugalseg.methods import aepsl
from frugalseg.methods.aepsl import AssembledMasks, Classifier, ErasedImages, MinedRegions, Segmenter
from frugalseg.nets import multi_scale, optim, segmentation, tag_classifier
from frugalseg.nets.multi_scale import MultiScale
from frugalseg.recipes.aepsl import Config
from frugalseg.recipes.runtime import Runtime
from frugalseg.types import IGNORE, Sample

pytestmark = pytest.mark.filterwarnings("ignore:aepsl --:UserWarning")  # deprecated settings, tested for what they did
QUIET = Runtime(quiet=True, workers=0, log_every=1, accelerator="cpu")
TINY = Config(
    backbone="tiny",
    channels=8,
    dilation=2,
    crop=32,
    rounds=1,
    plus=0,
    crf=False,
    batch=3,
    classifier_epochs=1,
    epochs=1,
    lr=0.1,
    head_lr=0.1,
    label_loss="bce",
    threshold=0.0,
)


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return toys.write(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def hasty_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, so none needs to wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def train(data: Data, folder: Path, **changes: Any) -> Classifier:
    run = Run(folder, QUIET, method="aepsl")
    network = aepsl.train(replace(TINY, **changes), data, run)
    run.save_model(network)
    return network


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def settled(kind: Callable[..., Any], config: Config = TINY, classes: tuple[str, ...] = toys.CLASSES) -> Any:
    """A network with uneven random weights in evaluation mode."""
    model = kind(config, classes)
    for parameter in model.fc.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


# -- the class activation map --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["squared", "bce"])
def test_the_mean_of_a_cam_is_the_class_logit_without_its_bias(kind: str) -> None:
    model, images = settled(Classifier, replace(TINY, label_loss=kind)), torch.rand(2, 3, 41, 33) * 255
    logits = model.fc(model.features(images).mean((2, 3)))
    cams, v = model.maps(images)
    torch.testing.assert_close(cams.mean((2, 3)), logits - model.fc.bias)
    torch.testing.assert_close(v, logits.softmax(1) if kind == "squared" else logits.sigmoid())


def test_with_levels_places_come_from_their_maps_and_tags_of_the_segmenter_from_the_last() -> None:
    config = replace(TINY, levels=(4, 5), standardize=True, channels=0)
    images = torch.rand(2, 3, 41, 33) * 255
    classifier, segmenter = settled(Classifier, config), settled(Segmenter, config)
    for model in (classifier, segmenter):
        for norm in (module for module in model.modules() if module in (model.norm, getattr(model, "label_norm", None))):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    maps = classifier.backbone.maps(images, (4, 5))
    features = classifier.norm(torch.cat(maps, 1))
    cams, v = classifier.maps(images)
    torch.testing.assert_close(cams, F.conv2d(features, classifier.fc.weight[:, :, None, None]))
    torch.testing.assert_close(v, (cams.mean((2, 3)) + classifier.fc.bias).sigmoid())
    last = segmenter.backbone(images)
    scores, v = segmenter.maps(images)
    pooled = (last.mean((2, 3)) - segmenter.label_norm.running_mean) / (segmenter.label_norm.running_var + 1e-5).sqrt()
    torch.testing.assert_close(v, segmenter.fc(pooled).sigmoid())
    torch.testing.assert_close(scores, segmenter.score(segmenter.features(images)).softmax(1))
    with pytest.raises(ValueError, match="block 2 at 4, block 5 at 16 pixels per cell"):
        Classifier(replace(config, levels=(2, 5), output_stride=16), toys.CLASSES)


def test_a_cam_is_the_linear_layer_at_each_place() -> None:
    model, images = settled(Classifier), torch.rand(1, 3, 24, 24) * 255
    features, (cams,) = model.features(images)[0], model.maps(images)[0]
    for y, x in np.ndindex(*cams.shape[1:]):
        torch.testing.assert_close(cams[:, y, x], model.fc.weight @ features[:, y, x])


@pytest.mark.parametrize("target", [1, 2, 4, 8])
def test_a_ramp_on_the_map_becomes_the_same_ramp_of_pixels(target: int) -> None:
    stride, (height, width) = 8, (4, 6)
    places = torch.stack(torch.meshgrid(torch.arange(height) * 8.0, torch.arange(width) * 8.0, indexing="ij"))
    finer = segmentation.upsample(places[None], stride, target)[0]
    rows, columns = torch.arange(0, 25.0, target), torch.arange(0, 41.0, target)
    torch.testing.assert_close(finer, torch.stack(torch.meshgrid(rows, columns, indexing="ij")))


@pytest.mark.parametrize("side", [1, 7, 8, 9, 16, 17])
def test_padding_ends_where_the_last_point_of_the_map_lies(side: int) -> None:
    image = torch.rand(1, 3, side, 5)
    padded = multi_scale.pad_to_grid(image, 8)
    points = math.ceil(padded.shape[2] / 8)
    assert padded.shape[2] == (points - 1) * 8 + 1
    assert side <= padded.shape[2] < side + 8
    assert torch.equal(padded[..., :side, :5], image)
    assert torch.equal(padded[..., side:, :5], image[..., -1:, :].expand(-1, -1, padded.shape[2] - side, -1))


def test_maps_lie_on_the_pixels_they_come_from() -> None:
    """A network that gives each place's own colour reproduces a smooth image, mirrored or not, at every size."""

    class Eye(Classifier):
        def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images[:, :, ::8, ::8], images.mean((2, 3))

    ramp = (torch.arange(41.0)[:, None] * 2 + torch.arange(33.0)[None] * 3).expand(3, -1, -1).to(torch.uint8)
    for flip in (False, True):
        maps, v = MultiScale((1.0,), flip, 0, 8).predict(Eye(TINY, toys.CLASSES).maps, ramp, torch.device("cpu"))
        torch.testing.assert_close(maps, ramp.float(), atol=1e-3, rtol=0)
        torch.testing.assert_close(v, ramp.float().mean((1, 2)))
    maps, _ = MultiScale((0.5, 1.0, 2.0), True, 0, 8).predict(Eye(TINY, toys.CLASSES).maps, ramp, torch.device("cpu"))
    inner = slice(4, -8)  # at the rim resizing the image repeats its last pixels
    torch.testing.assert_close(maps[:, inner, inner], ramp[:, inner, inner].float(), atol=1.0, rtol=0)


# -- losses --------------------------------------------------------------------------------------------------------------


def squared_by_hand(logits: Tensor, tags: Tensor) -> float:
    total = 0.0
    for row, labels in zip(logits.tolist(), tags.tolist(), strict=True):
        exponents = [math.exp(value) for value in row]
        count = sum(tag == 1 for tag in labels)
        for value, tag in zip(exponents, labels, strict=True):
            if tag == tag:
                total += (value / sum(exponents) - (tag / count if count else 0.0)) ** 2
    return total / len(logits)


def bce_by_hand(logits: Tensor, tags: Tensor) -> float:
    terms = [
        -math.log(1 / (1 + math.exp(-value if tag else value)))
        for row, labels in zip(logits.tolist(), tags.tolist(), strict=True)
        for value, tag in zip(row, labels, strict=True)
        if tag == tag
    ]
    return sum(terms) / max(1, len(terms))


UNKNOWN = float("nan")


@pytest.mark.parametrize(
    "tags",
    [
        [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]],
        [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]],
        [[1.0, UNKNOWN, 0.0], [UNKNOWN, UNKNOWN, UNKNOWN]],
    ],
)
def test_label_losses_equal_the_sums_written_out(tags: list[list[float]]) -> None:
    logits, targets = torch.randn(2, 3, requires_grad=True), torch.tensor(tags)
    for kind, by_hand in (("squared", squared_by_hand), ("bce", bce_by_hand)):
        loss = tag_classifier.label_loss(logits, targets, kind)
        assert loss.item() == pytest.approx(by_hand(logits, targets), rel=1e-5)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()


def test_unknown_tags_alone_give_no_loss() -> None:
    assert float(tag_classifier.label_loss(torch.randn(2, 3), torch.full((2, 3), UNKNOWN), "bce")) == 0


def j_by_hand(logits: Tensor, masks: Tensor, tags: Tensor) -> float:
    """J of sec. 3.2, pixel by pixel."""
    means = []
    for scores, mask, labels in zip(logits.double(), masks, tags, strict=True):
        total, count = 0.0, 0
        for y, x in np.ndindex(*mask.shape):
            label = int(mask[y, x])
            if label == 0 or (label != IGNORE and labels[label - 1] == 1):
                total -= math.log(float(scores[:, y, x].softmax(0)[label]))
                count += 1
        means.append(total / count if count else 0.0)
    return sum(means) / len(means)


@pytest.mark.parametrize("seed", range(4))
def test_j_counts_and_sums_only_pixels_of_the_images_tags_and_background(seed: int) -> None:
    torch.manual_seed(seed)
    logits, tags = torch.randn(3, 4, 5, 6), torch.randint(0, 2, (3, 3)).float()
    tags[0, 1] = UNKNOWN
    masks = torch.randint(0, 5, (3, 5, 6))
    masks[masks == 4] = IGNORE
    loss = aepsl.segmentation_loss(logits, masks, tags)
    assert float(loss) == pytest.approx(j_by_hand(logits, masks, tags), rel=1e-5)
    assert (masks > 0).any()
    absent = masks.clone()
    absent[(masks != IGNORE) & (masks > 0)] = IGNORE
    none = torch.zeros_like(tags)
    assert float(aepsl.segmentation_loss(logits, masks, none)) == float(aepsl.segmentation_loss(logits, absent, none))


def test_a_mask_without_labelled_pixels_gives_no_loss_and_a_finite_gradient() -> None:
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    loss = aepsl.segmentation_loss(logits, torch.full((2, 3, 3), IGNORE), torch.ones(2, 3))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


# -- the online mask -------------------------------------------------------------------------------------------------------


def test_confidences_decide_which_class_the_online_mask_takes() -> None:
    probabilities = torch.tensor([[0.3, 0.5, 0.2], [0.1, 0.35, 0.55], [0.05, 0.9, 0.05]])  # pixels x (background, 1, 2)
    logits = probabilities.log().T.reshape(1, 3, 1, 3)

    def mask(*v: float) -> list[int]:
        return aepsl.online_mask(logits, torch.tensor([v])).flatten().tolist()

    assert mask(1.0, 1.0) == [1, 2, 1]
    assert mask(0.5, 1.0) == [0, 2, 1], "0.5 * 0.5 < 0.3"
    assert mask(1.0, 0.6) == [1, 1, 1], "0.6 * 0.55 < 0.35"
    assert mask(0.0, 0.0) == [0, 0, 0], "a prohibited class appears nowhere"
    assert aepsl.online_mask(logits, torch.ones(1, 2), 1.7).flatten().tolist() == [0, 2, 1], "1.7 * 0.3 > 0.5, 1.7 * 0.1 < 0.55"


def batch_of(online: bool = True, seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    semantic = torch.randint(0, 4, (2, 33, 33))
    return {"image": torch.rand(2, 3, 33, 33) * 255, "tags": torch.ones(2, 3), "semantic": semantic, "online": online}


@pytest.mark.parametrize("prohibit_by", ["predicted", "tags", "none"])
def test_neither_the_online_mask_nor_v_carries_a_gradient(prohibit_by: str) -> None:
    model, batch = settled(Segmenter, replace(TINY, prohibit_by=prohibit_by)), batch_of()
    online = model(batch)["online"]
    through_v, through_f = torch.autograd.grad(online, [model.fc.weight, model.score.weight], allow_unused=True)
    assert through_v is None
    features = model.features(batch["image"])
    logits = model.score(features)
    v = {
        "predicted": model.fc(features.mean((2, 3))).sigmoid(),
        "tags": batch["tags"],
        "none": torch.ones_like(batch["tags"]),
    }[prohibit_by]
    weights = torch.cat([torch.ones(2, 1), v], 1)[:, :, None, None]
    fixed = (logits.softmax(1) * weights).argmax(1)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, fixed), model.score.weight)
    torch.testing.assert_close(through_f, expected)


def test_the_online_mask_waits_for_the_warm_up() -> None:
    model = settled(Segmenter)
    assert model(batch_of(online=False))["online"].item() == 0
    assert model(batch_of(online=True))["online"].item() > 0


@pytest.mark.parametrize("label_stride", [1, 2, 4, 8])
@pytest.mark.parametrize("side", [32, 33, 36])
def test_the_segmentation_loss_meets_each_label_at_its_own_pixel(label_stride: int, side: int) -> None:
    """Scores that name the right class at every point of the map, and labels that change only between two points."""
    model = settled(Segmenter, replace(TINY, label_stride=label_stride))
    points = torch.randint(0, 4, (1, math.ceil(side / 8), math.ceil(side / 8)))
    truth = torch.full((1, side, side), IGNORE)
    truth[:, ::8, ::8] = points
    model.features = lambda images: F.one_hot(points, 4).permute(0, 3, 1, 2) * 50.0
    model.score, model.fc = torch.nn.Identity(), torch.nn.Linear(4, 3)
    batch = {"image": torch.zeros(1, 3, side, side), "tags": torch.ones(1, 3), "semantic": truth, "online": False}
    assert model(batch)["segmentation"].item() < 1e-3
    batch["semantic"] = torch.where(truth == IGNORE, IGNORE, (truth + 1) % 4)
    assert model(batch)["segmentation"].item() > 10


@pytest.mark.parametrize(
    ("cells", "pixels", "target"), [((5, 4), (33, 25), (33, 25)), ((5, 4), (30, 26), (41, 17)), ((1, 2), (1, 9), (4, 9))]
)
def test_two_matrices_resample_a_map_as_two_interpolations_do(
    cells: tuple[int, int], pixels: tuple[int, int], target: tuple[int, int]
) -> None:
    maps = torch.randn(3, *cells)
    rows, columns = (multi_scale.resampling(8, *side) for side in zip(cells, pixels, target, strict=True))
    steps = segmentation.upsample(maps[None], 8, 1)[..., : pixels[0], : pixels[1]]
    torch.testing.assert_close(rows @ maps @ columns.T, F.interpolate(steps, target, mode="bilinear")[0])


# -- discriminative regions, erasing, mining ---------------------------------------------------------------------------------


def test_both_readings_of_top_twenty_percent() -> None:
    cam = torch.tensor([[10.0, 8.0, 3.0, 2.5, 2.0], [1.0, 0.5, 0.0, -1.0, -20.0]])
    of_maximum = aepsl.discriminative_region(cam, replace(TINY, erase="fraction_of_max"))
    assert of_maximum.tolist() == [[True, True, True, True, False], [False] * 5], "2.0 is not more than 20 % of 10"
    top = aepsl.discriminative_region(cam, replace(TINY, erase="top_percent"))
    assert top.tolist() == [[True, True, False, False, False], [False] * 5], "2 of 10 pixels"


@pytest.mark.parametrize("erase", ["fraction_of_max", "top_percent"])
def test_a_map_marks_nothing_where_it_is_not_positive(erase: str) -> None:
    config = replace(TINY, erase=erase)
    for nothing in (torch.zeros(4, 4), -torch.rand(4, 4)):
        assert not aepsl.discriminative_region(nothing, config).any()
    lonely = -torch.ones(10, 10)
    lonely[3, 4] = 2.0
    assert aepsl.discriminative_region(lonely, config).nonzero().tolist() == [[3, 4]]


def store_of(folder: Path, claims: list[np.ndarray], data: Data) -> ArrayStore:
    store = ArrayStore(folder)
    for index, claim in enumerate(claims):
        store.write(index, MinedRegions.pack(claim, np.flatnonzero(data.tags[index] == 1) + 1))
    return store


def random_regions(data: Data, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.random((int((data.tags[i] == 1).sum()), *data.image(i).shape[-2:])) < 0.2 for i in range(len(data))]


def test_packed_regions_come_back_as_the_union_of_the_rounds(tmp_path: Path, toy_data: Data) -> None:
    first, second = random_regions(toy_data, 1), random_regions(toy_data, 2)
    mined = MinedRegions([store_of(tmp_path / "0", first, toy_data), store_of(tmp_path / "1", second, toy_data)])
    for index in range(len(toy_data)):
        claims, ids = mined.union(index)
        assert np.array_equal(claims, first[index] | second[index])
        assert ids.tolist() == [i + 1 for i, tag in enumerate(toys.TAGS[index]) if tag]


def test_erased_pixels_are_the_mean_pixel_and_nothing_else_changes(tmp_path: Path, toy_data: Data) -> None:
    claims = random_regions(toy_data, 1)
    erased = ErasedImages(toy_data, [store_of(tmp_path, claims, toy_data)], (12.4, 99.6, 200.0))
    for index in range(len(toy_data)):
        region, before, after = torch.from_numpy(claims[index].any(0)), toy_data[index].image, erased[index].image
        assert (after[:, region] == torch.tensor([12, 100, 200], dtype=torch.uint8)[:, None]).all()
        assert torch.equal(after[:, ~region], before[:, ~region])
        assert torch.equal(erased[index].tags, toy_data[index].tags)


def test_the_mean_pixel_is_the_mean_of_the_images_means(toy_data: Data) -> None:
    by_hand = np.mean([np.asarray(Image.open(record.image)).reshape(-1, 3).mean(0) for record in toy_data.records], axis=0)
    np.testing.assert_allclose(aepsl.mean_pixel(toy_data), by_hand, rtol=1e-5)


class Colours(Classifier):
    """Knows class 1 by its red and class 2 by its green: the map at point i is the colour of pixel 8i above a level."""

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        cams = images[:, :2, ::8, ::8] - 120.0
        return cams, cams.mean((2, 3)).sigmoid()


def two_parts(folder: Path) -> Data:
    """A strong and a weak red square, a strong and a weak green one, on grey."""
    pixels = np.full((97, 97, 3), 90, np.uint8)
    for channel, left in ((0, 8), (1, 56)):
        pixels[8:33, left : left + 25, channel] = 250
        pixels[56:81, left : left + 25, channel] = 140
    Image.fromarray(pixels).save(folder / "parts.png")
    return Data(folder, "tags", None, ("red", "green"), [Record("parts", folder / "parts.png", (1.0, 1.0))])


def test_each_round_finds_what_the_rounds_before_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = two_parts(tmp_path), []

    def fit(config: Config, erased: ErasedImages, *_: Any) -> Classifier:
        seen.append(erased[0].image.clone())
        return Colours(config, data.classes)

    monkeypatch.setattr(aepsl, "fit", fit)
    stores, _ = aepsl.mine(replace(TINY, rounds=3), data, Run(tmp_path / "run", QUIET), aepsl.mean_pixel(data))
    (first, ids), (second, _), (third, _) = (MinedRegions([store]).union(0) for store in stores)
    assert ids.tolist() == [1, 2]
    for claim, left in zip((0, 1), (8, 56), strict=True):
        assert first[claim, 8:33, left : left + 25].all(), "the strong square first"
        assert second[claim, 56:81, left : left + 25].all(), "then the weak one, which the strong one outshone"
        assert not first[claim, 49:].any()
        assert not second[claim, :41].any()
    assert not (first & second).any(), "nothing is found twice"
    assert not third.any(), "nothing is left to find"
    untouched, erased, _ = seen
    assert torch.equal(untouched, data.image(0))
    changed = (erased != untouched).any(0).numpy()
    assert np.array_equal(changed, first.any(0)), "the regions of all tags are erased together"


def test_mining_stops_by_itself_when_the_loss_passes_the_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = two_parts(tmp_path), Run(tmp_path / "run", QUIET)
    ends = {"classifier0": 0.1, "classifier1": 0.19, "classifier2": 0.21, "classifier3": 0.1}

    def fit(config: Config, erased: ErasedImages, run: Run, stage: str, *_: Any) -> Classifier:
        for step in range(1, 21):  # the last tenth counts
            run.log(stage=stage, step=step, losses={"label": ends[stage] if step > 18 else 5.0})
        return Colours(config, data.classes)

    monkeypatch.setattr(aepsl, "fit", fit)
    stores, _ = aepsl.mine(replace(TINY, rounds=4, stop="auto", stop_ratio=2.0), data, run, [90.0] * 3)
    assert len(stores) == 2, "round 3 ends above twice the loss of round 1, so its regions are not taken"
    assert not (run.folder / "state" / "regions2").exists()


def test_a_run_stopped_between_two_erasing_rounds_mines_the_same(
    tmp_path: Path, toy_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, fit = train(toy_data, tmp_path / "straight", rounds=2), aepsl.fit

    def interrupted(config: Config, data: ErasedImages, run: Run, stage: str, *rest: Any) -> Classifier:
        if stage == "classifier1":
            raise KeyboardInterrupt
        return fit(config, data, run, stage, *rest)

    monkeypatch.setattr(aepsl, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(toy_data, tmp_path / "stopped", rounds=2)
    monkeypatch.setattr(aepsl, "fit", fit)
    assert same(train(toy_data, tmp_path / "stopped", rounds=2), straight)
    for name in ("regions0", "regions1", "masks"):
        stores = [ArrayStore(tmp_path / run / "state" / name) for run in ("straight", "stopped")]
        for index in range(len(toy_data)):
            one, other = (store.read(index) for store in stores)
            assert all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("tags", [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (UNKNOWN, 0.0)])
def test_regions_are_mined_for_the_tags_a_image_has(tmp_path: Path, tags: tuple[float, ...]) -> None:
    sample = two_parts(tmp_path)[0]
    arrays = aepsl.mined_regions(TINY, Colours(TINY, ("red", "green")), 0, replace(sample, tags=torch.tensor(tags)))
    assert arrays["ids"].tolist() == [index + 1 for index, tag in enumerate(tags) if tag == 1]
    assert len(arrays["bits"]) == tags.count(1.0)


# -- the assembled mask S ----------------------------------------------------------------------------------------------------


def test_a_mask_by_hand() -> None:
    first = np.array([[1, 1, 1, 0, 0, 0, 0]], bool)
    second = np.array([[0, 0, 1, 1, 1, 0, 0]], bool)
    low = np.array([[0, 1, 0, 0, 1, 1, 0]], bool)
    mask = aepsl.assemble(np.stack([first, second]), [2, 3], low)
    #  class 2, low saliency inside it, claimed twice, class 3, low saliency inside it, background, nobody's
    assert mask.tolist() == [[2, IGNORE, IGNORE, 3, IGNORE, 0, IGNORE]]
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("count", [0, 1, 4])
def test_masks_equal_the_rules_pixel_by_pixel(count: int) -> None:
    random = np.random.default_rng(count)
    claims, low = random.random((count, 9, 11)) < 0.3, random.random((9, 11)) < 0.4
    ids = [7, 2, 9, 4][:count]
    mask = aepsl.assemble(claims, ids, low)
    for y, x in np.ndindex(9, 11):
        labels = [label for label, claim in zip(ids, claims, strict=True) if claim[y, x]]
        labels += [0] if low[y, x] else []
        assert mask[y, x] == (labels[0] if len(labels) == 1 else IGNORE)


def write_maps(folder: Path, data: Data) -> list[np.ndarray]:
    """A map of saliency for each image: dark on the left, bright on the right."""
    maps = []
    for index, name in enumerate(data.names):
        height, width = data.image(index).shape[-2:]
        maps.append(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))
        folder.mkdir(exist_ok=True)
        Image.fromarray(maps[-1]).save(folder / f"{name}.png")
    return maps


def test_a_folder_of_saliency_maps_gives_the_background(tmp_path: Path, toy_data: Data) -> None:
    maps, claims = write_maps(tmp_path / "maps", toy_data), random_regions(toy_data, 3)
    config = replace(TINY, saliency=str(tmp_path / "maps"), background=0.5, indoor_background=0.25, indoor=("berry",))
    masks = AssembledMasks(config, toy_data, [store_of(tmp_path / "mined", claims, toy_data)])
    for index, tags in enumerate(toys.TAGS[:5]):
        low = maps[index] / 255 < (0.25 if tags[1] else 0.5)
        ids = [place + 1 for place, tag in enumerate(tags) if tag]
        assert np.array_equal(masks[index], aepsl.assemble(claims[index], ids, low))


def test_a_image_known_to_show_no_class_is_background_everywhere(tmp_path: Path, toy_data: Data) -> None:
    masks = AssembledMasks(TINY, toy_data, [store_of(tmp_path, random_regions(toy_data, 3), toy_data)])
    assert toys.TAGS[5] == (0, 0, 0)
    assert not masks[5].any()


def test_no_folder_of_saliency_maps_is_a_clear_error(tmp_path: Path, toy_data: Data) -> None:
    with pytest.raises(ValueError, match=r"there is no map .*picture0\.png; write one for each image"):
        train(toy_data, tmp_path / "run", saliency=str(tmp_path / "nowhere"))


# -- what reaches a loss -------------------------------------------------------------------------------------------------------


def test_only_tags_reach_a_loss(tmp_path: Path, toy_data: Data) -> None:
    everything = {"rounds": 2, "plus": 1, "crf": True}
    whole = train(toy_data, tmp_path / "whole", **everything)
    assert same(whole, train(toys.shuffled(toy_data), tmp_path / "shuffled", **everything)), "masks, objects, boxes swapped"
    assert same(whole, train(toy_data.only("image", "tags"), tmp_path / "withheld", **everything))
    swapped = [replace(record, tags=record.tags[::-1]) for record in toy_data.records if record.tags]
    other = train(toys.with_records(toy_data, swapped), tmp_path / "tags", **everything)
    assert not same(whole, other), "the tags do"


def test_given_masks_reach_the_loss_only_when_asked_for(tmp_path: Path, toy_data: Data) -> None:
    whole = train(toy_data, tmp_path / "whole", masks="given")
    emptied = []
    for record in toy_data.records:
        empty = tmp_path / f"{record.name}.png"
        Image.fromarray(np.zeros_like(np.asarray(Image.open(record.semantic)))).save(empty)
        emptied.append(replace(record, semantic=empty))
    assert not same(whole, train(toys.with_records(toy_data, emptied), tmp_path / "emptied", masks="given"))
    assert {line["stage"] for line in read_log(tmp_path / "whole")} == {"segmentation0"}


FCN = replace(TINY, masks="given", label_branch=False, head="fcn", label_stride=1)


def test_without_a_label_branch_it_is_a_plain_fcn() -> None:
    """Cross-entropy over all labelled pixels; a pixel shows the class of the highest score, whatever the tags are."""
    model = settled(aepsl.build, FCN)
    images, masks = torch.rand(2, 3, 33, 33) * 255, torch.randint(0, 4, (2, 33, 33))
    logits = F.interpolate(model.score(model.features(images)), (33, 33), mode="bilinear", align_corners=True)
    losses = model({"image": images, "semantic": masks, "online": True})
    torch.testing.assert_close(losses["segmentation"], F.cross_entropy(logits, masks))
    prediction = model.predict([Sample("noise", images[0].to(torch.uint8))])[0]
    scores, _ = model.maps(images[:1].to(torch.uint8).float())
    dense = F.interpolate(scores, (33, 33), mode="bilinear", align_corners=True)[0]
    assert torch.equal(prediction.semantic, dense.argmax(0).to(torch.uint8))
    with pytest.raises(ValueError, match="label_branch=False: nothing tells where"):
        replace(TINY, label_branch=False)


def test_a_plain_fcn_needs_no_tags_and_learns_nothing_from_them(tmp_path: Path, toy_data: Data) -> None:
    plain = {name: getattr(FCN, name) for name in ("masks", "label_branch", "head", "label_stride")}
    assert FCN.needs == {"image", "semantic"}
    whole = train(toy_data, tmp_path / "whole", **plain)
    swapped = [replace(record, tags=record.tags[::-1]) for record in toy_data.records if record.tags]
    assert same(whole, train(toys.with_records(toy_data, swapped), tmp_path / "swapped", **plain))
    assert same(whole, train(toy_data.only("image", "semantic"), tmp_path / "untagged", **plain))


def test_settings_that_belong_to_fcn_say_so(tmp_path: Path, toy_data: Data) -> None:
    with pytest.warns(UserWarning, match=r"aepsl --masks given is deprecated; .* type frugalseg train fcn DATA"):
        train(toy_data, tmp_path / "given", masks="given")
    with pytest.warns(UserWarning, match="aepsl --masks given --no-label-branch --head fcn is deprecated"):
        train(toy_data, tmp_path / "plain", masks="given", label_branch=False, head="fcn")
    assert TINY.deprecated == ()


def test_images_that_nobody_tagged_are_left_out(tmp_path: Path, toy_data: Data) -> None:
    untagged = [
        replace(toy_data.records[0], name="untagged", tags=None),
        replace(toy_data.records[1], name="?", tags=(UNKNOWN,) * 3),
    ]
    mixed = toys.with_records(toy_data, [untagged[0], *toy_data.records, untagged[1]])
    assert same(train(mixed, tmp_path / "mixed"), train(toy_data, tmp_path / "tagged"))


def test_some_tags_may_be_unknown(tmp_path: Path, toy_data: Data) -> None:
    rows = [(UNKNOWN, *record.tags[1:]) for record in toy_data.records if record.tags]
    unsure = toys.with_records(toy_data, [replace(record, tags=row) for record, row in zip(toy_data.records, rows, strict=True)])
    for kind in ("squared", "bce"):
        model = train(unsure, tmp_path / kind, label_loss=kind)
        assert all(value.isfinite().all() for value in model.state_dict().values())


def test_borrowed_regions_equal_mining_anew(tmp_path: Path, toy_data: Data) -> None:
    anew = train(toy_data, tmp_path / "anew", rounds=2)
    borrowed = train(toy_data, tmp_path / "borrowed", rounds=2, mined=str(tmp_path / "anew"))
    assert same(anew, borrowed)
    assert not (tmp_path / "borrowed" / "state" / "regions0").exists()
    with pytest.raises(ValueError, match=r"expected 3 finished mining rounds, .*regions2 is not one"):
        train(toy_data, tmp_path / "more", rounds=3, mined=str(tmp_path / "anew"))
    with pytest.raises(ValueError, match="mined other images or tags"):
        train(toy_data.select([1, 0, 2, 3, 4, 5]), tmp_path / "other", rounds=2, mined=str(tmp_path / "anew"))
    with pytest.raises(ValueError, match="there is no run to take from"):
        train(toy_data, tmp_path / "alone", rounds=2, mined=str(tmp_path / "gone"))
    ArrayStore(tmp_path / "anew" / "state" / "regions1").path(2).unlink()
    with pytest.raises(ValueError, match="regions1 is not one"):
        train(toy_data, tmp_path / "hole", rounds=2, mined=str(tmp_path / "anew"))


# -- the switches ----------------------------------------------------------------------------------------------------------------

STAGES = ["classifier0", "regions0", "masks", "segmentation0"]
ALONE = ("label", "segmentation")  # the losses without the online mask


@pytest.mark.parametrize(
    ("changes", "stages", "losses"),
    [
        ({"psl": False, "lr_schedule": "poly", "label_stride": 2}, STAGES, ALONE),
        ({"prohibit_by": "tags", "cam_scales": (0.5, 1.0), "cam_flip": True}, STAGES, (*ALONE, "online")),
        ({"prohibit_by": "none", "reuse": "previous"}, STAGES, (*ALONE, "online")),
        ({"rounds": 2, "erase": "top_percent"}, [*STAGES[:2], "classifier1", "regions1", *STAGES[2:]], (*ALONE, "online")),
        ({"plus": 2}, [*STAGES, "refined0", "segmentation1", "refined1", "segmentation2"], (*ALONE, "online")),
        ({"segment": "cam", "label_loss": "squared"}, STAGES[:2], ("label",)),
        ({"masks": "given"}, ["segmentation0"], ALONE),
        ({"masks": "given", "label_branch": False, "head": "fcn"}, ["segmentation0"], ("segmentation",)),
        ({"channels": 0}, STAGES, (*ALONE, "online")),
        ({"levels": (4, 5), "standardize": True, "reuse": "previous"}, STAGES, (*ALONE, "online")),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),  # the same in every process
)
def test_every_switch_trains_and_predicts(
    tmp_path: Path, toy_data: Data, changes: dict[str, Any], stages: list[str], losses: tuple[str, ...]
) -> None:
    model = train(toy_data, tmp_path, **changes)
    lines = read_log(tmp_path)
    assert list(dict.fromkeys(line["stage"] for line in lines)) == stages
    assert set([line["losses"] for line in lines if "losses" in line][-1]) == set(losses)
    (prediction,) = model.predict([toy_data[3]])
    assert tuple(prediction.semantic.shape) == prediction.size == toys.SIZES[3]
    assert int(prediction.semantic.max()) <= 3


def test_the_learning_rate_falls_after_its_epochs() -> None:
    stepped = [aepsl.rate(replace(TINY, drop_epochs=6), step, 15, 15.0) for step in range(15)]
    assert stepped == [1.0] * 6 + [0.1] * 9
    twice = [aepsl.rate(replace(TINY, drops=(0.7, 0.9)), step, 10, 15.0) for step in range(10)]
    assert twice == pytest.approx([1.0] * 7 + [0.1] * 2 + [0.01])
    poly = [aepsl.rate(replace(TINY, lr_schedule="poly"), step, 10, 15.0) for step in range(10)]
    assert poly == pytest.approx([(1 - step / 10) ** 0.9 for step in range(10)])


def test_new_layers_learn_at_their_own_rate() -> None:
    model = Segmenter(replace(TINY, lr=0.1, head_lr=0.3, frozen=1), toys.CLASSES)
    trunk, new = optim.two_rates(model.config, model, model.backbone).param_groups
    assert (trunk["lr"], new["lr"]) == (0.1, 0.3)
    assert {id(p) for p in trunk["params"]} == {id(p) for p in model.backbone.parameters() if p.requires_grad}
    named = {id(p) for name, p in model.named_parameters() if not name.startswith("backbone.")}
    assert {id(p) for p in new["params"]} == named


# -- prediction ------------------------------------------------------------------------------------------------------------------


def test_confidences_below_the_threshold_are_prohibited() -> None:
    v = torch.tensor([0.05, 0.1, 0.7])
    assert aepsl.prohibit(v, None, 0.1).tolist() == pytest.approx([0.0, 0.1, 0.7])
    assert aepsl.prohibit(v, torch.tensor([1.0, 0.0, 0.0]), 0.1).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", [Classifier, Segmenter])
def test_a_prediction_shows_confident_classes_alone(kind: type[Classifier], toy_data: Data) -> None:
    for threshold in (0.0, 0.5, 1.0):
        model = settled(kind, replace(TINY, threshold=threshold))
        for index in range(3):
            prediction = model.predict([toy_data[index]])[0]
            shown = set(prediction.semantic.unique().tolist()) - {0}
            assert shown <= {i + 1 for i, v in enumerate(prediction.tags.tolist()) if v >= threshold}


@pytest.mark.parametrize("kind", [Classifier, Segmenter])
def test_given_tags_decide_which_classes_are_shown(kind: type[Classifier], toy_data: Data) -> None:
    model = settled(kind, replace(TINY, threshold=1.0))
    for index, tags in enumerate(toys.TAGS):
        prediction = model.predict([toy_data[index]], tags="given")[0]
        assert set(prediction.semantic.unique().tolist()) <= {0} | {i + 1 for i, tag in enumerate(tags) if tag}
    untagged = replace(toy_data[0], tags=None)
    with pytest.raises(ValueError, match="picture0: tags='given' needs the image's tags"):
        model.predict([untagged], tags="given")
    assert model.predict([untagged])[0].size == toys.SIZES[0]


@pytest.mark.parametrize("kind", [Classifier, Segmenter])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (37, 2), (40, 40)])
def test_tiny_and_empty_images_are_predicted_at_their_size(kind: type[Classifier], size: tuple[int, int]) -> None:
    for config in (replace(TINY, crf=True), replace(TINY, crf=True, resize=24, test_scales=(0.5, 1.0), test_flip=True)):
        prediction = settled(kind, config).predict([Sample("grey", torch.full((3, *size), 90, dtype=torch.uint8))])[0]
        assert prediction.size == tuple(prediction.semantic.shape) == size
        assert prediction.tags.isfinite().all()


@pytest.mark.parametrize("segment", ["network", "cam"])
def test_a_batch_of_images_gives_the_masks_of_each_alone(segment: str) -> None:
    views = {"cam_scales": (0.7, 1.3), "test_scales": (0.7, 1.3), "cam_flip": True, "test_flip": True}
    model = settled(aepsl.build, replace(TINY, segment=segment, crf=True, **views))
    samples = [Sample(f"image{i}", torch.randint(0, 255, (3, 40, 33), dtype=torch.uint8)) for i in range(2)]
    with torch.no_grad():
        together = model.predict_batch([model.preprocess(sample) for sample in samples], samples)
    for one, other in zip(model.predict(samples), together, strict=True):
        torch.testing.assert_close(one.tags, other.tags, atol=1e-4, rtol=0)
        assert (one.semantic != other.semantic).float().mean() < 1e-3


@pytest.mark.parametrize("segment", ["network", "cam"])
def test_one_class_is_enough(tmp_path: Path, segment: str) -> None:
    tags = tuple((row[0],) for row in toys.TAGS)
    data = toys.write(tmp_path / "data", tags, ("apple",))
    model = train(data, tmp_path / "run", segment=segment, label_loss="squared")
    confidences = torch.stack([prediction.tags for prediction in model.predict([data[i] for i in range(len(data))])])
    assert confidences.std() > 0, "a softmax over one class would always say 1"


def test_a_saved_model_predicts_as_before(tmp_path: Path, toy_data: Data) -> None:
    for segment in ("network", "cam"):
        model = train(toy_data, tmp_path / segment, segment=segment, rounds=2)
        loaded = load(tmp_path / segment, device="cpu").network
        assert type(loaded) is type(model)
        before, after = model.predict([toy_data[4]])[0], loaded.predict([toy_data[4]])[0]
        assert torch.equal(before.semantic, after.semantic)
        assert torch.equal(before.tags, after.tags)
