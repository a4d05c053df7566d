"""PDSL: parallel detection-and-segmentation learning (Shen et al., ICCV 2021). From image tags to object masks.

An image, its tags and its object proposals go in. A *detection* branch learns from the tags which proposals explain them
(WSDDN), and refines that by heads that each learn from the one before. A *segmentation* branch learns foreground in the same
proposals from a cue in the image itself (GrabCut), then what each class looks like, again head by head. A correlation loss
makes both agree: L = L_OD + L_IS + L_CL (eq. 1).

Shape letters: B batch, P proposals, R some of them, N pseudo objects, K classes, V views, M mask heads, D channels, S side of a
mask. In labels, class 0 is background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import roi_align

from frugalseg.boxes import iou, mirror
from frugalseg.data import detection
from frugalseg.data.dataset import Data
from frugalseg.data.weak_detection import Augmentation, EveryView, Item, TrainingItems
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.run import Run
from frugalseg.nets import backbone, optim, roi, schedule
from frugalseg.nets.layers import initialise, load_vgg_layers, narrowing
from frugalseg.nets.network import Network, Tensors, given_tags
from frugalseg.nets.paste import paste
from frugalseg.nets.trunk import joined_channels, standardized
from frugalseg.recipes.pdsl import Config
from frugalseg.regions import cues, precompute, proposals
from frugalseg.types import Prediction, Sample, size_of

BOX_SIZE = 7  # cells a side of a proposal's features for the detector (sec. 3.2)
MASK_SIZE = 28  # cells a side of a mask: the mask branch pools 14 and doubles them (released code)
MOMENT_IMAGES = 100  # images, at most, from which the mean and the standard deviation of each channel are computed
CHUNK = 256  # proposals at a time in the mask branch: all 2,000 would keep 5 GB for the gradient


# -- detection: L_OD (sec. 3.2) --------------------------------------------------------------------------------------


def wsddn_scores(classes: Tensor, places: Tensor) -> Tensor:
    """S⁰ = σ(C) ⊙ σ(Dᵀ)ᵀ, (P, K): softmax over classes times softmax over the proposals of the image; both logits (P, K).

    The softmax of a single class is always 1, from which no tag could be learned: its sigmoid replaces it.
    """
    logits = classes.float()
    return (logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)) * places.float().softmax(0)


def image_scores(scores: Tensor) -> Tensor:
    """y_c = Σ_r S⁰_rc, (K,). Limited, because rounding can lift a sum above 1 and the logarithm of 0 is not finite."""
    return scores.sum(0).clamp(1e-6, 1 - 1e-6)


def tag_loss(y: Tensor, tags: Tensor) -> Tensor:
    """L_OM of eq. 2, mean over the K classes with a known tag (nan is unknown), a scalar. y, tags: (K,)."""
    valid = ~tags.isnan()
    losses = -(tags.nan_to_num() * y.log() + (1 - tags.nan_to_num()) * (1 - y).log())
    return (losses * valid).sum() / valid.sum().clamp(min=1)


class Pseudo(NamedTuple):
    """Pseudo objects of a head, one for each tag. rows: (N,) their proposals. labels: (N,) in 1..K. boxes: (N, 4)."""

    rows: Tensor
    labels: Tensor
    boxes: Tensor


class Assigned(NamedTuple):
    """What each proposal has to learn. labels: (P,) in 0..K. weights: (P,). targets: (P, 4), the nearest pseudo object's box."""

    labels: Tensor
    weights: Tensor
    targets: Tensor


@torch.no_grad()
def pseudo_objects(scores: Tensor, tags: Tensor, proposals: Tensor, offsets: Tensor | None, size: tuple[int, int]) -> Pseudo:
    """For each tag the proposal of the highest score (sec. 3.2), with the box that its head predicts from it.

    scores: (P, K) of the head before. offsets: (P, K, 4) of that head, None where it has none. size: (H, W) of the image.
    """
    classes = (tags > 0).nonzero().flatten()
    rows = scores[:, classes].argmax(0)
    boxes = proposals[rows]
    if offsets is not None:
        boxes = roi.decode(boxes, offsets[rows, classes], boxes.new_tensor([size]).expand(len(rows), 2))
    return Pseudo(rows, classes + 1, boxes)


