"""Objects of pictures without any label: find them with any backbone, and score them on pictures whose masks are known."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalseg.data import Data, read
from frugalseg.data.problems import DataError
from frugalseg.inference.predictor import Predictor
from frugalseg.metrics.foreground import ForegroundScores
from frugalseg.progress import track
from frugalseg.regions.border_prior import inner
from frugalseg.tasks.results import record
from frugalseg.types import IGNORE, Sample


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
