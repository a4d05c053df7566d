"""Writes the fixtures of `tests/test_compat.py`: data, runs, predictions, a region cache, a benchmark cell, the command line.

    PYTHONPATH=OLD/src:OLD OMP_NUM_THREADS=1 python tests/compat/make.py

OLD is a checkout of commit 5d7d129, the last one before the modules moved. This script knows that commit's modules by name, so it
runs with no later one. It is kept to show where the fixtures come from.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import frugalseg
from benchmarks import cells
from benchmarks.plan import Bench, Plan, Row, Variant
from frugalseg import cli, config
from frugalseg import run as engine
from frugalseg.data.problems import CODES
from frugalseg.methods import METHODS
from frugalseg.nets import backbone

HERE = Path(__file__).absolute().parent
LIBRARIES = (
    "torch", "torchvision", "lightning-fabric", "timm", "numpy", "scipy", "scikit-image", "opencv-python-headless", "pillow",
)  # fmt: skip
CLASSES = ("apple", "berry", "cherry", "date")
COLOURS = ((200, 40, 40), (40, 60, 210), (150, 20, 130), (90, 60, 20))
TRAIN = ((0,), (1,), (2,), (3,), (0, 1), (1, 2, 3), (0, 2), ())  # the classes in each image
VAL = ((0, 1), (2,), (0, 3), (0,), (1, 3))
SIZES = ((40, 33), (33, 48), (41, 41), (36, 50), (50, 37))
KEPT = 6  # channels of each layer of the first weights that are not zero: what stays zero takes no room in an archive

ENGINE: dict[str, Any] = {"save_every": 2, "log_every": 1, "workers": 0, "accelerator": "cpu", "quiet": True, "val": ""}
START = {"backbone": "tiny", "weights": "start.safetensors"}
AEPSL = {
    **START, "channels": 8, "dilation": 2, "crop": 32, "batch": 2, "standardize": True, "classifier_epochs": 10, "epochs": 3,
    "optimizer": "adamw", "lr": 0.003, "head_lr": 0.015, "relative": True, "background_weight": 0.7, "threshold": 0.0,
    "crf_iterations": 2, "crf_gaussian": (0.02, 1.0), "crf_bilateral": (0.02, 9.0, 9.0),
}  # fmt: skip
PDSL = {
    **START, "channels": 8, "width": 8, "mask_channels": 8, "n_refine": 2, "n_mask": 2, "n_seed": 2, "proposals": "grid",
    "count": 30, "scales": (33, 40), "longest": 64, "batch": 2, "steps": 5, "test_scales": (33,), "cue_side": 40,
    "threshold": 0.2, "levels": (4, 5), "standardize": True,
}  # fmt: skip
R2IOS = {
    **START, "frozen": 0, "channels": 8, "mask_channels": 8, "mask_size": 6, "code": 8, "width": 8, "iterations": 2,
    "proposals": "grid", "count": 100, "rois": 8, "scale": 33, "longest": 48, "batch": 2, "steps": 5, "gate_steps": 5,
    "undecided": "keep",
}  # fmt: skip
# name of the training -> method, stage whose third step is the last before the kill, settings
TRAININGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "aepsl": ("aepsl", "segmentation0", {**AEPSL, "rounds": 2, "plus": 1}),
    "aepsl-masks": (
        "aepsl", "segmentation0",
        {**AEPSL, "rounds": 1, "plus": 0, "masks": "given", "label_branch": False, "head": "fcn", "crf": False},
    ),
    "cam": (
        "cam", "classifier",
        {**START, "crop": 32, "batch": 2, "epochs": 1.5, "lr": 0.01, "head_lr": 0.01, "min_score": 0.0, "objects": "proposal",
         "proposals": "grid", "count": 30, "cue_side": 40, "label_loss": "squared"},
    ),
    "pdsl": ("pdsl", "pdsl", {**PDSL, "frozen": 0, "freeze_norm": False, "start_from": "runs/cam/cam"}),
    "pdsl-cached": ("pdsl", "pdsl", {**PDSL, "frozen": 5, "cache_features": True, "crop": 1.0, "jitter": 1.0, "head_lr": 0.05}),
    "biopt": (
        "biopt", "episodes",
        {**START, "side": 33, "steps": 5, "batch": 2, "known": 2, "pairs": 6, "test_scales": (1.0,), "folds": 4, "fold": 0},
    ),
    "maskrcnn": (
        "maskrcnn", "detector",
        {**START, "frozen": 0, "stride": 16, "channels": 8, "width": 8, "mask_channels": 8, "proposals": 20, "rois": 8,
         "scale": 33, "longest": 48, "batch": 2, "steps": 5, "warmup": 0, "min_score": 0.0, "weight_decay": 0.0},
    ),
    "r2ios": ("r2ios", "gate", {**R2IOS, "optimizer": "adamw"}),
    "r2ios-retrained": ("r2ios", "", {**R2IOS, "gate_steps": 0, "masks_from": "runs/cam/cam"}),
    "r2o": (
        "r2o", "pretrain",
        {**START, "output_stride": 16, "side": 48, "segments": 9, "clusters": (6, 2), "chunk": 2, "mask_side": 6, "hidden": 16,
         "width": 8, "batch": 4, "epochs": 2.5, "parts_side": 48},
    ),
}  # fmt: skip


# -- data --------------------------------------------------------------------------------------------------------------------


def draw(folder: Path) -> None:
    """Noise with a coloured block for each class, with every label, in the layout of VOC."""
    random = np.random.default_rng(0)
    names: dict[str, list[str]] = {"train": [], "val": []}
    for split, shown in (("train", TRAIN), ("val", VAL)):
        for number, labels in enumerate(shown):
            names[split].append(f"{split}{number}")
            draw_one(folder, f"{split}{number}", labels, SIZES[number % len(SIZES)], random)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    for kind in ("Main", "Segmentation"):
        (folder / "ImageSets" / kind).mkdir(parents=True)
        for split, listed in names.items():
            (folder / "ImageSets" / kind / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed))


def draw_one(folder: Path, name: str, labels: tuple[int, ...], size: tuple[int, int], random: np.random.Generator) -> None:
    pixels, mask, ids = random.integers(110, 140, (*size, 3), dtype=np.uint8), np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    root = ElementTree.Element("annotation")
    for number, label in enumerate(labels, 1):
        top, left = 4 + 3 * label, 1 + 8 * label
        block = np.s_[top : top + 16, left : left + 7]
        pixels[block], mask[block], ids[block] = COLOURS[label], label + 1, number
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = CLASSES[label]
        box = ElementTree.SubElement(item, "bndbox")
        for key, value in (("xmin", left + 1), ("ymin", top + 1), ("xmax", left + 7), ("ymax", top + 16)):
            ElementTree.SubElement(box, key).text = str(value)
    for kind, array in (("JPEGImages", pixels), ("SegmentationClass", mask), ("SegmentationObject", ids)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{name}.png")
    (folder / "Annotations").mkdir(exist_ok=True)
    ElementTree.ElementTree(root).write(folder / "Annotations" / f"{name}.xml")


def start_weights(path: Path) -> None:
    """First weights of the smallest backbone in which all but KEPT channels of every layer are zero, and so stay zero."""
    torch.manual_seed(0)
    state = backbone.build("tiny").body.state_dict()
    for name, value in state.items():
        if value.ndim and not name.endswith("running_var"):
            value[KEPT:] = 0
        if value.ndim == 4 and value.shape[1] > 3:
            value[:, KEPT:] = 0
            value *= (value.shape[1] / KEPT) ** 0.5
    save_file({name: value.contiguous() for name, value in state.items()}, path)


# -- runs --------------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a training as abruptly as a signal does."""


