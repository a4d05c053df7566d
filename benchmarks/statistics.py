"""Scores over several seeds, and what is said of a claim: differences with bootstrap intervals over images and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from benchmarks import results
from benchmarks.plan import Claim, Plan
from benchmarks.ranked import Ranked
from benchmarks.results import Records
from frugalseg.metrics import Difference, bootstrap, paired
from frugalseg.metrics.per_image import percent

VERDICTS = {"better": "reproduced", "worse": "not reproduced", "undecided": "undecided"}
SAMPLES = 2000  # bootstrap draws


class OverSeeds:
    """The mean of a score over seeds, or a fraction of it: itself a score, of the same images and under the same draws."""

    def __init__(self, seeds: Mapping[int, Any], fraction: float = 1.0) -> None:
        self.seeds, self.fraction = seeds, fraction
        self._first = next(iter(seeds.values()))
        self.classes, self.names = self._first.classes, self._first.names

    def by(self, measure: str) -> OverSeeds:
        """The same by another measure, where there are several."""
        return OverSeeds({seed: scores.of(measure) for seed, scores in self.seeds.items() if isinstance(scores, Ranked)})

    @property
    def values(self) -> list[float]:
        return [self.fraction * scores.value for scores in self.seeds.values()]

    @property
    def value(self) -> float:
        return float(np.mean(self.values))

    @property
    def interval(self) -> bootstrap.Interval:
        return bootstrap.interval(self.resampled())

    def truth(self) -> np.ndarray | Sequence[np.ndarray]:
        return self._first.truth()

    def resampled(self, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
        return self.fraction * np.mean([_resampled(scores, samples, seed) for scores in self.seeds.values()], axis=0)

    def of(self, seeds: Iterable[int]) -> OverSeeds:
        return OverSeeds({seed: self.seeds[seed] for seed in seeds}, self.fraction)

    def only(self, images: np.ndarray) -> OverSeeds:
        """The same of some of the images, a mask (N,), for scores that can be split by image."""
        return OverSeeds({seed: scores.only(images) for seed, scores in self.seeds.items() if isinstance(scores, Ranked)})

    def __str__(self) -> str:
        spread = f" ± {100 * np.std(self.values, ddof=1):.2f}" if len(self.seeds) > 1 else ""
        return percent(self.value) + spread


_drawn: WeakKeyDictionary[Any, dict[tuple[int, int], np.ndarray]] = WeakKeyDictionary()


def _resampled(scores: Any, samples: int, seed: int) -> np.ndarray:
    """`scores.resampled`, computed once for the table and all claims."""
    cached = _drawn.setdefault(scores, {})
    if (samples, seed) not in cached:
        cached[samples, seed] = scores.resampled(samples, seed)
    return cached[samples, seed]


def row_scores(plan: Plan, records: Records) -> dict[str, OverSeeds]:
    """The scores of every row that was run, by its name, in the order of the plan."""
    rows: dict[str, dict[int, Any]] = {}
    for record in records.values():
        for entry in record["rows"]:
            rows.setdefault(entry["name"], {})[record["cell"]["seed"]] = results.scores_of(record, entry["name"])
    order = [row.name for variant in plan.variants for row in variant.rows]
    return {name: OverSeeds(dict(sorted(rows[name].items()))) for name in order if name in rows}


def mean_interval(values: np.ndarray) -> dict[str, float]:
    """Mean and 95 % bootstrap interval over images of values (N, seeds): the mean over seeds under the same draws."""
    means = values.mean(1)
    draws = np.concatenate([counts @ means / len(means) for counts in bootstrap.draws(len(means), SAMPLES, 0)])
    interval = bootstrap.interval(draws)
    numbers = {"mean": float(means.mean()), "low": interval.low, "high": interval.high}
    return {name: round(value, 5) for name, value in numbers.items()} | {"level": interval.level}


# -- comparisons -----------------------------------------------------------------------------------------------------


def shared_seeds(*rows: OverSeeds) -> list[int]:
    return sorted(set.intersection(*(set(row.seeds) for row in rows)))


def compare(better: OverSeeds, worse: OverSeeds, unpaired: bool = False) -> Difference | None:
    """The difference over the seeds that both have, paired if not `unpaired`; None if they share none."""
    seeds = shared_seeds(better, worse)
    if not seeds:
        return None
    better, worse = better.of(seeds), worse.of(seeds)
    if not unpaired:
        return paired(better, worse)
    spread = bootstrap.interval(better.resampled(seed=0) - worse.resampled(seed=1))  # of independent draws
    return Difference(better.value - worse.value, spread.low, spread.high)


def compare_gains(better: OverSeeds, worse: OverSeeds, other: OverSeeds, base: OverSeeds) -> Difference | None:
    """How much more `better` gains over `worse` than `other` over `base`, all under the same draws, over the seeds all have."""
    rows = better, worse, other, base
    seeds = shared_seeds(*rows)
    if not seeds:
        return None
    values, draws = zip(*((row.of(seeds).value, row.of(seeds).resampled()) for row in rows), strict=True)
    mean, resampled = (part[0] - part[1] - (part[2] - part[3]) for part in (values, draws))
    spread = bootstrap.interval(resampled)
    return Difference(mean, spread.low, spread.high)


def judge(claim: Claim, rows: Mapping[str, OverSeeds]) -> tuple[str, str]:
    """What was measured about a claim, in numbers, and the verdict."""
    sides = [rows[name] for name in (claim.better, claim.worse, *claim.smaller_gain) if name in rows]
    if claim.measure:
        sides = [side.by(claim.measure) for side in sides]
    if len(sides) < 2 - isinstance(claim.worse, float) + len(claim.smaller_gain):
        return "", "not run"
    better, *others = sides
    if isinstance(claim.worse, float):
        return f"{percent(better.value)} {better.interval}", "met" if better.value >= claim.worse else "missed"
    worse, *gain = others
    if gain:
        difference = compare_gains(better, worse, *gain)
    else:
        difference = compare(better, OverSeeds(worse.seeds, claim.fraction), claim.unpaired)
    if difference is None:
        return "", "not run"
    return without_verdict(difference), VERDICTS[difference.decided]


def without_verdict(difference: Difference) -> str:
    """The mean and the interval of a difference."""
    return str(difference).rpartition(" ")[0]
