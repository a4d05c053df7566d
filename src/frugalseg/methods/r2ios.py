"""R2-IOS: reversible recursive instance-level object segmentation (Liang et al., CVPR 2016). From full masks to object masks.

The input is an image and its object proposals. For T iterations, with the same weights, a *segmentation* sub-network predicts the
mask of the dominant object in each box, a *refinement* sub-network predicts its class and how to move the box, from the box's
features and the mask, and the moved box is the input of the next iteration. A gate takes each proposal back to its most confident
iteration t'.

Shape letters: B batch, P proposals, R regions, F regions of objects, K classes, T iterations, D channels, S side of a mask.
Class 0 is background.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalseg.data import Data, detection
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.run import Run
from frugalseg.nets import optim, roi, rpn, schedule
from frugalseg.nets.autoencoder import Autoencoder
from frugalseg.nets.layers import initialise, load_vgg_layers, narrowing
from frugalseg.nets.network import Network, Tensors, given_tags
from frugalseg.nets.paste import paste
from frugalseg.nets.two_stride import LateralSum, TwoStrideBackbone
from frugalseg.recipes.r2ios import Config
from frugalseg.regions import precompute, proposals
from frugalseg.types import Prediction, Sample, size_of

REFINEMENT_SIZE = 7  # cells a side of the refinement branch's RoI pooling (sec. 3.2)
CHUNK = 128  # regions at a time at test: the 40 × 40 features of 2,000 would take gigabytes
SCORE_INIT = 0.01  # standard deviation of the convolution before a low-pass: all masks begin undecided


class Output(NamedTuple):
    """Predictions of one iteration. scores: (R, K+1) logits of p. offsets: (R, K, 4). masks: (R, 2, S, S) logits v."""

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


def loss_weights(confidences: Tensor, gate: bool) -> Tensor:
    """(T, F) of 0 and 1: which losses count, those of all iterations, or with the gate those up to t'. confidences: (T, F)."""
    if not gate:
        return torch.ones_like(confidences)
    return (torch.arange(len(confidences), device=confidences.device)[:, None] <= optimal_iteration(confidences)).float()


# -- sub-networks ----------------------------------------------------------------------------------------------------


class SegmentationBranch(nn.Module):
    """Confidence maps C of the content of a box by 1×1 convolutions, then v, the mask of the dominant object (sec. 3.1)."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.config = config
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
                self.head.initialise_as_low_pass()

    def prepare(self, features: Tensor) -> Tensor:
        """The part of the convolutions that is done once for the image: RoIAlign is linear, and so is `narrow`."""
        if self.config.mask_pool == "features" and self.config.pooling == "max":
            return features
        prepared: Tensor = self.narrow(features)
        if self.config.mask_pool == "scores":
            prepared = self.score(prepared.relu())
        return prepared

    def forward(self, prepared: Tensor, regions: Tensor, stride: int) -> Tensor:
        """v (R, 2, S, S) of regions (R, 5)."""
        config = self.config
        cells = roi.pool(prepared, regions, config.mask_size, stride, config.sampling, config.pooling)
        if config.mask_pool == "features":
            cells = self.score((self.narrow(cells) if config.pooling == "max" else cells).relu())
        masks: Tensor = self.head(cells.contiguous())
        return masks


class RefinementBranch(nn.Module):
    """Class scores and a box offset for each class from pooled features, beside the mask if seg_aware (sec. 3.2)."""

    def __init__(self, config: Config, channels: int, classes: int) -> None:
        super().__init__()
        self.seg_aware, self.classes = config.seg_aware, classes
        self.fc6, self.fc7 = nn.Linear(channels * REFINEMENT_SIZE**2, config.width), nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        inputs = config.width + (2 * config.mask_size**2 if config.seg_aware else 0)
        self.scores, self.offsets = nn.Linear(inputs, classes + 1), nn.Linear(inputs, 4 * classes)
        for layer, std in ((self.fc6, 0.0), (self.fc7, 0.0), (self.scores, 0.01), (self.offsets, 0.001)):
            initialise(layer, std)

    def forward(self, cells: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (R, K+1) and offsets (R, K, 4) of pooled features (R, D, 7, 7) and masks v (R, 2, S, S)."""
        features = self.dropout(self.fc6(cells.flatten(1)).relu())
        features = self.dropout(self.fc7(features).relu())
        if self.seg_aware:
            features = torch.cat([features, masks.softmax(1).flatten(1)], 1)
        return self.scores(features), self.offsets(features).view(-1, self.classes, 4)


