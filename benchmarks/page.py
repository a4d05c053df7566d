"""docs/results.md from the JSON files of finished cells, and from nothing else: `make results`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from benchmarks import claims, paths, results
from benchmarks.plan import Plan
from benchmarks.results import Record, Records
from benchmarks.sections import few_shot, resume, scores, speed, unsupervised
from frugalseg.methods import METHODS

PAGE = paths.DOCS / "results.md"
HEAD = """\
# Results

`make results` writes this page from the JSON files under `benchmarks/`; `make bench` runs what is missing. Class masks are scored
by mean intersection over union (mIoU) in percent, over all annotated pixels of the set, with the background as a class. Intervals
are the middle 95 % of 2,000 bootstrap draws of the images; for several seeds, of the mean over the seeds under the same draws.
± is the standard deviation over seeds. Object masks are scored by average precision, the mean over classes: AP^r at one IoU
threshold, AP^r_vol the mean over thresholds from 0.1 to 0.9, COCO's AP the mean over 0.5 to 0.95, AP25 to AP75 at one of those.
CorLoc is the share of the images with a class in which its best box has an IoU above one half with an object, mean over
classes."""


def render(plans: Sequence[Plan], records: Records, speeds: Mapping[str, Record]) -> str:
    """The whole page, in Markdown: the methods, those in folds behind the others."""
    blocks = [HEAD]
    for plan in (plan for plan in plans if not plan.folds):
        blocks.append(f"## {METHODS[plan.method].summary}")
        blocks += [block for bench in plan.benches for block in scores.section(plan, bench, records)]
    blocks += unsupervised.section(records)  # of R2O, the last of these plans
    for plan in (plan for plan in plans if plan.folds):
        blocks.append(f"## {METHODS[plan.method].summary}")
        blocks += [block for bench in plan.benches for block in few_shot.section(plan, bench, records)]
    if "resume" in records:
        blocks += resume.section(records["resume"])
    blocks += speed.section(speeds)
    return "\n\n".join(block for block in blocks if block) + "\n"


def build() -> str:
    """The page of the files at hand."""
    speeds = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(paths.SPEED.glob("*.json"))}
    return render(claims.PLANS, results.read(paths.RESULTS), speeds)


def main() -> int:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(build(), encoding="utf-8")
    print(f"{PAGE.relative_to(paths.ROOT)} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
