"""How sure a score is: intervals over images, and whether one run beats another (Efron's percentile bootstrap).

A score is a function of how often each image counts, so a metric only has to say what it is under given counts: no image is
looked at twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

CELLS = 2**21  # numbers per chunk of draws: 16 MB at a time; 2,000 draws of 10,000 images would take 160 MB
KEPT = 4 * CELLS  # draws of at most this many numbers are kept for the next score of as many images; two bytes each, so 16 MB


@dataclass(frozen=True)
class Interval:
    """The middle `level` of the resampled scores, as fractions; NaN where one image alone says nothing of the spread."""

    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        return "–" if np.isnan(self.low) else f"[{100 * self.low:.2f}, {100 * self.high:.2f}]"


@dataclass(frozen=True)
class Difference:
    """Score of run a minus score of run b on the same images, with its interval, all as fractions."""

    mean: float
    low: float
    high: float
    level: float = 0.95

    @property
    def decided(self) -> str:
        """Of a: "better" or "worse" only when the interval excludes 0, else "undecided"."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"

    def __str__(self) -> str:
        return f"{100 * self.mean:+.2f} [{100 * self.low:+.2f}, {100 * self.high:+.2f}] {self.decided}"


class Scores(Protocol):
    """What `paired` asks of a metric."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the ids 1..C."""

    @property
    def names(self) -> list[str]:
        """The images, in sorted order."""

    @property
    def value(self) -> float:
        """The metric as a fraction."""

    def truth(self) -> np.ndarray | Sequence[np.ndarray]:
        """What the rows hold of the ground truth: two metrics can be paired only where it is equal."""

    def resampled(self, samples: int, seed: int) -> np.ndarray:
        """(samples,) values of the metric, each over a bootstrap draw of the images."""


def draws(images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is drawn: chunks of (s, images), `samples` rows in all, each row with the sum `images`.

    Whole numbers as float64, since BLAS multiplies nothing else; in memory the draws of one image lie side by side.
    """
    if samples * images > KEPT:
        yield from (counts.astype(np.float64) for counts in _drawn(images, samples, seed))
    else:
        rows = max(1, CELLS // images)
        counts = _kept(images, samples, seed).T
        yield from (counts[begin : begin + rows].astype(np.float64) for begin in range(0, samples, rows))


@lru_cache(maxsize=4)
def _kept(images: int, samples: int, seed: int) -> np.ndarray:
    """(images, samples) all of `draws` in few bytes, because scores of the same images are often resampled by the same draws."""
    small = np.min_scalar_type(images)
    return np.concatenate([np.ascontiguousarray(counts.T, small) for counts in _drawn(images, samples, seed)], axis=1)


def _drawn(images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """`draws` anew, as int64. `Generator.multinomial`, which draws the counts themselves, takes many times as long."""
    generator, most = np.random.default_rng(seed), max(1, CELLS // images)
    for begin in range(0, samples, most):
        rows = min(most, samples - begin)
        cells = generator.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(cells.ravel(), minlength=rows * images).reshape(rows, images)


def interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Percentile interval of resampled scores (S,). Draws in which the score does not exist (NaN) are left out."""
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a share between 0 and 1, such as 0.95")
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(float("nan"), float("nan"), level)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def paired(a: Scores, b: Scores, samples: int = 2000, seed: int = 0, level: float = 0.95) -> Difference:
    """Is run a better than run b? Both are resampled with the same draws, so what makes an image hard for both cancels.

    ValueError if the two were not scored on the same images against the same ground truth.
    """
    _same_images(a, b)
    spread = interval(a.resampled(samples, seed) - b.resampled(samples, seed), level)
    return Difference(a.value - b.value, spread.low, spread.high, level)


def _same_images(a: Scores, b: Scores) -> None:
    if a.classes != b.classes:
        raise ValueError(f"the two runs have different classes: {a.classes} and {b.classes}; compare runs of one data set")
    alone = {"first": sorted(set(a.names) - set(b.names)), "second": sorted(set(b.names) - set(a.names))}
    if any(alone.values()):
        found = "; ".join(f"{len(names)} only in the {run} ({', '.join(names[:5])})" for run, names in alone.items() if names)
        raise ValueError(f"the two runs were scored on different images: {found}; evaluate both on the same split")
    ours, theirs = a.truth(), b.truth()
    if isinstance(ours, np.ndarray) and np.array_equal(ours, theirs, equal_nan=True):
        return  # the usual case, at once
    same = [np.array_equal(x, y, equal_nan=True) for x, y in zip(ours, theirs, strict=True)]
    changed = [name for name, equal in zip(a.names, same, strict=True) if not equal]
    if changed:
        examples = f"{len(changed)} images, such as {', '.join(changed[:5])}"
        raise ValueError(f"the two runs met different ground truth in {examples}; evaluate both again on the same labels")
