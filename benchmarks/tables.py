"""docs/results.md from the JSON files of finished cells, and from nothing else: `make results`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from benchmarks import fewshot, foreground, overlap, regions, results, unsupervised
from benchmarks.claims import PLANS
from benchmarks.plan import ROOT, Bench, Cell, Claim, Plan
from benchmarks.ranked import Ranked
from frugalseg.methods import METHODS
from frugalseg.metrics import Difference, SemanticScores, bootstrap, paired
from frugalseg.metrics.foreground import ForegroundScores
from frugalseg.metrics.per_image import percent

RESULTS, SPEED, PAGE = ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "speed", ROOT / "docs" / "results.md"
VERDICTS = {"better": "reproduced", "worse": "not reproduced", "undecided": "undecided"}
Records = Mapping[str, Mapping[str, Any]]

HEAD = """\
# Results

Made by `make results` from the JSON files under `benchmarks/`; `make bench` runs what is missing. Scores are mean
intersection over union in percent, over all pixels of the set whose truth is known, with the background as a class. The interval
is the middle 95 % of 2,000 bootstrap draws of the pictures; for several seeds, of the mean over the seeds under the same draws.
± is the standard deviation over seeds. Object masks are scored by average precision, the mean over classes: AP^r at one overlap
of masks, AP^r_vol the mean over overlaps from 0.1 to 0.9, AP COCO's, over 0.5 to 0.95, AP25 to AP75 the same at one overlap.
CorLoc is the share of the pictures with a class in which its best box overlaps an object by more than half, mean over classes."""

CLAIMS_HEAD = """\
A claim is *reproduced* when the paired interval of the difference (the same draws for both sides and for all seeds) lies above 0,
*not reproduced* when it lies below, else *undecided*. A target is met or missed by the mean. The paper's numbers are of its
own data and networks: their direction is put to the test here, not their size."""


RUN = re.compile(r"runs/bench/(\S+?)-(?:seed|fold)\d+")  # of a cell; its name without the seed
COSTS = ("seeds", "minutes", "MB")
COSTS_NOTE = (
    "Minutes and memory are of the whole training and scoring the row comes from, without what it borrows or starts from."
)
WITH_INTERVAL = ("AP^r@0.5", "AP^r@0.7", "AP", "AP25", "AP50", "AP75", "CorLoc")


class OverSeeds:
    """The mean of a score over seeds, or a share of it, which is itself a score: of the same pictures, under the same draws."""

    def __init__(self, seeds: Mapping[int, Any], share: float = 1.0) -> None:
        self.seeds, self.share = seeds, share
        self._first = next(iter(seeds.values()))
        self.classes, self.names = self._first.classes, self._first.names

    def by(self, measure: str) -> OverSeeds:
        """The same by another measure, where there are several."""
        return OverSeeds({seed: scores.of(measure) for seed, scores in self.seeds.items() if isinstance(scores, Ranked)})

    @property
    def values(self) -> list[float]:
        return [self.share * scores.value for scores in self.seeds.values()]

    @property
    def value(self) -> float:
        return float(np.mean(self.values))

    @property
    def interval(self) -> bootstrap.Interval:
        return bootstrap.interval(self.resampled())

    def truth(self) -> np.ndarray:
        return self._first.truth()

    def resampled(self, samples: int = 2000, seed: int = 0) -> np.ndarray:
        return self.share * np.mean([resampled(scores, samples, seed) for scores in self.seeds.values()], axis=0)

    def of(self, seeds: Iterable[int]) -> OverSeeds:
        return OverSeeds({seed: self.seeds[seed] for seed in seeds}, self.share)

    def only(self, pictures: np.ndarray) -> OverSeeds:
        """The same of some of the pictures, a mask (N,), where scores can be parted."""
        return OverSeeds({seed: scores.only(pictures) for seed, scores in self.seeds.items() if isinstance(scores, Ranked)})

    def __str__(self) -> str:
        spread = f" ± {100 * np.std(self.values, ddof=1):.2f}" if len(self.seeds) > 1 else ""
        return percent(self.value) + spread


@cache
def resampled(scores: Any, samples: int, seed: int) -> np.ndarray:
    """`scores.resampled`, once for its row and all claims about it."""
    return np.asarray(scores.resampled(samples, seed))


def compare(better: OverSeeds, worse: OverSeeds, apart: bool = False) -> Difference | None:
    """The difference over the seeds that both have, paired if not `apart`; None if they share none."""
    seeds = sorted(better.seeds.keys() & worse.seeds.keys())
    if not seeds:
        return None
    better, worse = better.of(seeds), worse.of(seeds)
    if not apart:
        return paired(better, worse)
    spread = bootstrap.interval(better.resampled(seed=0) - worse.resampled(seed=1))  # of independent draws
    return Difference(better.value - worse.value, spread.low, spread.high)


def gains_apart(better: OverSeeds, worse: OverSeeds, other: OverSeeds, base: OverSeeds) -> Difference | None:
    """How much more `better` gains over `worse` than `other` over `base`, all under the same draws, over the seeds all have."""
    four = better, worse, other, base
    seeds = sorted(set.intersection(*(set(row.seeds) for row in four)))
    if not seeds:
        return None
    scores, drawn = zip(*((row.of(seeds).value, row.of(seeds).resampled()) for row in four), strict=True)
    mean, values = (part[0] - part[1] - (part[2] - part[3]) for part in (scores, drawn))
    spread = bootstrap.interval(values)
    return Difference(mean, spread.low, spread.high)


# -- the page --------------------------------------------------------------------------------------------------------


def page(plans: Sequence[Plan], records: Records, speeds: Mapping[str, Mapping[str, Any]], few_shot: Sequence[str] = ()) -> str:
    """The whole page, in Markdown. few_shot: blocks of the methods that are scored by episodes."""
    blocks = [HEAD]
    for plan in plans:
        blocks.append(f"## {METHODS[plan.method].summary}")
        for bench in plan.benches:
            blocks += section(plan, bench, records)
    blocks += unsupervised.section(records)  # of R2O, the last of the plans
    blocks += few_shot
    if "resume" in records:
        blocks += resume_section(records["resume"])
    if speeds:
        blocks += [
            "## Speed and memory",
            *(part for name, speed in speeds.items() for part in SECTIONS.get(name, speed_section)(speed)),
        ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def of_bench(plan: Plan, bench: Bench, records: Records) -> Records:
    """The records of one method on one data set, by the names of their cells."""
    return {cell.name: records[cell.name] for cell in plan.cells() if cell.bench is bench and cell.name in records}


def section(plan: Plan, bench: Bench, records: Records) -> list[str]:
    """One method on one data set."""
    found = of_bench(plan, bench, records)
    missing = [cell for cell in plan.cells() if cell.bench is bench and cell.name not in found]
    title = [f"### {plan.method} on {bench.data}", bench.about]
    not_run = f"Not run: {', '.join(by_variant(missing))}." if missing else ""
    if not found:
        return [*title, f"Nothing has been run yet: `python -m benchmarks.cells --data {bench.data}`."]
    rows = row_scores(plan, found)
    pictures = [*overlap.section(plan, bench, found, rows), *regions.section(plan, bench, found)]
    tables = [*score_tables(plan, rows, found), pseudo_table(found), *claim_table(plan, bench, rows), bench.tried, *pictures]
    return [*title, protocol(bench, found.values()), *tables, not_run]


def by_variant(cells: Sequence[Cell]) -> list[str]:
    """The cells by the names of their variants, with the seeds where not all of them are there."""
    seeds: dict[str, list[int]] = {}
    for cell in cells:
        seeds.setdefault(cell.variant.name, []).append(cell.seed)
    every = list(cells[0].bench.seeds)
    return [name if own == every else f"{name} (seed {', '.join(map(str, own))})" for name, own in seeds.items()]


def row_scores(plan: Plan, found: Records) -> dict[str, OverSeeds]:
    """The scores of every row that was run, by its name."""
    rows: dict[str, dict[int, Any]] = {}
    for record in found.values():
        for entry in record["rows"]:
            rows.setdefault(entry["name"], {})[record["cell"]["seed"]] = results.scores_of(record, entry["name"])
    order = [row.name for variant in plan.variants for row in variant.rows]
    return {name: OverSeeds(dict(sorted(rows[name].items()))) for name in order if name in rows}


def protocol(bench: Bench, records: Iterable[Mapping[str, Any]]) -> str:
    """What the numbers of a section must be read with."""
    every = list(records)
    lines = [
        ("recipe", [f"`{recipe}`" for recipe in (bench.recipe, *bench.recipes.values())]),
        ("learnt from", (f"`{record['protocol']['learned']}` ({', '.join(record['labels'])})" for record in every)),
        ("extra supervision", supervision(every)),
        ("scored", (f"`{record['protocol']['scored']}`" for record in every)),
        ("machine", (machine(record) for record in every)),
        ("torch", (record["versions"]["torch"] for record in every)),
        ("code", (f"`{record['commit']}`" for record in every)),
        ("date", (record["date"] for record in every)),
    ]
    return "\n".join(f"- {name}: {'; '.join(sorted(set(values)))}" for name, values in lines)


def supervision(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What else was put in, once for all seeds of a run, and once for all runs where that is all they differ in."""
    alike: dict[str, set[str]] = {}
    for record in records:
        text = re.sub(r"weights (\S+), \1 learned", r"weights \1, learned", ", ".join(record["extra_supervision"]) or "none")
        runs = set(RUN.findall(text))
        single = runs if len(runs) == 1 else set()
        alike.setdefault(RUN.sub("@" if single else r"\1", text), set()).update(single)
    for text, runs in alike.items():
        yield text.replace("@", " / ".join(sorted(runs)))


