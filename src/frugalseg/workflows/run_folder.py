"""The folder of a run: where it is, what identifies it, and what about.json says of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.files import write_json
from frugalseg.machine import cores
from frugalseg.methods import Method, kinds

if TYPE_CHECKING:
    from frugalseg.data import Data

LIBRARIES = ("frugalseg", "torch", "torchvision", "lightning-fabric", "timm", "numpy", "scikit-image", "pillow")


# Settings that change where and how fast a run goes, not what comes out: another value of them is still the same run.
NON_IDENTITY_SETTINGS = frozenset(
    {"out", "name", "quiet", "workers", "log_every", "save_every", "accelerator", "devices", "nodes"}
)


def run_folder(method: Method, data: Data, settings: Mapping[str, Any]) -> Path:
    """out/<method>/<name>. Without a name it is a function of data and settings: the same command finds its run again, and all
    processes agree. Raises UsageError when the folder of a given name holds a run with other settings that has done anything.
    """
    telling = {key: value for key, value in settings.items() if key not in NON_IDENTITY_SETTINGS}
    text = json.dumps([telling, data.fingerprint], sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    folder = Path(settings["out"]) / method.name / (settings["name"] or f"{data.root.resolve().name}-{digest}")
    if not folder.resolve().is_relative_to(Path(settings["out"]).resolve()):
        raise UsageError(f"--name: got {settings['name']!r}, expected a plain name; --out says in which folder")
    if (folder / "config.yaml").exists() and has_progress(folder):
        earlier = config.read(folder / "config.yaml")
        now = json.loads(json.dumps(telling, default=str))
        # A setting that did not exist when the run began was what is now its default.
        unsaid = {name: option.default for name, option in config.options(*kinds(method)).items()}
        before = json.loads(json.dumps({key: earlier.get(key, unsaid.get(key)) for key in now}, default=str))
        other = [f"  {key}: {before[key]!r} there, {now[key]!r} now" for key in now if before[key] != now[key]]
        if other:
            advice = "choose another --name, or --resume it as it was"
            raise UsageError("\n".join([f"{folder} holds a run with other settings; {advice}:", *other]))
    return folder


def has_progress(folder: Path) -> bool:
    """Whether a run has anything to lose: an item of a shelf, a step of a stage, or weights, beside what it was started with."""
    state = folder / "state"
    return (folder / "weights").exists() or any(path.is_file() for path in state.glob("*/**/*"))


def run_info(data: Data, recipe: Any, masks_from: str) -> dict[str, Any]:
    """What a reader of the result must know: pictures, labels, what else was put in, what was left out, on what machine."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores()} CPU cores"
    others = [note for option in ("weights", "start_from") for note in _before(getattr(recipe, option, None))]
    return {
        "images": len(data),
        "classes": list(data.classes),
        "labels": sorted(recipe.needs - {"image"}),
        "extra_supervision": [*external_supervision(recipe), *others, *_origin(masks_from)],
        "fingerprint": data.fingerprint,
        "problems": [str(problem) for problem in data.problems],
        "machine": f"{platform.system()} {platform.machine()}, {device}",
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def external_supervision(recipe: Any) -> tuple[str, ...]:
    """What a recipe says came in beside the labels, under the name that packages of others may still use."""
    notes = getattr(recipe, "extra_supervision", None)
    return recipe.external_supervision if notes is None else notes


def _before(weights: str | None) -> list[str]:
    """What a run learned from whose weights, a folder or a file in it, are begun with."""
    path = Path(weights or "")
    known = read_run_info(path if path.is_dir() else path.parent.parent) if weights else {}
    return [f"{weights} learned from {_learned_from(known)}"] if known else []


def _origin(run: str) -> list[str]:
    """Where masks come from that nobody drew, and what their maker learned from."""
    if not run:
        return []
    return [f"no masks by hand: they are predicted by {run}, learned from {_learned_from(read_run_info(Path(run)))}"]


def _learned_from(known: Mapping[str, Any]) -> str:
    """The labels in the facts of a run, and what else was put in."""
    labels = ", ".join(known["labels"]) or "no labels" if "labels" in known else "labels it does not tell"
    others = "; ".join(known.get("extra_supervision", []))
    return labels + (f" ({others})" if others else "")


def update_run_info(folder: Path, **facts: Any) -> None:
    """Add facts to the run's about.json; a list of `commands` is added to the commands already there."""
    path = folder / "about.json"
    known = read_run_info(folder)
    earlier = known.get("commands", [])
    facts["commands"] = earlier + [command for command in facts.get("commands", []) if command not in earlier]
    write_json(path, known | facts)


def read_run_info(folder: Path) -> dict[str, Any]:
    """The facts in a run's about.json, or none."""
    path = folder / "about.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
