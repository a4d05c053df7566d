"""`check`: what labels a data set has, what can be trained with them, and everything that is wrong with it.

    report = check("photos")
    print(report)            # tables; `rich.print` shows them in colour
    report.ok                # whether training may start

The reader finds what is wrong with single files; here problems are added that only show when splits and classes are compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from frugalseg.data import files, images
from frugalseg.data.dataset import Data, Record
from frugalseg.data.problems import DataError, Problems
from frugalseg.data.readers import excess, gather
from frugalseg.data.verify import Looked
from frugalseg.methods import METHODS, Method
from frugalseg.types import IGNORE
from frugalseg.workflows.check_report import Counts, Report, Trainable, main_splits
from frugalseg.workflows.check_splits import Lists, scored_pairs, split_lists, training_list


def check(
    path: Path | str,
    layout: str | None = None,
    skip_limit: float = 0.05,
    methods: Mapping[str, Method] | None = None,
    *,
    classes: Path | str | None = None,
    difficult: str = "present",
    max_pixels: int = images.MAX_PIXELS,
    follow_links: bool = False,
) -> Report:
    """Examine every file of a data set and report; what is wrong with the data is reported, never raised.

    methods: those to consider, by default all. The other arguments are those of `frugalseg.data.read`.
    """
    source = Source(Path(path).expanduser(), layout, files.Options(difficult, max_pixels, follow_links), classes)
    problems = Problems()
    try:
        data, file_facts = source.gather(None, problems)
        lists = split_lists(source.root, data, source.options, problems)
        if not any(lists.values()):
            raise DataError(f"{source.root}: no image found")
    except DataError as error:
        problems.add("unreadable", str(error))
        return Report(source.root, problems=problems.list())
    usable = Usable(source.root, data, lists, file_facts)
    counts = {split: usable.count(names) for split, names in usable.lists.items()}
    trainable = usable.trainable(METHODS if methods is None else methods)
    _find_empty_splits(usable.lists, problems)
    _find_excess(source, data, training_list(lists), skip_limit, problems)
    _find_odd_tags(data, problems)
    _find_odd_classes(data.classes, counts, usable.count(list(usable.records)), problems)
    _find_duplicates(usable, problems)
    if not any(item.pictures for item in trainable):
        problems.add("nothing-to-train", "; ".join(f"{item.method} needs {', '.join(item.missing)}" for item in trainable))
    return Report(source.root, data.layout, data.classes, counts, trainable, problems.list())


@dataclass(frozen=True)
class Source:
    """What is to be checked; see `frugalseg.data.read`."""

    root: Path
    layout: str | None
    options: files.Options
    classes: Path | str | None

    def gather(self, split: str | None, problems: Problems) -> tuple[Data, dict[str, Looked]]:
        """The images of a list, and the facts of their files."""
        return gather(self.root, split, self.layout, self.options, problems, listed=self.classes)


class Usable:
    """The images that can be used: their records by name, the lists without the others, and what their files hold."""

    def __init__(self, root: Path, data: Data, lists: Lists, file_facts: Mapping[str, Looked]) -> None:
        self.root, self.classes, self.file_facts = root, data.classes, file_facts
        self.records = {record.name: record for record in data.records}
        self.lists = {split: [name for name in names if name in self.records] for split, names in lists.items()}

    def count(self, names: Sequence[str]) -> Counts:
        """The labels of these images."""
        records = [self.records[name] for name in names]
        tagged = [[tag == tag for tag in record.tags or ()] for record in records]  # nan: nobody knows
        tags, shown = Counter[str](), Counter[str]()
        for record in records:
            tags.update(name for name, tag in zip(self.classes, record.tags or (), strict=False) if tag == 1)
            shown.update(self.classes_shown(record))
        return Counts(
            pictures=len(records),
            tagged=sum(bool(each) and all(each) for each in tagged),
            partly=sum(any(each) and not all(each) for each in tagged),
            masks=sum(record.semantic is not None for record in records),
            objects=sum("instances" in record.fields for record in records),
            boxes=sum(record.boxes is not None for record in records),
            tags={name: tags[name] for name in self.classes},
            shown={name: shown[name] for name in self.classes},
        )

    def classes_shown(self, record: Record) -> set[str]:
        """The classes in the masks of an image; a map of objects has them all of class 1."""
        ids = set((self.file_facts[record.name].mask or {}).get("ids", ())) - {0}
        numbers = ids - {IGNORE} if record.semantic else {1} if ids else set()
        numbers |= {item.label for item in record.outlines or ()}
        return {self.classes[number - 1] for number in numbers}

    def trainable(self, methods: Mapping[str, Method]) -> list[Trainable]:
        """What each method can learn from on the usual list for training."""
        fields = [self.records[name].fields for name in self.lists[training_list(self.lists)]]
        offers = frozenset().union(*fields)
        return [
            Trainable(
                method.name,
                method.summary,
                method.makes,
                sum(method.needs <= labels for labels in fields),
                tuple(sorted(method.needs - offers)),
            )
            for method in methods.values()
        ]

    def shown(self, name: str) -> str:
        """The file of an image as problems name it."""
        return files.shown(self.records[name].image, self.root)

    def digest(self, name: str) -> str:
        """Of the bytes of the image's file."""
        return str(self.file_facts[name].picture["hash"])


