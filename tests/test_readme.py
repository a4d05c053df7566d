"""The README's commands work as they stand: those marked `<!-- run -->` are run, in order, in one empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugalseg import cli

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- run -->\n```(bash|python)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"`((?:configs|docs|benchmarks|tests|src)/[\w./]+)`|\]\(([\w./-]+)\)")

# In the reader's shell `frugalseg` is the installed command. Here it hands its words, as the shell has expanded them, to this
# process, which has PyTorch imported already, and ends with the status that comes back; trainings are cut short to two steps of
# every stage. The first commands are really started, by their own name.
HANDED_OVER = """
first=1
frugalseg() {
  set -- "$@" $([ "$1" = train ] && echo --dry-run)
  if [ $first = 1 ]; then first=0; command frugalseg "$@"; return; fi
  printf '%s\\n' "$@" > asked; read -r status < answered; return "$status"
}
"""


def answer(folder: Path, ended: threading.Event) -> None:
    """Run what the shell hands over, until it has ended."""
    while True:
        words = (folder / "asked").read_text(encoding="utf-8").splitlines()  # waits for a writer
        if ended.is_set():
            return
        status = cli.main(words)
        (folder / "answered").write_text(f"{status}\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the README is written for a POSIX shell")
@pytest.mark.timeout(600)
def test_marked_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"bash", "python"}
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    noise = np.random.default_rng(0).integers(0, 256, (270, 240, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "slide.tif")  # the one file of the reader's own that they name
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    for number, (language, code) in enumerate(blocks):
        if language == "python":
            result = subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode
        else:
            result = in_shell(HANDED_OVER.replace("first=1", f"first={int(number < 2)}", 1) + code, environment)
        assert result == 0, f"{code}\nended with {result}:\n{capfd.readouterr()}"
    assert any((tmp_path / "found" / "masks").rglob("*.png"))


def in_shell(code: str, environment: dict[str, str]) -> int:
    """The status of a script in bash whose commands are handed over to this process."""
    pipes = [Path("asked"), Path("answered")]
    for pipe in pipes:
        os.mkfifo(pipe)
    ended = threading.Event()
    with subprocess.Popen(["bash", "-euc", code], env=environment) as shell:

        def end() -> None:
            shell.wait()
            ended.set()
            pipes[0].write_text("")  # wakes the one who waits for words

        waiting = threading.Thread(target=end)
        waiting.start()
        answer(Path.cwd(), ended)
        waiting.join()
    for pipe in pipes:
        pipe.unlink()
    return shell.returncode


def test_named_files_exist() -> None:
    named = {first or second for first, second in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
