"""Every recipe in configs/ runs: two steps of every stage, on a miniature in the layout it was written for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from frugalseg import cli, config
from frugalseg.data import shapes
from frugalseg.data.formats import voc
from frugalseg.methods import METHODS, kinds

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
# Images of 48 pixels fill no large crop and show no large object, and a large network would spend minutes on the padding: what a
# recipe says of sizes gives way to what the method's smoke recipe says. Backbones, losses and schedules stay the recipe's own.
SIZES = (
    "scale", "longest", "scales", "test_scales", "crop", "side", "parts_side", "cue_side", "width", "hidden", "mask_channels",
    "rois", "known", "pairs",
)  # fmt: skip
LARGER = {"crop": 65, "side": 65, "cue_side": 48, "scale": 48, "longest": 64}  # than in the smoke recipe: deep maps need cells
LENGTHS = ("steps", "epochs", "classifier_epochs", "gate_steps")
OWN = {  # of layouts that the miniature has not, and of images that would be enlarged
    "r2ios_sbd": ["--split", "Main/train"],
    "maskrcnn_transfer_coco": ["--split", "Main/train"],
    "aepsl_transfer_cityscapes": ["--resize", "96"],
    "fcn_transfer_cityscapes": ["--resize", "96"],
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


def small(method: str) -> list[str]:
    """Options that make any recipe of a method fit the miniature."""
    smoke = config.read(ROOT / "configs" / f"{method}_smoke.yaml")
    fixed = {"least": 1, "count": 100, "val": ""} if method == "biopt" else {"val": ""}
    sizes = {name: smoke[name] for name in SIZES if name in smoke} | {name: LARGER[name] for name in LARGER if name in smoke}
    known = config.options(*kinds(METHODS[method]))
    return [f"{known[name].flag}={value}" for name, value in (sizes | fixed).items() if name in known]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:--dry-run")
def test_recipe_runs(path: Path, miniature: Path, tmp_path: Path) -> None:
    method, run = path.stem.partition("_")[0], tmp_path / path.stem.partition("_")[0] / "dry"
    words = ["train", method, str(miniature), "--config", str(path), "--dry-run", "--out", str(tmp_path), "--name", "dry"]
    assert cli.main([*words, *small(method), *OWN.get(path.stem, []), "--quiet", "--workers", "0"]) == 0
    assert (run / "weights" / "last.safetensors").exists()
    written, recipe, known = config.read(run / "config.yaml"), config.read(path), config.options(METHODS[method].config)
    lengths = [name for name in LENGTHS if name in known]
    assert lengths
    assert {name: written[name] for name in lengths} == {name: recipe.get(name, known[name].default) for name in lengths}


def test_every_method_has_a_smoke_recipe() -> None:
    names = {path.stem for path in CONFIGS}
    assert [
        name for name, method in METHODS.items() if method.module.startswith("frugalseg.") and f"{name}_smoke" not in names
    ] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_says_command_hardware_and_the_papers_number(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("command", "hardware", "the paper"):
        assert any(line.startswith(f"# {word} ") for line in header), f"{path.name} has no line '# {word}'"
    assert any(f"configs/{path.name}" in line for line in header)
