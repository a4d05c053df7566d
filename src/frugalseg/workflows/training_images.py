"""What a training learns from: the images that were asked for, whether their labels are enough, and what is missing."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frugalseg.config import UsageError
from frugalseg.methods import Method, label_words
from frugalseg.recipes.selection import Selection

if TYPE_CHECKING:
    from frugalseg.data import Data

DRY_IMAGES = 8  # images of a --dry-run
NAMED = 5  # classes that a warning names


def listed_images(data: str | Path | Data, selection: Selection, seed: int) -> Data:
    """The images of a list, of the classes that were asked for, or a share of them.

    data: a folder, or what `frugalseg.read` returned. Raises UsageError for a share outside 0 to 1, DataError for the data.
    """
    from frugalseg.data import read
    from frugalseg.data.subset import drawn, of_classes

    if not 0 < selection.share <= 1:
        raise UsageError(f"--share: got {selection.share}, expected a number above 0, at most 1; type --share 0.1 for a tenth")
    if isinstance(data, (str, Path)):
        split, classes = selection.split or None, selection.classes or None
        data = read(data, split, skip_limit=selection.skip_limit, classes=classes)
    elif selection.classes:
        data = of_classes(data, selection.classes)
    return drawn(data, selection.share, seed) if selection.share < 1 else data


def first_images(data: Data, selection: Selection) -> Data:
    """The first of the images, as many as were asked for."""
    limit = DRY_IMAGES if selection.dry_run else selection.limit
    return data.select(range(min(limit, len(data)))) if limit else data


def expect_labels(method: Method, needs: frozenset[str], data: Data, offers: Collection[str]) -> None:
    """Raises UsageError unless the labels are there that a training needs. offers: those of the data, or predicted ones."""
    if not needs <= set(offers):
        has = label_words(data.offers)
        raise UsageError(f"{method.name} needs {label_words(needs)}, but {data.root} has {has}; `frugalseg check` says more")


def expect_a_batch(recipe: Any, images: int, processes: int) -> None:
    """Raises UsageError for fewer images than a step shows, where none may be shown twice."""
    if not getattr(recipe, "repeats", True) and images < recipe.batch:
        most = images - images % processes
        advice = f"type --batch {most} or less" if most else "add images, or take fewer --devices"
        raise UsageError(f"--batch: got {recipe.batch}, but there are only {images} images to learn from; {advice}")


def warn_of_missing_labels(data: Data, needs: frozenset[str]) -> None:
    """Warn of what the training has to do without: files left out, and classes that no image is tagged with."""
    for problem in data.problems:
        if problem.effect:
            warnings.warn(str(problem).removeprefix("warning "), stacklevel=3)
    tagged = (data.tags == 1).any(0).tolist() if "tags" in needs else []
    missing = [name for name, is_tagged in zip(data.classes, tagged, strict=False) if not is_tagged]
    if missing:
        few = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
        counts = f"no image of the training is tagged with {len(missing)} of {len(tagged)} classes ({few})"
        warnings.warn(f"{counts}: it cannot learn them, though it will name them as classes", stacklevel=3)
