"""Find the object of each image without any label, with the features of a trained R2O or of any backbone."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from frugalseg import config
from frugalseg.inference.predictor import Predictor, load
from frugalseg.methods import METHODS
from frugalseg.methods.r2o import R2O, untrained
from frugalseg.recipes.r2o import Config

PARTS = ("parts", "parts_level", "parts_side")  # the settings of the search itself; all others are of the network


def finder(model: str | Path | None = None, device: str = "auto", **settings: Any) -> Predictor:
    """What finds the objects of images: the features of a trained R2O, or of any backbone.

    model: a run folder or weights file of R2O; None builds `backbone` from `weights`, random numbers where there are none.
    settings: of `frugalseg.recipes.r2o.Config`: parts, parts_level, parts_side, and without a model backbone, weights, normalize,
    output_stride, levels. Raises UsageError for a model of another method, and for settings that a model brings with it.
    """
    return _untrained(device, settings) if model is None else _trained(model, device, settings)


def _trained(model: str | Path, device: str, settings: dict[str, Any]) -> Predictor:
    """A trained model with other settings for the search."""
    fixed = [f"--{name.replace('_', '-')}" for name in settings if name not in PARTS]
    if fixed:
        raise config.UsageError(f"{', '.join(fixed)}: {model} has its own; leave {'them' if fixed[1:] else 'it'} out, or --model")
    predictor = load(model, device)
    if not isinstance(predictor.network, R2O):
        raise config.UsageError(f"{model} is a model of {predictor.method.name}, expected one of r2o; give its run as --weights")
    return replace(predictor, network=predictor.network.with_settings(**_resolved(predictor.network.config, settings)))


def _resolved(trained: Config, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as a recipe takes them. Raises UsageError for values that are not valid beside those of the training."""
    values = config.resolve([Config], asdict(trained) | settings)
    config.build(Config, values)
    return {name: values[name] for name in settings}


def _untrained(device: str, settings: dict[str, Any]) -> Predictor:
    """The maps of a backbone as they are."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not settings.get("weights"):
        warnings.warn(
            "without --model or --weights the features are random numbers, and the objects found with them mean little; "
            "`frugalseg train r2o IMAGES` learns some from the images alone",
            stacklevel=3,
        )
    torch.manual_seed(0)
    network = untrained(config.build(Config, config.resolve([Config], settings))).to(device).eval()
    return Predictor(METHODS["r2o"], network, network.classes)
