"""What a backbone says of objects and regions before it has seen a label: foregrounds of voc20, human regions of bsds500.

    python -m benchmarks.unsupervised                                     # random numbers and ImageNet weights
    python -m benchmarks.unsupervised --only none --run r2o=runs/r2o/pretrained

Every start is measured alike, by the settings in MEASURED, whatever its own training used, and ends in one JSON file; a start
whose file exists is skipped. Nothing is learned here. `python -m benchmarks.tables` prints the files.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cells import Absent, photos, voc20
from benchmarks.plan import ROOT
from frugalseg.metrics import Difference, bootstrap
from frugalseg.metrics.foreground import PROTOCOLS
from frugalseg.metrics.per_image import percent

if TYPE_CHECKING:
    from torch import Tensor

    from frugalseg.rle import RLE

FOLDER = "r2o/unsupervised"
RESULTS = ROOT / "benchmarks" / "results" / FOLDER
VAL = "Segmentation/val"
CLUSTERS = (128, 16, 4)  # of a chunk of pictures: the curriculum's beginning, a middle, its end
MEASURED: dict[str, Any] = {
    "parts": 5, "parts_level": "fine", "parts_side": 448, "prior": "slic", "segments": 100, "side": 224, "mask_side": 224,
    "refine": "features", "refine_norm": "running", "chunk": 32, "iterations": 50,
}  # fmt: skip
FOREGROUNDS = (
    "Overlap (IoU) of the one part of each photo that is said to be the object with all that is annotated, and the mean of that "
    "with the background's; the oracle picks the part by the truth. Mean over photos."
)
REGIONS = (
    "Average best overlap (IoU) of the segments of each human map with the regions, stretched over the picture: mean over the "
    "segments of a map, the maps of a picture, the pictures. Regions are merged at the size of the superpixels, 224 pixels, not "
    "at the 14 cells a side that a training looks at; pictures are clustered in chunks of 32 in the order of their names."
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
        return RESULTS / f"{self.name}-seed{self.seed}.json"


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


def of_run(word: str) -> Start:
    """The start that NAME=RUN names, with the seed and the labels of that run."""
    from frugalseg import config
    from frugalseg.workflows.run_folder import read_run_info

    name, _, run = word.partition("=")
    if not run or Path(name).name != name:
        raise argparse.ArgumentTypeError(f"got {word!r}, expected NAME=RUN, such as r2o=runs/r2o/pretrained")
    try:
        seed = int(config.read(Path(run) / "config.yaml").get("seed", 0))
    except config.UsageError as error:
        raise argparse.ArgumentTypeError(f"{run} is no run: {error}") from None
    known = read_run_info(Path(run))
    learned = [", ".join(known.get("labels", ["labels it does not tell"])) or "no labels", *known.get("extra_supervision", [])]
    return Start(name, run=run, seed=seed, knowledge="; ".join(learned))


# -- one start -------------------------------------------------------------------------------------------------------


def bsds() -> Path:
    folder = photos() / "bsds500"
    if not folder.is_dir():
        raise Absent(f"bsds500 is not in {photos()}; FRUGALSEG_DATA names the folder that holds it")
    return folder


def network(start: Start) -> Any:
    """The network of a start, with the settings by which all are measured."""
    from dataclasses import replace

    import torch

    from frugalseg.inference import predictor
    from frugalseg.methods import METHODS
    from frugalseg.recipes.r2o import Config

    if start.run:
        made: Any = predictor.load(start.run).network
        made.config = replace(made.config, **MEASURED)
        return made.eval()
    torch.manual_seed(start.seed)
    weights = str(photos() / start.weights) if start.weights else None
    made = METHODS["r2o"].code.Network(Config(**start.settings, **MEASURED, weights=weights))
    return made.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def foregrounds(net: Any, quiet: bool) -> dict[str, Any]:
    """The four overlaps of each photo of voc20 that is scored."""
    from frugalseg.data import read
    from frugalseg.inference.predictor import Predictor
    from frugalseg.methods import METHODS
    from frugalseg.tasks import foreground

    finder = Predictor(METHODS["r2o"], net, net.classes)
    scores = foreground.evaluate(finder, read(voc20(), split=VAL), quiet=quiet)
    return table_of(f"{scores.metric}|voc20|{VAL}|n={scores.images}", PROTOCOLS, scores.names, scores.stacked())


def regions(net: Any, quiet: bool) -> dict[str, Any]:
    """Average best overlap of human segments with superpixels and with what each number of clusters makes of them."""
    from frugalseg import data
    from frugalseg.methods.r2o import stack, whole_and_regions
    from frugalseg.progress import track
    from frugalseg.regions.cache import Cache

    read, chunk, cache = data.read(bsds() / "images", layout="images"), net.config.chunk, Cache()
    order = sorted(range(len(read)), key=lambda index: read.names[index])
    device, values = next(net.parameters()).device, []
    for begin in track(range(0, len(order), chunk), "regions", math.ceil(len(order) / chunk), quiet=quiet):
        part = order[begin : begin + chunk]
        batch = stack([whole_and_regions(read.image(index), net.config, cache) for index in part])
        moved = {name: value.to(device) for name, value in batch.items()}
        merged = [net.labels(moved, clusters, [begin])[0].cpu() for clusters in CLUSTERS]
        for place, index in enumerate(part):
            maps = human(bsds() / "labels" / f"{read.names[index]}.npz")
            values.append([best(ids[place], maps) for ids in (batch["regions"], *merged)])
    kinds = ("superpixels", *(f"merged to {clusters}" for clusters in CLUSTERS))
    names = [read.names[index] for index in order]
    return table_of(f"abo|maps|images|bsds500|all|n={len(names)}", kinds, names, np.array(values)) | {"about": REGIONS}


def human(file: Path) -> list[list[RLE]]:
    """The segments of each region map of a picture, which different people drew, ids (H, W) from 1."""
    from frugalseg import rle

    with np.load(file, allow_pickle=False) as maps:
        return [rle.from_ids(maps[name].astype(np.int32))[1] for name in sorted(maps.files)]


def best(ids: Tensor, maps: Sequence[list[RLE]]) -> float:
    """Mean over maps of the mean over their segments of the best overlap with a region of a label map (h, w)."""
    from frugalseg.methods.r2o import overlaps

    found = overlaps(ids, [segment for segments in maps for segment in segments])
    ends = np.cumsum([len(segments) for segments in maps])[:-1]
    return float(np.mean([own.mean() for own in np.split(found, ends)]))


def table_of(protocol: str, kinds: Sequence[str], names: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    """What a file keeps: of each kind of score its mean and interval, and the values (N, kinds) of every picture."""
    kept = values.round(5)
    shown = {kind: spread(kept[:, [column]]) for column, kind in enumerate(kinds)}
    return {"protocol": protocol, "images": len(names), "values": shown, "names": list(names), "rows": kept.tolist()}


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, and its 95 % bootstrap interval over pictures, of values (N, seeds): the mean over seeds under the same draws."""
    means = values.mean(1)
    draws = np.concatenate([counts @ means / len(means) for counts in bootstrap.draws(len(means), 2000, 0)])
    interval = bootstrap.interval(draws)
    numbers = {"mean": float(means.mean()), "low": interval.low, "high": interval.high}
    return {name: round(value, 5) for name, value in numbers.items()} | {"level": interval.level}


