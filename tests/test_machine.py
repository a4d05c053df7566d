"""How many cores a process may use, on each system."""

from __future__ import annotations

import os

import pytest

from frugalseg.machine import cores


def test_cores_are_those_that_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_cores_are_counted_where_the_system_says_no_more_than_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows know no affinity before Python 3.13, and a system may not know at all."""
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    assert cores() == 3
