"""Makes shapes.png, the picture of docs/shapes.md: `python docs/images/shapes.py`."""

from pathlib import Path

import numpy as np
from PIL import Image

from frugalseg import draw
from frugalseg.data import shapes

COLUMNS, GAP = 6, 4


def tile(index: int) -> np.ndarray:
    """A picture above its class mask, with a white margin: (H, W, 3)."""
    sample = shapes.draw(index)
    assert sample.semantic is not None
    image = sample.image.permute(1, 2, 0).numpy()
    mask = draw.paint(image, sample.semantic, alpha=0.75)
    parts = [np.pad(part, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for part in (image, mask)]
    return np.concatenate(parts)


tiles = [tile(index) for index in range(2 * COLUMNS)]
rows = [np.concatenate(tiles[start : start + COLUMNS], axis=1) for start in range(0, len(tiles), COLUMNS)]
picture = Image.fromarray(np.concatenate(rows)).quantize(256, method=Image.Quantize.MAXCOVERAGE)
picture.save(Path(__file__).with_suffix(".png"), optimize=True)
