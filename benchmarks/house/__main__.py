"""Measure the structure of the code: `python -m benchmarks.house` writes results/house.json and docs/images/architecture.svg.

What was measured of the state before the layers stays in the file, unless --before names a checkout of it. Where
docs/architecture.md has the two marks, the table between them is written anew.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import paths, results
from benchmarks.house import figure, layers
from benchmarks.house.measure import measure
from benchmarks.house.table import table

FILE, PAGE = paths.RESULTS / "house.json", paths.DOCS / "architecture.md"
MARKS = "<!-- house -->", "<!-- /house -->"
OLD_METHOD = 12  # files of a new method at that commit, counted by adding a copy of one
OLD_COMMIT = "5d7d129"


def fill(page: str, content: str) -> str:
    """The page with this content between its marks; the same page where it has none."""
    begin, end = map(re.escape, MARKS)
    return re.sub(f"{begin}.*{end}", lambda _: f"{MARKS[0]}\n\n{content}\n\n{MARKS[1]}", page, flags=re.DOTALL)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help=f"a checkout of commit {OLD_COMMIT}, to measure it too")
    options = parser.parse_args(words)
    record: dict[str, Any] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    if options.before:
        record["before"] = {"commit": OLD_COMMIT, **measure(options.before, layers.OLD_MODULES), "files_of_a_method": OLD_METHOD}
    now = {**results.provenance(), **measure(paths.ROOT)}
    results.save(FILE, {"before": record["before"], "now": now})
    figure.write(paths.ROOT / "src" / "frugalseg", layers.SOURCE)
    shown = table(record["before"], now)
    if PAGE.exists():
        PAGE.write_text(fill(PAGE.read_text("utf-8"), shown), encoding="utf-8")
    print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
