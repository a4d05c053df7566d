"""The order of the packages, from the bottom to the top: an import goes down, never up or to the same line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Layers = Sequence[Sequence[str]]

SOURCE: Layers = (
    ("errors", "machine", "moved"),
    ("files",),
    ("boxes", "rle", "config", "progress"),
    ("types",),
    ("metrics", "data", "nets", "recipes"),
    ("engine", "draw"),
    ("regions",),
    ("methods",),
    ("export", "inference"),
    ("tasks",),
    ("workflows",),
    ("cli",),
)
# Where the modules at the top of commit 5d7d129, before there were layers, would stand today.
OLD_MODULES = {
    "evaluation": "workflows",
    "few": "workflows",
    "fewshot": "tasks",
    "foreground": "tasks",
    "objects": "tasks",
    "predictor": "inference",
    "report": "workflows",
    "retrain": "workflows",
    "run": "engine",
    "state": "engine",
    "tiling": "inference",
    "training": "workflows",
}


def levels(layers: Layers, old: Mapping[str, str] | None = None) -> dict[str, int]:
    """The height of each part, from 0. old: parts that stand where others do."""
    heights = {part: height for height, parts in enumerate(layers) for part in parts}
    return heights | {name: heights[part] for name, part in (old or {}).items()}
