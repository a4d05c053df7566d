"""The measurement of PDSL's training: what it counts, and that it runs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

import frugalseg
from benchmarks.speed import pdsl as speed
from frugalseg.methods import pdsl
from frugalseg.regions import cues, grabcut


def test_a_step_lasts_to_the_next_and_the_last_one_ends_nowhere() -> None:
    steps = [speed.Step(0.0, 1.0), speed.Step(4.0, 2.0), speed.Step(10.0, 99.0)]
    seconds, share = speed.rows(steps, "name", "how")
    assert seconds["value"] == pytest.approx(5.0)
    assert share["value"] == pytest.approx(100 * 3 / 10)


def test_the_second_training_finds_every_box_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[Any] = []
    after: list[int] = []
    cut, train = grabcut._cut, frugalseg.train

    def slow(pixels: Any, box: Any, *others: Any) -> Any:
        time.sleep(0.05)
        cuts.append(box)
        return cut(pixels, box, *others)

    def counted(*given: Any, **settings: Any) -> Any:
        train(*given, **settings)
        after.append(len(cuts))

    monkeypatch.setattr(grabcut, "_cut", slow)
    monkeypatch.setattr(frugalseg, "train", counted, raising=False)
    before = pdsl.PDSL.forward, cues.GrabCut.__call__
    values = {row["what"]: row["value"] for row in speed.training(speed.arguments(["--quick"]))}
    assert (pdsl.PDSL.forward, cues.GrabCut.__call__) == before, "nothing is watched any more"
    assert after[0] == after[1] > 0
    assert len(values) == 6
    assert values["GrabCut's share, cold cache"] > values["GrabCut's share, warm cache"] > 0


def test_memory_is_measured_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("vgg", "largest", "small"):
        assert speed.main(["--quick", "--measure", name]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["value"] > 0
        assert "300 proposals" in row["how"]
    with pytest.raises(SystemExit):
        speed.main(["--passes", "1"])
