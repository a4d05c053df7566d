"""Arrays computed once for each item of a data set and kept on disk, one file an item."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frugalseg.files import write


class ArrayStore:
    """Arrays for each item of a data set, one .npz an item, a thousand in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, index: int) -> Path:
        """The file of one item."""
        return self.folder / f"{index // 1000:05d}" / f"{index:08d}.npz"

    def __contains__(self, index: int) -> bool:
        return self.path(index).exists()

    def write(self, index: int, arrays: dict[str, np.ndarray]) -> None:
        """Write the arrays of one item, by name; a crash leaves no half of a file."""
        write(self.path(index), lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))

    def read(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of one item, by name."""
        with np.load(self.path(index), allow_pickle=False) as arrays:
            return dict(arrays)
