"""What a training step of R2O costs beside plain BYOL's: ours, the same code with one mask, and lightly's where it is installed.

    python -m benchmarks.speed.r2o PHOTOS [--side 128] [--batch 32] [--steps 6] [--turns 3] [--device cpu] | --quick

A step is all of it: reading and cutting the photos, both networks, the optimiser, without reading processes, so that nothing
hides behind anything. The tools train in turns on the same photos and the same device, so that whatever else the machine does
hits all; superpixels are in the cache but in a first turn that is not compared. Memory is that of a separate process for each.
Writes r2o.json beside this file; --quick, with a few drawn images, writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.speed.harness import alone, entry, peak, save, show

FILE = Path(__file__).with_suffix(".json")
LIMIT = 1.3  # steps of plain BYOL that one of R2O may take: the goal
COLD, OURS, PLAIN, PEER = "R2O, no superpixels cached", "R2O", "plain BYOL", "lightly's BYOL"
WHOLE = {"prior": "whole", "refine": "none"}
HEADS = {"hidden": 1024, "width": 128}


class Clock:
    """Seconds of some functions, by name, and when steps began."""

    def __init__(self) -> None:
        self.begins: list[float] = []
        self.spent = {"kmeans": 0.0, "slic": 0.0}

    @property
    def steps(self) -> list[float]:
        """Seconds of every step but the first, which warms up, and the last, which ends nowhere."""
        return [after - before for before, after in pairwise(self.begins)][1:]

    def begin(self) -> None:
        """A step begins; a GPU has to have finished the one before."""
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.begins.append(time.perf_counter())

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            result = function(*inputs, **named)
            self.spent[name] += (time.perf_counter() - begin) * (len(self.begins) > 1)  # of the steps that count
            return result

        return call


@contextmanager
def watched() -> Iterator[Clock]:
    """A clock of the training steps of R2O meanwhile."""
    from frugalseg.methods import r2o

    clock, prepare = Clock(), r2o.R2O.prepare

    def prepared(*inputs: Any) -> Any:
        clock.begin()
        return prepare(*inputs)

    with (
        patch.object(r2o.R2O, "prepare", prepared),
        patch.object(r2o, "kmeans", clock.timed("kmeans", r2o.kmeans)),
        patch.object(r2o, "prior", clock.timed("slic", r2o.prior)),
    ):
        yield clock


def ours(options: argparse.Namespace, data: Any, **settings: Any) -> Clock:
    """A training of frugalseg."""
    import frugalseg

    epochs = (options.steps + 2) * options.batch / len(data)
    fixed = {name: getattr(options, name) for name in ("backbone", "side", "batch")} | HEADS
    fixed |= {"epochs": epochs, "workers": 0, "accelerator": options.device}
    with tempfile.TemporaryDirectory() as folder, watched() as clock:
        frugalseg.train("r2o", data, **fixed, **settings, collapse=0.0, quiet=True, val="", out=folder, name="turn")
    return clock


def peer(options: argparse.Namespace, data: Any) -> Clock:
    """A training by lightly's parts, put together as its documentation does."""
    import copy

    import torch
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
    from lightly.utils.lars import LARS
    from PIL import Image
    from torch import nn
    from torchvision.models import get_model

    torch.manual_seed(0)
    views = BYOLTransform(BYOLView1Transform(input_size=options.side), BYOLView2Transform(input_size=options.side))
    *layers, last = get_model(options.backbone).children()
    backbone = nn.Sequential(*layers, nn.Flatten())
    head = BYOLProjectionHead(last.in_features, HEADS["hidden"], HEADS["width"])
    predict = BYOLPredictionHead(HEADS["width"], HEADS["hidden"], HEADS["width"])
    student, predict = nn.Sequential(backbone, head).to(options.device), predict.to(options.device)
    teacher = copy.deepcopy(student)
    deactivate_requires_grad(teacher)
    optimizer = LARS([*student.parameters(), *predict.parameters()], lr=0.3 * options.batch / 256)
    loss, clock, order = NegativeCosineSimilarity(), Clock(), torch.randperm(len(data))
    for step in range(options.steps + 2):
        chosen = order[torch.arange(step * options.batch, (step + 1) * options.batch) % len(data)].tolist()
        pairs = [views(Image.open(data.records[index].image).convert("RGB")) for index in chosen]
        one, other = (torch.stack(images).to(options.device) for images in zip(*pairs, strict=True))
        clock.begin()
        update_momentum(student, teacher, m=0.99)
        with torch.no_grad():
            first, second = teacher(one), teacher(other)
        total = loss(predict(student(one)), second) + loss(predict(student(other)), first)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return clock


