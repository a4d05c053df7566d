"""From settings to a trained model: what to learn from, which folder, which method. Free of torch until `train` is called."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.files import write_json
from frugalseg.methods import FOREGROUND, METHODS, Method, choose
from frugalseg.recipes.runtime import Runtime

if TYPE_CHECKING:
    from frugalseg.data import Data
    from frugalseg.predictor import Predictor

LIBRARIES = ("frugalseg", "torch", "torchvision", "lightning-fabric", "timm", "numpy", "scikit-image", "pillow")
DRY_PICTURES = 8  # pictures of a --dry-run
# Settings that change where and how fast a run goes, not what comes out: another value of them is still the same run.
CIRCUMSTANCES = frozenset({"out", "name", "quiet", "workers", "log_every", "save_every", "accelerator", "devices", "nodes"})


@dataclass(frozen=True)
class Selection:
    """Which pictures.

    Args:
        split: the list of pictures to learn from; empty takes them all.
        val: the list to score on when training is over, if it exists and has masks; empty scores nothing.
        classes: a text file of class folders, one a line, to learn from their pictures only (ImageNet-100); empty takes all.
        share: learn from this share of the pictures, at least one; `seed` draws it, and a smaller share is part of a larger.
        limit: learn from the first N pictures only; 0 takes all.
        skip_limit: share of pictures that may be left out as broken before that is an error.
        masks_from: a finished run whose masks of these pictures are the labels, in place of the pictures' own.
        dry_run: two small steps for each stage on eight pictures, downloading nothing, to see that everything works.
    """

    split: str = "train"
    val: str = "val"
    classes: str = ""
    share: float = 1.0
    limit: int = 0
    skip_limit: float = 0.05
    masks_from: str = ""
    dry_run: bool = False


def kinds(method: Method) -> tuple[type, ...]:
    """The dataclasses whose fields are the flat settings of a training."""
    return Selection, method.config, Runtime


def find(name: str) -> Method:
    """The method of this name. Raises UsageError that names the nearest."""
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}{config.did_you_mean(name, METHODS)} `frugalseg methods` lists them")
    return METHODS[name]


def suggest(data: Data) -> Method:
    """The method that learns from the labels this data has. Raises UsageError when none can."""
    method = choose(data.offers)
    if method is None:
        needs = "; ".join(f"{method.name} needs {_words(method.needs)}" for method in METHODS.values())
        raise UsageError(f"no method can learn from {data.root}, which has {_words(data.offers)}: {needs}")
    return method


def train(method: str, data: str | Path | Data, **settings: Any) -> Predictor:
    """Train a method on data and return the model; the same call again goes on where it was stopped, or only loads the result.

    method: a name in `METHODS`. data: a folder, or what `frugalseg.read` returns. settings: fields of `Selection`, of the
    method's recipe and of `Runtime`. Labels that the method does not need are withheld from it.
    Raises UsageError (a setting), DataError (the data), Diverged (a loss is not finite).
    """
    chosen = find(method)
    return fit(chosen, data, config.resolve(kinds(chosen), settings))


def fit(method: Method, data: str | Path | Data, settings: Mapping[str, Any], folder: Path | None = None) -> Predictor:
    """`train` with settings that are already resolved; `folder` is that of a run to go on with."""
    from frugalseg.data import read
    from frugalseg.data.subset import drawn, of_classes
    from frugalseg.predictor import Predictor
    from frugalseg.run import Run

    settings = without_download(settings) if settings["dry_run"] else settings
    recipe, runtime = config.build(method.config, settings), config.build(Runtime, settings)
    if isinstance(data, (str, Path)):
        data = read(data, settings["split"] or None, skip_limit=settings["skip_limit"], classes=settings["classes"] or None)
    elif settings["classes"]:
        data = of_classes(data, settings["classes"])
    if not 0 < settings["share"] <= 1:
        raise UsageError(f"--share: got {settings['share']}, expected a number above 0, at most 1")
    if settings["share"] < 1:
        data = drawn(data, settings["share"], settings["seed"])
    limit = DRY_PICTURES if settings["dry_run"] else settings["limit"]
    chosen = data.select(range(min(limit, len(data)))) if limit else data
    offers, teacher = data.offers, None
    if settings["masks_from"]:
        from frugalseg import retrain

        teacher, data = retrain.teacher(settings["masks_from"], data.classes), chosen
        offers = chosen.only("image", "tags").offers | {"instances"}
    if not recipe.needs <= offers:
        has = _words(data.offers)
        raise UsageError(f"{method.name} needs {_words(recipe.needs)}, but {data.root} has {has}; `frugalseg check` says more")
    if not settings["dry_run"]:
        expect_a_batch(recipe, len(chosen), runtime.devices * runtime.nodes)
    described = {"method": method.name, "data": str(data.root), **settings}
    folder = folder or run_folder(method, data, described)
    run = Run(folder, runtime, dry=settings["dry_run"])
    tell_what_is_missing(chosen, recipe.needs)
    tell_what_is_random(recipe, settings["dry_run"])
    if run.main:
        if not begun(folder):
            for left in (folder / "state").glob("*.json"):  # a start that failed, perhaps with other settings
                left.unlink()
        config.save(folder / "config.yaml", described)
        remember(folder, **_facts(chosen, recipe, settings["masks_from"]))
    chosen = retrain.relabelled(chosen, teacher, run) if teacher else chosen
    network = method.code.train(recipe, chosen.only(*recipe.needs), run)
    classes = network.classes if method.makes == FOREGROUND else data.classes
    return Predictor(method, network, classes, folder, run.main)


def expect_a_batch(recipe: Any, pictures: int, processes: int) -> None:
    """Raises UsageError for fewer pictures than a step shows, where none may be shown twice."""
    if not getattr(recipe, "repeats", True) and pictures < recipe.batch:
        most = pictures - pictures % processes
        advice = f"type --batch {most} or less" if most else "add pictures, or take fewer --devices"
        raise UsageError(f"--batch: got {recipe.batch}, but there are only {pictures} pictures to learn from; {advice}")


def tell_what_is_missing(data: Data, needs: frozenset[str]) -> None:
    """Warn of what the training has to do without: files left out, and classes that not one picture is tagged with."""
    for problem in data.problems:
        if problem.effect:
            warnings.warn(str(problem).removeprefix("warning "), stacklevel=3)
    if "tags" in needs:
        seen = (data.tags == 1).any(0).tolist()
        unseen = [name for name, there in zip(data.classes, seen, strict=True) if not there]
        if unseen:
            few = ", ".join(unseen[:5]) + (", …" if len(unseen) > 5 else "")
            reason = "it cannot learn them, though it will name them as classes"
            warnings.warn(
                f"no picture of the training is tagged with {len(unseen)} of {len(seen)} classes ({few}): {reason}", stacklevel=3
            )


def tell_what_is_random(recipe: Any, dry: bool) -> None:
    """Warn of layers that stay at random numbers for good."""
    if getattr(recipe, "frozen", 0) and not getattr(recipe, "weights", "") and not dry:
        warnings.warn(
            f"the first {recipe.frozen} blocks of {recipe.backbone} are frozen at random numbers; give --weights imagenet, a "
            "file or a run, or --frozen 0",
            stacklevel=3,
        )


def without_download(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings for a rehearsal: weights that are not here give way to random numbers, and a warning says so."""
    weights = settings.get("weights")
    if weights and not Path(weights).exists():
        warnings.warn(f"--dry-run: weights={weights} is no file here; rehearsing with random weights instead", stacklevel=2)
        weights = None
    return {**settings, "weights": weights} if "weights" in settings else dict(settings)


