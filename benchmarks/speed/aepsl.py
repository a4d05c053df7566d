"""Speed and peak memory of AE-PSL by configs/aepsl_small.yaml: `python -m benchmarks.speed.aepsl` writes aepsl.json beside it.

Every measurement is a separate process, so that its peak memory is that of the measurement. The images are drawn, the weights
random: neither changes the work that is done.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paths import ROOT
from benchmarks.speed.harness import alone, entry, save, show

RECIPE, FILE = ROOT / "configs" / "aepsl_small.yaml", Path(__file__).with_suffix(".json")
CLASSES = 21  # of VOC with background, for the CRF
CRF_SIZE = 375, 500  # of a VOC photo
TRAINING_LIMIT, PREDICTION_LIMIT = 3000, 2000  # MB


def training(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One short training of every stage."""
    import frugalseg
    from frugalseg import config
    from frugalseg.data import shapes
    from frugalseg.engine.log import read_log

    data = shapes.write(folder / "data", options.pictures, val=1, test=0, size=options.side, quiet=True)
    settings = {**config.read(RECIPE), "weights": None, "rounds": 1, "plus": 0, "log_every": 2, "quiet": True}
    epochs = options.steps * settings["batch"] / options.pictures
    settings |= {"classifier_epochs": epochs, "epochs": epochs, "out": str(folder), "name": "run"}
    frugalseg.train("aepsl", data, **settings)
    log = read_log(folder / "aepsl" / "run")
    how = f"aepsl_small, batch {settings['batch']}, crop {settings['crop']}, {options.pictures} images of {options.side} pixels"
    (mining,) = (line for line in log if line.get("stage") == "regions0" and line.get("event") == "done")
    return [
        entry("classifier training", pace(log, "classifier0"), "images/s", how),
        entry("CAM mining", mining["items"] / max(mining["seconds"], 0.01), "images/s", how),
        entry("segmentation training", pace(log, "segmentation0"), "images/s", how),
        memory("training", f"{how}; its largest reader process apart: {readers()} MB", TRAINING_LIMIT),
    ]


def pace(log: list[dict[str, Any]], stage: str) -> float:
    """Images a second of a stage: the median over its log lines, so that the first steps do not count for more."""
    return statistics.median(line["images_per_second"] for line in log if line.get("stage") == stage and "step" in line)


def prediction(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One large photo, with CRF, by the network that `training` left."""
    import torch
    from PIL import Image

    import frugalseg

    width, height = options.photo
    coarse = torch.rand(height // 50 + 1, width // 50 + 1, 3).mul(255).to(torch.uint8)
    Image.fromarray(coarse.numpy()).resize((width, height)).save(folder / "photo.jpg")
    del coarse
    model: Any = frugalseg.load(folder / "aepsl" / "run")
    begin = time.perf_counter()
    (prediction,) = model.predict(folder / "photo.jpg")
    seconds = time.perf_counter() - begin
    assert prediction.semantic.shape == (height, width)
    how = f"one photo of {width} × {height} pixels, with CRF"
    return [entry("prediction", seconds, "s", how), memory("prediction", how, PREDICTION_LIMIT)]


def crf(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The DenseCRF of one photo; crf.py compares it with another implementation."""
    import torch

    from frugalseg.data import shapes
    from frugalseg.regions.crf import dense_crf

    image = torch.nn.functional.interpolate(shapes.draw(0, 0).image[None].float(), options.crf_size)[0].round().to(torch.uint8)
    image = image.as_subclass(torch.Tensor)
    scores = torch.nn.functional.interpolate(torch.randn(1, CLASSES, 24, 32), options.crf_size, mode="bilinear")[0].softmax(0)
    how = f"{CLASSES} classes, {options.crf_size[1]} × {options.crf_size[0]} pixels, 10 iterations, median of 3"
    return [entry("DenseCRF", median(lambda: dense_crf(image, scores)), "s", how)]


def median(work: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def memory(what: str, how: str, limit: int) -> dict[str, Any]:
    from frugalseg.engine.log import peak_memory

    return entry(f"{what}: peak memory", peak_memory(), f"MB, at most {limit}", how)


def readers() -> int:
    """Peak memory of the largest process that this one started and that has ended, in MB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


MEASURES = {"training": training, "prediction": prediction, "crf": crf}


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    def size(text: str) -> tuple[int, int]:
        width, height = map(int, text.split("x"))
        return width, height

    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.aepsl", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=48, help="to train on")
    parser.add_argument("--side", type=int, default=480, help="of the training images, in pixels")
    parser.add_argument("--steps", type=int, default=20, help="of each training stage")
    parser.add_argument("--photo", type=size, default=(4000, 3000), metavar="WxH", help="size of the photo that is predicted")
    parser.add_argument("--crf-size", type=int, nargs=2, default=CRF_SIZE, metavar=("H", "W"))
    parser.add_argument("--out", type=Path, default=FILE, help="the JSON file")
    parser.add_argument("--measure", choices=MEASURES, help="do this one measurement in this process and print it")
    parser.add_argument("--folder", type=Path, help="where that measurement works")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options, typed = arguments(words), list(sys.argv[1:] if words is None else words)
    if options.measure:
        options.crf_size = tuple(options.crf_size)
        print(json.dumps(MEASURES[options.measure](options.folder, options)))
        return 0
    measures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in MEASURES:
            measures += alone("benchmarks.speed.aepsl", *typed, "--measure", name, "--folder", folder)
    show(measures)
    save(options.out, "AE-PSL", measures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