TOOLS: dict[str, Callable[[argparse.Namespace, Any], Clock]] = {OURS: ours, PLAIN: partial(ours, **WHOLE), PEER: peer}


def images(options: argparse.Namespace, folder: str) -> Any:
    """The photos, as many as a turn looks at."""
    from frugalseg.data import read, shapes

    if options.quick:
        shapes.write(Path(folder) / "data", 12, val=0, test=0, size=64, quiet=True)
    data = read(Path(folder) / "data" / "JPEGImages" if options.quick else options.photos, layout="images", verify=False)
    return data.select(range(min(len(data), (options.steps + 2) * options.batch)))


# -- what is measured ----------------------------------------------------------------------------------------------------


def turns(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of a step of each tool, and what they are beside each other in each turn."""
    tools = {name: tool for name, tool in TOOLS.items() if name != PEER or find_spec("lightly")}
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, FRUGALSEG_CACHE=str(Path(folder) / "cache")):
        data = images(options, folder)
        cold, spent = ours(options, data), []
        seconds: dict[str, list[float]] = {name: [] for name in tools}
        for _ in range(options.turns):
            for name, tool in tools.items():
                clock = tool(options, data)
                seconds[name].append(statistics.median(clock.steps))
                if name == OURS:
                    spent.append(100 * clock.spent["kmeans"] / sum(clock.steps))
    how = f"{setting(options)}, {len(data)} photos, median of {options.turns} turns"
    step = statistics.median(cold.steps)
    measures = [
        entry(f"a step, {COLD}", step, "s", f"{options.device}, one turn, median of {len(cold.steps)} steps"),
        entry("superpixels' share, none cached", 100 * cold.spent["slic"] / sum(cold.steps), "% of the time", "the same turn"),
    ]
    for name, taken in seconds.items():
        measures.append(entry(f"a step, {name}", statistics.median(taken), "s", how))
        measures.append(entry(f"images, {name}", options.batch / statistics.median(taken), "per second", how))
    measures.append(entry("K-means' share, R2O", statistics.median(spent), "% of the time", how))
    for name in (name for name in tools if name != OURS):
        ratio = statistics.median(ours / theirs for ours, theirs in zip(seconds[OURS], seconds[name], strict=True))
        goal = f", at most {LIMIT}" if name == PLAIN else ""
        measures.append(entry(f"R2O's step beside {name}'s", ratio, f"times{goal}", "median of the turns' ratios"))
    return measures


def setting(options: argparse.Namespace) -> str:
    return f"{options.device}, {options.backbone}, {options.side} pixels, batch {options.batch}"


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory of a training by one tool, in this process."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, FRUGALSEG_CACHE=str(Path(folder) / "cache")):
        TOOLS[options.memory](options, images(options, folder))
    how = f"{setting(options)}, of {'the device' if options.device == 'cuda' else 'the whole process'}"
    return [entry(f"training memory, {options.memory}", peak(), "MB", how)]


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    import torch

    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="?", help="a folder of images")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--side", type=int, default=128, help="of the views, in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6, help="of a turn, that count")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default=best, help="where all train")
    parser.add_argument("--quick", action="store_true", help="twelve drawn images of 64 pixels")
    parser.add_argument("--memory", choices=TOOLS, help="measure the memory of this one in this process and print it")
    options = parser.parse_args(words)
    if options.quick:
        options.side, options.batch, options.steps, options.turns = 64, 4, 2, 1
    elif not options.photos:
        parser.error("expected a folder of photos, or --quick")
    return options


def main(words: Sequence[str] | None = None) -> int:
    options, typed = arguments(words), list(sys.argv[1:] if words is None else words)
    if options.memory:
        print(json.dumps(memory(options)))
        return 0
    measures = turns(options)
    for name in (name for name in TOOLS if name != PEER or find_spec("lightly")):
        measures += alone("benchmarks.speed.r2o", *typed, "--memory", name)
    show(measures)
    if not options.quick:
        save(FILE, "R2O in training", measures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
