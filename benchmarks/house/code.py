"""How long functions are, and how many public names are explained."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Function(NamedTuple):
    """A function, at any depth. lines: from `def` to its last line, docstring included."""

    file: Path
    name: str
    line: int
    lines: int


def functions(files: Iterable[Path]) -> list[Function]:
    return [
        Function(file, node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)
        for file in files
        for node in ast.walk(tree(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def documented_share(files: Iterable[Path]) -> float:
    """The share of the modules, public classes, functions and methods that have a docstring."""
    explained = [ast.get_docstring(node) is not None for file in files for node in public(tree(file))]
    return sum(explained) / len(explained)


def public(node: ast.Module | ast.ClassDef) -> Iterator[ast.Module | Definition]:
    """A module or class, and the public definitions in its body; a method named with two underscores is no name of ours."""
    yield node
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield from public(child) if isinstance(child, ast.ClassDef) else (child,)


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))
