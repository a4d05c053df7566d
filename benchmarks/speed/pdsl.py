"""What a training step of PDSL costs: time, GrabCut's share of it, peak memory with 2,000 proposals.

    python -m benchmarks.speed.pdsl [--pictures 40] [--passes 3] [--proposals 2000] [--vgg-side 480] [--largest] | --quick

Time is that of configs/pdsl_small.yaml on drawn images. It is trained twice: bit-equal trainings ask GrabCut for the same
boxes, so the second finds all of them in the cache. Weights are random: how many proposals count as foreground, whose masks the
small recipe learns, is not what it is with weights of ImageNet. Every measurement is a process of its own, so that its peak
memory is its own. Writes pdsl.json beside this file; --quick, whose network and images are tiny, writes nothing.
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
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.paths import ROOT
from benchmarks.speed.harness import alone, entry, peak, random_image, save, show

FILE = Path(__file__).with_suffix(".json")
SMALL, PAPER = ROOT / "configs" / "pdsl_small.yaml", ROOT / "configs" / "pdsl_voc12.yaml"
SHARE, LIMIT = 10, 8000  # per cent of a step in GrabCut with a warm cache, and MB of a step of VGG-16: the goals
TINY = {"backbone": "tiny", "level": 0, "levels": (), "frozen": 5, "width": 8, "channels": 8, "mask_channels": 8, "cue_side": 48}
QUICK = TINY | {"proposals": "grid", "count": 40, "scales": (64,), "test_scales": (64,), "longest": 96, "workers": 0}


# -- time --------------------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """A training step. begin: when its forward pass began. cue: seconds of it in the cue."""

    begin: float
    cue: float = 0.0


@contextmanager
def watched() -> Iterator[list[Step]]:
    """A list that grows by the training steps of PDSL meanwhile."""
    from frugalseg.methods.pdsl import PDSL
    from frugalseg.regions.cues import GrabCut

    steps: list[Step] = []
    forward, call = PDSL.forward, GrabCut.__call__

    def stepped(*inputs: Any) -> Any:
        steps.append(Step(time.perf_counter()))
        return forward(*inputs)

    def asked(*inputs: Any) -> Any:
        begin = time.perf_counter()
        masks = call(*inputs)
        steps[-1].cue += time.perf_counter() - begin
        return masks

    with patch.object(PDSL, "forward", stepped), patch.object(GrabCut, "__call__", asked):
        yield steps


def rows(steps: Sequence[Step], name: str, how: str, goal: str = "") -> list[dict[str, Any]]:
    """Seconds of a step, from one forward pass to the next, and the cue's share of all; the last one ends nowhere."""
    spans = [after.begin - before.begin for before, after in pairwise(steps)]
    share = 100 * sum(step.cue for step in steps[:-1]) / sum(spans)
    return [
        entry(f"a step, {name}", statistics.mean(spans), "s", f"{how}, mean of {len(spans)} steps"),
        entry(f"GrabCut's share, {name}", share, f"% of the time{goal}", f"{how}, {len(spans)} steps"),
    ]


