"""What `make docs` does beside MkDocs: the pages that live outside docs/, and the check that every public name is documented."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
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
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")  # to a file of the project, without the anchor
EXEMPT = {"forward"}  # of torch modules: the docstring of the class says what goes in and comes out
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

log = logging.getLogger("mkdocs.hooks.frugalseg")  # below "mkdocs", so that --strict counts its warnings


def undocumented(source: Path = SOURCE) -> list[str]:
    """Public modules, classes, functions, methods and properties without a docstring, as `file:line: name`.

    A name that begins with an underscore is private, and so is all that is inside it; nested functions are private too.
    """
    missing = []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        if not any(part.startswith("_") and part != "__init__" for part in parts):
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
            where = path.relative_to(source.parent).as_posix()
            missing += [f"{where}:{line}: {name}" for name, line in _without_docstring(tree)]
    return missing


def _without_docstring(module: ast.Module) -> Iterator[tuple[str, int]]:
    if ast.get_docstring(module) is None:
        yield "the module itself", 1
    for name, node in _public(module, ""):
        if ast.get_docstring(node) is None:
            yield name, node.lineno


def _public(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Definition]]:
    """The public definitions of a module or a class, those of public classes inside it included."""
    for node in parent.body:
        if isinstance(node, Definition) and not node.name.startswith("_") and node.name not in EXEMPT and not _repeats(node):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node, f"{prefix}{node.name}.")


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


def on_files(files: Any, config: Any) -> Any:
    """MkDocs: add the pages that live at the project's root."""
    from mkdocs.structure.files import File

    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=moved_links(text, config["repo_url"])))
    return files


def on_post_build(config: Any) -> None:
    """MkDocs: a public name without documentation is a warning, which --strict makes an error."""
    for name in undocumented():
        log.warning("no docstring: %s", name)
