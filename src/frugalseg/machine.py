"""What the machine offers to this process."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores this process may use: under a scheduler, `taskset` or a container perhaps fewer than the machine has."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13 and newer, on every system
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux alone
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
