"""Walks through the code: which modules a command enters, in which order, and how often that goes up the layers.

Each walk is traced on a small model and images that are kept with the tests. Its steps are the modules in the order in which they
are first entered; a step to a module of a higher layer is a climb.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from benchmarks import paths

FIXTURES = paths.ROOT / "tests" / "compat"
IMAGE = "data/JPEGImages/val2.png"
WALKS: Mapping[str, Sequence[str]] = {
    "an image through predict": ("predict", "runs/aepsl/aepsl", IMAGE, "--out", "OUT", "--quiet"),
    "a tag through train": ("train", "aepsl", "data", "--config", "settings.yaml", "--out", "OUT", "--name", "run", "--quiet"),
    "a reference through segment": (
        *("segment", "data", IMAGE, "--split", "train"),
        *("--model", "runs/biopt/biopt", "--out", "OUT", "--quiet"),
    ),
}


def walk(tree: Path, words: Sequence[str]) -> list[str]:
    """The modules that a command of the frugalseg in this tree enters, in their order, each as "file:function"."""
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        source = str(tree.absolute() / "src" / "frugalseg")
        command = [sys.executable, str(Path(__file__).with_name("tracer.py")), source, *words]
        environment = os.environ | {"PYTHONPATH": str(tree.absolute() / "src"), "OMP_NUM_THREADS": "1"}
        environment |= {"FRUGALSEG_CACHE": str(Path(folder) / "cache"), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.partition("\nentered\n")[2].split()


def lay_out(folder: Path) -> None:
    """The images, two trained models, and the settings of the first for another training."""
    for name in ("data", "aepsl", "biopt"):
        with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    settings = yaml.safe_load((folder / "runs/aepsl/aepsl/config.yaml").read_text(encoding="utf-8"))
    kept = {key: value for key, value in settings.items() if key not in ("method", "data")}
    (folder / "settings.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")


def climbs(steps: Sequence[str], levels: Mapping[str, int]) -> int:
    """How many steps go to a module of a higher layer."""
    heights = [levels[part] for step in steps if (part := step.split(":")[0].split("/")[0].removesuffix(".py")) != "__init__"]
    return sum(after > before for before, after in pairwise(heights))
