"""Tables and lists in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def bullets(lines: Iterable[tuple[str, Iterable[str]]]) -> str:
    """A line for each name with its values, sorted and each once."""
    return "\n".join(f"- {name}: {'; '.join(sorted(set(values)))}" for name, values in lines)


def in_images(text: str) -> str:
    """A text of a file: older ones say picture for image."""
    return re.sub(r"\bpicture(s?)\b", r"image\1", re.sub(r"\ba picture\b", "an image", text))
