"""Find the object of each image without any label, with the features of a trained R2O or of any backbone."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frugalseg import config
from frugalseg.inference.predictor import Predictor, load
from frugalseg.methods import METHODS
from frugalseg.recipes.r2o import Config

PARTS = ("parts", "parts_level", "parts_side")  # the settings of the search itself; all others are of the network


def finder(model: str | Path | None = None, device: str = "auto", **settings: Any) -> Predictor:
    """What finds the objects of pictures: the features of a trained R2O, or of any backbone.

    model: a run folder or weights file of R2O; None builds `backbone` from `weights`, random numbers where there are none.
    settings: of `frugalseg.recipes.r2o.Config`: parts, parts_level, parts_side, and without a model backbone, weights, normalize,
    output_stride, levels. Raises UsageError for a model of another method, and for settings that a model brings with it.
    """

    method = METHODS["r2o"]
    if model is not None:
        own = [f"--{name.replace('_', '-')}" for name in settings if name not in PARTS]
        if own:
            raise config.UsageError(f"{', '.join(own)}: {model} has its own; leave {'them' if own[1:] else 'it'} out, or --model")
        predictor = load(model, device)
        if predictor.method.name != method.name:
            raise config.UsageError(
                f"{model} is a model of {predictor.method.name}, expected one of r2o; give its run as --weights"
            )
        predictor.network.config = replace(predictor.network.config, **settings)  # type: ignore[arg-type, type-var]
        return predictor
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not settings.get("weights"):
        warnings.warn(
            "without --model or --weights the features are random numbers, and the objects found with them mean little; "
            "`frugalseg train r2o IMAGES` learns some from the pictures alone",
            stacklevel=2,
        )
    torch.manual_seed(0)
    network = method.code.Network(config.build(Config, config.resolve([Config], settings))).to(device).eval()
    if network.encoder.transformer:  # nobody has taught its transposed convolutions: the transformer's own map is looked at
        network.encoder.finer = network.encoder.coarser = nn.Identity()
    return Predictor(method, network, network.classes)
