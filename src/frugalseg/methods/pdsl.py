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
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from frugalseg.nets import roi

# -- detection: L_OD (sec. 3.2) --------------------------------------------------------------------------------------


def wsddn_scores(classes: Tensor, places: Tensor) -> Tensor:
    """S⁰ = σ(C) ⊙ σ(Dᵀ)ᵀ, (P, K): softmax over classes times softmax over the proposals of the picture; both logits (P, K)."""
    return classes.float().softmax(1) * places.float().softmax(0)


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
