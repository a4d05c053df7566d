"""The engine: which pictures a step sees, resume after a kill, checkpoints that survive a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from frugalseg.data import shapes
from frugalseg.engine import checkpoint as state_module
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.checkpoint import Checkpoints
from frugalseg.engine.log import peak_memory, read_log
from frugalseg.engine.run import Diverged, Run, Stopped
from frugalseg.engine.sampler import StepSampler, seed_of
from frugalseg.files import DiskError
from frugalseg.recipes.runtime import Runtime

QUIET = Runtime(quiet=True, workers=0, save_every=3, log_every=1)


class Noisy:
    """Items whose value depends on the index and on random augmentation."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> torch.Tensor:
        return index + torch.rand(4)


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(folder: Path, steps: int = 10, interrupt: int | None = None, runtime: Runtime = QUIET) -> dict[str, torch.Tensor]:
    """Ten steps of a small network; `interrupt` kills the loop, without a last save, before that step's update."""
    run = Run(folder, runtime)
    model, optimizer = run.setup(*network())
    for step, items in run.steps("fit", Noisy(), steps, 4, model=model, optimizer=optimizer):
        if step == interrupt:
            raise KeyboardInterrupt
        run.update({"square": model(torch.stack(items)).square().mean()}, optimizer, 0.9**step)
    return model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("interrupt", [1, 3, 5, 9])
def test_a_killed_run_ends_with_the_weights_of_a_straight_one(tmp_path: Path, interrupt: int) -> None:
    straight = train(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", interrupt=interrupt)
    assert same(train(tmp_path / "killed"), straight)
    steps = [line["step"] for line in read_log(tmp_path / "killed") if "step" in line]
    assert steps == list(range(1, 11)), "each step stands once in the log"


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    other = Runtime(seed=1, quiet=True, workers=0)
    assert not same(train(tmp_path / "a"), train(tmp_path / "b", runtime=other))


def test_reader_processes_change_nothing(tmp_path: Path) -> None:
    two = Runtime(quiet=True, workers=2)
    assert same(train(tmp_path / "a"), train(tmp_path / "b", runtime=two))


def test_a_finished_stage_runs_no_step_and_gives_its_weights(tmp_path: Path) -> None:
    first = train(tmp_path)
    assert same(train(tmp_path, interrupt=0), first)


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_saves_stops_and_goes_on(tmp_path: Path, workers: int) -> None:
    class Signal(Noisy):
        def __getitem__(self, index: int) -> torch.Tensor:
            os.kill(parent, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # schedulers send it to reader processes too
            return super().__getitem__(index)

    parent = os.getpid()
    straight = train(tmp_path / "straight", runtime=Runtime(quiet=True, workers=0))
    run = Run(tmp_path / "term", Runtime(quiet=True, workers=workers, save_every=1000))
    model, optimizer = run.setup(*network())

    def go() -> None:
        for step, items in run.steps("fit", Signal(), 10, 4, model=model, optimizer=optimizer):
            run.update({"square": model(torch.stack(items)).square().mean()}, optimizer, 0.9**step)

    with pytest.raises(Stopped, match="143"):
        go()
    assert same(train(tmp_path / "term", runtime=Runtime(quiet=True, workers=0)), straight)


def test_ctrl_c_ends_a_training_and_its_readers(tmp_path: Path) -> None:
    data, log = shapes.write(tmp_path / "data", train=60, val=0, test=0, quiet=True), tmp_path / "pdsl" / "run" / "log.jsonl"
    recipe = Path(__file__).parents[1] / "configs" / "pdsl_shapes.yaml"
    words = f"train pdsl {data} --config {recipe} --frozen 0 --no-freeze-norm --proposals grid --count 30 --steps 400 --workers 1"
    listening = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs have it ignored
    code = f"import signal, sys; {listening}; from frugalseg.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words.split(), "--out", str(tmp_path), "--name", "run", "--log-every", "1", "--val="]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        while process.poll() is None and not (log.exists() and '"step": 2' in log.read_text()):
            time.sleep(0.1)
        time.sleep(1)  # the reader is ahead, and waits for somebody to take what it has read
        try:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
            said, _ = process.communicate(timeout=40)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, said
    assert "stopped; the same command goes on" in said


def test_the_pictures_of_a_step_do_not_depend_on_the_number_of_processes() -> None:
    whole = list(StepSampler(7, 4, 9, seed=3))
    halves = [list(StepSampler(7, 4, 9, seed=3, rank=rank, ranks=2)) for rank in range(2)]
    assert whole == [a + b for a, b in zip(*halves, strict=True)]
    assert whole[5:] == list(StepSampler(7, 4, 9, start=5, seed=3)), "a later start gives the tail of the same row"
    flat = [item for step in whole for item in step]
    for epoch in range(5):
        seen = sorted(index for at, index in flat if at == epoch)
        assert seen == list(range(7)), "an epoch sees every picture once"


def test_a_batch_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="batch=5 does not divide among 2"):
        StepSampler(7, 5, 9, ranks=2)


def test_a_loss_that_is_not_a_number_stops_with_its_name(tmp_path: Path) -> None:
    run = Run(tmp_path, QUIET)
    _, optimizer = run.setup(*network())
    with pytest.raises(Diverged, match=r"label=nan, other=1"):
        run.update({"label": torch.tensor(float("nan")), "other": torch.ones(())}, optimizer)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = network()
    stage = Checkpoints(tmp_path / "fit")
    stage.save(1, 0.0, {"model": model}, optimizer, done=False)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    nn.init.ones_(model[0].weight)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state_module, "save_file", full)
    with pytest.raises(DiskError, match=r"No space left on device.*last good one is kept"):
        stage.save(2, 0.0, {"model": model}, optimizer, done=False)
    assert [path.name for path in (tmp_path / "fit").iterdir()] == ["step00000001"]
    assert stage.restore({"model": model}, optimizer)[0] == 1
    assert same(model.state_dict(), kept)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write into read-only folders")
