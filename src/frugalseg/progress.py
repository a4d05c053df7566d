"""How far long work has got, on the error stream: a bar on a terminal; in a file or a pipe a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 30.0  # seconds between two plain lines; work that takes less writes none
PATIENCE = 2.0  # seconds after which the bar of `brief` work appears

Item = TypeVar("Item")


class Advance(Protocol):
    """To be called after each item; `note` (losses, say) is shown behind the numbers until there is another."""

    def __call__(self, note: str = "") -> None: ...


@dataclass
class Count:
    """How many items of some work are done. unit: what is counted, in the plural."""

    label: str
    total: int
    done: int
    unit: str

    def __str__(self) -> str:
        return f"{self.label}: {self.done:,} of {self.total:,} {self.unit}"


@contextmanager
def progress(
    label: str, total: int, *, done: int = 0, unit: str = "images", quiet: bool = False, brief: bool = False
) -> Iterator[Advance]:
    """Shows how far `label` has got from `done` to `total`.

    unit: what is counted, in the plural. quiet: shows nothing. brief: usually over at once, so its bar waits for PATIENCE seconds
    and leaves no trace. A terminal has one bar: work inside other work is shown behind the numbers of that.
    """
    console, count = Console(stderr=True), Count(label, total, done, unit)
    if quiet or total <= done:
        yield lambda note="": None
        return
    if done:
        console.print(f"{label}: goes on after {done:,} of {total:,} {unit}", markup=False, highlight=False, soft_wrap=True)
    if not console.is_interactive:
        lines = Lines(count)
        yield lines
        lines.end()
    elif Bar.current:
        yield InnerWork(Bar.current, count)
    else:
        with Bar(console, count, brief) as bar:
            yield bar


def track(items: Iterable[Item], label: str, total: int | None = None, **options: bool | str) -> Iterator[Item]:
    """The items, with `progress` shown while they are worked on. total: their number, for items without a length."""
    number = total if total is not None else len(items) if isinstance(items, Sized) else 0
    with progress(label, number, **options) as advance:  # type: ignore[arg-type]
        for item in items:
            yield item
            advance()


class Bar:
    """A bar that moves. current: the one on the terminal."""

    current: ClassVar[Bar | None] = None

    def __init__(self, console: Console, count: Count, brief: bool) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        self.display = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=brief)
        self.task = self.display.add_task(count.label, total=count.total, completed=count.done, note="")
        self.note, self.appears = "", time.monotonic() + (PATIENCE if brief else 0.0)

    def __enter__(self) -> Bar:
        Bar.current = self
        self._appear()
        return self

    def __exit__(self, *_: object) -> None:
        Bar.current = None
        self.display.stop()

    def __call__(self, note: str = "") -> None:
        self.note = note or self.note
        self.display.update(self.task, advance=1, note=self.note)
        self._appear()

    def show_note(self, note: str) -> None:
        """Show a note behind the numbers until the next item is done."""
        self.display.update(self.task, note=note)

    def _appear(self) -> None:
        if not self.display.live.is_started and time.monotonic() >= self.appears:
            self.display.start()


class InnerWork:
    """Work on one item of what a bar counts."""

    def __init__(self, bar: Bar, count: Count) -> None:
        self.bar, self.count = bar, count

    def __call__(self, note: str = "") -> None:
        self.count.done += 1
        self.bar.show_note(str(self.count))


class Lines:
    """A line every EVERY seconds, and a last one if there was a first."""

    def __init__(self, count: Count) -> None:
        self.count, self.note = count, ""
        self.done_before, self.begin = count.done, time.monotonic()
        self.last = self.begin

    def __call__(self, note: str = "") -> None:
        count, now = self.count, time.monotonic()
        count.done, self.note = count.done + 1, note or self.note
        if now - self.last >= EVERY and count.done < count.total:
            self.last = now
            rate = (count.done - self.done_before) / (now - self.begin)  # a run that was stopped does not count its rest
            speed = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
            self._print(speed, f"{duration((count.total - count.done) / rate)} left", self.note)

    def end(self) -> None:
        """Print the last line."""
        if self.last > self.begin:
            self._print(f"done in {duration(time.monotonic() - self.begin)}", self.note)

    def _print(self, *words: str) -> None:
        print(", ".join([str(self.count), *filter(None, words)]), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """42 s, 3 min 5 s, 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
