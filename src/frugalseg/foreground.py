"""Objects of pictures without any label: find them with any backbone, and score them on pictures whose masks are known."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalseg.data import Data, read
from frugalseg.data.problems import DataError
from frugalseg.evaluation import record
from frugalseg.methods import METHODS
from frugalseg.metrics.foreground import ForegroundScores
from frugalseg.predictor import Predictor, load
from frugalseg.progress import track
from frugalseg.regions.foreground import inner
from frugalseg.types import IGNORE, Sample

PARTS = ("parts", "parts_level", "parts_side")  # the settings of the search itself; all others are of the network


def finder(model: str | Path | None = None, device: str = "auto", **settings: Any) -> Predictor:
    """What finds the objects of pictures: the features of a trained R2O, or of any backbone.

    model: a run folder or weights file of R2O; None builds `backbone` from `weights`, random numbers where there are none.
    settings: of `frugalseg.recipes.r2o.Config`: parts, parts_level, parts_side, and without a model backbone, weights, normalize,
    output_stride, levels. Raises UsageError for a model of another method, and for settings that a model brings with it.
    """
    from frugalseg import config
    from frugalseg.recipes.r2o import Config

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


def evaluate(predictor: Predictor, data: str | Path | Data, split: str | None = None, quiet: bool = False) -> ForegroundScores:
    """Overlap of the object that is found with everything that is annotated, on pictures with masks; see `ForegroundScores`.

    data: a folder, of which the list `split` is read, or what `frugalseg.read` returned. Pictures that show no object are left
    out. A run folder keeps the scores. Raises DataError for data without masks.
    """
    data = read(data, split=split) if isinstance(data, (str, Path)) else data
    if not data.offers & {"semantic", "instances"}:
        raise DataError(f"{data.root}, list {data.split!r}: no picture has a mask to score with; give another --split")
    scores, network = ForegroundScores(data.root.resolve().name, data.split or "all"), predictor.network.eval()
    known = data.only("semantic", "instances")
    for sample in track((known[index] for index in range(len(known))), "evaluate", len(known), quiet=quiet):
        mask = annotated(sample)
        if mask is None or not (mask == 1).any():
            continue
        ids: Tensor = network.parts(sample.image)  # type: ignore[operator]
        stretched = F.interpolate(ids[None, None].float(), tuple(mask.shape), mode="nearest-exact")[0, 0].long().cpu()
        scores.update(sample.name, stretched, inner(ids), mask == 1, mask == IGNORE)
    if not scores.images:
        raise DataError(f"{data.root}, list {data.split!r}: no picture shows an object")
    if predictor.folder:
        record(predictor.folder, scores)
    return scores


def annotated(sample: Sample) -> Tensor | None:
    """(H, W) int64 of 1 = any object, 0 = background, 255 = ignore, from class masks or object masks; None without either."""
    if sample.semantic is not None:
        semantic = sample.semantic.as_subclass(Tensor)
        return torch.where(semantic == IGNORE, IGNORE, (semantic > 0).long())
    if sample.instances is None or sample.instances.masks is None:
        return None
    return sample.instances.masks.as_subclass(Tensor).any(0).long()
