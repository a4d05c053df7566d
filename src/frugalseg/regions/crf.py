"""Fully connected CRF (Krähenbühl & Koltun, NIPS 2011) with permutohedral filtering (Adams et al., Eurographics 2010).

Each step of the filter (splat pixels onto lattice points, blur along each lattice direction, slice back) is one weighted gather.
So plain torch runs it on any device, for all classes at once, and deterministically (no atomics).
Shape letters: C classes, N pixels, F features, M lattice points, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, interpolate
from torchvision.transforms.v2.functional import resize

from frugalseg.recipes.groups import Refinement
from frugalseg.types import longer_side, size_of

FLOOR = 1e-5  # least probability: the neighbours can still overrule a pixel that excludes a class


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
    The defaults are DeepLab v1 LargeFOV's. Time and memory grow with C·H·W, so pass only the classes that the image can show.

    image: (3, H, W) uint8. probabilities: (C, H, W), not negative, on the device to compute on; each pixel is scaled
    to sum 1. gaussian: (weight, standard deviation in pixels). bilateral: (weight, standard deviation in pixels, the same in
    colour levels). A kernel of weight 0 is left out. Returns (C, H, W) float32 marginals on the same device.
    Raises ValueError if the sizes differ, a probability is negative or not finite, or a kernel is not positive.
    """
    _check(image, probabilities, iterations, gaussian, bilateral)
    classes, height, width = probabilities.shape
    total = probabilities.float().sum(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
    evidence = (probabilities / total).clamp(min=FLOOR).log()
    evidence = evidence.flatten(1).T.contiguous()  # (N, C): a pixel's classes are adjacent, so that a gather moves whole rows
    kernels = _kernels(image.to(probabilities.device), gaussian, bilateral)
    beliefs = _softmax(evidence.clone())
    for _ in range(iterations):
        messages = [kernel(beliefs) for kernel in kernels]
        energy = beliefs.copy_(evidence)  # in place: new memory pages would cost as much as the filter
        for message in messages:
            energy += message
        beliefs = _softmax(energy)
    return beliefs.T.reshape(classes, height, width).contiguous()


def refined(image: Tensor, probabilities: Tensor, settings: Refinement) -> Tensor:
    """Marginals (C, h, w) of probabilities (C, ·, ·) of any size, at no more than `crf_side` pixels; unchanged where crf is off.

    image: (3, H, W) uint8.
    """
    if not settings.crf or len(probabilities) == 1:
        return probabilities
    own = size_of(image)
    size = longer_side(own, min(settings.crf_side, max(own)))
    small = resize(image.as_subclass(Tensor), list(size), antialias=True).to(probabilities.device)
    scaled = interpolate(probabilities[None], size, mode="bilinear", align_corners=False)[0]
    return dense_crf(small, scaled, settings.crf_iterations, settings.crf_gaussian, settings.crf_bilateral)


def _check(image: Tensor, probabilities: Tensor, iterations: int, gaussian: Sequence[float], bilateral: Sequence[float]) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
        raise ValueError(f"image: got {tuple(image.shape)} {image.dtype}, expected (3, H, W) uint8 RGB")
    if probabilities.ndim != 3 or probabilities.shape[1:] != image.shape[1:] or 0 in probabilities.shape:
        expected = f"expected (C, H, W) with C ≥ 1 and the size of the image {tuple(image.shape)}; resize one of them first"
        raise ValueError(f"probabilities: got {tuple(probabilities.shape)}, {expected}")
    if not torch.isfinite(probabilities).all():
        raise ValueError("probabilities: contain NaN or infinity; the scores they come from are broken")
    if (probabilities < 0).any():
        raise ValueError(f"probabilities: got {probabilities.min():.3g}, expected 0 or more; take a softmax of the scores first")
    if iterations < 0:
        raise ValueError(f"iterations: got {iterations}, expected 0 or more")
    if min(gaussian[0], bilateral[0]) < 0 or min(*gaussian[1:], *bilateral[1:]) <= 0:
        raise ValueError(f"kernels: got {tuple(gaussian)} and {tuple(bilateral)}, expected weights ≥ 0 and deviations > 0")


def _softmax(energy: Tensor) -> Tensor:
    """Softmax over the last dimension, in place; torch's is four times slower on rows of few classes."""
    likelihood = energy.sub_(energy.amax(dim=1, keepdim=True)).exp_()
    return likelihood.div_(likelihood.sum(dim=1, keepdim=True))


def _kernels(image: Tensor, gaussian: tuple[float, float], bilateral: tuple[float, float, float]) -> list[Lattice]:
    height, width = image.shape[1:]
    position = torch.ones(height, width, device=image.device).nonzero().flip(1).T.float()  # (x, y): the lattice needs this order
    appearance = torch.cat((position / bilateral[1], image.flatten(1) / bilateral[2]))
    features = [(gaussian[0], position / gaussian[1]), (bilateral[0], appearance)]
    return [Lattice.build(feature, weight) for weight, feature in features if weight > 0]


def _mix(table: Tensor, indices: Tensor, weights: Tensor, starts: Tensor | None = None) -> Tensor:
    """Rows Σ_k weights[·, k]·table[indices[·, k]]; with `starts`, where each sum of another length begins."""
    return embedding_bag(indices, table, starts, mode="sum", per_sample_weights=weights)


@dataclass
class Lattice:
    """A Gaussian filter of unit standard deviation over the features of N pixels, built once for any number of channels.

    splat: (N·(F+1),) pixels around each lattice point, in the points' order, their weights, and where each point begins.
    blur: (F+1, M, 3) each point and its two neighbours in each direction, and their weights.
    slice: (N, F+1) corners of the simplex around each pixel, and their weights.
    """

    splat: tuple[Tensor, Tensor, Tensor]
    blur: tuple[Tensor, Tensor]
    slice: tuple[Tensor, Tensor]

    @classmethod
    def build(cls, features: Tensor, weight: float = 1.0) -> Lattice:
        """Lattice of features (F, N) for weight · D^-½ K D^-½, where D holds the row sums of the Gaussian matrix K."""
        size, count = features.shape
        *corner, barycentric = simplex(features)
        keys, jumps = _keys(*corner)
        keys, order = keys.flatten().sort()
        points, inverse, sizes = torch.unique_consecutive(keys, return_inverse=True, return_counts=True)
        pixels, inside = order.int().remainder_(count), barycentric.flatten().index_select(0, order)
        inverse = inverse.int()
        corners = torch.empty_like(inverse).scatter_(0, order, inverse).view(size + 1, count).T.contiguous()
        outside = barycentric.T / (1 + 2.0**-size)  # the blur's kernel sums to more than 1
        starts = (sizes.cumsum(0) - sizes).int()
        lattice = cls((pixels, inside, starts), _neighbours(points, jumps), (corners, outside.contiguous()))
        scale = (lattice(features.new_ones(count, 1)) + 1e-20).rsqrt()
        inside *= scale.flatten().index_select(0, pixels)
        lattice.slice[1].mul_(scale * weight)
        return lattice

    def __call__(self, values: Tensor) -> Tensor:
        """Filters values (N, C) -> (N, C)."""
        table = _mix(values, *self.splat)
        for neighbours, weights in zip(*self.blur, strict=True):
            table = _mix(table, neighbours, weights)
        return _mix(table, *self.slice)


def simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The lattice simplex around each feature vector, scaled for a blur of unit standard deviation (section 3 of Adams et al.).

    features: (F, N). Returns the simplex's first corner in steps of F+1 (F+1, N); the rank of each coordinate in the walk to
    the next corners (F+1, N), 0 first; and the barycentric weights of the corners (F+1, N), which sum to 1.
    """
    size = len(features)
    elevated = elevate(features) / (size + 1)
    nearest = elevated.round()
    # The rounded point may lie off the plane Σx = 0: as many coordinates as its sum says, the worst rounded, go back one step.
    order = _ranks(elevated - nearest) - nearest.sum(dim=0).to(torch.int8)
    wrapped = (order > size).to(torch.int8) - (order < 0).to(torch.int8)
    nearest += wrapped
    order = (order - wrapped * (size + 1)).long()
    ascending = torch.empty_like(elevated).scatter_(0, order, elevated - nearest)
    return nearest, order, torch.cat((1 + ascending[:1] - ascending[-1:], ascending.diff(dim=0)))


def _keys(nearest: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (F+1, N) of each simplex's corners, one to one with lattice points, and the jumps (F+1,) between neighbours' keys.

    Corners are F+1 neighbours in a row: all coordinates grow by 1 but one, which falls by F. So the coordinates of a point are
    (F+1)·q + k with the same k for all, and sum to 0. The key is the first F, weighted with the strides of a mixed radix of q:
    as the strides sum to 1 modulo F+1, the key's remainder is k and its quotient gives q. Keys are narrow and quick to sort.
    """
    size = len(nearest) - 1
    low = nearest[:size].amin(dim=1, keepdim=True) - 2  # corners reach one step below, their neighbours two
    extent = (nearest[:size].amax(dim=1, keepdim=True) - low + 3).long().flatten()
    extent[0] += -extent[0] % (size + 1)
    largest = float(2 * (size + 1) * extent.double().prod())
    if largest >= 2**63:
        raise ValueError("kernels: a deviation is too small for this image; raise it (DeepLab's bilateral kernel is 4, 121, 5)")
    narrow = torch.int32 if largest < 2**31 else torch.int64
    stride = torch.cat((extent.new_ones(1), extent[:-1].cumprod(0), extent.new_zeros(1))).to(narrow)
    jumps = (stride.sum() - (size + 1) * stride).to(narrow)
    steps = torch.empty_like(order, dtype=narrow).scatter_(0, order, jumps[:, None].expand_as(order))
    first = ((nearest[:size] - low).to(narrow) * (size + 1) * stride[:size, None]).sum(dim=0, keepdim=True, dtype=narrow)
    return torch.cat((first, first + steps[:size].cumsum(dim=0, dtype=narrow))), jumps


def elevate(features: Tensor) -> Tensor:
    """Rotates (F, N) into the plane Σx = 0 of F+1 dimensions, scaled so that splat, blur and slice together have a std of 1."""
    size = len(features)
    axis = torch.arange(1, size + 1, device=features.device)[:, None]
    scaled = features * (size + 1) * (2 / 3 / (axis * (axis + 1))).sqrt()
    later = torch.stack([scaled[i:].sum(dim=0) for i in range(size)])
    zero = torch.zeros_like(scaled[:1])
    return torch.cat((later, zero)) - torch.cat((zero, axis * scaled))


def _ranks(values: Tensor) -> Tensor:
    """Each value's rank in its column, 0 for the smallest; values (F+1, N).

    Comparing all pairs of rows is several times faster than sorting many columns of six numbers.
    """
    ranks = torch.zeros_like(values, dtype=torch.int8)
    for i in range(len(values)):
        for j in range(i):
            above = values[i] > values[j]
            ranks[i] += above
            ranks[j] += ~above
    return ranks


def _neighbours(points: Tensor, jumps: Tensor) -> tuple[Tensor, Tensor]:
    """(F+1, M, 3) each point, its next and its previous neighbour in each direction, and their weights 1, ½, ½ (0 if missing)."""
    count = len(points)
    here = torch.arange(count + 1, dtype=torch.int32, device=points.device).repeat(len(jumps), 1)
    wanted = points + jumps[:, None]
    places = torch.searchsorted(points, wanted, out_int32=True).clamp_(max=count - 1)
    following = places.where(points.index_select(0, places.flatten()).view_as(wanted) == wanted, count)
    # A point is the previous one of its next one. Points without a next one write to column `count`, which is dropped.
    previous = here.scatter(1, following.long(), here[:, :count])[:, :count]
    here = here[:, :count]
    weights = 0.5 * torch.stack((torch.full_like(following, 2), following < count, previous != here), dim=2)
    return torch.stack((here, following.clamp(max=count - 1), previous), dim=2), weights
