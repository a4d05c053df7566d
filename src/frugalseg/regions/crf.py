"""Fully connected CRF (Krähenbühl & Koltun, NIPS 2011) with permutohedral filtering (Adams et al., Eurographics 2010).

Every step of the filter – splat pixels on lattice points, blur along each lattice direction, slice back – is one weighted
gather, so plain torch runs it on any device, for all classes at once, and with the same result each time (no atomics).
Shape letters: C classes, N pixels, F features, M lattice points, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

FLOOR = 1e-5  # probabilities below it are raised to it: no class is ever ruled out by one pixel's own opinion


@torch.no_grad()
def dense_crf(
    image: Tensor,
    probabilities: Tensor,
    iterations: int = 10,
    gaussian: tuple[float, float] = (3, 3),
    bilateral: tuple[float, float, float] = (4, 121, 5),
) -> Tensor:
    """Class probabilities that follow the image's edges: mean field of a fully connected CRF with Potts compatibility.

    Energy −log p + Σ_k w_k·exp(−|f_i − f_j|²/2) over all pairs of unlike labels; both kernels are normalised symmetrically.
    The defaults are DeepLab v1 LargeFOV's. Time and memory grow with C·H·W, so pass only the classes that can be there.

    image: (3, H, W) uint8. probabilities: (C, H, W), not negative, on the device that shall do the work; each pixel is
    scaled to sum 1. gaussian: (weight, deviation in pixels). bilateral: (weight, deviation in pixels, deviation in colour
    levels). A kernel of weight 0 is left out. Returns (C, H, W) float32 marginals on the same device.
    Raises ValueError if the sizes differ, a probability is negative or not finite, or a kernel is not positive.
    """
    _check(image, probabilities, iterations, gaussian, bilateral)
    classes, height, width = probabilities.shape
    beliefs = probabilities.detach().float().flatten(1).T.contiguous()  # (N, C): one pixel's classes lie side by side
    beliefs = beliefs / beliefs.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    evidence = beliefs.clamp(min=FLOOR).log()
    kernels = _kernels(image.to(probabilities.device), gaussian, bilateral)
    beliefs = evidence.softmax(dim=1)
    for _ in range(iterations):
        energy = evidence.clone()
        for kernel in kernels:
            energy += kernel(beliefs)
        beliefs = energy.softmax(dim=1)
    return beliefs.T.reshape(classes, height, width).contiguous()


def _check(image: Tensor, probabilities: Tensor, iterations: int, gaussian: Sequence[float], bilateral: Sequence[float]) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
        raise ValueError(f"image: got {tuple(image.shape)} {image.dtype}, expected (3, H, W) uint8 RGB")
    if probabilities.ndim != 3 or probabilities.shape[1:] != image.shape[1:] or 0 in probabilities.shape:
        raise ValueError(f"probabilities: got {tuple(probabilities.shape)}, expected (C, H, W) of an image {tuple(image.shape)}; resize them first")
    if not torch.isfinite(probabilities).all():
        raise ValueError("probabilities: contain NaN or infinity; the scores they come from are broken")
    if (probabilities < 0).any():
        raise ValueError(f"probabilities: got {probabilities.min():.3g}, expected 0 or more; take a softmax of the scores first")
    if iterations < 0:
        raise ValueError(f"iterations: got {iterations}, expected 0 or more")
    if min(gaussian[0], bilateral[0]) < 0 or min(*gaussian[1:], *bilateral[1:]) <= 0:
        raise ValueError(f"kernels: got {tuple(gaussian)} and {tuple(bilateral)}, expected weights ≥ 0 and deviations > 0")


def _kernels(image: Tensor, gaussian: tuple[float, float], bilateral: tuple[float, float, float]) -> list[Lattice]:
    height, width = image.shape[1:]
    rows, columns = torch.meshgrid(*(torch.arange(n, device=image.device, dtype=torch.float32) for n in (height, width)), indexing="ij")
    position = torch.stack((columns, rows), dim=-1).reshape(-1, 2)
    colour = image.float().flatten(1).T
    smooth = [Lattice.build(position / gaussian[1], gaussian[0])] if gaussian[0] else []
    appearance = torch.cat((position / bilateral[1], colour / bilateral[2]), dim=1)
    return smooth + ([Lattice.build(appearance, bilateral[0])] if bilateral[0] else [])


def _mix(table: Tensor, indices: Tensor, weights: Tensor, starts: Tensor | None = None) -> Tensor:
    """Rows Σ_k weights[·, k]·table[indices[·, k]]; with `starts`, sums of uneven length that begin there."""
    return embedding_bag(indices, table, starts, mode="sum", per_sample_weights=weights)


@dataclass
class Lattice:
    """A Gaussian filter of unit deviation over given features, built once and applied to any number of channels.

    pixels, pixel_weights, starts: the pixels that surround each lattice point, point by point. neighbours: (F+1, M, 3) the
    point itself and its two neighbours in each direction. points, point_weights: (N, F+1) the simplex around each pixel.
    """

    pixels: Tensor
    pixel_weights: Tensor
    starts: Tensor
    neighbours: Tensor
    blur_weights: Tensor
    points: Tensor
    point_weights: Tensor

    @classmethod
    def build(cls, features: Tensor, weight: float = 1.0) -> Lattice:
        """Lattice of features (N, F) for weight · D^-½ K D^-½, where D holds the row sums of the Gaussian matrix K."""
        corners, barycentric = simplex(features)
        order, starts, points, neighbours, blur_weights = _index(corners)
        # The blur spreads a unit of mass over more than one unit; see the end of section 3 of Adams et al.
        spread = 1 / (1 + 2.0 ** -features.shape[1])
        vertices = features.shape[1] + 1
        pixels = (order // vertices).int()
        weights = barycentric.flatten()[order]
        lattice = cls(pixels, weights, starts, neighbours, blur_weights, points, barycentric * spread)
        scale = (lattice(features.new_ones(len(features), 1)) + 1e-20).rsqrt()
        lattice.pixel_weights = weights * scale.flatten()[pixels]
        lattice.point_weights = lattice.point_weights * scale * weight
        return lattice

    def __call__(self, values: Tensor) -> Tensor:
        """Filters values (N, C) -> (N, C)."""
        table = _mix(values, self.pixels, self.pixel_weights, self.starts)
        for neighbours, weights in zip(self.neighbours, self.blur_weights, strict=True):
            table = _mix(table, neighbours, weights)
        return _mix(table, self.points, self.point_weights)


def simplex(features: Tensor) -> tuple[Tensor, Tensor]:
    """The lattice simplex that encloses each feature, for a blur of unit deviation.

    features: (N, F). Returns the corners' first F coordinates (N, F+1, F) int64 (the last follows: a point's sum is 0)
    and the barycentric weights (N, F+1), which sum to 1. Section 3 of Adams et al.
    """
    count, size = features.shape
    axis = torch.arange(1, size + 1, device=features.device)
    # Rotation into the plane Σx = 0, with lattice steps such that splat + blur + slice have deviation 1.
    scaled = features * (size + 1) * (2 / 3 / (axis * (axis + 1))).sqrt()
    later = scaled.flip(1).cumsum(1).flip(1)
    zero = scaled.new_zeros(count, 1)
    elevated = torch.cat((later, zero), 1) - torch.cat((zero, axis * scaled), 1)
    nearest = (elevated / (size + 1)).round()
    surplus = nearest.sum(1, keepdim=True).long()
    rank = (elevated - nearest * (size + 1)).argsort(dim=1, descending=True, stable=True).argsort(dim=1) + surplus
    wrapped = (rank < 0).long() - (rank > size).long()  # back into the plane: the worst rounded coordinates move one step
    rank += wrapped * (size + 1)
    origin = (nearest.long() + wrapped) * (size + 1)
    gaps = ((elevated - origin) / (size + 1)).gather(1, rank.argsort(dim=1))
    barycentric = torch.cat((1 - gaps[:, :1] + gaps[:, -1:], -gaps.diff(dim=1)), 1)  # corner 0, then corner F, …, 1
    barycentric = torch.cat((barycentric[:, :1], barycentric[:, 1:].flip(1)), 1)
    corner = torch.arange(size + 1, device=features.device)[:, None]
    steps = corner - (size + 1) * (rank[:, None, :size] > size - corner).long()
    return origin[:, None, :size] + steps, barycentric


def _index(corners: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Numbers the distinct corners and finds their neighbours. Returns order, starts, points, neighbours, blur weights."""
    count, vertices, size = corners.shape
    flat = corners.reshape(-1, size)
    low = flat.amin(0) - size - 1
    extent = flat.amax(0) - low + size + 2  # a margin on both sides: a neighbour's key never wraps into another row
    if extent.double().prod() >= 2**63:
        raise ValueError("kernels: a deviation is too small for the image's size; widen it (DeepLab's bilateral kernel is 4, 121, 5)")
    stride = torch.cat((extent.new_ones(1), extent.cumprod(0)[:-1]))
    keys, order = ((flat - low) * stride).sum(1).sort()
    distinct, inverse, sizes = keys.unique_consecutive(return_inverse=True, return_counts=True)
    points = torch.empty_like(inverse).scatter_(0, order, inverse).view(count, vertices).int()
    starts = (sizes.cumsum(0) - sizes).int()
    jumps = torch.cat((stride * vertices, stride.new_zeros(1))) - stride.sum()
    neighbours = torch.stack([torch.stack((distinct, distinct + jump, distinct - jump), -1) for jump in jumps])
    found = torch.searchsorted(distinct, neighbours).clamp(max=len(distinct) - 1)
    weights = (distinct[found] == neighbours) * flat.new_tensor([1, 0.5, 0.5], dtype=torch.float32)
    return order, starts, points, found.int(), weights
