"""Modules that have moved: their old names keep working in users' scripts, with a warning that says the new one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

MOVED: dict[str, tuple[str, ...]] = {  # old name -> where its names are looked for now, in this order
    "frugalseg.data.check": ("frugalseg.workflows.check",),
    "frugalseg.data.objects": ("frugalseg.data.detection",),
    "frugalseg.evaluation": ("frugalseg.workflows.evaluate",),
    "frugalseg.export.coco": ("frugalseg.data.formats.coco_writer",),
    "frugalseg.export.folder": ("frugalseg.workflows.predict",),
    "frugalseg.export.png": ("frugalseg.data.png",),
    "frugalseg.few": ("frugalseg.workflows.few_shot",),
    "frugalseg.fewshot": ("frugalseg.tasks.few_shot",),
    "frugalseg.foreground": ("frugalseg.tasks.foreground", "frugalseg.workflows.find_objects"),
    "frugalseg.objects": ("frugalseg.tasks.instances",),
    "frugalseg.predictor": ("frugalseg.inference.predictor",),
    "frugalseg.report": ("frugalseg.workflows.report",),
    "frugalseg.retrain": ("frugalseg.workflows.pseudo_labels",),
    "frugalseg.run": ("frugalseg.engine.log", "frugalseg.engine.sampler", "frugalseg.engine.run"),
    "frugalseg.tiling": ("frugalseg.inference.tiling",),
    "frugalseg.training": ("frugalseg.workflows.train", "frugalseg.methods", "frugalseg.recipes.selection"),
}


class MovedModule(ModuleType):
    """Stands under an old name and takes each attribute from the module that has it now."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for place in MOVED[self.__name__]:
            module = import_module(place)
            if hasattr(module, name):
                warnings.warn(f"{self.__name__} has moved: import {name} from {place}", DeprecationWarning, stacklevel=2)
                return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has moved to {', '.join(MOVED[self.__name__])}; none has {name!r}")


def install(moved: Mapping[str, tuple[str, ...]] = MOVED) -> None:
    """Put a stand-in under each old name; nothing is imported before one of them is used."""
    for old in moved:
        sys.modules.setdefault(old, MovedModule(old))
