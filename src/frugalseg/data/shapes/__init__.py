"""The built-in image set: toy objects that are hard for the reasons that weak supervision is hard.

Every class is a large body and a small badge. The body's silhouette is typical, its hue often, its texture never; the badge's
bright pattern gives the class away. A classifier latches on to the badge, and a method that wants the whole object must find the
body. Objects overlap, hide each other and differ threefold in size; companions keep each other company; boats imply water;
grounds are textured like bodies, and clutter shares the badges' colours.

`draw` makes one image, a function of (seed, split, index) alone; `write` makes a data set in VOC and COCO layout.
"""

from __future__ import annotations

from .classes import CLASSES
from .drawing import badges, draw
from .writing import write

__all__ = ["CLASSES", "badges", "draw", "write"]
