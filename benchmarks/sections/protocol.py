"""What the numbers of a section must be read with: data, supervision, machine, versions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.markdown import bullets
from benchmarks.plan import Bench
from benchmarks.results import Record

RUN = re.compile(r"runs/bench/(\S+?)-(?:seed|fold)\d+")  # of a cell; its name without the seed


def protocol(bench: Bench, records: Iterable[Record]) -> str:
    """The list at the head of a data set's section."""
    every = list(records)
    lines = [
        ("recipe", [f"`{recipe}`" for recipe in (bench.recipe, *bench.recipes.values())]),
        ("learnt from", [f"`{record['protocol']['learned']}` ({', '.join(record['labels'])})" for record in every]),
        ("extra supervision", list(supervision(every))),
        ("scored", [f"`{record['protocol']['scored']}`" for record in every]),
        *origin(every),
    ]
    return bullets(lines)


def origin(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Where and when the numbers come from."""
    return [
        ("machine", [machine(record) for record in records]),
        ("torch", [record["versions"]["torch"] for record in records]),
        ("code", [f"`{record['commit']}`" for record in records]),
        ("date", [record["date"] for record in records]),
    ]


def supervision(records: Sequence[Record]) -> Iterator[str]:
    """The extra supervision, once for all seeds of a run, and once for all runs where it differs by the run alone."""
    runs_of: dict[str, set[str]] = {}
    for record in records:
        text = re.sub(r"weights (\S+), \1 learned", r"weights \1, learned", ", ".join(record["extra_supervision"]) or "none")
        runs = set(RUN.findall(text))
        single = runs if len(runs) == 1 else set()
        runs_of.setdefault(RUN.sub("@" if single else r"\1", text), set()).update(single)
    for text, runs in runs_of.items():
        yield text.replace("@", " / ".join(sorted(runs)))


def machine(record: Record) -> str:
    kind = record["machine"]
    return f"{kind.get('gpu') or kind['cpu']}, {kind['cores']} core{'s' if kind['cores'] > 1 else ''}"
