"""R2O against its equations: views and their geometry, regions, masks, losses, curricula, and what must not go wrong."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from benchmarks import resume
from frugalseg import cli
from frugalseg.config import UsageError
from frugalseg.data import Data, Record, read
from frugalseg.data.transforms import stack
from frugalseg.engine.log import read_log
from frugalseg.methods import r2o
from frugalseg.nets import ema, optim
from frugalseg.nets.backbone import build
from frugalseg.nets.sync import RowNorm, SharedNorm
from frugalseg.recipes.r2o import Config
from frugalseg.regions import superpixels
from frugalseg.types import Sample
from frugalseg.workflows import find_objects
from frugalseg.workflows.train import train

SMALL: dict[str, Any] = {
    "backbone": "tiny", "output_stride": 16, "side": 48, "segments": 9, "clusters": (6, 2), "chunk": 4, "mask_side": 6,
    "hidden": 16, "width": 8, "batch": 4, "epochs": 2, "parts_side": 48,
}  # fmt: skip
ENGINE: dict[str, Any] = {"quiet": True, "workers": 0, "accelerator": "cpu", "log_every": 1, "name": "run"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return toys.write(tmp_path_factory.mktemp("images"))


def batch_of(images: Data, config: Config) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    views = r2o.Views(images, config)
    return stack([views[index] for index in range(len(views))])


# -- curriculum ------------------------------------------------------------------------------------------------------


def test_the_curriculum_gives_the_papers_numbers() -> None:
    assert [r2o.curriculum(Config(), t, 300) for t in (0, 40, 100, 200, 300)] == [128, 128, 119, 74, 4]


@pytest.mark.parametrize("kind", ["cosine", "linear", "piecewise"])
@pytest.mark.parametrize("ends", [(128, 4), (4, 128), (16, 3)])
def test_every_curriculum_goes_from_end_to_end_without_turning(kind: Any, ends: tuple[int, int]) -> None:
    values = [r2o.curriculum(Config(curriculum=kind, clusters=ends, hold=0.1), t, 200) for t in range(201)]
    assert (values[0], values[20], values[-1]) == (ends[0], ends[0], ends[1])
    assert values == sorted(values, reverse=ends[0] > ends[1])


def test_piecewise_halves_and_fixed_stays() -> None:
    halves = {r2o.curriculum(Config(curriculum="piecewise", hold=0), t, 600) for t in range(600)}
    assert halves == {128, 64, 32, 16, 8, 4}
    assert {r2o.curriculum(Config(curriculum="fixed"), t, 9) for t in range(9)} == {128}


# -- views -----------------------------------------------------------------------------------------------------------


def test_half_of_the_views_are_flipped(images: Data) -> None:
    views = r2o.Views(images, Config(**{**SMALL, "prior": "whole", "refine": "none"}))
    torch.manual_seed(0)
    flips = torch.stack([views[index % 6]["flips"] for index in range(500)]).float()
    assert (flips.mean(0) - 0.5).abs().max() < 0.05


def test_box_and_flip_tell_what_a_view_shows(tmp_path: Path) -> None:
    """An image whose red is its column and whose green is its row: each view says itself where it was cut."""
    height, width = 60, 100
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.linspace(0, 250, width), np.linspace(0, 250, height)[:, None]
    Image.fromarray(pixels).save(tmp_path / "ramp.png")
    data = Data(tmp_path, "images", None, (), [Record("ramp", tmp_path / "ramp.png")])
    plain: dict[str, Any] = {"jitter": 0.0, "grey": 0.0, "blur": (0.0, 0.0), "solarize": (0.0, 0.0), "crop": (0.1, 0.5)}
    views = r2o.Views(data, Config(**{**SMALL, **plain, "prior": "whole", "refine": "none"}))
    for seed in range(8):
        torch.manual_seed(seed)
        item = views[0]
        for view, (left, top, right, bottom), flip in zip(item["views"].float(), item["boxes"], item["flips"], strict=True):
            columns, rows = view[0].mean(0) / 250, view[1].mean(1) / 250
            columns = columns.flip(0) if flip else columns
            found = torch.tensor([columns[0], rows[0], columns[-1], rows[-1]])
            assert torch.allclose(found, torch.tensor([left, top, right, bottom]), atol=0.04)


def test_the_prior_is_cached_and_exact(images: Data) -> None:
    views = r2o.Views(images, Config(**SMALL))
    first, again = views[0], r2o.Views(images, Config(**SMALL))[0]
    assert torch.equal(first["regions"], again["regions"])
    assert len(list(views.cache.folder.rglob("*.npz"))) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_the_command_regions_fills_the_cache_that_a_training_reads(packed: bool, images: Data, tmp_path: Path) -> None:
    place = images.root
    if packed:
        place = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", images.root))
    assert cli.main(["regions", "slic", str(place), "--square", "48", "--arguments", '{"segments": 9}', "--jobs", "2"]) == 0
    views = r2o.Views(read(place), Config(**SMALL))
    before = {path: path.read_bytes() for path in views.cache.folder.rglob("*.npz")}
    assert len(before) == len(views)
    for index in range(len(views)):
        assert (views[index]["regions"] == superpixels.slic(views[index]["whole"], 9)).all()
    assert {path: path.read_bytes() for path in views.cache.folder.rglob("*.npz")} == before


@pytest.mark.parametrize(("prior", "segments", "count"), [("grid", 100, 100), ("grid", 4, 4), ("cells", 9, 36), ("whole", 9, 1)])
def test_priors_without_superpixels(prior: Any, segments: int, count: int) -> None:
    config = Config(**{**SMALL, "prior": prior, "segments": segments, "refine": "none"})
    regions = r2o.prior(torch.zeros(3, 48, 48, dtype=torch.uint8), config, None)  # type: ignore[arg-type]
    assert regions.unique().tolist() == list(range(count))
    sizes = regions.flatten().bincount()
    assert sizes.max() <= 1.6 * sizes.min()


# -- regions and masks -----------------------------------------------------------------------------------------------


def test_shares_and_pools_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    regions = torch.randint(0, 5, (2, 12, 12), generator=generator)
    features = torch.randn(2, 3, 4, 4, generator=generator)
    shares = r2o.region_shares(regions, (4, 4))
    pooled = r2o.mask_pool(features, shares)
    fine = features.repeat_interleave(3, 2).repeat_interleave(3, 3)
    for image in range(2):
        for region in range(5):
            inside = regions[image] == region
            assert shares[image, region].sum() == inside.sum()
            assert torch.allclose(pooled[image, region], fine[image][:, inside].mean(1), atol=1e-5)


def test_labels_are_looked_up_and_never_averaged() -> None:
    regions = torch.zeros(1, 8, 8, dtype=torch.int64)
    regions[:, :, 4:], regions[:, 5:] = 10, 3
    small = r2o.nearest(regions, 3)
    assert set(small.flatten().tolist()) <= {0, 3, 10}
    assert small[0].tolist() == [[0, 10, 10], [0, 10, 10], [3, 3, 3]]


def test_refined_labels_are_cluster_ids_that_whole_regions_share() -> None:
    generator = torch.Generator().manual_seed(0)
    regions = (torch.arange(16)[:, None] // 4 * 4 + torch.arange(16) // 4).expand(3, 16, 16)
    features = torch.randn(3, 5, 8, 8, generator=generator)
    labels = r2o.refine(features, regions, 6, 16, chunk=2, seeds=[1, 2], iterations=20)
    assert labels.shape == (3, 16, 16)
    assert set(labels.flatten().tolist()) <= set(range(6))
    for image in range(3):
        for region in range(16):
            assert len(labels[image][regions[image] == region].unique()) == 1
    alone = r2o.refine(features[:2], regions[:2], 6, 16, chunk=2, seeds=[1], iterations=20)
    assert torch.equal(labels[:2], alone), "what is clustered together is a chunk"


def test_masks_are_cut_and_flipped_as_their_views() -> None:
    labels = torch.arange(64).view(1, 8, 8) // 16  # four bands, from top to bottom
    labels[0, :, :2] = 4  # and a column at the left
    boxes = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1], [0, 0.5, 0.5, 1.0]]]).float()
    flips = torch.tensor([[False, True, False]])
    whole, flipped, corner = r2o.view_masks(labels, 5, boxes, flips, 4)[0]
    exact = F.avg_pool2d(F.one_hot(labels, 5).permute(0, 3, 1, 2).float(), 2)[0]
    assert torch.allclose(whole, exact, atol=1e-5)
    assert torch.equal(flipped, whole.flip(-1))
    assert torch.allclose(corner, F.one_hot(labels[0, 4:, :4], 5).permute(2, 0, 1).float(), atol=1e-5)
    assert torch.allclose(whole.sum(0), torch.ones(4, 4))


def test_pairs_are_masks_that_both_views_show() -> None:
    masks = torch.zeros(1, 2, 3, 7, 7)
    masks[0, :, 0], masks[0, 0, 1], masks[0, 1, 2, 0, 0] = 1.0, 1.0, 0.04
    assert r2o.pairs(masks, 1e-3).tolist() == [[True, False, False]]
    both = torch.ones(4, 2, 9, 7, 7)
    assert r2o.pairs(both, 1e-3, most=2).sum(1).tolist() == [2, 2, 2, 2]


# -- losses ----------------------------------------------------------------------------------------------------------


def test_byol_loss_by_hand_and_against_a_distance() -> None:
    assert r2o.byol_loss(torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[2.0, 0], [0, 1], [-3, 0]])).tolist() == [0, 2, 4]
    q, z = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), torch.randn(5, 8)
    distance = (F.normalize(q, dim=1) - F.normalize(z, dim=1)).square().sum(1)
    assert torch.allclose(r2o.byol_loss(q, z), distance, atol=1e-5)


def test_nothing_goes_back_to_the_target() -> None:
    q, z = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    r2o.byol_loss(q, z).sum().backward()
    assert q.grad is not None
    assert z.grad is None


def test_ntxent_is_simclrs_equation_in_a_loop() -> None:
    one, other = (torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    rows = [*one, *other]
    for pair, loss in enumerate(r2o.ntxent_loss(one, other, 0.2)):
        ways = []
        for i, j in ((pair, pair + 6), (pair + 6, pair)):
            alike = [math.exp(F.cosine_similarity(rows[i], rows[k], dim=0) / 0.2) for k in range(12)]
            ways.append(-math.log(alike[j] / (sum(alike) - alike[i])))
        assert float(loss) == pytest.approx(sum(ways) / 2, rel=1e-4)


def test_spread_is_one_over_root_d_at_random_and_zero_in_collapse() -> None:
    rows = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert float(r2o.projection_std(rows)) == pytest.approx(1 / 8, rel=0.02)
    assert float(r2o.projection_std(rows[:1].expand(50, 64))) == pytest.approx(0, abs=1e-6)
    assert math.isnan(float(r2o.projection_std(rows[:1])))


# -- target network and optimiser -------------------------------------------------------------------------------------


def test_the_target_network_is_the_moving_average_and_no_gradient_reaches_it(images: Data) -> None:
    config = Config(**SMALL)
    online = r2o.Online(config)
    target = ema.frozen_copy(online.network)
    before = [parameter.clone() for parameter in target.parameters()]
    losses = online(target.prepare(batch_of(images, config), 6, [0, 1]))
    losses["byol"].backward()
    with torch.no_grad():
        for parameter in online.network.parameters():
            parameter += 1
    ema.update(target, online.network, 0.9)
    for old, new, current in zip(before, target.parameters(), online.network.parameters(), strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * current, atol=1e-6)
        assert new.grad is None
        assert not new.requires_grad
    assert all(parameter.grad is not None for parameter in online.parameters())


def test_lars_is_the_papers_and_leaves_norms_and_biases_alone() -> None:
    layer = torch.nn.Linear(3, 2)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    step = optim.lars(layer, lr=0.5, weight_decay=0.1, momentum=0.0)
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    step.step()
    trust = 1e-3 * weight.norm() / (math.sqrt(6) + 0.1 * weight.norm())
    assert torch.allclose(layer.weight, weight - 0.5 * trust * (1 + 0.1 * weight), atol=1e-6)
    assert torch.allclose(layer.bias, bias - 0.5)


def test_a_single_row_is_normalised_by_running_statistics() -> None:
    norm = RowNorm(4).train()
    assert torch.allclose(norm(torch.ones(1, 4)), torch.ones(1, 4), atol=1e-4)
    assert norm(torch.zeros(0, 4)).shape == (0, 4)


def test_with_one_mask_it_is_byol(images: Data) -> None:
    """The whole image as the only mask: pooling is the mean of the map, and every image is one pair."""
    config = Config(**{**SMALL, "prior": "whole", "refine": "none"})
    online, batch = r2o.Online(config), batch_of(images, config)
    target = ema.frozen_copy(online.network)
    prepared = target.prepare(batch, 6, [])
    assert prepared["chosen"].shape == (6, 1)
    assert prepared["chosen"].all()
    seen = [[net.projector(net.encoder(batch["views"][:, v]).mean((2, 3))) for v in (0, 1)] for net in (online.network, target)]
    (one, other), (first, second) = seen
    expected = r2o.byol_loss(online.predictor(one), second) + r2o.byol_loss(online.predictor(other), first)
    assert torch.allclose(online(prepared)["byol"], expected.mean(), atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"refine": "colours"},
        {"refine": "none"},
        {"prior": "cells"},
        {"prior": "grid"},
        {"objective": "ntxent", "masks": 2},
        {"refine_norm": "batch"},
        {"backbone": "timm/vit_tiny_patch16_224"},
        {"backbone": "mobilenet_v2", "levels": (14, 18), "output_stride": 32, "side": 64},
    ],
    ids=str,
)
def test_every_switch_gives_finite_gradients(settings: dict[str, Any], images: Data) -> None:
    config = Config(**{**SMALL, **settings})
    online = r2o.Online(config)
    prepared = ema.frozen_copy(online.network).prepare(batch_of(images, config), 6, [0, 1])
    losses = online(prepared)
    losses[config.objective].backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in online.parameters())


@pytest.mark.parametrize("constant", [False, True])
def test_one_image_and_many_clusters_are_finite(constant: bool, images: Data) -> None:
    config = Config(**{**SMALL, "clusters": (128, 4)})
    batch = {name: value[:1] for name, value in batch_of(images, config).items()}
    if constant:
        batch |= {name: torch.full_like(batch[name], 7) for name in ("views", "whole")}
        batch["regions"] = torch.zeros_like(batch["regions"])
    online = r2o.Online(config)
    losses = online(ema.frozen_copy(online.network).prepare(batch, 128, [0]))
    losses["byol"].backward()
    assert losses["byol"].isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in online.parameters())


# -- training --------------------------------------------------------------------------------------------------------


def test_a_training_of_one_constant_image_stops_as_collapsed(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (9, 99, 200)).save(tmp_path / "flat.png")
    data = Data(tmp_path, "images", None, (), [Record(f"flat{index}", tmp_path / "flat.png") for index in range(4)])
    plain = {"jitter": 0.0, "grey": 0.0, "blur": (0.0, 0.0), "solarize": (0.0, 0.0), "prior": "whole", "refine": "none"}
    with pytest.raises(r2o.Collapsed, match=r"at step 3: .* Are they all one image"):
        train("r2o", data, **{**SMALL, **ENGINE, **plain, "epochs": 20, "patience": 3, "out": str(tmp_path / "runs")})
    assert not (tmp_path / "runs" / "r2o" / "run" / "weights").exists()


def test_a_run_that_ends_collapsed_does_not_end_silently() -> None:
    monitor = r2o.CollapseMonitor(Config(width=256), steps=10)
    for step in range(9):
        monitor.update(step, 0.001 if step % 2 else 0.06)
    with pytest.raises(r2o.Collapsed):
        monitor.update(9, 0.001)
    for last in ([0.001], [0.06, 0.001, math.nan], [0.001, math.nan, math.nan]):
        monitor = r2o.CollapseMonitor(Config(width=256), steps=len(last))
        for step, value in enumerate(last[:-1]):
            monitor.update(step, value)
        with pytest.raises(r2o.Collapsed):
            monitor.update(len(last) - 1, last[-1])


def test_steps_that_tell_nothing_do_not_hide_a_collapse() -> None:
    monitor = r2o.CollapseMonitor(Config(width=256, patience=3), steps=100)
    for step, value in enumerate([0.001, math.nan, 0.001, math.nan]):
        monitor.update(step, value)
    with pytest.raises(r2o.Collapsed, match="at step 5"):
        monitor.update(4, 0.001)


def test_a_run_that_could_never_tell_says_so() -> None:
    monitor = r2o.CollapseMonitor(Config(), steps=3)
    monitor.update(0, math.nan)
    monitor.update(1, math.nan)
    with pytest.warns(UserWarning, match="could not be measured"):
        monitor.update(2, math.nan)


def test_fewer_images_than_a_batch_are_an_error_that_says_what_to_type(images: Data, tmp_path: Path) -> None:
    settings = {**SMALL, **ENGINE, "out": str(tmp_path / "runs")}
    with pytest.raises(UsageError, match=r"batch: got 7, but there are only 6 images .* --batch 6 or less"):
        train("r2o", images, **{**settings, "batch": 7})
    with pytest.raises(UsageError, match=r"only 5 images .* --batch 4 or less"):
        train("r2o", images, **{**settings, "batch": 6, "limit": 5, "devices": 2})
    assert not (tmp_path / "runs").exists(), "the name is still free for another batch"
    train("r2o", images, **{**settings, "batch": 4096, "dry_run": True})


def test_overlap_with_objects_is_logged_and_by_hand(images: Data, tmp_path: Path) -> None:
    probe = {"probe": str(toys_in_folders(images, tmp_path / "probe")), "probe_every": 2, "probe_images": 3}
    folder = train("r2o", images, **{**SMALL, **ENGINE, **probe, "out": str(tmp_path / "runs")}).folder
    lines = [line for line in read_log(folder) if "abo" in line]
    assert [line["step"] for line in lines] == [1, 3]
    assert all(0 < line["abo"] <= 1 and 0 < line["abo_prior"] <= 1 for line in lines)
    ids = torch.zeros(4, 4)
    ids[:2] = 1
    truth = np.zeros((8, 8), np.int32)
    truth[:3] = 1
    assert r2o.best_overlaps(ids, r2o.rle.from_ids(truth)[1]).tolist() == pytest.approx([3 / 4])


def toys_in_folders(images: Data, root: Path) -> Path:
    for record in images.records:
        for part, path in (("images", record.image), ("masks", record.semantic)):
            (root / part).mkdir(parents=True, exist_ok=True)
            (root / part / f"{record.name}.png").write_bytes(path.read_bytes())
    (root / "classes.txt").write_text("\n".join(toys.CLASSES))
    return root


def test_the_paper_s_grid_is_the_default_one_and_no_number_of_regions_overflows(tmp_path: Path) -> None:
    regions = r2o.whole_and_regions(torch.zeros(3, 9, 9, dtype=torch.uint8), Config(prior="grid"), None)["regions"]  # type: ignore[arg-type]
    assert regions.unique().tolist() == list(range(10 * 10))
    many = Config(prior="grid", segments=200 * 200, side=224)
    regions = r2o.whole_and_regions(torch.zeros(3, 9, 9, dtype=torch.uint8), many, None)["regions"]  # type: ignore[arg-type]
    assert regions.unique().tolist() == list(range(200 * 200))
    with pytest.raises(ValueError, match=r"(?s)segments=2305: expected at most 2304, side=48.*mask_side=49: expected at most 48"):
        Config(side=48, segments=2305, mask_side=49)


def test_settings_that_cannot_work_are_named_together() -> None:
    with pytest.raises(ValueError, match=r"(?s)tau=2.*crop=\(0.9, 0.1\).*refine=features: one region"):
        Config(tau=2, crop=(0.9, 0.1), prior="whole")


def test_a_block_behind_which_nothing_is_asked_for_does_not_run() -> None:
    net, ran = build("tiny", 16), []
    for part in net.body.children():
        part.register_forward_hook(lambda *_: ran.append(1))
    net.maps(torch.zeros(1, 3, 32, 32), (2,))
    assert len(ran) == 2


@pytest.mark.parametrize("objective", ["byol", "ntxent"])
def test_the_target_network_clusters_by_the_statistics_of_what_it_sees(objective: Any, images: Data) -> None:
    config = Config(**{**SMALL, "objective": objective})
    target, batch = ema.frozen_copy(r2o.Online(config).network), batch_of(images, config)
    batch["views"][:, 1] = batch["views"][:, 0]  # one batch again and again: the running means end at its own
    norms = [module for module in target.encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    for _ in range(80):
        target.prepare(batch, 6, [0, 1])
    seen: list[torch.Tensor] = []
    for norm in norms:
        norm.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    target.encoder(batch["views"][:, 0])
    for norm, given in zip(norms, seen, strict=True):
        rows = given.transpose(0, 1).flatten(1)
        assert torch.allclose(norm.running_mean, rows.mean(1), rtol=1e-3, atol=1e-4)
        assert torch.allclose(norm.running_var, rows.var(1), rtol=1e-3, atol=1e-4)


# -- prediction ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["fine", "coarse"])
def test_a_batch_is_predicted_as_one_by_one(level: Any) -> None:
    torch.manual_seed(0)
    model = r2o.R2O(Config(**{**SMALL, "parts_level": level, "parts_side": 96})).eval()
    samples = [Sample(str(index), torch.randint(256, (3, 40, 60), dtype=torch.uint8)) for index in range(2)]
    for sample in samples:
        sample.image[:, 10:30, 15:45] //= 4
    items = [model.preprocess(sample) for sample in samples]
    assert len({model.batch_key(inputs) for inputs in items}) == 1
    with torch.no_grad():
        together = model.infer(model.collate(items))["features"]
        alone = torch.cat([model.infer(model.collate([inputs]))["features"] for inputs in items])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
        batched = model.predict_batch(items, samples)
    for one, other in zip(batched, model.predict(samples), strict=True):
        assert one.semantic.shape == (40, 60)
        assert set(one.semantic.unique().tolist()) == {0, 1}
        assert (one.semantic != other.semantic).float().mean() < 1e-2, "nothing but a cell between two parts may turn"


def test_other_settings_of_the_search_leave_the_model_as_it_is(images: Data, tmp_path: Path) -> None:
    run = train("r2o", images, **{**SMALL, **ENGINE, "epochs": 1, "out": str(tmp_path)})
    other = find_objects.finder(run.folder, parts=2, parts_level="coarse")
    assert (other.network.config.parts, other.network.config.parts_level) == (2, "coarse")
    assert (run.network.config.parts, run.network.config.parts_level) == (5, "fine")
    assert int(other.network.parts(images.image(0)).max()) == 1
    with pytest.raises(UsageError, match="parts=1: expected at least 2"):
        find_objects.finder(run.folder, parts=1)


# -- several processes -----------------------------------------------------------------------------------------------


def test_shared_norms_take_half_precision_as_other_norms_do(images: Data, tmp_path: Path) -> None:
    norm, shared = nn.BatchNorm2d(3), SharedNorm(3)
    features = (100 + torch.randn(8, 3, 16, 16)).bfloat16()  # sums of which bfloat16 would round to multiples of a thousand
    expected, found = norm(features), shared(features)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(shared.running_mean, norm.running_mean, rtol=1e-4, atol=0)
    torch.testing.assert_close(shared.running_var, norm.running_var, rtol=1e-3, atol=0)
    settings = {**SMALL, **ENGINE, "epochs": 1, "chunk": 2, "batch": 4, "precision": "bf16-mixed", "devices": 2}
    run = resume.Forked(2, _learn, images, {**settings, "out": str(tmp_path)})
    assert run.finish() == 0, run.output


@pytest.mark.parametrize(("objective", "rounding"), [("byol", 2e-6), ("ntxent", 1e-12)])
def test_two_processes_learn_what_one_does(objective: str, rounding: float, images: Data, tmp_path: Path) -> None:
    """With shared statistics, the same chunks and negatives of both: the weights after three steps agree up to rounding.

    In double precision, since a learning rate that moves the weights in three steps also makes single rounding 1e-3; the target
    network, which gives BYOL its targets, stays in single.
    """
    settings = {**SMALL, **ENGINE, "epochs": 2, "chunk": 2, "batch": 4, "lr": 5.0, "objective": objective}
    settings |= {"precision": "64-true"}
    weights = []
    for devices in (1, 2):
        run = resume.Forked(devices, _learn, images, {**settings, "devices": devices, "out": str(tmp_path / str(devices))})
        assert run.finish() == 0, run.output
        weights.append(load_file(tmp_path / str(devices) / "r2o" / "run" / "weights" / "last.safetensors"))
    one, two = weights
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=0, atol=rounding), name


def _learn(images: Data, settings: dict[str, Any]) -> None:
    train("r2o", images, **settings)