def apply_teacher_boxes(pseudo: Pseudo, proposals: Tensor, starts: Tensor) -> Pseudo:
    """Use the teacher's objects of a class, where it found any, instead of the pseudo ones. starts: (T, 2) proposal and label."""
    others = ~torch.isin(pseudo.labels, starts[:, 1])
    rows, labels = torch.cat([starts[:, 0], pseudo.rows[others]]), torch.cat([starts[:, 1], pseudo.labels[others]])
    return Pseudo(rows, labels, torch.cat([proposals[starts[:, 0]], pseudo.boxes[others]]))


@torch.no_grad()
def assign(proposals: Tensor, pseudo: Pseudo, y: Tensor, foreground: float = 0.5, ignore: float = 0.0) -> Assigned:
    """Class, weight and box to learn for each proposal.

    A proposal has the class of the pseudo object that it overlaps most if their IoU reaches `foreground`, else it is background.
    Its weight is y of that object's class, for background too (eq. 3); 0 below `ignore`, and where there is no pseudo object.
    """
    nearest, overlaps = roi.match(proposals, pseudo.boxes)
    if not len(pseudo.rows):
        return Assigned(nearest, proposals.new_zeros(len(proposals)), proposals.clone())
    inside = overlaps >= foreground
    weights = y[pseudo.labels - 1][nearest] * (overlaps >= ignore)
    return Assigned(torch.where(inside, pseudo.labels[nearest], 0), weights, pseudo.boxes[nearest])


def class_loss(scores: Tensor, assigned: Assigned) -> Tensor:
    """First term of eq. 3, a scalar: weighted cross-entropy of scores (P, K+1), mean over the proposals with a weight above 0."""
    losses = assigned.weights * F.cross_entropy(scores.float(), assigned.labels, reduction="none")
    return losses.sum() / (assigned.weights > 0).sum().clamp(min=1)


def box_loss(offsets: Tensor, proposals: Tensor, assigned: Assigned) -> Tensor:
    """Second term of eq. 3, a scalar: weighted L1 of the offsets (P, K, 4) of each object's class, over all proposals."""
    inside = (assigned.labels > 0).nonzero().flatten()
    targets = roi.encode(proposals[inside], assigned.targets[inside])
    predicted = offsets[inside, assigned.labels[inside] - 1].float()
    return (assigned.weights[inside] * (predicted - targets).abs().sum(1)).sum() / len(proposals)


# -- segmentation: L_IS (sec. 3.3) -----------------------------------------------------------------------------------


@torch.no_grad()
def seeds(proposals: Tensor, pseudo: Pseudo, count: int) -> Tensor:
    """Proposals that get a mask of the cue, ascending: for each tag the best one and its nearest, `count` in all."""
    if not len(pseudo.rows):
        return pseudo.rows
    overlaps = iou(proposals[pseudo.rows], proposals)
    overlaps[torch.arange(len(pseudo.rows)), pseudo.rows] = 2.0  # an equal box must not replace the best proposal
    rows: Tensor = torch.unique(overlaps.topk(min(count, len(proposals)), dim=1).indices)
    return rows


