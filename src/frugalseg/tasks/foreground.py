"""Score objects that are found without labels: overlap with everything that is annotated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalseg.data import Data, DataError
from frugalseg.inference.predictor import Predictor
from frugalseg.methods.r2o import R2O
from frugalseg.metrics.foreground import ForegroundScores
from frugalseg.progress import track
from frugalseg.regions.border_prior import inner
from frugalseg.tasks import results
from frugalseg.tasks.options import Foreground
from frugalseg.types import IGNORE, Sample

WHOLE = "all of every image"  # the trivial answer


def evaluate(predictor: Predictor, data: Data, options: Foreground | None = None, quiet: bool = False) -> ForegroundScores:
    """Overlap of the object that is found with everything that is annotated, on images with masks; see `ForegroundScores`.

    Images that show no object are left out. A run folder keeps the scores. Raises DataError for data without masks.
    """
    if not data.offers & {"semantic", "instances"}:
        raise results.nothing_to_score(data)
    about, network = (data.root.resolve().name, data.split or "all"), cast(R2O, predictor.network.eval())
    scores, trivial = ForegroundScores(*about), ForegroundScores(*about)
    for sample, truth in track(annotated_images(data), "evaluate", len(data), quiet=quiet):
        if truth is None:
            continue
        ids = network.parts(sample.image)
        parts = F.interpolate(ids[None, None].float(), tuple(truth.shape), mode="nearest-exact")[0, 0].long().cpu()
        scores.update(sample.name, parts, inner(ids), truth == 1, truth == IGNORE)
        trivial.update(sample.name, torch.zeros_like(truth), 0, truth == 1, truth == IGNORE)
    if not scores.images:
        raise DataError(f"{data.root}, list {data.split!r}: no image shows an object; give another --split")
    scores.baselines = {WHOLE: trivial.values}
    if predictor.folder:
        results.add_to_metrics(predictor.folder, scores)
    return scores


def annotated_images(data: Data) -> Iterator[tuple[Sample, Tensor | None]]:
    """Each image with its masks, and what is annotated in it; None for one that shows no object or has no masks."""
    masked = data.only("semantic", "instances")
    for index in range(len(masked)):
        sample = masked[index]
        truth = annotated(sample)
        yield sample, truth if truth is not None and bool((truth == 1).any()) else None


def annotated(sample: Sample) -> Tensor | None:
    """(H, W) int64 of 1 = any object, 0 = background, 255 = ignore, from class masks or object masks; None without either."""
    if sample.semantic is not None:
        semantic = sample.semantic.as_subclass(Tensor)
        return torch.where(semantic == IGNORE, IGNORE, (semantic > 0).long())
    if sample.instances is None or sample.instances.masks is None:
        return None
    return sample.instances.masks.as_subclass(Tensor).any(0).long()
