"""PDSL: parallel detection-and-segmentation learning (Shen et al., ICCV 2021). From image tags to object masks.

A picture, its tags and its object proposals go in. A *detection* branch learns from the tags which proposals explain them
(WSDDN), and refines that by heads that each learn from the one before. A *segmentation* branch learns foreground in the same
proposals from a cue in the picture itself (GrabCut), then what each class looks like, again head by head. A correlation loss
makes both agree: L = L_OD + L_IS + L_CL (eq. 1).

Shape letters: P proposals, R some of them, N pseudo objects, K classes, M mask heads, D channels, S side of a mask. In labels,
class 0 is background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import box_area, box_iou, roi_align

from frugalseg.data import detection
from frugalseg.data.transforms import shrink
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.run import Run
from frugalseg.nets import backbone, optim, roi, schedule, tag_classifier
from frugalseg.nets.layers import initialise, narrowing
from frugalseg.nets.paste import paste
from frugalseg.nets.weights import load_weights
from frugalseg.recipes.checks import restored
from frugalseg.recipes.pdsl import Config
from frugalseg.regions import cues, precompute, proposals
from frugalseg.types import Prediction, Sample

BOX_SIZE = 7  # cells a side of a proposal's features for the detector (sec. 3.2)
MASK_SIZE = 28  # cells a side of a mask: the mask branch pools 14 and doubles them (released code)
STANDARD = 100  # pictures, at most, that tell the mean and the deviation of each channel
CHUNK = 256  # proposals at a time in the mask branch: all 2,000 would keep 5 GB for the gradient

Item = dict[str, Any]

# -- detection: L_OD (sec. 3.2) --------------------------------------------------------------------------------------


def wsddn_scores(classes: Tensor, places: Tensor) -> Tensor:
    """S⁰ = σ(C) ⊙ σ(Dᵀ)ᵀ, (P, K): softmax over classes times softmax over the proposals of the picture; both logits (P, K).

    The softmax of a single class is 1 whatever is shown, so that no tag could be learned: its sigmoid stands in.
    """
    what = classes.float()
    return (what.sigmoid() if what.shape[1] == 1 else what.softmax(1)) * places.float().softmax(0)


def image_scores(scores: Tensor) -> Tensor:
    """y_c = Σ_r S⁰_rc, (K,). Rounding can push a sum past 1, and the logarithm of 0 is no number, hence the limits."""
    return scores.sum(0).clamp(1e-6, 1 - 1e-6)


def tag_loss(y: Tensor, tags: Tensor) -> Tensor:
    """L_OM of eq. 2, mean over the K classes whose tag is known (nan is unknown), a scalar. y, tags: (K,)."""
    known = ~tags.isnan()
    losses = -(tags.nan_to_num() * y.log() + (1 - tags.nan_to_num()) * (1 - y).log())
    return (losses * known).sum() / known.sum().clamp(min=1)


class Pseudo(NamedTuple):
    """Objects that a head believes in, one for each tag. rows: (N,) their proposals. labels: (N,) in 1..K. boxes: (N, 4)."""

    rows: Tensor
    labels: Tensor
    boxes: Tensor


class Assigned(NamedTuple):
    """What pseudo objects make of each proposal. labels: (P,) in 0..K. weights: (P,). targets: (P, 4), the nearest one's box."""

    labels: Tensor
    weights: Tensor
    targets: Tensor


@torch.no_grad()
def pseudo_objects(scores: Tensor, tags: Tensor, proposals: Tensor, offsets: Tensor | None, size: tuple[int, int]) -> Pseudo:
    """For each tag the proposal of highest score (sec. 3.2), with the box its head moved it to.

    scores: (P, K) of the head before. offsets: (P, K, 4) of that head, None where it has none. size: (H, W) of the picture.
    """
    classes = (tags > 0).nonzero().flatten()
    rows = scores[:, classes].argmax(0)
    boxes = proposals[rows]
    if offsets is not None:
        boxes = roi.decode(boxes, offsets[rows, classes], boxes.new_tensor([size]).expand(len(rows), 2))
    return Pseudo(rows, classes + 1, boxes)


def begun(pseudo: Pseudo, proposals: Tensor, starts: Tensor) -> Pseudo:
    """Objects that another model found, starts (S, 2) of proposal and label, in place of a head's own of the same labels."""
    others = ~torch.isin(pseudo.labels, starts[:, 1])
    rows, labels = torch.cat([starts[:, 0], pseudo.rows[others]]), torch.cat([starts[:, 1], pseudo.labels[others]])
    return Pseudo(rows, labels, torch.cat([proposals[starts[:, 0]], pseudo.boxes[others]]))


