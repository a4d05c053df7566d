"""Speed and peak memory of BiOpt: `python -m benchmarks.speed.biopt` writes biopt.json beside it.

Every measurement is a separate process, so that its peak memory is that of the measurement. Images and weights are random, which
does not change the work that is done.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.harness import alone, entry, peak, save, show

FILE = Path(__file__).with_suffix(".json")
LIMIT = 10_000  # MB, for one second-order episode of ResNet-50 at 417 × 417 pixels
SMALL = {"backbone": "mobilenet_v2", "level": 14, "output_stride": 16, "side": 417, "test_scales": (1.0,)}
BASELINE = {"init": "support", "inner_steps": 0}


def model(**settings: Any) -> Any:
    import torch

    from frugalseg.methods.biopt import BiOpt
    from frugalseg.recipes.biopt import Config

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return BiOpt(Config(**settings), ("one", "two")).to(device)


def episode(network: Any, count: int, shots: int = 1) -> dict[str, Any]:
    """A batch of random episodes."""
    import torch

    side, device = network.config.side, next(network.parameters()).device
    batch = {
        "query": torch.randint(256, (count, 3, side, side), dtype=torch.uint8),
        "query_mask": torch.randint(2, (count, side, side)),
        "references": torch.randint(256, (count, shots, 3, side, side), dtype=torch.uint8),
        "reference_masks": torch.randint(2, (count, shots, side, side)),
    }
    return {name: value.to(device) for name, value in batch.items()}


def step(network: Any, batch: dict[str, Any]) -> None:
    """One forward and backward pass."""
    import torch

    torch.stack([*network(batch).values()]).sum().backward()
    network.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], times: int = 5) -> float:
    """Median time, after one that does not count."""
    work()
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def memory(kind: str, **settings: Any) -> list[dict[str, Any]]:
    """One episode of training at the paper's size."""
    network = model(**settings)
    step(network, episode(network, 1))
    how = f"one 1-shot episode, ResNet-50, 417 × 417 pixels, forward and backward, at most {LIMIT} MB"
    return [entry(f"training memory, {kind}", peak(), "MB", how)]


def training() -> list[dict[str, Any]]:
    """Steps of a small recipe, with the loop and without."""
    measures = []
    for name, settings in (("BiOpt", {}), ("prototypes", BASELINE)):
        network = model(**{**SMALL, **settings})
        batch = episode(network, 2)
        pace = 2 / seconds(lambda network=network, batch=batch: step(network, batch), 3)
        how = "MobileNetV2, 417 pixels, batch 2, everything learns"
        measures.append(entry(f"training, {name}", pace, "episodes/s", how))
    return measures


def test() -> list[dict[str, Any]]:
    """Episodes on ready features, and the features themselves."""
    import torch

    network, measures = model(**SMALL).eval(), []
    image = torch.randint(256, (3, 417, 417), dtype=torch.uint8)
    with torch.inference_mode():
        views = network.views(image)
        measures.append(entry("features of an image", seconds(lambda: network.views(image)), "s", "417"))
        supports = _supports(network, 16)
        for name, settings in (("BiOpt", {}), ("BiOpt, 0 inner steps", {"inner_steps": 0}), ("prototypes", BASELINE)):
            variant = network.with_settings(**settings)
            pace = 16 / seconds(lambda variant=variant: variant.segment(views, supports))
            how = "16 episodes of one query, 27 × 27 map, 96 channels, features at hand"
            measures.append(entry(f"test, {name}", pace, "episodes/s", how))
    with_loop, without = (1 / measure["value"] for measure in measures[1:3])
    cost = 1e3 * (with_loop - without) / 10
    return [*measures, entry("an inner step", cost, "ms", "of one episode, from the two lines above")]


def _supports(network: Any, count: int) -> Any:
    import torch

    from frugalseg.nets.prototypes import Supports

    device = next(network.parameters()).device
    prototypes = torch.randn(count, 2, network.backbone.channels, device=device) * 4
    return Supports(prototypes, torch.ones(count, 2, dtype=torch.bool, device=device), torch.ones(count, device=device))


MEASURES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "second": lambda: memory("second order"),
    "first": lambda: memory("first order", first_order=True),
    "baseline": lambda: memory("prototypes", **BASELINE),
    "training": training,
    "test": test,
}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.biopt", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", choices=MEASURES, help="do this one measurement in this process and print it")
    parser.add_argument("--out", type=Path, default=FILE, help="the JSON file")
    options = parser.parse_args(words)
    if options.measure:
        print(json.dumps(MEASURES[options.measure]()))
        return 0
    measures: list[dict[str, Any]] = []
    for name in MEASURES:
        measures += alone("benchmarks.speed.biopt", "--measure", name)
    show(measures)
    save(options.out, "BiOpt", measures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