def measure(start: Start, origin: Mapping[str, Any], quiet: bool = False) -> None:
    """Measure a start and write its file."""
    from benchmarks import results

    begin, net = time.perf_counter(), network(start)
    own = {"name": start.name, "seed": start.seed, "knowledge": start.knowledge, "backbone": net.config.backbone}
    own |= {"output_stride": net.config.output_stride, "levels": list(net.config.levels)}
    found = {"foreground": foregrounds(net, quiet), "regions": regions(net, quiet)}
    seconds = round(time.perf_counter() - begin, 1)
    measured = {"settings": MEASURED, "interval": "95 %, 2,000 bootstrap draws of the pictures"}
    results.save(start.file, {"start": own, **origin, **measured, "seconds": seconds, **found})


# -- the page --------------------------------------------------------------------------------------------------------


def section(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The part of docs/results.md, from the files at hand; nothing where there are none."""
    starts: dict[str, list[Mapping[str, Any]]] = {}
    for name, record in sorted(records.items()):
        if name.startswith(f"{FOLDER}/"):
            starts.setdefault(record["start"]["name"], []).append(record)
    if not starts:
        return []
    first = next(iter(starts.values()))[0]
    blocks = ["### Objects and regions before any label", about(starts)]
    for kind, text in (("foreground", FOREGROUNDS), ("regions", REGIONS)):
        blocks += [f"{text} `{first[kind]['protocol']}`", table(starts, kind), *differences(starts, kind)]
    return blocks


def about(starts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What the numbers must be read with."""
    from benchmarks.tables import machine

    every = [record for own in starts.values() for record in own]
    lines = {
        "measured": [", ".join(f"{name} {value}" for name, value in every[0]["settings"].items())],
        "machine": [machine(record) for record in every],
        "torch": [record["versions"]["torch"] for record in every],
        "code": [f"`{record['commit']}`" for record in every],
        "date": [record["date"] for record in every],
    }
    return "\n".join(f"- {name}: {'; '.join(sorted(set(values)))}" for name, values in lines.items())


def table(starts: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> str:
    """A row for each start, the mean over its seeds with the interval over pictures."""
    from benchmarks.tables import markdown

    kinds = list(next(iter(starts.values()))[0][kind]["values"])
    rows = [["start", "learned from", *(f"{name} %" for name in kinds), "seeds"]]
    for name, own in starts.items():
        values = np.array([record[kind]["rows"] for record in own])  # (seeds, N, kinds)
        cells = [spread(values[:, :, column].T) for column in range(len(kinds))]
        shown = [f"{percent(cell['mean'])} [{percent(cell['low'])}, {percent(cell['high'])}]" for cell in cells]
        rows.append([name, own[0]["start"]["knowledge"], *shown, str(len(own))])
    return markdown(rows)


def differences(starts: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> list[str]:
    """What two starts of the same network differ by, under the same draws of the pictures; nothing where no two are alike."""
    from benchmarks.tables import markdown

    rows = [["difference", *(f"{name} %" for name in next(iter(starts.values()))[0][kind]["values"])]]
    means = {name: np.mean([record[kind]["rows"] for record in own], 0) for name, own in starts.items()}
    for (name, own), (other, beside) in combinations(starts.items(), 2):
        if all(own[0]["start"][part] == beside[0]["start"][part] for part in ("backbone", "output_stride", "levels")):
            gained = (means[name] - means[other]).round(9) + 0.0  # without it what is equal may differ by -0
            found = [spread(column[:, None]) for column in gained.T]
            rows.append([f"{name} − {other}", *(str(Difference(cell["mean"], cell["low"], cell["high"])) for cell in found)])
    return [markdown(rows)] if len(rows) > 1 else []


# -- all starts ------------------------------------------------------------------------------------------------------


def chosen(options: argparse.Namespace) -> Iterator[Start]:
    yield from (start for start in STARTS if fnmatch.fnmatch(start.name, f"*{options.only}*"))
    yield from options.run


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="starts in whose name this is found; * stands for anything")
    parser.add_argument("--run", action="append", default=[], type=of_run, metavar="NAME=RUN", help="a run of r2o, too")
    parser.add_argument("--quiet", action="store_true", help="say nothing of the progress")
    options = parser.parse_args(words)
    from benchmarks import results

    origin = results.origin(ROOT)
    try:
        voc20(), bsds()
    except Absent as error:
        print(f"not run: {error}")
        return 1
    for start in chosen(options):
        if start.file.exists():
            print(f"{start.name}, seed {start.seed}: finished")
        elif start.weights and not (photos() / start.weights).is_file():
            print(f"{start.name}, seed {start.seed}: not run: {start.weights} is not in {photos()}")
        else:
            measure(start, origin, options.quiet)
            print(f"{start.name}, seed {start.seed}: {start.file.relative_to(ROOT)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