# -- the network -----------------------------------------------------------------------------------------------------


class Maps(NamedTuple):
    """Of a batch of images. coarse: the refinement branch's map. fine: that from which masks are pooled, prepared."""

    coarse: Tensor
    fine: Tensor


@dataclass
class TrainingRegions:
    """Regions to learn from. regions: (R, 5). labels: (R,) in 0..K. sizes: (R, 2) of their images.

    Of the F of them that are objects, in their order: truth (F, 4), the object's box; crops, its mask cropped at extents (F, 4),
    pixels of the original image; ratio (F, 4), pixels of the resized image per pixel of that.
    """

    regions: Tensor
    labels: Tensor
    sizes: Tensor
    truth: Tensor
    crops: list[Tensor]
    extents: Tensor
    ratio: Tensor


@dataclass
class Refined:
    """Each of P proposals at its most confident iteration t' (from 0): labels, scores, iterations (P,) and boxes (P, 4).

    decided: (P,) whether any iteration saw an object. masks: (P, S, S) foreground probabilities, predicted on mask_boxes (P, 4).
    computed: number of regions that all iterations took.
    """

    decided: Tensor
    labels: Tensor
    scores: Tensor
    iterations: Tensor
    boxes: Tensor
    mask_boxes: Tensor
    masks: Tensor
    computed: int = 0

    @classmethod
    def begin(cls, regions: Tensor, side: int) -> Refined:
        """Proposals (P, 5) before the first iteration. side: of the masks."""
        count, boxes = len(regions), regions[:, 1:]
        zeros = torch.zeros(count, dtype=torch.long, device=regions.device)
        masks = boxes.new_zeros(count, side, side)
        return cls(zeros > 0, zeros.clone(), boxes.new_zeros(count), zeros.clone(), boxes.clone(), boxes.clone(), masks)

    def split(self, counts: list[int]) -> Iterator[Tensors]:
        """The tensors of each image that has so many of the proposals, by their names."""
        names = [name for name, value in vars(self).items() if isinstance(value, Tensor)]
        for parts in zip(*(getattr(self, name).split(counts) for name in names), strict=True):
            yield dict(zip(names, parts, strict=True))


