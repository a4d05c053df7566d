"""Images a second of every method's prediction: `python -m benchmarks.speed.predict` writes predict.json.

The networks are those of the recipes for drawn images, of which a rehearsal has made the weights: how fast they are does not
depend on what they have learned. One image at a time is compared with batches, and with an older checkout (`--before FOLDER`),
in turns, each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paths import ROOT
from benchmarks.speed.harness import entry, save, show
from frugalseg.methods import METHODS

FILE = Path(__file__).with_suffix(".json")
BATCH = 8
TIMED = """
import json, sys, time
import frugalseg
run, images, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
model, files = frugalseg.load(run, device="auto"), sorted(map(str, __import__("pathlib").Path(images).glob("*.jpg")))
options = {"batch": batch} if batch else {}
model.predict(files[:2], **options)
begin = time.perf_counter()
model.predict(files, **options)
print(json.dumps(len(files) / (time.perf_counter() - begin)))
"""


def rehearsed(method: str, images: Path, out: Path) -> Path:
    """The run folder of a rehearsal of the method's recipe for drawn images."""
    words = [sys.executable, "-m", "frugalseg.cli", "train", method, str(images), "--dry-run", "--out", str(out), "--name", "dry"]
    recipe = ROOT / "configs" / f"{method}_shapes.yaml"
    subprocess.run([*words, "--config", str(recipe), "--quiet", "--val", ""], cwd=ROOT, check=True, capture_output=True)
    return out / method / "dry"


def images_per_second(run: Path, images: Path, batch: int, source: Path) -> float:
    """One measurement, with the package in `source`; batch 0: the package has no batches."""
    settings = os.environ | {"PYTHONPATH": str(source), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", TIMED, str(run), str(images), str(batch)]
    return float(subprocess.run(command, env=settings, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measures(method: str, images: Path, out: Path, before: Path | None, repeats: int) -> list[dict[str, Any]]:
    """The medians of one method's figures, and their ratios, taken turn by turn."""
    run, here = rehearsed(method, images, out), ROOT / "src"
    ways = {"one by one": (1, here), f"batches of {BATCH}": (BATCH, here)}
    if before is not None and (before / "src" / "frugalseg" / "methods" / f"{method}.py").is_file():
        ways = {"before": (0, before / "src"), **ways}
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, (batch, source) in ways.items():
            speeds[way].append(images_per_second(run, images / "JPEGImages", batch, source))
    how = f"median of {repeats}, drawn images of 128 pixels"
    lines = [entry(f"{method}, {way}", round(statistics.median(speeds[way]), 2), "images/s", how) for way in ways]
    first = next(iter(ways))
    for way in list(ways)[1:]:
        ratios = [new / old for new, old in zip(speeds[way], speeds[first], strict=True)]
        lines.append(entry(f"{method}, {way} over {first}", round(statistics.median(ratios), 3), "", "median of the turns"))
    return lines


def main(words: Sequence[str] | None = None) -> int:
    """Measure all methods or some, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.predict", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="of the methods")
    parser.add_argument("--images", type=int, default=40, help="drawn images")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--before", type=Path, help="an older checkout to compare with")
    parser.add_argument("--out", type=Path, default=FILE, help="the JSON file")
    options = parser.parse_args(words)
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        drawn = [sys.executable, "-m", "frugalseg.cli", "shapes", str(folder / "images"), "--train", str(options.images)]
        subprocess.run([*drawn, "--val", "0", "--test", "0"], cwd=ROOT, check=True, capture_output=True)
        for method in options.only:
            lines += measures(method, folder / "images", folder / "runs", options.before, options.repeats)
            show(lines[-4:])
    save(options.out, "Prediction, one by one and in batches", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
