"""Which part of a picture is its object, when nobody says: clusters of features, and the one that keeps away from the border."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalseg.regions.kmeans import kmeans


def parts(features: Tensor, clusters: int = 5, seed: int = 0, restarts: int = 10) -> Tensor:
    """K-means on the features of one picture, each scaled to length 1: (h, w) int64 ids below `clusters` (R2O, sec. 4.3).

    features: (D, h, w). Raises ValueError for features that are not finite.
    """
    points = F.normalize(features.flatten(1).T, dim=1)[None]
    return kmeans(points, clusters, seed, restarts=restarts).labels.view(features.shape[1:])


def inner(ids: Tensor, margin: float = 0.1) -> int:
    """The largest part among those that least touch the border: a guess at the object that needs no ground truth.

    ids: (h, w). margin: how much larger than the least a part's share of the border may be. Ties go to the smaller id.
    """
    found, areas = ids.unique(return_counts=True)
    border = torch.cat([ids[0], ids[-1], ids[1:-1, 0], ids[1:-1, -1]])
    touch = (border[:, None] == found).double().mean(0)
    return int(found[areas.masked_fill(touch > touch.min() + margin, -1).argmax()])
