"""R2O: region-to-object representation learning (Gokul et al., 2022). From images alone to a backbone and to objects.

BYOL at the level of regions. Refinement: superpixels are merged by K-means on the features that the target network pools from
them. Representation: two random views of an image are encoded, features are pooled under the same mask in both, and the online
network predicts the target network's projection of the other view. Curriculum: K falls over the training, so regions come first
and objects later. The target network is the moving average of the online one.

Shape letters: B images, V = 2 views, R regions of an image, K masks, P pairs of views of a mask, D channels, S side of a view,
m side of the masks, h w feature map.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.ops import roi_align
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as vision

from frugalseg import rle
from frugalseg.data import Data, read
from frugalseg.data.images import BadImage
from frugalseg.data.transforms import squashed, stack
from frugalseg.engine.run import Run
from frugalseg.engine.sampler import seed_of
from frugalseg.errors import FrugalsegError
from frugalseg.metrics.regions import best_overlap
from frugalseg.nets import backbone, ema, network, optim, schedule
from frugalseg.nets.sync import RowNorm, gathered, shared_norms, total
from frugalseg.recipes.r2o import Config
from frugalseg.regions import border_prior, superpixels
from frugalseg.regions.cache import Cache
from frugalseg.regions.kmeans import kmeans
from frugalseg.types import IGNORE, Prediction, Sample, longer_side, size_of

CLASSES = ("object",)
RATIO = (3 / 4, 4 / 3)  # of the sides of a crop


class Collapsed(FrugalsegError, RuntimeError):
    """All images have come to look alike to the network: what it learned is worth nothing."""


# -- views -----------------------------------------------------------------------------------------------------------


class Views(Dataset[dict[str, Tensor]]):
    """Two random views of each image with their geometry, the whole image, and its regions (app. A.1).

    An item holds views (2, 3, S, S) uint8, boxes (2, 4) float32 – left, top, right, bottom of each view as shares of the
    image –, flips (2,) bool, whole (3, S, S) uint8, the image squashed, and regions (S, S) int32 of it.
    """

    def __init__(self, data: Data, config: Config) -> None:
        self.data, self.config, self.cache = data, config, Cache(config.cache or None)
        kernel = 2 * (config.side // 20) + 1  # 23 pixels in views of 224
        jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=config.jitter)
        self.transforms = [
            v2.Compose(
                [
                    jitter,
                    v2.RandomGrayscale(config.grey),
                    v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=blur),
                    v2.RandomSolarize(128, p=solarize),
                ]
            )
            for blur, solarize in zip(config.blur, config.solarize, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = self._readable(index)
        views = [self._view(image, transform) for transform in self.transforms]
        item = {name: torch.stack([view[name] for view in views]) for name in views[0]}
        return item | whole_and_regions(image, self.config, self.cache)

    def _readable(self, index: int) -> Tensor:
        """The image, or the next one that is not damaged: archives are not decoded before the training."""
        for offset in range(len(self.data)):
            try:
                return self.data.image((index + offset) % len(self.data))
            except BadImage as error:
                warnings.warn(f"left out, the next one takes its place: {error}", stacklevel=2)
        raise BadImage(self.data.root, "holds no image that can be read")

    def _view(self, image: Tensor, transform: nn.Module) -> dict[str, Tensor]:
        top, left, height, width = RandomResizedCrop.get_params(image, list(self.config.crop), list(RATIO))
        side, (full_height, full_width) = self.config.side, image.shape[1:]
        view = vision.resized_crop(image, top, left, height, width, [side, side], InterpolationMode.BICUBIC)
        flip = torch.rand(()) < 0.5
        box = [left / full_width, top / full_height, (left + width) / full_width, (top + height) / full_height]
        return {"views": transform(view.flip(2) if flip else view), "boxes": torch.tensor(box), "flips": flip}


def whole_and_regions(image: Tensor, config: Config, cache: Cache) -> dict[str, Tensor]:
    """The image squashed to a square, without anything random, and the regions of the prior in it."""
    whole = squashed(image, config.side)
    return {"whole": whole, "regions": prior(whole, config, cache).to(torch.int32)}


def prior(whole: Tensor, config: Config, cache: Cache) -> Tensor:
    """Region ids (S, S) int64 from 0, of an image (3, S, S) uint8. Superpixels are computed once and cached."""
    if config.prior == "slic":
        return cache(superpixels.slic, whole, segments=config.segments)
    if config.prior == "whole":
        return torch.zeros(whole.shape[1:], dtype=torch.int64)
    cells = round(math.sqrt(config.segments)) if config.prior == "grid" else config.mask_side
    line = torch.arange(config.side) * cells // config.side
    return line[:, None] * cells + line


# -- regions and masks -----------------------------------------------------------------------------------------------


def curriculum(config: Config, step: int, steps: int) -> int:
    """K at this step (app. A.1, A.6): from the first to the second of `clusters`, after `hold` of the steps at the first."""
    first, last = config.clusters
    hold = config.hold * steps
    done = min(max((step - hold) / max(steps - hold, 1), 0.0), 1.0)
    if config.curriculum == "fixed":
        return first
    if config.curriculum == "cosine":
        return schedule.quarter_cosine(step, steps, first, last, round(hold))
    if config.curriculum == "linear":
        return int(first + (last - first) * done)
    doublings = math.ceil(abs(math.log2(first / last)))
    stretch = min(int(done * (doublings + 1)), doublings)
    return last if stretch == doublings else int(first * (last / first) ** (stretch / max(doublings, 1)) + 1e-9)


def region_shares(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """How much of each cell of a map (h, w) belongs to each region, in pixels: (B, R, h, w). regions: (B, S, S) ids from 0."""
    batch, (height, width) = len(regions), size
    ids, count = regions.long(), int(regions.max()) + 1
    rows = torch.arange(ids.shape[1], device=ids.device) * height // ids.shape[1]
    columns = torch.arange(ids.shape[2], device=ids.device) * width // ids.shape[2]
    images = torch.arange(batch, device=ids.device)[:, None, None]
    bins = ((images * count + ids) * height + rows[:, None]) * width + columns
    return torch.bincount(bins.flatten(), minlength=batch * count * height * width).view(batch, count, height, width).float()


def mask_pool(features: Tensor, masks: Tensor) -> Tensor:
    """Mean of the features under each mask, weighted by it: (B, K, D) of (B, D, h, w) and (B, K, h, w); 0 under an empty one."""
    sums = torch.einsum("bdhw,bkhw->bkd", features, masks.to(features.dtype))
    return sums / masks.sum((2, 3)).clamp(min=1e-6)[:, :, None].to(features.dtype)


def nearest(regions: Tensor, side: int) -> Tensor:
    """Ids (B, m, m) at the middle of each cell of a map of `side` m: ids are looked up, never averaged."""
    rows, columns = (((torch.arange(side) * 2 + 1) * extent // (2 * side)).to(regions.device) for extent in regions.shape[1:])
    return regions[:, rows][:, :, columns].long()


def refine(
    features: Tensor, regions: Tensor, clusters: int, side: int, chunk: int, seeds: Sequence[int], iterations: int
) -> Tensor:
    """Merge regions by K-means on their pooled features, `chunk` images together (eq. 3): ids (B, m, m) below `clusters`.

    features: (B, D, h, w). regions: (B, S, S) ids. seeds: one for each chunk. Regions without a pixel are no points.
    """
    shares = region_shares(regions, (features.shape[2], features.shape[3]))
    present = shares.sum((2, 3)) > 0
    points = F.normalize(mask_pool(features.float(), shares), dim=2)
    merged = torch.zeros_like(present, dtype=torch.int64)
    for seed, start in zip(seeds, range(0, len(points), chunk), strict=True):
        part = slice(start, start + chunk)
        chunk_points = points[part][present[part]]
        merged[part][present[part]] = kmeans(chunk_points[None], clusters, seed, iterations=iterations).labels[0]
    return merged.gather(1, nearest(regions, side).flatten(1)).view(-1, side, side)


def refine_by_colour(whole: Tensor, regions: Tensor, clusters: int, side: int, seed: int, iterations: int) -> Tensor:
    """Merge the regions of each image by colour and place, as SLIC would for fewer superpixels; ids (B, m, m)."""
    size = whole.shape[2] // 4
    line = torch.linspace(0, 1, size, device=whole.device)
    places = torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(len(whole), 2, size, size)
    features = torch.cat([F.interpolate(whole.float() / 255, (size, size), mode="area"), places], 1)
    shares = region_shares(regions, (size, size))
    present = shares.sum((2, 3)) > 0
    merged = kmeans(mask_pool(features, shares), clusters, seed, present, iterations).labels
    return merged.gather(1, nearest(regions, side).flatten(1)).view(-1, side, side)


def view_masks(labels: Tensor, clusters: int, boxes: Tensor, flips: Tensor, side: int) -> Tensor:
    """The masks of a label map as each view shows them: (B, V, K, side, side) in [0, 1].

    RoIAlign of the one-hot map (B, m, m) with the views' crop boxes (B, V, 4), shares of the image, then flipped where the
    view is, flips (B, V).
    """
    masks = F.one_hot(labels, clusters).permute(0, 3, 1, 2).float()
    cut = roi_align(masks, list(boxes.float() * labels.shape[-1]), side, aligned=True)
    cut = cut.view(*flips.shape, clusters, side, side)
    return torch.where(flips[:, :, None, None, None], cut.flip(-1), cut)


def pairs(masks: Tensor, least_area: float, most: int = 0) -> Tensor:
    """(B, K) bool: masks that fill more than `least_area` of both views; `most` of an image, drawn at random, 0 all of them."""
    both = (masks.mean((3, 4)) > least_area).all(1)
    if not most or most >= both.shape[1]:
        return both
    draw = torch.rand(both.shape).to(both.device).masked_fill(~both, -1)
    return both & (draw >= draw.topk(most, 1).values[:, -1:])


# -- losses ----------------------------------------------------------------------------------------------------------


def byol_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """2 − 2·cos(q, z) of each pair, (P,) (eq. 4). Both (P, D); no gradient reaches the target."""
    return 2 - 2 * F.cosine_similarity(predicted, target.detach(), dim=1)


def ntxent_loss(one: Tensor, other: Tensor, temperature: float = 0.1) -> Tensor:
    """Normalised temperature-scaled cross-entropy (Chen et al., ICML 2020, eq. 1) of each pair, (P,), both directions averaged.

    The positive of a row is the same row of the other; all other rows of both, of all processes, are negatives. Both (P, D).
    """
    one, other = F.normalize(one, dim=1), F.normalize(other, dim=1)
    (all_one, start), (all_other, _) = gathered(one), gathered(other)
    here = torch.arange(start, start + len(one), device=one.device)
    itself = torch.cat([here, here + len(all_one)])
    logits = torch.cat([one, other]) @ torch.cat([all_one, all_other]).T / temperature
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    target = itself.roll(len(one))
    return F.cross_entropy(logits, target, reduction="none").view(2, len(one)).mean(0)


@torch.no_grad()
def projection_std(rows: Tensor) -> Tensor:
    """Standard deviation of the projections (P, D), scaled to length 1, mean over channels, over all processes; a scalar.

    1/√D where they point everywhere, 0 where the network has collapsed; NaN for fewer than two rows.
    """
    rows = F.normalize(rows.float(), dim=1)
    count = total(torch.tensor(float(len(rows)), device=rows.device))
    mean = total(rows.sum(0)) / count
    variance = total((rows - mean).square().sum(0)) / count
    return torch.where(count < 2, torch.nan, variance.sqrt().mean())


# -- networks --------------------------------------------------------------------------------------------------------


def mlp(channels: int, hidden: int, width: int) -> nn.Sequential:
    """Projector or predictor: two linear layers, batch norm and ReLU between them (sec. 4)."""
    return nn.Sequential(nn.Linear(channels, hidden), RowNorm(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width))


class Encoder(nn.Module):
    """The backbone with a coarse map to learn from and a fine one to cluster: C5 and C4 of a ResNet (sec. 4).

    A backbone that has one map only, a transformer, gets transposed convolutions behind it (app. A.5).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.levels, self.has_levels = config.levels, backbone.has_levels(config.backbone)
        options: dict[str, Any] = {"level": max(config.levels)} if self.has_levels else {}
        self.backbone = backbone.build(
            config.backbone, config.output_stride, weights=config.weights, normalize=config.normalize, **options
        )
        self.channels = self.backbone.channels
        if not self.has_levels:
            # The fine map feeds the coarse one, so the loss reaches the layers of both.
            self.times = max(1, config.output_stride // 16)
            self.finer: nn.Module = nn.ConvTranspose2d(self.channels, self.channels, self.times, stride=self.times)
            self.coarser: nn.Module = nn.ConvTranspose2d(self.channels, self.channels, 3, stride=1, padding=1)

    def skip_new_layers(self) -> None:
        """Take the backbone's map as it is: before a training, the layers behind it hold random numbers."""
        if not self.has_levels:
            self.finer = self.coarser = nn.Identity()

    def cells(self, side: int) -> int:
        """Cells along a side of the coarse map of a square image."""
        cells = math.ceil(side / self.backbone.stride)
        return cells if self.has_levels else math.ceil(cells * self.times / 2)

    def fine(self, images: Tensor) -> Tensor:
        """(B, D, h, w) at about 16 pixels a cell, of images (B, 3, H, W) in 0..255."""
        if self.has_levels:
            return self.backbone.maps(images.to(memory_format=torch.channels_last), self.levels[:1])[0]
        features: Tensor = self.finer(self.backbone(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """(B, D, h, w) at about 32 pixels a cell."""
        if self.has_levels:
            return self.backbone.maps(images.to(memory_format=torch.channels_last), self.levels[1:])[0]
        features: Tensor = self.coarser(F.avg_pool2d(self.fine(images), 2, ceil_mode=True))
        return features


class R2O(network.Network):
    """Encoder and projector: the target network, and the online one without its predictor."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, CLASSES)
        self.encoder = Encoder(config)
        self.projector = mlp(self.encoder.channels, config.hidden, config.width)

    # -- training

    def project(self, images: Tensor, masks: Tensor, chosen: Tensor) -> Tensor:
        """Projections (P, width) of the chosen (B, K) masks (B, K, h, w) of one view (B, 3, S, S)."""
        rows: Tensor = self.projector(mask_pool(self.encoder(images), masks)[chosen])
        return rows

    @torch.no_grad()
    def label_map(self, batch: dict[str, Tensor], clusters: int, seeds: Sequence[int]) -> tuple[Tensor, int]:
        """Step 1 of fig. 2, the refinement: labels (B, m, m) of the whole images, and how many labels there may be."""
        config, regions = self.config, batch["regions"]
        if config.refine == "none":
            return nearest(regions, config.mask_side), int(regions.max()) + 1
        if config.refine == "colours":
            whole = batch["whole"]
            return refine_by_colour(whole, regions, clusters, config.mask_side, seeds[0], config.iterations), clusters
        training = self.training
        features = self.train(config.refine_norm == "batch" and training).encoder.fine(batch["whole"])
        self.train(training)
        with torch.autocast(features.device.type, enabled=False):  # in half precision distances would tie
            return refine(features, regions, clusters, config.mask_side, config.chunk, seeds, config.iterations), clusters

    @torch.no_grad()
    def prepare(self, batch: dict[str, Tensor], clusters: int, seeds: Sequence[int]) -> dict[str, Tensor]:
        """What the online network needs of the target network: masks in both views, which of them count, and the targets.

        Shapes: views (B, V, 3, S, S), masks (B, V, K, h, w), chosen (B, K), targets (V, P, width).
        """
        labels, count = self.label_map(batch, clusters, seeds)
        masks = view_masks(labels, count, batch["boxes"], batch["flips"], self.encoder.cells(self.config.side))
        chosen = pairs(masks, self.config.least_area, self.config.masks)
        # NT-Xent has no use for the targets, but only by seeing the views do the batch norms learn what they cluster by.
        targets = torch.stack([self.project(batch["views"][:, view], masks[:, view], chosen) for view in (0, 1)])
        return {"views": batch["views"], "masks": masks, "chosen": chosen, "targets": targets}

    # -- prediction

    def resized(self, image: Tensor) -> Tensor:
        """An image (3, H, W) in 0..255 at the size in which its objects are searched, float."""
        size = longer_side(size_of(image), self.config.parts_side)
        image = image.as_subclass(Tensor).to(self.device).float()
        resized: Tensor = vision.resize(image, list(size), antialias=True)
        return resized

    def preprocess(self, sample: Sample, tags: str = "predicted") -> network.Tensors:
        """The resized image (3, H, W)."""
        return {"image": self.resized(sample.image)}

    def infer(self, batch: network.Tensors) -> network.Tensors:
        """The features (B, D, h, w) that are clustered, float32."""
        encode = self.encoder.fine if self.config.parts_level == "fine" else self.encoder
        return {"features": encode(batch["image"]).float()}

    def postprocess(self, outputs: network.Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        """The object of the image as class 1: of its parts, the largest that least touches the border. tags have no effect."""
        ids = border_prior.parts(outputs["features"], self.config.parts)
        mask = (ids == border_prior.inner(ids)).to(torch.uint8)[None, None]
        size = size_of(sample.image)
        mask = F.interpolate(mask, size, mode="nearest-exact")[0, 0].cpu()
        return Prediction(sample.name, size, self.classes, torch.ones(1), mask)

    @torch.no_grad()
    def parts(self, image: Tensor) -> Tensor:
        """Clusters of the features of one image (3, H, W) in 0..255, ids (h, w) (sec. 4.3)."""
        features = self.infer({"image": self.resized(image)[None]})["features"]
        return border_prior.parts(features[0], self.config.parts)


class Online(nn.Module):
    """The network that learns, with BYOL's predictor."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.network = config, R2O(config)
        self.predictor = mlp(config.width, config.hidden, config.width) if config.objective == "byol" else nn.Identity()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of what `R2O.prepare` gave, a mean over the pairs of all processes, and "spread", the `projection_std`."""
        views, masks, chosen = batch["views"], batch["masks"], batch["chosen"]
        rows = [self.network.project(views[:, view], masks[:, view], chosen) for view in (0, 1)]
        if self.config.objective == "byol":
            one, other = (self.predictor(view_rows) for view_rows in rows)
            first, second = batch["targets"]
            losses = byol_loss(one, second) + byol_loss(other, first)  # eq. 5
        else:
            losses = ntxent_loss(rows[0], rows[1], self.config.temperature)
        count = total(torch.tensor(float(len(losses)), device=losses.device))
        # The gradients of the processes are averaged, so each one's sum is taken against the mean number of pairs.
        share = count / total(torch.ones((), device=losses.device))
        return {self.config.objective: losses.sum() / share.clamp(min=1e-6), "spread": projection_std(torch.cat(rows))}


# -- training --------------------------------------------------------------------------------------------------------


def build(config: Config, classes: Sequence[str] = CLASSES) -> R2O:
    """The network with its first weights; its one class is "object", whatever the classes of the data are."""
    return R2O(config)


def untrained(config: Config) -> R2O:
    """A network that takes the backbone's maps as they are, for objects without a training of R2O."""
    model = build(config)
    model.encoder.skip_new_layers()
    return model


def train(config: Config, data: Data, run: Run) -> R2O:
    """Learn from the images of `data`, whatever labels they have; returns the online network without its predictor.

    Raises Collapsed when all images come to look alike to the network.
    """
    run.expect("data", data.fingerprint)
    run.seed("r2o")
    online = Online(config).to(memory_format=torch.channels_last)
    target = ema.frozen_copy(online.network)
    online, target = shared_norms(online, run.device).to(run.device), shared_norms(target, run.device).to(run.device)
    steps = max(1, math.ceil(config.epochs * len(data) / config.batch))
    monitor, probe = CollapseMonitor(config, steps), Probe(config) if config.probe and run.main else None
    rate = config.lr * config.batch / 256
    model, optimizer = run.setup(online, optim.lars(online, rate, config.weight_decay, config.momentum, config.trust))
    loop = run.steps(
        "pretrain", Views(data, config), steps, config.batch, model=model, optimizer=optimizer, collate=stack, teacher=target
    )
    for step, batch in loop:
        clusters = curriculum(config, step, steps)
        with run.fabric.autocast():
            prepared = target.prepare(batch, clusters, seeds(run, config, step, len(batch["whole"])))
        losses = model(prepared)
        std = losses.pop("spread")
        figures = {"spread": std} if config.refine == "none" else {"clusters": clusters, "spread": std}
        run.update(losses, optimizer, schedule.warmup_cosine(step, steps, round(config.warmup * steps)), figures=figures)
        ema.update(target, online.network, schedule.cosine(step, steps, config.tau, 1.0))
        if probe and (step % config.probe_every == 0 or step + 1 == steps):
            run.log(stage="pretrain", step=step + 1, clusters=clusters, **probe.score(target, clusters, run.device))
        monitor.update(step, float(std))
    return online.network


def seeds(run: Run, config: Config, step: int, images: int) -> list[int]:
    """A seed for each chunk that K-means clusters; whole chunks get the same however many processes share the step."""
    first = run.fabric.global_rank * images // config.chunk
    return [seed_of(run.runtime.seed, "clusters", step, first + chunk) for chunk in range(math.ceil(images / config.chunk))]


class CollapseMonitor:
    """Stops a training whose projections all point one way, and warns at its end if no step could be measured."""

    def __init__(self, config: Config, steps: int) -> None:
        self.least, self.patience, self.steps = config.collapse / math.sqrt(config.width), config.patience, steps
        self.low_steps, self.measured = 0, not config.collapse

    def update(self, step: int, std: float) -> None:
        """std: `projection_std` at this step. Raises Collapsed; NaN, which a single row gives, changes nothing."""
        last = step + 1 == self.steps
        if not math.isnan(std):
            self.low_steps, self.measured = self.low_steps + 1 if std < self.least else 0, True
        if not self.measured and last:
            warnings.warn(
                "whether it has collapsed could not be measured: no step had two masks to compare; raise batch", stacklevel=2
            )
        if self.low_steps >= self.patience or (self.low_steps and last):
            raise Collapsed(
                f"the projections have collapsed at step {step + 1}: their standard deviation is {std:.2g}, expected more than "
                f"{self.least:.2g}. All images look alike to the network. Are they all one image, or constant? Else "
                "lower lr, raise tau or batch; --collapse 0 trains on all the same."
            )


# -- regions against objects -----------------------------------------------------------------------------------------


class Probe:
    """Images with object masks on which the regions are scored during the training (fig. 3); nothing is learned from them."""

    def __init__(self, config: Config) -> None:
        data = read(config.probe, split=config.probe_split or None)
        self.config, self.cache = config, Cache(config.cache or None)
        masked = ((index, masks) for index in range(len(data)) if (masks := object_masks(data, index)))
        self.truth = list(islice(masked, config.probe_images))
        if not self.truth:
            raise ValueError(f"probe={config.probe}: none of its {len(data)} images has object masks; choose other images")
        self.data = data

    def score(self, target: R2O, clusters: int, device: torch.device) -> dict[str, float]:
        """Average best overlap over images: "abo" of the refined masks and "abo_prior" of the regions before."""
        training, scores = target.training, {"abo": 0.0, "abo_prior": 0.0}
        target.eval()
        for start in range(0, len(self.truth), self.config.chunk):
            part = self.truth[start : start + self.config.chunk]
            batch = stack([whole_and_regions(self.data.image(index), self.config, self.cache) for index, _ in part])
            labels, _ = target.label_map({name: value.to(device) for name, value in batch.items()}, clusters, [start])
            for (_, masks), refined, regions in zip(part, labels.cpu(), batch["regions"], strict=True):
                scores["abo"] += float(best_overlaps(refined, masks).mean()) / len(self.truth)
                scores["abo_prior"] += float(best_overlaps(regions, masks).mean()) / len(self.truth)
        target.train(training)
        return {name: round(value, 4) for name, value in scores.items()}


def object_masks(data: Data, index: int) -> list[rle.RLE]:
    """Masks of the objects of an image, or, where only classes are masked, of each class."""
    objects = data.compact(index)
    if objects is not None:
        return objects.rles
    semantic = data.select([index]).only("semantic")[0].semantic
    return [] if semantic is None else rle.from_ids(semantic.where(semantic != IGNORE, 0).numpy())[1]


def best_overlaps(ids: Tensor, masks: list[rle.RLE]) -> np.ndarray:
    """(G,) the best overlap of each of G objects with a region of a label map (h, w), stretched over the image."""
    size = cast(tuple[int, int], tuple(masks[0]["size"]))
    stretched = F.interpolate((ids.float() + 1)[None, None], size, mode="nearest-exact")[0, 0]
    return best_overlap(rle.from_ids(stretched.int().numpy())[1], masks)
