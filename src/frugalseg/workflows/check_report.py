"""The report of `check`: what it holds, and how it prints, as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from frugalseg.data.formats import folder
from frugalseg.data.problems import Problem

ADVICE = {  # how to add labels that a method lacks
    "image": "add images",
    "tags": "write tags.csv (image,tag;tag), or sort the images into a folder per class",
    "semantic": "add masks of class ids in masks/ beside images/",
    "boxes": "add Annotations/*.xml in VOC layout, or a COCO file",
    "instances": "add a COCO file, SegmentationObject masks in VOC layout, or maps of object ids in objects/ beside images/",
}
COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
INDENT = (0, 0, 0, 4)
LONGEST_TABLE = 100  # rows; the JSON has all


@dataclass(frozen=True)
class Counts:
    """Labels of one split, in images. tagged: all tags known, partly: only some. tags and shown: per class, images whose tags
    name it and whose masks show it."""

    pictures: int
    tagged: int
    partly: int
    masks: int
    objects: int
    boxes: int
    tags: dict[str, int]
    shown: dict[str, int]

    @property
    def labelled(self) -> int:
        """Images with tags, and images with class masks."""
        return self.tagged + self.partly + self.masks


@dataclass(frozen=True)
class Trainable:
    """How many images of the training split a method can learn from; for none, the labels that are missing."""

    method: str
    summary: str
    makes: str
    pictures: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What `check` says of a data set. Prints as tables (str, or in colour by rich); `to_json` has all of it."""

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
        problems = [{**asdict(problem), **{key: getattr(problem, key) for key in further}} for problem in self.problems]
        return json.dumps(asdict(self) | {"path": str(self.path), "ok": self.ok, "problems": problems}, indent=2)

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
        yield from _problem_lines(self.problems)
        yield "[green]Training may start.[/]" if self.ok else "[bold red]Training may not start: see the errors above.[/]"


def main_splits(counts: Mapping[str, Counts]) -> dict[str, Counts]:
    """The splits called train, val or test, whatever folder their list is in; the folds of a cross-validation are left out."""
    return {name: split for name, split in counts.items() if name.rpartition("/")[2] in (*folder.SPLITS, "all")}


# -- tables ----------------------------------------------------------------------------------------------------------


def _split_table(report: Report, width: int) -> Table:
    rows = []
    for name, split in report.splits.items():
        numbers = (split.pictures, split.tagged, split.partly, split.masks, split.objects, split.boxes)
        rows.append([name or "(no split)", *(f"{number:,}" if number else "–" for number in numbers)])
    headings = ["split", "images", "tags", "some tags", "masks", "object masks", "boxes"]
    return _fitted_table("Labels, in images", headings, rows, width)


def _class_table(report: Report, width: int) -> Table:
    splits = main_splits(report.splits)
    rows = []
    for number, name in enumerate(report.classes[:LONGEST_TABLE], start=1):
        rows.append([name, str(number), *(f"{split.tags[name]} / {split.shown[name]}" for split in splits.values())])
    if len(report.classes) > LONGEST_TABLE:
        rows.append([f"and {len(report.classes) - LONGEST_TABLE} more", *[""] * (1 + len(splits))])
    headings = ["class", "id", *(split.replace("/", "/ ") for split in splits)]
    return _fitted_table("Images per class: whose tags name it / whose masks show it", headings, rows, width)


def _fitted_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """A table of `width` letters that cuts nothing: first headings are wrapped, then the names in the first column are folded."""
    table = Table(title=title, title_justify="left")
    for place, (heading, letters) in enumerate(zip(headings, _widths(headings, rows, width), strict=True)):
        table.add_column(escape(heading), justify="right" if place else "left", width=letters, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Letters of each column of a table of that width."""
    columns = [list(map(cell_len, column)) for column in zip(*rows, strict=True)]
    rules = 3 * len(headings) + 1  # and the spaces beside them
    wide = [max(len(heading), *lengths) for heading, lengths in zip(headings, columns, strict=True)]
    narrow = [max(*map(len, heading.split()), 1, *lengths) for heading, lengths in zip(headings, columns, strict=True)]
    others = (wide if sum(wide) + rules <= width else narrow)[1:]
    return [max(len(headings[0]), min(wide[0], width - sum(others) - rules)), *others]


def _method_table(report: Report) -> Table:
    table = Table(title="What can be trained", title_justify="left")
    for heading in ("method", "makes", "images to learn from", ""):
        table.add_column(heading, overflow="fold")
    for item in report.methods:
        advice = "; ".join(ADVICE.get(name, name) for name in item.missing)
        remark = f"needs {', '.join(item.missing)}: {advice}" if advice else item.summary
        table.add_row(item.method, item.makes, str(item.pictures) if item.pictures else "none", escape(remark))
    return table


def _problem_lines(problems: Sequence[Problem]) -> Iterator[str | Padding]:
    """Problems, the most severe first, each with examples and what to do."""
    for problem in sorted(problems, key=lambda problem: list(COLOURS).index(problem.severity)):
        effect, colour = f", {problem.effect}" if problem.effect else "", COLOURS[problem.severity]
        yield f"[{colour}]{problem.severity} {problem.code}[/]: {problem.count}{effect}. {escape(problem.message)}"
        yield Padding(escape(problem.examples), INDENT)
        yield Padding(f"→ {escape(problem.fix)}", INDENT)