def machine(record: Mapping[str, Any]) -> str:
    kind = record["machine"]
    return f"{kind.get('gpu') or kind['cpu']}, {kind['cores']} core{'s' if kind['cores'] > 1 else ''}"


def score_tables(plan: Plan, rows: Mapping[str, OverSeeds], found: Records) -> list[str]:
    """A table for each kind of score among the rows."""
    tables = []
    for kind, table in ((ForegroundScores, foreground_table), (SemanticScores, row_table), (Ranked, object_table)):
        own = {name: scores for name, scores in rows.items() if isinstance(next(iter(scores.seeds.values())), kind)}
        cells = {name: record for name, record in found.items() if own.keys() & {row["name"] for row in record["rows"]}}
        if own:
            tables.append(table(plan, own, cells))
    return tables


def foreground_table(plan: Plan, rows: Mapping[str, OverSeeds], found: Records) -> str:
    """Every row of foregrounds, under the trivial baseline."""
    table = [["row", *foreground.HEADS, *COSTS]]
    for name, values in next(iter(found.values()))["baselines"].items():
        shown = [percent(values["foreground"]), "", percent(values["mean"])]
        table.append([f"baseline: {name}", *shown, *[""] * (len(table[0]) - 1 - len(shown))])
    for name, scores in rows.items():
        probes = [record.get("regions", []) for record in of_row(plan, name, found)]
        table.append([name, *foreground.cells(scores.seeds, scores.interval, probes), *costs(plan, name, scores, found)])
    return f"{markdown(table)}\n\n{foreground.NOTE} {COSTS_NOTE}"


