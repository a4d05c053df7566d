"""Heads that sit on a backbone's features. Shape letters: B batch, D channels, h w map."""

from __future__ import annotations

from torch import nn


class LargeFOV(nn.Sequential):
    """DeepLab-LargeFOV's last layers (Chen et al., ICLR 2015): features (B, channels_in, h, w) -> (B, channels, h, w).

    fc6 is a 3×3 convolution whose dilation of 12 sees almost the whole map, fc7 a 1×1 convolution; each with ReLU and dropout.
    average: DeepLab's pool5a, a 3×3 mean before fc6 that belongs to VGG-16.
    """

    def __init__(self, channels_in: int, channels: int = 1024, dilation: int = 12, dropout: float = 0.5, average: bool = False):
        super().__init__()
        self.channels = channels
        if average:
            self.pool5a = nn.AvgPool2d(3, stride=1, padding=1)
        self.fc6 = nn.Conv2d(channels_in, channels, 3, padding=dilation, dilation=dilation)
        self.relu6 = nn.ReLU(inplace=True)
        self.drop6 = nn.Dropout(dropout)
        self.fc7 = nn.Conv2d(channels, channels, 1)
        self.relu7 = nn.ReLU(inplace=True)
        self.drop7 = nn.Dropout(dropout)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class FCN(nn.Sequential):
    """Two 3×3 convolutions with batch norm and ReLU, (B, channels_in, h, w) -> (B, channels, h, w).

    The head of a fully convolutional network (Long et al., CVPR 2015) by which MoCo (He et al., CVPR 2020) and those after it
    judge pretrained backbones.
    """

    def __init__(self, channels_in: int, channels: int = 256, dilation: int = 6):
        layers: list[nn.Module] = []
        for width in (channels_in, channels):
            convolution = nn.Conv2d(width, channels, 3, padding=dilation, dilation=dilation, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        super().__init__(*layers)
