"""Who imports whom inside a package, also within functions and for types alone.

A part is a subpackage, or a module at the top of the package; the package's `__init__` is none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Import(NamedTuple):
    """An import statement of a module, of a part of the same package."""

    file: Path
    line: int
    part: str
    target: str


def part_of(file: Path, package: Path) -> str:
    """The part that a file belongs to; "__init__" for the package's `__init__.py`."""
    return file.relative_to(package).parts[0].removesuffix(".py")


def parts(package: Path) -> set[str]:
    return {part_of(file, package) for file in package.rglob("*.py")} - {"__init__"}


def imports(package: Path) -> list[Import]:
    """Every import of a part by another part. package: the folder of a package, with the package's name."""
    statements = []
    for file in sorted(package.rglob("*.py")):
        part = part_of(file, package)
        targets = ((line, name.split(".")) for line, name in imported_names(file, package))
        inside = ((line, path[1]) for line, path in targets if path[0] == package.name and len(path) > 1)
        statements += [Import(file, line, part, target) for line, target in inside if target != part and part != "__init__"]
    return [each for each in statements if each.target in parts(package)]


def imported_names(file: Path, package: Path, deep: bool = True) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports; `from a import b` counts as `a.b`.

    deep: also within functions and for types alone; else only what runs when the file is imported.
    """
    place = (package.name, *file.relative_to(package).parts[:-1])
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if deep else at_import(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = place[: len(place) - node.level + 1] if node.level else ()
            source = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run at import: none in functions, none for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(node)


def module_links(package: Path) -> set[tuple[str, str]]:
    """Which modules import which as they are imported; the package's `__init__` is left out."""
    modules = {module_of(file, package): file for file in package.rglob("*.py")}
    pairs = set()
    for name, file in modules.items():
        for _, target in imported_names(file, package, deep=False):
            end = target if target in modules else target.rpartition(".")[0]
            if end in modules and end != name:
                pairs.add((name, end))
    return {pair for pair in pairs if package.name not in pair}


def module_of(file: Path, package: Path) -> str:
    """The dotted name of a file's module."""
    parts = (package.name, *file.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def upward(statements: Iterable[Import], levels: Mapping[str, int]) -> list[Import]:
    """The imports that do not go down."""
    return [each for each in statements if levels[each.target] >= levels[each.part]]


def links(statements: Iterable[Import]) -> set[tuple[str, str]]:
    """Which parts import which, each pair once."""
    return {(each.part, each.target) for each in statements}


def circles(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of parts that reach each other along imports."""
    reached = reachable(pairs)
    groups = {frozenset(b for b in reached[a] if a in reached.get(b, ())) for a in reached if a in reached[a]}
    return sorted(sorted(group) for group in groups)


def mutual(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of parts that import each other."""
    links = set(pairs)
    return sorted((a, b) for a, b in links if a < b and (b, a) in links)


def reachable(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """From each part, the parts that it imports, directly or through others."""
    direct: dict[str, set[str]] = {}
    for part, target in pairs:
        direct.setdefault(part, set()).add(target)
    reached = {part: set(targets) for part, targets in direct.items()}
    while True:
        wider = {part: targets.union(*(reached.get(target, set()) for target in targets)) for part, targets in reached.items()}
        if wider == reached:
            return reached
        reached = wider


def not_implied(pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """The links that no path of other links implies; for parts without circles."""
    links = set(pairs)
    reached = reachable(links)
    return {(a, b) for a, b in links if not any(b in reached.get(c, ()) for d, c in links if d == a and c != b)}
