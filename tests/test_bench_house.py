"""The measures of the structure, on packages small enough to count by hand, and what is written of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import paths
from benchmarks.house import __main__ as house
from benchmarks.house import code, duplicates, figure, imports, layers, walks
from benchmarks.house.table import ROWS, table

BODY = '''
def total(values, weights):
    """The weighted mean."""
    if len(values) != len(weights):
        raise ValueError("expected as many weights as values")
    products = [value * weight for value, weight in zip(values, weights)]
    summed = sum(weights)
    return sum(products) / summed if summed else float("nan")
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """`high` imports `low`, which imports `high` back within a function; `alone` and its module import nobody else."""
    files = {
        "__init__.py": "from house.high import thing",
        "high.py": "from house import low\nfrom house.alone import part\nimport numpy",
        "low/__init__.py": '"""Low."""\ndef late():\n    from ..high import thing\n    return thing',
        "alone/__init__.py": "",
        "alone/part.py": "from . import other\nfrom house.alone.other import f",
        "alone/other.py": "",
    }
    for name, text in files.items():
        (tmp_path / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / name).write_text(text)
    return tmp_path / "house"


def test_imports_between_parts_are_found_at_any_depth(package: Path) -> None:
    found = imports.imports(package)
    assert [(each.part, each.line, each.target) for each in found] == [
        ("high", 1, "low"),
        ("high", 2, "alone"),
        ("low", 3, "high"),
    ]
    assert imports.parts(package) == {"high", "low", "alone"}
    wrong = imports.upward(found, layers.levels([["low", "alone"], ["high"]]))
    assert [(each.file.name, each.line, each.target) for each in wrong] == [("__init__.py", 3, "high")]
    assert imports.circles(imports.links(found)) == [["high", "low"]]
    assert imports.mutual(imports.links(found)) == [("high", "low")]
    assert imports.module_links(package) == {
        ("house.high", "house.low"),
        ("house.high", "house.alone.part"),
        ("house.alone.part", "house.alone.other"),
    }, "what stands in a function is not run at import"


def test_a_longer_circle_is_found_and_a_shortcut_is_not_drawn() -> None:
    assert imports.circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]) == [["a", "b", "c"]]
    assert imports.circles([("a", "b"), ("b", "c"), ("a", "c")]) == []
    assert imports.not_implied([("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")]) == {("a", "b"), ("b", "c"), ("a", "d")}


def test_a_block_in_two_places_is_found_whatever_its_names(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text(f"import sys\n{BODY}")
    other.write_text("# other names, and a comment\n" + BODY.replace("value", "number").replace("total", "average"))
    assert duplicates.duplicates([one, other]) == {(one, other): [(3, 3)]}
    other.write_text(BODY.replace("    summed = sum(weights)\n", ""))
    assert duplicates.duplicates([one, other]) == {}
    other.write_text(BODY)
    assert duplicates.duplicates([one, other], by_shape=False) == {(one, other): [(3, 2)]}
    fields = "\n".join(f"field{number}: int = {number}" for number in range(20))
    one.write_text(fields)
    other.write_text(fields)
    assert duplicates.duplicates([one, other]) == {}, "a list of fields is no block"


def test_functions_and_docstrings_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        f'"""A module."""\n{BODY}\nclass Thing:\n    def bare(self): ...\n    def __len__(self): ...\n    def _own(self): ...\n'
    )
    assert next((function.name, function.lines) for function in code.functions([file])) == ("total", 7)
    assert code.documented_share([file]) == 2 / 4, "the module and the function, but not the class and its method"


def test_a_climb_is_a_step_to_a_higher_layer() -> None:
    levels = {"low": 0, "middle": 1, "high": 2}
    steps = ["high.py:f", "low/a.py:g", "low/b.py:h", "__init__.py:name", "middle/c.py:i", "low/a.py:j", "high.py:k"]
    assert walks.climbs(steps, levels) == 2


def test_the_picture_is_that_of_the_code() -> None:
    links = imports.links(imports.imports(paths.ROOT / "src" / "frugalseg"))
    assert figure.FILE.read_text(encoding="utf-8") == figure.draw(layers.SOURCE, links), "run `python -m benchmarks.house`"


def test_the_page_shows_what_was_measured() -> None:
    record = json.loads(house.FILE.read_text(encoding="utf-8"))
    shown = table(record["before"], record["now"])
    assert "| packages in a circle of imports | 12 | 0 | 0 |" in shown
    assert shown.count("\n| ") == len(ROWS) + len(walks.WALKS)
    page = house.PAGE.read_text(encoding="utf-8")
    assert house.fill(page, shown) == page, "run `python -m benchmarks.house`"
    assert house.fill(page, "other") != page
    assert house.fill("no marks", shown) == "no marks"


def test_files_named_on_the_page_of_the_architecture_are_there() -> None:
    """And what stands behind a file's name, as in `engine/run.py: Run.steps`, is defined in it."""
    named = re.findall(r"`((?:\w+/)*\w+\.py)(?:: ([\w.]+))?`", house.PAGE.read_text(encoding="utf-8"))
    assert len(named) > 20
    for name, function in named:
        file = next((folder / name for folder in (paths.ROOT / "src/frugalseg", paths.ROOT) if (folder / name).is_file()), None)
        assert file, f"there is no {name}"
        assert not function or re.search(rf"(def|class) {function.split('.')[-1]}\b", file.read_text()), (
            f"{name} has no {function}"
        )
