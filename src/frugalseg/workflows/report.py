"""report.html: one file that shows what a run learned from, what came out, and how to reproduce it.

It reads the run folder and nothing else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from frugalseg import config, draw, files
from frugalseg.engine.log import read_log
from frugalseg.methods import METHODS, Method, kinds
from frugalseg.progress import duration
from frugalseg.workflows.run_folder import read_run_info

CONTENTS = {
    "config.yaml": "every setting; `--config` reads it",
    "about.json": "images, labels, commands, versions",
    "log.jsonl": "one JSON line for each logged step",
    "weights": "the trained weights, safetensors",
    "state": "checkpoints and intermediate results; needed only to go on with the training",
    "predictions": "predicted masks, indexed PNG, one folder for each list",
    "metrics.json": "the scores by protocol, with the counts of each image",
    "report.html": "this page",
}
UNKNOWN: dict[str, Any] = {  # in the place of an about.json that is not there
    **{"images": 0, "machine": "", "fingerprint": "", "versions": {}},
    **{name: [] for name in ("classes", "labels", "extra_supervision", "problems", "commands")},
}
MEASURES = {"miou": "mean IoU", "mean-iou": "mean IoU", "pq": "panoptic quality", "corloc": "CorLoc"}


def write(folder: str | Path) -> Path:
    """Write report.html into a run folder and return its path. Raises UsageError when the folder holds no run."""
    run = Path(folder)
    page = _environment().get_template("report.html.j2").render(**contents(run))
    path = run / "report.html"
    files.write(path, page)
    return path


def contents(run: Path) -> dict[str, Any]:
    """What the page says, as plain values."""
    settings = config.read(run / "config.yaml")
    method, metrics = METHODS[settings["method"]], _read_json(run / "metrics.json", {})
    return {
        "title": run.resolve().name,
        "summary": method.summary,
        "settings": settings,
        "changed": _changed(method, settings),
        "about": UNKNOWN | read_run_info(run),
        "metrics": list(metrics.values()),
        "best": next((scores for scores in metrics.values() if "ground-truth" not in scores["split"]), None),
        "shown": list(_examples(run)),
        "files": [(name, meaning, _bytes(run / name)) for name, meaning in CONTENTS.items() if (run / name).exists()],
        **_training(run),
    }


def _training(run: Path) -> dict[str, Any]:
    """Curves, time and memory of the training, from its log."""
    log = read_log(run)
    steps, done = [line for line in log if "losses" in line], [line for line in log if line.get("event") == "done"]
    stages = {name: [line for line in steps if line["stage"] == name] for name in dict.fromkeys(line["stage"] for line in steps)}
    return {
        "curves": _embedded(draw.curves(stages)) if stages else "",
        "stages": done,
        "seconds": sum(line["seconds"] for line in done),
        "memory": 1e6 * max((line["peak_memory"] for line in done), default=0),
    }


def _changed(method: Method, settings: Mapping[str, Any]) -> set[str]:
    """The names of the settings that are not at their defaults."""
    options = config.options(*kinds(method))
    defaults = json.loads(json.dumps({name: option.default for name, option in options.items()}))
    return {name for name, value in settings.items() if name in defaults and defaults[name] != value}


def _examples(run: Path) -> Iterator[dict[str, Any]]:
    """The examples of each evaluation, with their images embedded."""
    for path in sorted(run.glob("predictions/*/shown/shown.json")):
        examples = _read_json(path, {})["pictures"]
        for entry in examples:
            entry["source"] = _embedded((path.parent / Path(entry["picture"]).name).read_bytes())
        yield {"split": path.parent.parent.name, "pictures": examples}


def _read_json(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise


def _bytes(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


# -- the page --------------------------------------------------------------------------------------------------------


def _environment() -> Environment:
    """Everything is escaped: the names of images, classes and folders come from outside."""
    environment = Environment(loader=PackageLoader("frugalseg.workflows", "."), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(percent=percent, duration=duration, size=size, words=words, measure=measure)
    return environment


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent; a score that does not exist is a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def measure(protocol: str) -> str:
    """What a protocol id measures, in words."""
    head = protocol.partition("|")[0]
    return MEASURES.get(head, head)


def words(value: Any) -> str:
    """A setting as people say it; what is not set says so."""
    if value is None or value == "" or value == []:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(words, value)) if isinstance(value, list) else str(value)


def size(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
