"""The command line. `--help` answers at once: nothing heavy is imported before a command really starts."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.files import MAX_PIXELS
from frugalseg.methods import METHODS, Method
from frugalseg.recipes import checks
from frugalseg.recipes.biopt import Free
from frugalseg.recipes.runtime import Runtime
from frugalseg.recipes.selection import Selection
from frugalseg.tasks import TASKS

if TYPE_CHECKING:
    from frugalseg.inference.predictor import Predictor

OK, PROBLEM, USAGE, INTERRUPTED = 0, 1, 2, 130
HEAD = "frugalseg – segment with whatever labels you have"
FOOT = """\
`val` and `test` are other names of `evaluate`.
`frugalseg COMMAND --help` lists a command's options, `frugalseg train METHOD --help` a method's settings.
--version prints the version; --debug shows where an error comes from.
Exit status: 0 done, 1 a problem in the data or the work, 2 the command cannot be understood."""


# -- options, by command ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demo:
    """Options of the demo.

    Args:
        train: pictures to learn from.
        val: pictures to score on.
        size: side of the pictures in pixels.
        seed: another seed draws other pictures and trains from other random numbers.
        quiet: say nothing of the progress.
    """

    train: int = 400
    val: int = 100
    size: int = 128
    seed: int = 0
    quiet: bool = False


@dataclass(frozen=True)
class Check:
    """What to check.

    Args:
        layout: voc, coco, sbd, cityscapes, cub, imagenet-s, objects, masks, tags, classes or images; empty looks for itself.
        classes: a text file of class folders, one a line: only pictures in them are looked at; empty takes all.
        skip_limit: share of pictures that may be left out as broken before training is refused.
    """

    layout: str = ""
    classes: str = ""
    skip_limit: float = 0.05


@dataclass(frozen=True)
class Start:
    """Where the settings come from.

    Args:
        config: a YAML file of settings; what the command line says wins.
        resume: a run folder to go on with, by the settings in it.
    """

    config: str = ""
    resume: str = ""


@dataclass(frozen=True)
class Evaluate:
    """How to score.

    Args:
        split: the list of pictures; empty takes all that have masks.
        proposals: other boxes than in training, for models that take some: selective_search, grid, random, a file or folder.
        skip_limit: share of pictures, labels or objects that may be left out as broken before that is an error.
        quiet: say nothing of the progress.
    """

    split: str = "val"
    proposals: str = ""
    skip_limit: float = 0.05
    quiet: bool = False


@dataclass(frozen=True)
class Predict:
    """What to write.

    Args:
        out: the folder for masks/ or objects/ (indexed PNG), overlays/ (JPEG), COCO's JSON of objects, tags.csv, skipped.csv.
        overlays: draw the masks over the pictures too.
        min_score: objects below it are neither drawn nor in instances.json; results.json has all.
        tags: "given" tells the model which classes are in each picture; IMAGES are data sets with tags then.
        split: the list of pictures of such data sets; empty takes all.
        tile: side of the squares, in pixels, in which larger pictures are searched for objects; 0 takes them whole.
        overlap: pixels that neighbouring squares share; 0 takes a quarter of the side.
        max_pixels: pictures of more pixels, height times width, are skipped.
        proposals: other boxes than in training, for models that take some: selective_search, grid, random, a file or folder.
        quiet: say nothing of the progress.
    """

    out: str = "predictions"
    overlays: bool = True
    min_score: float = 0.5
    tags: Literal["predicted", "given"] = "predicted"
    split: str = ""
    tile: int = 0
    overlap: int = 0
    max_pixels: int = MAX_PIXELS
    proposals: str = ""
    quiet: bool = False

    def __post_init__(self) -> None:
        checks.refuse("predict", checks.faults(self, {"tile": 0, "overlap": 0}, ["min_score"]))


@dataclass(frozen=True)
class Segment:
    """What to segment.

    Args:
        model: a run folder or weights file of biopt; empty takes a feature network with its library's weights alone.
        out: the folder for masks/ (indexed PNG), overlays/ (JPEG), tags.csv (how sure it is of each class) and skipped.csv.
        split: the list of references in a folder that has lists; empty takes all.
        shots: references of each class, its first by name; 0 takes all.
        threshold: a class it is less sure of counts as absent.
        advice: say which reference helps and which hurts.
        overlays: draw the masks over the pictures too.
        quiet: say nothing of the progress.
    """

    model: str = ""
    out: str = "segmented"
    split: str = ""
    shots: int = 0
    threshold: float = 0.5
    advice: bool = True
    overlays: bool = True
    quiet: bool = False


@dataclass(frozen=True)
class Objects:
    """How to look for objects.

    Args:
        model: a run folder or weights file of r2o; empty takes `backbone` with `weights`.
        backbone: feature network: resnet18/50/101, vgg16, mobilenet_v2, tiny, timm/<transformer>.
        weights: a file of backbone weights, a run folder of any method, or "imagenet"; none takes random numbers.
        normalize: how those weights want the picture: "imagenet" (torchvision's), "half" (-1 to 1: TensorFlow's), "caffe" (BGR).
        output_stride: pixels of the image per cell of the last map.
        levels: the blocks of the fine and the coarse map; 14 and 18 in mobilenet_v2.
        parts: clusters of each picture, one of which is the object.
        parts_level: the map that is clustered, "fine" or "coarse".
        parts_side: longer side of the picture then, in pixels.
        out: the folder for masks/ (indexed PNG), overlays/ (JPEG) and skipped.csv.
        overlays: draw the masks over the pictures too.
        score: IMAGES is a data set with masks: say how well its objects are found, with and without an oracle.
        split: its list to score; empty takes all.
        quiet: say nothing of the progress.
    """

    model: str = ""
    backbone: str = "resnet50"
    weights: str | None = None
    normalize: Literal["imagenet", "half", "caffe"] = "imagenet"
    output_stride: int = 32
    levels: tuple[int, int] = (4, 5)
    parts: int = 5
    parts_level: Literal["fine", "coarse"] = "fine"
    parts_side: int = 448
    out: str = "objects"
    overlays: bool = True
    score: bool = False
    split: str = ""
    quiet: bool = False


@dataclass(frozen=True)
class Backbone:
    """Where the backbone goes.

    Args:
        to: whose names it gets: torchvision, timm, detectron2 or mmsegmentation.
    """

    to: str = "torchvision"


@dataclass(frozen=True)
class Regions:
    """How to compute.

    Args:
        split: the list of pictures; empty takes all.
        classes: a text file of class folders, one a line: only pictures in them are taken; empty takes all.
        jobs: pictures at a time; 0 takes all cores.
        cache: folder of the cache; empty takes $FRUGALSEG_CACHE, else the user's cache folder.
        square: side in pixels to which the pictures are squashed before, as r2o does (its --side); 0 takes them as they are.
        arguments: of the tool, such as '{"segments": 200}'.
    """

    split: str = ""
    classes: str = ""
    jobs: int = 0
    cache: str = ""
    square: int = 0
    arguments: dict[str, Any] | None = None


@dataclass(frozen=True)
class Shapes:
    """What to draw.

    Args:
        train: pictures of the list train.
        val: pictures of the list val.
        test: pictures of the list test.
        seed: another seed draws other pictures.
        size: side of the pictures in pixels.
    """

    train: int = 500
    val: int = 100
    test: int = 100
    seed: int = 0
    size: int = 128


# -- commands: (free words, given options) -> exit status ------------------------------------------------------------------------


def demo(words: list[str], given: dict[str, Any]) -> int:
    """Draw images, learn from their tags, score, and write a report."""
    from frugalseg.data import shapes
    from frugalseg.methods import kinds
    from frugalseg.workflows.train import fit

    options, predict = config.resolve([Demo], given), Path(words[0] if words else "demo")
    method = METHODS["aepsl"]
    say(f"1/3 Drawing the built-in pictures into {predict / 'data'}")
    counts = {name: options[name] for name in ("train", "val", "size", "seed", "quiet")}
    data = shapes.write(predict / "data", test=0, **counts)
    with resources.as_file(resources.files("frugalseg.recipes") / "demo.yaml") as recipe:
        own = {"out": str(predict / "runs"), "seed": options["seed"], "quiet": options["quiet"]}
        settings = config.resolve(kinds(method), config.read(recipe), own)
    say("2/3 Training AE-PSL on their tags; stopped at any time, the same command goes on from there")
    predictor = fit(method, data, settings)
    say("3/3 Scoring on pictures with masks")
    return finish(predictor, data, "val", options["quiet"])


def check(words: list[str], given: dict[str, Any]) -> int:
    """Say what a folder holds, what is wrong with it, and what can be trained."""
    from frugalseg.workflows.check import check as examine

    options = config.resolve([Check], given)
    layout, classes = options["layout"] or None, options["classes"] or None
    report = examine(Path(words[0]), layout, options["skip_limit"], classes=classes)
    show(report)
    return OK if report.ok else PROBLEM


def train(words: list[str], given: dict[str, Any]) -> int:
    """Train a method, or go on with a run; scores it when it is done."""
    from frugalseg.methods import find, kinds, suggest
    from frugalseg.workflows.train import fit

    start = config.resolve([Start], {name: given.pop(name) for name in ("config", "resume") if name in given})
    predict = Path(start["resume"]) if start["resume"] else None
    written = [config.read(path) for path in (predict and predict / "config.yaml", start["config"]) if path]
    named, place = "", ""
    for layer in written:
        named, place = layer.pop("method", named), layer.pop("data", place)
    named = words.pop(0) if words and words[0] in METHODS else named
    place = words[0] if words else place
    if not place:
        raise UsageError("train: got no data, expected frugalseg train [METHOD] DATA")
    data: Any = place
    if named:
        method = find(named)
    else:
        from frugalseg.data import read

        known = config.options(Selection)
        common = config.resolve(
            [Selection], *({name: value for name, value in layer.items() if name in known} for layer in (*written, given))
        )
        data = read(place, common["split"] or None, skip_limit=common["skip_limit"], classes=common["classes"] or None)
        method = suggest(data)
        say(f"{place} has {', '.join(sorted(data.offers - {'image'}))}: training {method.name}, {method.summary}")
    settings = config.resolve(kinds(method), *written, given)
    predictor = fit(method, data, settings, predict)
    return finish(predictor, place, settings["val"], settings["quiet"], settings["skip_limit"])


def finish(predictor: Predictor, data: str | Path, split: str, quiet: bool, skip_limit: float = 0.05) -> int:
    """After a training: score it if the data can, else draw some of its pictures, write the report, say where everything is."""
    from frugalseg.data.problems import DataError
    from frugalseg.workflows import report
    from frugalseg.workflows.evaluate import evaluate, preview
    from frugalseg.workflows.run_folder import update_run_info

    if not predictor.main or predictor.folder is None:
        return OK
    update_run_info(predictor.folder, commands=[typed()])
    scored = False
    if split:
        try:
            show(evaluate(predictor, data, split, quiet=quiet, skip_limit=skip_limit).table())
            scored = True
        except DataError as error:
            say(f"The training is done, but nothing was scored: {error}\n`frugalseg evaluate {predictor.folder} DATA` does that.")
    if not scored:
        preview(predictor, data, quiet)
    say(f"run     {predictor.folder}\nreport  {report.write(predictor.folder)}")
    return OK


def evaluate(words: list[str], given: dict[str, Any]) -> int:
    """Score a run on images with labels."""
    from frugalseg.inference.predictor import load
    from frugalseg.workflows import evaluate, report
    from frugalseg.workflows.run_folder import update_run_info

    run, data = words
    known = config.options(Evaluate)
    options = config.resolve([Evaluate], {name: value for name, value in given.items() if name in known})
    scoring = {name: value for name, value in given.items() if name not in known}
    predictor = load(run, proposals=options.pop("proposals"))
    show(evaluate.evaluate(predictor, data, **options, **scoring).table())
    if predictor.folder:
        update_run_info(predictor.folder, commands=[typed()])
        say(f"report  {report.write(predictor.folder)}")
    return OK


def predict(words: list[str], given: dict[str, Any]) -> int:
    """Write what a run predicts for images."""
    from frugalseg.data import read
    from frugalseg.inference.predictor import load
    from frugalseg.workflows import predict

    options = vars(config.build(Predict, config.resolve([Predict], given)))
    split, predictor = options.pop("split"), load(words[0], proposals=options.pop("proposals"))
    pictures: list[Any] = words[1:]
    if options["tags"] == "given" or split:
        # Labels are not what is asked for, and every picture that is left out stands in skipped.csv: no share is too much.
        pictures = [read(place, split=split or None, skip_limit=1.0, max_pixels=options["max_pixels"]) for place in pictures]
    return tell(*predict.write(predictor, pictures, **options), options["out"], "predicted")


def tell(done: int, skipped: Sequence[Any], out: str, what: str) -> int:
    """Say how many pictures were written and which were left out; the exit status."""
    say(f"{done} pictures {what} into {out}")
    if skipped:
        say(f"{len(skipped)} skipped, listed in {Path(out) / 'skipped.csv'}:")
        say("\n".join(f"  {error}" for error in skipped[:10]) + ("\n  …" if len(skipped) > 10 else ""))
    return OK if done else PROBLEM


def segment(words: list[str], given: dict[str, Any]) -> int:
    """Find the classes of a few references in images, without training."""
    from frugalseg.data import read
    from frugalseg.workflows import predict
    from frugalseg.workflows.few_shot import Few

    known = config.options(Segment)
    options = config.resolve([Segment], {name: value for name, value in given.items() if name in known})
    settings = {name: value for name, value in given.items() if name not in known}
    references = read(words[0], split=options["split"] or None, skip_limit=1.0)
    # Whatever is not there is said before the network is made, or its weights are fetched.
    pictures = [read(place, layout="images", verify=False, skip_limit=1.0) for place in words[1:]]
    few = Few(options["model"] or None, options["threshold"], **settings)
    predictor = few.fit(references, options["shots"], quiet=options["quiet"])
    say("\n".join(few.report(options["advice"], quiet=options["quiet"])))
    found, skipped = few.others(pictures)
    done, broken = predict.write(predictor, found, options["out"], options["overlays"], options["quiet"], skipped)
    return tell(done, broken, options["out"], "segmented")


def objects(words: list[str], given: dict[str, Any]) -> int:
    """Find objects without labels, or score what is found."""
    from frugalseg.workflows import find_objects, predict
    from frugalseg.workflows.evaluate import evaluate

    options = config.resolve([Objects], given)
    written = [name for name in ("out", "overlays") if name in given]
    if options["score"] and written:
        raise UsageError(f"--{' and --'.join(written)}: --score writes no pictures; leave one of the two out")
    if "split" in given and not options["score"]:
        raise UsageError("--split: it chooses what is scored; add --score, or leave it out")
    out, overlays, quiet = options["out"], options["overlays"], options["quiet"]
    places = ("model", "out", "overlays", "score", "split", "quiet")
    settings = {name: value for name, value in (given if options["model"] else options).items() if name not in places}
    finder = find_objects.finder(options["model"] or None, **settings)
    if options["score"]:
        for place in words:
            show(evaluate(finder, place, options["split"], quiet=quiet).table())
        return OK
    return tell(*predict.write(finder, words, out, overlays, quiet), out, "searched for objects")


def backbone(words: list[str], given: dict[str, Any]) -> int:
    """Write a run's backbone as another library reads it."""
    from frugalseg.export import backbone as export

    options = config.resolve([Backbone], given)
    say(f"the backbone is in {export.export(words[0], words[1], options['to'])}, as {options['to']} names it")
    return OK


