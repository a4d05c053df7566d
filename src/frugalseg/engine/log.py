"""The log of a run, log.jsonl, and what is measured for it: seconds, speed, memory."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any


class Clock:
    """Seconds a stage has trained, counted over all its sittings, and steps a second since the last log line."""

    def __init__(self, seconds: float, step: int) -> None:
        self.earlier, self.begin = seconds, time.perf_counter()
        self._lap = (self.begin, step)

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self.earlier + time.perf_counter() - self.begin

    def lap(self, step: int) -> float:
        """Steps a second since the last call."""
        (before, first), now = self._lap, time.perf_counter()
        self._lap = (now, step)
        return (step - first) / max(now - before, 1e-9)


def peak_memory() -> int:
    """Highest resident memory of this process so far, in MB (its reader processes, which share most of it, apart)."""
    try:  # Linux, whose getrusage counts the process that started this one, if that was larger
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log.jsonl; a last line cut short by a crash is left out."""
    lines = []
    for text in (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
