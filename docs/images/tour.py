"""Makes the README's rows of pictures, what a run finds in them and the truth: `python docs/images/tour.py RUN DATA FILE`.

tour.png: psl1-seed0 of AE-PSL in docs/results.md; objects.png: full-seed0 of R2-IOS there; both on the built-in pictures.
"""

import sys

import numpy as np
from PIL import Image

import frugalseg
from frugalseg import draw
from frugalseg.types import CompactInstances

COLUMNS, GAP = 8, 4  # the first pictures of the list, good or bad


def tile(sample: frugalseg.Sample, true: CompactInstances, found: frugalseg.Prediction) -> np.ndarray:
    """A picture, what was found and what is there, one above the other: (H, W, 3)."""
    image = sample.image.permute(1, 2, 0).numpy()
    if found.semantic is None:
        masks = [draw.objects(image, objects, alpha=0.75) for objects in (found.instances, true)]
    else:
        assert sample.semantic is not None
        masks = [draw.paint(image, ids, alpha=0.75) for ids in (found.semantic, sample.semantic)]
    return np.concatenate([np.pad(part, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for part in (image, *masks)])


run, data, file = sys.argv[1:]
pictures = frugalseg.read(data, split="Segmentation/val").select(range(COLUMNS))
model = frugalseg.load(run)
tiles = [tile(pictures[i], pictures.compact(i), *model.predict(pictures[i].image)) for i in range(COLUMNS)]
picture = Image.fromarray(np.concatenate(tiles, axis=1)).quantize(256, method=Image.Quantize.MAXCOVERAGE)
picture.save(file, optimize=True)
