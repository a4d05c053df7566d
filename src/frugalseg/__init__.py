"""Segment with whatever labels you have: none, a few masks, image tags, or full masks.

    import frugalseg
    data = frugalseg.read("photos", split="train")
    model = frugalseg.train("aepsl", data, rounds=2)
    for prediction in model.predict("new_photos"):
        print(prediction.name, prediction.semantic.shape)

`import frugalseg` itself loads nothing heavy: each name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from frugalseg import moved

if TYPE_CHECKING:
    from frugalseg.data import read
    from frugalseg.inference.predictor import load
    from frugalseg.methods import METHODS
    from frugalseg.types import Instances, Prediction, Sample
    from frugalseg.workflows.evaluate import evaluate
    from frugalseg.workflows.few_shot import Few
    from frugalseg.workflows.train import train

_HOMES = {
    "METHODS": "frugalseg.methods",
    "Few": "frugalseg.workflows.few_shot",
    "Instances": "frugalseg.types",
    "Prediction": "frugalseg.types",
    "Sample": "frugalseg.types",
    "evaluate": "frugalseg.workflows.evaluate",
    "load": "frugalseg.inference.predictor",
    "read": "frugalseg.data",
    "train": "frugalseg.workflows.train",
}
__all__ = ["METHODS", "Few", "Instances", "Prediction", "Sample", "evaluate", "load", "read", "train"]


moved.install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("frugalseg")
    if name not in _HOMES:
        raise AttributeError(f"module 'frugalseg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