class R2IOS(Network):
    """Both sub-networks on one backbone of two strides."""

    config: Config
    ragged = ("proposals",)

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        options = {"weights": config.weights, "normalize": config.normalize, "level": config.level}
        options |= {"frozen": config.frozen, "freeze_norm": config.freeze_norm}
        kind = {"lateral": "shared"}.get(config.mask_features, config.mask_features)
        self.fork = TwoStrideBackbone(config.backbone, config.stride, config.mask_stride, kind, **options)
        self.narrow, channels = narrowing(self.fork.channels, config.channels)
        self.narrow_fine, fine = self._fine_layer(channels)
        self.segmentation = SegmentationBranch(config, fine)
        self.refinement = RefinementBranch(config, channels, len(self.classes))
        self.rpn = rpn.build(channels, config.scale, config.count) if config.proposals == "rpn" else None
        if self.fork.report:  # VGG-16's own fully connected layers read the same 7 × 7 cells (sec. 3.2)
            load_vgg_layers(self.refinement.fc6, self.refinement.fc7, self.fork.report.source)

    def _fine_layer(self, coarse: int) -> tuple[nn.Module, int]:
        """The layer between the backbone's fine map and the segmentation branch, and its channels."""
        if self.config.mask_features != "lateral":
            return narrowing(self.fork.fine_channels, self.config.channels)
        lateral = LateralSum(self.fork.fine_channels, coarse, coarse, self.fork.stride // self.fork.fine_stride)
        for layer in (lateral.fine, lateral.coarse):
            initialise(layer, 0.0)
        return lateral, coarse

    def maps(self, images: Tensor) -> Maps:
        """The maps of images (B, 3, H, W) in 0..255."""
        coarse, fine = self.fork(images.to(memory_format=torch.channels_last))
        coarse = self.narrow(coarse)
        fine = self.narrow_fine(fine, coarse) if self.config.mask_features == "lateral" else self.narrow_fine(fine)
        return Maps(coarse, self.segmentation.prepare(fine))

    def masks(self, maps: Maps, regions: Tensor) -> Tensor:
        """v (R, 2, S, S) of regions (R, 5)."""
        masks: Tensor = self.segmentation(maps.fine, regions, self.fork.fine_stride)
        return masks

    def iteration(self, maps: Maps, regions: Tensor) -> Output:
        """One iteration on regions (R, 5), each by itself."""
        masks = self.masks(maps, regions)
        cells = roi.pool(maps.coarse, regions, REFINEMENT_SIZE, self.fork.stride, self.config.sampling, self.config.pooling)
        scores, offsets = self.refinement(cells, masks)
        return Output(scores, offsets, masks)

    # -- training

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch of `detection.collate`, with `gate`: whether the gate is on."""
        maps = self.maps(batch["images"])
        boxes: Sequence[Tensor] = batch["proposals"]
        losses: dict[str, Tensor] = {}
        if self.rpn is not None:
            boxes, losses = rpn.learn(self.rpn, batch["images"], batch["sizes"], maps.coarse, batch["boxes"])
        return self.losses(maps, self.sample(batch, boxes), batch["gate"]) | losses

    @torch.no_grad()
    def sample(self, batch: dict[str, Any], boxes: Sequence[Tensor]) -> TrainingRegions:
        """The proposals a step learns from; class, box and mask all come from the object that overlaps the proposal most."""
        return joined([self._sample(batch, image, candidates) for image, candidates in enumerate(boxes)])

    def _sample(self, batch: dict[str, Any], image: int, boxes: Tensor) -> TrainingRegions:
        config, truth, labels = self.config, batch["boxes"][image], batch["labels"][image]
        candidates = torch.cat([boxes, truth]) if config.add_truth else boxes
        matched, overlaps = roi.match(candidates, truth)
        inside, outside = roi.sample(overlaps, config.rois, config.rois_foreground, config.foreground, config.background)
        chosen, objects = torch.cat([inside, outside]), matched[inside]
        return TrainingRegions(
            regions=F.pad(candidates[chosen], (1, 0), value=float(image)),
            labels=torch.cat([labels[objects], labels.new_zeros(len(outside))]),
            sizes=batch["sizes"][image].expand(len(chosen), 2),
            truth=truth[objects],
            crops=[batch["crops"][image][place] for place in objects.tolist()],
            extents=batch["extents"][image][objects],
            ratio=batch["ratio"][image].expand(len(objects), 4),
        )

    def losses(self, maps: Maps, sampled: TrainingRegions, gate: bool) -> dict[str, Tensor]:
        """J = Σ_t J_t (eq. 1): over all T iterations, or up to each proposal's t' with the gate.

        Background stays where it is, so each iteration repeats it: computed once, weighted by how often it counts.
        """
        config = self.config
        iterations = 1 if config.recursion == "test_only" else config.iterations
        inside, outside = (sampled.labels > 0).nonzero().flatten(), (sampled.labels == 0).nonzero().flatten()
        first = self.iteration(maps, sampled.regions)
        terms, confidences = self._unrolled(maps, sampled, inside, Output(*(values[inside] for values in first)), iterations)
        weights = loss_weights(confidences, gate)
        sums = {name: (weights * torch.stack([term[name] for term in terms])).sum() for name in terms[0]}
        repeats = 1 if gate else iterations  # with the gate, all iterations of background tie, and the first wins
        background = repeats * class_loss(first.scores[outside], sampled.labels[outside]).sum()
        regions, objects = max(1, len(sampled.labels)), max(1, len(inside))
        return {"class": (sums["class"] + background) / regions, "box": sums["box"] / regions, "mask": sums["mask"] / objects}

    def _unrolled(
        self, maps: Maps, sampled: TrainingRegions, inside: Tensor, output: Output, iterations: int
    ) -> tuple[list[dict[str, Tensor]], Tensor]:
        """The terms of J_t of each iteration on the regions of objects, and p_{t,g} (T, F). output: of the first iteration."""
        labels, regions, rows = sampled.labels[inside], sampled.regions[inside], torch.arange(len(inside), device=inside.device)
        terms: list[dict[str, Tensor]] = []
        confidences = []
        for t in range(iterations):
            if t:
                regions = self.moved(regions, output.offsets[rows, labels - 1], sampled.sizes[inside])
                output = self.iteration(maps, regions)
            terms.append(self._terms(output, regions, labels, sampled))
            confidences.append(output.scores.detach().softmax(1)[rows, labels])
        return terms, torch.stack(confidences)

    def _terms(self, output: Output, regions: Tensor, labels: Tensor, sampled: TrainingRegions) -> dict[str, Tensor]:
        """The three terms of J_t for regions of objects, each (F,)."""
        boxes = regions[:, 1:]
        offsets = output.offsets[torch.arange(len(labels), device=labels.device), labels - 1]
        targets = roi.mask_targets(sampled.crops, sampled.extents, boxes / sampled.ratio, self.config.mask_size)
        return {
            "class": class_loss(output.scores, labels),
            "box": box_loss(offsets, roi.encode(boxes, sampled.truth)),
            "mask": mask_loss(output.masks, targets),
        }

    @staticmethod
    def moved(regions: Tensor, offsets: Tensor, sizes: Tensor) -> Tensor:
        """l_t of l_{t−1} and the offsets (R, 4) of one class. The next iteration's input carries no gradient back."""
        return torch.cat([regions[:, :1], roi.decode(regions[:, 1:], offsets.detach(), sizes)], 1)

    # -- prediction

    @property
    def proposal_source(self) -> str:
        """Where it takes its object proposals from."""
        return self.config.proposals

    def preprocess(self, sample: Sample, tags: str = "predicted") -> Tensors:
        """image: (3, H, W) resized and padded. size: (2,) of (H, W) without the padding. proposals: (P, 4), unless learned."""
        size = size_of(sample.image)
        scaled = self._scaled(sample)
        image = detection.resized(sample.image.to(self.device), scaled)
        inputs = {"image": detection.padded([image], self.fork.stride)[0], "size": torch.tensor(scaled, device=self.device)}
        if self.rpn is None or self.config.proposals != "rpn" or sample.proposals is not None:
            boxes = proposals.of(sample, self.config.proposals, self.config.count).to(self.device)
            inputs["proposals"] = boxes * detection.ratio(size, scaled).to(self.device)
        return inputs

    def batch_key(self, inputs: Tensors) -> Hashable:
        """Also whether the proposals are learned ones."""
        return super().batch_key(inputs), "proposals" in inputs

    def infer(self, batch: Tensors) -> Tensors:
        """Maps and recursion. Lists of the tensors of `Refined`, one of each for every image."""
        maps = self.maps(batch["image"])
        learned = "proposals" not in batch
        boxes = rpn.propose(self.rpn, batch["image"], batch["size"], maps.coarse) if learned else batch["proposals"]
        regions = roi.rois(boxes)
        refined = self.refine(maps, regions, batch["size"][regions[:, 0].long()])
        images = list(refined.split([len(rows) for rows in boxes]))
        if self.config.mask_box == "repool":
            for image, part in enumerate(images):
                self._repool(maps, image, part)
        return {name: [part[name] for part in images] for name in images[0]}

    def refine(self, maps: Maps, regions: Tensor, sizes: Tensor) -> Refined:
        """All iterations on proposals (P, 5) in images of sizes (P, 2), and the gate (sec. 3.4).

        A proposal that is background at an iteration stays where it is and looks the same ever after, so it is left alone then.
        """
        best, regions = Refined.begin(regions, self.config.mask_size), regions.clone()
        active = torch.arange(len(regions), device=regions.device)
        for t in range(self.config.iterations):
            inputs = regions[active]
            output = Output(*roi.in_chunks(partial(self.iteration, maps), inputs, CHUNK))
            probabilities = output.scores.float().softmax(1)
            seen, (scores, labels) = probabilities.argmax(1) > 0, probabilities[:, 1:].max(1)
            offsets = output.offsets[torch.arange(len(inputs), device=inputs.device), labels]
            moved = self.moved(inputs, offsets, sizes[active])
            wins = self._wins(best, active, seen, scores, t)
            where = active[wins]
            best.decided[where], best.labels[where], best.scores[where] = seen[wins], labels[wins] + 1, scores[wins]
            best.iterations[where], best.mask_boxes[where], best.boxes[where] = t, inputs[wins, 1:], moved[wins, 1:]
            best.masks[where] = output.masks[wins].float().softmax(1)[:, 1]
            best.computed += len(active)
            regions[active[seen]] = moved[seen]
            active = active[seen] if self.config.early_exit else active
        return best

    def _wins(self, best: Refined, active: Tensor, seen: Tensor, scores: Tensor, t: int) -> Tensor:
        """For which of the active proposals (A,) iteration t is the best so far.

        The first; then a more confident one that saw an object; without the gate simply the last.
        """
        if t == 0 or not self.config.gate:
            return torch.ones_like(seen)
        return seen & (~best.decided[active] | (scores > best.scores[active]))

    def _repool(self, maps: Maps, image: int, refined: Tensors) -> None:
        """Predict the masks of an image's objects anew, on the boxes that the recursion ended with."""
        kept = self.selected(refined)
        for rows in torch.split(kept, CHUNK):
            boxes = refined["boxes"][rows]
            regions = F.pad(boxes, (1, 0), value=float(image))
            refined["masks"][rows], refined["mask_boxes"][rows] = self.masks(maps, regions).softmax(1)[:, 1], boxes

    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        """The objects of an image, best first. tags: "given" keeps its tagged classes only."""
        size = size_of(sample.image)
        allowed = given_tags(sample).bool().to(self.device) if tags == "given" else None
        kept = self.selected(outputs, allowed)[: self.config.detections]
        labels, scores, boxes = (outputs[name][kept] for name in ("labels", "scores", "boxes"))
        ratio = detection.ratio(size, self._scaled(sample)).to(self.device)
        masks = paste(outputs["masks"][kept], outputs["mask_boxes"][kept] / ratio, size, self.config.threshold)
        return detection.instance_prediction(sample, self.classes, boxes / ratio, labels, scores, masks)

    def selected(self, refined: Tensors, allowed: Tensor | None = None) -> Tensor:
        """Indices of an image's proposals that are objects, best first. allowed: (K,) which classes may be; None: all."""
        good = (refined["decided"] | (self.config.undecided == "keep")) & (refined["scores"] >= self.config.min_score)
        good &= True if allowed is None else allowed[refined["labels"] - 1]
        candidates: Tensor = good.nonzero().flatten()
        boxes, scores, labels = (refined[name][candidates] for name in ("boxes", "scores", "labels"))
        return candidates[roi.nms(boxes, scores, labels, self.config.nms, len(candidates))]

    def _scaled(self, sample: Sample) -> tuple[int, int]:
        """(H, W) to which an image is resized."""
        return detection.scaled(size_of(sample.image), self.config.scale, self.config.longest)


def joined(parts: Sequence[TrainingRegions]) -> TrainingRegions:
    """The regions of several images in one."""
    tensors = ("regions", "labels", "sizes", "truth", "extents", "ratio")
    stacked = {name: torch.cat([getattr(part, name) for part in parts]) for name in tensors}
    return TrainingRegions(**stacked, crops=[crop for part in parts for crop in part.crops])


# -- training --------------------------------------------------------------------------------------------------------


class StoredBoxes:
    """Proposals (P, 4) of each image, read from a run's store."""

    def __init__(self, store: ArrayStore) -> None:
        self.store = store

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.store.read(index)["boxes"])


