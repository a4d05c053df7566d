"""A part of a data set: some class folders, such as ImageNet-100's list of those of ImageNet, or a share drawn at random."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from frugalseg.data import files
from frugalseg.data.dataset import Data, Record
from frugalseg.data.problems import DataError

SHOWN = 5
D = TypeVar("D", bound=Data)


def of_classes(data: D, file: Path | str) -> D:
    """The images of `data` in the folders that a file names; see `part`."""
    made = copy(data)
    made.classes, made.records = part(file, data.classes, data.records, data.root)
    return made


def drawn(data: D, share: float, seed: int) -> D:
    """A share of the images, at least one, in their order.

    Drawn by the images' names: with the same seed a smaller share is a part of a larger one, on any machine.
    """
    count = max(1, round(share * len(data)))
    draw = {name: hashlib.blake2b(f"{seed} {name}".encode()).digest() for name in data.names}
    kept = set(sorted(draw, key=draw.__getitem__)[:count])
    made = copy(data)
    made.records = [record for record in data.records if record.name in kept]
    return made


def part(
    file: Path | str, classes: tuple[str, ...], records: Sequence[Record], root: Path
) -> tuple[tuple[str, ...], list[Record]]:
    """The classes and records that are left when only images below the folders named in `file`, one a line, are taken.

    A line is the folder's name, or begins with it and a space, as lists that tell the name in words behind it. Where tags are the
    only labels, the named classes alone are left, in their order; masks number all classes, so they keep the whole list.
    Raises DataError if no image lies in such a folder; folders without an image are warned of.
    """
    folders = {name: set(Path(name).parts[:-1]) for name in (record.name for record in records)}
    there = set().union(*folders.values())
    lines = [line.strip() for line in files.read_text(Path(file)).splitlines() if line.strip()]
    named = {line if line in there else line.split()[0] for line in lines}
    if not named & there:
        raise DataError(f"classes={file}: none of the {len(records)} images of {root} lies in one of its {len(named)} folders.")
    missing = sorted(named - there)
    if missing:
        few = ", ".join(missing[:SHOWN]) + (", …" if len(missing) > SHOWN else "")
        warnings.warn(f"classes={file}: {len(missing)} of its {len(named)} folders hold no image of {root}: {few}", stacklevel=3)
    kept = [record for record in records if named & folders[record.name]]
    columns = [column for column, name in enumerate(classes) if name in named]
    if not columns or any(record.fields - {"image", "tags"} for record in kept):
        return classes, kept
    return tuple(classes[column] for column in columns), [_with_tags(record, columns) for record in kept]


def _with_tags(record: Record, columns: Sequence[int]) -> Record:
    return record if record.tags is None else replace(record, tags=tuple(record.tags[column] for column in columns))
