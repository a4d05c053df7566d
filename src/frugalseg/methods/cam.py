"""CAM: class activation maps (Zhou et al., CVPR 2016) as object masks: what methods that learn objects from tags must beat.

A network learns which classes are in an image. Where a class's map passes a share of its maximum, there the class is (sec. 3.2).
An object is a connected part of that, or the proposal that overlaps the part's box most, with the foreground a cue finds in it:
PDSL's tables call that "CAM MCG", by the proposals.

Shape letters: C classes, N objects, H W image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from frugalseg import rle
from frugalseg.boxes import iou
from frugalseg.data import Data, detection
from frugalseg.data.transforms import Augmented, ZoomCrop, stack
from frugalseg.engine.run import Run
from frugalseg.nets import optim, schedule
from frugalseg.nets.network import Tensors, given_tags
from frugalseg.nets.tag_classifier import TagClassifier
from frugalseg.recipes.cam import Config
from frugalseg.regions import cues, proposals
from frugalseg.types import Prediction, Sample, size_of


class Detection(NamedTuple):
    """An object. label: in 1..C. box: x1, y1, x2, y2. code: its mask."""

    score: float
    label: int
    box: Sequence[float]
    code: rle.RLE


def connected_parts(activations: np.ndarray, fraction: float, smallest: float) -> list[tuple[rle.RLE, float]]:
    """The connected parts of a map (H, W) above a share of its maximum, each with its own maximum as a share of the map's.

    There is none where the map is nowhere positive. smallest: share of the image below which a part is left out, unless it is
    the largest.
    """
    highest = activations.max()
    if highest <= 0:
        return []
    ids, count = ndimage.label(activations > fraction * highest, structure=np.ones((3, 3)))
    _, codes = rle.from_ids(ids)
    areas, peaks = rle.areas(codes), ndimage.maximum(activations, ids, range(1, count + 1)) / highest
    least = min(smallest * activations.size, areas.max(initial=0))
    return [(code, float(peak)) for code, area, peak in zip(codes, areas, peaks, strict=True) if area >= least]


class CAM(TagClassifier):
    """The tag classifier, whose maps become objects."""

    config: Config

    @property
    def proposal_source(self) -> str | None:
        """Where its proposals come from; connected parts take none."""
        return self.config.proposals if self.config.objects == "proposal" else None

    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        """Objects of an image. tags: "given" takes its tagged classes, however confident the network is of them."""
        maps, v = self.multi_scale.average(outputs, sample.image)
        v = v.cpu()
        shown = given_tags(sample) > 0 if tags == "given" else v >= self.config.min_score
        objects = self.localized(maps, v, shown.nonzero().flatten().tolist(), size_of(sample.image))
        if self.config.objects == "proposal" and objects:
            objects = self.proposed(sample, objects)
        boxes = torch.tensor([item.box for item in objects]).reshape(-1, 4)
        labels = torch.tensor([item.label for item in objects], dtype=torch.int64)
        scores = torch.tensor([item.score for item in objects])
        return detection.instance_prediction(sample, self.classes, boxes, labels, scores, [item.code for item in objects])

    def localized(self, maps: Tensor, v: Tensor, classes: Sequence[int], size: tuple[int, int]) -> list[Detection]:
        """The parts of the maps (C, h, w) of these classes, 0..C-1, best first: a part scores v (C,) times its peak."""
        objects = []
        for index in classes:
            full = F.interpolate(maps[index][None, None], size, mode="bilinear", align_corners=False)[0, 0]
            parts = connected_parts(full.cpu().numpy(), self.config.fraction, self.config.smallest)
            boxes = rle.boxes([code for code, _ in parts]).tolist()
            located = zip(boxes, parts, strict=True)
            objects += [Detection(float(v[index]) * peak, index + 1, box, code) for box, (code, peak) in located]
        return sorted(objects, key=lambda item: -item.score)[: self.config.detections]

    def proposed(self, sample: Sample, objects: Sequence[Detection]) -> list[Detection]:
        """Each object's nearest proposal with what the cue finds in it; a proposal is an object of a class once."""
        config = self.config
        boxes = proposals.at_least_one(sample, config.proposals, config.count)
        nearest = iou(torch.tensor([item.box for item in objects]), boxes).argmax(1).tolist()
        best: dict[tuple[int, int], Detection] = {}
        for row, item in zip(nearest, objects, strict=True):
            best.setdefault((row, item.label), item)
        chosen = boxes[[row for row, _ in best]]
        codes = cues.codes(cues.cue_from_config(config), sample.name, sample.image.as_subclass(Tensor).cpu(), chosen)
        masked = zip(best.values(), chosen.tolist(), codes, strict=True)
        return [item._replace(box=box, code=code) for item, box, code in masked]


def build(config: Config, classes: Sequence[str]) -> CAM:
    """A network with its first weights."""
    return CAM(config, classes)


def train(config: Config, data: Data, run: Run) -> CAM:
    """Learn from the tags of `data` and from nothing else."""
    data = data.only("image", "tags").having("image", "tags")
    run.expect("data", data.fingerprint)
    run.seed("cam")
    network = build(config, data.classes).to(memory_format=torch.channels_last)
    model, optimizer = run.setup(network, optim.two_rates(config, network, network.backbone))
    crops = Augmented(data, ZoomCrop(config.crop, config.resize, config.scales, detection.PADDING))
    steps = max(1, math.ceil(config.epochs * len(data) / config.batch))
    for step, batch in run.steps("classifier", crops, steps, config.batch, model=model, optimizer=optimizer, collate=stack):
        run.update(model(batch), optimizer, schedule.poly(step, steps, 1.0))
    return network
