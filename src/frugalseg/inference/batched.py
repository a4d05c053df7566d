"""Many images through one network: the next is read while this one is computed, and images of like size go together.

Batches change no prediction but for rounding (sums in another order): an image is never padded to fit beside another.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from frugalseg.nets.network import Network, Tensors
from frugalseg.types import Prediction, Sample

LOOK_AHEAD = 4  # batches that are read before the first is computed, so that images of like size meet
LARGEST = 32  # images of an automatic batch, at most: beyond it a GPU gains nothing more
MARGIN = 0.5  # share of the free GPU memory that an automatic batch may fill

Item = TypeVar("Item")
Tags = str | Callable[[Sample], str]


def predict(
    network: Network, samples: Iterable[Sample], tags: Tags = "predicted", batch: int = 0
) -> Iterator[tuple[Sample, Prediction]]:
    """Each sample with its prediction, in the order they came.

    tags: "given" tells the network which classes are in each image; a function says so for each. batch: images at a time, at
    most; 0: on a GPU as many as its memory takes, measured with the first image, else one. At most LOOK_AHEAD batches of samples
    are in memory.
    """
    network.eval()
    samples = iter(samples)
    for sample in samples:
        told = _told(tags, sample)
        prepared = _prepared(network, sample, told)
        limit = batch or automatic(network, sample, prepared, told)
        yield sample, _computed(network, [prepared], [sample], told)[0]
        break
    else:
        return
    for window in windows(samples, limit * LOOK_AHEAD if limit > 1 else 1):
        yield from zip(window, _window(network, window, tags, limit), strict=True)


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each next one made by another thread meanwhile; what its making raises is raised in its turn."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]


def windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last perhaps shorter."""
    window: list[Item] = []
    for item in items:
        window.append(item)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def groups(keys: Sequence[Hashable], most: int) -> list[list[int]]:
    """The places of equal keys together, at most so many, in the order of their first."""
    together: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        together.setdefault(key, []).append(place)
    return [places[start : start + most] for places in together.values() for start in range(0, len(places), most)]


def automatic(network: Network, sample: Sample, prepared: Tensors, tags: str) -> int:
    """How many images like this one a GPU's free memory takes; 1 on other devices, whose cores one image keeps busy."""
    if network.device.type != "cuda":
        return 1
    torch.cuda.reset_peak_memory_stats(network.device)
    before = torch.cuda.memory_allocated(network.device)
    _computed(network, [prepared], [sample], tags)
    each = max(1, torch.cuda.max_memory_allocated(network.device) - before)
    free, _ = torch.cuda.mem_get_info(network.device)
    return max(1, min(LARGEST, int(MARGIN * free / each)))


def _told(tags: Tags, sample: Sample) -> str:
    return tags if isinstance(tags, str) else tags(sample)


def _window(network: Network, window: Sequence[Sample], tags: Tags, most: int) -> list[Prediction]:
    """Predictions of a few samples, in their order."""
    told = [_told(tags, sample) for sample in window]
    prepared = [_prepared(network, sample, word) for sample, word in zip(window, told, strict=True)]
    keys = [(word, network.batch_key(inputs)) for word, inputs in zip(told, prepared, strict=True)]
    predictions: dict[int, Prediction] = {}
    for places in groups(keys, most):
        items, samples = [prepared[place] for place in places], [window[place] for place in places]
        found = _computed(network, items, samples, told[places[0]])
        predictions |= dict(zip(places, found, strict=True))
    return [predictions[place] for place in range(len(window))]


@torch.inference_mode()
def _prepared(network: Network, sample: Sample, tags: str) -> Tensors:
    return network.preprocess(sample, tags)


@torch.inference_mode()
def _computed(network: Network, items: Sequence[Tensors], samples: Sequence[Sample], tags: str) -> list[Prediction]:
    """The predictions of one batch; one that is too large for the GPU is halved until it fits."""
    try:
        return network.predict_batch(items, samples, tags)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
        half = len(items) // 2
    return _computed(network, items[:half], samples[:half], tags) + _computed(network, items[half:], samples[half:], tags)
