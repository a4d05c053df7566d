"""What was found out about a file by reading it whole, remembered until the file changes.

Decoding a data set once to know that all of it can be decoded costs minutes; the second time it must cost nothing. One JSON file
per data folder and kind in the user's cache folder holds, for each path, size, modification time and the facts. Losing it costs
time only: it is replaced atomically, an unreadable one is made again, and a folder that cannot be written is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from frugalseg.files import cache_folder
from frugalseg.machine import cores
from frugalseg.progress import track

Facts = dict[str, Any]
Stamp = Callable[[Path], list[int]]
FORMAT = 2  # raise it when the facts of any kind change their meaning; a file of another format is not looked at
CHUNK = 2048


def of_file(path: Path) -> list[int]:
    """Size and modification time of a file."""
    try:
        status = path.stat()
    except OSError:  # a dangling link; `look` says what is wrong with it
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def of(
    root: Path,
    kind: str,
    paths: Sequence[Path],
    look: Callable[[Path], Facts],
    fields: Collection[str] = (),
    stamp: Stamp = of_file,
) -> dict[Path, Facts]:
    """`look(path)` for each path, on all cores, read from the cache where its stamp has not changed.

    kind: names what `look` finds out; with a dash and a setting if the facts depend on one. look: returns facts that JSON can
    hold, with a "code" if the file is at fault, and never raises for what is in it. fields: what the facts of a sound file have;
    remembered facts without them are of another version, so `look` is called again. A wait of more than two seconds is shown.
    stamp: two numbers that change when the file does.
    """
    store = _store(root, kind)
    entries, stamps = _load(store, fields), {str(path): stamp(path) for path in paths}
    stale = [path for path in paths if str(path) not in entries or entries[str(path)][:2] != stamps[str(path)]]
    try:
        label = f"reading {kind.partition('-')[0]}s of {root.name}"
        for path, facts in track(_parallel(look, stale), label, len(stale), unit="files", brief=True):
            entries[str(path)] = [*stamps[str(path)], facts]
    finally:  # an interrupted pass continues where it stopped
        if stale:
            _save(store, entries)
    return {path: entries[str(path)][2] for path in paths}


def _parallel(look: Callable[[Path], Facts], paths: Sequence[Path]) -> Iterator[tuple[Path, Facts]]:
    """Threads suffice: PIL decodes without the interpreter's lock. In chunks: a million files shall not be a million futures."""
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            yield from zip(chunk, pool.map(look, chunk), strict=True)


def _store(root: Path, kind: str) -> Path:
    key = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]
    return cache_folder() / "facts" / f"{root.name}-{key}-{kind}-{FORMAT}.json"


def _load(store: Path, fields: Collection[str]) -> dict[str, list[Any]]:
    """The entries [size, time, facts] by path; whatever else stands in the file is left out."""
    try:
        stored = json.loads(store.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = stored.items() if isinstance(stored, dict) else ()
    return {path: entry for path, entry in entries if _is_whole(entry, fields)}


def _is_whole(entry: Any, fields: Collection[str]) -> bool:
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], dict):
        return False
    return entry[2].keys() >= ({"code", "reason"} if "code" in entry[2] else set(fields))


def _save(store: Path, entries: dict[str, list[Any]]) -> None:
    temporary = store.with_name(f"{store.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entries))
        temporary.replace(store)
