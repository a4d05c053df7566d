"""What is measured, declared without running anything: cells (method × data × variant × seed), their rows, and claims on rows.

A method declares a `Plan` in `claims/<method>.py`; `cells` and `few_shot` run it, `page` prints it. Free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import paths
from frugalseg import config
from frugalseg.methods import METHODS, kinds


@dataclass(frozen=True)
class Row:
    """One score of a trained run.

    name: unique in the plan. weights: the file in the run's weights/ that predicts. tags: "given" tells the model the classes of
    each image, an upper bound. options: fields of the model's settings that are replaced for prediction.
    """

    name: str
    weights: str = "last"
    tags: Literal["predicted", "given"] = "predicted"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One training, and the rows it is scored by.

    settings: override the recipe's. inputs: settings whose value is the run folder of another variant, of the same data and seed.
    masked: learns from the bench's list of images with masks. data: the data sets it is run on, empty for all. extras: further
    entries of the JSON file, each a function of (run folder, training images with all their labels). method: what is trained, if
    not the plan's method, by the bench's recipe for it.
    """

    name: str
    rows: tuple[Row, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    masked: bool = False
    data: tuple[str, ...] = ()
    extras: Mapping[str, Callable[[Path, Any], Any]] = field(default_factory=dict)
    method: str = ""


@dataclass(frozen=True)
class Bench:
    """One data set for one method.

    data: a name in `datasets.DATA`. about: a sentence for the page. recipe: a file in configs/. train, masked, val: image
    lists: to learn from, to learn from with masks, to score on. settings: override the recipe's; "$FRUGALSEG_DATA" stands for the
    folder of real photos and "$RUNS" for that of all runs. overrides: by variant, settings that override the variant's. recipes:
    files for other methods than the plan's. source: the data that the plan's own method learns from, if another. notes: what was
    tried where a claim did not reproduce, for the page. inputs: as a variant's, for all variants but those named and those that
    set it otherwise, where their method has the setting. start: the variant whose weights the runs of every fold start from; it
    learns without the fold's classes.
    """

    data: str
    about: str
    recipe: str
    train: str = "Segmentation/train"
    masked: str = "Segmentation/train"
    val: str = "Segmentation/val"
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recipes: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    notes: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    start: Variant | None = None


@dataclass(frozen=True)
class Claim:
    """ "`better` scores higher than `worse`", both names of rows; a number in the place of `worse` is a target.

    paper: what the paper reports for it, if it does. data: where it is tested. measure: what counts, where there are several: a
    name in `ranked.MEASURES` or "CorLoc", the first of them if empty. fraction: of the score of `worse` that is enough. unpaired:
    the two were scored on different lists of episodes. smaller_gain: two rows; `better` gains more over `worse` than the first of
    them over the second.
    """

    text: str
    better: str
    worse: str | float
    paper: str = ""
    data: tuple[str, ...] = ("voc20", "shapes")
    measure: str = ""
    fraction: float = 1.0
    unpaired: bool = False
    smaller_gain: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All measurements of one method.

    overlap_rows: two rows whose difference is shown by how much the objects of an image overlap, or none. measures: what the page
    shows of objects: names as in `Claim`. folds: of a few-shot method, into how many folds the classes are split; each is learned
    without by a run of its own.
    """

    method: str
    benches: tuple[Bench, ...]
    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...]
    overlap_rows: tuple[str, ...] = ()
    measures: tuple[str, ...] = ("AP^r@0.5", "AP^r@0.6", "AP^r@0.7", "AP^r_vol", "AP")
    folds: int = 0

    def __post_init__(self) -> None:
        faults = [*self._faults_of_rows(), *self._faults_of_inputs()]
        if faults:
            raise ValueError(f"the plan of {self.method} is not valid:\n" + "\n".join(f"  - {fault}" for fault in faults))

    def _faults_of_rows(self) -> Iterator[str]:
        names = [row.name for variant in self.variants for row in variant.rows]
        yield from (f"two rows are called {name!r}" for name in sorted(set(names)) if names.count(name) > 1)
        for claim in self.claims:
            sides = {side for side in (claim.better, claim.worse, *claim.smaller_gain) if isinstance(side, str)}
            yield from (f"{claim.text!r} is about {side!r}, which is no row" for side in sorted(sides - set(names)))
        yield from (f"{side!r} is compared by overlap and is no row" for side in self.overlap_rows if side not in names)

    def _faults_of_inputs(self) -> Iterator[str]:
        declared = {variant.name for variant in self.variants}
        for taker in (*self.variants, *self.benches):
            name = taker.name if isinstance(taker, Variant) else f"all of {taker.data}"
            unknown = sorted(set(taker.inputs.values()) - declared)
            yield from (f"{name} takes its input from {other!r}, which is no variant" for other in unknown)

    def cells(self) -> Iterator[Cell]:
        """Every cell, after those it depends on."""
        for bench in self.benches:
            for seed in bench.seeds:
                for variant in self.variants:
                    if variant.data and bench.data not in variant.data:
                        continue
                    if self.folds:
                        yield from (FoldCell(self, bench, variant, seed, fold) for fold in range(self.folds))
                    else:
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
    def key(self) -> dict[str, Any]:
        """What the cell's file says of whose it is."""
        return {"method": self.plan.method, "data": self.bench.data, "variant": self.variant.name, "seed": self.seed}

    @property
    def method(self) -> str:
        """The method that is trained."""
        return self.variant.method or self.plan.method

    @property
    def source(self) -> str:
        """The data it learns from, a name in `datasets.DATA`."""
        return self.bench.data if self.variant.method else self.bench.source or self.bench.data

    @property
    def split(self) -> str:
        """The list of images it learns from."""
        return self.bench.masked if self.variant.masked else self.bench.train

    @property
    def inputs(self) -> dict[str, str]:
        """Its settings whose value is the run of another variant."""
        shared = self.bench.inputs if self.variant.name not in self.bench.inputs.values() else {}
        taken = config.options(*kinds(METHODS[self.method])).keys() - self.variant.settings.keys()
        return {**{name: other for name, other in shared.items() if name in taken}, **self.variant.inputs}

    @property
    def dependencies(self) -> list[Cell]:
        """The cells whose runs are its inputs."""
        variants = {variant.name: variant for variant in self.plan.variants}
        return [Cell(self.plan, self.bench, variants[name], self.seed) for name in self.inputs.values()]

    @property
    def file(self) -> Path:
        return paths.RESULTS / f"{self.name}.json"

    @property
    def run(self) -> Path:
        """The folder of its run."""
        return paths.RUNS / self.method / self.name.partition("/")[2]

    @property
    def overrides(self) -> dict[str, Any]:
        """What it sets otherwise than the recipe."""
        bench, variant = self.bench, self.variant
        lists = {"split": self.split, "val": bench.val, "seed": self.seed}
        return {**bench.settings, **variant.settings, **bench.overrides.get(variant.name, {}), **lists}

    def settings(self) -> dict[str, Any]:
        """All settings of its training."""
        recipe = config.read(paths.ROOT / self.bench.recipes.get(self.variant.method, self.bench.recipe))
        runs = {key: str(cell.run) for key, cell in zip(self.inputs, self.dependencies, strict=True)}
        place = {"out": str(paths.RUNS), "name": self.name.partition("/")[2], "quiet": False}
        written = {key: _with_paths(value) for key, value in (recipe | self.overrides).items()}
        return config.resolve(kinds(METHODS[self.method]), written, runs, place)


@dataclass(frozen=True)
class FoldCell(Cell):
    """A cell of a few-shot method, whose run does not learn the classes of its fold."""

    fold: int

    @property
    def name(self) -> str:
        return f"{self.plan.method}/{self.bench.data}/{self.variant.name}-fold{self.fold}-seed{self.seed}"

    @property
    def key(self) -> dict[str, Any]:
        return {"data": self.bench.data, "variant": self.variant.name, "fold": self.fold, "seed": self.seed}

    @property
    def start(self) -> Path | None:
        """The run whose weights all runs of this fold start from, where the bench trains one."""
        start = self.bench.start
        return paths.RUNS / start.method / self.bench.data / f"{start.name}-fold{self.fold}" if start else None

    def settings(self) -> dict[str, Any]:
        weights = {"weights": str(self.start)} if self.start else {}
        return super().settings() | {"fold": self.fold, "val": ""} | weights


def _with_paths(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return value.replace("$FRUGALSEG_DATA", str(paths.photos())).replace("$RUNS", str(paths.RUNS))
