"""The lists of images that a data set has, in any layout: which there are, and which of them judges which."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from frugalseg.data import files
from frugalseg.data.dataset import Data
from frugalseg.data.formats import archive, coco, folder, sbd, voc
from frugalseg.data.problems import Problems
from frugalseg.data.readers import OWN

Lists = dict[str, list[str]]  # the names of the images in each split


def split_lists(path: Path, data: Data, options: files.Options, problems: Problems) -> Lists:
    """The names in each split, unusable images included; without any split: "all".

    path: the folder or file that is checked.
    """
    if isinstance(data, archive.Archive):
        return archive.split_lists(data)
    if data.layout == "coco":
        return coco.members(path, options)
    if data.layout == "voc":
        return _voc_lists(data, options, problems)
    if data.layout == "sbd":
        index = sbd.index(path, options, Problems())
        return {split: sbd.members(path, split, index, problems) for split in sbd.lists(path)} or {"all": list(index)}
    if data.layout in OWN:
        lists: Lists = OWN[data.layout].split_lists(path, options, Problems())
        return lists
    return _folder_lists(data, options)


def _voc_lists(data: Data, options: files.Options, problems: Problems) -> Lists:
    """VOC's lists, those of single classes left aside."""
    index = voc.index(data.root, options, Problems())
    names = [split for split in voc.splits(data.root) if split.rpartition("/")[2].rpartition("_")[0] not in data.classes]
    return {split: list(voc.members(data.root, split, index, problems)) for split in names} or {"all": list(index)}


def _folder_lists(data: Data, options: files.Options) -> Lists:
    """The lists of subfolders or of splits.csv."""
    lists: Lists = {}
    index = folder.index(data.root, options, Problems())
    for name, split in folder.members(data.root, index, Problems()).items():
        lists.setdefault(split, []).append(name)
    return lists or {"all": []}


def training_list(lists: Lists) -> str:
    """The split that is trained on when nobody says which."""
    usual = [name for name in ("train", "Main/train", "Segmentation/train") if name in lists]
    return usual[0] if usual else max(lists, key=lambda name: len(lists[name]))


def scored_pairs(lists: Lists) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Lists of which one judges what the other trained, and their last words: Main/x_train and Segmentation/x_val, say."""
    words = [(name, *_last_word(name)) for name in lists]
    for (first, prefix, word), (second, other_prefix, other_word) in combinations(words, 2):
        if prefix == other_prefix and word != other_word and {word, other_word} <= set(folder.SPLITS):
            yield (first, word), (second, other_word)


def _last_word(name: str) -> tuple[str, str]:
    """What stands before the last word of a list's name, and the word: "x" and "train" of Main/x_train."""
    prefix, _, word = name.rpartition("/")[2].rpartition("_")
    return prefix, word