def regions(words: list[str], given: dict[str, Any]) -> int:
    """Compute regions of a data set into the cache."""
    import inspect

    from frugalseg.data import read
    from frugalseg.regions import precompute, proposals, tool_named
    from frugalseg.regions.cache import Cache

    options, (name, place) = config.resolve([Regions], given), words
    tool = tool_named(name)
    arguments, known = options["arguments"] or {}, list(inspect.signature(tool).parameters)[1:]
    strange = [f"{name} has no argument {key!r}{config.did_you_mean(key, known)}" for key in arguments if key not in known]
    if strange:
        raise UsageError("\n".join(strange))
    cache = Cache(options["cache"] or None)
    data = read(place, split=options["split"] or None, skip_limit=1.0, classes=options["classes"] or None)
    for problem in data.problems:
        if problem.effect:
            complain(str(problem))
    filled = precompute.fill(data, tool, cache, options["jobs"] or None, options["square"], **arguments)
    counts = f"{filled.made} made, {filled.found} there before, {filled.unkept} not kept, {len(filled.failed)} failed"
    failures = [f"  {picture}: {why}" for picture, why in filled.failed.items()]
    say("\n".join([f"{tool.__name__}: {counts}", *failures, f"cache  {cache.folder}"]))
    if tool in proposals.TOOLS.values() and not filled.failed:
        scores = precompute.recall(data, tool, cache, **arguments)
        show(scores.table()) if scores.images else say("no picture has objects with boxes or masks: no recall to tell")
    return PROBLEM if filled.failed or filled.unkept else OK


