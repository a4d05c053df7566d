"""The order of the house: an import goes down the layers, never up or across, in every package and however deep it hides."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import LAYERS, paths
from benchmarks.house import imports, layers

SOURCE = paths.ROOT / "src" / "frugalseg"
PACKAGES = pytest.mark.parametrize(("package", "order"), [(SOURCE, layers.SOURCE), (paths.ROOT / "benchmarks", LAYERS)])


@PACKAGES
def test_every_part_has_its_layer(package: Path, order: layers.Layers) -> None:
    assert imports.parts(package) == {part for parts in order for part in parts}


@PACKAGES
def test_imports_go_down(package: Path, order: layers.Layers) -> None:
    wrong = imports.upward(imports.imports(package), layers.levels(order))
    assert [f"{each.file.relative_to(paths.ROOT)}:{each.line}: {each.part} imports {each.target}" for each in wrong] == []


@PACKAGES
def test_there_are_no_circles(package: Path, order: layers.Layers) -> None:
    assert imports.circles(imports.links(imports.imports(package))) == []
    assert imports.circles(imports.module_links(package)) == [], "between modules, at import"


def test_each_package_says_what_it_holds() -> None:
    for folder in {path.parent for path in SOURCE.rglob("*.py")} - {SOURCE}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), f"{folder} has no docstring"


def test_only_rle_imports_the_run_length_codec() -> None:
    """Its C code believes what it is told: everything goes through the one module that checks it."""
    users = {path.name for path in SOURCE.rglob("*.py") if "faster_coco_eval" in path.read_text(encoding="utf-8")}
    assert users == {"rle.py"}
