"""What can be found in an image without learning: superpixels, saliency, foreground in boxes, proposals; and a cache for it.

May use: data, metrics, engine and below. Holds no networks; methods call these tools, which never call a method.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from frugalseg.config import UsageError, did_you_mean
from frugalseg.regions import proposals, saliency, superpixels

Tool = Callable[..., Tensor]
TOOLS: dict[str, Tool] = {
    "slic": superpixels.slic,
    "boundary_connectivity": saliency.boundary_connectivity,
    **proposals.TOOLS,
}
FORMER_NAMES = {"proposals": "selective_search"}


def tool_named(name: str) -> Tool:
    """The tool of that name. Raises UsageError that names the nearest."""
    name = FORMER_NAMES.get(name, name)
    if name not in TOOLS:
        raise UsageError(f"there is no tool {name!r}{did_you_mean(name, TOOLS)} Expected one of {', '.join(TOOLS)}")
    return TOOLS[name]
