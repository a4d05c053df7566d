"""What changes over training, as pure functions of the step: a resumed run needs no scheduler's state.

`step` counts from 0; `steps` is the length of training. After the end every schedule stays at its last value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def constant(step: int, value: float) -> float:
    """The same value at every step."""
    return value


def warmup(step: int, steps: int, start: float = 0.0) -> float:
    """Linear ramp from `start` at step 0 to 1 at step `steps`; multiply another schedule with it. No steps: 1."""
    return start + (1.0 - start) * _progress(step, steps)


def step_decay(step: int, value: float, drops: Sequence[float], factor: float = 0.1) -> float:
    """`value` times `factor` for each of the steps `drops` that has been reached."""
    return float(value * factor ** sum(step >= drop for drop in drops))


def warmup_step_decay(step: int, steps: int, drops: Sequence[float], rise: int = 0) -> float:
    """Learning rate as a share of its value: it rises over `rise` steps and falls tenfold after each of `drops`.

    drops: shares of the training, such as (0.7, 0.9). `step_decay` times `warmup`, whose first step already learns.
    """
    return step_decay(step, 1.0, [math.ceil(share * steps) for share in drops]) * warmup(step + 1, rise)


def poly(step: int, steps: int, value: float, power: float = 0.9, end: float = 0.0) -> float:
    """end + (value − end)·(1 − step/steps)^power, DeepLab's schedule (Chen et al., TPAMI 2018, section 4)."""
    return end + (value - end) * float((1.0 - _progress(step, steps)) ** power)


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """Half a cosine wave from `start` to `end`: flat at both (Loshchilov and Hutter, ICLR 2017, equation 5, one cycle)."""
    return end + (start - end) * (1.0 + math.cos(math.pi * _progress(step, steps))) / 2.0


def warmup_cosine(step: int, steps: int, rise: int) -> float:
    """Learning rate as a share of its highest: a linear rise over `rise` steps, the first of which learns, then a cosine to 0."""
    return (step + 1) / rise if step < rise else cosine(step - rise, steps - rise, 1.0, 0.0)


def quarter_cosine(step: int, steps: int, start: int, end: int, hold: int = 0) -> int:
    """R2O's number of regions: `start` up to step `hold`, then a quarter of a cosine wave down to `end`, rounded down.

    K(t) = ⌊K_f + (K_0 − K_f)·cos(π/2·(t − t_α)/(T − t_α))⌋. The paper's equation A1 is misprinted; this form gives its figures.
    """
    clusters = end + (start - end) * math.cos(math.pi / 2.0 * _progress(step - hold, steps - hold))
    return int(clusters + 1e-9)  # the cosine of a right angle is not quite 0 in floats


def _progress(step: int, steps: int) -> float:
    """Share of `steps` that lies behind, in [0, 1]; a schedule of no steps is over before it starts."""
    return min(max(step / steps, 0.0), 1.0) if steps > 0 else 1.0
