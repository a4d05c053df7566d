"""R2-IOS: reversible recursive instance-level object segmentation (Liang et al., CVPR 2016). From full masks to object masks.

A picture and its object proposals go in. For T iterations, with the same weights, a *segmentation* sub-network predicts the mask
of the dominant object in each box, a *refinement* sub-network predicts its class and how to move the box, seeing the mask too,
and the moved box enters the next iteration. A gate takes each proposal back to its most confident iteration t'.

Shape letters: B batch, R regions, F regions of objects, K classes, T iterations, S side of a mask. Class 0 is background.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from frugalseg.data import detection
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.run import Run
from frugalseg.nets import optim, roi, schedule
from frugalseg.nets.layers import initialise, narrowing
from frugalseg.nets.paste import paste
from frugalseg.nets.two_stride import TwoStrideBackbone
from frugalseg.nets.weights import load_weights
from frugalseg.recipes.checks import restored
from frugalseg.recipes.r2ios import Config
from frugalseg.regions import precompute, proposals
from frugalseg.types import Prediction, Sample

REFINEMENT_SIZE = 7  # cells a side of the refinement branch's RoI pooling (sec. 3.2)
CHUNK = 128  # regions at a time at test: the 40 × 40 features of 2,000 would take gigabytes
SCORE_INIT = 0.01  # deviation of the convolution before a low-pass: all masks begin undecided
ANCHORS = (0.05, 0.1, 0.2, 0.4, 0.8)  # sides of the learned proposals' anchors, as shares of a picture's shorter side


class Output(NamedTuple):
    """What one iteration predicts. scores: (R, K+1) logits of p. offsets: (R, K, 4). masks: (R, 2, S, S) logits v."""

    scores: Tensor
    offsets: Tensor
    masks: Tensor


# -- losses ----------------------------------------------------------------------------------------------------------


def class_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """J_cls = −log p_g of eq. 1, (R,). scores: (R, K+1). labels: (R,) in 0..K."""
    return F.cross_entropy(scores, labels, reduction="none")


def box_loss(offsets: Tensor, targets: Tensor) -> Tensor:
    """J_loc of eq. 1: smooth L1 summed over the four offsets, (F,). Both (F, 4), in the units of `roi.STD`."""
    return F.smooth_l1_loss(offsets, targets, reduction="none").sum(1)


def mask_loss(masks: Tensor, targets: Tensor) -> Tensor:
    """J_seg of eq. 1: cross-entropy, mean over a region's pixels, (F,). masks: (F, 2, S, S). targets: (F, S, S) of 0, 1."""
    return F.cross_entropy(masks, targets, reduction="none").mean((1, 2))


@torch.no_grad()
def optimal_iteration(confidences: Tensor) -> Tensor:
    """t' of sec. 3.2, counted from 0, (F,): where p_{t,g} is highest; the first of equal ones. confidences: (T, F)."""
    return confidences.argmax(0)


def counted(confidences: Tensor, gate: bool) -> Tensor:
    """Which losses count, (T, F) of 0 and 1: those of all iterations, or with the gate those up to t'. confidences: (T, F)."""
    if not gate:
        return torch.ones_like(confidences)
    return (torch.arange(len(confidences), device=confidences.device)[:, None] <= optimal_iteration(confidences)).float()


# -- sub-networks ----------------------------------------------------------------------------------------------------


