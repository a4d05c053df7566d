"""Does a run that was killed end with the weights of a straight one? Stops a small training at random instants of every stage.

    python -m benchmarks.resume [--kills 3] [--processes 1 2] [--seed 0]

Each killed run is stopped once in every stage and started again each time; at the end all its weights, mined regions and masks
must be the straight run's, byte by byte. Writes results/resume.json.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open

from frugalseg.machine import cores

RESULT = Path(__file__).parent / "results" / "resume.json"
PICTURES, SIZE = 8, 64
SETTINGS: dict[str, Any] = {
    "backbone": "tiny",
    "channels": 8,
    "dilation": 2,
    "crop": 64,
    "rounds": 1,
    "plus": 1,
    "batch": 4,
    "classifier_epochs": 3,
    "epochs": 3,
    "label_loss": "bce",
    "crf_iterations": 2,
    "save_every": 2,
    "log_every": 1,
    "workers": 0,
    "accelerator": "cpu",
}
STAGES = ("start", "classifier0", "regions0", "masks", "segmentation0", "refined0", "segmentation1", "end")
PRELOAD = [
    "benchmarks.resume",
    "frugalseg.methods.aepsl",
    "frugalseg.inference.predictor",
    "frugalseg.workflows.report",
    "frugalseg.workflows.evaluate",
]
GLANCE = 0.005  # seconds between two looks at what the run has done
PATIENCE = 300.0  # seconds after which a process that should have ended counts as hanging

To = Literal["all", "first", "second"]


@dataclass(frozen=True)
class Training:
    """A training of AE-PSL on the built-in images, to be started any number of times.

    data: the images. out: where its run goes. processes: of the parallel training. settings: over SETTINGS.
    launcher: the command that starts it, as a user would; without, its processes are forked, which takes no time.
    """

    data: Path
    out: Path
    processes: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    launcher: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.out / "aepsl" / "run"

    @property
    def words(self) -> list[str]:
        place = {"out": self.out, "name": "run", "val": "", "devices": self.processes}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in {**SETTINGS, **self.settings, **place}.items()]
        return ["train", "aepsl", str(self.data), *options, "--quiet"]

    def start(self) -> Command | Forked:
        return Command([*self.launcher, *self.words]) if self.launcher else Forked(self.processes, _main, self.words)

    def stage(self) -> str:
        """The stage the run is in by the files it has finished."""
        return next((name for name in STAGES[:-1] if not self._passed(name)), "end")

    def _passed(self, stage: str) -> bool:
        if stage == "start":
            return (self.folder / "state" / "mean_pixel.json").exists()
        if stage.startswith(("classifier", "segmentation")):
            return (self.folder / "weights" / f"{stage}.safetensors").exists()
        return sum(1 for _ in (self.folder / "state" / stage).glob("*/*.npz")) == PICTURES

    def met(self, since: float) -> bool:
        """Whether the processes started at that time have found each other: then the first one writes the settings."""
        settings = self.folder / "config.yaml"
        return settings.exists() and settings.stat().st_mtime >= since

    def results(self) -> dict[str, str]:
        """Digests of everything the run made of the images: all weights, mined regions and masks."""
        contents = {path: _content(path) for path in self.folder.glob("weights/*.safetensors")}
        contents |= {path: path.read_bytes() for path in self.folder.glob("state/*/*/*.npz")}
        return {str(path.relative_to(self.folder)): hashlib.sha256(content).hexdigest() for path, content in contents.items()}


def _content(path: Path) -> bytes:
    """Every tensor's bytes and the metadata of a weights file, whose header has no fixed order."""
    with safe_open(path, "numpy") as file:
        tensors = [name.encode() + file.get_tensor(name).tobytes() for name in sorted(file.keys())]
        return b"".join(tensors) + repr(sorted(file.metadata().items())).encode()


class Command:
    """A command whose processes share its output: the output ends when the last of them has."""

    def __init__(self, command: list[str]) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
        )
        self.output = ""

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals, to: To = "all") -> None:
        """A signal to all processes, to the one that was started, or to the first that it started in turn."""
        with suppress(ProcessLookupError):
            if to == "all":
                os.killpg(self.process.pid, number)
            else:
                os.kill(self._second() if to == "second" else self.process.pid, number)

    def _second(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else self.process.pid

    def finish(self) -> int:
        """Wait for every process; the exit status of the first. Raises TimeoutError if one of them stays."""
        try:
            self.output, _ = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.output, _ = self.process.communicate()
            raise TimeoutError(f"a process was still there after {PATIENCE:.0f} s; the output was\n{self.output}") from None
        return self.process.returncode


class Forked:
    """Processes that call a function, forked from a server that has imported everything already: a start takes no time.

    Each finds itself in the environment in which Fabric starts the processes of a parallel training.
    """

    def __init__(self, ranks: int, function: Callable[..., object], *arguments: object) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        with tempfile.NamedTemporaryFile(delete=False) as log:
            self.log, self.output = Path(log.name), ""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(ranks)}
        places = [world | {"NODE_RANK": "0", "LOCAL_RANK": str(rank)} for rank in range(ranks)] if ranks > 1 else [{}]
        self.processes = [context.Process(target=_call, args=(place, self.log, function, arguments)) for place in places]
        for process in self.processes:
            process.start()

    @property
    def running(self) -> bool:
        return self.processes[0].is_alive()

    def send(self, number: signal.Signals, to: To = "all") -> None:
        """A signal to all processes, to the one of rank 0, or to the one of rank 1."""
        for process in {"all": self.processes, "first": self.processes[:1], "second": self.processes[1:]}[to]:
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)

    def finish(self) -> int:
        """Wait for every process; the exit status of the first. Raises TimeoutError if one of them stays."""
        for process in self.processes:
            process.join(PATIENCE)
        stuck = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for process in self.processes:
            process.kill()
            process.join()
        self.output = self.log.read_text()
        self.log.unlink()
        if stuck:
            raise TimeoutError(f"ranks {stuck} were still there after {PATIENCE:.0f} s; the output was\n{self.output}")
        return int(self.processes[0].exitcode or 0)


