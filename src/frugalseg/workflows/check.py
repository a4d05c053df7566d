"""`check`: what labels a data set has, what can be trained with them, and everything that is wrong with it.

    report = check("photos")
    print(report)            # tables; `rich.print` shows them in colour
    report.ok                # whether training may start

The reader does the finding; here its problems are joined by those that only show when splits and classes are compared.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from frugalseg.data import files, images
from frugalseg.data.dataset import Data, Record
from frugalseg.data.formats import archive, coco, folder, sbd, voc
from frugalseg.data.problems import DataError, Problem, Problems
from frugalseg.data.readers import OWN, excess, gather
from frugalseg.data.verify import Looked
from frugalseg.methods import METHODS, Method
from frugalseg.types import IGNORE

HOW = {
    "image": "add pictures",
    "tags": "write tags.csv (image,tag;tag), or sort the pictures into a folder per class",
    "semantic": "add masks of class ids in masks/ beside images/",
    "boxes": "add Annotations/*.xml in VOC layout, or a COCO file",
    "instances": "add a COCO file, SegmentationObject masks in VOC layout, or maps of object ids in objects/ beside images/",
}
COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
INDENT = (0, 0, 0, 4)
LONGEST_TABLE = 100  # rows; the JSON has all
Lists = dict[str, list[str]]  # the names of the pictures in each split


@dataclass(frozen=True)
class Counts:
    """Labels of one split, in pictures. tagged: all tags known, partly: only some. tags and shown: per class, pictures whose
    tags name it and whose masks show it."""

    pictures: int
    tagged: int
    partly: int
    masks: int
    objects: int
    boxes: int
    tags: dict[str, int]
    shown: dict[str, int]


@dataclass(frozen=True)
class Trainable:
    """How many pictures of the training split a method can learn from; for none, the labels that are missing."""

    method: str
    summary: str
    makes: str
    pictures: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What `check` found. Prints as tables (str, or in colour by rich); `to_json` has all of it."""

    path: Path
    layout: str = ""
    classes: tuple[str, ...] = ()
    splits: dict[str, Counts] = field(default_factory=dict)
    methods: list[Trainable] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether training may start: there is no error."""
        return not any(problem.severity == "error" for problem in self.problems)

    def to_json(self) -> str:
        """Everything, with each problem's severity, message and fix."""
        further = ("count", "severity", "message", "fix")
        described = [{**asdict(item), **{key: getattr(item, key) for key in further}} for item in self.problems]
        return json.dumps(asdict(self) | {"path": str(self.path), "ok": self.ok, "problems": described}, indent=2)

    def __str__(self) -> str:
        console = Console(width=130, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.splits:
            yield f"[bold]{escape(str(self.path))}[/]: layout {self.layout}, {len(self.classes)} classes"
            yield _split_table(self, options.max_width)
            if self.classes:
                yield _class_table(self, options.max_width)
            yield _method_table(self)
        yield from _problem_lines(self)
        yield "[green]Training may start.[/]" if self.ok else "[bold red]Training may not start: see the errors above.[/]"


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
    """Look at every file of a data set and report; what is wrong with the data is reported, never raised.

    methods: those to consider, by default all. The other arguments are those of `frugalseg.data.read`.
    """
    root, problems = Path(path).expanduser(), Problems()
    options = files.Options(difficult, max_pixels, follow_links)
    try:
        data, looked = gather(root, None, layout, options, problems, listed=classes)
        lists = split_lists(root, data, options, problems)
        if not any(lists.values()):
            raise DataError(f"{root}: no picture found")
    except DataError as error:
        problems.add("unreadable", str(error))
        return Report(root, problems=problems.list())
    records = {record.name: record for record in data.records}
    present = {split: [name for name in names if name in records] for split, names in lists.items()}
    counts = {split: count([records[name] for name in names], data.classes, looked) for split, names in present.items()}
    training = [records[name] for name in present[training_list(present)]]
    trainable = [_trainable(method, training) for method in (METHODS if methods is None else methods).values()]
    for split in lists:
        if not present[split]:
            problems.add("split-empty", split)
    over = _excess(root, training_list(lists), layout, options, skip_limit, classes)
    for effect in over or excess(data, problems, skip_limit).values():
        problems.add("too-many-left-out", effect)
    _look_at_tags(data, problems)
    _look_at_classes(data.classes, counts, count(data.records, data.classes, looked), problems)
    _look_at_duplicates(present, looked, records, root, problems)
    if not any(item.pictures for item in trainable):
        problems.add("nothing-to-train", "; ".join(f"{item.method} needs {', '.join(item.missing)}" for item in trainable))
    return Report(root, data.layout, data.classes, counts, trainable, problems.list())


def _excess(
    root: Path, split: str, layout: str | None, options: files.Options, skip_limit: float, classes: Path | str | None
) -> list[str]:
    """What a training on its usual list would refuse, as `read` does: a share of that list and not of all pictures."""
    if split in ("all", ""):  # no list at all, or that of pictures that no list names
        return []
    problems = Problems()
    data, _ = gather(root, split, layout, options, problems, listed=classes)
    return [f"{effect} in {split}" for effect in excess(data, problems, skip_limit).values()]


def split_lists(path: Path, data: Data, options: files.Options, problems: Problems) -> Lists:
    """The names in each split, unusable pictures included; VOC's lists of single classes are left aside. Without any: "all".

    path: the folder or file that was given.
    """
    if isinstance(data, archive.Archive):
        return archive.split_lists(data)
    if data.layout == "coco":
        return coco.members(path, options)
    if data.layout in ("cityscapes", "cub", "imagenet-s"):
        return OWN[data.layout].split_lists(path, options, Problems())
    if data.layout == "sbd":
        index = sbd.index(path, options, Problems())
        return {split: sbd.members(path, split, index, problems) for split in sbd.lists(path)} or {"all": list(index)}
    if data.layout != "voc":
        lists: Lists = {}
        index = folder.index(data.root, options, Problems())
        for name, split in folder.members(data.root, index, Problems()).items():
            lists.setdefault(split, []).append(name)
        return lists or {"all": []}
    index = voc.index(data.root, options, Problems())
    names = [split for split in voc.splits(data.root) if split.rpartition("/")[2].rpartition("_")[0] not in data.classes]
    return {split: list(voc.members(data.root, split, index, problems)) for split in names} or {"all": list(index)}


def training_list(lists: Lists) -> str:
    """The split that is trained on when nobody says which."""
    usual = [name for name in ("train", "Main/train", "Segmentation/train") if name in lists]
    return usual[0] if usual else max(lists, key=lambda name: len(lists[name]))


def count(records: Sequence[Record], classes: tuple[str, ...], looked: Mapping[str, Looked]) -> Counts:
    """Count the labels of one split's records. looked: what was read from each file."""
    known = [[tag == tag for tag in record.tags or ()] for record in records]
    tags, shown = Counter[str](), Counter[str]()
    for record in records:
        tags.update(name for name, tag in zip(classes, record.tags or (), strict=False) if tag == 1)
        ids = set((looked[record.name].mask or {}).get("ids", ())) - {0}
        numbers = ids - {IGNORE} if record.semantic else {1} if ids else set()  # a map of objects has them all of class 1
        shown.update(classes[number - 1] for number in numbers)
        shown.update({classes[item.label - 1] for item in record.outlines or ()})
    return Counts(
        pictures=len(records),
        tagged=sum(bool(tags) and all(tags) for tags in known),
        partly=sum(any(tags) and not all(tags) for tags in known),
        masks=sum(record.semantic is not None for record in records),
        objects=sum("instances" in record.fields for record in records),
        boxes=sum(record.boxes is not None for record in records),
        tags={name: tags[name] for name in classes},
        shown={name: shown[name] for name in classes},
    )


def scored_pairs(lists: Lists) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Lists of which one judges what the other trained, and their last words: Main/x_train and Segmentation/x_val, say."""
    parted = [(name, *_last_word(name)) for name in lists]
    for (first, kind, word), (second, other_kind, other_word) in combinations(parted, 2):
        if kind == other_kind and word != other_word and {word, other_word} <= set(folder.SPLITS):
            yield (first, word), (second, other_word)


def _last_word(name: str) -> tuple[str, str]:
    prefix, _, word = name.rpartition("/")[2].rpartition("_")
    return prefix, word


def _trainable(method: Method, records: Sequence[Record]) -> Trainable:
    fields = [record.fields for record in records]
    there = frozenset().union(*fields)
    pictures = sum(method.needs <= known for known in fields)
    return Trainable(method.name, method.summary, method.makes, pictures, tuple(sorted(method.needs - there)))


def _look_at_tags(data: Data, problems: Problems) -> None:
    for record in data.records:
        if record.tags and not any(record.tags):  # nan counts as true: an unknown tag is not "none"
            problems.add("no-tags", files.shown(record.image, data.root))
        if record.tags and len(record.tags) > 1 and all(tag == 1 for tag in record.tags):
            problems.add("all-tags", files.shown(record.image, data.root))


def _look_at_classes(classes: tuple[str, ...], counts: Mapping[str, Counts], whole: Counts, problems: Problems) -> None:
    """whole: the labels of all splits together."""
    nowhere = [name for name in classes if _labelled(whole) and not whole.tags[name] + whole.shown[name]]
    for name in nowhere:
        problems.add("class-without-picture", name)
    for one, other in combinations(classes, 2):
        if _plain(one) == _plain(other):
            problems.add("class-similar", f"{one} and {other}")
    for split, known in _main(counts).items():
        for name in classes:
            if not known.tags[name] + known.shown[name] and _labelled(known) and name not in nowhere:
                problems.add("class-absent", f"{name} in {split}")
            if known.tags[name] == known.tagged + known.partly > 1:
                problems.add("class-everywhere", f"{name} in {split}")


def _labelled(known: Counts) -> int:
    return known.tagged + known.partly + known.masks


def _look_at_duplicates(
    lists: Lists, looked: Mapping[str, Looked], records: Mapping[str, Record], root: Path, problems: Problems
) -> None:
    """Byte-equal files. A picture that was saved anew is not found."""

    def shown(name: str) -> str:
        return files.shown(records[name].image, root)

    for (first, word), (second, other_word) in scored_pairs(lists):
        seen = {looked[name].picture["hash"]: name for name in lists[first]}
        for name in lists[second]:
            twin = seen.get(looked[name].picture["hash"])
            if twin is not None:
                problems.add("duplicate-across-splits", f"{shown(twin)} in {word} = {shown(name)} in {other_word}")
    for names in lists.values():
        seen = {}
        for name in names:
            twin = seen.setdefault(looked[name].picture["hash"], name)
            if twin != name:
                problems.add("duplicate-in-split", f"{shown(twin)} = {shown(name)}")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _main(counts: Mapping[str, Counts]) -> dict[str, Counts]:
    """The splits called train, val or test, whatever folder their list is in; the folds of a cross-validation are not meant."""
    return {name: known for name, known in counts.items() if name.rpartition("/")[2] in (*folder.SPLITS, "all")}


# -- printing --


def _split_table(report: Report, width: int) -> Table:
    rows = []
    for name, known in report.splits.items():
        numbers = (known.pictures, known.tagged, known.partly, known.masks, known.objects, known.boxes)
        rows.append([name or "(no split)", *(f"{number:,}" if number else "–" for number in numbers)])
    headings = ["split", "pictures", "tags", "some tags", "masks", "object masks", "boxes"]
    return _table("Labels, in pictures", headings, rows, width)


def _class_table(report: Report, width: int) -> Table:
    main = _main(report.splits)
    rows = []
    for number, name in enumerate(report.classes[:LONGEST_TABLE], start=1):
        rows.append([name, str(number), *(f"{known.tags[name]} / {known.shown[name]}" for known in main.values())])
    if len(report.classes) > LONGEST_TABLE:
        rows.append([f"and {len(report.classes) - LONGEST_TABLE} more", *[""] * (1 + len(main))])
    headings = ["class", "id", *(split.replace("/", "/ ") for split in main)]
    return _table("Pictures per class: whose tags name it / whose masks show it", headings, rows, width)


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """A table of `width` letters that cuts nothing: first headings are wrapped, then the names in the first column are folded."""
    columns = [list(map(cell_len, column)) for column in zip(*rows, strict=True)]
    rules = 3 * len(headings) + 1  # and the spaces beside them
    wide = [max(len(heading), *lengths) for heading, lengths in zip(headings, columns, strict=True)]
    narrow = [max(*map(len, heading.split()), 1, *lengths) for heading, lengths in zip(headings, columns, strict=True)]
    others = (wide if sum(wide) + rules <= width else narrow)[1:]
    first = max(len(headings[0]), min(wide[0], width - sum(others) - rules))
    table = Table(title=title, title_justify="left")
    for place, (heading, letters) in enumerate(zip(headings, [first, *others], strict=True)):
        table.add_column(escape(heading), justify="right" if place else "left", width=letters, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _method_table(report: Report) -> Table:
    table = Table(title="What can be trained", title_justify="left")
    for heading in ("method", "makes", "pictures to learn from", ""):
        table.add_column(heading, overflow="fold")
    for item in report.methods:
        missing = "; ".join(HOW.get(name, name) for name in item.missing)
        remark = f"needs {', '.join(item.missing)}: {missing}" if missing else item.summary
        table.add_row(item.method, item.makes, str(item.pictures) if item.pictures else "none", escape(remark))
    return table


def _problem_lines(report: Report) -> Iterator[str | Padding]:
    for problem in sorted(report.problems, key=lambda problem: list(COLOURS).index(problem.severity)):
        effect, colour = f", {problem.effect}" if problem.effect else "", COLOURS[problem.severity]
        yield f"[{colour}]{problem.severity} {problem.code}[/]: {problem.count}{effect}. {escape(problem.message)}"
        yield Padding(escape(problem.examples), INDENT)
        yield Padding(f"→ {escape(problem.fix)}", INDENT)
