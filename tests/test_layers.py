"""The order of the house: an import goes down the layers, never up or across, in every package and however deep it hides."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import benchmarks
from benchmarks import house

SOURCE = house.ROOT / "src" / "frugalseg"


def parts_of(package: Path) -> set[str]:
    return {path.relative_to(package).parts[0].removesuffix(".py") for path in house.files_of(package)} - {house.TOP}


def test_every_package_has_its_layer() -> None:
    assert parts_of(SOURCE) == {name for names in house.LAYERS for name in names}
    assert parts_of(house.ROOT / "benchmarks") == {name for names in benchmarks.LAYERS for name in names}


def test_imports_go_down() -> None:
    assert house.upward(SOURCE) == []
    assert house.upward(house.ROOT / "benchmarks", benchmarks.LAYERS) == []


def test_there_are_no_circles() -> None:
    for package in (SOURCE, house.ROOT / "benchmarks"):
        assert house.circles(house.packages(house.links(package))) == []
        inside = house.links(package, deep=False)
        assert house.circles((one, other) for one, other in inside if house.TOP not in (one, other)) == []


def test_each_package_says_what_it_holds() -> None:
    for folder in {path.parent for path in house.files_of(SOURCE)} - {SOURCE}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), f"{folder} has no docstring"


def test_only_rle_imports_the_run_length_codec() -> None:
    """Its C code believes what it is told: everything goes through the one module that checks it."""
    users = {path.name for path in house.files_of(SOURCE) if "faster_coco_eval" in path.read_text(encoding="utf-8")}
    assert users == {"rle.py"}


# -- what the script measures ------------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> Path:
    """A package of such files; `__` in a name parts folders."""
    for name, text in files.items():
        path = folder / "thing" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "thing"


def test_an_import_upward_is_found_however_it_hides(tmp_path: Path) -> None:
    lazy, typed = "def f():\n    from thing import high\n", "if TYPE_CHECKING:\n    from thing.high import A\n"
    source = write(tmp_path, low=lazy, mid=typed, high="from thing import low, mid\n", odd="from thing import low\n")
    wrong = house.upward(source, (("low",), ("mid",), ("high",)))
    assert wrong == ["low.py:2: low imports high", "mid.py:2: mid imports high", "odd.py:1: odd imports low"]
    across = write(tmp_path / "across", one="from . import two\n", two="")
    assert house.upward(across, (("one", "two"),)) == ["one.py:1: one imports two"]


def test_circles_are_found_between_packages_and_modules(tmp_path: Path) -> None:
    source = write(
        tmp_path, a__x="from thing.b import y\n", b__y="from thing.c.z import f\n", c__z="def f():\n    import thing.a.x\n"
    )
    assert house.circles(house.packages(house.links(source))) == [["a", "b", "c"]]
    assert house.circles(house.links(source, deep=False)) == [], "the last one is not run at import"
    assert house.links(source, deep=False) == {("a.x", "b.y"), ("b.y", "c.z")}


def test_equal_blocks_are_found_once(tmp_path: Path) -> None:
    block = "".join(f"    value_{index} = compute({index})\n" for index in range(8))
    source = write(
        tmp_path, a=f"def f():\n{block}", b=f"# a comment\ndef g():\n{block}    other()\n", c="def h():\n    other()\n"
    )
    assert house.duplicates(source) == ["a.py:2 ~ b.py:3"]


def test_the_walks_of_the_page_are_in_the_code(tmp_path: Path) -> None:
    assert house.missing_steps(SOURCE) == []
    lost = house.Walk("a walk", (("cli/train.py", "run"), ("cli/train.py", "no_such_function"), ("none.py", "f")))
    assert len(house.missing_steps(SOURCE, [lost])) == 2
    assert house.climbs(house.Walk("up and down", (("cli/a.py", ""), ("data/b.py", ""), ("tasks/c.py", ""), ("rle.py", "")))) == 1


def test_the_page_shows_what_was_measured() -> None:
    stored = json.loads(house.FILE.read_text(encoding="utf-8"))
    assert house.page_part(stored) in house.PAGE.read_text(encoding="utf-8"), "python -m benchmarks.house writes it anew"
    for name in ("circles between packages", "circles between modules, at import", "imports that do not go down"):
        assert stored["now"][name] == 0