@contextlib.contextmanager
def killed_after(stage: str, last: int = 3) -> Iterator[None]:
    """Ends the training when it has logged that step; its checkpoint is from the step before."""
    log_step = engine.Run._log_step

    def log_and_die(self: engine.Run, name: str, step: int, *rest: Any) -> str:
        said = log_step(self, name, step, *rest)
        if (name, step) == (stage, last):
            raise Killed
        return said

    with mock.patch.object(engine.Run, "_log_step", log_and_die), contextlib.suppress(Killed):
        yield
        raise AssertionError(f"the stage {stage} was never reached")


def train(name: str, out: str) -> Path:
    method, _, settings = TRAININGS[name]
    frugalseg.train(method, "data", **{**settings, **ENGINE, "out": out, "name": name})
    return Path(out) / method / name


def make_runs(name: str) -> None:
    """A finished run, scored, with what it predicts; and the same run killed in the middle of a stage."""
    method, stage, _ = TRAININGS[name]
    finished = train(name, "runs")
    if stage:
        with killed_after(stage):
            train(name, "half")
        shutil.copytree(f"half/{method}/{name}", f"resumed/{method}/{name}")
        assert_equal(train(name, "resumed"), finished)
        shutil.rmtree("resumed")
    options = ["--episodes", "20", "--seeds", "2"] if method == "biopt" else []
    if method == "r2o":  # the command stops at the report of a run of r2o, a fault of that commit
        frugalseg.evaluate(frugalseg.load(finished), "data", quiet=True)
    else:
        command("evaluate", finished, "data", "--quiet", *options)
    if method in ("aepsl", "cam", "pdsl"):
        command("evaluate", finished, "data", "--quiet", "--tags", "ground-truth")
    if method == "pdsl":
        command("evaluate", finished, "data", "--quiet", "--proposals", "random")
    options = ["--split", "val", "--min-score", "0", "--quiet", "--no-overlays"]
    command("predict", finished, "data", "--out", f"predicted/{name}", *options)
    shutil.rmtree(finished / "predictions", ignore_errors=True)
    (finished / "report.html").unlink(missing_ok=True)
    masks = [np.asarray(Image.open(path)) for path in Path("predicted", name).rglob("*.png")]
    shown = {int(number) for mask in masks for number in np.unique(mask)}
    assert len(shown) > 1, f"{name} predicts nothing but {shown}"


