"""`frugalseg methods`: what can be trained, and with which labels?"""

from __future__ import annotations

from typing import Any

from frugalseg.cli.command import Command
from frugalseg.cli.console import OK, show
from frugalseg.methods import METHODS


def run(words: list[str], values: dict[str, Any]) -> int:
    """Print a line for each method."""
    from rich.table import Table

    table = Table("method", "learns from", "makes", "compare with", "paper")
    for method in METHODS.values():
        table.add_row(method.name, ", ".join(sorted(method.needs)), method.makes, method.baseline, method.summary)
    show(table)
    return OK


COMMAND = Command(run, "the methods and the labels they need")
