"""What R2-IOS costs at test: regions computed with and without the early exit, time and memory for each number of iterations.

    python -m benchmarks.speed.r2ios RUN DATA [--split Segmentation/val] [--pictures 24] | --quick

RUN is a trained run, because how many proposals are background decides how many the early exit saves. Every number of iterations
is measured in a separate process for its peak memory; so is the paper's VGG-16, with random weights, on a random image, where
nothing is background and the early exit saves nothing. --quick trains for a few steps on drawn images first: it shows that all
works, and its numbers mean nothing. Writes r2ios.json beside this file (--quick writes none).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paths import ROOT
from benchmarks.speed.harness import alone, entry, random_image, save, show

FILE = Path(__file__).with_suffix(".json")
ITERATIONS = (1, 2, 3, 4)
DIFFERENT, ROUNDING = "DIFFERENT outputs", 1e-4  # sums over fewer regions may be taken in another order
LIMIT = 6 * 1024  # MB, of the paper's network at test
QUICK = {"steps": 4, "gate_steps": 2, "count": 60, "rois": 8, "workers": 0, "log_every": 1}


def counting(network: Any) -> list[int]:
    """A list that grows by the regions computed for each image that is predicted from now on."""
    computed: list[int] = []
    refine = type(network).refine

    def counted(*arguments: Any) -> Any:
        refined = refine(network, *arguments)
        computed.append(refined.computed)
        return refined

    network.refine = counted
    return computed


def predicted(network: Any, samples: Sequence[Any], **settings: Any) -> tuple[list[Any], int, list[float]]:
    """Predictions by other settings, the regions they took, and the seconds of each image."""
    other = network.with_settings(**settings)
    predictions: list[Any] = []
    computed, seconds = counting(other), []
    for sample in samples:
        begin = time.perf_counter()
        predictions += other.predict([sample])
        seconds.append(time.perf_counter() - begin)
    return predictions, sum(computed), seconds


def likeness(one: Sequence[Any], other: Sequence[Any]) -> str:
    """Whether the same objects were found: bit by bit, or with scores and boxes that differ by their rounding."""
    pairs = [(a.instances, b.instances) for a, b in zip(one, other, strict=True)]
    if not all(a.rles == b.rles and a.labels.equal(b.labels) for a, b in pairs):
        return DIFFERENT
    apart = [(getattr(a, name) - getattr(b, name)).abs() for a, b in pairs if len(a) for name in ("boxes", "scores")]
    most = max((float(values.max()) for values in apart), default=0.0)
    return "identical outputs" if not most else f"outputs equal to {most:.1g}" if most < ROUNDING else DIFFERENT


def measure(run: Path, root: Path, split: str, images: int, iterations: int) -> list[dict[str, Any]]:
    """One number of iterations: the early exit first, whose memory counts, then everything."""
    import frugalseg
    from frugalseg.data import read
    from frugalseg.engine.log import peak_memory

    network: Any = frugalseg.load(run).network
    data = read(root, split=split).only("image")
    samples = [data[index] for index in range(min(images, len(data)))]
    predicted(network, samples, iterations=iterations, early_exit=True)  # after it all proposals are in the cache
    early, some, seconds = predicted(network, samples, iterations=iterations, early_exit=True)
    memory = peak_memory()
    whole, every, slow = predicted(network, samples, iterations=iterations, early_exit=False)
    same = likeness(early, whole)
    how = f"{len(samples)} images, proposals ready"
    name = f"{iterations} iteration{'s' if iterations > 1 else ''}"
    return [
        entry(f"{name}: regions with early exit", some / len(samples), "an image", f"{how}; {same}"),
        entry(f"{name}: regions without", every / len(samples), "an image", f"{how}; {same}"),
        entry(f"{name}: prediction", 1000 * statistics.median(seconds), "ms an image", f"{how}, with early exit, median"),
        entry(f"{name}: prediction without early exit", 1000 * statistics.median(slow), "ms an image", f"{how}, median"),
        entry(f"{name}: peak memory", memory, "MB", f"{how}, with early exit, the whole process"),
    ]


def vgg(side: int, count: int) -> list[dict[str, Any]]:
    """Time and memory of the paper's network on one image with that many proposals. side: the image's shorter one."""
    from frugalseg.engine.log import peak_memory
    from frugalseg.methods.r2ios import R2IOS, Config
    from frugalseg.types import Sample

    size = side, side * 5 // 3
    image, boxes = random_image(size, count)
    network: Any = R2IOS(Config(scale=size[0], longest=size[1]), [f"class {number}" for number in range(20)]).eval()
    _, computed, (seconds,) = predicted(network, [Sample("random", image, proposals=boxes)])
    how = f"{size[0]} × {size[1]} pixels, {count:,} proposals, {computed / count:.2f} iterations of each, random weights"
    memory = entry("VGG-16: peak memory of prediction", peak_memory(), f"MB, at most {LIMIT}", f"{how}, the whole process")
    return [entry("VGG-16: prediction", seconds, "s an image", how), memory]


def small_run(folder: Path) -> tuple[Path, Path]:
    """A run of a few steps on drawn images, and the images."""
    import frugalseg
    from frugalseg import config
    from frugalseg.data import shapes

    root = shapes.write(folder / "images", 4, val=2, test=0, size=64, quiet=True)
    settings = config.read(ROOT / "configs" / "r2ios_shapes.yaml") | QUICK
    settings |= {"scale": 64, "longest": 64, "width": 32, "quiet": True, "out": str(folder), "name": "run", "val": ""}
    frugalseg.train("r2ios", root, **settings)
    return folder / "r2ios" / "run", root


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a run of r2ios")
    parser.add_argument("data", type=Path, nargs="?", help="its images")
    parser.add_argument("--split", default="Segmentation/val")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="two small images and a network that has learned nothing")
    parser.add_argument("--iterations", type=int, default=0, help="measure this number alone, in this process, and print it")
    parser.add_argument("--vgg", type=int, nargs=2, metavar=("SIDE", "COUNT"), help="measure the paper's network alone, likewise")
    options = parser.parse_args(words)
    if not (options.quick or options.vgg) and (options.run is None or options.data is None):
        parser.error("give a run and its images, or --quick")
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    if options.iterations:
        print(json.dumps(measure(options.run, options.data, options.split, options.pictures, options.iterations)))
        return 0
    if options.vgg:
        print(json.dumps(vgg(*options.vgg)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        run, data = small_run(Path(folder)) if options.quick else (options.run, options.data)
        place = [str(run.absolute()), str(data.absolute()), "--split", options.split, "--pictures", str(options.pictures)]
        measures: list[dict[str, Any]] = []
        for iterations in ITERATIONS[-1:] if options.quick else ITERATIONS:
            measures += alone("benchmarks.speed.r2ios", *place, "--iterations", str(iterations))
    measures += alone("benchmarks.speed.r2ios", "--vgg", *(("64", "50") if options.quick else ("600", "2000")))
    show(measures)
    if not options.quick:
        save(FILE, "R2-IOS at test", measures)
    return 1 if any(DIFFERENT in row["how"] or ("at most" in row["unit"] and row["value"] > LIMIT) for row in measures) else 0


if __name__ == "__main__":
    sys.exit(main())
