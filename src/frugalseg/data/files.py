"""Find files inside the data folder and nowhere else.

Names from lists and tables are only ever looked up in the index made here, never joined to a path and opened: a name such as
`../../etc/passwd` cannot reach a file, whatever it contains.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from frugalseg.data.images import MAX_PIXELS, SUFFIXES
from frugalseg.data.problems import DataError, Problems

EXPECTED_BESIDE = frozenset(
    {".txt", ".csv", ".json", ".xml", ".md", ".yaml", ".yml", ".html", ".db", ".ini", ".zip"}
)  # not worth a note
CLASS_FILE = "classes.txt"
NO_CLASSES = frozenset({"background", "_background_", "__ignore__"})  # what people and label tools call id 0


@dataclass(frozen=True)
class Options:
    """How tolerant a reader is; explained at `frugalseg.data.read`."""

    difficult: str = "present"
    max_pixels: int = MAX_PIXELS
    follow_links: bool = False


def pictures(
    folder: Path,
    root: Path,
    problems: Problems,
    follow_links: bool = False,
    apart: frozenset[str] = frozenset(),
    suffixes: frozenset[str] = SUFFIXES,
) -> dict[str, Path]:
    """Every image below `folder`, sorted: name (path relative to `folder`, `/` between, without ending) -> file.

    apart: names of direct subfolders that are passed over. suffixes: the endings that make a file one of those looked for.
    Hidden files are passed over; everything else that is left out is counted in `problems`.
    """
    found: dict[str, Path] = {}
    for name in sorted(_files(folder, follow_links, apart), key=lambda name: name.split("/")):
        path, (stem, ending) = folder / name, os.path.splitext(name)
        if name.endswith("/"):
            problems.add("name-outside", shown(path, root))
        elif ending.lower() not in suffixes:
            if ending.lower() not in EXPECTED_BESIDE:
                problems.add("file-ignored", shown(path, root))
        elif not is_plain(name) or not (follow_links or _stays(path, root)):
            problems.add("name-outside", shown(path, root))
        elif found.setdefault(stem, path) is not path:
            problems.add("image-twice", shown(path, root))
    return found


def look_up(name: str, index: Collection[str], problems: Problems, missing: str = "image-missing") -> str | None:
    """The key of `index` that a list or table means by `name` (with or without ending), or None and the problem is counted."""
    if not is_plain(name):
        problems.add("name-outside", name)
        return None
    path = PurePosixPath(name)
    stem = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
    for key in (name, str(stem)):
        if key in index:
            return key
    problems.add(missing, name)
    return None


def is_plain(name: str) -> bool:
    """Whether a name is a relative path that cannot climb and that prints as one line."""
    path = PurePosixPath(name)
    return bool(name) and name.isprintable() and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def class_names(root: Path) -> tuple[str, ...] | None:
    """The names in classes.txt, line i for id i, or None without that file. A first line `background` is taken as id 0."""
    path = root / CLASS_FILE
    if not path.is_file():
        return None
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    while names and names[0].lower() in NO_CLASSES:
        names.pop(0)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        fault = f"names twice: {', '.join(twice)}" if twice else "no name at all"
        raise DataError(f"{path}: got {fault}; expected one class name per line, each once. Correct the file.")
    return tuple(names)


def read_text(path: Path) -> str:
    """A text file as UTF-8, with or without byte-order mark; other encodings are refused by name."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error


def shown(path: Path, root: Path) -> str:
    """A file as people find it: its path from the data folder, with its ending."""
    return path.relative_to(root).as_posix() if path != root and path.is_relative_to(root) else path.name


def _files(folder: Path, follow_links: bool, apart: frozenset[str]) -> Iterator[str]:
    """The paths from a folder of all files below it and, ending in a slash, of the links to folders that are not followed.

    As text: for a million files, `Path` objects would take longer than the disk.
    """
    entered: set[str] = set()  # a link to a folder above would go round for ever
    for parent, folders, names in os.walk(folder, followlinks=follow_links):
        passed = apart if Path(parent) == folder else frozenset()
        entered.add(os.path.realpath(parent))
        inner = [Path(parent) / name for name in folders if not name.startswith(".") and name not in passed]
        folders[:] = [
            path.name for path in inner if not path.is_symlink() or (follow_links and os.path.realpath(path) not in entered)
        ]
        place = Path(parent).relative_to(folder).as_posix()
        prefix = "" if place == "." else f"{place}/"
        yield from (prefix + name for name in names if not name.startswith("."))
        yield from (f"{prefix}{path.name}/" for path in inner if path.is_symlink() and not follow_links)


def _stays(path: Path, root: Path) -> bool:
    return not path.is_symlink() or path.resolve().is_relative_to(root.resolve())
