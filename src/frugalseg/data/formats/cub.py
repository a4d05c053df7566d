"""Caltech-UCSD Birds 200-2011 (Wah et al., 2011): images/CLASS/*.jpg, images.txt, classes.txt, segmentations/CLASS/*.png.

An image is tagged with the species of its bird. The segmentations come as an archive of their own and may lie in the folder or
beside it; their grey levels are the share of five annotators, and more than half of them make a pixel the bird's.

Splits are those of train_val_test_split.txt (0, 1 or 2 for each image of images.txt): the 10,000, 788 and 1,000 images that
ReDO (Chen et al., NeurIPS 2019) drew, and that unsupervised segmentation has been scored on since. Without that file they are
those of the data set's own train_test_split.txt (1 for training).
"""

from __future__ import annotations

from pathlib import Path

from frugalseg.data import files
from frugalseg.data.dataset import Record
from frugalseg.data.formats import tags
from frugalseg.data.problems import DataError, Problems

FOLDER = "CUB_200_2011"  # what the archive unpacks to
SPLITS = {  # the files that part the images, of which the first there counts, and what their numbers mean
    "train_val_test_split.txt": {"0": "train", "1": "val", "2": "test"},
    "train_test_split.txt": {"1": "train", "0": "test"},
}


def home(root: Path) -> Path | None:
    """The folder with the data set's tables, `root` or the one in it; None if there is none."""
    return next((place for place in (root, root / FOLDER) if (place / "image_class_labels.txt").is_file()), None)


def read(root: Path, split: str | None, options: files.Options, problems: Problems) -> tuple[tuple[str, ...], list[Record]]:
    """Classes and records of a split (None: of all), in the order of images.txt. An image is called CLASS/NAME."""
    lists = split_lists(root, options, problems)
    if split is not None and split not in lists:
        raise DataError(f"split: got {split!r}, expected one of {', '.join(lists)}; {' or '.join(SPLITS)} parts the images.")
    place = home(root) or root
    pictures, masks = _named(place / "images", root, options, Problems()), _masks(root, options, problems)
    classes = tuple(_table(place / "classes.txt").values())
    records = []
    for name in dict.fromkeys(name for own, names in lists.items() if split in (None, own) for name in names):
        known, strange = tags.vector([name.split("/")[0]], classes)
        for tag in strange:
            problems.add("tag-unknown-class", f"{tag} in {files.shown(pictures[name], root)}")
        if masks and name not in masks:
            problems.add("mask-missing", files.shown(pictures[name], root))
        records.append(Record(name, pictures[name], known, masks.get(name)))
    return classes, records


def split_lists(root: Path, options: files.Options, problems: Problems) -> dict[str, list[str]]:
    """The images of each split; "all" where no file parts them."""
    place = home(root) or root
    pictures, parts = _named(place / "images", root, options, problems), _parts(place)
    lists: dict[str, list[str]] = {}
    for number, line in _table(place / "images.txt").items():
        name = files.look_up(line, pictures, problems)
        if name is not None:
            lists.setdefault(parts.get(number, "all"), []).append(name)
    return lists


def _parts(place: Path) -> dict[str, str]:
    """The split of each image, by its number in images.txt."""
    for file, words in SPLITS.items():
        if (place / file).is_file():
            return {number: words.get(word, "all") for number, word in _table(place / file).items()}
    return {}


def _table(path: Path) -> dict[str, str]:
    """The lines `NUMBER TEXT` of a file. Raises DataError for a file that is missing or of other lines."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; unpack the whole of CUB_200_2011.tgz.")
    rows = [line.strip().partition(" ") for line in files.read_text(path).splitlines() if line.strip()]
    wrong = next((number for number, _, text in rows if not number.isdigit() or not text), None)
    if wrong is not None:
        raise DataError(f"{path}: got a line that begins with {wrong!r}, expected a number and a text.")
    return {number: text.strip() for number, _, text in rows}


def _named(folder: Path, root: Path, options: files.Options, problems: Problems) -> dict[str, Path]:
    return files.pictures(folder, root, problems, options.follow_links)


def _masks(root: Path, options: files.Options, problems: Problems) -> dict[str, Path]:
    places = (place / "segmentations" for place in (root, root / FOLDER))
    return next((_named(place, root, options, problems) for place in places if place.is_dir()), {})