def shapes(words: list[str], given: dict[str, Any]) -> int:
    """Draw the built-in data set."""
    from frugalseg.data.shapes import write

    say(f"the built-in pictures are in {write(words[0], **config.resolve([Shapes], given))}")
    return OK


def methods(words: list[str], given: dict[str, Any]) -> int:
    """List the methods."""
    from rich.table import Table

    table = Table("method", "learns from", "makes", "paper")
    for method in METHODS.values():
        table.add_row(method.name, ", ".join(sorted(method.needs)), method.makes, method.summary)
    show(table)
    return OK


@dataclass(frozen=True)
class Command:
    """One sub-command. words: its free words in the usage line. counts: how few and how many of them it takes."""

    run: Callable[[list[str], dict[str, Any]], int]
    summary: str
    words: str
    counts: tuple[int, float]
    options: tuple[type, ...] = ()


_ANY = math.inf
SCORING = tuple(dict.fromkeys(task.options for task in TASKS.values()))
_EVALUATE = Command(evaluate, "score a trained model on pictures with masks", "RUN DATA", (2, 2), (Evaluate, *SCORING))
COMMANDS = {
    "demo": Command(demo, "draw pictures, learn from their tags, score, report: a few minutes", "[FOLDER]", (0, 1), (Demo,)),
    "check": Command(check, "what labels there are, what can be trained with them, what is wrong", "DATA", (1, 1), (Check,)),
    "train": Command(train, "learn from DATA; without METHOD, by what its labels allow", "[METHOD] DATA", (0, 2), (Start,)),
    "evaluate": _EVALUATE,
    "val": _EVALUATE,
    "test": _EVALUATE,
    "predict": Command(predict, "masks, overlays and tags for pictures and folders", "RUN IMAGES...", (2, _ANY), (Predict,)),
    "segment": Command(
        segment,
        "a few masked pictures, then any others: masks without training",
        "REFERENCES IMAGES...",
        (2, _ANY),
        (Segment, Free),
    ),
    "objects": Command(objects, "find the object of each picture without any label", "IMAGES...", (1, _ANY), (Objects,)),
    "backbone": Command(backbone, "a trained backbone under another library's names", "RUN FILE", (2, 2), (Backbone,)),
    "regions": Command(regions, "fill the cache of superpixels, saliency, … on all cores", "TOOL DATA", (2, 2), (Regions,)),
    "shapes": Command(shapes, "write the built-in picture set in VOC and COCO layout", "OUT", (1, 1), (Shapes,)),
    "methods": Command(methods, "the methods and the labels they need", "", (0, 0)),
}