def build(config: Config, classes: Sequence[str]) -> R2IOS:
    """A network with its first weights."""
    return R2IOS(config, classes)


def train(config: Config, data: Data, run: Run) -> R2IOS:
    """Learn from the object masks of `data`, first without the gate, then with it (sec. 3.3)."""
    data, boxes = data.having("instances"), None
    if config.proposals != "rpn":
        data = precompute.covered(data, config.proposals)
    run.expect("data", data.fingerprint)
    if config.proposals != "rpn":
        boxes = StoredBoxes(precompute.stored_proposals(data, config.proposals, config.count, run))
    run.seed("r2ios")
    network = build(config, data.classes).to(memory_format=torch.channels_last)
    items = detection.DetectionDataset(data, boxes, config.scale, config.longest, config.flip)
    fit(network, items, run, "recursion", config.steps, gate=False, warmup=config.warmup)
    if config.gate_steps:
        fit(network, items, run, "gate", config.gate_steps, gate=config.gate)
    return network


def fit(network: R2IOS, items: detection.DetectionDataset, run: Run, stage: str, steps: int, gate: bool, warmup: int = 0) -> None:
    """The training loop of both phases."""
    config = network.config
    # The pretrained layers learn at lr, the new ones at head_lr (sec. 4.1).
    wrapped, optimizer = run.setup(network, optim.two_rates(config, network, network.fork, config.fan_in))
    collate = partial(detection.collate, multiple=config.stride)
    for step, batch in run.steps(stage, items, steps, config.batch, model=wrapped, optimizer=optimizer, collate=collate):
        batch["gate"] = gate
        run.update(wrapped(batch), optimizer, schedule.warmup_step_decay(step, steps, config.drops, warmup))
