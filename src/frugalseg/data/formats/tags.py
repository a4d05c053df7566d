"""Tables that people write by hand: tags.csv (`image,tag;tag`) and splits.csv (`image,split`)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from frugalseg.data import files
from frugalseg.data.problems import ROW, DataError, Problems

HEADERS = frozenset({"image", "images", "file", "filename", "file_name", "name", "picture", "path"})
UNKNOWN_MARK = "?"  # `?dog` says that nobody knows whether there is a dog


def rows(path: Path) -> list[tuple[str, list[str]]]:
    """(first cell, other cells) of each row that is not blank, without the header. Cells may be quoted."""
    try:
        table = [
            [cell.strip() for cell in row] for row in csv.reader(io.StringIO(files.read_text(path), newline=""), strict=True)
        ]
    except csv.Error as error:
        raise DataError(f"{path}: not a readable CSV table ({error}). Expected rows such as: photo.jpg,dog;cat") from error
    table = [row for row in table if any(row)]
    if table and table[0][0].lower() in HEADERS:
        table = table[1:]
    return [(row[0], row[1:]) for row in table]


def read_tags(path: Path, index: Mapping[str, str], problems: Problems) -> dict[str, list[str]]:
    """The tags of each image in a table; rows of the same image are united, an empty cell gives an empty list.

    index: what the table may call an image -> its name.
    """
    rows: dict[str, list[str]] = {}
    for name, cells in _known_rows(path, index, problems):
        if name in rows:
            problems.add("tag-duplicate-row", name)
        tags = [tag.strip() for cell in cells for tag in cell.split(";")]
        rows.setdefault(name, []).extend(filter(None, tags))
    return rows


def read_splits(path: Path, index: Mapping[str, str], problems: Problems) -> dict[str, str]:
    """The split of each image in a table; the last row of an image counts."""
    return {name: cells[0] for name, cells in _known_rows(path, index, problems) if cells and cells[0]}


def _known_rows(path: Path, index: Mapping[str, str], problems: Problems) -> Iterator[tuple[str, list[str]]]:
    for image, cells in rows(path):
        problems.seen[ROW] += 1
        key = files.look_up(image, index, problems, missing="tag-unknown-file")
        if key is not None:
            yield index[key], cells


def vector(tags: Iterable[str], classes: tuple[str, ...]) -> tuple[tuple[float, ...], list[str]]:
    """Tags as one of {0, 1, nan} per class: what is not named is absent, `?name` is unknown, `background` says nothing.

    Gives the tags that are no class beside them.
    """
    values, strange = [0.0] * len(classes), []
    for tag in tags:
        name = tag.removeprefix(UNKNOWN_MARK).strip()
        if name not in classes and name.lower() in files.NO_CLASSES:
            continue
        if name not in classes:
            strange.append(name)
        elif values[classes.index(name)] != 1.0:
            values[classes.index(name)] = math.nan if tag.startswith(UNKNOWN_MARK) else 1.0
    return tuple(values), strange


def vocabulary(tagged: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """All names in some tables of tags, sorted."""
    names = {tag.removeprefix(UNKNOWN_MARK).strip() for tags in tagged for tag in tags}
    return tuple(sorted(name for name in names if name and name.lower() not in files.NO_CLASSES))