def assert_equal(run: Path, other: Path) -> None:
    """That the same version resumes to the same bytes: else the fixture would ask for what never was."""
    arrays = [path.relative_to(other) for path in other.rglob("*") if path.suffix in (".safetensors", ".npz")]
    assert arrays
    for path in arrays:
        first, second = tensors(run / path), tensors(other / path)
        assert first.keys() == second.keys(), path
        assert all(np.array_equal(first[key], second[key]) for key in first), path
    assert [line.get("losses") for line in engine.read_log(run)] == [line.get("losses") for line in engine.read_log(other)]


def tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    with np.load(path) as arrays:
        return dict(arrays)


def command(*words: object, expected: int = 0) -> str:
    """Runs a command as typed; what it printed."""
    sys.argv = ["frugalseg", *map(str, words)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = cli.main()
    assert status == expected, (words, status, printed.getvalue())
    return printed.getvalue()


# -- region cache ------------------------------------------------------------------------------------------------------------

REGIONS = {
    "slic": '{"segments": 20}',
    "boundary_connectivity": "{}",
    "proposals": "{}",
    "grid": '{"count": 30}',
    "random": '{"count": 30}',
}


def make_cache() -> None:
    """Regions of the images of `val`, and the foreground that CAM and PDSL ask GrabCut for."""
    for tool, arguments in REGIONS.items():
        said = command("regions", tool, "data", "--split", "val", "--cache", "cache", "--arguments", arguments)
        assert f"{len(VAL)} made, 0 there before" in said
    with mock.patch.dict(os.environ, FRUGALSEG_CACHE="cache"):
        command("predict", "runs/cam/cam", "data", "--split", "val", "--out", "ignored", "--quiet", "--no-overlays")
        command("regions", "slic", "data", "--split", "val", "--square", "48", "--arguments", '{"segments": 9}')
    shutil.rmtree("ignored")
    assert any("grabcut" in path.name for path in Path("cache").iterdir())


# -- benchmark cell ----------------------------------------------------------------------------------------------------------


def make_cell() -> None:
    """A plan of one cell, trained and scored by `benchmarks.cells`."""
    method, _, settings = TRAININGS["cam"]
    lines = config._plain({**settings, **ENGINE})
    Path("cell").mkdir()
    config.save("cell/cam_toys.yaml", {key: value for key, value in lines.items() if key not in ("val", "quiet")})
    bench = Bench("toys", "Blocks.", str(Path("cell/cam_toys.yaml").absolute()), "train", "train", "val", seeds=(0,))
    plan = Plan(method, (bench,), (Variant("plain", (Row("found"), Row("told", tags="given"))),), ())
    places = {"PLANS": (plan,), "RESULTS": Path("cell/results"), "RUNS": Path("cell/runs")}
    with mock.patch.multiple(cells, **places, DATA={"toys": lambda: Path("data")}):
        (cell,) = plan.cells()
        cells.measure(cell, quiet=True)
        assert cells.state(cell, {}) == "finished"
    for drawn in Path("cell/runs").rglob("predictions"):
        shutil.rmtree(drawn)


# -- command line ------------------------------------------------------------------------------------------------------------

FLAG = re.compile(r"^  (--[a-z][\w-]*)(?:, (--no-[\w-]+))?(.*)$")
RUN, OBJECTS, FEW = "runs/aepsl/aepsl", "runs/r2ios/r2ios", "runs/biopt/biopt"
IMAGE = "data/JPEGImages/val0.png"
CALLS = [
    *([], ["--help"], ["-h"], ["help"], ["--version"], ["methods"], ["methods", "--debug"], ["methods", "all"]),
    *(["trian", "data"], ["check", "data"], ["check"], ["check", "nothing"], ["check", "data", "--layout", "images"]),
    *(["check", "data", "--layout", "x"], ["check", "broken"]),
    *(["check", "data", "--skip-limit", "many"], ["check", "data", "--skip-limt", "1"]),
    *(["train"], ["train", "aepsl", "nothing"], ["train", "none", "data"], ["train", "aepsl", "data", "--rounds", "0"]),
    *(["train", "aepsl", "data", "--name", "../../out"], ["train", "data", "--config", "none.yaml"]),
    *(["train", "--resume", "none"], ["train", "--resume", RUN, "--quiet"]),
    *(["train", "aepsl", "data", "--split", "none"], ["train", "a", "b", "c"]),
    ["train", "cam", "data", "--config", "cell/cam_toys.yaml", "--val", "", "--dry-run", "--name", "dry", "--quiet"],
    *(["train", "r2o", "data", "--batch", "64"], ["train", "cam", "data", "--weights", "none.pth"]),
    *(["evaluate", RUN, "data", "--quiet"], ["val", OBJECTS, "data", "--quiet"]),
    ["test", FEW, "data", "--quiet", "--episodes", "5"],
    *(["evaluate", RUN], ["evaluate", "none", "data"], ["evaluate", RUN, "nothing"], ["evaluate", RUN, "data", "--split", "x"]),
    *(["evaluate", RUN, "data", "--tags", "some"], ["evaluate", RUN, "data", "--quiet", "true"]),
    *(["evaluate", RUN, "data", "--proposals", "grid"], ["evaluate", "half/cam/cam", "data"]),
    ["predict", RUN, IMAGE, "--out", "out/masks", "--quiet"],
    ["predict", OBJECTS, IMAGE, "--out", "out/objects", "--min-score", "0", "--tile", "32", "--quiet"],
    ["predict", OBJECTS, "data", "--split", "val", "--tags", "given", "--out", "out/given", "--quiet"],
    *(["predict", RUN, "nothing"], ["predict", RUN], ["predict", RUN, IMAGE, "--tile", "-1"], ["predict", RUN, IMAGE, IMAGE]),
    ["predict", RUN, IMAGE, "data/classes.txt", "--out", "out/bad"],
    ["segment", "data", IMAGE, "--model", FEW, "--split", "train", "--out", "out/segmented", "--quiet", "--no-advice"],
    [
        "segment", "data", IMAGE, "--weights", "start.safetensors", "--backbone", "tiny", "--level", "4", "--split", "train",
        "--out", "out/free", "--quiet",
    ],
    *(["segment", "data"], ["segment", "data", "nothing", "--model", FEW], ["segment", "data", IMAGE, "--model", RUN]),
    ["objects", IMAGE, "--model", "runs/r2o/r2o", "--out", "out/found", "--quiet"],
    ["objects", IMAGE, "--backbone", "tiny", "--output-stride", "16", "--parts-side", "64", "--out", "out/random", "--quiet"],
    *(["objects", "data", "--model", "runs/r2o/r2o", "--score", "--split", "val", "--quiet"], ["objects"]),
    *(["objects", "data", "--score", "--out", "x"], ["objects", "data", "--split", "val"], ["objects", IMAGE, "--model", RUN]),
    *(["backbone", "runs/r2o/r2o", "out/net.pth"], ["backbone", RUN], ["backbone", RUN, "out/net.pth", "--to", "caffe"]),
    *(["regions", "slic", "data", "--cache", "out/cache"], ["regions", "slci", "data"], ["regions", "slic"]),
    *(["regions", "slic", "data", "--arguments", '{"sgments": 2}'], ["regions", "slic", "nothing"]),
    *(["shapes", "out/shapes", "--train", "2", "--val", "1", "--test", "0", "--size", "48"], ["shapes"], ["shapes", "data"]),
    *(["demo", "a", "b"], ["demo", "out/demo", "--size", "big"]),
]  # fmt: skip


def help_of(*words: str) -> dict[str, Any]:
    """The options that a command's help lists: the switch that turns each off, its type and its default."""
    options: dict[str, Any] = {}
    flag = ""
    for line in command(*words, "--help").splitlines():
        match = FLAG.match(line)
        if match:
            flag = match[1]
            options[flag] = {"off": match[2], "text": match[3]}
        elif flag and line.startswith("   "):
            options[flag]["text"] += " " + line.strip()
    return {name: described(**option) for name, option in options.items()}


def described(off: str | None, text: str) -> dict[str, Any]:
    """The end of an option's help, such as `(type: int, default: 3)`."""
    match = re.search(r"\((?:type: (.*?), )?default: ([^()]*(?:\([^()]*\))?[^()]*)\)\s*$", text)
    return {"off": off, "type": match and match[1], "default": match and match[2]}


def call(words: list[str]) -> dict[str, Any]:
    """The exit status of a command, and the files it wrote."""
    before = set(Path().rglob("*"))
    sys.argv = ["frugalseg", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = cli.main()
    paths = [path.as_posix() for path in set(Path().rglob("*")) - before if path.is_file()]
    written = sorted({re.sub(r"-[0-9a-f]{8}/", "-HASH/", path) for path in paths if "cache/" not in path})
    return {"words": words, "status": status, "written": written}


def make_commands() -> dict[str, Any]:
    return {
        "public": sorted(frugalseg.__all__),
        "methods": {name: {"needs": sorted(method.needs), "makes": method.makes} for name, method in METHODS.items()},
        "commands": {name: help_of(name) for name in cli.COMMANDS},
        "train": {name: help_of("train", name) for name in METHODS},
        "settings": {name: settings_of(name) for name in METHODS},
        "problems": {name: code.severity for name, code in CODES.items()},
        "calls": [call(words) for words in CALLS],
    }


def settings_of(method: str) -> dict[str, Any]:
    """Every key of the method's YAML with its default."""
    from frugalseg.training import kinds

    return {name: config._plain(option.default) for name, option in config.options(*kinds(METHODS[method])).items()}


# -- what is kept ------------------------------------------------------------------------------------------------------------


def made_on() -> dict[str, Any]:
    """What decides the last bit of a result: libraries, and the instructions that the processor knows."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    known = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    flags = sorted(flag for flag in known["flags"].split() if re.match(r"avx|amx|fma|sse|f16c|bmi", flag))
    return {
        "commit": "5d7d129",
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "processor": {
            "machine": platform.machine(), "model": known["model name"], "flags": flags,
            "capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
        },
    }  # fmt: skip


def rows_of_results() -> list[list[str]]:
    """The numbers in each line of the tables of docs/results.md."""
    root = Path(cli.__file__).parents[2]
    lines = (root / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    return [numbers for line in lines if line.startswith("|") and (numbers := re.findall(r"\d+(?:[.,]\d+)*", line))]


def pack(name: str, *folders: str) -> None:
    """The files below these folders, or these files, as one archive; none may name this machine."""
    with tarfile.open(HERE / f"{name}.tar.xz", "w:xz", preset=9 | lzma.PRESET_EXTREME) as archive:
        for path in sorted(path for folder in folders for path in [Path(folder), *Path(folder).rglob("*")] if path.is_file()):
            content = path.read_bytes()
            assert not any(part in content for part in (os.getcwd().encode(), str(Path.home()).encode() + b"/")), path
            entry = tarfile.TarInfo(path.as_posix())
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_json(name: str, value: Any) -> None:
    """JSON with a line for each innermost list or mapping."""
    long = json.dumps(value, indent=1, sort_keys=True)
    text = re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), long)
    assert json.loads(text) == json.loads(json.dumps(value))
    (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(cli.__file__).parent, capture_output=True, text=True).stdout
    assert commit.startswith("5d7d129"), f"expected the sources of commit 5d7d129, got {commit}"
    rows = rows_of_results()
    os.environ["FRUGALSEG_CACHE"] = "own-cache"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        draw(Path("data"))
        start_weights(Path("start.safetensors"))
        Path("broken").mkdir()
        Path("broken/a.png").write_bytes(b"no image")
        for name in TRAININGS:
            make_runs(name)
        make_cache()
        make_cell()
        pack("data", "data", "broken", "start.safetensors")
        pack("cache", "cache")
        pack("cell", "cell")
        for name, (method, *_) in TRAININGS.items():
            pack(name, f"runs/{method}/{name}", f"half/{method}/{name}", f"predicted/{name}")
        write_json("commands", make_commands())
    write_json("made_on", made_on())
    write_json("results", rows)


if __name__ == "__main__":
    main()
