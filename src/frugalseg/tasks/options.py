"""What can be chosen when a model is scored, one dataclass for each kind of output. Free of torch: the command line lists it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frugalseg.recipes import checks


@dataclass(frozen=True)
class Masks:
    """Models of class masks and of object masks.

    Args:
        tags: "ground-truth" tells the model which classes are in each image: an upper bound, with a protocol id of its own.
    """

    tags: Literal["predicted", "ground-truth"] = "predicted"

    @property
    def stream_tags(self) -> Literal["predicted", "given"]:
        """The argument `tags` of `Predictor.stream`."""
        return "given" if self.tags == "ground-truth" else "predicted"


@dataclass(frozen=True)
class FewShot:
    """Few-shot models.

    Args:
        shots: references of an episode; 0 takes as many as in training.
        episodes: number of episodes in a list.
        seeds: number of lists of episodes, each drawn from a seed of its own.
    """

    shots: int = 0
    episodes: int = 1000
    seeds: int = 1

    def __post_init__(self) -> None:
        checks.refuse("scoring", checks.faults(self, {"shots": 0, "episodes": 1, "seeds": 1}))


@dataclass(frozen=True)
class Foreground:
    """Models of foreground masks: nothing can be chosen."""
