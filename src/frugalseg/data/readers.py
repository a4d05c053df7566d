"""`read`: recognise the layout of a data folder, list its records, and make sure that every file can be used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from frugalseg.data import folder, images, voc
from frugalseg.data.dataset import Data
from frugalseg.data.folder import sniff
from frugalseg.data.problems import LABEL, PICTURE, ROW, DataError, Problems
from frugalseg.data.verify import usable

LAYOUTS = ("voc", "masks", "tags", "classes", "images")


def read(
    path: Path | str,
    split: str | None = None,
    layout: str | None = None,
    verify: bool = True,
    skip_limit: float = 0.05,
    *,
    difficult: str = "present",
    max_pixels: int = images.MAX_PIXELS,
    follow_links: bool = False,
) -> Data:
    """The data set in a folder, or a single picture.

    split: name of a list or subfolder; None takes every picture. layout: one of LAYOUTS; None recognises it.
    verify: decode every file once before training relies on it (cached, so the next read is instant).
    skip_limit: the share of pictures, labels or rows that may be left out; more is an error. 1.0 allows any.
    difficult: VOC only: whether a class that has only difficult objects is "present", "unknown" or "absent".
    max_pixels: larger pictures are left out. follow_links: accept links that lead out of the folder.

    Raises DataError if nothing can be read, too much would be left out, or an argument names something that is not there.
    """
    root = Path(path).expanduser()
    layout = layout or sniff(root)
    if layout not in LAYOUTS or difficult not in voc.DIFFICULT:
        raise DataError(
            f"read(): got layout={layout!r} and difficult={difficult!r}; expected one of {LAYOUTS} and {tuple(voc.DIFFICULT)}"
        )
    problems = Problems()
    if layout == "voc":
        classes, records = voc.read(root, split, problems, follow_links, difficult)
    else:
        classes, records = folder.read(root, split, layout, problems, follow_links)
    if verify:
        records = usable(root, records, len(classes), problems, max_pixels)
    data = Data(root, layout, split, classes, records, problems.list(), max_pixels)
    return _within_limit(data, skip_limit)


def _within_limit(data: Data, skip_limit: float) -> Data:
    dropped = Counter[str]()
    for problem in data.problems:
        dropped[problem.effect] += problem.count
    pictures = len(data) + dropped[PICTURE]
    over = [effect for effect in (PICTURE, LABEL, ROW) if dropped[effect] > skip_limit * pictures]
    faults = "\n".join(f"  - {problem}" for problem in data.problems if problem.effect in over or not len(data))
    if over:
        shares = ", ".join(f"{effect}: {dropped[effect]}" for effect in over)
        raise DataError(
            f"{data.root}: of {pictures} pictures ({shares}) more than skip_limit={skip_limit:g} cannot be used:\n{faults}\n"
            "Correct them, or accept it with skip_limit=1.0"
        )
    if not len(data):
        raise DataError(f"{data.root}: no picture found in split {data.split!r} (layout {data.layout!r}).\n{faults}".rstrip())
    return data
