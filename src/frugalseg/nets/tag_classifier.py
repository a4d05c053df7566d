"""Class activation maps (Zhou et al., CVPR 2016): a network learns tags, and its linear layer, slid over the map, tells where.

Shape letters: B batch, C classes, D channels, H W picture, h w feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from frugalseg.nets.backbone import Backbone

Head = Callable[[int], tuple[nn.Module, int]]  # channels of a map -> layers on it, and the channels that come out


def confidences(logits: Tensor, kind: str) -> Tensor:
    """Image-level confidences v in [0, 1], (B, C): softmax under the squared loss, sigmoid under cross-entropy."""
    return logits.softmax(1) if kind == "squared" else logits.sigmoid()


def label_loss(logits: Tensor, tags: Tensor, kind: str = "squared") -> Tensor:
    """Loss of the tag classifier, a scalar; tags nobody knows (nan) do not count.

    "squared" (AE-PSL, sec. 3.1, after HCP): mean over pictures of ||softmax(logits) - tags / |tags|_1||^2; a picture without any
    tag has the target 0, which a flat prediction fits best. "bce": multi-label cross-entropy, mean over known tags.

    Shapes: logits (B, C), tags (B, C).
    """
    known, target = ~tags.isnan(), tags.nan_to_num(0.0)
    if kind == "bce":
        total = F.binary_cross_entropy_with_logits(logits, target, weight=known.float(), reduction="sum")
        return total / known.sum().clamp(min=1)
    target = target / target.sum(1, keepdim=True).clamp(min=1)
    return ((confidences(logits, kind) - target) * known).square().sum(1).mean()


# -- the network -----------------------------------------------------------------------------------------------------


def joined_channels(net: Backbone, levels: Sequence[int]) -> int:
    """Channels of the joined maps of these blocks, or of the last map. Raises ValueError for maps of different strides."""
    if not levels:
        return net.channels
    shapes = net.shapes(levels)
    if any(stride != net.stride for _, stride in shapes):
        got = ", ".join(f"block {level} at {stride}" for level, (_, stride) in zip(levels, shapes, strict=True))
        raise ValueError(f"levels: got {got} pixels per cell; expected blocks at output_stride={net.stride}")
    return sum(channels for channels, _ in shapes)


def standardized(channels: int, wanted: bool) -> nn.Module:
    """Each channel less its mean and over its deviation, or nothing: a linear layer learns slowly what a large mean hides."""
    return nn.BatchNorm2d(channels, affine=False) if wanted else nn.Identity()


def label_layer(channels: int, classes: Sequence[str]) -> nn.Linear:
    """The linear layer from pooled features to class logits."""
    layer = nn.Linear(channels, len(classes))
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def bare(channels: int) -> tuple[nn.Module, int]:
    """No head."""
    return nn.Identity(), channels


class Classifier(nn.Module):
    """Backbone, perhaps a head, global average pooling, one linear layer.

    classes: names of the ids 1..C. net: the backbone. loss: see `label_loss`. levels: its blocks whose maps are joined, counted
    from 1; empty takes the last map. standardize: see `standardized`. head: what sits on the map.
    """

    def __init__(
        self,
        classes: Sequence[str],
        net: Backbone,
        loss: str,
        levels: Sequence[int] = (),
        standardize: bool = False,
        head: Head = bare,
    ) -> None:
        super().__init__()
        self.classes, self.levels = tuple(classes), tuple(levels)
        # One class leaves softmax nothing to choose between: its confidence would always be 1.
        self.label_loss = "bce" if len(self.classes) == 1 else loss
        self.backbone = net
        self.head, channels = head(joined_channels(net, self.levels))
        self.norm = standardized(channels, standardize)
        self.fc = label_layer(channels, self.classes)

    def features(self, images: Tensor) -> Tensor:
        """What tells where things are, (B, D, h, w), of pictures (B, 3, H, W) in 0..255."""
        images = images.to(memory_format=torch.channels_last)
        if not self.levels:
            return self.norm(self.head(self.backbone(images)))
        return self.joined(self.backbone.maps(images, self.levels))

    def joined(self, maps: list[Tensor]) -> Tensor:
        """The same of the maps of `levels`."""
        return self.norm(self.head(torch.cat(maps, 1)))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch: image (B, 3, H, W), tags (B, C)."""
        logits = self.fc(self.features(batch["image"]).mean((2, 3)))
        return {"label": label_loss(logits, batch["tags"], self.label_loss)}

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """CAMs (B, C, h, w), whose mean plus the bias is the class logit, and confidences v (B, C)."""
        cams = F.conv2d(self.features(images), self.fc.weight[:, :, None, None])
        return cams, confidences(cams.mean((2, 3)) + self.fc.bias, self.label_loss)


# -- maps of a picture -----------------------------------------------------------------------------------------------


def pad_to_grid(images: Tensor, stride: int) -> Tensor:
    """Repeat the last row and column until the sides are stride * k + 1, so that the map's last point lies past the edge."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -(width - 1) % stride, 0, -(height - 1) % stride), mode="replicate")


def resampling(stride: int, cells: int, pixels: int, target: int) -> Tensor:
    """The matrix (target, cells) that takes one side of a map to its picture's pixels, and these to a picture of another size.

    Convolutions with padding k // 2 put point i of the map on pixel i * stride, so corners align there. Both steps are linear, so
    two such matrices take the map to its target at once, and no map of all pixels is made.
    """
    steps = F.interpolate(torch.eye(cells)[None], (cells - 1) * stride + 1, mode="linear", align_corners=True)
    return F.interpolate(steps[..., :pixels], target, mode="linear", align_corners=False)[0].T


def multi_scale(
    model: Classifier, image: Tensor, size: tuple[int, int], scales: Sequence[float], flip: bool
) -> tuple[Tensor, Tensor]:
    """Maps (C, *size) and confidences (C,) of one picture (3, H, W), averaged over scales and its mirror image."""
    device, stride = next(model.parameters()).device, model.backbone.stride
    picture = image.as_subclass(Tensor)[None].to(device)
    total, sum_v = torch.zeros(()), torch.zeros(())
    for scale in scales:
        extent = [max(1, round(side * scale)) for side in size]
        view = pad_to_grid(transforms.resize(picture, extent, antialias=True).float(), stride)
        for turn in (False, True)[: 1 + flip]:
            maps, v = model.maps(view.flip(-1) if turn else view)
            (maps,) = maps.flip(-1) if turn else maps
            rows, columns = map(partial(resampling, stride), maps.shape[-2:], extent, size)
            maps = rows.to(maps) @ maps @ columns.to(maps).T
            total, sum_v = total.to(maps) + maps, sum_v.to(v) + v[0]
    count = len(scales) * (1 + flip)
    return total / count, sum_v / count
