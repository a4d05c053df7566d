"""What every command says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ANY = math.inf  # number of words
Run = Callable[[list[str], dict[str, Any]], int]


@dataclass(frozen=True)
class Command:
    """One command.

    run: (words, values of the options that were typed) -> exit status. summary: its line in the overview. words: those it takes,
    for the usage line. counts: how few and how many of them. options: dataclasses of its options. aliases: other names. resumes:
    whether the same command goes on where it was stopped.
    """

    run: Run
    summary: str
    words: str = ""
    counts: tuple[int, float] = (0, 0)
    options: tuple[type, ...] = ()
    aliases: tuple[str, ...] = ()
    resumes: bool = False

    def options_for(self, words: Sequence[str]) -> tuple[type, ...]:
        """The dataclasses of its options, where they depend on what was typed."""
        return self.options

    def help_for(self, words: Sequence[str]) -> tuple[str, str]:
        """The words of its usage line and its summary, where they depend on what was typed."""
        return self.words, self.summary
