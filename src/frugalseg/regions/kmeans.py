"""K-means (Lloyd, 1982) with k-means++ seeding (Arthur and Vassilvitskii, SODA 2007), on any device, for a batch of problems.

Shape letters: B problems, N points of each, K clusters, D channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Clustering(NamedTuple):
    """A partition of the points of each problem.

    labels: (B, N) int64 cluster of each point, −1 for an absent one. centres: (B, K, D). alive: (B, K) bool, false for clusters
    beyond the number of distinct points. inertia: (B,) sum of squared distances to the centres.
    """

    labels: Tensor
    centres: Tensor
    alive: Tensor
    inertia: Tensor


@torch.no_grad()
def kmeans(
    points: Tensor,
    clusters: int,
    seed: int = 0,
    present: Tensor | None = None,
    iterations: int = 50,
    restarts: int = 1,
    start: Tensor | None = None,
) -> Clustering:
    """Partition the points of each of B problems; of several `restarts` the one of least inertia is returned.

    An empty cluster moves to the point that is farthest from its centre; there are never more clusters than distinct points.
    Random numbers are drawn on the CPU, so that a seed means the same on every device.

    points: (B, N, D). present: (B, N) bool, the points that are there; None for all. start: (B, K, D) first centres in place of
    k-means++. Raises ValueError for other shapes, values that are not finite, or fewer than 1 cluster, iteration or restart.
    """
    _check(points, clusters, present, iterations, restarts, start)
    problems, device = len(points), points.device
    present = torch.ones(points.shape[:2], dtype=torch.bool, device=device) if present is None else present
    points = points.float().repeat_interleave(restarts, 0)
    present = present.repeat_interleave(restarts, 0)
    if start is None:
        centres, alive = _plus_plus(points, present, clusters, torch.Generator().manual_seed(seed))
    else:
        centres = start.float().repeat_interleave(restarts, 0)
        alive = torch.ones(centres.shape[:2], dtype=torch.bool, device=device)
    result = _lloyd(points, present, centres, alive, iterations)
    best = result.inertia.view(problems, restarts).argmin(1) + restarts * torch.arange(problems, device=device)
    return Clustering(*(part[best] for part in result))


def _check(points: Tensor, clusters: int, present: Tensor | None, iterations: int, restarts: int, start: Tensor | None) -> None:
    if points.ndim != 3 or 0 in points.shape[1:]:
        raise ValueError(f"points: got {tuple(points.shape)}, expected (B, N, D) with at least one point and channel")
    if present is not None and (present.shape != points.shape[:2] or present.dtype != torch.bool):
        raise ValueError(f"present: got {tuple(present.shape)} {present.dtype}, expected {tuple(points.shape[:2])} bool")
    if min(clusters, iterations, restarts) < 1:
        got = f"clusters={clusters}, iterations={iterations}, restarts={restarts}"
        raise ValueError(f"kmeans: got {got}, expected at least 1 of each")
    expected = (len(points), clusters, points.shape[2])
    if start is not None and start.shape != expected:
        raise ValueError(f"start: got {tuple(start.shape)}, expected {expected}")
    if not torch.isfinite(points).all():
        raise ValueError("points: got NaN or infinity, expected finite numbers")


def _plus_plus(points: Tensor, present: Tensor, clusters: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """First centres (B, K, D), each drawn in proportion to its squared distance from those before; (B, K) which exist."""
    draws = torch.rand(clusters, len(points), generator=generator, dtype=torch.float64).to(points.device)
    rows, centres, alive = torch.arange(len(points), device=points.device), [], []
    nearest = torch.full(present.shape, torch.inf, device=points.device)
    weights = present.double()
    for draw in draws:
        cumulative = weights.cumsum(1)
        target = (draw * cumulative[:, -1])[:, None]
        chosen = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=points.shape[1] - 1)
        centres.append(points[rows, chosen])
        alive.append(cumulative[:, -1] > 0)  # all weights are 0 when every distinct point is a centre
        nearest = torch.minimum(nearest, (points - centres[-1][:, None]).square().sum(2))
        weights = nearest.double() * present
    return torch.stack(centres, 1), torch.stack(alive, 1)


def _lloyd(points: Tensor, present: Tensor, centres: Tensor, alive: Tensor, iterations: int) -> Clustering:
    previous = None
    for _ in range(iterations):
        distances, labels = _assign(points, centres, alive)
        if previous is not None and torch.equal(labels, previous):
            break
        centres, previous = _means(points, present, labels, distances, centres, alive), labels
    distances, labels = _assign(points, centres, alive)
    return Clustering(labels.where(present, -1), centres, alive, (distances * present).sum(1))


def _assign(points: Tensor, centres: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest centre and the index of that centre, both (B, N)."""
    squared = points.square().sum(2)[:, :, None] + centres.square().sum(2)[:, None] - 2 * points @ centres.mT
    nearest = squared.masked_fill(~alive[:, None], torch.inf).min(2)
    return nearest.values.clamp(min=0), nearest.indices


def _means(points: Tensor, present: Tensor, labels: Tensor, distances: Tensor, centres: Tensor, alive: Tensor) -> Tensor:
    """New centres. Sums are matrix products, which give the same result in every run on a GPU; scattered additions do not."""
    members = F.one_hot(labels, centres.shape[1]).to(points.dtype) * present[:, :, None]
    counts = members.sum(1)
    means = members.mT @ points / counts.clamp(min=1)[:, :, None]
    empty = (counts == 0) & alive
    if not empty.any():
        return means.where((counts > 0)[:, :, None], centres)
    farthest = distances.masked_fill(~present, -1).topk(min(centres.shape[1], points.shape[1]), 1).indices
    place = farthest.gather(1, (empty.cumsum(1) - 1).clamp(0, farthest.shape[1] - 1))
    moved = points.gather(1, place[:, :, None].expand_as(centres))
    return means.where((counts > 0)[:, :, None], moved.where(empty[:, :, None], centres))
