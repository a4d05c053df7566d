"""What a command says: lines for people, warnings, tables, and exit statuses. Free of torch."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OK, PROBLEM, USAGE, INTERRUPTED = 0, 1, 2, 130  # exit statuses
LISTED = 10  # skipped files that are named on the screen


def is_first_process() -> bool:
    """Whether this is the only or the first process of a parallel training; the others say nothing."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def printable(text: str) -> str:
    """The text with control characters escaped: names of files come from outside, and must not steer the terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def say(text: str) -> None:
    """A line on the output."""
    if is_first_process():
        print(printable(text), flush=True)


def warn(text: str) -> None:
    """A line on the error stream, from every process."""
    print(printable(text), file=sys.stderr, flush=True)


def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Stands in for `warnings.showwarning`: a warning without the line of code that gave it."""
    if is_first_process():
        warn(f"warning: {message}" if category is UserWarning else f"{category.__name__}: {message}")


def show(table: Any) -> None:
    """A table or report, as rich prints it."""
    from rich.console import Console

    if is_first_process():
        Console().print(table)


def typed_command() -> str:
    """The command as it was typed."""
    return shlex.join(["frugalseg", *sys.argv[1:]])


def say_written(count: int, skipped: Sequence[Any], folder: str, done: str) -> int:
    """Say how many images were written and which were skipped; the exit status. done: what was done to the images."""
    say(f"{count} images {done} into {folder}")
    if skipped:
        say(f"{len(skipped)} skipped, listed in {Path(folder) / 'skipped.csv'}:")
        say("\n".join(f"  {error}" for error in skipped[:LISTED]) + ("\n  …" if len(skipped) > LISTED else ""))
    return OK if count else PROBLEM