class Autoencoder(nn.Module):
    """The instance-aware denoising autoencoder (sec. 3.1): (R, 2, S, S) -> (R, 2, S, S) through a short code.

    What it removes are the other objects in the box; no noise is added. The output has no ReLU: logits may be negative.
    """

    def __init__(self, size: int, code: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(2 * size * size, code), nn.Linear(code, 2 * size * size)

    def forward(self, confidence: Tensor) -> Tensor:
        return self.decoder(self.encoder(confidence.flatten(1)).relu()).view_as(confidence)

    @torch.no_grad()
    def begin_as_low_pass(self) -> None:
        """First weights that let the confidences through without their finest detail; ours, for short trainings.

        The code holds the lowest waves of both maps, each once more negated, so that the ReLU loses nothing. From random weights
        the convolutions before and the autoencoder have to find each other first.
        """
        code, inputs = self.encoder.weight.shape
        waves = low_waves(math.isqrt(inputs // 2), min(code // 4, inputs // 2))
        signed = torch.cat([waves, -waves])
        both = torch.block_diag(signed, signed)
        for values in (self.decoder.weight, self.encoder.bias, self.decoder.bias):
            nn.init.zeros_(values)
        self.encoder.weight[: len(both)] = both
        self.decoder.weight[:, : len(both)] = both.T


def low_waves(side: int, count: int) -> Tensor:
    """The lowest two-dimensional waves (DCT-II) of a square map, (count, side²), orthonormal."""
    waves = torch.from_numpy(dct(np.eye(side), norm="ortho", axis=0))
    planes = torch.einsum("uy,vx->uvyx", waves, waves).reshape(side**2, side**2)
    order = (torch.arange(side)[:, None].square() + torch.arange(side).square()).flatten()
    return planes[order.sort(stable=True).indices[:count]].float()


class SegmentationBranch(nn.Module):
    """Confidence maps C of what is in a box by 1×1 convolutions, then v, the mask of the dominant object (sec. 3.1)."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.size, self.stride_sampling, self.kind = config.mask_size, config.sampling, config.pooling
        self.pooled = config.mask_pool
        self.narrow, self.score = nn.Conv2d(channels, config.mask_channels, 1), nn.Conv2d(config.mask_channels, 2, 1)
        # "fc", two layers of 3,200, is an autoencoder whose code is as long as its input.
        code = {"autoencoder": config.code, "fc": 2 * config.mask_size**2}.get(config.mask_head)
        self.head = nn.Identity() if code is None else Autoencoder(config.mask_size, code)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                initialise(layer, config.mask_init)
        if not config.mask_init:
            nn.init.normal_(self.score.weight, std=SCORE_INIT)
            if isinstance(self.head, Autoencoder):
                self.head.begin_as_low_pass()

    def prepare(self, features: Tensor) -> Tensor:
        """The part of the convolutions that is done once for the picture: RoIAlign is linear, and so is `narrow`."""
        if self.pooled == "scores":
            return self.score(self.narrow(features).relu())
        return features if self.kind == "max" else self.narrow(features)

    def forward(self, prepared: Tensor, regions: Tensor, stride: int) -> Tensor:
        """v (R, 2, S, S) of regions (R, 5)."""
        cells = roi.pool(prepared, regions, self.size, stride, self.stride_sampling, self.kind)
        if self.pooled == "features":
            cells = self.score((self.narrow(cells) if self.kind == "max" else cells).relu())
        return self.head(cells.contiguous())


class RefinementBranch(nn.Module):
    """Class scores and a box offset for each class from pooled features, beside the mask if seg_aware (sec. 3.2)."""

    def __init__(self, config: Config, channels: int, classes: int) -> None:
        super().__init__()
        self.seg_aware, self.classes = config.seg_aware, classes
        self.fc6, self.fc7 = nn.Linear(channels * REFINEMENT_SIZE**2, config.width), nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        inputs = config.width + (2 * config.mask_size**2 if config.seg_aware else 0)
        self.scores, self.offsets = nn.Linear(inputs, classes + 1), nn.Linear(inputs, 4 * classes)
        for layer, deviation in ((self.fc6, 0.0), (self.fc7, 0.0), (self.scores, 0.01), (self.offsets, 0.001)):
            initialise(layer, deviation)

    def forward(self, cells: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (R, K+1) and offsets (R, K, 4) of pooled features (R, D, 7, 7) and masks v (R, 2, S, S)."""
        features = self.dropout(self.fc6(cells.flatten(1)).relu())
        features = self.dropout(self.fc7(features).relu())
        if self.seg_aware:
            features = torch.cat([features, masks.softmax(1).flatten(1)], 1)
        return self.scores(features), self.offsets(features).view(-1, self.classes, 4)


class Lateral(nn.Module):
    """A fine map from the last shared one and the coarse one: the sum of both after 1×1 convolutions."""

    def __init__(self, fine: int, coarse: int, channels: int, ratio: int) -> None:
        super().__init__()
        self.fine, self.coarse, self.ratio = nn.Conv2d(fine, channels, 1), nn.Conv2d(coarse, channels, 1), ratio

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        height, width = fine.shape[-2:]
        points = [(extent - 1) * self.ratio + 1 for extent in coarse.shape[-2:]]  # point i of the coarse map is point ratio · i
        up = F.interpolate(self.coarse(coarse), points, mode="bilinear", align_corners=True)
        up = F.pad(up, (0, max(0, width - points[1]), 0, max(0, height - points[0])), mode="replicate")
        return (self.fine(fine) + up[..., :height, :width]).relu()


def region_proposal_network(channels: int, shorter: int, count: int) -> RegionProposalNetwork:
    """Faster R-CNN's learned proposals on the refinement map, as an alternative to selective search."""
    anchors = AnchorGenerator((tuple(round(share * shorter) for share in ANCHORS),), ((0.5, 1.0, 2.0),))
    head = RPNHead(channels, anchors.num_anchors_per_location()[0])
    before = {"training": count, "testing": count}
    return RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, before, before, 0.7)


# -- the model -------------------------------------------------------------------------------------------------------


class Maps(NamedTuple):
    """Of a batch of pictures: the refinement branch's map, and what the segmentation branch cuts its regions out of."""

    coarse: Tensor
    fine: Tensor


@dataclass
class Drawn:
    """Regions to learn from. regions: (R, 5). labels: (R,) in 0..K. sizes: (R, 2) of their pictures.

    Of the F of them that are objects, in their order: truth (F, 4), the object's box; cuts, its mask cut out at corners (F, 4) in
    the picture's own pixels, which are ratio (F, 4) of the resized ones.
    """

    regions: Tensor
    labels: Tensor
    sizes: Tensor
    truth: Tensor
    cuts: list[Tensor]
    corners: Tensor
    ratio: Tensor


@dataclass
class Found:
    """Where the recursion left each of P proposals: class, confidence and boxes (P, 4) of iteration t' (from 0), all (P,).

    decided: whether any iteration saw an object. inputs: the boxes that the masks (P, S, S), foreground probabilities, were
    predicted on. looked: how many regions were computed.
    """

    decided: Tensor
    labels: Tensor
    scores: Tensor
    iterations: Tensor
    inputs: Tensor
    boxes: Tensor
    masks: Tensor
    looked: int = 0


class R2IOS(nn.Module):
    """Both sub-networks on one forked backbone."""

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__()
        self.config, self.classes = config, tuple(classes)
        options = {"weights": config.weights, "normalize": config.normalize, "level": config.level}
        options |= {"frozen": config.frozen, "freeze_norm": config.freeze_norm}
        kind = {"lateral": "shared"}.get(config.mask_features, config.mask_features)
        self.fork = TwoStrideBackbone(config.backbone, config.stride, config.mask_stride, kind, **options)
        self.narrow, channels = narrowing(self.fork.channels, config.channels)
        self.narrow_fine, fine = self._fine(channels)
        self.segmentation = SegmentationBranch(config, fine)
        self.refinement = RefinementBranch(config, channels, len(self.classes))
        self.rpn = region_proposal_network(channels, config.scale, config.count) if config.proposals == "rpn" else None
        if self.fork.report and config.backbone == "vgg16" and config.width == 4096 and not config.channels:
            # VGG-16's own fully connected layers read the same 7 × 7 cells (sec. 3.2).
            names = {"classifier.0.": "fc6.", "classifier.3.": "fc7."}
            load_weights(self.refinement, self.fork.report.source, prefixes=names, least=0.0)

    def _fine(self, coarse: int) -> tuple[nn.Module, int]:
        """What makes the segmentation branch's map of the fork's, and its channels."""
        if self.config.mask_features != "lateral":
            return narrowing(self.fork.fine_channels, self.config.channels)
        lateral = Lateral(self.fork.fine_channels, coarse, coarse, self.fork.stride // self.fork.fine_stride)
        for layer in (lateral.fine, lateral.coarse):
            initialise(layer, 0.0)
        return lateral, coarse

    def maps(self, images: Tensor) -> Maps:
        """The maps of pictures (B, 3, H, W) in 0..255."""
        coarse, fine = self.fork(images.to(memory_format=torch.channels_last))
        coarse = self.narrow(coarse)
        fine = self.narrow_fine(fine, coarse) if self.config.mask_features == "lateral" else self.narrow_fine(fine)
        return Maps(coarse, self.segmentation.prepare(fine))

    def masks(self, maps: Maps, regions: Tensor) -> Tensor:
        """v (R, 2, S, S) of regions (R, 5)."""
        return self.segmentation(maps.fine, regions, self.fork.fine_stride)

    def look(self, maps: Maps, regions: Tensor) -> Output:
        """One iteration on regions (R, 5), each by itself."""
        masks = self.masks(maps, regions)
        cells = roi.pool(maps.coarse, regions, REFINEMENT_SIZE, self.fork.stride, self.config.sampling, self.config.pooling)
        scores, offsets = self.refinement(cells, masks)
        return Output(scores, offsets, masks)

    # -- training

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch as `objects.stack` makes it, with `gate`: whether the gate is on."""
        maps = self.maps(batch["images"])
        boxes, losses = self.propose(batch, maps)
        return self.losses(maps, self.draw(batch, boxes), batch["gate"]) | losses

    def propose(self, batch: dict[str, Any], maps: Maps) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Each picture's proposals, given or learned, and the losses of learning them."""
        if self.rpn is None:
            return batch["proposals"], {}
        targets = [{"boxes": own} for own in batch["boxes"]]
        boxes, losses = self.rpn(image_list(batch["images"], batch["sizes"]), {"0": maps.coarse.float()}, targets)
        return boxes, {"objectness": losses["loss_objectness"], "rpn_box": losses["loss_rpn_box_reg"]}

    @torch.no_grad()
    def draw(self, batch: dict[str, Any], boxes: Sequence[Tensor]) -> Drawn:
        """The proposals a step learns from; class, box and mask all come from the object that overlaps the proposal most."""
        return joined([self._draw(batch, number, own) for number, own in enumerate(boxes)])

    def _draw(self, batch: dict[str, Any], number: int, boxes: Tensor) -> Drawn:
        config, truth, labels = self.config, batch["boxes"][number], batch["labels"][number]
        candidates = torch.cat([boxes, truth]) if config.add_truth else boxes
        index, overlaps = roi.match(candidates, truth)
        kept, others = roi.sample(overlaps, config.rois, config.rois_foreground, config.foreground, config.background)
        both, found = torch.cat([kept, others]), index[kept]
        return Drawn(
            regions=F.pad(candidates[both], (1, 0), value=float(number)),
            labels=torch.cat([labels[found], labels.new_zeros(len(others))]),
            sizes=batch["sizes"][number].expand(len(both), 2),
            truth=truth[found],
            cuts=[batch["cuts"][number][i] for i in found.tolist()],
            corners=batch["corners"][number][found],
            ratio=batch["ratio"][number].expand(len(found), 4),
        )

    def losses(self, maps: Maps, drawn: Drawn, gate: bool) -> dict[str, Tensor]:
        """J = Σ_t J_t (eq. 1): over all T iterations, or up to each proposal's t' with the gate.

        Background stays where it is, so each iteration repeats it: computed once, weighted by how often it counts.
        """
        config = self.config
        iterations = 1 if config.recursion == "test_only" else config.iterations
        inside = (drawn.labels > 0).nonzero().flatten()
        labels, outside = drawn.labels[inside], (drawn.labels == 0).nonzero().flatten()
        regions, rows = drawn.regions[inside], torch.arange(len(inside), device=inside.device)
        first = self.look(maps, drawn.regions)
        output = Output(*(values[inside] for values in first))
        terms: list[dict[str, Tensor]] = []
        confidences = []
        for t in range(iterations):
            if t:
                regions = self.moved(regions, output.offsets[rows, labels - 1], drawn.sizes[inside])
                output = self.look(maps, regions)
            terms.append(self.terms(output, regions, labels, drawn))
            confidences.append(output.scores.detach().softmax(1)[rows, labels])
        counts = counted(torch.stack(confidences), gate)
        sums = {name: (counts * torch.stack([term[name] for term in terms])).sum() for name in terms[0]}
        repeats = 1 if gate else iterations  # with the gate, all iterations of background tie, and the first wins
        background = repeats * class_loss(first.scores[outside], drawn.labels[outside]).sum()
        every, some = max(1, len(drawn.labels)), max(1, len(inside))
        return {"class": (sums["class"] + background) / every, "box": sums["box"] / every, "mask": sums["mask"] / some}

    def terms(self, output: Output, regions: Tensor, labels: Tensor, drawn: Drawn) -> dict[str, Tensor]:
        """The three terms of J_t for regions of objects, each (F,)."""
        boxes = regions[:, 1:]
        offsets = output.offsets[torch.arange(len(labels), device=labels.device), labels - 1]
        targets = roi.mask_targets(drawn.cuts, drawn.corners, boxes / drawn.ratio, self.config.mask_size)
        return {
            "class": class_loss(output.scores, labels),
            "box": box_loss(offsets, roi.encode(boxes, drawn.truth)),
            "mask": mask_loss(output.masks, targets),
        }

    @staticmethod
    def moved(regions: Tensor, offsets: Tensor, sizes: Tensor) -> Tensor:
        """l_t of l_{t−1} and the offsets (R, 4) of one class. The next iteration's input carries no gradient back."""
        return torch.cat([regions[:, :1], roi.decode(regions[:, 1:], offsets.detach(), sizes)], 1)

    # -- prediction

    @torch.no_grad()
    def recur(self, maps: Maps, regions: Tensor, size: tuple[int, int]) -> Found:
        """All iterations on proposals (P, 5) of one picture of that (H, W), and the gate (sec. 3.4).

        A proposal that is background at an iteration stays where it is and looks the same ever after, so it is left alone then.
        """
        found, limits = self.start(regions), torch.tensor([size], device=regions.device)
        regions, active = regions.clone(), torch.arange(len(regions), device=regions.device)
        for t in range(self.config.iterations):
            here = regions[active]
            output = Output(*roi.in_chunks(partial(self.look, maps), here, CHUNK))
            probabilities = output.scores.float().softmax(1)
            seen, (scores, labels) = probabilities.argmax(1) > 0, probabilities[:, 1:].max(1)
            offsets = output.offsets[torch.arange(len(here), device=here.device), labels]
            moved = self.moved(here, offsets, limits.expand(len(here), 2))
            wins = self.wins(found, active, seen, scores, t)
            where = active[wins]
            found.decided[where], found.labels[where], found.scores[where] = seen[wins], labels[wins] + 1, scores[wins]
            found.iterations[where], found.inputs[where], found.boxes[where] = t, here[wins, 1:], moved[wins, 1:]
            found.masks[where] = output.masks[wins].float().softmax(1)[:, 1]
            found.looked += len(active)
            regions[active[seen]] = moved[seen]
            active = active[seen] if self.config.early_exit else active
        return found

    def start(self, regions: Tensor) -> Found:
        """Nothing found yet at proposals (P, 5)."""
        count, side, boxes = len(regions), self.config.mask_size, regions[:, 1:]
        zeros = torch.zeros(count, dtype=torch.long, device=regions.device)
        masks = boxes.new_zeros(count, side, side)
        return Found(zeros > 0, zeros.clone(), boxes.new_zeros(count), zeros.clone(), boxes.clone(), boxes.clone(), masks)

    def wins(self, found: Found, active: Tensor, seen: Tensor, scores: Tensor, t: int) -> Tensor:
        """For which of the active proposals (A,) iteration t is the best so far.

        The first; then a more confident one that saw an object; without the gate simply the last.
        """
        if t == 0 or not self.config.gate:
            return torch.ones_like(seen)
        return seen & (~found.decided[active] | (scores > found.scores[active]))

    @torch.no_grad()
    def predict(self, samples: Iterable[Sample], tags: str = "predicted") -> list[Prediction]:
        """Objects of each picture, from its own proposals if it has any. tags: "given" keeps its tagged classes only."""
        self.eval()
        return [self._predict(sample, tags) for sample in samples]

    def _predict(self, sample: Sample, tags: str) -> Prediction:
        own = (int(sample.image.shape[-2]), int(sample.image.shape[-1]))
        size = detection.scaled(own, self.config.scale, self.config.longest)
        device = next(self.parameters()).device
        image = detection.resized(sample.image.to(device), size)
        images = detection.padded([image], self.fork.stride)
        maps, ratio = self.maps(images), detection.ratio(own, size).to(device)
        boxes = self.boxes_of(sample, images, size, maps, ratio)
        found = self.recur(maps, roi.rois([boxes]), size)
        kept = self.keep(found, detection.allowed(sample).to(device) if tags == "given" else None)
        inputs, masks = found.inputs[kept], found.masks[kept]
        if self.config.mask_box == "repool" and len(kept):
            inputs = found.boxes[kept]
            masks = self.masks(maps, roi.rois([inputs])).softmax(1)[:, 1]
        codes = paste(masks, inputs / ratio, own, self.config.threshold)
        boxes = found.boxes[kept] / ratio
        return detection.predicted(sample, self.classes, boxes, found.labels[kept], found.scores[kept], codes)

    def boxes_of(self, sample: Sample, images: Tensor, size: tuple[int, int], maps: Maps, ratio: Tensor) -> Tensor:
        """The picture's proposals (P, 4), in pixels of the resized one."""
        if self.rpn is not None and self.config.proposals == "rpn" and sample.proposals is None:
            sizes = torch.tensor([size], device=images.device)
            return self.rpn(image_list(images, sizes), {"0": maps.coarse.float()})[0][0]
        return proposals.of(sample, self.config.proposals, self.config.count).to(ratio.device) * ratio

    def keep(self, found: Found, allowed: Tensor | None) -> Tensor:
        """Indices of the objects that are put out, best first. allowed: the classes (K,) that may be, or None for all."""
        good = (found.decided | (self.config.undecided == "keep")) & (found.scores >= self.config.min_score)
        good &= True if allowed is None else allowed[found.labels - 1]
        candidates = good.nonzero().flatten()
        boxes, scores, labels = found.boxes[candidates], found.scores[candidates], found.labels[candidates]
        return candidates[roi.nms(boxes, scores, labels, self.config.nms, self.config.detections)]


def joined(parts: Sequence[Drawn]) -> Drawn:
    """The regions of several pictures in one."""
    tensors = ("regions", "labels", "sizes", "truth", "corners", "ratio")
    stacked = {name: torch.cat([getattr(part, name) for part in parts]) for name in tensors}
    return Drawn(**stacked, cuts=[mask for part in parts for mask in part.cuts])


def image_list(images: Tensor, sizes: Tensor) -> ImageList:
    """What torchvision's proposals take."""
    return ImageList(images, [(int(height), int(width)) for height, width in sizes.tolist()])


# -- training --------------------------------------------------------------------------------------------------------


class Boxes:
    """Proposals (P, 4) read from a shelf."""

    def __init__(self, shelf: ArrayStore) -> None:
        self.shelf = shelf

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.shelf.read(index)["boxes"])


def train(config: Config, data: Any, run: Run) -> R2IOS:
    """Learn from the object masks of `data`, first without the gate, then with it (sec. 3.3). Writes weights/last."""
    data, boxes = detection.learnable(data), None
    if config.proposals != "rpn":
        data = precompute.covered(data, config.proposals)
    run.expect("data", data.fingerprint)
    if config.proposals != "rpn":
        boxes = Boxes(precompute.stored_proposals(data, config.proposals, config.count, run))
    run.seed("r2ios")
    model = R2IOS(config, data.classes).to(memory_format=torch.channels_last)
    views = detection.Objects(data, boxes, config.scale, config.longest, config.flip)
    fit(config, model, views, run, "recursion", config.steps, gate=False)
    if config.gate_steps:
        fit(config, model, views, run, "gate", config.gate_steps, gate=config.gate)
    return save(run, model, "last")


def fit(config: Config, model: R2IOS, views: Any, run: Run, stage: str, steps: int, gate: bool) -> None:
    """The training loop of both phases."""
    wrapped, optimizer = run.setup(model, optimizer_of(config, model))
    collate = partial(detection.stack, multiple=config.stride)
    for step, batch in run.steps(stage, views, steps, config.batch, model=wrapped, optimizer=optimizer, collate=collate):
        batch["gate"] = gate
        run.update(wrapped(batch), optimizer, rate(config, step, steps, stage == "recursion"))


def rate(config: Config, step: int, steps: int, first: bool) -> float:
    """Learning rate as a share of its first value."""
    drops = [math.ceil(share * steps) for share in config.drops]
    return schedule.step_decay(step, 1.0, drops) * (schedule.warmup(step + 1, config.warmup) if first else 1.0)


def optimizer_of(config: Config, model: R2IOS) -> torch.optim.Optimizer:
    """The optimiser, with the pretrained layers at lr and the new ones at head_lr (sec. 4.1)."""
    return optim.two_rates(config, model, model.fork, config.fan_in)


def save(run: Run, model: R2IOS, name: str) -> R2IOS:
    """Write the model with all that `load` needs."""
    run.save_model(model, {"method": "r2ios", "config": asdict(model.config), "classes": list(model.classes)}, name)
    return model


def load(state: dict[str, Tensor], metadata: dict[str, Any]) -> R2IOS:
    """The model of a weights file written by `save`."""
    model = R2IOS(restored(Config, metadata["config"]), metadata["classes"])
    model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last).eval()
