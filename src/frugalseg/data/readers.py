"""`read`: recognise the layout of a data folder, list its records, and make sure that every file can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from frugalseg.data import files, images, subset
from frugalseg.data.dataset import Data
from frugalseg.data.formats import archive, cityscapes, coco, cub, folder, imagenet_s, sbd, voc
from frugalseg.data.problems import LABEL, OBJECT, PICTURE, ROW, DataError, Problems
from frugalseg.data.verify import Looked, usable

# The layouts with a module of their own.
OWN: dict[str, Any] = {"voc": voc, "coco": coco, "sbd": sbd, "cityscapes": cityscapes, "cub": cub, "imagenet-s": imagenet_s}
LAYOUTS = (*OWN, "objects", "masks", "tags", "classes", "images")


def read(
    path: Path | str,
    split: str | None = None,
    layout: str | None = None,
    verify: bool = True,
    skip_limit: float = 0.05,
    *,
    classes: Path | str | None = None,
    difficult: str = "present",
    max_pixels: int = images.MAX_PIXELS,
    follow_links: bool = False,
) -> Data:
    """The data set in a folder or a COCO file, a single image, or the images in zip and tar files.

    split: name of a list or subfolder; None takes every image. layout: one of LAYOUTS; None recognises it.
    verify: decode every file once before training relies on it (cached, so the next read is instant); archives are not.
    skip_limit: the share of images, labels, rows or objects that may be left out; more is an error. 1.0 allows any.
    classes: a text file of class folders, one a line: only images in them are read, see `subset.part`.
    difficult: VOC only: whether a class that has only difficult objects is "present", "unknown" or "absent".
    max_pixels: larger images are left out. follow_links: accept links that lead out of the folder.

    Raises DataError if nothing can be read, too much would be left out, or an argument names something that is not there.
    """
    root, problems = Path(path).expanduser(), Problems()
    options = files.Options(difficult, max_pixels, follow_links)
    data, _ = gather(root, split, layout, options, problems, verify and not _is_packed(root, layout), classes)
    over = excess(data, problems, skip_limit)
    if over:
        faults = "\n".join(f"  - {problem}" for problem in data.problems if problem.effect in over)
        raise DataError(
            f"{data.root}: more than skip_limit={skip_limit:g} cannot be used ({', '.join(over.values())}):\n{faults}\n"
            "Correct them, or accept it with --skip-limit 1.0 (in Python skip_limit=1.0)."
        )
    if not len(data):
        place = "" if split is None else f" in its list {split!r}"
        raise DataError(f"{data.root}: no image found{place}; expected files such as .jpg, .png or .tif.")
    return data


def gather(
    root: Path,
    split: str | None,
    layout: str | None,
    options: files.Options,
    problems: Problems,
    verify: bool = True,
    listed: Path | str | None = None,
) -> tuple[Data, dict[str, Looked]]:
    """What `read` reads, however much of it is left out, and what was found out about each image. listed: its `classes`."""
    folder.expect(root)
    if _is_packed(root, layout):
        packed = archive.read(root, split, options, problems)
        if listed:
            packed = subset.of_classes(packed, listed)
        return packed, archive.examine(packed, options, problems) if verify else {}
    layout = layout or folder.sniff(root)
    if layout not in LAYOUTS or options.difficult not in voc.DIFFICULT:
        got = f"layout={layout!r} and difficult={options.difficult!r}"
        raise DataError(f"read(): got {got}; expected one of {', '.join(LAYOUTS)} and one of {', '.join(voc.DIFFICULT)}")
    if layout in OWN:
        classes, records = OWN[layout].read(root, split, options, problems)
    else:
        classes, records = folder.read(root, split, layout, options, problems)
    root = coco.home(root) if layout == "coco" else root
    if listed:
        classes, records = subset.part(listed, classes, records, root)
    looked: dict[str, Looked] = {}
    if verify:
        records, looked = usable(root, records, len(classes), options, problems)
    return Data(root, layout, split, classes, records, problems.list(), options.max_pixels), looked


def _is_packed(root: Path, layout: str | None) -> bool:
    return layout in (None, "images", "archive") and archive.is_archive(root)


def excess(data: Data, problems: Problems, skip_limit: float) -> dict[str, str]:
    """The effects that were met more often than the limit allows, each with its numbers in words."""
    met = problems.counts()
    seen = {PICTURE: len(data) + met[PICTURE], **{effect: problems.seen[effect] for effect in (LABEL, ROW, OBJECT)}}
    return {effect: f"{effect}: {met[effect]} of {seen[effect]}" for effect in seen if met[effect] > skip_limit * seen[effect]}
