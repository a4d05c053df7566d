"""Dense CRF side by side with pydensecrf2: time, peak memory and agreement on real photos, in one run on one machine.

    python benchmarks/speed/crf.py PATH/TO/VOC2012 [--photos 8] [--repeats 3] [--threads 1 2]

The two take turns on the same inputs, so that whatever else the machine does hits both. Peak memory comes from separate
processes. Writes crf.json beside this file. Needs `pip install pydensecrf2`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydensecrf.densecrf
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, one_hot

from frugalseg.machine import cores
from frugalseg.regions.crf import dense_crf

SIZE = (375, 500)
SETTINGS = {"iterations": 10, "gaussian": (3, 3), "bilateral": (4, 121, 5)}  # DeepLab v1 LargeFOV
CLASSES = (4, 21)


def case(voc: Path, name: str, classes: int) -> tuple[Tensor, Tensor]:
    """A photo and soft, noisy scores as a network gives them: its mask blurred, plus noise of a coarse grid."""
    generator = torch.Generator().manual_seed(0)
    photo = Image.open(voc / f"JPEGImages/{name}.jpg").convert("RGB").resize(SIZE[::-1])
    mask = torch.from_numpy(
        np.array(Image.open(voc / f"SegmentationClass/{name}.png").resize(SIZE[::-1], Image.Resampling.NEAREST))
    )
    classes_shown = mask.where(mask != 255, 0).long().unique(return_inverse=True)[1].clamp(max=classes - 1)
    truth = one_hot(classes_shown, classes).permute(2, 0, 1).float()[None]
    noise = interpolate(torch.randn(1, classes, 24, 32, generator=generator), size=SIZE, mode="bilinear")
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous(), (4 * avg_pool2d(truth, 31, 1, 15) + noise)[0].softmax(
        0
    )


def frugalseg_crf(image: Tensor, probabilities: Tensor) -> Tensor:
    return dense_crf(image, probabilities, **SETTINGS)  # type: ignore[arg-type]


def pydensecrf2(image: Tensor, probabilities: Tensor) -> Tensor:
    (weight, xy), (colour_weight, colour_xy, rgb) = SETTINGS["gaussian"], SETTINGS["bilateral"]  # type: ignore[misc]
    crf = pydensecrf.densecrf.DenseCRF2D(SIZE[1], SIZE[0], len(probabilities))
    crf.setUnaryEnergy(-np.log(probabilities.clamp(1e-5, 1).flatten(1).numpy()))
    crf.addPairwiseGaussian(sxy=xy, compat=weight)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    crf.addPairwiseBilateral(sxy=colour_xy, srgb=rgb, rgbim=pixels, compat=colour_weight)
    return torch.from_numpy(np.array(crf.inference(SETTINGS["iterations"]))).view_as(probabilities)


TOOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"frugalseg": frugalseg_crf, "pydensecrf2": pydensecrf2}


def duel(image: Tensor, probabilities: Tensor, repeats: int) -> dict[str, Any]:
    """Median seconds of each by turns, by the clock and of processors' time, and how far they agree."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in TOOLS}
    marginals = {}
    for _ in range(repeats):
        for name, tool in TOOLS.items():
            clock, work = time.perf_counter(), time.process_time()
            marginals[name] = tool(image, probabilities)
            seconds[name].append((time.perf_counter() - clock, time.process_time() - work))
    ours, theirs = marginals.values()
    agreement = {
        "argmax": (ours.argmax(0) == theirs.argmax(0)).float().mean().item(),
        "difference": (ours - theirs).abs().max().item(),
    }
    return {name: np.median(values, axis=0) for name, values in seconds.items()} | agreement


def compare(voc: Path, names: list[str], classes: int, threads: int, repeats: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    duel(*case(voc, names[0], classes), repeats=1)  # the first call of each pays for loading code
    rows = [duel(*case(voc, name, classes), repeats=repeats) for name in names]
    clock, work = ({tool: round(float(np.mean([row[tool][k] for row in rows])), 4) for tool in TOOLS} for k in (0, 1))
    return {
        "classes": classes,
        "torch_threads": threads,
        "seconds": clock | {"ratio": round(clock["frugalseg"] / clock["pydensecrf2"], 3)},
        "cpu_seconds": work | {"ratio": round(work["frugalseg"] / work["pydensecrf2"], 3)},
        "argmax_agreement": {"mean": np.mean([row["argmax"] for row in rows]), "least": min(row["argmax"] for row in rows)},
        "largest_difference_of_marginals": max(row["difference"] for row in rows),
    }


def peak(tool: str, voc: Path, name: str, classes: int) -> int:
    """MiB that one call adds to a fresh process's peak; what the imports and the input take is not counted."""

    def high_water() -> int:  # not ru_maxrss: a child inherits its parent's through fork
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    inputs = case(voc, name, classes)
    before = high_water()
    TOOLS[tool](*inputs)
    return round((high_water() - before) / 1024)


def peaks(voc: Path, name: str) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, str(voc), "--peak"]
    rows = []
    for classes in CLASSES:
        runs = {tool: subprocess.check_output([*command, tool, name, str(classes)], text=True) for tool in TOOLS}
        rows.append({"classes": classes, "MiB": {tool: int(output) for tool, output in runs.items()}})
    return rows


def machine() -> dict[str, Any]:
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    packages = ("torch", "numpy", "pydensecrf2")
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": cores(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voc", type=Path, help="a folder in VOC layout with Segmentation/val")
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores()}), help="torch's threads")
    parser.add_argument("--peak", nargs=3, metavar=("TOOL", "NAME", "CLASSES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        tool, name, classes = options.peak
        print(peak(tool, options.voc, name, int(classes)))
        return
    names = (options.voc / "ImageSets/Segmentation/val.txt").read_text().split()
    names = names[:: max(1, len(names) // options.photos)][: options.photos]
    result = {
        "what": "seconds per photo: mean over photos of the median of several calls by turns; ratio: frugalseg over pydensecrf2",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "photos": len(names),
        "repeats": options.repeats,
        "size": SIZE,
        "settings": SETTINGS,
        "time": [compare(options.voc, names, c, t, options.repeats) for t in options.threads for c in CLASSES],
        "peak_memory": peaks(options.voc, names[0]),
    }
    text = json.dumps(result, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