def test_a_read_only_folder_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DiskError, match="could not write"):
        ArrayStore(tmp_path / "masks").write(0, {"mask": np.zeros(3)})


def test_a_full_disk_while_a_shelf_is_written_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left on device"):
        ArrayStore(tmp_path).write(0, {"mask": np.zeros(3)})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_each_computes_every_item_once_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute(index: int, item: torch.Tensor) -> dict[str, np.ndarray]:
        if len(calls) == 4:
            calls.append(-1)
            raise KeyboardInterrupt
        calls.append(index)
        return {"value": np.array([index])}

    run = Run(tmp_path, QUIET)
    with pytest.raises(KeyboardInterrupt):
        run.each("values", Noisy(), compute)
    shelf = run.each("values", Noisy(), compute)
    assert sorted(call for call in calls if call >= 0) == list(range(7))
    assert [int(shelf.read(index)["value"][0]) for index in range(7)] == list(range(7))


def test_once_computes_once(tmp_path: Path) -> None:
    assert [Run(tmp_path, QUIET).once("mean", lambda value=value: value) for value in (1, 2)] == [1, 1]


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    Run(tmp_path, QUIET).expect("data", "these pictures")
    with pytest.raises(ValueError, match="these pictures, now it is other pictures"):
        Run(tmp_path, QUIET).expect("data", "other pictures")


def test_a_log_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"stage": "fit", "step": 1}) + '\n{"stage": "fi')
    assert read_log(tmp_path) == [{"stage": "fit", "step": 1}]


def test_seeds_differ_by_every_part() -> None:
    assert len({seed_of(*parts) for parts in [(0, 1), (1, 0), (0, 1, 0), ("0", 1), (0,)]}) == 5


def test_dry_runs_two_steps(tmp_path: Path) -> None:
    run = Run(tmp_path, QUIET, dry=True)
    model, optimizer = run.setup(*network())
    assert len(list(run.steps("fit", Noisy(), 10, 4, model=model, optimizer=optimizer))) == 2
    shutil.rmtree(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
def test_peak_memory_is_not_of_the_process_that_started_this_one() -> None:
    held = np.ones(2**27)  # a GB
    word = "from frugalseg.engine.run import peak_memory; print(peak_memory())"
    started = subprocess.run([sys.executable, "-c", word], stdout=subprocess.PIPE, text=True, check=True)
    assert int(started.stdout) < peak_memory() - held.nbytes // 2**21
