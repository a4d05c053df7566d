"""Pictures of the best, median and worst results, for a run's report."""

from __future__ import annotations

from collections.abc import Mapping

SHOWN = 2  # pictures that are drawn of the best, the median and the worst


def pick_examples(names: list[str]) -> dict[str, str]:
    """Of names sorted from best to worst: the few to look at, with why. Short lists give each picture once."""
    middle = max(0, (len(names) - SHOWN) // 2)
    groups: Mapping[str, list[str]] = {"best": names[:SHOWN], "median": names[middle : middle + SHOWN], "worst": names[-SHOWN:]}
    chosen: dict[str, str] = {}
    for why, group in groups.items():
        for name in group:
            chosen.setdefault(name, why)
    return chosen
