"""Class activation maps (Zhou et al., CVPR 2016): a network learns tags; its linear layer, at each point of the map, tells where.

Shape letters: B batch, C classes, D channels, H W image, h w feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from frugalseg.nets.multi_scale import MultiScale
from frugalseg.nets.trunk import Head, Trunk, no_head


def confidences(logits: Tensor, kind: str) -> Tensor:
    """Image-level confidences v in [0, 1], (B, C): softmax under the squared loss, sigmoid under cross-entropy."""
    return logits.softmax(1) if kind == "squared" else logits.sigmoid()


def label_loss(logits: Tensor, tags: Tensor, kind: str = "squared") -> Tensor:
    """Loss of the tag classifier, a scalar; unknown tags (nan) do not count.

    "squared" (AE-PSL, sec. 3.1, after HCP): mean over images of ||softmax(logits) - tags / |tags|_1||^2; an image without any
    tag has the target 0, which a flat prediction fits best. "bce": multi-label cross-entropy, mean over known tags.

    Shapes: logits (B, C), tags (B, C).
    """
    valid, target = ~tags.isnan(), tags.nan_to_num(0.0)
    if kind == "bce":
        total = F.binary_cross_entropy_with_logits(logits, target, weight=valid.float(), reduction="sum")
        return total / valid.sum().clamp(min=1)
    target = target / target.sum(1, keepdim=True).clamp(min=1)
    return ((confidences(logits, kind) - target) * valid).square().sum(1).mean()


def label_layer(channels: int, classes: Sequence[str]) -> nn.Linear:
    """The linear layer from pooled features to class logits."""
    layer = nn.Linear(channels, len(classes))
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class TagClassifier(Trunk):
    """Backbone, perhaps a head, global average pooling, one linear layer; methods add `postprocess`.

    config: settings of `recipes.groups.Backbone`, `ActivationMaps` and `Crops`. head: makes the layers on the map.
    """

    def __init__(self, config: Any, classes: Sequence[str], head: Head = no_head) -> None:
        super().__init__(config, classes, head)
        # One class leaves softmax nothing to choose between: its confidence would always be 1.
        self.label_loss = "bce" if len(self.classes) == 1 else config.label_loss
        self.fc = label_layer(self.channels, self.classes)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch: image (B, 3, H, W), tags (B, C)."""
        logits = self.fc(self.features(batch["image"]).mean((2, 3)))
        return {"label": label_loss(logits, batch["tags"], self.label_loss)}

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """CAMs (B, C, h, w), whose mean plus the bias is the class logit, and confidences v (B, C)."""
        cams = F.conv2d(self.features(images), self.fc.weight[:, :, None, None])
        return cams, confidences(cams.mean((2, 3)) + self.fc.bias, self.label_loss)

    @property
    def multi_scale(self) -> MultiScale:
        """The views whose CAMs are averaged."""
        config = self.config
        return MultiScale(config.cam_scales, config.cam_flip, config.resize, config.output_stride)
