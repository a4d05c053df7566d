"""The README's commands work as they stand: those marked `<!-- run -->` are run, in order, in one empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- run -->\n```(bash|python)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"`((?:configs|docs|benchmarks|tests|src)/[\w./]+)`|\]\(([\w./-]+)\)")

# Only the training is cut short, to two steps of every stage; everything else runs as a reader would run it.
DRY_TRAINING = 'frugalseg() { if [ "$1" = train ]; then command frugalseg "$@" --dry-run; else command frugalseg "$@"; fi; }\n'


@pytest.mark.timeout(600)
def test_marked_blocks_run(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"bash", "python"}
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    noise = np.random.default_rng(0).integers(0, 256, (270, 240, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "slide.tif")  # the one file of the reader's own that they name
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    for language, code in blocks:
        command = ["bash", "-euc", DRY_TRAINING + code] if language == "bash" else [sys.executable, "-c", code]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{code}\nended with {result.returncode}:\n{result.stdout}\n{result.stderr}"
    assert any((tmp_path / "found" / "masks").rglob("*.png"))


def test_named_files_exist() -> None:
    named = {first or second for first, second in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
