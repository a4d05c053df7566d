"""Predictions into a folder, picture by picture: indexed masks, overlays, a table of tags, and a list of what was skipped."""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from frugalseg import draw, files
from frugalseg.config import UsageError
from frugalseg.data import png
from frugalseg.data.formats import coco_writer
from frugalseg.data.images import MAX_PIXELS, BadImage
from frugalseg.data.problems import PICTURE
from frugalseg.progress import track

if TYPE_CHECKING:
    from frugalseg.data import Data
    from frugalseg.inference.predictor import Predictor
    from frugalseg.types import Prediction, Sample

JPEG_SIDE = 65_500  # pixels; no JPEG is longer


def write(
    predictor: Predictor,
    pictures: Sequence[str | Path | Data],
    out: str | Path,
    overlays: bool = True,
    quiet: bool = False,
    left_out: Sequence[BadImage] = (),
    min_score: float = 0.5,
    tags: Literal["predicted", "given"] = "predicted",
    tile: int = 0,
    overlap: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> tuple[int, list[BadImage]]:
    """Predict files and folders of pictures into `out`; give the number done and the broken files.

    masks/NAME.png holds class ids, overlays/NAME.jpg the picture with them (.png if it is too long for JPEG), tags.csv a row of
    confidences for each picture, skipped.csv what is `left_out` already and the files that could not be read. A model of objects
    writes objects/NAME.png with the numbers of those of at least `min_score` (.tif for more than 65535), instances.json (the same
    as a data set, to be looked at, corrected or learned from) and results.json (COCO's results) with all of them, under the
    ids of the COCO file that the pictures were read from, if there is one. What is stopped or fails leaves these files with the
    pictures done before. One picture is in memory at a time; tags, tile, overlap: see `Predictor.stream`. max_pixels: larger
    files are skipped; a `Data` has a limit of its own. Raises UsageError for two equal names.
    """
    found, folder, done = listed(pictures, max_pixels), Path(out), 0
    skipped = [*left_out, *passed_over(found)]
    folder.mkdir(parents=True, exist_ok=True)
    gathered = coco_writer.Collector(predictor.classes, found)
    endings = {record.name: record.image.suffix for data in found for record in data.records}
    predictions = predictor.stream(found, skipped, tags, tile, overlap, quiet)
    try:
        with (folder / "tags.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            table = csv.writer(file)
            table.writerow(["image", *predictor.classes])
            for sample, prediction in track(predictions, "predict", sum(map(len, found)), quiet=quiet):
                if prediction.instances is not None:
                    every, name = prediction.instances, sample.name
                    gathered.add(name, name + endings[name], prediction.size, every, draw.sure(every, min_score))
                if prediction.tags is not None:
                    table.writerow([sample.name, *(f"{value:.4f}" for value in prediction.tags.tolist())])
                _draw(folder, sample, prediction, overlays, min_score)
                done += 1
    finally:
        if gathered.images:
            files.write(folder / "results.json", json.dumps(gathered.results))
            files.write(folder / "instances.json", json.dumps(gathered.dataset()))
        _list_skipped(folder / "skipped.csv", skipped)
    best = max((found["score"] for found in gathered.results), default=1.0)
    if best < min_score:
        told = f"no object is as sure as min_score={min_score}, so none is drawn; the surest has {best:.2g}"
        warnings.warn(f"{told}: a lower min_score draws it", stacklevel=2)
    return done, skipped


def _draw(folder: Path, sample: Sample, prediction: Prediction, overlays: bool, min_score: float) -> None:
    """The files of one picture."""
    if prediction.semantic is not None:
        png.write(files.inside(folder / "masks", sample.name, ".png"), prediction.semantic)
    if prediction.instances is not None:
        path = files.inside(folder / "objects", sample.name, ".png")
        png.write(path, draw.object_map(prediction.instances, prediction.size, min_score))
    if overlays:
        path = files.inside(folder / "overlays", sample.name, ".jpg" if max(prediction.size) <= JPEG_SIDE else ".png")
        draw.save(path, draw.overlay(sample.image, prediction, least=min_score))


def listed(pictures: Sequence[str | Path | Data], max_pixels: int = MAX_PIXELS) -> list[Data]:
    """The pictures of each file, folder or data set. Raises DataError where there is none, UsageError for two equal names."""
    from frugalseg.data import Data, read

    whole = partial(read, layout="images", verify=False, skip_limit=1.0, max_pixels=max_pixels)
    found = [item if isinstance(item, Data) else whole(item) for item in pictures]
    for name, count in Counter(name for data in found for name in data.names).most_common(1):
        if count > 1:
            raise UsageError(f"two pictures are called {name!r}; predict their folders one by one, each with an --out of its own")
    return found


def passed_over(found: Sequence[Data]) -> list[BadImage]:
    """The pictures that the reader itself left out, such as the second of two that differ in their ending alone."""
    problems = [(data.root, problem) for data in found for problem in data.problems if problem.effect == PICTURE]
    return [BadImage(root / item, problem.message, problem.code) for root, problem in problems for item in problem.items]


def _list_skipped(path: Path, skipped: Sequence[BadImage]) -> None:
    """A list of an earlier call must not stay when nothing was skipped now."""
    path.unlink(missing_ok=True)
    if skipped:
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file).writerows([("file", "reason"), *((error.path, error.reason) for error in skipped)])
