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


# -- the folder ------------------------------------------------------------------------------------------------------


def run_folder(method: Method, data: Data, settings: Mapping[str, Any]) -> Path:
    """out/<method>/<name>. Without a name it is a function of data and settings: the same command finds its run again, and all
    processes agree. Raises UsageError when the folder of that name holds a run with other settings that has made progress.
    """
    identity = {key: value for key, value in settings.items() if key not in NON_IDENTITY_SETTINGS}
    text = json.dumps([identity, data.fingerprint], sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    folder = Path(settings["out"]) / method.name / (settings["name"] or f"{data.root.resolve().name}-{digest}")
    if not folder.resolve().is_relative_to(Path(settings["out"]).resolve()):
        raise UsageError(f"--name: got {settings['name']!r}, expected a plain name; --out says in which folder")
    if (folder / "config.yaml").exists() and has_progress(folder):
        expect_same_settings(folder, method, identity)
    return folder


def expect_same_settings(folder: Path, method: Method, settings: Mapping[str, Any]) -> None:
    """Raises UsageError unless the run was started with these settings.

    A setting that did not exist when the run began was what is now its default.
    """
    earlier = config.read(folder / "config.yaml")
    defaults = {name: option.default for name, option in config.options(*kinds(method)).items()}
    now = json.loads(json.dumps(settings, default=str))
    before = json.loads(json.dumps({key: earlier.get(key, defaults.get(key)) for key in now}, default=str))
    differences = [f"  {key}: {before[key]!r} there, {now[key]!r} now" for key in now if before[key] != now[key]]
    if differences:
        advice = "choose another --name, or --resume it as it was"
        raise UsageError("\n".join([f"{folder} holds a run with other settings; {advice}:", *differences]))


def has_progress(folder: Path) -> bool:
    """Whether a run has anything to lose beside its settings: stored arrays, a checkpoint or weights."""
    state = folder / "state"
    return (folder / "weights").exists() or any(path.is_file() for path in state.glob("*/**/*"))


def begin(folder: Path, settings: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Write settings and facts into the folder of a run that starts or goes on."""
    if not has_progress(folder):
        for remains in (folder / "state").glob("*.json"):  # of a start that failed, perhaps with other settings
            remains.unlink()
    config.save(folder / "config.yaml", settings)
    update_run_info(folder, **info)


# -- about.json ------------------------------------------------------------------------------------------------------


def run_info(data: Data, recipe: Any, masks_from: str) -> dict[str, Any]:
    """What a reader of the result must know: images, labels, external supervision, what was left out, on what machine."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores()} CPU cores"
    earlier = [note for option in ("weights", "start_from") for note in _trained_before(getattr(recipe, option, None))]
    return {
        "images": len(data),
        "classes": list(data.classes),
        "labels": sorted(recipe.needs - {"image"}),
        "extra_supervision": [*recipe.external_supervision, *earlier, *_teacher(masks_from)],
        "fingerprint": data.fingerprint,
        "problems": [str(problem) for problem in data.problems],
        "machine": f"{platform.system()} {platform.machine()}, {device}",
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _trained_before(weights: str | None) -> list[str]:
    """What the run learned from whose weights, a folder or a file in it, a training starts with."""
    path = Path(weights or "")
    info = read_run_info(path if path.is_dir() else path.parent.parent) if weights else {}
    return [f"{weights} learned from {_learned_from(info)}"] if info else []


def _teacher(run: str) -> list[str]:
    """Where masks come from that nobody drew, and what the model learned from that predicted them."""
    if not run:
        return []
    return [f"no masks by hand: they are predicted by {run}, learned from {_learned_from(read_run_info(Path(run)))}"]


def _learned_from(info: Mapping[str, Any]) -> str:
    """The labels of a run, and its external supervision."""
    labels = ", ".join(info["labels"]) or "no labels" if "labels" in info else "labels it does not tell"
    others = "; ".join(info.get("extra_supervision", []))
    return labels + (f" ({others})" if others else "")


def update_run_info(folder: Path, **facts: Any) -> None:
    """Add facts to the run's about.json; a list of `commands` is added to the commands already there."""
    info = read_run_info(folder)
    earlier = info.get("commands", [])
    facts["commands"] = earlier + [command for command in facts.get("commands", []) if command not in earlier]
    write_json(folder / "about.json", info | facts)


def read_run_info(folder: Path) -> dict[str, Any]:
    """The facts in a run's about.json; none where there is no such file."""
    path = folder / "about.json"
    info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return info