@torch.no_grad()
def cue_targets(cue: cues.Cue, item: Item, rows: Tensor, seed_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Targets (R, S, S) of proposals `rows` and which of them have one (R,): the cue's mask of the nearest seed, cropped.

    The cue sees the image without augmentation, so that its results can be cached: the masks are mirrored, not the image.
    """
    if not len(seed_rows):
        shape = len(rows), MASK_SIZE, MASK_SIZE
        return torch.zeros(shape, device=rows.device), torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    image = torch.from_numpy(item["cue_image"])
    seed_boxes = item["original_proposals"][seed_rows].cpu() * detection.ratio(item["original_size"], size_of(image))
    masks = cue(item["name"], image, seed_boxes)
    overlaps, nearest = iou(item["proposals"][rows], item["proposals"][seed_rows]).max(1)
    factors = detection.ratio(item["original_size"], size_of(masks)).to(rows.device)
    regions = torch.cat([nearest[:, None], item["cropped_proposals"][rows] * factors], 1)
    cells = roi_align(masks[:, None].float().to(rows.device), regions, MASK_SIZE, 1.0, 2, aligned=True)[:, 0]
    return (cells.flip(-1) if item["flip"] else cells) >= 0.5, overlaps > 0


def class_gradients(features: Tensor, y: Tensor, tags: Tensor) -> Tensor:
    """Grad-CAM of y (K,) for each tag, (K, h, w) in [0, 1]: the cue of the cascade (sec. 4.4). features: (1, D, h, w)."""
    maps = torch.zeros(len(tags), *features.shape[-2:], device=features.device)
    for label in (tags > 0).nonzero().flatten().tolist():
        (gradient,) = torch.autograd.grad(y[label], features, retain_graph=True)
        weighted = (gradient * features.detach()).sum(1)[0].relu()
        maps[label] = weighted / weighted.max().clamp(min=1e-12)
    return maps


def mask_losses(logits: Tensor, targets: Tensor, valid: Tensor, weights: Tensor, soft: bool = False) -> list[Tensor]:
    """The terms of eq. 5: cross-entropy of each mask head, mean over pixels.

    Each class-specific head learns from the head before; no gradient flows back into that one.

    logits: (1 + M, R, S, S), of M⁰, then of each class-specific head at the proposal's class. targets: (R, S, S) of the cue.
    valid: (R,) which proposals have one. weights: (R,) y of the proposal's class, 0 for background. soft: teach probabilities.
    """
    rows = F.binary_cross_entropy_with_logits(logits[0].float(), targets.float(), reduction="none").mean((1, 2)) * valid
    losses = [rows.sum() / valid.sum().clamp(min=1)]
    for student, teacher in zip(logits[1:], logits[:-1], strict=True):
        taught = teacher.detach().float().sigmoid()
        taught = taught if soft else (taught >= 0.5).float()
        rows = F.binary_cross_entropy_with_logits(student.float(), taught, reduction="none").mean((1, 2))
        losses.append((weights * rows).sum() / (weights > 0).sum().clamp(min=1))
    return losses


# -- correlation: L_CL (sec. 3.4) ------------------------------------------------------------------------------------


def activation(logits: Tensor, tau: float) -> Tensor:
    """a = 1/τ · log(mean(exp(τ · σ(M)))) of eq. 7, (..., R): between mean and maximum of a mask (..., R, S, S)."""
    probabilities = logits.float().sigmoid().flatten(-2)
    return (torch.logsumexp(tau * probabilities, -1) - math.log(probabilities.shape[-1])) / tau


def correlation_loss(logits: Tensor, scores: Tensor, inside: Tensor, tau: float = 5.0) -> Tensor:
    """L_CL of eqs. 6 and 8: mean over foreground proposals of |a − â|, summed over the M heads, a scalar.

    logits: (M, R, S, S). scores: (R,) â of the detector, into which no gradient flows. inside: (R,) bool, foreground.
    """
    differences = (activation(logits, tau) - scores.detach()).abs() * inside
    return differences.sum() / inside.sum().clamp(min=1)


# -- branches --------------------------------------------------------------------------------------------------------


class Detections(NamedTuple):
    """Output of the detection branch. wsddn: (P, K) S⁰. scores: of each head (P, K+1) logits. offsets: of each head (P, K, 4)."""

    wsddn: Tensor
    scores: list[Tensor]
    offsets: list[Tensor]


class DetectionBranch(nn.Module):
    """Two fully connected layers, the two streams of WSDDN, and the heads that refine them (sec. 3.2)."""

    def __init__(self, config: Config, channels: int, classes: int) -> None:
        super().__init__()
        self.classes, self.dropout = classes, nn.Dropout(config.dropout)
        self.fc6, self.fc7 = nn.Linear(channels * BOX_SIZE**2, config.width), nn.Linear(config.width, config.width)
        self.what, self.where = nn.Linear(config.width, classes), nn.Linear(config.width, classes)
        self.scores = nn.ModuleList(nn.Linear(config.width, classes + 1) for _ in range(config.n_refine))
        self.offsets = nn.ModuleList(nn.Linear(config.width, 4 * classes) for _ in range(config.n_refine))
        stds: list[tuple[nn.Module, float]] = [(self.fc6, 0.0), (self.fc7, 0.0), (self.what, 0.01), (self.where, 0.01)]
        stds += [(layer, 0.01) for layer in self.scores] + [(layer, 0.001) for layer in self.offsets]  # Fast R-CNN's
        for layer, std in stds:
            initialise(layer, std)

    def forward(self, cells: Tensor) -> Detections:
        """cells: (P, D, 7, 7) of all proposals of one image."""
        features = self.dropout(self.fc6(cells.flatten(1)).relu())
        features = self.dropout(self.fc7(features).relu())
        offsets = [layer(features).view(-1, self.classes, 4) for layer in self.offsets]
        wsddn = wsddn_scores(self.what(features), self.where(features))
        return Detections(wsddn, [layer(features) for layer in self.scores], offsets)


class MaskBranch(nn.Module):
    """Four convolutions and a deconvolution that all mask heads share, and a 1×1 convolution for each head (sec. 3.3)."""

    def __init__(self, config: Config, channels: int, classes: int) -> None:
        super().__init__()
        width = config.mask_channels
        rows = [nn.Conv2d(channels if number == 0 else width, width, 3, padding=1) for number in range(4)]
        self.trunk = nn.Sequential(*(layer for row in rows for layer in (row, nn.ReLU(inplace=True))))
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.agnostic = nn.Conv2d(width, 1, 1)
        self.specific = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in range(config.n_mask))
        for layer in (*rows, self.up):
            initialise(layer, 0.0)
        for head in (self.agnostic, *self.specific):
            initialise(head, 0.001)

    def forward(self, cells: Tensor, labels: Tensor) -> Tensor:
        """Logits (1 + M, R, S, S) of M⁰ and of each class-specific head at labels (R,) in 1..K, of cells (R, D, S/2, S/2)."""
        features = self.up(self.trunk(cells)).relu()
        specific = (class_channel(head, features, labels - 1) for head in self.specific)
        return torch.stack([self.agnostic(features)[:, 0], *specific])


def class_channel(head: nn.Module, features: Tensor, classes: Tensor) -> Tensor:
    """One channel (R, S, S) of a 1×1 convolution for each row, that of its class (R,): a K-th of the work of computing all."""
    weights, bias = head.get_parameter("weight").flatten(1)[classes], head.get_parameter("bias")[classes]
    return torch.einsum("rd,rdhw->rhw", weights, features) + bias[:, None, None]


# -- views at test ---------------------------------------------------------------------------------------------------


def view_transforms(config: Config) -> list[tuple[int, bool]]:
    """Scale and mirroring of each of the V views of an image whose results are averaged."""
    return [(scale, flip) for scale in config.test_scales for flip in (False, True)[: 1 + config.test_flip]]


class View(NamedTuple):
    """An image resized, perhaps mirrored.

    maps: (1, D, h, w), its features. size: (H, W). ratio: (4,), its pixels per pixel of the image.
    """

    maps: Tensor
    size: tuple[int, int]
    flip: bool
    ratio: Tensor

    def from_image(self, boxes: Tensor) -> Tensor:
        """Boxes (R, 4) of the image, in pixels of the view."""
        boxes = boxes * self.ratio
        return mirror(boxes, self.size[1]) if self.flip else boxes

    def to_image(self, boxes: Tensor) -> Tensor:
        """Boxes (R, 4) of the view, in pixels of the image."""
        return (mirror(boxes, self.size[1]) if self.flip else boxes) / self.ratio


# -- the network -----------------------------------------------------------------------------------------------------


class PDSL(Network):
    """Both branches on one backbone. It learns from the images of a batch one by one: the paper has one on each GPU.

    cue: finds the foreground in boxes; set by `train`, None where the gradient of the detector does it.
    """

    config: Config
    ragged = ("proposals",)

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        options = {name: getattr(config, name) for name in ("weights", "normalize", "level", "frozen", "freeze_norm")}
        self.backbone = backbone.build(config.backbone, config.stride, **options)
        joined = joined_channels(self.backbone, config.levels)
        self.norm = standardized(joined, config.standardize)
        self.narrow, channels = narrowing(joined, config.channels)
        self.detection = DetectionBranch(config, channels, len(self.classes))
        self.segmentation = MaskBranch(config, channels, len(self.classes))
        self.cue: cues.Cue | None = None
        if self.backbone.report:
            load_vgg_layers(self.detection.fc6, self.detection.fc7, self.backbone.report.source)

    @property
    def proposal_source(self) -> str:
        """A tool's name, a file or a folder."""
        return self.config.proposals

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but channels keep their mean and standard deviation: an image must give the same features alone."""
        super().train(mode)
        self.norm.eval()
        return self

    def encode(self, images: Tensor) -> Tensor:
        """The backbone's maps (B, D, h, w) of images (B, 3, H, W), or the joined maps of its `levels`."""
        images = images.float().to(memory_format=torch.channels_last)
        levels = self.config.levels
        return torch.cat(self.backbone.maps(images, levels), 1) if levels else self.backbone(images)

    def regions(self, boxes: Tensor) -> Tensor:
        """Boxes (R, 4) as RoIs (R, 5) of the only image, in the frame in which point i of the map lies on pixel i · stride."""
        return F.pad(boxes - self.backbone.shift, (1, 0))

    def detect(self, maps: Tensor, boxes: Tensor) -> Detections:
        """Output of the detection branch for boxes (P, 4) of one image. maps: (1, D, h, w)."""
        config, regions = self.config, self.regions(boxes)
        cells = roi.pool(maps, regions, BOX_SIZE, config.stride, config.sampling, config.pooling)
        detections: Detections = self.detection(cells)
        return detections

    def masks(self, maps: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Logits (1 + M, R, S, S) in boxes (R, 4) of classes (R,) in 1..K, in the memory of CHUNK boxes at a time."""

        def work(boxes: Tensor, labels: Tensor) -> Tensor:
            cells = roi.pool(maps, self.regions(boxes), MASK_SIZE // 2, self.config.stride, self.config.sampling)
            logits: Tensor = self.segmentation(cells, labels)
            return logits

        if len(boxes) <= CHUNK:
            return work(boxes, labels)
        parts = zip(torch.split(boxes, CHUNK), torch.split(labels, CHUNK), strict=True)
        return torch.cat([checkpoint(work, *part, use_reentrant=False) for part in parts], 1)

    # -- losses

    def forward(self, batch: Sequence[Item]) -> dict[str, Tensor]:
        """Losses of a batch of `TrainingItems`, the mean over its images."""
        losses = [self.losses(item) for item in batch]
        return {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}

    def losses(self, item: Item) -> dict[str, Tensor]:
        """The terms of eq. 1 for one image."""
        features = self.norm(item["features"].float() if "features" in item else self.encode(item["image"][None]))
        by_gradient = self.config.cue == "gradient"
        features = features.requires_grad_() if by_gradient and not features.requires_grad else features
        maps = self.narrow(features)
        detections = self.detect(maps, item["proposals"])
        y = image_scores(detections.wsddn)
        losses, scores, offsets = self.refinement_losses(item, detections, y.detach())
        pseudo = pseudo_objects(scores, item["tags"], item["proposals"], offsets, item["size"])
        assigned = assign(item["proposals"], pseudo, y.detach(), self.config.foreground)
        gradients = class_gradients(features, y, item["tags"]) if by_gradient else None
        segmentation = self.segmentation_losses(item, maps, scores, pseudo, assigned, gradients)
        return {"tags": tag_loss(y, item["tags"])} | losses | segmentation

    def refinement_losses(self, item: Item, detections: Detections, y: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Eq. 3 summed over the heads, each of which learns from the one before; scores (P, K) and offsets of the last one."""
        config, boxes, tags = self.config, item["proposals"], item["tags"]
        losses = {"class": y.new_zeros(()), "box": y.new_zeros(())}
        scores, offsets = detections.wsddn.detach(), None
        for number, (head, box_offsets) in enumerate(zip(detections.scores, detections.offsets, strict=True)):
            pseudo = pseudo_objects(scores, tags, boxes, offsets, item["size"])
            if number == 0 and "starts" in item:
                pseudo = apply_teacher_boxes(pseudo, boxes, item["starts"])
            assigned = assign(boxes, pseudo, y, config.foreground, config.ignore_iou)
            losses["class"] = losses["class"] + class_loss(head, assigned)
            losses["box"] = losses["box"] + box_loss(box_offsets, boxes, assigned)
            scores, offsets = head.detach().float().softmax(1)[:, 1:], box_offsets.detach()
        return losses, scores, offsets

    def segmentation_losses(
        self, item: Item, maps: Tensor, scores: Tensor, pseudo: Pseudo, assigned: Assigned, gradients: Tensor | None
    ) -> dict[str, Tensor]:
        """L_IS and L_CL. scores: (P, K) of the last detection head. gradients: see `class_gradients`; None asks the cue."""
        config, rows = self.config, self.mask_rows(assigned)
        labels, inside = assigned.labels[rows].clamp(min=1), assigned.labels[rows] > 0
        logits = self.masks(maps, item["proposals"][rows], labels)
        if gradients is None:
            assert self.cue is not None, "`train` sets the cue"
            targets, valid = cue_targets(self.cue, item, rows, seeds(item["proposals"], pseudo, config.n_seed))
        else:
            targets, valid = self.gradient_targets(gradients, item["proposals"][rows], labels), inside
        agnostic, *specific = mask_losses(logits, targets, valid, assigned.weights[rows] * inside, config.soft_targets)
        losses = {"agnostic": agnostic, "mask": torch.stack([agnostic * 0, *specific]).sum()}
        if config.correlation:
            losses["correlation"] = correlation_loss(logits[1:], scores[rows, labels - 1], inside, config.tau)
        return losses

    def mask_rows(self, assigned: Assigned) -> Tensor:
        """The proposals (R,) that mask heads learn from: all, or the foreground, and the first where there is none."""
        inside = assigned.labels > 0
        if self.config.agnostic_on == "all":
            return torch.arange(len(inside), device=inside.device)
        rows = inside.nonzero().flatten()
        return rows if len(rows) else rows.new_zeros(1)

    def gradient_targets(self, gradients: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Targets (R, S, S) of boxes (R, 4): where their class's map (K, h, w) passes half of its highest value in the box."""
        regions = torch.cat([labels[:, None] - 1.0, self.regions(boxes)[:, 1:]], 1)
        cells = roi.pool(gradients[:, None], regions, MASK_SIZE, self.config.stride)[:, 0]
        return (cells >= 0.5 * cells.amax((1, 2), keepdim=True)) & (cells > 0)

    # -- prediction

    def preprocess(self, sample: Sample, tags: str = "predicted") -> Tensors:
        """Inputs of one image.

        view0, view1, … (3, H', W') uint8, its views; ratios (V, 4), their pixels per pixel of the image; proposals (P, 4); size
        (2,) of the image; allowed (K,) bool, the classes that may be found.
        """
        size, image = size_of(sample.image), sample.image.to(self.device)
        boxes = proposals.at_least_one(sample, self.config.proposals, self.config.count)
        allowed = given_tags(sample) > 0 if tags == "given" else torch.ones(len(self.classes), dtype=torch.bool)
        inputs, ratios = {"proposals": boxes, "allowed": allowed, "size": torch.tensor(size)}, []
        for number, (scale, flip) in enumerate(view_transforms(self.config)):
            view = detection.resized(image, detection.scaled(size, scale, self.config.longest))
            inputs[f"view{number}"] = view.flip(-1) if flip else view
            ratios.append(detection.ratio(size, size_of(view)))
        return {name: value.to(self.device) for name, value in (inputs | {"ratios": torch.stack(ratios)}).items()}

    def infer(self, batch: Tensors) -> Tensors:
        """The objects of each image, best first: boxes (N, 4), labels (N,), scores (N,), and masks (N, S, S), see `objects`."""
        parts = zip(self.views(batch), batch["proposals"], batch["allowed"], batch["size"], strict=True)
        images = [self.objects(*part) for part in parts]
        return {name: [image[name] for image in images] for name in images[0]}

    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        """The objects with masks at the image's size: pasted, or by GrabCut in their boxes."""
        config, boxes = self.config, outputs["boxes"]
        if "masks" in outputs:
            codes = paste(outputs["masks"], boxes, size_of(sample.image), config.threshold)
        else:
            cue = cues.GrabCut(config.cue_side, config.cue_iterations, config.cue_cut, keep=False)
            codes = cues.codes(cue, sample.name, sample.image.as_subclass(Tensor).cpu(), boxes.cpu())
        return detection.instance_prediction(sample, self.classes, boxes, outputs["labels"], outputs["scores"], codes)

    def views(self, batch: Tensors) -> list[list[View]]:
        """The V views of each image of a batch, with their features."""
        views = []
        for number, (_, flip) in enumerate(view_transforms(self.config)):
            images = batch[f"view{number}"]
            maps = self.narrow(self.norm(self.encode(images)))
            ratios = batch["ratios"][:, number]
            pairs = zip(maps, ratios, strict=True)
            views.append([View(features[None], size_of(images), flip, ratio) for features, ratio in pairs])
        return [list(image) for image in zip(*views, strict=True)]

    def objects(self, views: Sequence[View], boxes: Tensor, allowed: Tensor, size: Tensor) -> Tensors:
        """The objects of an image, best first: boxes, labels, scores, and masks (N, S, S) of probabilities unless by GrabCut.

        boxes: (P, 4), its proposals. allowed: (K,) bool. size: (2,) of the image.
        """
        config = self.config
        scores, moved = self.scores(views, boxes, size)
        row, label = ((scores >= config.min_score) & allowed).nonzero().T
        kept = roi.nms(moved[row, label], scores[row, label], label, config.nms, config.detections)
        row, label = row[kept], label[kept]
        objects = {"boxes": moved[row, label], "labels": label + 1, "scores": scores[row, label]}
        if config.masks == "grabcut":
            return objects
        return objects | {"masks": self.mask_probabilities(views, objects["boxes"], objects["labels"])}

    def scores(self, views: Sequence[View], boxes: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P, K) and boxes (P, K, 4) in the image's pixels: the mean over heads and views, row by row, before NMS."""
        scores, moved = boxes.new_zeros(len(boxes), len(self.classes)), boxes.new_zeros(len(boxes), len(self.classes), 4)
        for view in views:
            view_scores, view_boxes = self.view_scores(view, view.from_image(boxes))
            scores = scores + view_scores / len(views)
            moved = moved + view.to_image(view_boxes.flatten(0, 1)).view_as(moved) / len(views)
        limits = size[None].expand(moved[..., 0].numel(), 2)
        return scores, roi.clip(moved.flatten(0, 1), limits).view_as(moved)

    def view_scores(self, view: View, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P, K) and boxes (P, K, 4) of one view, the mean over the heads; WSDDN's without heads that refine it."""
        detections = self.detect(view.maps, boxes)
        if not detections.scores:
            return detections.wsddn, boxes[:, None].expand(-1, len(self.classes), 4)
        scores = torch.stack([head.float().softmax(1)[:, 1:] for head in detections.scores]).mean(0)
        start = boxes[:, None].expand(-1, len(self.classes), 4).flatten(0, 1)
        limits = boxes.new_tensor([view.size]).expand(len(start), 2)
        moved = torch.stack([roi.decode(start, offsets.flatten(0, 1), limits) for offsets in detections.offsets]).mean(0)
        return scores, moved.view(*scores.shape, 4)

    def mask_probabilities(self, views: Sequence[View], boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (R, S, S) of the masks in boxes (R, 4): the mean logit over class-specific heads and views.

        M⁰'s where these reach the threshold nowhere: correlation lowers the masks of a doubtful object everywhere. Where M⁰ does
        not reach it either, its values as shares of their highest: a detected object has a mask.
        """
        totals = boxes.new_zeros(2, len(boxes), MASK_SIZE, MASK_SIZE)
        for view in views if len(boxes) else ():
            agnostic, *specific = self.masks(view.maps, view.from_image(boxes), labels).float()
            both = torch.stack([agnostic, torch.stack(specific or [agnostic]).mean(0)])
            totals += (both.flip(-1) if view.flip else both) / len(views)
        agnostic, mean = totals.sigmoid()
        peak = agnostic.amax((1, 2), keepdim=True)
        agnostic = torch.where(peak >= self.config.threshold, agnostic, agnostic / peak.clamp(min=1e-30))
        return torch.where(mean.amax((1, 2), keepdim=True) >= self.config.threshold, mean, agnostic)


# -- training --------------------------------------------------------------------------------------------------------


def build(config: Config, classes: Sequence[str]) -> PDSL:
    """The network with its first weights."""
    return PDSL(config, classes)


def train(config: Config, data: Data, run: Run, starts: Callable[[Data], Data] | None = None) -> PDSL:
    """Learn from the tags of `data` and from nothing else.

    starts: returns the data with the objects that the run `start_from` finds in it, given their tags.
    """
    data = precompute.covered(data.only("image", "tags").having("tags"), config.proposals)
    run.expect("data", data.fingerprint)
    run.seed("pdsl")
    network = build(config, data.classes).to(memory_format=torch.channels_last)  # first: its errors come before long work
    network.cue = cues.cue_from_config(config) if config.cue != "gradient" else None
    teacher = starts(data) if starts else None
    boxes = precompute.stored_proposals(data, config.proposals, config.count, run)
    network.backbone.to(run.device).eval()  # statistics and cached features are computed as at test
    if config.standardize:
        standardize(network, data, run)
    augmentation = Augmentation(config.scales, config.longest, config.flip, config.crop, config.jitter)
    items = TrainingItems(data, boxes, augmentation, config.cue_side, teacher)
    if config.cache_features:
        items.features = cache_features(network, items, run)
    model, optimizer = run.setup(network.train(), optim.two_rates_free_biases(config, network, network.backbone, config.fan_in))
    for step, batch in run.steps("pdsl", items, config.steps, config.batch, model=model, optimizer=optimizer):
        rate = schedule.warmup_step_decay(step, config.steps, config.drops, config.warmup)
        run.update(model(batch), optimizer, rate)
    return network


def cache_features(network: PDSL, items: TrainingItems, run: Run) -> ArrayStore:
    """The maps of a frozen backbone for all images, scales and mirrorings, in half precision."""
    if any(parameter.requires_grad for parameter in network.backbone.parameters()):
        blocks = len(network.backbone.blocks)
        raise ValueError(f"cache_features: the backbone learns; type --frozen {blocks} --freeze-norm, or leave the cache")

    @torch.no_grad()
    def compute(_: int, image: Tensor) -> dict[str, np.ndarray]:
        return {"features": network.encode(image[None].to(run.device)).half().numpy(force=True)}

    return run.each("features", EveryView(items), compute)


def standardize(network: PDSL, data: Data, run: Run) -> None:
    """Set the mean and the standard deviation of each channel that `norm` removes, from some images at the middle scale."""
    config = network.config
    scale = sorted(config.scales)[len(config.scales) // 2]
    some = data.select(range(0, len(data), math.ceil(len(data) / MOMENT_IMAGES)))

    @torch.no_grad()
    def compute(_: int, sample: Sample) -> dict[str, np.ndarray]:
        image = detection.resized(sample.image, detection.scaled(size_of(sample.image), scale, config.longest))
        features = network.encode(image[None].to(run.device)).double()
        return {"moments": torch.stack([features.mean((0, 2, 3)), features.square().mean((0, 2, 3))]).numpy(force=True)}

    store = run.each("statistics", some, compute)
    first, second = torch.from_numpy(np.mean([store.read(index)["moments"] for index in range(len(some))], 0))
    network.norm.get_buffer("running_mean").copy_(first)
    network.norm.get_buffer("running_var").copy_(second - first.square())
