"""Make sure before training that every file can be used: images that cannot are left out, masks that cannot are withheld."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from frugalseg.data import file_info, files, images
from frugalseg.data.dataset import Record
from frugalseg.data.problems import LABEL, Problems
from frugalseg.types import IGNORE

LARGEST_OBJECT = 65535  # id of an object in a map: 16 bits
Content = Callable[[Path], bytes]


class Looked(NamedTuple):
    """The facts of a usable image, and of its class mask if it has one; of objects that are all of class 1, of their map."""

    picture: file_info.Facts
    mask: file_info.Facts | None


def usable(
    root: Path, records: list[Record], classes: int, options: files.Options, problems: Problems
) -> tuple[list[Record], dict[str, Looked]]:
    """The records whose image decodes, and by name what was found out about each of them.

    A mask that cannot be used is withheld, its image stays: the masks of a data set never decide which images a method
    trains on that is not allowed to see masks.
    """
    pictures = picture_facts(root, [record.image for record in records], options)
    kept = readable(root, records, pictures, problems)
    paths = {path for record in kept for path in (record.semantic, record.objects, record.object_classes) if path is not None}
    masks = mask_facts(root, sorted(paths), options)
    binary = _is_binary(masks[record.semantic] for record in kept if record.semantic is not None)
    drawn = [_with_fitting_outlines(root, record, pictures[record.image], problems) for record in kept]
    sound = [_with_sound_masks(root, record, pictures[record.image], masks, classes, binary, problems) for record in drawn]
    looked = {}
    for record in sound:
        path = record.semantic or (record.objects if record.object_classes is None else None)
        looked[record.name] = Looked(pictures[record.image], masks[path] if path else None)
    return sound, looked


def readable(root: Path, records: list[Record], image_facts: dict[Path, file_info.Facts], problems: Problems) -> list[Record]:
    """The records whose image decodes, by what was found out about the images."""
    kept = []
    for record in records:
        facts = image_facts[record.image]
        if "code" in facts:
            problems.add(facts["code"], f"{files.shown(record.image, root)} ({facts['reason']})")
        else:
            _note_picture(root, record, facts, problems)
            kept.append(record)
    return kept


def picture_facts(
    root: Path,
    paths: list[Path],
    options: files.Options,
    content: Content | None = None,
    stamp: file_info.Stamp = file_info.of_file,
) -> dict[Path, file_info.Facts]:
    """What is known of each image. content, stamp: of images in archives, their bytes and what tells that they changed."""
    look, fields = partial(look_at_picture, max_pixels=options.max_pixels, content=content), {*images.Header._fields, "hash"}
    return file_info.of(root, f"image-{options.max_pixels}", paths, look, fields, stamp)


def mask_facts(root: Path, paths: list[Path], options: files.Options) -> dict[Path, file_info.Facts]:
    """Size and ids of each mask, read from the cache of file facts where the file has not changed."""
    look = partial(look_at_mask, max_pixels=options.max_pixels)
    return file_info.of(root, f"mask-{options.max_pixels}", paths, look, {"height", "width", "ids"})


def look_at_picture(path: Path, max_pixels: int, content: Content | None = None) -> file_info.Facts:
    """Upright height and width, EXIF orientation, PIL mode, hash of the bytes; or code and reason why it cannot be used."""
    try:
        raw = content(path) if content else None
        header = images.verify(path, max_pixels, raw)
    except images.BadImage as error:
        return {"code": error.code, "reason": error.reason}
    if raw is not None:
        return {**header._asdict(), "hash": hashlib.blake2b(raw).hexdigest()[:32]}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    return {**header._asdict(), "hash": digest}


def look_at_mask(path: Path, max_pixels: int) -> file_info.Facts:
    """Height, width and the ids that occur; or code and reason why it cannot be used."""
    try:
        mask = images.load_mask(path, max_pixels=max_pixels)
    except images.BadImage as error:
        return {"code": error.code, "reason": error.reason}
    return {"height": mask.shape[0], "width": mask.shape[1], "ids": images.ids(mask)}


def fault(mask: file_info.Facts, picture: file_info.Facts, classes: int | None, binary: bool) -> tuple[str, str] | None:
    """Code and reason why a mask does not fit its image and the class list, or None if it does. classes=None: ids are free."""
    if "code" in mask:
        return mask["code"], mask["reason"]
    size, wanted = (mask["height"], mask["width"]), (picture["height"], picture["width"])
    turned = picture["orientation"] >= 5 and size == wanted[::-1]
    if size != wanted and not turned:
        return "mask-size", f"{size[1]} x {size[0]}, image {wanted[1]} x {wanted[0]}"
    if classes is None:
        strange = [number for number in mask["ids"] if not 0 <= number <= LARGEST_OBJECT]
        return ("object-ids", f"id {strange[-1]}") if strange else None
    if binary:
        return ("mask-0-255", "0 and 255 only") if IGNORE in mask["ids"] else None
    unknown = [number for number in mask["ids"] if not 0 <= number <= classes and number != IGNORE]
    return ("mask-unknown-id", f"id {max(unknown)} of {classes}") if unknown else None


def _is_binary(masks: Iterable[file_info.Facts]) -> bool:
    """Whether 255 must mean "object": it occurs, and no class id does in any mask. One mask alone may well hold only ignore."""
    ids = {number for mask in masks for number in mask.get("ids", ())}
    return IGNORE in ids and ids <= {0, IGNORE}


def _with_fitting_outlines(root: Path, record: Record, picture: file_info.Facts, problems: Problems) -> Record:
    """The record without objects that were drawn on another size than the image has."""
    if record.outlines is None:
        return record
    problems.seen[LABEL] += 1
    wanted = (picture["height"], picture["width"])
    drawn = next((item.size for item in record.outlines if item.size != wanted), None)
    if drawn is None:
        return record
    reason = f"{drawn[1]} x {drawn[0]}, image {wanted[1]} x {wanted[0]}"
    problems.add("annotation-size", f"{files.shown(record.image, root)} ({reason})")
    return replace(record, outlines=None, boxes=None)


def _with_sound_masks(
    root: Path,
    record: Record,
    picture: file_info.Facts,
    masks: dict[Path, file_info.Facts],
    classes: int,
    binary: bool,
    problems: Problems,
) -> Record:
    """The record without the masks that do not fit; object masks go with the class masks that explain them."""
    for path, limit in ((record.semantic or record.object_classes, classes), (record.objects, None)):
        if path is None:
            continue
        problems.seen[LABEL] += 1
        fault_found = fault(masks[path], picture, limit, binary)
        if fault_found is not None:
            problems.add(fault_found[0], f"{files.shown(path, root)} ({fault_found[1]})")
            semantic = record.semantic if path == record.objects else None
            return replace(record, semantic=semantic, objects=None, object_classes=None)
    return record


def _note_picture(root: Path, record: Record, facts: file_info.Facts, problems: Problems) -> None:
    height, width = facts["height"], facts["width"]
    outside = sum(not (-1 <= box.x1 < box.x2 <= width + 1 and -1 <= box.y1 < box.y2 <= height + 1) for box in record.boxes or ())
    notes = {
        "exif-rotated": facts["orientation"] != 1,
        "image-16-bit": facts["mode"] in ("I", "F") or facts["mode"].startswith("I;16"),
        "image-alpha": facts["transparent"],
        "box-outside": outside > 0,
    }
    for code in (code for code, met in notes.items() if met):
        problems.add(code, files.shown(record.image, root))
