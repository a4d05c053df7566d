"""The documentation: every public name has a docstring, and the notebooks run."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import nbclient
import nbformat
import pytest

from docs import hooks

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    return nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    executed(nbformat.read(path, as_version=4), tmp_path)
    assert list(tmp_path.iterdir()) == [], "a notebook writes into a temporary folder of its own only"


def test_a_cell_that_raises_fails(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import frugalseg\nfrugalseg.no_such_name")])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="no_such_name"):
        executed(notebook, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert [cell.outputs for cell in cells if cell.outputs or cell.execution_count] == []


def test_public_names_are_documented() -> None:
    assert hooks.undocumented() == []


@pytest.mark.parametrize("package", hooks.PACKAGES)
def test_page_of_a_package_has_each_of_its_modules_once(package: str) -> None:
    named = [line.removeprefix("::: ") for line in hooks.package_page(package).splitlines() if line.startswith(":::")]
    inside = [module.name for module in pkgutil.walk_packages([str(hooks.SOURCE / package)], f"frugalseg.{package}.")]
    assert sorted(named) == sorted([f"frugalseg.{package}", *(name for name in inside if "._" not in name)])


SOURCE = '''
"""A module."""
from typing import overload
def missing(): ...
def _private(): ...
class Documented:
    """A class."""
    def forward(self): ...
    def __len__(self): ...
    def told(self):
        """What it does."""
    @property
    def size(self): ...
    @size.setter
    def size(self, value): ...
class Derived(Documented):
    __doc__ = Documented.__doc__
    def told(self): ...
    def untold(self): ...
@overload
def several(a: int): ...
def several(a):
    """Several."""
    def nested(): ...
'''


def test_what_lacks_a_docstring_is_told(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(SOURCE)
    (tmp_path / "_hidden.py").write_text("def hidden(): ...")
    (tmp_path / "__init__.py").write_text("")
    assert hooks.undocumented(tmp_path) == [
        f"{tmp_path.name}/__init__.py:1: the module itself",
        f"{tmp_path.name}/some.py:4: missing",
        f"{tmp_path.name}/some.py:13: Documented.size",
        f"{tmp_path.name}/some.py:19: Derived.untold",
    ]


@pytest.mark.parametrize(
    ("link", "moved"),
    [
        ("[a](docs/aepsl.md#how-it-works)", "[a](aepsl.md#how-it-works)"),
        ("[a](CONTRIBUTING.md#add-a-claim)", "[a](contributing.md#add-a-claim)"),
        ("![a](docs/images/tour.png)", "![a](images/tour.png)"),
        ("[a](LICENSE)", "[a](site/blob/main/LICENSE)"),
        ("[a](NO_SUCH_FILE.md)", "[a](NO_SUCH_FILE.md)"),
        ("[a](https://semver.org), [b](#here)", "[a](https://semver.org), [b](#here)"),
    ],
)
def test_links_of_pages_outside_docs_are_moved(link: str, moved: str) -> None:
    assert hooks.moved_links(link, "site") == moved
