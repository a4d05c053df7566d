"""Regions of a whole data set, computed once: into the cache on all cores, or into a run's own store."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frugalseg.data import Data
from frugalseg.data.transforms import squashed
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.run import Run
from frugalseg.machine import cores
from frugalseg.metrics.regions import RegionScores
from frugalseg.progress import track
from frugalseg.regions import TOOLS, Tool, proposals
from frugalseg.regions.cache import Cache


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
    with ThreadPoolExecutor(jobs or cores()) as pool:
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


def covered(data: Data, source: str) -> Data:
    """The pictures of a data set that the source has proposals of: all of them, unless it is a file or folder.

    Some missing pictures are left out, which a warning says. Raises ValueError where more than MISSING of them are.
    """
    lost = [] if source in proposals.TOOLS else proposals.files_of(source).missing(data.names)
    if not lost:
        return data
    said = f"{source} has no boxes of {len(lost)} of {len(data)} pictures, such as {', '.join(map(repr, lost[:3]))}"
    if len(lost) > proposals.MISSING * len(data):
        raise ValueError(
            f"proposals: {said}; are they of other pictures? A file is found by the picture's name without its ending"
        )
    warnings.warn(f"proposals: {said}; they are left out", stacklevel=3)
    others = set(lost)
    return data.select(index for index, name in enumerate(data.names) if name not in others)


class Proposed:
    """The proposals of each picture of a data set, made in the reading processes, so that every core works.

    An item is boxes (P, 4), at least one, at most `count`, and faults: (5,) numbers of broken, outside, empty and cut ones and
    whether there is none.
    """

    def __init__(self, data: Data, source: str, count: int) -> None:
        self.data, self.source, self.count = data.only("image"), source, count

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        sample = self.data[index]
        found = proposals.cleaned(sample, self.source, self.count)
        boxes = proposals.some(replace(sample, proposals=found.boxes), self.source, self.count)
        faults = [found.broken, found.outside, found.empty, found.beyond, not len(found.boxes)]
        return {"boxes": boxes.numpy(), "faults": np.array(faults, np.int64)}


def stored_proposals(data: Data, source: str, count: int, run: Run) -> ArrayStore:
    """The items of `Proposed`, made once in the life of a `run`, with a warning that counts what is wrong with them.

    Raises ValueError where boxes of more than half of the pictures reach beyond their picture.
    """
    shelf = run.each("proposals", Proposed(data, source, count), lambda _, item: item)
    faults = run.once("proposal_faults", lambda: [shelf.read(index)["faults"].tolist() for index in range(len(data))])
    report_faults(np.array(faults).reshape(-1, 5), source)
    return shelf


def report_faults(faults: np.ndarray, source: str) -> None:
    """Say what is wrong with the proposals of N pictures, (N, 5) as `Proposed` counts them. Raises ValueError; see `shelved`."""
    broken, outside, empty, beyond, none = faults.sum(0).tolist()
    strange = int(((faults[:, 1] + faults[:, 3]) > 0).sum())
    if 2 * strange > len(faults):
        raise ValueError(
            f"proposals: boxes of {source} reach beyond {strange} of {len(faults)} pictures; they were made for other pictures, "
            "or for these at another size"
        )
    counts = {"not finite": broken, "outside of their picture": outside, "without area": empty}
    said = [f"{number} {what} are left out" for what, number in counts.items() if number]
    said += [f"{beyond} reach beyond their picture and are cut"] * (beyond > 0)
    said += [f"{none} pictures have none, and the whole picture stands in"] * (none > 0)
    if said:
        warnings.warn(f"proposals: of {source}, {'; '.join(said)}", stacklevel=3)


def recall(data: Data, tool: Callable[..., Tensor], cache: Cache, **arguments: Any) -> RegionScores:
    """How well a tool's boxes cover the annotated objects, but crowds and difficult ones; an empty score where there are none."""
    scores = RegionScores(data.classes, data=data.root.resolve().name, split=data.split)
    for index in track(range(len(data)), "recall", len(data)):
        known = data.boxed(index)
        if known is not None and not known.passed.all():
            boxes, single = cache(tool, data.image(index), **arguments), torch.from_numpy(~known.passed)
            scores.update(data.names[index], boxes, known.boxes[single], known.labels[single])
    return scores