@torch.no_grad()
def assign(proposals: Tensor, pseudo: Pseudo, y: Tensor, foreground: float = 0.5, ignore: float = 0.0) -> Assigned:
    """Class, weight and box to learn for each proposal.

    A proposal is the pseudo object it overlaps most if their IoU reaches `foreground`, else background. It weighs y of that
    object's class, background too (eq. 3); below `ignore`, and where there is no pseudo object at all, it weighs nothing.
    """
    nearest, overlaps = roi.match(proposals, pseudo.boxes)
    if not len(pseudo.rows):
        return Assigned(nearest, proposals.new_zeros(len(proposals)), proposals.clone())
    inside = overlaps >= foreground
    weights = y[pseudo.labels - 1][nearest] * (overlaps >= ignore)
    return Assigned(torch.where(inside, pseudo.labels[nearest], 0), weights, pseudo.boxes[nearest])


def class_loss(scores: Tensor, assigned: Assigned) -> Tensor:
    """First term of eq. 3, a scalar: weighted cross-entropy of scores (P, K+1), over the proposals that weigh anything."""
    losses = assigned.weights * F.cross_entropy(scores.float(), assigned.labels, reduction="none")
    return losses.sum() / (assigned.weights > 0).sum().clamp(min=1)


def box_loss(offsets: Tensor, proposals: Tensor, assigned: Assigned) -> Tensor:
    """Second term of eq. 3, a scalar: weighted L1 of the offsets (P, K, 4) of each object's class, over all proposals."""
    inside = (assigned.labels > 0).nonzero().flatten()
    aims = roi.encode(proposals[inside], assigned.targets[inside])
    own = offsets[inside, assigned.labels[inside] - 1].float()
    return (assigned.weights[inside] * (own - aims).abs().sum(1)).sum() / len(proposals)


# -- segmentation: L_IS (sec. 3.3) -----------------------------------------------------------------------------------


@torch.no_grad()
def seeds(proposals: Tensor, pseudo: Pseudo, count: int) -> Tensor:
    """Proposals for which the cue is asked, ascending: for each tag the `count` nearest to its best proposal, itself too."""
    if not len(pseudo.rows):
        return pseudo.rows
    overlaps = box_iou(proposals[pseudo.rows], proposals)
    overlaps[torch.arange(len(pseudo.rows)), pseudo.rows] = 2.0  # a twin of the best proposal must not take its place
    return overlaps.topk(min(count, len(proposals)), dim=1).indices.unique()


def mask_losses(logits: Tensor, targets: Tensor, known: Tensor, weights: Tensor, soft: bool = False) -> list[Tensor]:
    """The terms of eq. 5: cross-entropy of each mask head, mean over pixels.

    Each class-specific head learns from the head before, which learns nothing from it.

    logits: (1 + M, R, S, S), of M⁰, then of each class-specific head at the proposal's class. targets: (R, S, S) of the cue.
    known: (R,) which proposals have one. weights: (R,) y of the proposal's class, 0 for background. soft: teach probabilities.
    """
    rows = F.binary_cross_entropy_with_logits(logits[0].float(), targets.float(), reduction="none").mean((1, 2)) * known
    losses = [rows.sum() / known.sum().clamp(min=1)]
    for taught, teacher in zip(logits[1:], logits[:-1], strict=True):
        aims = teacher.detach().float().sigmoid()
        aims = aims if soft else (aims >= 0.5).float()
        rows = F.binary_cross_entropy_with_logits(taught.float(), aims, reduction="none").mean((1, 2))
        losses.append((weights * rows).sum() / (weights > 0).sum().clamp(min=1))
    return losses


# -- correlation: L_CL (sec. 3.4) ------------------------------------------------------------------------------------


def activation(logits: Tensor, tau: float) -> Tensor:
    """a = 1/τ · log(mean(exp(τ · σ(M)))) of eq. 7, (..., R): between mean and maximum of a mask (..., R, S, S)."""
    probabilities = logits.float().sigmoid().flatten(-2)
    return (torch.logsumexp(tau * probabilities, -1) - math.log(probabilities.shape[-1])) / tau


