"""All measures of the structure of a checkout, as they stand in results/house.json."""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.house import code, duplicates, imports, layers, walks

METHOD_FILE = re.compile(r"<!-- file: (?!pyproject)([\w.]+) -->")  # of the method on docs/add-a-method.md
REPEATS = 5


def measure(tree: Path, old: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Everything. tree: a checkout. old: where its modules at the top would stand today."""
    return (
        structure(tree, old)
        | size(tree)
        | {
            "files_of_a_method": len(METHOD_FILE.findall(page.read_text("utf-8")))
            if (page := tree / "docs/add-a-method.md").exists()
            else None,
            "mypy_strict_errors": mypy_strict(tree),
            "coverage": coverage(tree),
            "cpu_seconds": {name: round(cpu_seconds(tree, words), 2) for name, words in COMMANDS.items()},
            "walks": traced(tree, layers.levels(layers.SOURCE, old)),
        }
    )


def structure(tree: Path, old: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the imports tell."""
    statements = imports.imports(tree / "src" / "frugalseg")
    links = imports.links(statements)
    upward = imports.upward(statements, layers.levels(layers.SOURCE, old))
    return {
        "circles": imports.circles(links),
        "mutual_imports": imports.mutual(links),
        "upward_imports": sorted({f"{each.part} → {each.target}" for each in upward}),
        "links": len(links),
    }


def size(tree: Path) -> dict[str, Any]:
    """What the lines tell."""
    source = sorted((tree / "src").rglob("*.py"))
    others = [file for folder in ("benchmarks", "tests") for file in sorted((tree / folder).rglob("*.py"))]
    lengths = sorted(function.lines for function in code.functions(source))
    return {
        "equal_blocks": len(duplicates.duplicates([*source, *others], by_shape=False)),
        "alike_blocks": len(duplicates.duplicates([*source, *others])),
        "functions": {
            "number": len(lengths),
            "median": statistics.median(lengths),
            "p90": lengths[int(0.9 * len(lengths))],
            "longest": lengths[-1],
        },
        "documented": round(code.documented_share(source), 4),
    }


def traced(tree: Path, levels: Mapping[str, int]) -> dict[str, Any]:
    """The walks of `walks.WALKS`: files, climbs, and every step."""
    measured = {}
    for name, words in walks.WALKS.items():
        steps = walks.walk(tree, words)
        measured[name] = {"files": len(steps), "climbs": walks.climbs(steps, levels), "steps": steps}
    return measured


COMMANDS = {
    "import frugalseg": ("-c", "import frugalseg"),
    "frugalseg --help": ("-c", "from frugalseg.cli import main; main(['--help'])"),
}


def cpu_seconds(tree: Path, words: tuple[str, ...]) -> float:
    """Processor time of a Python process, the median of some, without that of an empty one."""
    return statistics.median(_cpu(tree, words) for _ in range(REPEATS)) - statistics.median(
        _cpu(tree, ("-c", "pass")) for _ in range(REPEATS)
    )


def _cpu(tree: Path, words: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(tree.absolute() / "src")}
    subprocess.run([sys.executable, *words], env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def mypy_strict(tree: Path) -> int:
    """How many errors `mypy --strict` finds in the package."""
    with tempfile.TemporaryDirectory() as cache:
        words = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, "src"]
        done = subprocess.run(words, cwd=tree, stdout=subprocess.PIPE, text=True, check=False)
    errors = re.search(r"Found (\d+) error", done.stdout)
    return int(errors[1]) if errors else 0


def coverage(tree: Path) -> float | None:
    """The percentage of lines that the tests cover, from the file that `make test` leaves; None without."""
    if not (tree / ".coverage").exists():
        return None
    words = [sys.executable, "-m", "coverage", "report", "--format=total", "--precision=1"]
    done = subprocess.run(words, cwd=tree, stdout=subprocess.PIPE, text=True, check=False)
    return float(done.stdout)
