"""What the plans of several methods share: weights to start from on photos, and Mask R-CNN to compare with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks import paths

IMAGENET: Mapping[str, Any] = {"weights": "$FRUGALSEG_DATA/weights/mobilenet_v2_imagenet.pth", "normalize": "half"}
EVERY_OBJECT = {"min_score": 0.0}  # torchvision's 0.05 leaves out objects that average precision would count, as R2-IOS's are
BUDGET = paths.SPEED / "budget.json"  # written by speed/budget.py


def equal_time(data: str) -> Mapping[str, int]:
    """For Mask R-CNN as many steps as fit into R2-IOS's time, where that was measured; else its recipe's."""
    steps = json.loads(BUDGET.read_text("utf-8"))["steps"] if BUDGET.exists() else {}
    return {"steps": steps[data]} if data in steps else {}
