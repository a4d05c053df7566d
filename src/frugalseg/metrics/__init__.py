"""Scores that add up over images and print as the field's tables. Knows neither networks nor methods."""

from frugalseg.metrics.bootstrap import Difference, Interval, paired
from frugalseg.metrics.semantic import SemanticScores
from frugalseg.metrics.tags import TagScores

__all__ = ["Difference", "Interval", "SemanticScores", "TagScores", "paired"]
