"""Batches of images of like size: in their order, never padded, each image as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frugalseg.inference import batched
from frugalseg.nets.network import Network, Tensors
from frugalseg.types import Prediction, Sample

SIZES = ((8, 6), (8, 6), (5, 9), (8, 6), (5, 9), (7, 7), (8, 6))


class Bright(Network):
    """Calls bright pixels class 1, by a convolution whose batches it counts; `few` are boxes of another number in each image."""

    ragged = ("few",)

    def __init__(self, most: int = 100) -> None:
        super().__init__(SimpleNamespace(), ("bright",))
        self.layer, self.batches, self.most = nn.Conv2d(3, 2, 3, padding=1), [], most

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return {}

    def preprocess(self, sample: Sample, tags: str = "predicted") -> Tensors:
        return {"image": sample.image.as_subclass(Tensor) / 255, "few": torch.zeros(int(sample.name), 4)}

    def infer(self, batch: Tensors) -> Tensors:
        if len(batch["image"]) > self.most:
            raise torch.OutOfMemoryError("too many images")
        self.batches.append((tuple(batch["image"].shape), [len(few) for few in batch["few"]]))
        return {"scores": self.layer(batch["image"]), "few": [len(few) for few in batch["few"]]}

    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        assert outputs["few"] == int(sample.name), "each image gets its own part of the outputs"
        ids = outputs["scores"].argmax(0).to(torch.uint8)
        return Prediction(sample.name, tuple(ids.shape), self.classes, outputs["scores"].amax((1, 2)), ids)


def samples() -> list[Sample]:
    return [Sample(str(index), torch.randint(256, (3, *size), dtype=torch.uint8)) for index, size in enumerate(SIZES)]


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 10])
def test_batches_equal_one_by_one_in_order(batch: int) -> None:
    network, images = Bright(), samples()
    alone = network.predict(images)
    together = list(batched.predict(network, images, batch=batch))
    assert [sample.name for sample, _ in together] == [sample.name for sample in images]
    for (sample, found), expected in zip(together, alone, strict=True):
        assert found.name == sample.name
        assert torch.equal(found.semantic, expected.semantic)
        torch.testing.assert_close(found.tags, expected.tags, rtol=1e-5, atol=1e-5)


def test_only_images_of_like_size_share_a_batch() -> None:
    network = Bright()
    list(batched.predict(network, samples(), batch=2))
    shapes = [shape for shape, _ in network.batches]
    assert shapes[0] == (1, 3, 8, 6), "the first is computed alone: on a GPU it tells how much memory an image takes"
    assert sorted(shapes[1:]) == [(1, 3, 7, 7), (1, 3, 8, 6), (2, 3, 5, 9), (2, 3, 8, 6)]


def test_a_batch_that_is_too_large_for_the_memory_is_halved() -> None:
    network, images = Bright(most=1), samples()
    assert len(list(batched.predict(network, images, batch=8))) == len(images)
    assert {shape[0] for shape, _ in network.batches} == {1}
    with pytest.raises(torch.OutOfMemoryError):
        list(batched.predict(Bright(most=0), images, batch=8))


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """No more samples are made than LOOK_AHEAD batches and one, before the first of them is given."""
    made = 0

    def endless() -> Iterator[Sample]:
        nonlocal made
        while True:
            made += 1
            yield Sample("1", torch.zeros(3, 4, 4, dtype=torch.uint8))

    stream = batched.predict(Bright(), endless(), batch=2)
    for _ in range(20):
        next(stream)
    assert made <= 20 + 2 * batched.LOOK_AHEAD + 2


def test_what_reading_raises_is_raised_in_its_turn() -> None:
    def broken() -> Iterator[Sample]:
        yield from samples()[:2]
        raise OSError("a broken file")

    stream = batched.predict(Bright(), broken())
    assert [next(stream)[0].name, next(stream)[0].name] == ["0", "1"]
    with pytest.raises(OSError, match="a broken file"):
        next(stream)


def test_nothing_gives_nothing() -> None:
    assert list(batched.predict(Bright(), [])) == []
