"""A trained model, ready for pictures: from a run folder or a weights file to predictions, one picture at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from frugalseg.config import UsageError, did_you_mean
from frugalseg.data import Data, read
from frugalseg.data.images import BadImage, converted
from frugalseg.inference import tiling
from frugalseg.methods import Method, find
from frugalseg.nets.network import Network
from frugalseg.recipes import checks
from frugalseg.regions.proposals import TOOLS
from frugalseg.types import Prediction, Sample

Pictures = str | Path | Data | Sample | Tensor | np.ndarray | Image.Image | Iterable["Pictures"]


@dataclass
class Predictor:
    """A trained network with what it needs to be used.

    method: what it is. network: with `predict(samples, tags=…)`. classes: names of the ids 1..C. folder: its run, if it has one.
    main: whether this is the process that writes (others of a parallel training stay silent). others: the name of the proposals
    it was given in the place of those of its training, or "".
    """

    method: Method
    network: nn.Module
    classes: tuple[str, ...]
    folder: Path | None = None
    main: bool = field(default=True, repr=False)
    others: str = ""

    @property
    def proposals(self) -> str | None:
        """Where the network takes its proposals from; None for one that takes none."""
        config: Any = getattr(self.network, "config", None)
        source = getattr(config, "proposals", None)  # Mask R-CNN's is a number; CAM's parts ask for none
        return source if isinstance(source, str) and getattr(config, "objects", "") != "parts" else None

    def predict(self, pictures: Pictures) -> list[Prediction]:
        """Predictions for a file, a folder, a `Data`, a `Sample`, or a list of such; also for pictures in memory.

        Those are arrays (H, W, 3), images of Pillow, or tensors (3, H, W), of 0..255 in RGB. Raises BadImage.
        """
        return [prediction for _, prediction in self.stream(pictures)]

    def stream(
        self,
        pictures: Pictures,
        skipped: list[BadImage] | None = None,
        tags: Literal["predicted", "given"] = "predicted",
        tile: int = 0,
        overlap: int = 0,
        quiet: bool = True,
    ) -> Iterator[tuple[Sample, Prediction]]:
        """`predict` picture by picture, so that memory does not grow with their number.

        skipped: where broken files are listed; without it the first one raises BadImage. tags: "given" tells the model which
        classes are in each picture, for pictures that have tags. tile: side in pixels of the squares in which large pictures are
        predicted, which share `overlap` pixels, 0: a quarter of the side; for models of objects. 0 takes pictures whole. quiet:
        say nothing of the squares that are done.
        Raises UsageError for tiles and proposals from files, which are of whole pictures.
        """
        if tile and self.proposals not in (None, "rpn", *TOOLS):
            raise UsageError(f"tile: {self.proposals} has boxes of whole pictures; type --proposals selective_search with --tile")
        self.network.eval()
        labels = ("tags",) if tags == "given" else ()
        for sample in samples(pictures, skipped, labels):
            with torch.inference_mode():
                if tile and max(sample.image.shape[1:]) > tile:
                    yield sample, tiling.predict(partial(self._one, tags=tags), sample, tile, overlap or tile // 4, quiet)
                else:
                    yield sample, self._one(sample, tags)

    def _one(self, sample: Sample, tags: str) -> Prediction:
        (prediction,) = self.network.predict([sample], tags=tags)  # type: ignore[operator]
        return prediction


def samples(pictures: Pictures, skipped: list[BadImage] | None = None, labels: tuple[str, ...] = ()) -> Iterator[Sample]:
    """The pictures one by one, a data set's with no other than these labels; broken ones go to `skipped` or raise BadImage."""
    if isinstance(pictures, Sample):
        yield pictures
    elif isinstance(pictures, Tensor):
        yield Sample("picture", pictures)
    elif isinstance(pictures, (np.ndarray, Image.Image)):
        yield Sample("picture", converted(pictures))
    elif isinstance(pictures, (str, Path)):
        yield from samples(read(pictures, layout="images", verify=False, skip_limit=1.0), skipped, labels)
    elif isinstance(pictures, Data):
        visible = pictures.only("image", *labels)
        for index in range(len(visible)):
            try:
                yield visible[index]
            except BadImage as error:
                if skipped is None:
                    raise
                skipped.append(error)
    else:
        for item in pictures:
            yield from samples(item, skipped, labels)


def load(path: str | Path, device: str | torch.device = "auto", proposals: str | Path = "") -> Predictor:
    """The model in a run folder or a .safetensors file.

    device: "auto" takes a GPU where there is one. proposals: other boxes than it was trained with, for a model that takes some:
    "selective_search", "grid", "random", or a file or folder. Raises UsageError when nothing trained is there, and for proposals
    that the model cannot take.
    """
    from frugalseg.nets.weights import read_weights

    given = Path(path)
    weights = given / "weights" / "last.safetensors" if given.is_dir() else given
    if not weights.is_file():
        if (given / "config.yaml").is_file():
            raise UsageError(f"{given}: its training is not finished; frugalseg train --resume {given}")
        raise UsageError(f"{given}: got no run folder and no weights file; expected {weights}{_finished(given)}")
    state, metadata = read_weights(weights)
    if "method" not in metadata:
        raise UsageError(f"{weights} holds weights that no training of frugalseg wrote; give them to a training as --weights")
    method = find(metadata["method"])
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network = restored(method, state, metadata).to(device)
    predictor = Predictor(method, network, tuple(metadata["classes"]), given if given.is_dir() else None)
    if str(proposals):
        propose(predictor, str(proposals))
    return predictor


def restored(method: Method, state: Mapping[str, Tensor], metadata: dict[str, Any]) -> nn.Module:
    """The network of a weights file, ready to predict."""
    if hasattr(method.code, "load"):
        return method.code.load(state, metadata)
    network = method.code.build(checks.restored(method.config, metadata["config"]), metadata["classes"])
    network.load_state_dict(state)
    network.read_metadata(metadata)
    return network.to(memory_format=torch.channels_last).eval()


def _finished(meant: Path) -> str:
    """What to type instead: the finished run whose name is nearest, and the newest ones where trainings put them, if any."""
    files = Path("runs").glob("*/*/weights/last.safetensors")
    runs = [str(file.parent.parent) for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)]
    return f"{did_you_mean(str(meant), runs)}\nFinished runs here: {', '.join(runs[:5])}" if runs else ""


def propose(predictor: Predictor, source: str) -> None:
    """Let a model look at other proposals. Raises UsageError for one that takes none, and for a source that is not there."""
    before = predictor.proposals
    if before is None:
        raise UsageError(
            f"proposals: got {source!r}, but this model of {predictor.method.name} takes none; leave --proposals out"
        )
    if source not in (*TOOLS, before) and not Path(source).exists():
        raise UsageError(f"proposals: got {source!r}; expected {', '.join(TOOLS)}, or a file or folder of boxes")
    if source != before:
        network = cast(Network, predictor.network)
        # Called by its class for the networks that do not inherit it yet.
        predictor.network, predictor.others = Network.with_settings(network, proposals=source), Path(source).name
