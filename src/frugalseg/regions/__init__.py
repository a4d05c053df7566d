"""What can be found in an image without learning: superpixels, saliency, labels that follow edges; and the cache of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from frugalseg.data.transforms import squashed
from frugalseg.progress import track
from frugalseg.regions import proposals, saliency, superpixels
from frugalseg.regions.cache import Cache

if TYPE_CHECKING:
    from frugalseg.data import Data

Tool = Callable[..., Tensor]
TOOLS: dict[str, Tool] = {
    "slic": superpixels.slic,
    "boundary_connectivity": saliency.boundary_connectivity,
    "proposals": proposals.selective_search,
    "grid": proposals.grid,
    "random": proposals.random,
}


@dataclass(frozen=True)
class Filled:
    """What `fill` did: results made now, found in the cache, made but not kept as it cannot be written; failures by image."""

    made: int
    found: int
    unkept: int
    failed: dict[str, str]


def fill(
    data: Data, tool: Tool | str, cache: Cache | None = None, jobs: int | None = None, square: int = 0, **arguments: Any
) -> Filled:
    """Runs a tool over all images of a data set, on all cores, into the cache, and shows the time left.

    Threads are enough: decoding, SLIC and compression release the interpreter lock. Stopped and started again, it goes on.
    tool: one of TOOLS or its name. jobs: threads (default: one per core). square: side in pixels to which the images are squashed
    before, as R2O does; 0 takes them as they are. Images that fail are named in a warning and in the result.
    """
    tool = TOOLS[tool] if isinstance(tool, str) else tool
    work = partial(_keep, data, tool, cache or Cache(), square, arguments)
    with ThreadPoolExecutor(jobs or _cores()) as pool:
        try:
            outcomes = list(track(pool.map(work, range(len(data))), tool.__name__, len(data)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for the images in work, not for the whole queue
            raise
    failed = {name: str(outcome) for name, outcome in zip(data.names, outcomes, strict=True) if isinstance(outcome, Exception)}
    if failed:
        first = "\n".join(f"  {name}: {reason}" for name, reason in list(failed.items())[:5])
        warnings.warn(f"{tool.__name__} failed on {len(failed)} of {len(data)} images:\n{first}", stacklevel=2)
    return Filled(outcomes.count("made"), outcomes.count("found"), outcomes.count("unkept"), failed)


def _keep(data: Data, tool: Tool, cache: Cache, square: int, arguments: dict[str, Any], index: int) -> str | Exception:
    try:
        image = squashed(data.image(index), square) if square else data.image(index)
        path = cache.path(tool, image, **arguments)
        if path.is_file():
            return "found"
        cache(tool, image, **arguments)
        return "made" if path.is_file() else "unkept"
    except (ValueError, OSError) as error:  # a broken image must not stop the others
        return error


def _cores() -> int:
    """Cores this process may use, which a container or scheduler can make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
