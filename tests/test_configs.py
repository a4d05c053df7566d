"""Every recipe in configs/ runs: two steps of every stage, on a miniature in the layout it was written for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from frugalseg import cli, config
from frugalseg.data import shapes
from frugalseg.data.formats import voc

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
# Pictures of 48 pixels fill no large crop and show no large object; and a large network would spend minutes on the padding.
SIDES = ["--scale", "48", "--longest", "64", "--width", "64", "--val", ""]  # intervals over drawn pictures take minutes
LIGHT = ["--scales", "[48]", "--test-scales", "[48]", "--longest", "64", "--width", "64", "--mask-channels", "8"]
SMALL = {
    "pdsl": [*LIGHT, "--count", "10", "--cue-side", "48", "--val", ""],
    "aepsl": ["--crop", "65"],
    "cam": ["--crop", "65", "--val", ""],
    "biopt": ["--side", "65", "--least", "1", "--known", "2", "--pairs", "6"],
    "r2ios": [*SIDES, "--count", "100", "--rois", "16"],
    "maskrcnn": [*SIDES, "--proposals", "50", "--rois", "16"],
    "r2o": ["--side", "64", "--hidden", "16", "--val", ""],
}
LENGTH = {  # of a training, and the method's default
    "pdsl": ("steps", 100_000),
    "aepsl": ("classifier_epochs", 15),
    "cam": ("epochs", 15),
    "biopt": ("steps", 10_000),
    "r2ios": ("gate_steps", 100_000),
    "maskrcnn": ("steps", 160_000),
    "r2o": ("epochs", 300),
}
OWN = {  # of layouts that the miniature has not, and of pictures that would be blown up
    "r2ios_sbd": ["--split", "Main/train"],
    "maskrcnn_transfer_coco": ["--split", "Main/train"],
    "aepsl_transfer_cityscapes": ["--resize", "96"],
}
NAMES = dict(zip(shapes.CLASSES, voc.CLASSES, strict=False))


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tiny pictures in the layout of PASCAL VOC, of VOC's classes, with the lists that the recipes name."""
    root = shapes.write(tmp_path_factory.mktemp("voc") / "VOC2012", train=8, val=2, test=0, size=48, quiet=True)
    (root / "classes.txt").unlink()  # VOC has none: its twenty classes are known from the annotations
    for path in (root / "Annotations").iterdir():
        text = path.read_text()
        for drawn, name in NAMES.items():
            text = text.replace(f"<name>{drawn}</name>", f"<name>{name}</name>")
        path.write_text(text)
    shutil.copy(root / "ImageSets" / "Main" / "train.txt", root / "ImageSets" / "Segmentation" / "train_aug.txt")
    return root


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:--dry-run")
def test_recipe_runs(path: Path, miniature: Path, tmp_path: Path) -> None:
    method, run = path.stem.partition("_")[0], tmp_path / path.stem.partition("_")[0] / "dry"
    words = ["train", method, str(miniature), "--config", str(path), "--dry-run", "--out", str(tmp_path), "--name", "dry"]
    assert cli.main([*words, *SMALL[method], *OWN.get(path.stem, []), "--quiet", "--workers", "0"]) == 0
    assert (run / "weights" / "last.safetensors").exists()
    name, default = LENGTH[method]
    assert config.read(run / "config.yaml")[name] == config.read(path).get(name, default)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_says_command_hardware_and_the_papers_number(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("command", "hardware", "the paper"):
        assert any(line.startswith(f"# {word} ") for line in header), f"{path.name} has no line '# {word}'"
    assert any(f"configs/{path.name}" in line for line in header)
