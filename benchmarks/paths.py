"""Where the benchmarks read and write."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"  # a JSON file for each finished cell
SPEED = ROOT / "benchmarks" / "speed"  # a JSON file beside each measurement of speed
RUNS = ROOT / "runs" / "bench"
DOCS = ROOT / "docs"


def photos() -> Path:
    """The folder of real photos: $FRUGALSEG_DATA, else `shared/data` beside the project."""
    return Path(os.environ.get("FRUGALSEG_DATA") or ROOT.parent / "shared" / "data").absolute()
