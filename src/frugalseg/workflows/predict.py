"""Predictions into a folder, image by image: indexed masks, overlays, COCO's JSON, tables of tags and of what was skipped."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from frugalseg import config, draw, files
from frugalseg.config import UsageError
from frugalseg.data import png
from frugalseg.data.formats import coco_writer
from frugalseg.data.images import BadImage
from frugalseg.data.problems import PICTURE
from frugalseg.progress import track
from frugalseg.recipes.output import Output

if TYPE_CHECKING:
    from frugalseg.data import Data
    from frugalseg.inference.predictor import Predictor
    from frugalseg.types import Prediction, Sample

JPEG_SIDE = 65_500  # pixels; no JPEG is longer
IN_MEMORY = 1 << 20  # bytes of a table that are held in memory; the rest waits in a temporary file


def write(
    predictor: Predictor,
    images: Sequence[str | Path | Data],
    out: str | Path,
    left_out: Sequence[BadImage] = (),
    **options: Any,
) -> tuple[int, list[BadImage]]:
    """Predict files and folders of images into `out`; give the number done and the broken files.

    masks/NAME.png holds class ids, overlays/NAME.jpg the image with them (.png if it is too long for JPEG), tags.csv a row of
    confidences for each image, skipped.csv what is `left_out` already and the files that could not be read. A model of objects
    writes objects/NAME.png with the numbers of those of at least `min_score` (.tif for more than 65535), instances.json (the same
    as a data set, to be looked at, corrected or learned from) and results.json (COCO's results) with all of them, under the
    ids of the COCO file that the images were read from, if there is one. A call that is stopped or fails writes these
    files too, for the images done so far. One image, or one batch, is in memory at a time.

    options: fields of `recipes.output.Output`; a `Data` has a limit of its own instead of max_pixels.
    Raises UsageError for an option that is not valid, and for two equal names.
    """
    output = config.instance(Output, options)
    data = read_images(images, output.max_pixels)
    skipped = [*left_out, *passed_over(data)]
    folder = PredictionFolder(Path(out), predictor.classes, data, output)
    predictions = predictor.stream(data, skipped, output.tags, output.tile, output.overlap, output.quiet)
    try:
        for sample, prediction in track(predictions, "predict", sum(map(len, data)), quiet=output.quiet):
            folder.add(sample, prediction)
    finally:
        folder.close(skipped)
    folder.warn_of_low_scores()
    return folder.count, skipped


class PredictionFolder:
    """The folder that predictions are written into. count: images done.

    classes: of the model. data: where the images are from. Files of single images are there at once, those of all images when
    the folder is closed.
    """

    def __init__(self, folder: Path, classes: Sequence[str], data: Sequence[Data], output: Output) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.output, self.count = folder, output, 0
        self.coco = coco_writer.Collector(classes, data)
        self.tags = Table(["image", *classes])
        self.endings = {record.name: record.image.suffix for part in data for record in part.records}

    def add(self, sample: Sample, prediction: Prediction) -> None:
        """Take over the prediction of one image, and write its own files."""
        name, objects = sample.name, prediction.instances
        if objects is not None:
            drawn = draw.sure(objects, self.output.min_score)
            self.coco.add(name, name + self.endings[name], prediction.size, objects, drawn)
        if prediction.tags is not None:
            self.tags.add([name, *(f"{value:.4f}" for value in prediction.tags.tolist())])
        self._write_masks(sample, prediction)
        self.count += 1

    def _write_masks(self, sample: Sample, prediction: Prediction) -> None:
        """masks/, objects/ and overlays/ of one image."""
        name, least = sample.name, self.output.min_score
        if prediction.semantic is not None:
            png.write(files.inside(self.folder / "masks", name, ".png"), prediction.semantic)
        if prediction.instances is not None:
            objects = draw.object_map(prediction.instances, prediction.size, least)
            png.write(files.inside(self.folder / "objects", name, ".png"), objects)
        if self.output.overlays:
            ending = ".jpg" if max(prediction.size) <= JPEG_SIDE else ".png"
            overlay = draw.overlay(sample.image, prediction, least=least)
            draw.save(files.inside(self.folder / "overlays", name, ending), overlay)

    def close(self, skipped: Sequence[BadImage]) -> None:
        """Write the files of all images, each whole or not at all; a skipped.csv of an earlier call is deleted."""
        self.tags.save(self.folder / "tags.csv")
        if self.coco.images:
            files.write(self.folder / "results.json", json.dumps(self.coco.results))
            files.write(self.folder / "instances.json", json.dumps(self.coco.dataset()))
        (self.folder / "skipped.csv").unlink(missing_ok=True)
        if skipped:
            table = Table(["file", "reason"])
            for error in skipped:
                table.add([error.path, error.reason])
            table.save(self.folder / "skipped.csv")

    def warn_of_low_scores(self) -> None:
        """Warn where no object is drawn, although there are some."""
        best = max((result["score"] for result in self.coco.results), default=1.0)
        if best < self.output.min_score:
            text = f"no object scores min_score={self.output.min_score} or more, so none is drawn; the best has {best:.2g}"
            warnings.warn(f"{text}: a lower min_score draws it", stacklevel=3)


class Table:
    """A CSV file that grows row by row and appears under its name only as a whole."""

    def __init__(self, columns: Iterable[str]) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, "w+b")  # noqa: SIM115 - closed by `save`
        self.add(columns)

    def add(self, row: Iterable[str]) -> None:
        """Add a row; what UTF-8 cannot hold, such as half of a surrogate pair in a file's name, is escaped."""
        line = io.StringIO()
        csv.writer(line).writerow(row)
        self._file.write(line.getvalue().encode("utf-8", errors="backslashreplace"))

    def save(self, path: Path) -> None:
        """Write the file, and forget the rows. Raises DiskError; see `files.write`."""
        files.write(path, self._copy)
        self._file.close()

    def _copy(self, file: BinaryIO) -> None:
        self._file.seek(0)
        for part in iter(partial(self._file.read, IN_MEMORY), b""):
            file.write(part)


def read_images(images: Sequence[str | Path | Data], max_pixels: int) -> list[Data]:
    """The images of each file, folder or data set. Raises DataError where there is none, UsageError for two equal names."""
    from frugalseg.data import Data, read

    data = [
        item if isinstance(item, Data) else read(item, layout="images", verify=False, skip_limit=1.0, max_pixels=max_pixels)
        for item in images
    ]
    for name, count in Counter(name for part in data for name in part.names).most_common(1):
        if count > 1:
            raise UsageError(f"two images are called {name!r}; predict their folders one by one, each with an --out of its own")
    return data


def passed_over(data: Sequence[Data]) -> list[BadImage]:
    """The images that the reader itself left out, such as the second of two that differ in their ending alone."""
    problems = [(part.root, problem) for part in data for problem in part.problems if problem.effect == PICTURE]
    return [BadImage(root / item, problem.message, problem.code) for root, problem in problems for item in problem.items]