def row_table(plan: Plan, rows: Mapping[str, OverSeeds], found: Records) -> str:
    """Every row, under the trivial baselines."""
    table = [["row", "mIoU %", "95 % interval", *COSTS]]
    for name, value in next(iter(found.values()))["baselines"].items():
        table.append([f"baseline: {name}", percent(value), "", *[""] * len(COSTS)])
    for name, scores in rows.items():
        table.append([name, str(scores), str(scores.interval), *costs(plan, name, scores, found)])
    return markdown(table) + "\n\n" + COSTS_NOTE


def object_table(plan: Plan, rows: Mapping[str, OverSeeds], found: Records) -> str:
    """Every row by every measure, under the trivial baselines."""
    heads = [
        part for name in plan.measures for part in ([f"{name} %", "95 % interval"] if name in WITH_INTERVAL else [f"{name} %"])
    ]
    table = [["row", *heads, *COSTS]]
    for name, values in next(iter(found.values()))["baselines"].items():
        parts = [[percent(np.nan if values[at] is None else values[at])] + [""] * (at in WITH_INTERVAL) for at in plan.measures]
        table.append([f"baseline: {name}", *(part for own in parts for part in own), *[""] * len(COSTS)])
    for name, scores in rows.items():
        measured = {at: scores.by(at) for at in plan.measures}
        parts = [[str(own), str(own.interval)] if at in WITH_INTERVAL else [str(own)] for at, own in measured.items()]
        table.append([name, *(part for own in parts for part in own), *costs(plan, name, scores, found)])
    return markdown(table) + "\n\n" + COSTS_NOTE


