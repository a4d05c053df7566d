"""A trained model, ready for images: from a run folder or a weights file to predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from frugalseg.config import UsageError, did_you_mean
from frugalseg.data import Data, read
from frugalseg.data.images import BadImage, converted
from frugalseg.inference import batched, tiling
from frugalseg.methods import Method, find
from frugalseg.nets.network import Network
from frugalseg.nets.weights import read_weights
from frugalseg.recipes import checks
from frugalseg.regions.proposals import TOOLS
from frugalseg.types import Prediction, Sample

Images = str | Path | Data | Sample | Tensor | np.ndarray | Image.Image | Iterable["Images"]
Tags = Literal["predicted", "given"]


@dataclass
class Predictor:
    """A trained network with what it needs to be used.

    method: what it is. network: see `nets.network.Network`. classes: names of the ids 1..C. folder: its run, if it has one.
    main: whether this is the process that writes (others of a parallel training stay silent). replaced_proposals: the
    name of the proposals used instead of those of its training, or "". batch: images of like size at a time; 0 decides by itself.
    """

    method: Method
    network: Network
    classes: tuple[str, ...]
    folder: Path | None = None
    main: bool = field(default=True, repr=False)
    replaced_proposals: str = ""
    batch: int = 0

    @property
    def proposals(self) -> str | None:
        """Where the network takes its proposals from; None for one that takes none."""
        return self.network.proposal_source

    def predict(self, images: Images, batch: int | None = None) -> list[Prediction]:
        """Predictions for a file, a folder, a `Data`, a `Sample`, or a list of such; also for images in memory.

        Those are arrays (H, W, 3), images of Pillow, or tensors (3, H, W), of 0..255 in RGB. batch: in place of the
        predictor's own. Raises BadImage.
        """
        return [prediction for _, prediction in self.stream(images, batch=batch)]

    def stream(
        self,
        images: Images,
        skipped: list[BadImage] | None = None,
        tags: Tags = "predicted",
        tile: int = 0,
        overlap: int = 0,
        quiet: bool = True,
        batch: int | None = None,
    ) -> Iterator[tuple[Sample, Prediction]]:
        """`predict` image by image, so that memory does not grow with their number.

        skipped: where broken files are listed; without it the first one raises BadImage. tags: "given" tells the model which
        classes are in each image, for images that have tags. tile: side in pixels of the squares in which large images are
        predicted, which share `overlap` pixels, 0: a quarter of the side; for models of objects. 0 takes images whole. quiet:
        say nothing of the squares that are done. batch: in place of the predictor's own; see `batched.predict`.
        Raises UsageError for tiles and proposals from files, which are of whole images.
        """
        if tile and self.proposals not in (None, "rpn", *TOOLS):
            raise UsageError(f"tile: {self.proposals} has boxes of whole images; type --proposals selective_search with --tile")
        batch = self.batch if batch is None else batch
        inputs = samples(images, skipped, ("tags",) if tags == "given" else ())
        if not tile:
            yield from batched.predict(self.network, batched.read_ahead(inputs), tags, batch)
            return
        for sample in inputs:
            side = tile if max(sample.image.shape[1:]) > tile else 0
            yield sample, self._tiled(sample, tags, side, overlap or tile // 4, quiet, batch) if side else self._one(sample, tags)

    def _one(self, sample: Sample, tags: Tags) -> Prediction:
        ((_, prediction),) = batched.predict(self.network, [sample], tags)
        return prediction

    def _tiled(self, sample: Sample, tags: Tags, side: int, overlap: int, quiet: bool, batch: int) -> Prediction:
        def network(tiles: Iterable[Sample]) -> Iterator[Prediction]:
            return (prediction for _, prediction in batched.predict(self.network, tiles, tags, batch))

        return tiling.predict(network, sample, side, overlap, quiet)

    def with_proposals(self, source: str) -> Predictor:
        """The same model with other proposals; this one stays as it is.

        Raises UsageError for a model that takes none, and for a source that is not there.
        """
        before = self.proposals
        if before is None:
            name = self.method.name
            raise UsageError(f"proposals: got {source!r}, but this model of {name} takes none; leave --proposals out")
        if source not in (*TOOLS, before) and not Path(source).exists():
            raise UsageError(f"proposals: got {source!r}; expected {', '.join(TOOLS)}, or a file or folder of boxes")
        if source == before:
            return self
        network = self.network.with_settings(proposals=source)
        return replace(self, network=network, replaced_proposals=Path(source).name)


def samples(images: Images, skipped: list[BadImage] | None = None, labels: tuple[str, ...] = ()) -> Iterator[Sample]:
    """The images one by one, a data set's with no other than these labels; broken ones go to `skipped` or raise BadImage."""
    if isinstance(images, Sample):
        yield images
    elif isinstance(images, Tensor):
        yield Sample("picture", images)
    elif isinstance(images, (np.ndarray, Image.Image)):
        yield Sample("picture", converted(images))
    elif isinstance(images, (str, Path)):
        yield from samples(read(images, layout="images", verify=False, skip_limit=1.0), skipped, labels)
    elif isinstance(images, Data):
        yield from _readable(images.only("image", *labels), skipped)
    else:
        for item in images:
            yield from samples(item, skipped, labels)


def _readable(data: Data, skipped: list[BadImage] | None) -> Iterator[Sample]:
    for index in range(len(data)):
        try:
            yield data[index]
        except BadImage as error:
            if skipped is None:
                raise
            skipped.append(error)


def load(path: str | Path, device: str | torch.device = "auto", proposals: str | Path = "", batch: int = 0) -> Predictor:
    """The model in a run folder or a .safetensors file.

    device: "auto" takes a GPU where there is one. proposals: other boxes than it was trained with, for a model that takes some:
    "selective_search", "grid", "random", or a file or folder. batch: images of like size at a time; 0 takes as many as fit into
    a GPU's memory, else one. Raises UsageError when nothing trained is there, and for proposals that the model cannot take.
    """
    place = Path(path)
    weights = place / "weights" / "last.safetensors" if place.is_dir() else place
    if not weights.is_file():
        if (place / "config.yaml").is_file():
            raise UsageError(f"{place}: its training is not finished; frugalseg train --resume {place}")
        raise UsageError(f"{place}: got no run folder and no weights file; expected {weights}{_finished_runs(place)}")
    state, metadata = read_weights(weights)
    if "method" not in metadata:
        raise UsageError(f"{weights} holds weights that no training of frugalseg wrote; give them to a training as --weights")
    method = find(metadata["method"])
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network = restored(method, state, metadata).to(device)
    predictor = Predictor(method, network, tuple(metadata["classes"]), place if place.is_dir() else None, batch=batch)
    return predictor.with_proposals(str(proposals)) if str(proposals) else predictor


def restored(method: Method, state: Mapping[str, Tensor], metadata: dict[str, Any]) -> Network:
    """The network of a weights file, ready to predict."""
    network: Network = method.code.build(checks.restored(method.config, metadata["config"]), metadata["classes"])
    network.load_state_dict(state)
    network.read_metadata(metadata)
    return network.to(memory_format=torch.channels_last).eval()


def _finished_runs(meant: Path) -> str:
    """What to type instead: the finished run whose name is nearest, and the newest ones where trainings put them, if any."""
    files = Path("runs").glob("*/*/weights/last.safetensors")
    runs = [str(file.parent.parent) for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)]
    return f"{did_you_mean(str(meant), runs)}\nFinished runs here: {', '.join(runs[:5])}" if runs else ""