# -- from words to a command -----------------------------------------------------------------------------------------------------


RESUMED, TERMINATED = ("demo", "train", "regions"), 128 + signal.SIGTERM  # commands that go on where they were


def stopped(words: Sequence[str]) -> str:
    """What a command that was stopped says."""
    return f"stopped; the same command {'goes on where it was' if words and words[0] in RESUMED else 'begins anew'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status; what a user did wrong is one line, not a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn
            return dispatch([word for word in words if word != "--debug"])
    except KeyboardInterrupt:
        complain(stopped(words))
        return INTERRUPTED
    except SystemExit as end:
        if end.code == TERMINATED:
            complain(stopped(words))
        raise
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PROBLEM
    except Exception as error:
        ours = isinstance(error, (ValueError, OSError)) or type(error).__module__.startswith("frugalseg")
        if debug or not ours:
            traceback.print_exc()
        complain(f"error: {error}")
        return USAGE if isinstance(error, UsageError) else PROBLEM


def dispatch(words: list[str]) -> int:
    """Find the command, split its words from its options, check both, and run it. Raises UsageError."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return OK if words else USAGE
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"frugalseg {version('frugalseg')}")
        return OK
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name!r}{config.did_you_mean(name, COMMANDS)}\n`frugalseg --help` lists them")
    command = COMMANDS[name]
    kinds = command.options + (_kinds_of_training(rest) if command.run is train else ())
    if "--help" in rest or "-h" in rest:
        print_help(name, command, kinds, rest)
        return OK
    free, given = config.parse(kinds, rest)
    low, high = command.counts
    if not low <= len(free) <= high:
        hint = "; switches take no value: type --NAME or --no-NAME" if {"true", "false"} & {word.lower() for word in free} else ""
        raise UsageError(f"{name}: got {' '.join(free) or 'nothing'}, expected frugalseg {name} {command.words}{hint}")
    return command.run(free, given)


def _kinds_of_training(words: Sequence[str]) -> tuple[type, ...]:
    """The settings `train` takes: those of the method named first, or else of all methods; `resolve` is strict later."""
    free, _ = config.split(config.options(Start, Selection, *_recipes(), Runtime), words)
    named: list[Method] = [METHODS[word] for word in free[:1] if word in METHODS]
    if len(free) == 2 and not named:
        raise UsageError(f"there is no method {free[0]!r}{config.did_you_mean(free[0], METHODS)} `frugalseg methods` lists them")
    return Selection, *([named[0].config] if named else _recipes()), Runtime


def _recipes() -> list[type]:
    return [method.config for method in METHODS.values()]


def overview() -> str:
    """The text of `frugalseg --help`."""
    shown = {f"{name} {command.words}": command.summary for name, command in COMMANDS.items() if name not in ("val", "test")}
    width = max(map(len, shown)) + 2
    lines = [f"  {typed:<{width}}{summary}" for typed, summary in shown.items()]
    return "\n".join([HEAD, "", "usage: frugalseg COMMAND …", "", *lines, "", FOOT])


def print_help(name: str, command: Command, kinds: tuple[type, ...], words: Sequence[str]) -> None:
    """Every option of a command with its meaning and default."""
    method = next((word for word in words if word in METHODS), "") if command.run is train else ""
    words_shown = command.words.replace("[METHOD]", method) if method else command.words
    usage = f"frugalseg {name} {words_shown}{' [--option value …]' if kinds else ''}"
    summary = METHODS[method].summary if method else command.summary
    config.parser(*kinds, prog=f"frugalseg {name}", usage=usage, description=summary[0].upper() + summary[1:] + ".").print_help()


# -- saying things ---------------------------------------------------------------------------------------------------------------


def first_process() -> bool:
    """Whether this is the only or the first process of a parallel training; the others say nothing."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def say(text: str) -> None:
    """A line for people. File names come from outside: control characters must not reach the terminal."""
    if first_process():
        print(printable(text), flush=True)


def complain(text: str) -> None:
    """A line on the error stream."""
    print(printable(text), file=sys.stderr, flush=True)


def warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning without the place in the code where it was thought of."""
    if first_process():
        complain(f"warning: {message}" if category is UserWarning else f"{category.__name__}: {message}")


def printable(text: str) -> str:
    """The text with its control characters written out, all but line breaks."""
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def show(table: Any) -> None:
    """Print a table in colour."""
    from rich.console import Console

    if first_process():
        Console().print(table)


def typed() -> str:
    """The command as it was typed."""
    return shlex.join(["frugalseg", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
