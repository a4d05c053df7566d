"""The methods, one file per paper, and the contract that each of them keeps.

A method is two modules: its recipe (`recipes/<name>.py`, the settings, free of torch) and its code (`methods/<name>.py`). Both
are found by their names; other packages add methods by the entry point `frugalseg.methods`. `docs/add-a-method.md` builds one.

May use: regions, engine, nets, data, recipes and below. Methods know neither each other nor a workflow.
"""

from __future__ import annotations

import pkgutil
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.recipes.runtime import Runtime
from frugalseg.recipes.selection import Selection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from frugalseg.data import Data
    from frugalseg.engine.run import Run
    from frugalseg.types import Prediction, Sample

ENTRY_POINTS = "frugalseg.methods"  # the group of entry points that adds methods of other packages
TASKS = {  # what a method can make: the name of the task -> the words for it, in the order in which `suggest` prefers them
    "semantic": "semantic masks",
    "instances": "object masks",
    "few_shot": "masks of new classes",
    "foreground": "foreground masks",
}
LABELS = ("instances", "semantic", "tags", "image")  # from the richest label to none


# -- the contract ------------------------------------------------------------------------------------------------------


class Recipe(Protocol):
    """The module of a method's settings; it imports no torch.

    SUMMARY: one line with the source. TASK: a name in TASKS. NEEDS: the `Sample` fields it learns from. BASELINE: the name of the
    method it is compared with, or "". Config: its settings, a frozen dataclass made of the groups in `recipes.groups`.
    """

    SUMMARY: str
    TASK: str
    NEEDS: frozenset[str]
    BASELINE: str
    Config: type[Any]


class Network(Protocol):
    """What `build` returns, an nn.Module; `nets.network.Network` has the shared parts of it.

    config: the settings it was built with. classes: names of the ids 1..C.
    """

    config: Any
    classes: tuple[str, ...]

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Losses of a batch by name, scalars; their sum is minimised."""

    def predict(self, samples: Iterable[Sample], tags: str = "predicted") -> list[Prediction]:
        """Predictions at each image's own size. tags: "given" tells it the classes of each image."""


class Code(Protocol):
    """The module of a method's network and training."""

    build: ClassVar[Callable[[Any, Sequence[str]], nn.Module]]  # (settings, classes) -> a network with its first weights
    train: ClassVar[Callable[[Any, Data, Run], nn.Module]]  # (settings, data with the needed labels alone, run) -> the network


# -- one method --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """What is known of a method before its code is loaded.

    name: as typed. summary: one line with the source. needs: the `Sample` fields it learns from by default; `config.needs` says
    which with other settings. task: a name in TASKS. module, recipe: where its code and its settings are. baseline: the method it
    is compared with, or "".
    """

    name: str
    summary: str
    needs: frozenset[str]
    task: str
    module: str
    recipe: str
    baseline: str = ""

    @property
    def makes(self) -> str:
        """What it predicts, in words."""
        return TASKS[self.task]

    @property
    def config(self) -> type[Any]:
        """The dataclass of its settings; imports no torch."""
        kind: type[Any] = import_module(self.recipe).Config
        return kind

    @property
    def code(self) -> Any:
        """The module of its network and training; imports torch."""
        return import_module(self.module)


# -- discovery ---------------------------------------------------------------------------------------------------------


def described(name: str, recipe: str, module: str) -> Method:
    """The method whose recipe is the module of that name. Raises ValueError for one that does not keep the contract."""
    settings = import_module(recipe)
    missing = [part for part in Recipe.__annotations__ if not hasattr(settings, part)]
    if missing:
        raise ValueError(f"{recipe} has no {', '.join(missing)}; docs/add-a-method.md shows what a recipe has")
    if settings.TASK not in TASKS:
        raise ValueError(f"{recipe}.TASK: got {settings.TASK!r}, expected one of {', '.join(TASKS)}")
    return Method(name, settings.SUMMARY, settings.NEEDS, settings.TASK, module, recipe, settings.BASELINE)


def built_in() -> dict[str, Method]:
    """The methods of this package: each module here has a recipe of the same name."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return {name: described(name, f"frugalseg.recipes.{name}", f"{__name__}.{name}") for name in names}


def installed() -> dict[str, Method]:
    """The methods of other packages, each with the modules `recipe` and `method`; a broken one is left out with a warning."""
    methods = {}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            methods[entry.name] = described(entry.name, f"{entry.value}.recipe", f"{entry.value}.method")
        except Exception as error:  # whatever its import raises, the other methods must work
            warnings.warn(f"the method {entry.name!r} of the package {entry.value} is left out: {error}", stacklevel=2)
    return methods


def discover() -> dict[str, Method]:
    """All methods by name, in the order of `preference`."""
    ours, others = built_in(), installed()
    for name in ours.keys() & others.keys():
        warnings.warn(f"a package adds a method {name!r}, which is built in: the built-in one is used", stacklevel=2)
    methods = others | ours
    baselines = {method.baseline for method in methods.values()}
    return {method.name: method for method in sorted(methods.values(), key=lambda method: preference(method, baselines))}


def preference(method: Method, baselines: Collection[str]) -> tuple[bool, int, int, bool, str]:
    """Sorts methods: masks of known classes first, then the richest labels, then by task; a baseline comes behind its method."""
    richest = min(LABELS.index(label) for label in method.needs)
    known_classes = method.task in ("semantic", "instances")
    return not known_classes, richest, list(TASKS).index(method.task), method.name in baselines, method.name


METHODS: dict[str, Method] = discover()


# -- choosing ----------------------------------------------------------------------------------------------------------


def kinds(method: Method) -> tuple[type, ...]:
    """The dataclasses whose fields are the flat settings of a training."""
    return Selection, method.config, Runtime


def find(name: str) -> Method:
    """The method of this name. Raises UsageError that names the nearest."""
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}{config.did_you_mean(name, METHODS)} `frugalseg methods` lists them")
    return METHODS[name]


def choose(offers: Collection[str]) -> Method | None:
    """The first method that can learn from these labels (names of `Sample` fields), or None."""
    return next((method for method in METHODS.values() if method.needs <= set(offers)), None)


def suggest(data: Any) -> Method:
    """The method that learns from the labels this data set has. Raises UsageError when none can."""
    method = choose(data.offers)
    if method is None:
        needs = "; ".join(f"{method.name} needs {label_words(method.needs)}" for method in METHODS.values())
        raise UsageError(f"no method can learn from {data.root}, which has {label_words(data.offers)}: {needs}")
    return method


def label_words(names: frozenset[str]) -> str:
    """Names of `Sample` fields as people say them."""
    return " and ".join(sorted(names - {"image"})) or "images without labels"
