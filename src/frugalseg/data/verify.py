"""Make sure before training that every file can be used: pictures that cannot are left out, masks that cannot are withheld."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

from frugalseg.data import facts, images
from frugalseg.data.dataset import Record
from frugalseg.data.problems import Problems
from frugalseg.types import IGNORE


def usable(root: Path, records: list[Record], classes: int, problems: Problems, max_pixels: int) -> list[Record]:
    """The records whose picture decodes. A mask that cannot be used is withheld, its picture stays.

    So the masks of a data set never decide which pictures a method trains on that is not allowed to see masks.
    """
    seen = facts.of(
        root, f"picture-{max_pixels}", [record.image for record in records], partial(picture_facts, max_pixels=max_pixels)
    )
    kept = []
    for record in records:
        known = seen[record.image]
        if "code" in known:
            problems.add(known["code"], f"{record.name} ({known['reason']})")
            continue
        _note_picture(record, known, problems)
        kept.append(record)
    paths = {path for record in kept for path in (record.semantic, record.object_classes) if path is not None}
    masks = facts.of(root, "mask", sorted(paths), mask_facts)
    ids = facts.of(root, "objects", sorted({record.objects for record in kept if record.objects is not None}), mask_facts)
    return [_with_sound_masks(record, seen[record.image], masks, ids, classes, problems) for record in kept]


def picture_facts(path: Path, max_pixels: int) -> facts.Facts:
    """Upright height and width, EXIF orientation, PIL mode and a hash of the file's bytes; or code and reason why it cannot be used."""
    try:
        (height, width), orientation, mode, alpha = images.header(path, max_pixels)
        images.verify(path, max_pixels)
    except images.BadImage as error:
        return {"code": error.code, "reason": error.reason}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    return {"height": height, "width": width, "orientation": orientation, "mode": mode, "alpha": alpha, "hash": digest}


def mask_facts(path: Path) -> facts.Facts:
    """Height, width and the ids that occur; or code and reason why it cannot be used."""
    try:
        mask = images.load_mask(path)
    except images.BadImage as error:
        return {"code": error.code, "reason": error.reason}
    return {"height": mask.shape[0], "width": mask.shape[1], "ids": mask.unique().tolist()}


def mask_fault(known: facts.Facts, picture: facts.Facts, classes: int | None) -> tuple[str, str] | None:
    """Code and reason why a decoded mask does not fit its picture and the class list (None: ids are free), or None if it does."""
    if "code" in known:
        return known["code"], known["reason"]
    size, wanted = (known["height"], known["width"]), (picture["height"], picture["width"])
    turned = picture["orientation"] >= 5 and size == wanted[::-1]
    if size != wanted and not turned:
        return "mask-size", f"{size[1]} x {size[0]}, picture {wanted[1]} x {wanted[0]}"
    unknown = [] if classes is None else [number for number in known["ids"] if number > classes and number != IGNORE]
    return ("mask-unknown-id", f"id {max(unknown)}") if unknown else None


def _with_sound_masks(
    record: Record,
    picture: facts.Facts,
    masks: dict[Path, facts.Facts],
    ids: dict[Path, facts.Facts],
    classes: int,
    problems: Problems,
) -> Record:
    def fault(path: Path | None, known: dict[Path, facts.Facts], classes: int | None) -> bool:
        found = mask_fault(known[path], picture, classes) if path is not None else None
        if found is not None:
            problems.add(found[0], f"{record.name} ({found[1]})")
        return found is not None

    if fault(record.semantic or record.object_classes, masks, classes):
        record = replace(record, semantic=None, objects=None, object_classes=None)
    if fault(record.objects, ids, None):
        record = replace(record, objects=None, object_classes=None)
    return record


def _note_picture(record: Record, known: facts.Facts, problems: Problems) -> None:
    height, width = known["height"], known["width"]
    outside = sum(not (-1 <= box.x1 < box.x2 <= width + 1 and -1 <= box.y1 < box.y2 <= height + 1) for box in record.boxes or ())
    notes = {
        "exif-rotated": known["orientation"] != 1,
        "image-16-bit": known["mode"] in ("I", "F") or known["mode"].startswith("I;16"),
        "image-alpha": known["alpha"],
        "box-outside": outside > 0,
    }
    for code in (code for code, met in notes.items() if met):
        problems.add(code, record.name)
