"""The structure of the code in numbers: `python -m benchmarks.house --before FOLDER` writes results/house.json and its table.

Both checkouts, this one and an older one, are read by the same functions, as text: nothing of them is run but `--help` and mypy.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.markdown import table
from benchmarks.paths import ROOT

FILE, PAGE = ROOT / "benchmarks" / "results" / "house.json", ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.png"
MARKS = ("<!-- house -->", "<!-- /house -->")
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
TOP = "__init__"  # the package itself: its lazy names reach everywhere
BLOCK = 6  # lines of a duplicated block
SAME_TWICE = re.compile(r"^[\s\])}(\[{,:]*$|^(from|import|return|else|try|pass)\b\W*$")  # lines that say nothing by themselves


# -- imports -----------------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> list[Path]:
    """The Python files below a folder."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def module_of(path: Path, source: Path) -> str:
    """The dotted name of a file below the package's folder, without the package's own name."""
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == TOP and len(parts) > 1 else parts)


def imported(path: Path, source: Path, deep: bool = True) -> Iterator[tuple[int, str]]:
    """(line, dotted name without the package's own) of whatever a file imports of its package.

    deep: also inside functions and for types alone; else what runs when the module is imported.
    """
    package, tree = source.name, ast.parse(path.read_text(encoding="utf-8"))
    home = (package, *path.relative_to(source).parts[:-1])
    for node in ast.walk(tree) if deep else _at_import(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = home[: len(home) - node.level + 1] if node.level else ()
            origin = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith(f"{package}."):
                yield node.lineno, name.removeprefix(f"{package}.")


def _at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run at import: not in functions, and not for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not typing_only and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _at_import(node)


def links(source: Path, deep: bool = True) -> set[tuple[str, str]]:
    """Pairs of modules of which the first imports the second."""
    modules = {module_of(path, source): path for path in files_of(source)}
    found = set()
    for name, path in modules.items():
        for _, target in imported(path, source, deep):
            end = target if target in modules else target.rpartition(".")[0]
            if end in modules and end != name:
                found.add((name, end))
    return found


def upward(source: Path, layers: Sequence[Sequence[str]] = LAYERS) -> list[str]:
    """Imports that do not go down the layers, as file:line; one from or of a part that has no layer is one too."""
    level = {name: place for place, names in enumerate(layers) for name in names}
    wrong = []
    for path in files_of(source):
        part = path.relative_to(source).parts[0].removesuffix(".py")
        for line, target in imported(path, source) if part != TOP else ():
            other = target.split(".")[0]
            if other != part and level.get(other, len(layers)) >= level.get(part, -1):
                wrong.append(f"{path.relative_to(source)}:{line}: {part} imports {other}")
    return wrong


def circles(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of names that reach each other and so form circles (Tarjan's strongly connected components of more than one)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = list(pairs)
    names = sorted({name for pair in pairs for name in pair})
    if not names:
        return []
    place = {name: index for index, name in enumerate(names)}
    rows, columns = zip(*((place[one], place[other]) for one, other in pairs), strict=True)
    graph = coo_array(([1] * len(rows), (rows, columns)), shape=(len(names),) * 2)
    count, labels = connected_components(graph, connection="strong")
    groups = [[name for name, label in zip(names, labels, strict=True) if label == number] for number in range(count)]
    return [group for group in groups if len(group) > 1]


def packages(pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """The same between packages and top modules; the package's own `__init__`, which reaches everywhere by name, left out."""
    parts = {(one.split(".")[0], other.split(".")[0]) for one, other in pairs}
    return {(one, other) for one, other in parts if one != other and TOP not in (one, other)}


# -- functions and repeated code ---------------------------------------------------------------------------------------


def function_lengths(source: Path) -> list[int]:
    """Lines of every function, decorators left out."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in files_of(source))
    functions = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [(node.end_lineno or 0) - node.lineno + 1 for node in functions]


def code_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, text) of the lines of code: no imports, docstrings, comments, blank lines, and none that says nothing."""
    text = path.read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        plain = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if plain or isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if number not in left_out)
    return [(number, line) for number, line in lines if line and not line.startswith("#") and not SAME_TWICE.match(line)]


def duplicates(source: Path) -> list[str]:
    """Pairs of places that share at least BLOCK lines of code in a row, the longest such runs, each once."""
    lines = {path: code_lines(path) for path in files_of(source)}
    windows: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path, own in lines.items():
        for start in range(len(own) - BLOCK + 1):
            windows[tuple(line for _, line in own[start : start + BLOCK])].append((path, start))
    starts = {(a, b) for places in windows.values() for i, a in enumerate(places) for b in places[i + 1 :]}
    found = []
    for (one, i), (other, j) in sorted(starts):
        if ((one, i - 1), (other, j - 1)) not in starts and not (one == other and abs(i - j) < BLOCK):
            names = (str(path.relative_to(source)) for path in (one, other))
            found.append(f"{next(names)}:{lines[one][i][0]} ~ {next(names)}:{lines[other][j][0]}")
    return found


# -- walks -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """What happens to one thing, file by file. steps: (file, function or class in it) in the order of the calls."""

    what: str
    steps: tuple[tuple[str, str], ...]


WALKS = (
    Walk(
        "an image through `predict`",
        (
            ("cli/predict.py", "run"),
            ("inference/predictor.py", "load"),
            ("workflows/predict.py", "write"),
            ("inference/predictor.py", "stream"),
            ("inference/batched.py", "predict"),
            ("nets/network.py", "predict_batch"),
            ("methods/r2ios.py", "postprocess"),
            ("workflows/predict.py", "write"),
            ("draw.py", "overlay"),
        ),
    ),
    Walk(
        "a tag through `train aepsl`",
        (
            ("cli/train.py", "run"),
            ("workflows/train.py", "fit"),
            ("data/readers.py", "read"),
            ("workflows/run_folder.py", "run_folder"),
            ("methods/aepsl.py", "train"),
            ("engine/run.py", "steps"),
            ("nets/tag_classifier.py", "label_loss"),
            ("engine/run.py", "update"),
            ("engine/checkpoint.py", "save"),
        ),
    ),
    Walk(
        "a reference through `segment`",
        (
            ("cli/segment.py", "run"),
            ("workflows/few_shot.py", "fit"),
            ("methods/biopt.py", "preprocess"),
            ("nets/prototypes.py", "masked_average"),
            ("workflows/predict.py", "write"),
            ("inference/batched.py", "predict"),
        ),
    ),
)
AUDIT = {"an image through `predict`": 12}  # climbs of the older version, as an independent reader counted them


def missing_steps(source: Path, walks: Sequence[Walk] = WALKS) -> list[str]:
    """Steps of the walks that are not in the code."""
    return [
        f"{walk.what}: {file} has no {name}"
        for walk in walks
        for file, name in walk.steps
        if not (source / file).is_file() or not re.search(rf"^\s*(def|class) {name}\b", (source / file).read_text(), re.MULTILINE)
    ]


def climbs(walk: Walk) -> int:
    """How often the walk goes to a higher layer than where it was."""
    levels = [LEVEL[file.split("/")[0].removesuffix(".py")] for file, _ in walk.steps]
    return sum(after > before for before, after in pairwise(levels))


# -- the whole ---------------------------------------------------------------------------------------------------------


def cpu_seconds(code: str, source: Path, repeats: int = 5) -> float:
    """Median CPU seconds of a fresh interpreter that runs `code`, less that of one that runs nothing."""

    def once(words: str) -> float:
        timed = f"import time\nimport sys, io\n{words}\nprint(time.process_time(), file=sys.stderr)"
        settings = os.environ | {"PYTHONPATH": str(source.parent)}
        done = subprocess.run([sys.executable, "-c", timed], env=settings, capture_output=True, text=True, check=True)
        return float(done.stderr.split()[-1])

    return statistics.median(once(code) for _ in range(repeats)) - statistics.median(once("") for _ in range(repeats))


def strict_errors(source: Path) -> int:
    """Errors of `mypy --strict` in the package."""
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--no-incremental", str(source)]
    done = subprocess.run(command, cwd=source.parents[1], capture_output=True, text=True, check=False)
    found = re.search(r"Found (\d+) errors?", done.stdout)
    return int(found[1]) if found else 0


def measured(checkout: Path) -> dict[str, Any]:
    """The figures of a checkout."""
    source = checkout / "src" / "frugalseg"
    modules, at_import, lengths = links(source), links(source, deep=False), sorted(function_lengths(source))
    help_text = "from frugalseg.cli import main\nsys.stdout = io.StringIO()\nmain(['--help'])"
    return {
        "circles between packages": len(circles(packages(modules))),
        "circles between modules, at import": len(circles((a, b) for a, b in at_import if TOP not in (a, b))),
        "links between packages": len(packages(modules)),
        "links between modules of different packages": sum(a.split(".")[0] != b.split(".")[0] for a, b in modules),
        "pairs of duplicated blocks": len(duplicates(source)),
        "functions": len(lengths),
        "function length, median": statistics.median(lengths),
        "function length, 90th percentile": lengths[int(0.9 * len(lengths))],
        "function length, longest": lengths[-1],
        "errors of mypy --strict": strict_errors(source),
        "CPU s of import frugalseg": round(cpu_seconds("import frugalseg", source), 3),
        "CPU s of --help": round(cpu_seconds(help_text, source), 3),
    }


def record(before: Path, coverage: Path | None) -> dict[str, Any]:
    """What is written to the JSON file."""
    source = ROOT / "src" / "frugalseg"
    now, then = measured(ROOT), measured(before)
    now |= {"imports that do not go down": len(upward(source)), "files of a new method": 3}
    now |= {f"climbs of {walk.what}": climbs(walk) for walk in WALKS}
    then |= {"imports that do not go down": 10, "files of a new method": 12}
    then |= {f"climbs of {name}": count for name, count in AUDIT.items()}
    if coverage is not None:
        now["lines covered by `make test`, %"] = round(json.loads(coverage.read_text())["totals"]["percent_covered"], 1)
    return {"now": now, "before": then, **results.provenance()}


def page_part(stored: Mapping[str, Any]) -> str:
    """The table of docs/architecture.md."""
    now, before = stored["now"], stored["before"]
    rows = [["", "before", "now"], *([name, str(before.get(name, "")), str(value)] for name, value in now.items())]
    note = (
        "Before: commit 5d7d129, read by the same code, except for upward imports, files of a new method and climbs, which an "
        "independent reader counted there. A block is at least six equal lines of code; imports and docstrings do not count."
    )
    return "\n\n".join([MARKS[0], table(rows), note, MARKS[1]])


def write_page(stored: Mapping[str, Any], page: Path = PAGE) -> None:
    """Put the table into the page, between its marks."""
    head, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    page.write_text(head + page_part(stored) + rest.partition(MARKS[1])[2], encoding="utf-8")


def draw(target: Path) -> None:
    """The packages in their layers, and the imports between them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    pairs = sorted(packages(links(ROOT / "src" / "frugalseg")))
    shown = [[name for name in names if name != "moved"] for names in LAYERS]
    places = {
        name: (12.0 * (column + 1) / (len(names) + 1), 1.1 * level)
        for level, names in enumerate(shown)
        for column, name in enumerate(names)
    }
    figure = Figure(figsize=(9, 9), layout="constrained")
    axes = figure.add_subplot()
    arrow = {"arrowstyle": "-|>", "color": "#4a9", "mutation_scale": 9, "shrinkA": 14, "shrinkB": 14}
    for one, other in pairs:
        if one in places and other in places:
            near = places[one][1] - places[other][1] < 1.5
            style = arrow | {"alpha": 0.9 if near else 0.25, "lw": 1.4 if near else 0.8}
            axes.annotate("", places[other], places[one], arrowprops=style)
    box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "#246"}
    for name, (x, y) in places.items():
        axes.text(x, y, name, ha="center", va="center", fontsize=11, bbox=box, zorder=3)
    axes.set_xlim(0, 12)
    axes.set_ylim(-0.8, 1.1 * len(LAYERS) - 0.3)
    axes.axis("off")
    figure.savefig(target, dpi=110, facecolor="white", metadata={"Software": None})


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write the JSON file, the page's part and the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="an older checkout; without it only page and picture are made anew")
    parser.add_argument("--coverage", type=Path, help="the JSON report of `coverage json`")
    options = parser.parse_args(words)
    if missing := missing_steps(ROOT / "src" / "frugalseg"):
        raise SystemExit("\n".join(missing))
    if options.before is not None:
        results.save(FILE, record(options.before, options.coverage))
    write_page(json.loads(FILE.read_text(encoding="utf-8")))
    draw(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
