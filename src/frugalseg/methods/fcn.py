"""FCN: fully convolutional networks for semantic segmentation (Long et al., CVPR 2015). Class masks in, class masks out.

A backbone's features, the layers of a head on them, one score map for each class, upsampled to the image: cross-entropy at every
labelled pixel. Shape letters: B batch, C classes, H W image, h w feature map. Class 0 is background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from frugalseg.data import Data, detection
from frugalseg.data.transforms import Augmented, ZoomCrop, stack
from frugalseg.engine.run import Run
from frugalseg.nets import optim, schedule, segmentation
from frugalseg.nets.multi_scale import MultiScale
from frugalseg.nets.network import Tensors, given_tags
from frugalseg.nets.trunk import Trunk
from frugalseg.recipes.fcn import Config
from frugalseg.regions.crf import refined
from frugalseg.types import IGNORE, Prediction, Sample


class FCN(Trunk):
    """Backbone, head and a score map for background and each class."""

    config: Config

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__(config, classes, partial(segmentation.head, config))
        self.score = segmentation.score_layer(self.channels, self.classes)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch: image (B, 3, H, W), semantic (B, H, W) of 0..C and 255."""
        scores, stride = self.score(self.features(batch["image"])), self.config.label_stride
        logits = segmentation.upsample(scores, self.config.output_stride, stride)
        masks = segmentation.at_points(batch["semantic"], logits, stride)
        return {"segmentation": segmentation.pixel_loss(logits, masks, masks != IGNORE)}

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (B, C+1, h, w) of images (B, 3, H, W) in 0..255, and the highest of each class, (B, C)."""
        probabilities = self.score(self.features(images)).softmax(1)
        return probabilities, probabilities[:, 1:].amax((2, 3))

    @property
    def multi_scale(self) -> MultiScale:
        """The views whose probabilities are averaged."""
        config = self.config
        return MultiScale(config.test_scales, config.test_flip, config.resize, config.output_stride)

    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        """The likeliest class of every pixel. tags: "given" leaves background and the image's own classes to choose from."""
        probabilities, confidences = self.multi_scale.average(outputs, sample.image)
        shown = given_tags(sample).to(confidences) > 0 if tags == "given" else torch.ones_like(confidences, dtype=torch.bool)
        ids = torch.cat([shown.new_ones(1), shown]).nonzero().flatten()
        scores = refined(sample.image, probabilities[ids], self.config)
        return segmentation.labelled(sample, scores, ids, confidences, self.classes)


def build(config: Config, classes: Sequence[str]) -> FCN:
    """A network with its first weights."""
    return FCN(config, classes)


def train(config: Config, data: Data, run: Run) -> FCN:
    """Learn from the class masks of `data` and from nothing else."""
    data = data.only("image", "semantic").having("image", "semantic")
    run.expect("data", data.fingerprint)
    run.seed("fcn")
    network = build(config, data.classes).to(memory_format=torch.channels_last)
    model, optimizer = run.setup(network, optim.two_rates(config, network, network.backbone))
    crops = Augmented(data, ZoomCrop(config.crop, config.resize, config.scales, detection.PADDING))
    steps = max(1, math.ceil(config.epochs * len(data) / config.batch))
    for step, batch in run.steps("segmentation", crops, steps, config.batch, model=model, optimizer=optimizer, collate=stack):
        run.update(model(batch), optimizer, rate(config, step, steps))
    return network


def rate(config: Config, step: int, steps: int) -> float:
    """Learning rate as a share of its first value."""
    if config.lr_schedule == "poly":
        return schedule.poly(step, steps, 1.0)
    return schedule.warmup_step_decay(step, steps, config.drops)
