"""How far long work has got, on the error stream: a bar on a terminal; in a file or a pipe a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import ClassVar, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 30.0  # seconds between two plain lines; work that takes less writes none
PATIENCE = 2.0  # seconds after which the bar of `brief` work appears

Item = TypeVar("Item")


class Advance(Protocol):
    """To be called after each item; `note` (losses, say) stands behind the numbers until there is another."""

    def __call__(self, note: str = "") -> None: ...


@contextmanager
def progress(
    label: str, total: int, *, done: int = 0, unit: str = "pictures", quiet: bool = False, brief: bool = False
) -> Iterator[Advance]:
    """Shows how far `label` has got from `done` to `total`.

    unit: what is counted, in the plural. quiet: shows nothing. brief: usually over at once, so its bar waits for PATIENCE seconds
    and leaves no trace. A terminal has one bar: what is shown while there is one stands behind its numbers.
    """
    console = Console(stderr=True)
    if quiet or total <= done:
        yield lambda note="": None
        return
    if done:
        console.print(f"{label}: goes on after {done:,} of {total:,} {unit}", markup=False, highlight=False, soft_wrap=True)
    if not console.is_interactive:
        lines = _Lines(label, total, done, unit)
        yield lines
        lines.end()
    elif _Bar.shown:
        yield _Inner(_Bar.shown, label, total, done, unit)
    else:
        bar = _Bar.shown = _Bar(console, label, total, done, brief)
        try:
            yield bar
        finally:
            _Bar.shown = None
            bar.bar.stop()


def track(items: Iterable[Item], label: str, total: int | None = None, **options: bool | str) -> Iterator[Item]:
    """The items, with `progress` shown while they are worked on. total: their number, for items without a length."""
    count = total if total is not None else len(items) if isinstance(items, Sized) else 0
    with progress(label, count, **options) as advance:  # type: ignore[arg-type]
        for item in items:
            yield item
            advance()


class _Bar:
    """A bar that moves. shown: the one on the terminal."""

    shown: ClassVar[_Bar | None] = None

    def __init__(self, console: Console, label: str, total: int, done: int, brief: bool) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=brief)
        self.task = self.bar.add_task(label, total=total, completed=done, note="")
        self.note, self.appears = "", time.monotonic() + (PATIENCE if brief else 0.0)
        self._appear()

    def _appear(self) -> None:
        if not self.bar.live.is_started and time.monotonic() >= self.appears:
            self.bar.start()

    def __call__(self, note: str = "") -> None:
        self.note = note or self.note
        self.bar.update(self.task, advance=1, note=self.note)
        self._appear()


class _Inner:
    """Work on one item of what the bar counts."""

    def __init__(self, bar: _Bar, label: str, total: int, done: int, unit: str) -> None:
        self.bar, self.label, self.total, self.done, self.unit = bar, label, total, done, unit

    def __call__(self, note: str = "") -> None:
        self.done += 1
        self.bar.bar.update(self.bar.task, note=f"{self.label}: {self.done:,} of {self.total:,} {self.unit}")


class _Lines:
    """A line every EVERY seconds, and a last one if there was a first."""

    def __init__(self, label: str, total: int, done: int, unit: str) -> None:
        self.label, self.total, self.done, self.unit, self.note = label, total, done, unit, ""
        self.first, self.begin = done, time.monotonic()
        self.last = self.begin

    def __call__(self, note: str = "") -> None:
        self.done, self.note, now = self.done + 1, note or self.note, time.monotonic()
        if now - self.last >= EVERY and self.done < self.total:
            self.last = now
            rate = (self.done - self.first) / (now - self.begin)  # of this sitting: a stopped run does not count its rest
            speed = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
            self._say(speed, f"{duration((self.total - self.done) / rate)} left", self.note)

    def end(self) -> None:
        if self.last > self.begin:
            self._say(f"done in {duration(time.monotonic() - self.begin)}", self.note)

    def _say(self, *words: str) -> None:
        line = [f"{self.label}: {self.done:,} of {self.total:,} {self.unit}", *filter(None, words)]
        print(", ".join(line), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """42 s, 3 min 5 s, 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
