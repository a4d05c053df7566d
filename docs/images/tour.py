"""Makes tour.png, the masks in the README: `python docs/images/tour.py RUN DATA`, RUN being psl1-seed0 of docs/results.md."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import frugalseg
from frugalseg import draw

COLUMNS, GAP = 8, 4  # the first pictures of the list, good or bad


def tile(sample: frugalseg.Sample, found: frugalseg.Prediction) -> np.ndarray:
    """A picture, the masks that were found and the true ones, one above the other: (H, W, 3)."""
    assert sample.semantic is not None
    image = sample.image.permute(1, 2, 0).numpy()
    masks = [draw.paint(image, ids, alpha=0.75) for ids in (found.semantic, sample.semantic)]
    return np.concatenate([np.pad(part, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for part in (image, *masks)])


run, data = sys.argv[1:]
pictures = frugalseg.read(data, split="Segmentation/val").select(range(COLUMNS))
model = frugalseg.load(run)
tiles = [tile(sample, *model.predict(sample.image)) for sample in pictures]
picture = Image.fromarray(np.concatenate(tiles, axis=1)).quantize(256, method=Image.Quantize.MAXCOVERAGE)
picture.save(Path(__file__).with_suffix(".png"), optimize=True)
