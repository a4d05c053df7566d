"""Long work says how far it has got: by a bar on a terminal, by a line now and then elsewhere, and short work says nothing."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fakes
import pytest
from rich.console import Console

from frugalseg import cli, progress
from frugalseg.engine.run import Run
from frugalseg.recipes.runtime import Runtime


class Watch:
    """A clock that only moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))

    def work(self, items: int, seconds: float, advance: Callable[[], None]) -> None:
        for _ in range(items):
            self.now += seconds
            advance()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_a_line_every_half_minute_and_one_at_the_end(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("regions0", 2000, done=1000) as advance:
        watch.work(960, 0.125, advance)
        watch.work(39, 1.0, advance)
        watch.work(1, 1.0, lambda: advance("label 0.250"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "regions0: goes on after 1,000 of 2,000 images",
        "regions0: 1,240 of 2,000 images, 8.0/s, 1 min 35 s left",
        "regions0: 1,480 of 2,000 images, 8.0/s, 1 min 5 s left",
        "regions0: 1,720 of 2,000 images, 8.0/s, 35 s left",
        "regions0: 1,960 of 2,000 images, 8.0/s, 5 s left",
        "regions0: 1,990 of 2,000 images, 6.6/s, 2 s left",
        "regions0: 2,000 of 2,000 images, done in 2 min 40 s, label 0.250",
    ]


def test_slow_steps_are_given_in_seconds_and_the_last_note_stays(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("classifier0", 100, unit="steps") as advance:
        watch.work(1, 20.0, lambda: advance("label 0.7"))
        watch.work(1, 20.0, advance)
    assert capsys.readouterr().err.splitlines()[0] == "classifier0: 2 of 100 steps, 20.0 s each, 32 min 40 s left, label 0.7"


def test_short_quiet_and_finished_work_says_nothing(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    for seconds, options in [(2.9, {}), (99.0, {"quiet": True}), (99.0, {"done": 10})]:
        with progress.progress("work", 10, **options) as advance:  # type: ignore[arg-type]
            watch.work(10, seconds, advance)
    assert list(progress.track([], "nothing")) == []
    assert capsys.readouterr().err == ""


def test_interrupted_work_does_not_claim_to_be_done(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    def image(number: int) -> None:
        watch.now += 31.0
        if number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        any(map(image, progress.track(range(10), "work")))
    assert capsys.readouterr().err.splitlines()[-1] == "work: 5 of 10 images, 31.0 s each, 2 min 35 s left"


@pytest.mark.parametrize(("brief", "seconds", "shown"), [(False, 0.0, True), (True, 0.0, False), (True, 3.0, True)])
def test_a_terminal_shows_a_bar_and_no_lines(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], brief: bool, seconds: float, shown: bool
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, force_interactive=True, width=100)
    )
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: watch.now))
    for _ in progress.track(range(4), "work", brief=brief):
        watch.now += seconds
    assert ("work" in screen.getvalue()) == shown
    assert ("4/4" in screen.getvalue()) == shown
    assert capsys.readouterr().err == ""


def test_work_on_one_item_is_told_behind_the_bar(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, force_interactive=True, width=100)
    )
    for _ in progress.track(range(2), "predict"):
        for _ in progress.track(range(7), "slide", unit="squares"):
            bar = progress.Bar.current
            assert bar is not None
            bar.display.refresh()
    assert "slide: 6 of 7 squares" in screen.getvalue()
    assert "2/2" in screen.getvalue()
    assert progress.Bar.current is None


def test_every_long_loop_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.chdir(tmp_path)
    fakes.install(monkeypatch)
    fakes.write_bright(tmp_path / "data")

    def said(*words: str) -> str:
        assert cli.main([*words]) == 0
        return capsys.readouterr().err

    assert "reading images of data: 1 of 8 files" in said("check", "data")
    assert "evaluate: 1 of 4 images" in said("train", "threshold", "data", "--name", "one", "--workers", "0")
    assert "predict: 1 of 8 images" in said("predict", "runs/threshold/one", "data/images")
    assert "slic: 1 of 8 images" in said("regions", "slic", "data", "--cache", "kept", "--arguments", '{"segments": 9}')
    assert "drawing: 1 of 2 images" in said("shapes", "set", "--train", "2", "--val", "0", "--test", "0", "--size", "48")
    assert said("predict", "runs/threshold/one", "data/images", "--quiet", "--out", "again") == ""


def test_stages_that_make_arrays_say_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for quiet in (True, False):
        run = Run(tmp_path / str(quiet), Runtime(workers=0, quiet=quiet, accelerator="cpu"))
        run.each("masks", [1, 2, 3], lambda index, item: {})
        assert ("masks: 1 of 3 images" in capsys.readouterr().err) != quiet


def test_lines_go_to_the_stream_of_the_day(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress.progress("work", 3) as advance:
        watch.work(2, 31.0, advance)
    assert log.getvalue().count("\n") == 3
