"""Measurements: `make bench` trains and scores what `claims` declares, `make results` turns the JSON files into docs/results.md.

A module imports what stands in a line of LAYERS before its own, never after it or beside it; `house` checks that and the order
of the whole project.
"""

# From the bottom to the top.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("paths", "packing", "markdown"),
    ("plan", "ranked", "foreground", "episodes"),
    ("claims", "datasets", "results"),
    ("statistics", "measure"),
    ("cells", "few_shot", "unsupervised", "resume", "overlap", "regions"),
    ("speed", "sections"),
    ("page",),
    ("tables", "fewshot", "house"),
)
