"""What the networks of all methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frugalseg.nets.network import Network
from frugalseg.types import Prediction, Sample, size_of


@dataclass(frozen=True)
class Config:
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: expected a number from 0 to 1")


class Brightness(Network):
    """Everything brighter than a threshold is of class 1."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, ["bright"])
        self.grey = nn.Conv2d(3, 1, 1)
        self.register_buffer("scale", torch.tensor(255.0))

    def preprocess(self, sample: Sample, tags: str = "predicted") -> dict[str, Any]:
        return {"image": sample.image.as_subclass(Tensor) / self.scale}

    def infer(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"values": self.grey(batch["image"])[:, 0]}

    def postprocess(self, outputs: dict[str, Any], sample: Sample, tags: str = "predicted") -> Prediction:
        mask = (outputs["values"] > self.config.threshold).to(torch.uint8)
        return Prediction(sample.name, size_of(sample.image), self.classes, semantic=mask)


def share(network: Network, sample: Sample) -> float:
    (prediction,) = network.predict([sample])
    return prediction.semantic.float().mean().item()


def test_other_settings_give_a_new_network_of_the_same_layers() -> None:
    network = Brightness(Config())
    nn.init.constant_(network.grey.weight, 1 / 3)
    nn.init.zeros_(network.grey.bias)
    sample = Sample("noise", torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8))
    other, before = network.with_settings(threshold=0.2), share(network, sample)
    assert (network.config.threshold, other.config.threshold) == (0.5, 0.2)
    assert share(other, sample) > before == share(network, sample)
    assert [p.data_ptr() for p in other.parameters()] == [p.data_ptr() for p in network.parameters()]


def test_a_layer_replaced_in_one_stays_in_the_other() -> None:
    network = Brightness(Config())
    other = network.with_settings()
    other.grey, kept = nn.Conv2d(3, 1, 3), network.grey
    other.scale = torch.tensor(1.0)
    assert network.grey is kept
    assert network.scale.item() == 255


def test_settings_that_are_not_valid_are_refused() -> None:
    network = Brightness(Config())
    with pytest.raises(ValueError, match="threshold=2: expected"):
        network.with_settings(threshold=2)
    with pytest.raises(TypeError, match="treshold"):
        network.with_settings(treshold=0.2)
    assert network.config == Config()


@pytest.mark.parametrize("shape", [(4, 7), (3, 4, 7), (2, 3, 4, 7)])
def test_the_size_of_an_image_is_height_and_width(shape: tuple[int, ...]) -> None:
    assert size_of(torch.zeros(shape)) == (4, 7)
