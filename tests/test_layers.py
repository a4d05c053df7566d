"""The order of the house: an import goes down the layers, never up or across, in every package and however deep it hides."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "frugalseg"

# From the bottom to the top; what stands in one line may not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "machine", "moved"),
    ("files",),
    ("boxes", "rle", "config", "progress"),
    ("types",),
    ("metrics", "data", "nets", "recipes"),
    ("engine", "draw"),
    ("regions",),
    ("methods",),
    ("export", "inference"),
    ("tasks",),
    ("workflows",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# The package itself: its lazy names reach everywhere, and everybody may import it.
TOP = "__init__"


def part_of(path: Path) -> str:
    """The package, or module at the top, that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, package or top module) of each frugalseg module that a file imports, at any depth, also for types alone."""
    package = ("frugalseg", *path.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{source}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "frugalseg" and len(parts) > 1:
                yield node.lineno, parts[1]


def test_every_package_has_its_layer() -> None:
    parts = {part_of(path) for path in SOURCE.rglob("*.py")} - {TOP}
    assert parts == set(LEVEL)


def test_imports_go_down() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        own = part_of(path)
        if own == TOP:
            continue
        for line, other in imported(path):
            if other != own and LEVEL.get(other, len(LAYERS)) >= LEVEL[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {other}")
    assert wrong == []


def test_each_package_says_what_it_holds() -> None:
    for folder in {path.parent for path in SOURCE.rglob("*.py")} - {SOURCE}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), f"{folder} has no docstring"


def test_only_rle_imports_the_run_length_codec() -> None:
    """Its C code believes what it is told: everything goes through the one module that checks it."""
    users = {path.name for path in SOURCE.rglob("*.py") if "faster_coco_eval" in path.read_text(encoding="utf-8")}
    assert users == {"rle.py"}
