"""Images in zip and tar files, read in place: millions of them cost one list in memory and no unpacking.

A path names an archive or a folder of them ("shards"). Only images are offered; what else lies in an archive (labels, texts) is
passed over. An image is called archive/path-in-it, so a folder per class can be told from its name. Compressed tars are refused:
their images cannot be reached without unpacking all before them.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from torch import Tensor

from frugalseg.data import file_info, files, images, verify
from frugalseg.data.dataset import Data, Record
from frugalseg.data.files import is_plain
from frugalseg.data.problems import DataError, Problem, Problems
from frugalseg.data.verify import Looked

SUFFIXES = frozenset({".zip", ".tar"})
SPLITS = ("train", "val", "test")  # what names of archives may begin with
LOCAL_HEADER = struct.Struct("<4s2xHH16xHH")  # of an image in a zip: signature, flags, method; lengths of its name and extras


class Place(NamedTuple):
    """Where the `size` bytes of an image lie: in a tar from `start`; in a zip from its header at `start`, in `packed` bytes."""

    shard: Path
    member: str
    start: int
    size: int
    packed: int = 0
    checksum: int = 0


class Archive(Data):
    """A data set whose images lie in archives. No archive stays open and no list of one is read twice, in any process."""

    def __init__(self, root: Path, places: Iterable[Place], problems: Iterable[Problem], max_pixels: int) -> None:
        self.places = {place.shard / place.member: place for place in places}
        single = root.is_file()
        records = [
            Record((PurePosixPath("" if single else path.shard.stem) / path.member).with_suffix("").as_posix(), image)
            for image, path in self.places.items()
        ]
        super().__init__(root, "archive", None, (), records, problems, max_pixels)

    def image(self, index: int) -> Tensor:
        """The image, (3, H, W) uint8 RGB; raises images.BadImage if its bytes are damaged."""
        place = self.places[self.records[index].image]
        return images.load(place.shard / place.member, self.max_pixels, content(place))

    @property
    def fingerprint(self) -> str:
        """Changes with the names and sizes of the files in it; 16 hexadecimal digits."""
        digest = hashlib.sha256(b"archive")
        for record in self.records:
            digest.update(repr((record.name, self.places[record.image].size)).encode())
        return digest.hexdigest()[:16]

    def _with(self, records: list[Record]) -> Archive:
        part = Archive(self.root, (), self.problems, self.max_pixels)
        part.places, part.records = self.places, records
        return part


def is_archive(path: Path) -> bool:
    """Whether a path is an archive or a folder with nothing but archives in it."""
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    inner = [item.suffix.lower() for item in path.iterdir() if item.is_file()] if path.is_dir() else []
    return bool(inner) and SUFFIXES.issuperset(inner)


def read(root: Path, split: str | None, options: files.Options, problems: Problems) -> Archive:
    """The images in an archive or in the archives of a folder; what cannot be read of them is named in `problems`.

    split: the archives whose names begin so, of a folder ("train" for train-00001.tar); "train" is all of those whose names
    tell no split. Raises DataError for another split, and where not one image can be read.
    """
    chosen = _chosen(root, split)
    places: list[Place] = []
    for shard in chosen:
        try:
            for place in _zip(shard) if shard.suffix.lower() == ".zip" else _tar(shard):
                places.append(place)  # one by one: of a tar that is cut short, those before the cut are kept
        except Exception as error:  # hostile bytes raise all kinds in these two readers; there is no closed list
            problems.add("archive-broken", f"{shard.name} ({error or type(error).__name__})")
    if not places:
        faults = "\n".join(f"  - {problem}" for problem in problems.list())
        raise DataError(f"{root}: no image found in {len(chosen)} archives\n{faults}".rstrip())
    return Archive(root, sorted(places), problems.list(), options.max_pixels)


def examine(data: Archive, options: files.Options, problems: Problems) -> dict[str, Looked]:
    """Decode every image, leave those out of `data` that cannot be, and tell by name what was found out about the others."""
    paths = [record.image for record in data.records]

    def stamp(path: Path) -> list[int]:
        return file_info.of_file(data.places[path].shard)

    facts = verify.picture_facts(data.root, paths, options, lambda path: content(data.places[path]), stamp)
    data.records = verify.readable(data.root, data.records, facts, problems)
    data.problems = problems.list()
    return {record.name: Looked(facts[record.image], None) for record in data.records}


def split_lists(data: Archive) -> dict[str, list[str]]:
    """The images of the archives whose names begin with train, val or test; "all" where no name does."""
    shards = {record.name: data.places[record.image].shard.name for record in data.records}
    lists = {word: [name for name, shard in shards.items() if shard.startswith(word)] for word in SPLITS}
    return {word: names for word, names in lists.items() if names} or {"all": list(shards)}


def content(place: Place) -> bytes:
    """The bytes of an image. Raises BadImage where the archive ends too early or is damaged there."""
    packed = place.shard.suffix.lower() == ".zip"
    try:
        with place.shard.open("rb", buffering=0) as file:
            raw = _packed(file.fileno(), place) if packed else _part(file.fileno(), place.start, place.size)
    except (OSError, ValueError, OverflowError, struct.error, zlib.error) as error:
        raise images.BadImage(place.shard / place.member, f"its archive is damaged ({error})") from error
    if len(raw) != place.size:
        raise images.BadImage(place.shard / place.member, f"got {len(raw)} of {place.size} bytes: the archive is cut short")
    return raw


def _part(file: int, start: int, size: int) -> bytes:
    """Bytes of an open file, fewer where it ends before: a damaged size does not ask for more memory than there are bytes."""
    return os.pread(file, min(size, max(os.fstat(file).st_size - start, 0)), start)


def _packed(file: int, place: Place) -> bytes:
    """The bytes of an image in an open zip, by its own header: `zipfile` would read the list of all of them first."""
    signature, flags, method, name, extra = LOCAL_HEADER.unpack(_part(file, place.start, LOCAL_HEADER.size))
    if signature != b"PK\3\4" or flags & 1 or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("no header, encrypted, or packed in another way than deflate")
    raw = _part(file, place.start + LOCAL_HEADER.size + name + extra, place.packed)
    if method == zipfile.ZIP_DEFLATED:
        raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, place.size + 1)
    if len(raw) == place.size and zlib.crc32(raw) != place.checksum:
        raise ValueError("the checksum of the image is another")
    return raw


def _chosen(root: Path, split: str | None) -> list[Path]:
    """The archives of a split."""
    shards = [root] if root.is_file() else _shards(root)
    named = [shard for shard in shards if split and shard.name.startswith(split)]
    if named or split is None:
        return named or shards
    if split == "train" and (root.is_file() or not any(shard.name.startswith(SPLITS) for shard in shards)):
        return shards
    prefixes = sorted({re.split(r"[-_.]*\d", shard.stem)[0] or shard.stem for shard in shards})
    near = difflib.get_close_matches(split, prefixes, n=10, cutoff=0.4) or prefixes[:10]
    expected = "train, as one archive is one list" if root.is_file() else f"the beginning of an archive's name: {', '.join(near)}"
    raise DataError(f"split: got {split!r}, but no archive in {root} is called so; expected {expected}.")


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in images.SUFFIXES and is_plain(name) and not any(part.startswith(".") for part in path.parts)


def _zip(shard: Path) -> Iterator[Place]:
    with zipfile.ZipFile(shard) as file:
        for entry in file.infolist():
            if not entry.is_dir() and _is_picture(entry.filename):
                yield Place(shard, entry.filename, entry.header_offset, entry.file_size, entry.compress_size, entry.CRC)


def _tar(shard: Path) -> Iterator[Place]:
    with tarfile.open(shard, "r:") as file:
        before = -1
        for entry in file:
            if entry.size < 0 or entry.offset <= before:  # a size below 0 leads back: tarfile would go round for ever
                raise tarfile.ReadError("damaged size")
            before = entry.offset
            if entry.isreg() and _is_picture(entry.name):
                yield Place(shard, entry.name, entry.offset_data, entry.size)
