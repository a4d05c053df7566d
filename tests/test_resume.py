"""Real processes, really stopped: whatever hits a run and whenever, the same command goes on to the same end."""

from __future__ import annotations

import json
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import resume
from benchmarks.resume import Training
from frugalseg.engine.checkpoint import Checkpoints
from frugalseg.engine.log import read_log
from frugalseg.engine.run import Run
from frugalseg.recipes.runtime import Runtime

MODULE = (sys.executable, "-m", "frugalseg.cli")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "frugalseg.cli")
TERMINATED = 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resume.draw(tmp_path_factory.mktemp("shapes") / "data")


@pytest.fixture(scope="module")
def straight(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Training, dict[str, float]]]:
    """Runs that nothing disturbed, of one and of two processes, and how long their stages took."""
    trainings = [Training(pictures, tmp_path_factory.mktemp("straight"), processes) for processes in (1, 2)]
    return {training.processes: (training, resume.straight(training)) for training in trainings}


def steps_once(folder: Path) -> bool:
    """Whether the log holds every step of every stage once."""
    lines = [line for line in read_log(folder) if "step" in line]
    seen, ends = Counter((line["stage"], line["step"]) for line in lines), {line["stage"]: line["steps"] for line in lines}
    return seen == Counter((stage, step) for stage, steps in ends.items() for step in range(1, steps + 1))


@pytest.mark.parametrize(
    ("processes", "stages", "seed"),
    [
        (1, resume.STAGES, 0),
        (2, ("classifier0", "regions0", "segmentation0"), 0),
        *[pytest.param(1, resume.STAGES, seed, marks=pytest.mark.slow) for seed in (1, 2, 3)],
        *[pytest.param(2, resume.STAGES, seed, marks=pytest.mark.slow) for seed in (1, 2, 3)],
    ],
)
def test_a_run_killed_at_any_instant_ends_as_a_straight_one(
    tmp_path: Path, straight: dict[int, Any], pictures: Path, processes: int, stages: tuple[str, ...], seed: int
) -> None:
    reference, durations = straight[processes]
    training = Training(pictures, tmp_path, processes)
    stops = list(resume.killed(training, durations, seed, stages))
    assert [stop.aimed for stop in stops] == list(stages)
    assert training.results() == reference.results(), f"weights, mined regions and masks; the run was killed at {stops}"
    assert steps_once(training.folder)


def test_two_processes_stop_together_when_one_is_asked_to(tmp_path: Path, straight: dict[int, Any], pictures: Path) -> None:
    reference, durations = straight[2]
    training = Training(pictures, tmp_path, 2, {"save_every": 1000})
    stop = resume.stop(training, "classifier0", 0.5 * durations["classifier0"], signal.SIGTERM, "first")
    assert stop.status in (TERMINATED, -signal.SIGTERM), "the second is before the first step and after the last"
    run = training.start()
    assert run.finish() == 0, run.output
    assert training.results() == reference.results()


def test_what_a_killed_save_left_behind_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "fit" / ".tmp1").mkdir(parents=True)
    Checkpoints(tmp_path / "fit").save(1, 0.0, {"model": nn.Linear(1, 1)}, None, done=True)
    assert [path.name for path in (tmp_path / "fit").iterdir()] == ["step00000001"]


def test_torchrun_with_another_number_of_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="torchrun started 2 processes, but devices=1 x nodes=1: add --devices"):
        Run(tmp_path, Runtime(quiet=True))
    assert not any(tmp_path.iterdir())


# -- the pictures of a step ----------------------------------------------------------------------------------------------------


class Items:
    """Five items of (index, something random)."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.cat([torch.tensor([float(index)]), torch.rand(3)])


def see(folder: Path, processes: int) -> None:
    """Seven steps of linear regression, noting what each step of this process saw."""
    run = Run(folder, Runtime(devices=processes, accelerator="cpu", workers=0, quiet=True))
    run.seed("first weights")
    layer = nn.Linear(4, 1)
    model, optimizer = run.setup(layer, torch.optim.SGD(layer.parameters(), lr=0.01))
    seen = []
    for _, items in run.steps("see", Items(), 7, 4, model=model, optimizer=optimizer, collate=torch.stack):
        seen.append(items.tolist())
        run.update({"square": model(items).square().mean()}, optimizer)
    (folder / f"seen{run.fabric.global_rank}.json").write_text(json.dumps(seen))
    run.save_model(layer, {"method": "none"})


def test_two_processes_see_the_pictures_of_one_each_its_half_and_learn_the_same(tmp_path: Path) -> None:
    """What is equal: a step's pictures, their augmentation, and the mean gradient, but for the order of its sums.

    What is not, in general: batch norm sees each half alone, and dropout draws its own numbers in each process.
    """
    for processes in (1, 2):
        run = resume.Forked(processes, see, tmp_path / str(processes), processes)
        assert run.finish() == 0, run.output
    whole = json.loads((tmp_path / "1" / "seen0.json").read_text())
    halves = [json.loads((tmp_path / "2" / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    assert whole == [first + second for first, second in zip(*halves, strict=True)]
    one, two = (torch.cat([value.flatten() for _, value in sorted(weights(tmp_path / name).items())]) for name in "12")
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "weights" / "last.safetensors")


# -- started as a user starts it -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [MODULE, TORCHRUN], ids=["frugalseg", "torchrun"])
def test_both_ways_of_starting_two_processes_train_the_same(
    tmp_path: Path, straight: dict[int, Any], pictures: Path, launcher: tuple[str, ...]
) -> None:
    training = Training(pictures, tmp_path, 2, launcher=launcher)
    run = training.start()
    assert run.finish() == 0, run.output
    assert training.results() == straight[2][0].results()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["start", "classifier0", "regions0", "masks", "segmentation1"])
@pytest.mark.parametrize("launcher", [MODULE, TORCHRUN], ids=["frugalseg", "torchrun"])
def test_sigterm_stops_all_processes_and_the_run_goes_on(
    tmp_path: Path, straight: dict[int, Any], pictures: Path, launcher: tuple[str, ...], stage: str
) -> None:
    reference, durations = straight[2]
    training = Training(pictures, tmp_path, 2, launcher=launcher)
    within = random.Random(stage).random() * durations[stage]
    stop = resume.stop(training, stage, within, signal.SIGTERM, "first")
    assert stop.status != 0 or stop.found in ("end", "finished")
    run = training.start()
    assert run.finish() == 0, run.output
    assert training.results() == reference.results(), stop


@pytest.mark.slow
@pytest.mark.parametrize("to", ["first", "second"])
def test_when_one_process_dies_the_other_ends_too(
    tmp_path: Path, straight: dict[int, Any], pictures: Path, to: resume.To
) -> None:
    reference, durations = straight[2]
    training = Training(pictures, tmp_path, 2, launcher=MODULE)
    stop = resume.stop(training, "classifier0", 0.5 * durations["classifier0"], signal.SIGKILL, to)
    assert stop.status != 0
    run = training.start()
    assert run.finish() == 0, run.output
    assert training.results() == reference.results()
