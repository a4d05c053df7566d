"""Files that are whole or not there: what is written appears under its name only when all of it is on the disk. Free of torch."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from frugalseg.errors import FrugalsegError

MAX_PIXELS = 100_000_000  # height times width of an image, from which its file is refused; here, because the command line asks


class DiskError(FrugalsegError, OSError):
    """A file could not be written; what was there before is kept."""


def write(path: Path, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write one file, or let `content` fill it, so that readers see the old content or the new, never a part of it.

    Raises:
        DiskError: no room or no right to write; nothing changed.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # not tempfile's, which others of the group could not read
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DiskError(
            f"could not write {path}: {error.strerror or error}. Free some space or choose another folder (--out), "
            "then give the same command again: it goes on from the last good state."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; see `write`."""
    write(path, json.dumps(value, indent=1))


def inside(folder: str | Path, name: str, suffix: str) -> Path:
    """The file for an image's name below `folder`. Raises ValueError for a name that would leave it."""
    path = Path(folder) / f"{name}{suffix}"
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"the image name {name!r} leaves the folder {folder}; rename the image")
    return path


def cache_folder() -> Path:
    """$FRUGALSEG_CACHE, else frugalseg in the user's cache folder ($XDG_CACHE_HOME or ~/.cache); `~` means the home folder."""
    chosen = os.environ.get("FRUGALSEG_CACHE")
    folder = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "frugalseg"
    return folder.expanduser()
