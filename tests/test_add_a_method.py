"""The method of docs/add-a-method.md, installed as a package of its own and driven from the shell as its author would."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from frugalseg.engine.log import read_log

ROOT = Path(__file__).parents[1]
FILE = re.compile(r"<!-- file: ([\w.]+) -->\n```\w+\n(.*?)```", re.DOTALL)
OPTIONS = ("--config", "smoke.yaml", "--quiet", "--workers", "0", "--log-every", "1", "--save-every", "3")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, as the page has it, installed into a folder of its own."""
    files = dict(FILE.findall((ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")))
    source, installed = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    (source / "frugalseg_pixel").mkdir()
    (source / "frugalseg_pixel" / "__init__.py").write_text("")
    (source / "pyproject.toml").write_text(files.pop("pyproject.toml"))
    for name, text in files.items():
        (source / "frugalseg_pixel" / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install"]
    if subprocess.run([*pip[:-1], "--version"], capture_output=True, check=False).returncode:
        pip = [shutil.which("uv") or "uv", "pip", "install", "--python", sys.executable]
    command = [*pip, "--quiet", "--no-deps", "--no-build-isolation", "--target", str(installed), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return installed


@pytest.fixture(scope="module")
def folder(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the author works: a few drawn images and the smoke recipe."""
    place = tmp_path_factory.mktemp("work")
    shutil.copy(package / "frugalseg_pixel" / "smoke.yaml", place)
    run(package, place, "shapes", "pictures", "--train", "8", "--val", "3", "--test", "0", "--size", "48")
    return place


def environment(package: Path) -> dict[str, str]:
    path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run(package: Path, place: Path, *words: str) -> str:
    command = [sys.executable, "-m", "frugalseg.cli", *words]
    result = subprocess.run(command, cwd=place, env=environment(package), capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{words} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def weights(place: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(place / "runs" / "pixel" / name / "weights" / "last.safetensors")


def test_it_is_listed_and_its_settings_are_explained(package: Path, folder: Path) -> None:
    assert "pixel" in run(package, folder, "methods")
    text = run(package, folder, "train", "pixel", "--help")
    assert "channels of the hidden layer" in text, "its own settings"
    assert "learning rate" in text, "those of the groups"


def test_it_trains_resumes_evaluates_and_predicts(package: Path, folder: Path) -> None:
    run(package, folder, "train", "pixel", "pictures", *OPTIONS, "--name", "straight")
    killed = folder / "runs" / "pixel" / "killed"
    words = [sys.executable, "-m", "frugalseg.cli", "train", "pixel", "pictures", *OPTIONS, "--name", "killed"]
    process = subprocess.Popen(words, cwd=folder, env=environment(package))
    while process.poll() is None and not (len(read_log(killed)) > 4 if killed.exists() else False):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed before its end"
    assert not (killed / "weights").exists()
    run(package, folder, "train", "pixel", "pictures", *OPTIONS, "--name", "killed")
    one, other = weights(folder, "straight"), weights(folder, "killed")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "miou|" in run(package, folder, "evaluate", "runs/pixel/straight", "pictures", "--quiet")
    run(package, folder, "predict", "runs/pixel/straight", "pictures/JPEGImages", "--out", "masks", "--quiet")
    assert len(list((folder / "masks" / "masks").rglob("*.png"))) == 11


def test_a_broken_package_does_not_break_the_others(package: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("")
    (tmp_path / "broken" / "recipe.py").write_text("import no_such_module\n")
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[frugalseg.methods]\nbroken = broken\n")
    settings = environment(package) | {"PYTHONPATH": os.pathsep.join([str(tmp_path), environment(package)["PYTHONPATH"]])}
    command = [sys.executable, "-m", "frugalseg.cli", "methods"]
    result = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=True)
    assert "aepsl" in result.stdout
    assert "pixel" in result.stdout
    assert "broken" not in result.stdout
    assert "no_such_module" in result.stderr
