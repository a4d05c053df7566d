"""What can be found in an image without learning: superpixels, saliency, foreground in boxes, proposals; and a cache of it.

May use: data, metrics, engine. Holds no networks; a method asks these tools, they never ask a method.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from frugalseg.regions import proposals, saliency, superpixels

Tool = Callable[..., Tensor]
TOOLS: dict[str, Tool] = {
    "slic": superpixels.slic,
    "boundary_connectivity": saliency.boundary_connectivity,
    "proposals": proposals.selective_search,
    "grid": proposals.grid,
    "random": proposals.random,
}