def training(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The first pass, of images never seen; later ones, whose boxes move as the network learns; all of it again."""
    import frugalseg
    from frugalseg import config
    from frugalseg.data import shapes

    settings = config.read(SMALL) | {"weights": None} | (QUICK if options.quick else {})
    first = options.pictures // settings["batch"]
    settings |= {"steps": options.passes * first + 1, "warmup": 0, "quiet": True, "val": "", "split": "Main/train"}
    how = f"pdsl_small, batch {settings['batch']}, {options.pictures} drawn images of {options.side} pixels"
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, FRUGALSEG_CACHE=str(Path(folder) / "cache")):
        data = shapes.write(Path(folder) / "data", options.pictures, val=0, test=0, size=options.side, quiet=True)
        turns = []
        for name in ("cold", "warm"):
            with watched() as steps:
                frugalseg.train("pdsl", data, **settings, out=folder, name=name)
            turns.append(steps)
    cold, warm = turns
    return [
        *rows(cold[: first + 1], "cold cache", f"{how}, first pass"),
        *rows(cold[first:], "later passes", f"{how}, passes 2 to {options.passes}: some boxes were asked for before"),
        *rows(warm[1:], "warm cache", f"{how}, every box was asked for before", f", at most {SHARE}"),
    ]


# -- memory ------------------------------------------------------------------------------------------------------------


def item(config: Any, classes: int, count: int, device: str) -> dict[str, Any]:
    """A random image, 4:3, at the smallest of the recipe's scales, with two tags and `count` random proposals."""
    import torch

    from frugalseg.data.transforms import shrink

    size = min(config.scales), round(min(config.scales) * 4 / 3)
    (image, boxes), tags = random_image(size, count), torch.zeros(classes)
    tags[:2] = 1
    tensors = {"image": image, "tags": tags, "proposals": boxes, "original_proposals": boxes, "cropped_proposals": boxes}
    others = {"name": "random", "size": size, "original_size": size, "flip": False}
    others["cue_image"] = shrink(image, config.cue_side).numpy()
    return {name: value.to(device) for name, value in tensors.items()} | others


def memory(recipe: Path, what: str, images: int, goal: str, options: argparse.Namespace, **changes: Any) -> list[dict[str, Any]]:
    """Two whole steps, since the optimiser takes memory from the end of the first one."""
    import torch

    from frugalseg import config as files
    from frugalseg.methods import pdsl
    from frugalseg.nets import optim
    from frugalseg.regions import cues

    fields = pdsl.Config.__dataclass_fields__
    settings = {name: value for name, value in files.read(recipe).items() if name in fields} | {"weights": None} | changes
    settings |= {name: value for name, value in QUICK.items() if name in fields} if options.quick else {}
    config = replace(pdsl.Config(), **settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classes = [f"class {number}" for number in range(20)]
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, FRUGALSEG_CACHE=folder):
        network = pdsl.build(config, classes).to(device).train()
        network.cue = cues.cue_from_config(config)
        optimizer = optim.two_rates_free_biases(config, network, network.backbone, config.fan_in)
        for _ in range(2):
            optimizer.zero_grad()
            batch = [item(config, len(classes), options.proposals, device) for _ in range(images)]
            torch.stack([*network(batch).values()]).sum().backward()
            optimizer.step()
    number = f"{images} image{'s' if images > 1 else ''} with {options.proposals:,} proposals each"
    where = "of the GPU" if device == "cuda" else "of the whole process"
    how = f"{number}, shorter side {min(config.scales)}, two steps, {where}"
    return [entry(f"training memory, {what}", peak(), f"MB{goal}", how)]


def vgg(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The paper's recipe with VGG-16, one image, as each of its four GPUs has."""
    sides = {"scales": (options.vgg_side,)}
    return memory(PAPER, "VGG-16", 1, f", at most {LIMIT}", options, **sides)


def largest(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same at the largest of the paper's scales."""
    from frugalseg.recipes.pdsl import Config

    sides = {"scales": (max(Config().scales),)}
    return memory(PAPER, "VGG-16 at the largest scale", 1, f", at most {LIMIT}", options, **sides)


def small(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A batch of the small recipe, its frozen backbone computed and not read from disk."""
    return memory(SMALL, "pdsl_small", 4, "", options, cache_features=False)


# -- all -----------------------------------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "training": training,
    "vgg": vgg,
    "largest": largest,
    "small": small,
}


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=40, help="to train on, a multiple of the recipe's batch of 4")
    parser.add_argument("--side", type=int, default=440, help="of the training images, in pixels")
    parser.add_argument("--passes", type=int, default=3, help="over them, at least 2")
    parser.add_argument("--proposals", type=int, default=2000, help="of an image, where memory is measured")
    parser.add_argument("--vgg-side", type=int, default=480, help="shorter side of VGG-16's image (paper: 480 to 1,216)")
    parser.add_argument("--largest", action="store_true", help="VGG-16 at a shorter side of 1,216 too: minutes on a CPU")
    parser.add_argument("--quick", action="store_true", help="four small images, a tiny network, 300 proposals")
    parser.add_argument("--out", type=Path, default=FILE, help="the JSON file")
    parser.add_argument("--measure", choices=MEASURES, help="do this one measurement in this process and print it")
    options = parser.parse_args(words)
    if options.quick:
        options.pictures, options.side, options.passes, options.proposals = 4, 64, 2, 300
    if options.passes < 2 or options.pictures % 4:
        parser.error("expected at least 2 passes over a multiple of 4 images")
    return options


def main(words: Sequence[str] | None = None) -> int:
    options, typed = arguments(words), list(sys.argv[1:] if words is None else words)
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options)))
        return 0
    measures: list[dict[str, Any]] = []
    for name in (name for name in MEASURES if name != "largest" or options.largest):
        measures += alone("benchmarks.speed.pdsl", *typed, "--measure", name)
    show(measures)
    if not options.quick:
        save(options.out, "PDSL in training", measures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