def run_folder(method: Method, data: Data, settings: Mapping[str, Any]) -> Path:
    """out/<method>/<name>. Without a name it is a function of data and settings: the same command finds its run again, and all
    processes agree. Raises UsageError when the folder of a given name holds a run with other settings that has done anything.
    """
    telling = {key: value for key, value in settings.items() if key not in CIRCUMSTANCES}
    text = json.dumps([telling, data.fingerprint], sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    folder = Path(settings["out"]) / method.name / (settings["name"] or f"{data.root.resolve().name}-{digest}")
    if not folder.resolve().is_relative_to(Path(settings["out"]).resolve()):
        raise UsageError(f"--name: got {settings['name']!r}, expected a plain name; --out says in which folder")
    if (folder / "config.yaml").exists() and begun(folder):
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


def begun(folder: Path) -> bool:
    """Whether a run has anything to lose: an item of a shelf, a step of a stage, or weights, beside what it was started with."""
    state = folder / "state"
    return (folder / "weights").exists() or any(path.is_file() for path in state.glob("*/**/*"))


def _words(names: frozenset[str]) -> str:
    return " and ".join(sorted(names - {"image"})) or "pictures without labels"


def _facts(data: Data, recipe: Any, masks_from: str) -> dict[str, Any]:
    """What a reader of the result must know: pictures, labels, what else was put in, what was left out, on what machine."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{len(os.sched_getaffinity(0))} CPU cores"
    others = [note for option in ("weights", "start_from") for note in _before(getattr(recipe, option, None))]
    return {
        "images": len(data),
        "classes": list(data.classes),
        "labels": sorted(recipe.needs - {"image"}),
        "extra_supervision": [*recipe.extra_supervision, *others, *_origin(masks_from)],
        "fingerprint": data.fingerprint,
        "problems": [str(problem) for problem in data.problems],
        "machine": f"{platform.system()} {platform.machine()}, {device}",
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _before(weights: str | None) -> list[str]:
    """What a run learned from whose weights, a folder or a file in it, are begun with."""
    path = Path(weights or "")
    known = recall(path if path.is_dir() else path.parent.parent) if weights else {}
    return [f"{weights} learned from {_learned_from(known)}"] if known else []


def _origin(run: str) -> list[str]:
    """Where masks come from that nobody drew, and what their maker learned from."""
    if not run:
        return []
    return [f"no masks by hand: they are predicted by {run}, learned from {_learned_from(recall(Path(run)))}"]


def _learned_from(known: Mapping[str, Any]) -> str:
    """The labels in the facts of a run, and what else was put in."""
    labels = ", ".join(known["labels"]) or "no labels" if "labels" in known else "labels it does not tell"
    others = "; ".join(known.get("extra_supervision", []))
    return labels + (f" ({others})" if others else "")


def remember(folder: Path, **facts: Any) -> None:
    """Add facts to the run's about.json; a list of `commands` is added to the commands already there."""
    path = folder / "about.json"
    known = recall(folder)
    earlier = known.get("commands", [])
    facts["commands"] = earlier + [command for command in facts.get("commands", []) if command not in earlier]
    write_json(path, known | facts)


def recall(folder: Path) -> dict[str, Any]:
    """The facts in a run's about.json, or none."""
    path = folder / "about.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
