"""What `make docs` does beside MkDocs: the pages that live outside docs/, and the check that every public name is documented."""

from __future__ import annotations

import ast
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "frugalseg"
PAGES = {  # of the project's root, and what they are called in the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
PACKAGES = {"data": "Data", "metrics": "Metrics", "regions": "Regions", "nets": "Networks"}  # with a page in api/, and its title
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")  # to a file of the project, without the anchor
EXEMPT = {"forward"}  # of torch modules: the docstring of the class says what goes in and comes out
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

log = logging.getLogger("mkdocs.hooks.frugalseg")  # below "mkdocs", so that --strict counts its warnings


def undocumented(source: Path = SOURCE) -> list[str]:
    """Public modules, classes, functions, methods and properties without a docstring, as `file:line: name`.

    A name that begins with an underscore is private, and so is all that is inside it; nested functions are private too. A method
    that overrides another of the package has the docstring of that one, as for `help`.
    """
    files = {path: ast.parse(path.read_text(encoding="utf-8"), filename=str(path)) for path in sorted(source.rglob("*.py"))}
    classes = {node.name: node for tree in files.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    missing = []
    for path, tree in files.items():
        where = path.relative_to(source.parent).as_posix()
        if not any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(source).parts):
            missing += [f"{where}:{line}: {name}" for name, line in _without_docstring(tree, classes)]
    return missing


def _without_docstring(module: ast.Module, classes: Mapping[str, ast.ClassDef]) -> Iterator[tuple[str, int]]:
    if ast.get_docstring(module) is None:
        yield "the module itself", 1
    for name, node, parent in _public(module, ""):
        if not _documented(node) and not _inherits(node.name, parent, classes):
            yield name, node.lineno


def _public(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Definition, ast.Module | ast.ClassDef]]:
    """The public definitions of a module or a class, those of public classes inside it included, each with what it stands in."""
    for node in parent.body:
        if isinstance(node, Definition) and not node.name.startswith("_") and node.name not in EXEMPT and not _repeats(node):
            yield prefix + node.name, node, parent
            if isinstance(node, ast.ClassDef):
                yield from _public(node, f"{prefix}{node.name}.")


def _documented(node: Definition) -> bool:
    """Whether it has a docstring, or takes one: `__doc__ = Other.__doc__`."""
    taken = any(isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "__doc__" for line in node.body)
    return taken or ast.get_docstring(node) is not None


def _inherits(name: str, parent: ast.AST, classes: Mapping[str, ast.ClassDef]) -> bool:
    """Whether a base class in the package has a method of this name with a docstring."""
    if not isinstance(parent, ast.ClassDef):
        return False
    bases = [classes[base] for base in (ast.unparse(node).rpartition(".")[2] for node in parent.bases) if base in classes]
    methods = [node for base in bases for node in base.body if isinstance(node, Definition) and node.name == name]
    return any(_documented(node) for node in methods) or any(
        _inherits(name, base, classes) for base in bases if base is not parent
    )


def _repeats(node: Definition) -> bool:
    """Whether it belongs to another definition of the same name that has the docstring: an overload or a setter."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(name.endswith(("overload", ".setter", ".deleter")) for name in decorators)


def moved_links(text: str, repository: str) -> str:
    """The links of a page at the project's root, as they go from a page of the site; other files stand in the repository."""

    def moved(match: re.Match[str]) -> str:
        target = match[1]
        if target.startswith("docs/"):
            return f"]({target.removeprefix('docs/')}"
        if target in PAGES or not (ROOT / target).exists():  # a file that is not there stays, for MkDocs to complain of
            return f"]({PAGES.get(target, target)}"
        return f"]({repository}/blob/main/{target}"

    return LINK.sub(moved, text)


def package_page(package: str) -> str:
    """A page of what a package says of itself, and then of each of its public modules, in Markdown for mkdocstrings."""
    files = sorted((SOURCE / package).rglob("*.py"))
    names = [".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__") for path in files]
    names = [name for name in names if "._" not in name and name != f"frugalseg.{package}"]
    modules = [f"::: {name}\n    options: {{show_root_full_path: true}}" for name in sorted(names)]
    head = f"::: frugalseg.{package}\n    options: {{members: false, show_root_heading: false, show_root_toc_entry: false}}"
    return "\n\n".join([f"# {PACKAGES[package]}", head, *modules])


def on_startup(**_: Any) -> None:
    """MkDocs: a notebook's output is what its reader asked for, not that tqdm would draw a bar if it had ipywidgets."""
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"


def on_files(files: Any, config: Any) -> Any:
    """MkDocs: add the pages that live at the project's root, and those of the packages."""
    from mkdocs.structure.files import File

    pages = {f"api/{package}.md": package_page(package) for package in PACKAGES}
    for source, name in PAGES.items():
        pages[name] = moved_links((ROOT / source).read_text(encoding="utf-8"), config["repo_url"])
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_post_build(config: Any) -> None:
    """MkDocs: a public name without documentation is a warning, which --strict makes an error."""
    for name in undocumented():
        log.warning("no docstring: %s", name)
