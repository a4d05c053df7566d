"""BiOpt: bi-level optimization for few-shot segmentation (Liu et al., 2020). A few masks of a new class, then any picture.

The references' features, averaged over their masks, are prototypes; the nearest one by cosine labels a pixel of the query. BiOpt
first mixes them with prototypes of the query's own rough mask (the init module), then moves them by gradient descent on the query
itself (the inner loop). The outer loop trains the features through all of it, episode by episode.

Shape letters: B pictures, E episodes, N new classes of an episode, K references of each, M = N + 1 classes with background as 0,
D channels, H W picture, h w feature map, X = h·w its positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalseg.types import IGNORE

EPS = 1e-5  # added to the weight of a mean, as in PANet
FLOOR = 1e-6  # least norm of a vector: the cosine of a shorter one has no usable gradient
LEAST_SIMILAR = 0.1  # share of the query that stands in for a class without a pixel (ruling)

# -- prototypes ------------------------------------------------------------------------------------------------------


def pooling_weights(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """How much each position of a feature map counts when the map is up-sampled to a mask and averaged inside it.

    Up-sampling is linear: the mean over the pixels of Mask · U · features is a weighted mean of the features, with the weights
    Uᵀ · Mask. So masks act at their full resolution, and no up-sampled features ever exist. Corners align, as in `upsample`.

    Shapes: masks (..., H, W), size (h, w); returns (..., X) float, whose sum is the mask's.
    """
    rows, columns = (upsampling(cells, pixels).to(masks.device) for cells, pixels in zip(size, masks.shape[-2:], strict=True))
    return (rows.T @ masks.float() @ columns).flatten(-2)


def upsampling(cells: int, pixels: int) -> Tensor:
    """The matrix (pixels, cells) of linear interpolation whose corners align."""
    return F.interpolate(torch.eye(cells)[None], pixels, mode="linear", align_corners=True)[0].T


def masked_average(features: Tensor, weights: Tensor) -> Tensor:
    """Σ_x w_x·f_x / Σ_x w_x: features (..., X, D), weights (..., M, X) -> (..., M, D); zero weights give the zero vector."""
    return weights @ features / (weights.sum(-1, keepdim=True) + EPS)


def class_weights(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Pooling weights of background and object of masks (..., H, W) of 0, 1 and 255 = neither: (..., 2, X)."""
    return pooling_weights(torch.stack([masks == 0, masks == 1], -3), size)


