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

if TYPE_CHECKING:
    from frugalseg.data import read
    from frugalseg.evaluation import evaluate
    from frugalseg.few import Few
    from frugalseg.methods import METHODS
    from frugalseg.predictor import load
    from frugalseg.training import train
    from frugalseg.types import Instances, Prediction, Sample

_HOMES = {
    "METHODS": "frugalseg.methods",
    "Few": "frugalseg.few",
    "Instances": "frugalseg.types",
    "Prediction": "frugalseg.types",
    "Sample": "frugalseg.types",
    "evaluate": "frugalseg.evaluation",
    "load": "frugalseg.predictor",
    "read": "frugalseg.data",
    "train": "frugalseg.training",
}
__all__ = ["METHODS", "Few", "Instances", "Prediction", "Sample", "evaluate", "load", "read", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("frugalseg")
    if name not in _HOMES:
        raise AttributeError(f"module 'frugalseg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
