"""The methods, one file per paper. This list is free of torch; a method's code is imported when it is used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.recipes.runtime import Runtime
from frugalseg.recipes.selection import Selection


@dataclass(frozen=True)
class Method:
    """What is known of a method before its code is loaded.

    name: as typed. summary: one line with the source. needs: the `Sample` fields it learns from. makes: what it predicts.
    module: its code, with `train(config, data, run)` and `load(state, metadata)`. recipe: the module of its settings, `Config`,
    which also says what it `needs` with these settings and what `extra_supervision` comes in beside the labels.
    """

    name: str
    summary: str
    needs: frozenset[str]
    makes: str
    module: str
    recipe: str

    @property
    def config(self) -> type[Any]:
        """The dataclass of its settings; imports no torch."""
        return import_module(self.recipe).Config

    @property
    def code(self) -> Any:
        """Its module; imports torch."""
        return import_module(self.module)


NEW_CLASSES = "masks of new classes"  # what is scored by episodes
OBJECTS = "object masks"  # likewise: they are scored by average precision
FOREGROUND = "foreground masks"  # of one class, "object", whatever the classes of the data

# In the order of preference, the richest labels first: `train` without a method takes the first whose labels are there.
METHODS: dict[str, Method] = {
    "r2ios": Method(
        name="r2ios",
        summary="R2-IOS: reversible recursive refinement of object masks (Liang et al., CVPR 2016)",
        needs=frozenset({"image", "instances"}),
        makes=OBJECTS,
        module="frugalseg.methods.r2ios",
        recipe="frugalseg.recipes.r2ios",
    ),
    "aepsl": Method(
        name="aepsl",
        summary="AE-PSL: adversarial erasing and prohibitive learning (Wei et al., CVPR 2017)",
        needs=frozenset({"image", "tags"}),
        makes="semantic masks",
        module="frugalseg.methods.aepsl",
        recipe="frugalseg.recipes.aepsl",
    ),
    "pdsl": Method(
        name="pdsl",
        summary="PDSL: parallel detection and segmentation from tags (Shen et al., ICCV 2021)",
        needs=frozenset({"image", "tags"}),
        makes=OBJECTS,
        module="frugalseg.methods.pdsl",
        recipe="frugalseg.recipes.pdsl",
    ),
    "cam": Method(
        name="cam",
        summary="CAM: class activation maps as object masks (Zhou et al., CVPR 2016), the baselines beside PDSL",
        needs=frozenset({"image", "tags"}),
        makes=OBJECTS,
        module="frugalseg.methods.cam",
        recipe="frugalseg.recipes.cam",
    ),
    "biopt": Method(
        name="biopt",
        summary="BiOpt: masks of new classes from a few examples (Liu et al., 2020)",
        needs=frozenset({"image", "semantic"}),
        makes=NEW_CLASSES,
        module="frugalseg.methods.biopt",
        recipe="frugalseg.recipes.biopt",
    ),
    "maskrcnn": Method(
        name="maskrcnn",
        summary="Mask R-CNN (He et al., ICCV 2017), torchvision's: the baseline beside R2-IOS",
        needs=frozenset({"image", "instances"}),
        makes=OBJECTS,
        module="frugalseg.methods.maskrcnn",
        recipe="frugalseg.recipes.maskrcnn",
    ),
    "r2o": Method(
        name="r2o",
        summary="R2O: a backbone from pictures alone, and objects without labels (Gokul et al., 2022)",
        needs=frozenset({"image"}),
        makes=FOREGROUND,
        module="frugalseg.methods.r2o",
        recipe="frugalseg.recipes.r2o",
    ),
}


def choose(offers: Collection[str]) -> Method | None:
    """The first method that can learn from these labels (names of `Sample` fields), or None."""
    return next((method for method in METHODS.values() if method.needs <= set(offers)), None)


def kinds(method: Method) -> tuple[type, ...]:
    """The dataclasses whose fields are the flat settings of a training."""
    return Selection, method.config, Runtime


def find(name: str) -> Method:
    """The method of this name. Raises UsageError that names the nearest."""
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}{config.did_you_mean(name, METHODS)} `frugalseg methods` lists them")
    return METHODS[name]


def suggest(data: Any) -> Method:
    """The method that learns from the labels this data set has. Raises UsageError when none can."""
    method = choose(data.offers)
    if method is None:
        needs = "; ".join(f"{method.name} needs {label_words(method.needs)}" for method in METHODS.values())
        raise UsageError(f"no method can learn from {data.root}, which has {label_words(data.offers)}: {needs}")
    return method


def label_words(names: frozenset[str]) -> str:
    """Names of `Sample` fields as people say them."""
    return " and ".join(sorted(names - {"image"})) or "pictures without labels"
