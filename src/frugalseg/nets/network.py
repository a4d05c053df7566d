"""What the networks of all methods share: prediction in three parts, and what a weights file says beside the tensors.

    preprocess   one sample -> the tensors the network takes
    infer        a batch of such tensors -> tensors: the only part with weights, and the part that is exported
    postprocess  the tensors of one image -> its prediction, at the image's own size

Images are predicted one by one or in batches of like size, always through the same three.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from frugalseg.types import Prediction, Sample

Module = TypeVar("Module", bound=nn.Module)
Tensors = dict[str, Any]  # tensors by name; in a batch also lists of tensors, one for each image


class Network(nn.Module, ABC):
    """A network that predicts. Methods implement `forward`, `preprocess`, `infer` and `postprocess`.

    config: the settings it was built with. classes: names of the ids 1..C. ragged: names of the inputs whose length differs from
    image to image, such as boxes; a batch has a list of them.
    """

    ragged: tuple[str, ...] = ()

    def __init__(self, config: Any, classes: Sequence[str]) -> None:
        super().__init__()
        self.config, self.classes = config, tuple(classes)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def proposal_source(self) -> str | None:
        """Where it takes its object proposals from: a tool's name, a file or a folder; None for one that takes none."""
        return None

    # -- the three parts

    @abstractmethod
    def preprocess(self, sample: Sample, tags: str = "predicted") -> Tensors:
        """The inputs of one image, tensors without a batch axis, on the network's device."""

    @abstractmethod
    def infer(self, batch: Tensors) -> Tensors:
        """Tensors of a batch made by `collate`, each with the batch as its first axis, or lists of one for each image."""

    @abstractmethod
    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        """The prediction of one image from its part of the outputs."""

    # -- batches

    def batch_key(self, inputs: Tensors) -> Hashable:
        """Images whose keys are equal can stand in one batch: their tensors have the same shapes."""
        return tuple((name, tuple(value.shape)) for name, value in inputs.items() if name not in self.ragged)

    def collate(self, items: Sequence[Tensors]) -> Tensors:
        """A batch of images of one key: tensors stacked, ragged ones in lists."""
        return {
            name: [item[name] for item in items] if name in self.ragged else torch.stack([item[name] for item in items])
            for name in items[0]
        }

    def predict_batch(self, items: Sequence[Tensors], samples: Sequence[Sample], tags: str = "predicted") -> list[Prediction]:
        """Predictions of samples from their preprocessed inputs, which have one key; see `batch_key`."""
        outputs = self.infer(self.collate(items))
        parts = [{name: values[place] for name, values in outputs.items()} for place in range(len(items))]
        return [self.postprocess(part, sample, tags) for part, sample in zip(parts, samples, strict=True)]

    @torch.no_grad()
    def predict(self, samples: Iterable[Sample], tags: str = "predicted") -> list[Prediction]:
        """Predictions image by image. tags: "given" tells it which classes are in each image; see `given_tags`."""
        self.eval()
        return [self.predict_batch([self.preprocess(sample, tags)], [sample], tags)[0] for sample in samples]

    # -- other settings

    def with_settings(self, **changes: Any) -> Self:
        """A new network with other settings for prediction; the two share their layers, and this one stays as it is.

        Raises TypeError for a setting the method does not have, ValueError for values that are not valid.
        """
        other = shallow_copy(self)
        other.config = replace(self.config, **changes)
        return other

    # -- weights files

    def metadata(self) -> dict[str, Any]:
        """What stands beside the tensors in a weights file, values of JSON."""
        return {"config": asdict(self.config), "classes": list(self.classes)}

    def read_metadata(self, metadata: dict[str, Any]) -> None:
        """Take back what a method adds to `metadata`; settings and classes are taken by `build`."""


def shallow_copy(module: Module) -> Module:
    """A module of the same parts and tensors; one that is replaced in the copy stays in the other, and the other way round."""
    other = copy.copy(module)
    for parts in ("_parameters", "_buffers", "_modules"):
        setattr(other, parts, dict(getattr(module, parts)))
    return other


def given_tags(sample: Sample) -> Tensor:
    """(C,) float32 of 0 and 1, the image's own tags, unknown ones 0, for a prediction that is told them.

    Raises ValueError for an image without tags.
    """
    if sample.tags is None:
        raise ValueError(f"{sample.name}: tags='given' needs the image's tags and it has none; leave the option out")
    return sample.tags.nan_to_num(0.0)
