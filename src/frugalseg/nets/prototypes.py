"""Class prototypes, the mean features under masks, for any few-shot method.

Shape letters: E episodes, N new classes of an episode, K references of each, M = N + 1 classes with background as 0, D channels,
H W image, h w feature map, X = h·w its positions, T masks of one image, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-5  # added to the weight of a mean, as in PANet
FLOOR = 1e-6  # least norm of a vector: the cosine of a shorter one has no usable gradient
LEAST_SIMILAR = 0.1  # share of the query that stands in for a class without a pixel (ruling)

# -- means under masks -----------------------------------------------------------------------------------------------


def pooling_weights(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """How much each position of a feature map counts when the map is up-sampled to a mask and averaged inside it.

    Up-sampling is linear: the mean over the pixels of Mask · U · features is a weighted mean of the features, with the weights
    Uᵀ · Mask. So masks act at their full resolution, and no up-sampled features are ever stored. Corners align.

    Shapes: masks (..., H, W), size (h, w); returns (..., X) float, whose sum is the mask's.
    """
    rows, columns = (
        interpolation_matrix(cells, pixels).to(masks.device) for cells, pixels in zip(size, masks.shape[-2:], strict=True)
    )
    return (rows.T @ masks.float() @ columns).flatten(-2)


def interpolation_matrix(cells: int, pixels: int) -> Tensor:
    """The matrix (pixels, cells) of linear interpolation with aligned corners."""
    return F.interpolate(torch.eye(cells)[None], pixels, mode="linear", align_corners=True)[0].T


def masked_average(features: Tensor, weights: Tensor) -> Tensor:
    """Σ_x w_x·f_x / Σ_x w_x: features (..., X, D), weights (..., M, X) -> (..., M, D); zero weights give the zero vector."""
    return weights @ features / (weights.sum(-1, keepdim=True) + EPS)


def class_weights(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Pooling weights of background and object of masks (..., H, W) of 0, 1 and 255 = ignore: (..., 2, X)."""
    return pooling_weights(torch.stack([masks == 0, masks == 1], -3), size)


def reference_prototypes(features: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Prototypes (T, 2, D) of background and object under each mask of one reference, and the pixels of each (T, 2).

    features: (1, h, w, D). masks: T of the image's size, of 0, 1 and 255 = ignore.
    """
    size = (features.shape[1], features.shape[2])
    weights = torch.stack([class_weights(mask.to(features.device), size) for mask in masks])
    return masked_average(features.flatten(1, 2), weights), weights.sum(-1)


def support_prototypes(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """P_s (E, M, D), and whether a reference shows the class at all (E, M) (BiOpt, sec. 4.2; the means as in PANet).

    The mean over the references that show the class; the background's also over the classes. A class without a pixel is zero.
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
    tenth of the query least similar to the classes that are shown takes its place. shown: (E, M).
    """
    if bool(shown.all()):
        return prototypes
    similarity = cosine(F.normalize(query, dim=-1), prototypes).masked_fill(~shown[..., None], -1.0).amax(1)  # (E, X)
    least = similarity.topk(max(1, round(LEAST_SIMILAR * similarity.shape[1])), largest=False).indices
    stand_in = query.expand(len(least), -1, -1).gather(1, least[..., None].expand(-1, -1, query.shape[-1])).mean(1)
    return torch.where(shown[..., None], prototypes, stand_in[:, None])


# -- prototypes and queries ------------------------------------------------------------------------------------------


def cosine(unit_query: Tensor, prototypes: Tensor) -> Tensor:
    """cos(Q, P) (E, M, X) of unit query features (E or 1, X, D) and prototypes (E, M, D) of any length."""
    return dot(F.normalize(prototypes, dim=-1, eps=FLOOR), unit_query)


def dot(prototypes: Tensor, query: Tensor) -> Tensor:
    """(E, M, D)·(E or 1, X, D) -> (E, M, X). Episodes that share a query are rows of one product, which reads it once."""
    if len(query) == 1:
        return (prototypes.flatten(0, 1) @ query[0].T).view(*prototypes.shape[:2], query.shape[1])
    return prototypes @ query.mT


def weighted_sum(weights: Tensor, query: Tensor) -> Tensor:
    """(E, M, X)·(E or 1, X, D) -> (E, M, D)."""
    if len(query) == 1:
        return (weights.flatten(0, 1) @ query[0]).view(*weights.shape[:2], query.shape[2])
    return weights @ query


# -- prototypes of a support set -------------------------------------------------------------------------------------


class Supports(NamedTuple):
    """All that a query needs of the references, of E episodes or C classes.

    prototypes: P_s (E, M, D). shown: whether any reference has a pixel of it (E, M). shots: number of references (E,).
    """

    prototypes: Tensor
    shown: Tensor
    shots: Tensor

    def at(self, places: Tensor) -> Supports:
        """Those at an index tensor or boolean mask."""
        return Supports(self.prototypes[places], self.shown[places], self.shots[places])

    def to(self, device: torch.device) -> Supports:
        """The same on a device."""
        return Supports(*(part.to(device) for part in self))

    def joined(self) -> Supports:
        """C one-class episodes (C, 2, D) as one episode of C classes, whose background is the mean of theirs: (1, C + 1, D)."""
        with_background = self.shown[:, 0]
        background = (self.prototypes[:, 0] * with_background[:, None]).sum(0) / with_background.sum().clamp(min=1)
        prototypes = torch.cat([background[None], self.prototypes[:, 1]])
        shown = torch.cat([with_background.any()[None], self.shown[:, 1]])
        return Supports(prototypes[None], shown[None], self.shots.mean()[None])


class PrototypeBank:
    """Prototypes (2, D) and pixels (2,) of single references by (image, class): computed once for all episodes they are in."""

    def __init__(self, parts: Mapping[tuple[int, int], tuple[Tensor, Tensor]]) -> None:
        self.parts = dict(parts)

    def mean(self, label: int, images: Sequence[int]) -> tuple[Tensor, Tensor]:
        """P_s (2, D) of these references of a class, and which of background and object they show (2,)."""
        prototypes = torch.stack([self.parts[image, label][0] for image in images])
        shown = torch.stack([self.parts[image, label][1] > 0 for image in images])
        total = (prototypes * shown[..., None]).sum(0)
        return total / shown.sum(0).clamp(min=1)[:, None], shown.any(0)

    def supports(self, references: Iterable[tuple[int, Sequence[int]]]) -> Supports:
        """Of one-class episodes, each as its class and the images of its references: (E, 2, D)."""
        references = list(references)
        prototypes, shown = zip(*(self.mean(label, images) for label, images in references), strict=True)
        shots = torch.tensor([float(len(images)) for _, images in references])
        return Supports(torch.stack(prototypes), torch.stack(shown), shots)
