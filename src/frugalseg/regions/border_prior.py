"""The object of an image without labels: of clusters of its features, the largest that hardly touches the image's border."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalseg.regions.kmeans import kmeans


def parts(features: Tensor, clusters: int = 5, seed: int = 0, restarts: int = 10) -> Tensor:
    """K-means on the features of one image, each scaled to length 1: (h, w) int64 ids below `clusters` (R2O, sec. 4.3).

    features: (D, h, w). Raises ValueError for features that are not finite.
    """
    points = F.normalize(features.flatten(1).T, dim=1)[None]
    return kmeans(points, clusters, seed, restarts=restarts).labels.view(features.shape[1:])


def inner(ids: Tensor, margin: float = 0.1) -> int:
    """The id of the largest part among those that touch the border least: a guess at the object that needs no ground truth.

    ids: (h, w). margin: a part qualifies if its share of the border is within this of the least share. Ties: the smaller id.
    """
    parts, areas = torch.unique(ids, return_counts=True)
    border = torch.cat([ids[0], ids[-1], ids[1:-1, 0], ids[1:-1, -1]])
    shares = (border[:, None] == parts).double().mean(0)
    return int(parts[areas.masked_fill(shares > shares.min() + margin, -1).argmax()])