def correlation_loss(logits: Tensor, scores: Tensor, inside: Tensor, tau: float = 5.0) -> Tensor:
    """L_CL of eqs. 6 and 8: mean over foreground proposals of |a − â|, summed over the M heads, a scalar.

    logits: (M, R, S, S). scores: (R,) â, the detector's, which learns nothing from it. inside: (R,) bool, foreground.
    """
    apart = (activation(logits, tau) - scores.detach()).abs() * inside
    return apart.sum() / inside.sum().clamp(min=1)


# -- networks --------------------------------------------------------------------------------------------------------


class Detections(NamedTuple):
    """What the detection branch says. wsddn: (P, K) S⁰. scores: of each head (P, K+1) logits. offsets: of each head (P, K, 4)."""

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
        deviations: list[tuple[nn.Module, float]] = [(self.fc6, 0.0), (self.fc7, 0.0), (self.what, 0.01), (self.where, 0.01)]
        deviations += [(layer, 0.01) for layer in self.scores] + [(layer, 0.001) for layer in self.offsets]  # Fast R-CNN's
        for layer, deviation in deviations:
            initialise(layer, deviation)

    def forward(self, cells: Tensor) -> Detections:
        """cells: (P, D, 7, 7) of all proposals of one picture."""
        features = self.dropout(self.fc6(cells.flatten(1)).relu())
        features = self.dropout(self.fc7(features).relu())
        offsets = [layer(features).view(-1, self.classes, 4) for layer in self.offsets]
        return Detections(wsddn_scores(self.what(features), self.where(features)), [f(features) for f in self.scores], offsets)


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
        for layer, deviation in [
            *((row, 0.0) for row in (*rows, self.up)),
            *((f, 0.001) for f in (self.agnostic, *self.specific)),
        ]:
            initialise(layer, deviation)

    def forward(self, cells: Tensor, labels: Tensor) -> Tensor:
        """Logits (1 + M, R, S, S) of M⁰ and of each class-specific head at labels (R,) in 1..K, of cells (R, D, S/2, S/2)."""
        features = self.up(self.trunk(cells)).relu()
        return torch.stack([self.agnostic(features)[:, 0], *(chosen(head, features, labels - 1) for head in self.specific)])


def chosen(head: nn.Module, features: Tensor, classes: Tensor) -> Tensor:
    """One channel (R, S, S) of a 1×1 convolution for each row, the one of its class (R,): K times less than computing all."""
    weights, bias = head.get_parameter("weight").flatten(1)[classes], head.get_parameter("bias")[classes]
    return torch.einsum("rd,rdhw->rhw", weights, features) + bias[:, None, None]


def looks(config: Config) -> tuple[int, int, int]:
    """How GrabCut sees a picture."""
    return config.cue_side, config.cue_iterations, config.cue_cut


# -- the model -------------------------------------------------------------------------------------------------------