def _call(environment: dict[str, str], log: Path, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    with log.open("a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    function(*arguments)


def _main(words: list[str]) -> None:
    from frugalseg.cli import main

    sys.exit(main(words))


# -- stopping runs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stop:
    """One signal: the stage it was meant for and the one the run was in, seconds into the stage, who got it, what came of it."""

    aimed: str
    found: str
    seconds: float
    to: str
    status: int


def draw(folder: Path) -> Path:
    """The images to train on."""
    from frugalseg.data import shapes

    return shapes.write(folder, train=PICTURES, val=0, test=0, size=SIZE, quiet=True)


def straight(training: Training) -> dict[str, float]:
    """Run from start to end; seconds in each stage. Raises RuntimeError if it fails."""
    run = training.start()
    entered = {"start": time.perf_counter()}
    while run.running:
        entered.setdefault(training.stage(), time.perf_counter())
        time.sleep(GLANCE)
    ends = [*list(entered.values())[1:], time.perf_counter()]
    if run.finish() != 0:
        raise RuntimeError(f"the straight run failed:\n{run.output}")
    return {stage: end - begin for (stage, begin), end in zip(entered.items(), ends, strict=True)}


def stop(training: Training, stage: str, within: float, number: signal.Signals = signal.SIGKILL, to: To = "all") -> Stop:
    """Start the training, wait until it is in the stage and then `within` seconds, and send it the signal."""
    began = time.time()
    run = training.start()
    while run.running and STAGES.index(training.stage()) < STAGES.index(stage):
        time.sleep(GLANCE)
    time.sleep(within)
    reached = training.stage() if run.running else "finished"
    if not training.launcher and not training.met(began):
        to = "all"  # a process that still waits for a lost one is ended by what launched it, which is us
    run.send(number, to)
    status = run.finish()
    if (
        reached not in ("end", "finished") and status == 0 and number == signal.SIGKILL
    ):  # at the end they no longer need each other
        raise RuntimeError(f"the run went on after SIGKILL to {to}:\n{run.output}")
    return Stop(stage, reached, round(within, 3), to, status)


def killed(training: Training, durations: dict[str, float], seed: int, stages: tuple[str, ...] = STAGES) -> Iterator[Stop]:
    """Kill the run once in each stage, at a random instant of it, and then let it end. Raises RuntimeError if it cannot."""
    chance = random.Random(seed)
    for stage in stages:
        to: To = chance.choice(("all", "first", "second")) if training.processes > 1 else "all"
        yield stop(training, stage, chance.random() * durations.get(stage, 0.0), to=to)
    run = training.start()
    if run.finish() != 0:
        raise RuntimeError(f"the killed run did not go on:\n{run.output}")


# -- the table ---------------------------------------------------------------------------------------------------------------


def measure(folder: Path, processes: int, kills: int, seed: int) -> list[dict[str, Any]]:
    data = draw(folder / "data")
    reference = Training(data, folder / f"straight{processes}", processes)
    durations = straight(reference)
    rows = []
    for number in range(kills):
        training = Training(data, folder / f"killed{processes}-{number}", processes)
        stops = [asdict(each) for each in killed(training, durations, seed + number)]
        equal = training.results() == reference.results()
        rows.append({"processes": processes, "seed": seed + number, "equal": equal, "stops": stops})
        print(f"{processes} processes, seed {seed + number}: {'equal' if equal else 'DIFFERENT'}", flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3, help="killed runs, and so kills in each stage")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [row for count in options.processes for row in measure(Path(folder), count, options.kills, options.seed)]
    libraries = ("frugalseg", "torch", "lightning-fabric", "numpy")
    record = {
        "what": "runs killed (SIGKILL) once in every stage at a random instant, against a straight run, byte by byte",
        "equal": sum(row["equal"] for row in runs),
        "runs": len(runs),
        "kills": sum(len(row["stops"]) for row in runs),
        "machine": f"{platform.system()} {platform.machine()}, {cores()} CPU cores",
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in libraries},
        "settings": SETTINGS,
        "killed": runs,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if record["equal"] == record["runs"] else 1


if __name__ == "__main__":
    sys.exit(main())