def costs(plan: Plan, row: str, scores: OverSeeds, found: Records) -> list[str]:
    """How many seeds, and what the row's training took."""
    cells = of_row(plan, row, found)
    minutes = f"{np.mean([record['seconds']['total'] for record in cells]) / 60:.1f}"
    return [str(len(scores.seeds)), minutes, str(max(record["peak_memory_mb"] for record in cells))]


def of_row(plan: Plan, row: str, found: Records) -> list[Mapping[str, Any]]:
    """The files of the cells that a row comes from."""
    names = {row.name: variant.name for variant in plan.variants for row in variant.rows}
    return [record for record in found.values() if record["cell"]["variant"] == names[row]]


def pseudo_table(found: Records) -> str:
    """The training masks that the rounds of a mining run assemble; no result, as no picture kept aside is in them."""
    kept = [record["pseudo_labels"] for record in found.values() if "pseudo_labels" in record]
    if not kept:
        return ""
    table = [["rounds", "mIoU % of the labelled pixels", "labelled pixels %", "training pictures"]]
    for entries in zip(*kept, strict=False):
        miou, coverage = (100 * float(np.mean([entry[key] for entry in entries])) for key in ("miou", "coverage"))
        table.append([str(entries[0]["rounds"]), f"{miou:.2f}", f"{coverage:.1f}", str(entries[0]["images"])])
    return "Pseudo labels on the training pictures that have masks (no result of the method):\n\n" + markdown(table)


def claim_table(plan: Plan, bench: Bench, rows: Mapping[str, OverSeeds]) -> list[str]:
    """The claims that this data set can tell about, with what was found."""
    table = [["claim", "rows", "paper", "here", "verdict"]]
    for claim in plan.claims:
        if bench.data in claim.data:
            here, verdict = judge(claim, rows)
            worse = f"{100 * claim.worse:.0f} %" if isinstance(claim.worse, float) else claim.worse
            worse = f"{100 * claim.share:.0f} % of {worse}" if claim.share != 1 else worse
            by = f", by {claim.measure}" if claim.measure else ""
            compared = f"{claim.better} > {worse}"
            if claim.than:
                compared = f"{claim.better} − {worse} > {claim.than[0]} − {claim.than[1]}"
            table.append([claim.text + by, compared, claim.paper, here, verdict])
    return [CLAIMS_HEAD, markdown(table)] if len(table) > 1 else []


def judge(claim: Claim, rows: Mapping[str, OverSeeds]) -> tuple[str, str]:
    """What was found about a claim, in numbers, and the verdict."""
    if claim.measure:
        asked = {claim.better, claim.worse, *claim.than}
        rows = {name: scores.by(claim.measure) for name, scores in rows.items() if name in asked}
    better = rows.get(claim.better)
    if isinstance(claim.worse, float):
        if better is None:
            return "", "not run"
        return f"{percent(better.value)} {better.interval}", "met" if better.value >= claim.worse else "missed"
    sides = [rows[name] for name in (claim.better, claim.worse, *claim.than) if name in rows]
    if len(sides) < 2 + len(claim.than):
        return "", "not run"
    better, worse, *than = sides
    found = gains_apart(better, worse, *than) if than else compare(better, OverSeeds(worse.seeds, claim.share), claim.apart)
    if found is None:
        return "", "not run"
    return str(found).rpartition(" ")[0], VERDICTS[found.decided]


