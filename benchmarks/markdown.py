"""Tables and lists in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def bullets(lines: Iterable[tuple[str, Iterable[str]]]) -> str:
    """A line for each name with its values, sorted and each once."""
    return "\n".join(f"- {name}: {'; '.join(sorted(set(values)))}" for name, values in lines)
