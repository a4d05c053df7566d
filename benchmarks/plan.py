"""What is measured, declared without running anything: cells (method × data × variant × seed), their rows, and claims on rows.

A method declares a `Plan` in `claims/<method>.py`; `cells.py` runs it, `tables.py` prints it. Free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from frugalseg import config
from frugalseg.methods import METHODS, kinds

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One score of a trained run.

    name: unique in the plan. weights: the file in the run's weights/ that predicts. tags: "given" tells the model the classes of
    each picture, an upper bound. options: fields of the model's settings that are replaced for prediction.
    """

    name: str
    weights: str = "last"
    tags: Literal["predicted", "given"] = "predicted"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One training, and the rows it is scored by.

    settings: over the recipe's. after: settings whose value is the run folder of another variant of the same data and seed.
    masked: learns from the bench's list of pictures with masks. data: the data sets it is run on, empty for all. extras: further
    figures for the JSON, each made by a function of (run folder, training pictures with all their labels). method: what is
    trained, if not the plan's, by the bench's recipe for it.
    """

    name: str
    rows: tuple[Row, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    masked: bool = False
    data: tuple[str, ...] = ()
    extras: Mapping[str, Callable[[Path, Any], Any]] = field(default_factory=dict)
    method: str = ""


@dataclass(frozen=True)
class Bench:
    """One data set for one method.

    data: a name in `cells.DATA`. about: a sentence for the page. recipe: a file in configs/. train, masked, val: lists of
    pictures: to learn from, to learn from with masks, to score on. settings: over the recipe's, "$FRUGALSEG_DATA" standing for
    the folder of real photos and "$RUNS" for that of all runs. adjust: by variant, settings over the variant's. recipes: files
    for other methods than the plan's. source: the data that the plan's own method learns from, if another.
    tried: what was tried where a claim did not reproduce, for the page. after: as a variant's, for all variants but those named
    and those that set it otherwise, where their method has the setting.
    """

    data: str
    about: str
    recipe: str
    train: str
    masked: str
    val: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    adjust: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recipes: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    tried: str = ""
    after: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """ "`better` scores higher than `worse`", both names of rows; a number in the place of `worse` is a target.

    paper: what the paper reports for it, if it does. data: where it is put to the test. measure: what counts, where there are
    several: a name in `ranked.MEASURES` or "CorLoc", the first of them if empty. share: of the score of `worse` that is enough.
    apart: the two were scored by different lists of episodes, so nothing is paired. than: two rows; `better` gains more over
    `worse` than the first of them over the second.
    """

    text: str
    better: str
    worse: str | float
    paper: str = ""
    data: tuple[str, ...] = ("voc20", "shapes")
    measure: str = ""
    share: float = 1.0
    apart: bool = False
    than: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All measurements of one method.

    crowded: two rows whose difference is shown by how much the objects of a picture cover each other, or none. measures: what the
    page shows of objects: names as in `Claim`.
    """

    method: str
    benches: tuple[Bench, ...]
    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...]
    crowded: tuple[str, ...] = ()
    measures: tuple[str, ...] = ("AP^r@0.5", "AP^r@0.6", "AP^r@0.7", "AP^r_vol", "AP")

    def __post_init__(self) -> None:
        names = [row.name for variant in self.variants for row in variant.rows]
        known = {variant.name for variant in self.variants}
        faults = [f"two rows are called {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
        takers = [(variant.name, variant.after) for variant in self.variants]
        takers += [(f"all of {bench.data}", bench.after) for bench in self.benches]
        for taker, after in takers:
            strange = sorted(set(after.values()) - known)
            faults += [f"{taker} comes after {other!r}, which is no variant" for other in strange]
        for claim in self.claims:
            sides = {side for side in (claim.better, claim.worse, *claim.than) if isinstance(side, str)}
            faults += [f"{claim.text!r} is about {side!r}, which is no row" for side in sorted(sides - set(names))]
        faults += [f"{side!r} is compared by crowding and is no row" for side in self.crowded if side not in names]
        if faults:
            raise ValueError(f"the plan of {self.method} is not valid:\n" + "\n".join(f"  - {fault}" for fault in faults))

    def cells(self) -> Iterator[Cell]:
        """Every cell; what a cell comes after stands before it."""
        for bench in self.benches:
            for seed in bench.seeds:
                for variant in self.variants:
                    if not variant.data or bench.data in variant.data:
                        yield Cell(self, bench, variant, seed)


@dataclass(frozen=True)
class Cell:
    """One training with its scores: method × data × variant × seed."""

    plan: Plan
    bench: Bench
    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.plan.method}/{self.bench.data}/{self.variant.name}-seed{self.seed}"

    @property
    def method(self) -> str:
        """The method that is trained."""
        return self.variant.method or self.plan.method

    @property
    def source(self) -> str:
        """The data it learns from, a name in `cells.DATA`."""
        return self.bench.data if self.variant.method else self.bench.source or self.bench.data

    @property
    def after(self) -> dict[str, str]:
        """Its settings whose value is the run of another variant."""
        common = self.bench.after if self.variant.name not in self.bench.after.values() else {}
        known, own = config.options(*kinds(METHODS[self.method])).keys(), self.variant.settings.keys()
        return {**{name: other for name, other in common.items() if name in known - own}, **self.variant.after}

    @property
    def before(self) -> list[Cell]:
        """The cells whose runs this one takes something from."""
        variants = {variant.name: variant for variant in self.plan.variants}
        return [Cell(self.plan, self.bench, variants[name], self.seed) for name in self.after.values()]

    def file(self, results: Path) -> Path:
        return results / f"{self.name}.json"

    def run(self, runs: Path) -> Path:
        return runs / self.method / self.name.partition("/")[2]

    def settings(self, runs: Path, photos: Path) -> dict[str, Any]:
        """All settings of its training. runs: the folder of all runs, "$RUNS". photos: what "$FRUGALSEG_DATA" stands for."""
        bench, variant = self.bench, self.variant
        name, recipe = self.name.partition("/")[2], bench.recipes.get(variant.method, bench.recipe)
        own = {**bench.settings, **variant.settings, **bench.adjust.get(variant.name, {})}
        own |= {"split": bench.masked if variant.masked else bench.train, "val": bench.val, "seed": self.seed}
        borrowed = {key: str(cell.run(runs)) for key, cell in zip(self.after, self.before, strict=True)}
        place = {"out": str(runs), "name": name, "quiet": False}
        written = {key: _placed(value, photos, runs) for key, value in (config.read(ROOT / recipe) | own).items()}
        return config.resolve(kinds(METHODS[self.method]), written, borrowed, place)


def _placed(value: Any, photos: Path, runs: Path) -> Any:
    return value.replace("$FRUGALSEG_DATA", str(photos)).replace("$RUNS", str(runs)) if isinstance(value, str) else value
