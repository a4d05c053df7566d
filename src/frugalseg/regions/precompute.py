"""Regions of a whole data set, computed once: into the cache on all cores, or into the array store of a run."""

from __future__ import annotations

import warnings
from collections import Counter
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
from frugalseg.regions import Tool, proposals, tool_named
from frugalseg.regions.cache import Cache

MISSING = 0.05  # share of the images that a file of proposals may lack


# -- into the cache --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filled:
    """Numbers of results that `fill` computed, found in the cache, and could not write there; and the errors by image name."""

    made: int
    found: int
    unkept: int
    failed: dict[str, str]


def fill(
    data: Data, tool: Tool | str, cache: Cache | None = None, jobs: int | None = None, square: int = 0, **arguments: Any
) -> Filled:
    """Run a tool over all images of a data set, on all cores, into the cache, and show the time left; resumable.

    Threads are enough: decoding, SLIC and compression release the interpreter lock.

    tool: one of TOOLS or its name. jobs: threads (default: one per core). square: side in pixels to which the images are squashed
    first, as R2O does; 0 takes them as they are. Images that fail are named in a warning and in the result.
    """
    tool = tool_named(tool) if isinstance(tool, str) else tool
    work = partial(_filled, data, tool, cache or Cache(), square, arguments)
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
    counts = Counter(outcome for outcome in outcomes if isinstance(outcome, str))
    return Filled(counts["made"], counts["found"], counts["unkept"], failed)


def _filled(data: Data, tool: Tool, cache: Cache, square: int, arguments: dict[str, Any], index: int) -> str | Exception:
    """What became of one image: a count of `Filled`, or its error."""
    try:
        image = squashed(data.image(index), square) if square else data.image(index)
        path = cache.path(tool, image, **arguments)
        if path.is_file():
            return "found"
        cache(tool, image, **arguments)
        return "made" if path.is_file() else "unkept"
    except (ValueError, OSError) as error:  # a broken image must not stop the others
        return error


def recall(data: Data, tool: Callable[..., Tensor], cache: Cache, **arguments: Any) -> RegionScores:
    """How well a tool's boxes cover the annotated objects, crowds and difficult ones apart; no scores where there are none."""
    scores = RegionScores(data.classes, data=data.root.resolve().name, split=data.split)
    for index in track(range(len(data)), "recall", len(data)):
        objects = data.boxed(index)
        if objects is not None and not objects.ignored.all():
            boxes, counted = cache(tool, data.image(index), **arguments), torch.from_numpy(~objects.ignored)
            scores.update(data.names[index], boxes, objects.boxes[counted], objects.labels[counted])
    return scores


# -- proposals of a training set -------------------------------------------------------------------------------------


def covered(data: Data, source: str) -> Data:
    """The images of a data set that the source has proposals for: all of them, unless it is a file or folder.

    Up to a share of MISSING are left out with a warning. Raises ValueError where more are missing.
    """
    missing = [] if source in proposals.TOOLS else proposals.files_of(source).missing(data.names)
    if not missing:
        return data
    text = f"{source} has no boxes of {len(missing)} of {len(data)} images, such as {', '.join(map(repr, missing[:3]))}"
    if len(missing) > MISSING * len(data):
        raise ValueError(f"proposals: {text}; are they of other images? A file is found by the image's name without its ending")
    warnings.warn(f"proposals: {text}; they are left out", stacklevel=3)
    left_out = set(missing)
    return data.select(index for index, name in enumerate(data.names) if name not in left_out)


class Proposed:
    """The proposals of each image of a data set, computed by the reader processes, so that every core works.

    An item has boxes (P, 4), at least one, at most `count`, and faults (5,): numbers of broken, outside, empty and cut boxes, and
    1 if none was left, 0 otherwise.
    """

    def __init__(self, data: Data, source: str, count: int) -> None:
        self.data, self.source, self.count = data.only("image"), source, count

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        sample = self.data[index]
        valid = proposals.cleaned(sample, self.source, self.count)
        boxes = proposals.at_least_one(replace(sample, proposals=valid.boxes), self.source, self.count)
        faults = [valid.broken, valid.outside, valid.empty, valid.beyond, not len(valid.boxes)]
        return {"boxes": boxes.numpy(), "faults": np.array(faults, np.int64)}


def stored_proposals(data: Data, source: str, count: int, run: Run) -> ArrayStore:
    """The items of `Proposed`, computed once in the life of a run, with a warning that counts their faults.

    Raises ValueError where boxes of more than half of the images reach beyond their image.
    """
    store = run.each("proposals", Proposed(data, source, count), lambda _, item: item)
    faults = run.once("proposal_faults", lambda: [store.read(index)["faults"].tolist() for index in range(len(data))])
    report_faults(np.array(faults).reshape(-1, 5), source)
    return store


def report_faults(faults: np.ndarray, source: str) -> None:
    """Warn of the faults (N, 5) that `Proposed` counts in N images. Raises ValueError; see `stored_proposals`."""
    broken, outside, empty, beyond, none = faults.sum(0).tolist()
    too_large = int(((faults[:, 1] + faults[:, 3]) > 0).sum())
    if 2 * too_large > len(faults):
        raise ValueError(
            f"proposals: boxes of {source} reach beyond {too_large} of {len(faults)} images; they were made for other images, or "
            "for these at another size"
        )
    left_out = {"not finite": broken, "outside of their image": outside, "without area": empty}
    texts = [f"{number} {fault} are left out" for fault, number in left_out.items() if number]
    texts += [f"{beyond} reach beyond their image and are cut"] * (beyond > 0)
    texts += [f"{none} images have none: the whole image is their proposal"] * (none > 0)
    if texts:
        warnings.warn(f"proposals: of {source}, {'; '.join(texts)}", stacklevel=3)
