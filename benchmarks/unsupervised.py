"""What a backbone tells of objects and regions before it has seen a label: foregrounds of voc20, human regions of bsds500.

    python -m benchmarks.unsupervised                                     # random numbers and ImageNet weights
    python -m benchmarks.unsupervised --only none --run r2o=runs/r2o/pretrained

Every backbone is measured by the settings in MEASURED, whatever its training used, and ends in one JSON file; one whose file
exists is skipped. Nothing is learned here. `python -m benchmarks.page` prints the files.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import datasets, paths, results
from benchmarks.datasets import MissingData
from benchmarks.statistics import mean_interval
from frugalseg import config, data, rle
from frugalseg.inference.predictor import Predictor, load
from frugalseg.methods import METHODS
from frugalseg.methods.r2o import best_overlaps, stack, whole_and_regions
from frugalseg.metrics.foreground import PROTOCOLS
from frugalseg.progress import track
from frugalseg.recipes.r2o import Config
from frugalseg.regions.cache import Cache
from frugalseg.rle import RLE
from frugalseg.tasks import foreground
from frugalseg.workflows.run_folder import read_run_info

FOLDER = "r2o/unsupervised"  # of the results
VAL = "Segmentation/val"
CLUSTERS = (128, 16, 4)  # of a chunk of images: the first of the curriculum, one in between, the last
MEASURED: dict[str, Any] = {
    "parts": 5, "parts_level": "fine", "parts_side": 448, "prior": "slic", "segments": 100, "side": 224, "mask_side": 224,
    "refine": "features", "refine_norm": "running", "chunk": 32, "iterations": 50,
}  # fmt: skip
REGIONS = (
    "Average best overlap (IoU) of the segments of each human map with the regions, resized to the image: mean over the segments "
    "of a map, the maps of an image, the images. Regions are merged at the size of the superpixels, 224 pixels, not at the 14 "
    "cells a side of a training's feature maps; images are clustered in chunks of 32 in the order of their names."
)
MOBILE = {"backbone": "mobilenet_v2", "levels": (14, 18)}


@dataclass(frozen=True)
class Start:
    """What is measured: random numbers (of `seed`), a file of weights below the folder of photos, or a run.

    knowledge: what the weights have learned from, "none" for random numbers.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    run: str = ""
    seed: int = 0
    knowledge: str = "none"

    @property
    def file(self) -> Path:
        return paths.RESULTS / FOLDER / f"{self.name}-seed{self.seed}.json"


STARTS = (
    *(Start("random-tiny-8", {"backbone": "tiny", "output_stride": 8}, seed=seed) for seed in (0, 1, 2)),  # as r2o_cpu.yaml
    *(
        Start(f"random-{settings['backbone']}", settings, seed=seed)
        for settings in ({"backbone": "tiny", "output_stride": 16}, {"backbone": "resnet18"}, MOBILE)
        for seed in (0, 1, 2)
    ),
    Start(
        "imagenet-mobilenet_v2",
        MOBILE | {"normalize": "half"},
        "weights/mobilenet_v2_imagenet.pth",
        knowledge="1.3 million photos with their classes (ImageNet): supervised",
    ),
)


def start_of_run(word: str) -> Start:
    """The start that NAME=RUN names, with the seed and the labels of that run."""
    name, _, run = word.partition("=")
    if not run or Path(name).name != name:
        raise argparse.ArgumentTypeError(f"got {word!r}, expected NAME=RUN, such as r2o=runs/r2o/pretrained")
    try:
        seed = int(config.read(Path(run) / "config.yaml").get("seed", 0))
    except config.UsageError as error:
        raise argparse.ArgumentTypeError(f"{run} is no run: {error}") from None
    info = read_run_info(Path(run))
    labels = ", ".join(info.get("labels", ["unknown labels"])) or "no labels"
    return Start(name, run=run, seed=seed, knowledge="; ".join([labels, *info.get("extra_supervision", [])]))


# -- one start -------------------------------------------------------------------------------------------------------


def network(start: Start) -> Any:
    """The network of a start, with the settings by which all are measured."""
    if start.run:
        trained: Any = load(start.run).network
        trained.config = replace(trained.config, **MEASURED)
        return trained.eval()
    torch.manual_seed(start.seed)
    weights = str(paths.photos() / start.weights) if start.weights else None
    untrained = METHODS["r2o"].code.build(Config(**start.settings, **MEASURED, weights=weights))
    return untrained.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def foregrounds(net: Any, quiet: bool) -> dict[str, Any]:
    """The four overlaps of each photo of voc20 that is scored."""
    predictor = Predictor(METHODS["r2o"], net, net.classes)
    scores = foreground.evaluate(predictor, data.read(datasets.voc20(), split=VAL), quiet=quiet)
    return table_of(f"{scores.metric}|voc20|{VAL}|n={scores.images}", PROTOCOLS, scores.names, scores.stacked())


