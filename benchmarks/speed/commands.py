"""How long the README's two commands take from a bare clone: `python -m benchmarks.speed.commands` writes commands.json.

Each runs in a separate clone in a temporary folder and sets up a new environment, so packages are downloaded, unless the
installer has kept them. Nothing else should run meanwhile. Their output goes to `--logs`.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paths import ROOT
from benchmarks.speed.harness import entry, save

FILE = Path(__file__).with_suffix(".json")
COMMANDS = ("demo", "test")
SET_UP = ".venv/ready"  # the file whose date says when the environment was complete
PASSED = re.compile(r"(\d+) passed")


def run(command: str, folder: Path, log: Path) -> tuple[float, float]:
    """Seconds of the set-up and of the rest of `make command` in a fresh clone. Raises SystemExit when it fails."""
    clone = folder / command
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS")}
    begin = time.time()
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(["make", command], cwd=clone, stdout=out, stderr=subprocess.STDOUT, env=bare, check=False)
    if done.returncode:
        raise SystemExit(f"make {command} ended with status {done.returncode}: see {log}")
    ready = (clone / SET_UP).stat().st_mtime
    return ready - begin, time.time() - ready


def measures(command: str, set_up: float, rest: float, log: Path) -> list[dict[str, Any]]:
    how = "from a fresh clone, with the environment made anew"
    passed = PASSED.findall(log.read_text("utf-8", errors="replace"))
    what = f"make {command}" + (f", {passed[-1]} tests" if passed else "")
    return [
        entry(f"{what}: set-up", round(set_up, 1), "s", how),
        entry(f"{what}: the rest", round(rest, 1), "s", how),
    ]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.commands", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=COMMANDS, nargs="+", default=COMMANDS, help="of the two commands")
    parser.add_argument("--logs", type=Path, default=Path(), help="folder for what the commands print")
    parser.add_argument("--out", type=Path, default=FILE, help="the JSON file")
    options = parser.parse_args(words)
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for command in options.only:
            log = options.logs / f"make_{command}.log"
            set_up, rest = run(command, Path(folder), log)
            lines += measures(command, set_up, rest, log)
            print(f"make {command}: set-up {set_up:.0f} s, the rest {rest:.0f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    lines.append(entry("largest process", peak, "MB", "of all that the commands started"))
    save(options.out, "The two commands", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
