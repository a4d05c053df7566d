"""R2O: the ablations of Gokul et al. (2022, tables 4, 5, A3, A5), judged by what a segmentation network makes of them.

Each pretraining sees pictures alone; then the same small network learns from its weights on all the masks, on a tenth and on a
hundredth. Reckoned, not run: a pretraining on the built-in pictures sees 16,000 of them at some 25 a second, 11 minutes of two
cores, and its three transfers take as long again: some 14 hours for the three seeds of the 13. On photos it wants a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.plan import Bench, Claim, Plan, Row, Variant

PRETRAININGS: dict[str, Mapping[str, Any]] = {
    "r2o": {},
    "byol": {"prior": "whole", "refine": "none"},
    "cells": {"prior": "cells", "refine": "none", "curriculum": "fixed"},
    "no-prior": {"prior": "cells"},
    "no-refinement": {"refine": "colours"},
    "fixed-high": {"curriculum": "fixed"},
    "fixed-low": {"curriculum": "fixed", "clusters": (4, 4)},
    "reverse": {"clusters": (4, 32)},
    "linear": {"curriculum": "linear"},
    "piecewise": {"curriculum": "piecewise"},
    "grid": {"prior": "grid", "segments": 7},
    "coarse-grid": {"prior": "grid", "segments": 2, "clusters": (32, 4)},
    "ntxent": {"objective": "ntxent", "masks": 16},
}
LABELS = {"all": 400, "tenth": 40, "hundredth": 4}  # pictures with masks
TRANSFER = {"masks": "given", "plus": 0, "threshold": 0.0}


def transfers(name: str) -> tuple[Variant, ...]:
    """The trainings on masks that start from a pretraining, or from random numbers."""
    after = {"weights": name} if name != "random" else {}
    return tuple(
        Variant(
            f"{name}-{share}", (Row(f"{name}, {share} of the masks"),), {**TRANSFER, "limit": count}, after, True, method="aepsl"
        )
        for share, count in LABELS.items()
    )


VARIANTS = (
    *(Variant(name, (Row(f"{name}, objects"),), settings) for name, settings in PRETRAININGS.items()),
    *(variant for name in (*PRETRAININGS, "random") for variant in transfers(name)),
)

BENCHES = (
    Bench(
        data="shapes",
        about="The built-in pictures: 400 without labels to learn from, then masks of all, a tenth or a hundredth of them.",
        recipe="configs/r2o_shapes.yaml",
        train="Segmentation/train",
        masked="Segmentation/train",
        val="Segmentation/val",
        seeds=(0, 1, 2),
        recipes={"aepsl": "configs/aepsl_shapes.yaml"},
    ),
)

WITH = "r2o, tenth of the masks"
SHAPES = ("shapes",)
CLAIMS = (
    Claim("Pretraining on pictures alone beats random numbers", WITH, "random, tenth of the masks", "", SHAPES),
    Claim("Regions beat whole pictures (BYOL)", WITH, "byol, tenth of the masks", "76.7 > 75.0", SHAPES),
    Claim("All components beat none", WITH, "cells, tenth of the masks", "62.3 > 61.2", SHAPES),
    Claim("The prior helps", WITH, "no-prior, tenth of the masks", "62.3 > 61.5", SHAPES),
    Claim("Refinement helps", WITH, "no-refinement, tenth of the masks", "62.3 > 61.7", SHAPES),
    Claim("The curriculum beats many clusters throughout", WITH, "fixed-high, tenth of the masks", "62.3 > 61.4", SHAPES),
    Claim("It beats few clusters throughout", WITH, "fixed-low, tenth of the masks", "62.3 > 60.7", SHAPES),
    Claim("It beats the opposite curriculum", WITH, "reverse, tenth of the masks", "62.3 > 61.0", SHAPES),
    Claim("Superpixels beat squares", WITH, "grid, tenth of the masks", "62.3 > 61.5", SHAPES),
    Claim("Small squares beat large ones", "grid, tenth of the masks", "coarse-grid, tenth of the masks", "61.5 > 60.1", SHAPES),
    Claim("BYOL's objective beats NT-Xent", WITH, "ntxent, tenth of the masks", "67.5 > 63.0", SHAPES),
)

PLAN = Plan("r2o", BENCHES, VARIANTS, CLAIMS)