class PDSL(nn.Module):
    """Both branches on one backbone. Pictures are computed one by one: the paper has one on each GPU, and none sees another."""

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__()
        self.config, self.classes = config, tuple(classes)
        options: dict[str, Any] = {"weights": config.weights, "normalize": config.normalize, "level": config.level}
        options |= {"frozen": config.frozen, "freeze_norm": config.freeze_norm}
        self.backbone = backbone.build(config.backbone, config.stride, **options)
        joined = tag_classifier.joined_channels(self.backbone, config.levels)
        self.norm = tag_classifier.standardized(joined, config.standardize)
        self.narrow, channels = narrowing(joined, config.channels)
        self.detection = DetectionBranch(config, channels, len(self.classes))
        self.segmentation = MaskBranch(config, channels, len(self.classes))
        self.cue = None if config.cue == "gradient" else cues.cue(config.cue, *looks(config))
        if self.backbone.report and config.backbone.startswith("vgg16") and config.width == 4096 and not config.channels:
            # VGG-16's own fully connected layers read the same 7 × 7 cells.
            names = {"classifier.0.": "fc6.", "classifier.3.": "fc7."}
            load_weights(self.detection, self.backbone.report.source, prefixes=names, least=0.0)

    def train(self, mode: bool = True) -> PDSL:
        """As nn.Module's, but means and deviations stay: pictures come one by one, and each must look the same alone."""
        super().train(mode)
        self.norm.eval()
        return self

    def encode(self, image: Tensor) -> Tensor:
        """The backbone's map (1, D, h, w) of a picture (3, H, W), or the joined maps of its `levels`."""
        images = image[None].float().to(memory_format=torch.channels_last)
        levels = self.config.levels
        return torch.cat(self.backbone.maps(images, levels), 1) if levels else self.backbone(images)

    def regions(self, boxes: Tensor) -> Tensor:
        """Boxes (R, 4) as RoIs (R, 5) of the only picture, in the frame in which point i of the map lies on pixel i · stride."""
        return F.pad(boxes - self.backbone.shift, (1, 0))

    def detect(self, features: Tensor, boxes: Tensor) -> Detections:
        """Both parts of the detection branch on boxes (P, 4)."""
        config, regions = self.config, self.regions(boxes)
        return self.detection(roi.pool(features, regions, BOX_SIZE, config.stride, config.sampling, config.pooling))

    def masks(self, features: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Logits (1 + M, R, S, S) of boxes (R, 4) of classes (R,) in 1..K, in the memory of CHUNK boxes at a time."""

        def work(boxes: Tensor, labels: Tensor) -> Tensor:
            cells = roi.pool(features, self.regions(boxes), MASK_SIZE // 2, self.config.stride, self.config.sampling)
            return self.segmentation(cells, labels)

        if len(boxes) <= CHUNK:
            return work(boxes, labels)
        parts = zip(boxes.split(CHUNK), labels.split(CHUNK), strict=True)
        return torch.cat([checkpoint(work, *part, use_reentrant=False) for part in parts], 1)

    # -- training

    def forward(self, batch: Sequence[Item]) -> dict[str, Tensor]:
        """Losses of a batch of items of `Views`, the mean over its pictures."""
        losses = [self.losses(item) for item in batch]
        return {name: torch.stack([own[name] for own in losses]).mean() for name in losses[0]}

    def losses(self, item: Item) -> dict[str, Tensor]:
        """The terms of eq. 1 for one picture."""
        features = self.norm(item["features"].float() if "features" in item else self.encode(item["image"]))
        if self.cue is None:
            features = features.requires_grad_() if not features.requires_grad else features
        maps = self.narrow(features)
        boxes, tags, size = item["proposals"], item["tags"], item["size"]
        found = self.detect(maps, boxes)
        y = image_scores(found.wsddn)
        losses = {"tags": tag_loss(y, tags), "class": y.new_zeros(()), "box": y.new_zeros(())}
        scores, before = found.wsddn.detach(), None
        for number, (head, offsets) in enumerate(zip(found.scores, found.offsets, strict=True)):
            pseudo = pseudo_objects(scores, tags, boxes, before, size)
            pseudo = begun(pseudo, boxes, item["starts"]) if number == 0 and "starts" in item else pseudo
            assigned = assign(boxes, pseudo, y.detach(), self.config.foreground, self.config.ignore_iou)
            losses["class"] = losses["class"] + class_loss(head, assigned)
            losses["box"] = losses["box"] + box_loss(offsets, boxes, assigned)
            scores, before = head.detach().float().softmax(1)[:, 1:], offsets.detach()
        pseudo = pseudo_objects(scores, tags, boxes, before, size)
        assigned = assign(boxes, pseudo, y.detach(), self.config.foreground)
        return losses | self.mask_terms(item, maps, scores, pseudo, assigned, self.gradients(features, y, tags))

    def mask_terms(
        self, item: Item, maps: Tensor, scores: Tensor, pseudo: Pseudo, assigned: Assigned, heat: Tensor | None
    ) -> dict[str, Tensor]:
        """L_IS and L_CL: of all proposals, or of the foreground. scores: (P, K) of the last detection head."""
        boxes, inside = item["proposals"], assigned.labels > 0
        rows = inside.nonzero().flatten() if self.config.agnostic_on == "foreground" else torch.arange(len(inside))
        rows = rows.to(inside.device) if len(rows) else torch.zeros_like(inside[:1], dtype=torch.long)
        labels, inside = assigned.labels[rows].clamp(min=1), inside[rows]
        logits = self.masks(maps, boxes[rows], labels)
        if heat is None:
            aims, known = self.cued(item, rows, pseudo)
        else:
            aims, known = self.heated(heat, boxes[rows], labels), inside
        weights = assigned.weights[rows] * inside
        first, *others = mask_losses(logits, aims, known, weights, self.config.soft_targets)
        losses = {"agnostic": first, "mask": torch.stack([first * 0, *others]).sum()}
        if self.config.correlation:
            losses["correlation"] = correlation_loss(logits[1:], scores[rows, labels - 1], inside, self.config.tau)
        return losses

    @torch.no_grad()
    def cued(self, item: Item, rows: Tensor, pseudo: Pseudo) -> tuple[Tensor, Tensor]:
        """Targets (R, S, S) of proposals `rows` and which have one (R,): the cue of the seed that each overlaps most, cut out.

        The cue sees the picture as it is stored, so that its results can be kept: masks are mirrored, not pictures.
        """
        assert self.cue is not None
        chosen_rows = seeds(item["proposals"], pseudo, self.config.n_seed)
        shape = len(rows), MASK_SIZE, MASK_SIZE
        if not len(chosen_rows):
            return torch.zeros(shape, device=rows.device), torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        picture = torch.from_numpy(item["picture"])
        sources = item["sources"][chosen_rows].cpu() * detection.ratio(item["own"], (picture.shape[1], picture.shape[2]))
        masks = self.cue(item["name"], picture, sources)
        overlaps, nearest = box_iou(item["proposals"][rows], item["proposals"][chosen_rows]).max(1)
        factors = detection.ratio(item["own"], (masks.shape[1], masks.shape[2])).to(rows.device)
        regions = torch.cat([nearest[:, None], item["places"][rows] * factors], 1)
        cells = roi_align(masks[:, None].float().to(rows.device), regions, MASK_SIZE, 1.0, 2, aligned=True)[:, 0]
        return (cells.flip(-1) if item["flip"] else cells) >= 0.5, overlaps > 0

    def gradients(self, features: Tensor, y: Tensor, tags: Tensor) -> Tensor | None:
        """Where the map speaks for each class, (K, h, w) in [0, 1], by the gradient of y: the cascade of sec. 4.4, else None."""
        if self.cue is not None:
            return None
        heat = torch.zeros(len(tags), *features.shape[-2:], device=features.device)
        for label in (tags > 0).nonzero().flatten().tolist():
            (gradient,) = torch.autograd.grad(y[label], features, retain_graph=True)
            own = (gradient * features.detach()).sum(1)[0].relu()
            heat[label] = own / own.max().clamp(min=1e-12)
        return heat

    def heated(self, heat: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Targets (R, S, S) of boxes (R, 4): where their class's map passes half of its highest value in the box."""
        regions = self.regions(boxes)
        cells = roi.pool(heat[:, None], torch.cat([labels[:, None] - 1.0, regions[:, 1:]], 1), MASK_SIZE, self.config.stride)[
            :, 0
        ]
        return (cells >= 0.5 * cells.amax((1, 2), keepdim=True)) & (cells > 0)

    # -- prediction

    @torch.no_grad()
    def predict(self, samples: Iterable[Sample], tags: str = "predicted") -> list[Prediction]:
        """Objects of each picture, from its own proposals if it has any. tags: "given" keeps its tagged classes only."""
        self.eval()
        return [self._predict(sample, tags) for sample in samples]

    def _predict(self, sample: Sample, tags: str) -> Prediction:
        own = (int(sample.image.shape[-2]), int(sample.image.shape[-1]))
        device = next(self.parameters()).device
        boxes = proposals.some(sample, self.config.proposals, self.config.count).to(device)
        views = [self.view(sample.image.to(device), scale, flip) for scale, flip in self.looks()]
        scores, moved = self.scores(views, boxes, own)
        if tags == "given":
            scores = scores * detection.allowed(sample).to(scores)
        row, label = (scores >= self.config.min_score).nonzero().T
        row, label = (row, label) if tags != "given" else (row[scores[row, label] > 0], label[scores[row, label] > 0])
        kept = roi.nms(moved[row, label], scores[row, label], label, self.config.nms, self.config.detections)
        row, label = row[kept], label[kept]
        found = moved[row, label]
        if self.config.masks == "grabcut":
            tool = cues.GrabCut(*looks(self.config), keep=False)
            codes = cues.codes(tool, sample.name, sample.image.as_subclass(Tensor).cpu(), found.cpu())
        else:
            codes = paste(self.foreground(views, found, label + 1, own), found, own, self.config.threshold)
        return detection.predicted(sample, self.classes, found, label + 1, scores[row, label], codes)

    def looks(self) -> list[tuple[int, bool]]:
        """The scales and mirrorings of a picture at test."""
        return [(scale, flip) for scale in self.config.test_scales for flip in (False, True)[: 1 + self.config.test_flip]]

    def view(self, image: Tensor, scale: int, flip: bool) -> View:
        """A picture (3, H, W) as it looks at that scale, perhaps mirrored."""
        own = int(image.shape[-2]), int(image.shape[-1])
        size = detection.scaled(own, scale, self.config.longest)
        resized = detection.resized(image, size)
        maps = self.narrow(self.norm(self.encode(resized.flip(-1) if flip else resized)))
        return View(maps, size, flip, detection.ratio(own, size).to(image.device))

    def scores(self, views: Sequence[View], boxes: Tensor, own: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Scores (P, K) and boxes (P, K, 4) in the picture's pixels: the mean over heads and views, row by row, before NMS."""
        scores, moved = boxes.new_zeros(len(boxes), len(self.classes)), boxes.new_zeros(len(boxes), len(self.classes), 4)
        for view in views:
            own_scores, own_boxes = self.averaged(view, view.there(boxes))
            scores, moved = (
                scores + own_scores / len(views),
                moved + view.back(own_boxes.flatten(0, 1)).view_as(moved) / len(views),
            )
        limits = boxes.new_tensor([own]).expand(moved[..., 0].numel(), 2)
        return scores, roi.clip(moved.flatten(0, 1), limits).view_as(moved)

    def averaged(self, view: View, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P, K) and boxes (P, K, 4) of one view, the mean over the heads; WSDDN's where nothing refines them."""
        found = self.detect(view.maps, boxes)
        if not found.scores:
            return found.wsddn, boxes[:, None].expand(-1, len(self.classes), 4)
        scores = torch.stack([head.float().softmax(1)[:, 1:] for head in found.scores]).mean(0)
        start = boxes[:, None].expand(-1, len(self.classes), 4).flatten(0, 1)
        limits = boxes.new_tensor([view.size]).expand(len(start), 2)
        moved = torch.stack([roi.decode(start, offsets.flatten(0, 1), limits) for offsets in found.offsets]).mean(0)
        return scores, moved.view(*scores.shape, 4)

    def foreground(self, views: Sequence[View], boxes: Tensor, labels: Tensor, own: tuple[int, int]) -> Tensor:
        """Probabilities (R, S, S) of the masks in boxes (R, 4): the mean logit over class-specific heads and views.

        M⁰'s where these show nothing: correlation pulls the masks of a doubtful object below the threshold everywhere. Where M⁰
        shows nothing either, its values as shares of their highest: what was found has a mask.
        """
        totals = boxes.new_zeros(2, len(boxes), MASK_SIZE, MASK_SIZE)
        for view in views if len(boxes) else ():
            agnostic, *specific = self.masks(view.maps, view.there(boxes), labels).float()
            both = torch.stack([agnostic, torch.stack(specific or [agnostic]).mean(0)])
            totals += (both.flip(-1) if view.flip else both) / len(views)
        agnostic, mean = totals.sigmoid()
        peak = agnostic.amax((1, 2), keepdim=True)
        agnostic = torch.where(peak >= self.config.threshold, agnostic, agnostic / peak.clamp(min=1e-30))
        return torch.where(mean.amax((1, 2), keepdim=True) >= self.config.threshold, mean, agnostic)


class View(NamedTuple):
    """A look at a picture. maps: (1, D, h, w). size: its (H, W). flip: mirrored. ratio: (4,) its over the picture's pixels."""

    maps: Tensor
    size: tuple[int, int]
    flip: bool
    ratio: Tensor

    def there(self, boxes: Tensor) -> Tensor:
        """Boxes (R, 4) of the picture, in pixels of the view."""
        boxes = boxes * self.ratio
        return mirrored(boxes, self.size[1]) if self.flip else boxes

    def back(self, boxes: Tensor) -> Tensor:
        """Boxes (R, 4) of the view, in pixels of the picture."""
        return (mirrored(boxes, self.size[1]) if self.flip else boxes) / self.ratio


def mirrored(boxes: Tensor, width: float) -> Tensor:
    """Boxes (R, 4) in a picture turned left to right."""
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)


# -- training --------------------------------------------------------------------------------------------------------


class Views:
    """Items to learn from: a tagged picture with proposals, cropped, mirrored, resized and coloured at random.

    An item has image (3, h, w); tags (K,); proposals (P, 4) in its pixels; size (h, w); name; and for the cue, which sees the
    picture as it is stored: its own size (H, W), picture (3, H', W') numpy reduced from that, flip, sources (P, 4) the proposals
    in its own pixels, places (P, 4) the same within the crop. With `starts`, the pictures with the objects of another model, it
    has starts (S, 2): the proposal nearest to each, and its label. With `features`, a shelf, an item has these (1, D, h, w) in
    place of the image.
    """

    def __init__(
        self, config: Config, data: Any, boxes: ArrayStore, starts: Any = None, features: ArrayStore | None = None
    ) -> None:
        self.config, self.data, self.boxes, self.starts, self.features = config, data, boxes, starts, features

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        scale = int(torch.randint(len(self.config.scales), ()))
        flip = bool(self.config.flip and torch.rand(()) < 0.5)
        if self.features is None:
            return self.item(index, self.config.scales[scale], flip)
        item = self.item(index, self.config.scales[scale], flip)
        stored = self.features.read(Stored.place(self.config, index, scale, flip))["features"]
        return {name: value for name, value in item.items() if name != "image"} | {"features": torch.from_numpy(stored)}

    def item(self, index: int, scale: int, flip: bool) -> Item:
        """A picture at one scale, perhaps mirrored; what is random besides comes from torch's own random numbers."""
        sample = self.data[index]
        image, sources = sample.image.as_subclass(Tensor), torch.from_numpy(self.boxes.read(index)["boxes"])
        own = int(image.shape[1]), int(image.shape[2])
        crop = cropped(own, self.config.crop)
        places, kept = within(sources, crop)
        left, top, right, bottom = crop
        extent = bottom - top, right - left
        size = detection.scaled(extent, scale, self.config.longest)
        shifted = places - places.new_tensor([left, top, left, top])
        view = detection.resized(coloured(image[:, top:bottom, left:right], self.config.jitter), size)
        return self._begun(index, sources[kept]) | {
            "image": view.flip(-1) if flip else view,
            "tags": sample.tags,
            "proposals": (mirrored(shifted, extent[1]) if flip else shifted) * detection.ratio(extent, size),
            "size": size,
            "name": sample.name,
            "picture": shrink(image, self.config.cue_side).numpy(),
            "own": own,
            "flip": flip,
            "sources": sources[kept],
            "places": places,
        }

    def _begun(self, index: int, sources: Tensor) -> Item:
        """The objects of the other model, as rows of the picture's proposals (P, 4) and labels."""
        if self.starts is None:
            return {}
        found = self.starts.boxed(index)
        return {"starts": torch.stack([box_iou(found.boxes, sources).argmax(1), found.labels], 1)}


class Stored:
    """Every picture at every scale, and mirrored, for a frozen backbone to see once."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views) * len(self.views.config.scales) * 2

    def __getitem__(self, number: int) -> Tensor:
        number, flip = divmod(number, 2)
        index, scale = divmod(number, len(self.views.config.scales))
        return self.views.item(index, self.views.config.scales[scale], bool(flip))["image"]

    @staticmethod
    def place(config: Config, index: int, scale: int, flip: bool) -> int:
        """The number of a picture at a scale."""
        return 2 * (index * len(config.scales) + scale) + flip


def cropped(size: tuple[int, int], least: float) -> tuple[int, int, int, int]:
    """A random part of a picture of that (H, W), as left, top, right, bottom, with at least that share of each side."""
    spans = []
    for side in (size[1], size[0]):
        length = max(1, round(side * (least + (1 - least) * float(torch.rand(())))))
        start = int(torch.randint(side - length + 1, ()))
        spans.append((start, start + length))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def within(boxes: Tensor, crop: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Boxes (P, 4) cut to a crop, without those that lose more than half of their area, and the rows (P',) that stay."""
    left, top, right, bottom = crop
    low, high = boxes.new_tensor([left, top]), boxes.new_tensor([right, bottom])
    cut = torch.cat([boxes[:, :2].clamp(min=low, max=high - 1), boxes[:, 2:].clamp(max=high)], 1)
    cut = torch.cat([cut[:, :2], cut[:, 2:].maximum(cut[:, :2] + 1)], 1)
    kept = (box_area(cut) >= box_area(boxes) / 2).nonzero().flatten()
    kept = kept if len(kept) else torch.arange(len(boxes))
    return cut[kept], kept


def coloured(image: Tensor, most: float) -> Tensor:
    """The picture with exposure and saturation, V and S of HSV, multiplied or divided by up to `most` (sec. 4.3)."""
    if most == 1:
        return image
    exposure, saturation = (most ** float(2 * torch.rand(()) - 1) for _ in range(2))
    pixels = image.float()
    value, least = pixels.amax(0), pixels.amin(0)
    away = (value / (value - least).clamp(min=1)).clamp(max=saturation)  # a colour without any white in it can have no less
    light = (exposure * value).clamp(max=255) / value.clamp(min=1)
    return ((value - (value - pixels) * away) * light).round().to(torch.uint8)


def train(config: Config, data: Any, run: Run, starts: Callable[[Any], Any] | None = None) -> PDSL:
    """Learn from the tags of `data` and from nothing else. Writes weights/last.

    starts: gives data whose objects are those that the run `start_from` finds in it, told their tags.
    """
    data = data.only("image", "tags").select([index for index, record in enumerate(data.records) if "tags" in record.fields])
    data = precompute.covered(data, config.proposals)
    run.expect("data", data.fingerprint)
    run.seed("pdsl")
    model = PDSL(config, data.classes).to(memory_format=torch.channels_last)  # first: faults are said before long work
    objects_to_start = starts(data) if starts else None
    boxes = precompute.stored_proposals(data, config.proposals, config.count, run)
    model.backbone.to(run.device).eval()  # what is looked at before the training is seen as at test
    if config.standardize:
        standardize(model, data, run)
    features = remembered(config, model, Views(config, data, boxes), run) if config.cache_features else None
    wrapped, optimizer = run.setup(model.train(), optimizer_of(config, model))
    views = Views(config, data, boxes, objects_to_start, features)
    for step, batch in run.steps("pdsl", views, config.steps, config.batch, model=wrapped, optimizer=optimizer):
        run.update(wrapped(batch), optimizer, rate(config, step))
    run.save_model(model, {"method": "pdsl", "config": asdict(config), "classes": list(model.classes)})
    return model


def remembered(config: Config, model: PDSL, views: Views, run: Run) -> ArrayStore:
    """The maps of a frozen backbone for all pictures, scales and mirrorings, in half precision."""
    if any(parameter.requires_grad for parameter in model.backbone.parameters()):
        raise ValueError(
            f"cache_features: the backbone learns; type --frozen {len(model.backbone.blocks)} --freeze-norm, or leave the cache"
        )

    @torch.no_grad()
    def compute(_: int, image: Tensor) -> dict[str, np.ndarray]:
        return {"features": model.encode(image.to(run.device)).half().numpy(force=True)}

    return run.each("features", Stored(views), compute)


def standardize(model: PDSL, data: Any, run: Run) -> None:
    """Learn mean and deviation of each channel, over some of the pictures at the middle scale, for `norm` to take off."""
    scale, longest = sorted(model.config.scales)[len(model.config.scales) // 2], model.config.longest
    some = data.select(range(0, len(data), math.ceil(len(data) / STANDARD)))

    @torch.no_grad()
    def compute(_: int, sample: Sample) -> dict[str, np.ndarray]:
        image = sample.image.as_subclass(Tensor)
        size = detection.scaled((int(image.shape[1]), int(image.shape[2])), scale, longest)
        features = model.encode(detection.resized(image, size).to(run.device)).double()
        return {"moments": torch.stack([features.mean((0, 2, 3)), features.square().mean((0, 2, 3))]).numpy(force=True)}

    shelf = run.each("statistics", some, compute)
    first, second = torch.from_numpy(np.mean([shelf.read(index)["moments"] for index in range(len(some))], 0))
    model.norm.get_buffer("running_mean").copy_(first)
    model.norm.get_buffer("running_var").copy_(second - first.square())


def rate(config: Config, step: int) -> float:
    """Learning rate as a share of its first value."""
    drops = [math.ceil(share * config.steps) for share in config.drops]
    return schedule.step_decay(step, 1.0, drops) * schedule.warmup(step + 1, config.warmup)


def optimizer_of(config: Config, model: PDSL) -> torch.optim.Optimizer:
    """The optimiser: pretrained layers at lr, new ones at head_lr; biases without decay, and with SGD at twice the rate."""
    inside = {id(parameter) for parameter in model.backbone.parameters()}
    factor = 2.0 if config.optimizer == "sgd" else 1.0
    groups = []
    for old, lr in ((True, config.lr), (False, config.head_lr)):
        own = [(name, p) for name, p in model.named_parameters() if p.requires_grad and (id(p) in inside) == old]
        weights, biases = ([p for name, p in own if name.endswith("bias") == bias] for bias in (False, True))
        groups += optim.by_inputs({"params": weights, "lr": lr}, 0 if old else config.fan_in)
        groups += [{"params": biases, "lr": lr * factor, "weight_decay": 0.0}] if biases else []
    return optim.of(config, groups)


def load(state: dict[str, Tensor], metadata: dict[str, Any]) -> PDSL:
    """The model of a weights file that `train` wrote. The cue is not asked any more, so its folder need not be there."""
    model = PDSL(restored(Config, metadata["config"], cue="grabcut"), metadata["classes"])
    model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last).eval()