def support_prototypes(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """P_s (E, M, D), and whether a reference shows the class at all (E, M) (sec. 4.2; the means as in PANet).

    The mean over the references that show the class; the background's also over the classes. A class nobody shows is zero.
    Shapes: features (E, N, K, X, D), weights (E, N, K, 2, X) of background and object.
    """
    pooled, shown = masked_average(features, weights), weights.sum(-1) > 0  # (E, N, K, 2, D), (E, N, K, 2)
    total, count = (pooled * shown[..., None]).sum(2), shown.sum(2)  # over the references of a class
    total = torch.cat([total[:, :, 0].sum(1, keepdim=True), total[:, :, 1]], 1)
    count = torch.cat([count[:, :, 0].sum(1, keepdim=True), count[:, :, 1]], 1)
    return total / count.clamp(min=1)[..., None], count > 0


def fill_empty(prototypes: Tensor, shown: Tensor, query: Tensor) -> Tensor:
    """Prototypes (E, M, D) in which a class without a pixel is what the query (E or 1, X, D) shows least of the others.

    A reference that its object fills has no background. A zero prototype would have no direction, and its cosine no gradient; the
    tenth of the query least similar to the classes that are shown takes its place.
    """
    if bool(shown.all()):
        return prototypes
    similarity = cosine(F.normalize(query, dim=-1), prototypes).masked_fill(~shown[..., None], -1.0).amax(1)  # (E, X)
    least = similarity.topk(max(1, round(LEAST_SIMILAR * similarity.shape[1])), largest=False).indices
    stand_in = query.expand(len(least), -1, -1).gather(1, least[..., None].expand(-1, -1, query.shape[-1])).mean(1)
    return torch.where(shown[..., None], prototypes, stand_in[:, None])


# -- the inner loop --------------------------------------------------------------------------------------------------


def cosine(unit_query: Tensor, prototypes: Tensor) -> Tensor:
    """cos(Q, P) (E, M, X) of unit query features (E or 1, X, D) and prototypes (E, M, D) of any length."""
    return _dot(F.normalize(prototypes, dim=-1, eps=FLOOR), unit_query)


def inner_loss(unit_query: Tensor, prototypes: Tensor, target: Tensor, alpha: float) -> Tensor:
    """Eq. 3 for each episode, (E,): Σ_x CE(softmax(α·cos(Q_x, P)), target_x), with target (E, X) of 0..N."""
    return F.cross_entropy(alpha * cosine(unit_query, prototypes), target, reduction="none").sum(1)


def inner_gradient(unit_query: Tensor, prototypes: Tensor, target: Tensor, alpha: float) -> Tensor:
    """∂`inner_loss`/∂P in closed form, (E, M, D).

    With s = α·(softmax(α·cos) − onehot(target)), the slope in the cosine, and p the unit prototype:
    ∂L/∂P_m = (Σ_x s_mx·q_x − (Σ_x s_mx·cos_mx)·p_m) / ‖P_m‖. It is made of differentiable steps, so the outer loop's gradient
    through it is of second order without a second graph, and it works where autograd is switched off.
    """
    norm = prototypes.norm(dim=-1, keepdim=True).clamp(min=FLOOR)
    unit = prototypes / norm
    cos = _dot(unit, unit_query)
    chosen = F.one_hot(target, prototypes.shape[1]).mT
    slope = alpha * ((alpha * cos).softmax(1) - chosen)
    return (_gather(slope, unit_query) - (slope * cos).sum(-1, keepdim=True) * unit) / norm


def inner_loop(
    unit_query: Tensor, prototypes: Tensor, target: Tensor, steps: int, lr: float, alpha: float, first_order: bool = False
) -> Tensor:
    """Eq. 7: P ← P − lr·∂L/∂P, `steps` times. The sum over positions matters: with their mean, nothing moves.

    first_order: the gradients are constants to the outer loop.
    """
    for _ in range(steps):
        gradient = inner_gradient(unit_query, prototypes, target, alpha)
        prototypes = prototypes - lr * (gradient.detach() if first_order else gradient)
    return prototypes


def movement(before: Tensor, after: Tensor) -> Tensor:
    """‖ΔP‖/‖P‖ of each episode, (E,): what the inner loop did to the prototypes (E, M, D)."""
    return (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1).clamp(min=FLOOR)


def _dot(prototypes: Tensor, query: Tensor) -> Tensor:
    """(E, M, D)·(E or 1, X, D) -> (E, M, X). Episodes that share a query are rows of one product, which reads it once."""
    if len(query) == 1:
        return (prototypes.flatten(0, 1) @ query[0].T).unflatten(0, prototypes.shape[:2])
    return prototypes @ query.mT


def _gather(weights: Tensor, query: Tensor) -> Tensor:
    """(E, M, X)·(E or 1, X, D) -> (E, M, D)."""
    if len(query) == 1:
        return (weights.flatten(0, 1) @ query[0]).unflatten(0, weights.shape[:2])
    return weights @ query


# -- losses ----------------------------------------------------------------------------------------------------------


def upsample(scores: Tensor, size: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Scores (E, M, X) of a map of `size` (h, w) at every pixel, (E, M, *to); corners align."""
    return F.interpolate(scores.unflatten(-1, size), to, mode="bilinear", align_corners=True)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One term of eq. 8: mean cross-entropy over the known pixels of each episode, then over episodes.

    Shapes: logits (E, M, H, W), masks (E, H, W) of 0..N and 255; an episode without a known pixel gives 0.
    """
    losses = F.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="none").flatten(1).sum(1)
    return (losses / (masks != IGNORE).flatten(1).sum(1).clamp(min=1)).mean()


# -- one episode -----------------------------------------------------------------------------------------------------


class Solution(NamedTuple):
    """What one pass over a query gives. Logits (E, M, X): rough from P_s (M'), initial from P⁰ (M_q), final from P_q (M̂_q).

    start, found: prototypes before and after the inner loop, (E, M, D).
    """

    rough: Tensor
    initial: Tensor
    final: Tensor
    start: Tensor
    found: Tensor


class InitModule(nn.Module):
    """ω = sigmoid(FC([P_s; P'])), P⁰ = ω·P_s + (1 − ω)·P' (eq. 5), one layer for all classes.

    It starts at zero, that is at the plain mean of the two, which already helps before anything is learned.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * channels, channels)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, support: Tensor, temporary: Tensor) -> Tensor:
        """P_s and P', both (E, M, D)."""
        weight = self.fc(torch.cat([support, temporary], -1)).sigmoid()
        return weight * support + (1 - weight) * temporary


def temporary_prototypes(query: Tensor, rough: Tensor, support: Tensor) -> Tensor:
    """P' (E, M, D): the query (E or 1, X, D) averaged inside its rough mask, argmax of logits (E, M, X).

    A class that the mask leaves without a pixel keeps its P_s (E, M, D).
    """
    chosen = F.one_hot(rough.argmax(1), rough.shape[1]).mT.to(query)
    count = chosen.sum(-1, keepdim=True)
    return torch.where(count > 0, _gather(chosen, query) / (count + EPS), support)
