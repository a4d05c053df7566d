"""report.html: one file that shows what a run learned from, what came out, and how to get it again.

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
from frugalseg.methods import METHODS, kinds
from frugalseg.progress import duration
from frugalseg.workflows.run_folder import read_run_info

CONTENTS = {
    "config.yaml": "every setting; `--config` reads it",
    "about.json": "pictures, labels, commands, versions",
    "log.jsonl": "one JSON line for each logged step",
    "weights": "the trained weights, safetensors",
    "state": "checkpoints and what lies between the stages; needed only to go on with the training",
    "predictions": "predicted masks, indexed PNG, one folder for each list",
    "metrics.json": "the scores by protocol, with the counts of each image",
    "report.html": "this page",
}
UNKNOWN: dict[str, Any] = {
    **{"images": 0, "machine": "", "fingerprint": "", "versions": {}},
    **{name: [] for name in ("classes", "labels", "extra_supervision", "problems", "commands")},
}


def write(folder: str | Path) -> Path:
    """Write report.html into a run folder and return its path. Raises UsageError when the folder holds no run."""
    folder = Path(folder)
    page = _environment().get_template("report.html.j2").render(**contents(folder))
    path = folder / "report.html"
    files.write(path, page)
    return path


def contents(folder: Path) -> dict[str, Any]:
    """What the page says, as plain values."""
    settings = config.read(folder / "config.yaml")
    log = read_log(folder)
    done = [line for line in log if line.get("event") == "done"]
    metrics = _json(folder / "metrics.json", {})
    method = METHODS[settings["method"]]
    steps = [line for line in log if "losses" in line]
    stages = {name: [line for line in steps if line["stage"] == name] for name in dict.fromkeys(line["stage"] for line in steps)}
    return {
        "title": folder.resolve().name,
        "summary": method.summary,
        "settings": settings,
        "changed": _changed(method.name, settings),
        "about": UNKNOWN | read_run_info(folder),
        "metrics": list(metrics.values()),
        "best": next((scores for scores in metrics.values() if "ground-truth" not in scores["split"]), None),
        "shown": list(_shown(folder)),
        "curves": _embedded(draw.curves(stages)) if stages else "",
        "stages": done,
        "seconds": sum(line["seconds"] for line in done),
        "memory": 1e6 * max((line["peak_memory"] for line in done), default=0),
        "files": [(name, meaning, _bytes(folder / name)) for name, meaning in CONTENTS.items() if (folder / name).exists()],
    }


def _environment() -> Environment:
    """Everything is escaped: the names of pictures, classes and folders come from outside."""
    made = Environment(loader=PackageLoader("frugalseg.workflows", "."), autoescape=True, undefined=StrictUndefined)
    made.trim_blocks = made.lstrip_blocks = True
    made.filters.update(percent=percent, duration=duration, size=size, words=words, measure=measure)
    return made


def _changed(method: str, settings: Mapping[str, Any]) -> set[str]:
    """The names of the settings that are not at their defaults."""
    known = config.options(*kinds(METHODS[method]))
    defaults = json.loads(json.dumps({name: option.default for name, option in known.items()}))
    return {name for name, value in settings.items() if name in defaults and defaults[name] != value}


def _shown(folder: Path) -> Iterator[dict[str, Any]]:
    """The illustrated pictures of each evaluation, embedded."""
    for index in sorted(folder.glob("predictions/*/shown/shown.json")):
        found = _json(index, {})
        for entry in found["pictures"]:
            entry["source"] = _embedded((index.parent / Path(entry["picture"]).name).read_bytes())
        yield {"split": index.parent.parent.name, "pictures": found["pictures"]}


def _json(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise


def _embedded(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent; a score that does not exist is a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def measure(protocol: str) -> str:
    """What a protocol id measures, in words."""
    head = protocol.partition("|")[0]
    return {"miou": "mean IoU", "mean-iou": "mean IoU", "pq": "panoptic quality", "corloc": "CorLoc"}.get(head, head)


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
