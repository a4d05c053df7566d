"""The rules of the house that a machine can check: what imports what, what the tree may not contain, what the lock must hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "frugalseg"
LONGEST_FUNCTION = 40

# Spelled with classes of one letter so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.])/(wor[k]|roo[t]|far[m]|hom[e]|User[s]|mn[t]|op[t]|workspac[e])/[A-Za-z.]")
REGISTRY = re.compile(r"(?<![a-z])(p[y]pi|pytho[n]hosted|npm[j]s|d[e]bian|download\.p[y]torch)\.(o[r]g|c[o]m)")
UNFINISHED = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X]|NotImplementedErro[r])\b")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of the project's files")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore")


def findings(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    lines = ((path, number, line) for path in paths for number, line in enumerate(text_of(path).splitlines(), 1))
    return [f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}" for path, number, line in lines if pattern.search(line)]


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT / "src" if path.is_relative_to(ROOT / "src") else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(text_of(path), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, at any depth; `from a import b` counts as `a.b`."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def loaded_by(statement: str) -> set[str]:
    """The modules a fresh interpreter holds after `statement`."""
    code = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (MACHINE_PATH, "cd /" + "work/main", True),
        (MACHINE_PATH, '"/' + 'home/ann"', True),
        (MACHINE_PATH, "docs/" + "home/page.md", False),
        (REGISTRY, "https://py" + "pi.org/simple", True),
        (REGISTRY, "files.python" + "hosted.org", True),
        (REGISTRY, "the numpy organisation", False),
        (UNFINISHED, "# TO" + "DO: later", True),
        (UNFINISHED, "raise NotImplemented" + "Error()", True),
    ],
)
def test_patterns_find_what_they_are_for(pattern: re.Pattern[str], text: str, found: bool) -> None:
    assert bool(pattern.search(text)) is found


def test_tree_names_no_machine_path_and_no_registry() -> None:
    assert findings(MACHINE_PATH, tracked()) == []
    assert findings(REGISTRY, tracked()) == []


def test_source_is_finished() -> None:
    assert findings(UNFINISHED, python_files("src")) == []


def locked() -> dict[str, list[tuple[str, int]]]:
    """Name → (version, number of hashes) of every entry, one per set of markers. Raises on anything that is not an entry."""
    entries: dict[str, list[tuple[str, int]]] = {}
    text = "\n".join(line for line in text_of(ROOT / "requirements.lock").splitlines() if not line.startswith("#"))
    for entry in re.split(r"\n(?=\S)", text.strip()):
        head, *hashes = (line.rstrip(" \\").strip() for line in entry.splitlines())
        match = re.fullmatch(r"([a-z0-9-]+)==([\w.!+]+)( ; [^\\:/]+)?", head)
        assert match, f"requirements.lock: expected name==version ; markers, got {head!r}"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), f"requirements.lock: {head}: {hashes}"
        entries.setdefault(match[1], []).append((match[2], len(hashes)))
    return entries


def test_lock_holds_names_versions_and_hashes_only() -> None:
    entries = locked()
    assert "torch" in entries
    assert [name for name, versions in entries.items() if any(not hashes for _, hashes in versions)] == []


def test_lock_satisfies_the_project() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    entries = locked()
    for line in project["dependencies"] + project["optional-dependencies"]["dev"] + project["optional-dependencies"]["docs"]:
        requirement = Requirement(line)
        versions = [version for version, _ in entries.get(requirement.name, [])]
        assert versions, f"{requirement.name} is not in requirements.lock: make lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{line}: the lock has {versions}: make lock"


def test_package_ships_its_data_files() -> None:
    """An editable install finds every file; a wheel holds only those that pyproject.toml names."""
    patterns = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["setuptools"]["package-data"]["frugalseg"]
    shipped = {path for pattern in patterns for path in SOURCE.glob(pattern)}
    assert shipped
    assert [path.name for path in tracked() if path.is_relative_to(SOURCE) and path.suffix != ".py" and path not in shipped] == []


def test_methods_do_not_know_each_other() -> None:
    for path in sorted((SOURCE / "methods").glob("[!_]*.py")):
        others = [used for used in imports(path) if within(used, "frugalseg.methods") and not within(used, module_name(path))]
        assert others == [], f"{path.name} imports {others}"


def test_only_run_imports_the_engine() -> None:
    users = {module_name(path) for path in python_files("src") if any(used.startswith("lightning") for used in imports(path))}
    assert users <= {"frugalseg.engine.run"}


def test_regions_and_metrics_hold_no_networks() -> None:
    """They may call torch's functions, but define and use no module."""
    wrong = []
    for path in python_files("src/frugalseg/regions", "src/frugalseg/metrics"):
        used = [name for name in imports(path) if within(name, "torch.nn") and not within(name, "torch.nn.functional")]
        reached = [ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)]
        used += [name for name in reached if name.startswith("torch.nn.") and not within(name, "torch.nn.functional")]
        wrong += [f"{module_name(path)}: {name}" for name in used]
    assert wrong == []


@pytest.mark.parametrize("module", ["frugalseg", "frugalseg.methods", "frugalseg.cli", "recipes"])
def test_import_without_torch(module: str) -> None:
    """What `--help` needs: torch alone takes seconds to import."""
    names = [module_name(path) for path in python_files("src/frugalseg/recipes")] if module == "recipes" else [module]
    assert not {"torch", "torchvision", "lightning_fabric", "matplotlib"} & loaded_by(f"import {', '.join(names)}")


def trusts_a_pickle(call: ast.Call) -> bool:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    name = ast.unparse(call.func)
    unsafe = re.fullmatch(r"pickle\.(loads?|Unpickler)", name) or (name == "torch.load" and given.get("weights_only") != "True")
    return bool(unsafe) or given.get("allow_pickle", "False") != "False"


def test_no_pickle_is_loaded() -> None:
    """A pickle runs code as it is read: weights and arrays that a user was handed are loaded as data only."""
    wrong = []
    for path in python_files("src", "benchmarks"):
        calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        wrong += [f"{path.name}:{call.lineno}: {ast.unparse(call)}" for call in calls if trusts_a_pickle(call)]
        wrong += [f"{path.name} imports {name}" for name in imports(path) if within(name, "dill", "cloudpickle", "pickle.load")]
    assert wrong == []


def test_functions_are_short() -> None:
    long = []
    for path in python_files("src", "benchmarks", "tests"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines")
    assert long == []
