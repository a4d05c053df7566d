"""CAM: class activation maps (Zhou et al., CVPR 2016) as object masks: what methods that learn objects from tags must beat.

A network learns which classes are in a picture. Where a class's map passes a share of its maximum, there the class is (sec. 3.2).
An object is a connected part of that, or the proposal that overlaps the part's box most, with the foreground a cue finds in it:
PDSL's tables call that "CAM MCG", by the proposals.

Shape letters: C classes, N objects, H W picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from frugalseg import rle
from frugalseg.data import detection
from frugalseg.data.transforms import Augmented, ZoomCrop, longer_side, stack
from frugalseg.engine.run import Run
from frugalseg.nets import backbone, optim, schedule, tag_classifier
from frugalseg.recipes.cam import Config
from frugalseg.recipes.checks import restored
from frugalseg.regions import cues, proposals
from frugalseg.types import Prediction, Sample


class Thing(NamedTuple):
    """An object. label: in 1..C. box: x1, y1, x2, y2. code: its mask."""

    score: float
    label: int
    box: Sequence[float]
    code: rle.RLE


def parts(activations: np.ndarray, fraction: float, smallest: float) -> list[tuple[rle.RLE, float]]:
    """The connected parts of a map (H, W) above a share of its maximum, each with its own maximum as a share of the map's.

    There is none where the map is nowhere positive. smallest: share of the picture below which a part is left out, unless it is
    the largest.
    """
    most = activations.max()
    if most <= 0:
        return []
    ids, count = ndimage.label(activations > fraction * most, structure=np.ones((3, 3)))
    _, codes = rle.from_ids(ids)
    areas, peaks = rle.areas(codes), ndimage.maximum(activations, ids, range(1, count + 1)) / most
    least = min(smallest * activations.size, areas.max(initial=0))
    return [(code, float(peak)) for code, area, peak in zip(codes, areas, peaks, strict=True) if area >= least]


class CAM(tag_classifier.Classifier):
    """The tag classifier, whose maps become objects."""

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        options: dict[str, Any] = {"weights": config.weights, "normalize": config.normalize, "level": config.level}
        net = backbone.build(
            config.backbone, config.output_stride, frozen=config.frozen, freeze_norm=config.freeze_norm, **options
        )
        super().__init__(classes, net, config.label_loss, config.levels, config.standardize)
        self.config = config

    @torch.no_grad()
    def predict(self, samples: Iterable[Sample], tags: str = "predicted") -> list[Prediction]:
        """Objects of each picture. tags: "given" takes its tagged classes, however confident the network is of them."""
        self.eval()
        return [self._predict(sample, tags) for sample in samples]

    def _predict(self, sample: Sample, tags: str) -> Prediction:
        own, config = (int(sample.image.shape[-2]), int(sample.image.shape[-1])), self.config
        maps, v = tag_classifier.multi_scale(
            self, sample.image, longer_side(own, config.resize), config.cam_scales, config.cam_flip
        )
        v = v.cpu()
        kept = detection.allowed(sample) if tags == "given" else v >= config.min_score
        things = self.localized(maps, v, kept.nonzero().flatten().tolist(), own)
        if config.objects == "proposal" and things:
            things = self.proposed(sample, things, own)
        boxes = torch.tensor([thing.box for thing in things]).reshape(-1, 4)
        labels = torch.tensor([thing.label for thing in things], dtype=torch.int64)
        scores = torch.tensor([thing.score for thing in things])
        return detection.predicted(sample, self.classes, boxes, labels, scores, [thing.code for thing in things])

    def localized(self, maps: Tensor, v: Tensor, classes: Sequence[int], size: tuple[int, int]) -> list[Thing]:
        """The parts of the maps (C, h, w) of these classes, 0..C-1, best first: a part scores v (C,) times its peak."""
        things = []
        for index in classes:
            full = F.interpolate(maps[index][None, None], size, mode="bilinear", align_corners=False)[0, 0]
            own = parts(full.cpu().numpy(), self.config.fraction, self.config.smallest)
            boxes = rle.boxes([code for code, _ in own]).tolist()
            things += [Thing(float(v[index]) * peak, index + 1, box, code) for box, (code, peak) in zip(boxes, own, strict=True)]
        return sorted(things, key=lambda thing: -thing.score)[: self.config.detections]

    def proposed(self, sample: Sample, things: Sequence[Thing], size: tuple[int, int]) -> list[Thing]:
        """Each object's nearest proposal with what the cue finds in it; a proposal is an object of a class once."""
        config = self.config
        boxes = proposals.some(sample, config.proposals, config.count)
        nearest = box_iou(torch.tensor([thing.box for thing in things]), boxes).argmax(1).tolist()
        best: dict[tuple[int, int], Thing] = {}
        for row, thing in zip(nearest, things, strict=True):
            best.setdefault((row, thing.label), thing)
        chosen = boxes[[row for row, _ in best]]
        cue = cues.cue(config.cue, config.cue_side, config.cue_iterations, config.cue_cut)
        codes = cues.codes(cue, sample.name, sample.image.as_subclass(Tensor).cpu(), chosen)
        found = zip(best.values(), chosen.tolist(), codes, strict=True)
        return [thing._replace(box=box, code=code) for thing, box, code in found]


# -- training --------------------------------------------------------------------------------------------------------


def train(config: Config, data: Any, run: Run) -> CAM:
    """Learn from the tags of `data` and from nothing else. Writes weights/last."""
    data = data.only("image", "tags").select([index for index, record in enumerate(data.records) if "tags" in record.fields])
    run.expect("data", data.fingerprint)
    run.seed("cam")
    model = CAM(config, data.classes).to(memory_format=torch.channels_last)
    wrapped, optimizer = run.setup(model, optimizer_of(config, model))
    crops = Augmented(data, ZoomCrop(config.crop, config.resize, config.scales, detection.PADDING))
    steps = max(1, math.ceil(config.epochs * len(data) / config.batch))
    for step, batch in run.steps("classifier", crops, steps, config.batch, model=wrapped, optimizer=optimizer, collate=stack):
        run.update(wrapped(batch), optimizer, schedule.poly(step, steps, 1.0))
    run.save_model(model, {"method": "cam", "config": asdict(config), "classes": list(model.classes)})
    return model


def optimizer_of(config: Config, model: CAM) -> torch.optim.Optimizer:
    """The optimiser, with the backbone at lr and the linear layer at head_lr."""
    return optim.two_rates(config, model, model.backbone)


def load(state: dict[str, Tensor], metadata: dict[str, Any]) -> CAM:
    """The model of a weights file that `train` wrote."""
    model = CAM(restored(Config, metadata["config"]), metadata["classes"])
    model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last).eval()
