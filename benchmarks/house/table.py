"""The table of the structure, before the layers and now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import markdown

Measures = Mapping[str, Any]
ROWS: tuple[tuple[str, Callable[[Measures], Any], str], ...] = (
    ("packages in a circle of imports", lambda of: sum(map(len, of["circles"])), "0"),
    ("pairs of packages of which one imports the other upwards", lambda of: len(of["upward_imports"]), "0"),
    ("pairs of packages of which one imports the other", lambda of: of["links"], ""),
    ("files of a new method", lambda of: of["files_of_a_method"], "3"),
    ("pairs of files with an equal block", lambda of: of["equal_blocks"], ""),
    ("pairs of files with a block alike but for names and values", lambda of: of["alike_blocks"], "≤ 10"),
    ("lines of a function, median", lambda of: f"{of['functions']['median']:g}", "≤ 8"),
    ("lines of a function, 90 % have at most", lambda of: of["functions"]["p90"], ""),
    ("lines of the longest function", lambda of: of["functions"]["longest"], "≤ 40"),
    ("public names with a docstring, %", lambda of: f"{100 * of['documented']:.1f}", ""),
    ("errors of `mypy --strict`", lambda of: of["mypy_strict_errors"], "0"),
    ("lines that the tests cover, %", lambda of: of["coverage"], "≥ 90"),
    ("processor time of `import frugalseg`, s", lambda of: f"{of['cpu_seconds']['import frugalseg']:.2f}", ""),
    ("processor time of `frugalseg --help`, s", lambda of: f"{of['cpu_seconds']['frugalseg --help']:.2f}", ""),
)
NOTE = """\
Before: commit 5d7d129, read by the same code, its packages and modules in the layers where they stand today; the files of a new
method were counted there by adding one. A block is six lines of code in a row, with at least 40 words and three different lines,
in the package, the tests or the benchmarks. A walk is the modules that a command enters, traced with a small model, in the order
in which it first enters them; a climb is a step to a module of a higher layer. Smaller modules make longer walks: compare the
climbs for each step."""


def table(before: Measures, now: Measures) -> str:
    """The table with its note, in Markdown."""
    lines = [["", "before", "now", "goal"]]
    lines += [[text, shown(of(before)), shown(of(now)), goal] for text, of, goal in ROWS]
    for name, walk in now["walks"].items():
        sides = [f"{side['climbs']} in {side['files'] - 1}" for side in (before["walks"][name], walk)]
        lines.append([f"climbs in the steps of {name}", *sides, ""])
    return f"{markdown.table(lines)}\n\n{NOTE}"


def shown(value: Any) -> str:
    return "not measured" if value is None else str(value)