def regions(net: Any, quiet: bool) -> dict[str, Any]:
    """Average best overlap of human segments with superpixels, and with the regions that they are merged to."""
    images, chunk = data.read(datasets.bsds500() / "images", layout="images"), net.config.chunk
    order, values = sorted(range(len(images)), key=lambda index: images.names[index]), []
    for begin in track(range(0, len(order), chunk), "regions", math.ceil(len(order) / chunk), quiet=quiet):
        part = order[begin : begin + chunk]
        maps = label_maps(net, [images.image(index) for index in part], begin)
        for place, index in enumerate(part):
            human = human_maps(datasets.bsds500() / "labels" / f"{images.names[index]}.npz")
            values.append([best_overlap(ids[place], human) for ids in maps])
    kinds = ("superpixels", *(f"merged to {clusters}" for clusters in CLUSTERS))
    names = [images.names[index] for index in order]
    return table_of(f"abo|maps|images|bsds500|all|n={len(names)}", kinds, names, np.array(values)) | {"about": REGIONS}


def label_maps(net: Any, images: Sequence[Tensor], seed: int) -> list[Tensor]:
    """(B, h, w) ids of the superpixels, and of the regions that each number of CLUSTERS merges them to."""
    device, cache = next(net.parameters()).device, Cache()
    batch = stack([whole_and_regions(image, net.config, cache) for image in images])
    on_device = {name: value.to(device) for name, value in batch.items()}
    return [batch["regions"], *(net.label_map(on_device, clusters, [seed])[0].cpu() for clusters in CLUSTERS)]


def human_maps(file: Path) -> list[list[RLE]]:
    """The segments of each region map of an image, which different people drew, ids (H, W) from 1."""
    with np.load(file, allow_pickle=False) as maps:
        return [rle.from_ids(maps[name].astype(np.int32))[1] for name in sorted(maps.files)]


def best_overlap(ids: Tensor, maps: Sequence[list[RLE]]) -> float:
    """Mean over maps of the mean over their segments of the best overlap with a region of a label map (h, w)."""
    values = best_overlaps(ids, [segment for segments in maps for segment in segments])
    ends = np.cumsum([len(segments) for segments in maps])[:-1]
    return float(np.mean([of_map.mean() for of_map in np.split(values, ends)]))


def table_of(protocol: str, kinds: Sequence[str], names: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    """What a file keeps: of each kind of score its mean and interval, and the values (N, kinds) of every image."""
    rounded = values.round(5)
    shown = {kind: mean_interval(rounded[:, [column]]) for column, kind in enumerate(kinds)}
    return {"protocol": protocol, "images": len(names), "values": shown, "names": list(names), "rows": rounded.tolist()}


def measure(start: Start, provenance: Mapping[str, Any], quiet: bool = False) -> None:
    """Measure a start and write its file."""
    begin, net = time.perf_counter(), network(start)
    head = {"name": start.name, "seed": start.seed, "knowledge": start.knowledge, "backbone": net.config.backbone}
    head |= {"output_stride": net.config.output_stride, "levels": list(net.config.levels)}
    scores = {"foreground": foregrounds(net, quiet), "regions": regions(net, quiet)}
    seconds = round(time.perf_counter() - begin, 1)
    how = {"settings": MEASURED, "interval": "95 %, 2,000 bootstrap draws of the images"}
    results.save(start.file, {"start": head, **provenance, **how, "seconds": seconds, **scores})


# -- all starts ------------------------------------------------------------------------------------------------------


def selected(options: argparse.Namespace) -> Iterator[Start]:
    yield from (start for start in STARTS if fnmatch.fnmatch(start.name, f"*{options.only}*"))
    yield from options.run


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="starts whose name contains this; * stands for anything")
    parser.add_argument("--run", action="append", default=[], type=start_of_run, metavar="NAME=RUN", help="a run of r2o, too")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(words)
    provenance = results.provenance()
    try:
        datasets.voc20(), datasets.bsds500()
    except MissingData as error:
        print(f"not run: {error}")
        return 1
    for start in selected(options):
        print(f"{start.name}, seed {start.seed}: {finish(start, provenance, options.quiet)}", flush=True)
    return 0


def finish(start: Start, provenance: Mapping[str, Any], quiet: bool) -> str:
    """Measure a start where that is still to be done; gives what became of it, in words."""
    if start.file.exists():
        return "finished"
    if start.weights and not (paths.photos() / start.weights).is_file():
        return f"not run: {start.weights} is not in {paths.photos()}"
    measure(start, provenance, quiet)
    return str(start.file.relative_to(paths.RESULTS))


if __name__ == "__main__":
    sys.exit(main())