def resume_section(sweep: Mapping[str, Any]) -> list[str]:
    """The file of benchmarks/resume.py."""
    table = [["processes", "runs", "kills", "equal to the straight run"]]
    for processes in sorted({row["processes"] for row in sweep["killed"]}):
        rows = [row for row in sweep["killed"] if row["processes"] == processes]
        kills, equal = sum(len(row["stops"]) for row in rows), sum(row["equal"] for row in rows)
        table.append([str(processes), str(len(rows)), str(kills), f"{equal} of {len(rows)}"])
    what = f"{sweep['what'][0].upper()}{sweep['what'][1:]}: all weights, mined regions and masks."
    where = f"{sweep['machine']}; torch {sweep['versions']['torch']}."
    return ["## Killed and started again", f"{what} {where}", markdown(table)]


def speed_section(speed: Mapping[str, Any]) -> list[str]:
    """One file of benchmarks/speed that lists what was measured."""
    where = f"{machine(speed)}; torch {speed['versions']['torch']}; `{speed['commit']}`"
    table = [["measured", "value", "unit", "how"]]
    table += [[entry["what"], f"{entry['value']:.4g}", entry["unit"], entry["how"]] for entry in speed["measures"]]
    return [f"### {speed['title']}", f"{where}; {speed['date']}.", markdown(table)]


def crf_section(speed: Mapping[str, Any]) -> list[str]:
    """The DenseCRF beside pydensecrf2."""
    peaks = {entry["classes"]: entry["MiB"] for entry in speed["peak_memory"]}
    table = [
        ["classes", "torch threads", "frugalseg s", "pydensecrf2 s", "same label % of pixels", "frugalseg MB", "pydensecrf2 MB"]
    ]
    for entry in speed["time"]:
        own, peer = (f"{entry['seconds'][tool]:.3f}" for tool in ("frugalseg", "pydensecrf2"))
        memory = (str(peaks[entry["classes"]][tool]) for tool in ("frugalseg", "pydensecrf2"))
        agreement = f"{100 * entry['argmax_agreement']['mean']:.2f}"
        table.append([str(entry["classes"]), str(entry["torch_threads"]), own, peer, agreement, *memory])
    where = f"{machine(speed)}; torch {speed['machine']['versions']['torch']}; {speed['date']}; {speed['photos']} photos"
    return ["### DenseCRF beside pydensecrf2", f"{where} of {' × '.join(map(str, speed['size']))} pixels.", markdown(table)]


def instances_section(speed: Mapping[str, Any]) -> list[str]:
    """Scoring of objects beside the two libraries of COCO's metrics."""
    table = [["tool", "encoding s", "scoring s", "total s", "more memory MB", "largest difference"]]
    for tool, entry in speed["tools"].items():
        times = (f"{entry[part]:.1f}" for part in ("encoding_s", "scoring_s", "total_s"))
        name = f"{tool} {speed['versions'].get(tool, '')}".strip()
        table.append([name, *times, f"{entry['growth_mb']:.0f}", f"{speed['largest_difference'][tool]:.0e}"])
    what = f"{speed['images']:,} pictures ({speed['picture']}), {speed['detections']:,} detections; the COCO statistics of masks"
    return [
        "### Scoring of objects, from masks in memory to the table",
        f"{what}. {speed['machine']}; {speed['date']}.",
        markdown(table),
    ]


SECTIONS = {"crf": crf_section, "instances": instances_section}  # files with a table of their own


def markdown(table: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])


def made() -> str:
    """The page that the files at hand make."""
    speeds = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(SPEED.glob("*.json"))}
    return page(PLANS, results.read(RESULTS), speeds, fewshot.section())


def main() -> int:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(made(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