# -- problems that only show when splits and classes are compared ----------------------------------------------------


def _find_empty_splits(lists: Lists, problems: Problems) -> None:
    for split, names in lists.items():
        if not names:
            problems.add("split-empty", split)


def _find_excess(source: Source, data: Data, split: str, skip_limit: float, problems: Problems) -> None:
    """What a training on its usual list would refuse, as `read` does: a share of that list; else of all images."""
    over = list(excess(data, problems, skip_limit).values())
    if split not in ("all", ""):  # no list at all, or that of images that no list names
        of_list = Problems()
        listed, _ = source.gather(split, of_list)
        over = [f"{effect} in {split}" for effect in excess(listed, of_list, skip_limit).values()] or over
    for effect in over:
        problems.add("too-many-left-out", effect)


def _find_odd_tags(data: Data, problems: Problems) -> None:
    for record in data.records:
        if record.tags and not any(record.tags):  # nan counts as true: an unknown tag is not "none"
            problems.add("no-tags", files.shown(record.image, data.root))
        if record.tags and len(record.tags) > 1 and all(tag == 1 for tag in record.tags):
            problems.add("all-tags", files.shown(record.image, data.root))


def _find_odd_classes(classes: tuple[str, ...], counts: Mapping[str, Counts], whole: Counts, problems: Problems) -> None:
    """whole: the labels of all splits together."""
    nowhere = [name for name in classes if whole.labelled and not whole.tags[name] + whole.shown[name]]
    for name in nowhere:
        problems.add("class-without-picture", name)
    for one, other in combinations(classes, 2):
        if _letters(one) == _letters(other):
            problems.add("class-similar", f"{one} and {other}")
    for split, labels in main_splits(counts).items():
        for name in classes:
            if not labels.tags[name] + labels.shown[name] and labels.labelled and name not in nowhere:
                problems.add("class-absent", f"{name} in {split}")
            if labels.tags[name] == labels.tagged + labels.partly > 1:
                problems.add("class-everywhere", f"{name} in {split}")


def _letters(name: str) -> str:
    """The letters and digits of a class's name, in one case."""
    return re.sub(r"[\W_]+", "", name).casefold()


def _find_duplicates(usable: Usable, problems: Problems) -> None:
    """Files with equal bytes. An image that was saved again is another one."""
    shown, digest = usable.shown, usable.digest
    for (first, word), (second, other_word) in scored_pairs(usable.lists):
        seen = {digest(name): name for name in usable.lists[first]}
        for name in usable.lists[second]:
            if digest(name) in seen:
                twin = seen[digest(name)]
                problems.add("duplicate-across-splits", f"{shown(twin)} in {word} = {shown(name)} in {other_word}")
    for names in usable.lists.values():
        seen = {}
        for name in names:
            twin = seen.setdefault(digest(name), name)
            if twin != name:
                problems.add("duplicate-in-split", f"{shown(twin)} = {shown(name)}")
