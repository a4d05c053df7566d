"""Superpixels: small connected regions of even colour."""

from __future__ import annotations

import torch
from skimage import segmentation
from torch import Tensor

from frugalseg.regions.cache import cacheable


@cacheable("scikit-image")
def slic(image: Tensor, segments: int = 100, compactness: float = 10.0) -> Tensor:
    """SLIC superpixels (Achanta et al., TPAMI 2012) in their parameter-free form SLICO, as ids (H, W) int64 from 0 without gaps.

    image: (3, H, W) uint8 RGB. segments: about how many; SLICO comes closer to it than SLIC, which gives 64 to 94 of 100.
    compactness: of the first iteration; SLICO then adapts it to each region. Raises ValueError for another image or no segments.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
        raise ValueError(f"image: got {tuple(image.shape)} {image.dtype}, expected (3, H, W) uint8 RGB")
    if segments < 1 or compactness <= 0:
        raise ValueError(f"slic: got segments={segments}, compactness={compactness}, expected 1 or more and above 0")
    pixels = image.permute(1, 2, 0).numpy(force=True)
    count = min(segments, pixels.shape[0] * pixels.shape[1])
    return torch.from_numpy(segmentation.slic(pixels, n_segments=count, compactness=compactness, slic_zero=True, start_label=0))
