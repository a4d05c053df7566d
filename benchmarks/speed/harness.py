"""What the measurements share: a line of the page, a process of its own for each, memory, the file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.paths import ROOT


def entry(what: str, value: float, unit: str, how: str) -> dict[str, Any]:
    """A line of the page."""
    return {"what": what, "value": value, "unit": unit, "how": how}


def alone(module: str, *words: str) -> list[dict[str, Any]]:
    """The lines that `python -m module words` prints as JSON at its end: a process of its own, whose peak memory is its own."""
    done = subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    lines: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return lines


def peak() -> int:
    """Peak memory in MB: of the GPU where one was used, else of the process."""
    import torch

    from frugalseg.engine.log import peak_memory

    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return used // 2**20 if used else peak_memory()


def random_image(size: tuple[int, int], count: int) -> tuple[Any, Any]:
    """A random image (3, H, W) of that size, and `count` different random proposals (count, 4)."""
    import torch

    from frugalseg.regions import proposals

    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    boxes = proposals.random(image, 2 * count)[:count]  # asked for more, since equal ones are left out
    assert len(boxes) == count
    return image, boxes


def show(lines: Sequence[dict[str, Any]]) -> None:
    """Print the lines."""
    width = max((len(line["what"]) for line in lines), default=0)
    for line in lines:
        print(f"{line['what']:<{width}}{line['value']:>10.4g} {line['unit']}   {line['how']}")


def save(file: Path, title: str, lines: Sequence[dict[str, Any]], **further: Any) -> None:
    """Write the file that the page is made from."""
    results.save(file, {"title": title, **results.provenance(), **further, "measures": list(lines)})
