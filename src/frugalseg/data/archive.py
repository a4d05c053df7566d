"""Pictures in zip and tar files, read in place: millions of them cost one list in memory and no unpacking.

A path names an archive or a folder of them ("shards"). Only pictures are offered; what else lies in an archive (labels, texts) is
passed over. A picture is called archive/path-in-it, so a folder per class can be told from its name. Compressed tars are refused:
their pictures cannot be reached without unpacking all before them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from torch import Tensor

from frugalseg.data import facts, files, images, verify
from frugalseg.data.dataset import Data, Record
from frugalseg.data.files import is_plain
from frugalseg.data.problems import DataError, Problem, Problems
from frugalseg.data.verify import Looked

SUFFIXES = frozenset({".zip", ".tar"})


class Place(NamedTuple):
    """Where the bytes of a picture lie: in a tar from `start`, in a zip under `member`."""

    shard: Path
    member: str
    start: int
    size: int


class Archive(Data):
    """A data set whose pictures lie in archives. A worker process opens each archive for itself."""

    def __init__(self, root: Path, places: Iterable[Place], problems: Iterable[Problem], max_pixels: int) -> None:
        self.places = {place.shard / place.member: place for place in places}
        single = root.is_file()
        records = [
            Record((PurePosixPath("" if single else path.shard.stem) / path.member).with_suffix("").as_posix(), image)
            for image, path in self.places.items()
        ]
        super().__init__(root, "archive", None, (), records, problems, max_pixels)

    def image(self, index: int) -> Tensor:
        """The picture, (3, H, W) uint8 RGB; raises images.BadImage if its bytes are damaged."""
        place = self.places[self.records[index].image]
        return images.load(place.shard / place.member, self.max_pixels, content(place))

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(b"archive")
        for record in self.records:
            digest.update(repr((record.name, self.places[record.image].size)).encode())
        return digest.hexdigest()[:16]

    def _with(self, records: list[Record]) -> Archive:
        made = Archive(self.root, (), self.problems, self.max_pixels)
        made.places, made.records = self.places, records
        return made


def is_archive(path: Path) -> bool:
    """Whether a path is an archive or a folder with nothing but archives in it."""
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    return path.is_dir() and bool(_shards(path)) and all(item in _shards(path) for item in path.iterdir() if item.is_file())


def read(root: Path, split: str | None, options: files.Options, problems: Problems) -> Archive:
    """The pictures in an archive or in the archives of a folder; what cannot be read of them is named in `problems`.

    split: the archives whose names begin so, of a folder ("train" for train-00001.tar), or every one where none does.
    Raises DataError where not one picture can be read.
    """
    shards = [root] if root.is_file() else _shards(root)
    chosen = [shard for shard in shards if split and shard.name.startswith(split)] or shards
    places: list[Place] = []
    for shard in chosen:
        try:
            for place in _zip(shard) if shard.suffix.lower() == ".zip" else _tar(shard):
                places.append(place)  # one by one: of a tar that is cut short, those before the cut are kept
        except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, RuntimeError) as error:
            problems.add("archive-broken", f"{shard.name} ({error})")
    if not places:
        faults = "\n".join(f"  - {problem}" for problem in problems.list())
        raise DataError(f"{root}: no picture found in {len(chosen)} archives\n{faults}".rstrip())
    return Archive(root, sorted(places), problems.list(), options.max_pixels)


def examine(data: Archive, options: files.Options, problems: Problems) -> dict[str, Looked]:
    """Decode every picture, leave those out of `data` that cannot be, and tell by name what was found out about the others."""
    paths = [record.image for record in data.records]

    def stamp(path: Path) -> list[int]:
        return facts.of_file(data.places[path].shard)

    known = verify.picture_facts(data.root, paths, options, lambda path: content(data.places[path]), stamp)
    data.records = verify.readable(data.root, data.records, known, problems)
    data.problems = problems.list()
    return {record.name: Looked(known[record.image], None) for record in data.records}


def split_lists(data: Archive) -> dict[str, list[str]]:
    """The pictures of the archives whose names begin with train, val or test; "all" where no name does."""
    shards = {record.name: data.places[record.image].shard.name for record in data.records}
    lists = {word: [name for name, shard in shards.items() if shard.startswith(word)] for word in ("train", "val", "test")}
    return {word: names for word, names in lists.items() if names} or {"all": list(shards)}


def content(place: Place) -> bytes:
    """The bytes of a picture. Raises BadImage where the archive ends too early or is damaged there."""
    try:
        if place.shard.suffix.lower() == ".tar":
            found = os.pread(_descriptor(place.shard, os.getpid()), place.size, place.start)
        else:
            found = _opened(place.shard, os.getpid()).read(place.member)
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, ValueError) as error:
        raise images.BadImage(place.shard / place.member, f"its archive is damaged ({error})") from error
    if len(found) < place.size:
        raise images.BadImage(place.shard / place.member, f"got {len(found)} of {place.size} bytes: the archive is cut short")
    return found


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in images.SUFFIXES and is_plain(name) and not any(part.startswith(".") for part in path.parts)


def _zip(shard: Path) -> Iterator[Place]:
    with zipfile.ZipFile(shard) as file:
        for entry in file.infolist():
            if not entry.is_dir() and _is_picture(entry.filename):
                yield Place(shard, entry.filename, 0, entry.file_size)


def _tar(shard: Path) -> Iterator[Place]:
    with tarfile.open(shard, "r:") as file:
        for entry in file:
            if entry.isreg() and _is_picture(entry.name):
                yield Place(shard, entry.name, entry.offset_data, entry.size)


@functools.lru_cache(maxsize=256)
def _opened(shard: Path, process: int) -> zipfile.ZipFile:
    """An open zip. Its position in the file is not shared between processes, hence the second key."""
    return zipfile.ZipFile(shard)


@functools.lru_cache(maxsize=1024)
def _descriptor(shard: Path, process: int) -> int:
    return os.open(shard, os.O_RDONLY)
