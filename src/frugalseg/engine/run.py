"""The engine: processes, resumable steps, checkpoints, logs. The only module that knows Fabric.

Resume is a function of the step: which images a step sees, how they are augmented and what dropout drops depend on (seed,
stage, step, rank) alone, so a run that was killed at any instant and started again ends with the weights it would have had.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.checkpoint import Checkpoints
from frugalseg.engine.launch import check_number_of_processes, launch
from frugalseg.engine.log import Clock, peak_memory, read_log
from frugalseg.engine.sampler import IndexedDataset, SeededDataset, StepSampler, seed_of
from frugalseg.errors import FrugalsegError
from frugalseg.files import write, write_json
from frugalseg.machine import cores
from frugalseg.nets.network import Network
from frugalseg.nets.weights import save_weights
from frugalseg.progress import Advance, progress
from frugalseg.recipes.runtime import Runtime

DRY_STEPS = 2  # steps of each stage under --dry-run
DRY_BATCH = 2  # images for each process in such a step


class Stopped(SystemExit):
    """The run was asked to stop (SIGTERM); its state is on disk and the same command goes on."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Diverged(FrugalsegError, RuntimeError):
    """A loss is NaN or infinite."""


class Run:
    """One training run and its folder.

    Args:
        folder: where everything about the run lives; a folder with earlier state goes on from it.
        runtime: see `Runtime`.
        dry: two steps of two images for each stage, to try a recipe.
        method: the name of what is trained, for its weights files.
    """

    def __init__(self, folder: str | Path, runtime: Runtime | None = None, *, dry: bool = False, method: str = "") -> None:
        self.folder, self.runtime, self.dry, self.method = Path(folder), runtime or Runtime(), dry, method
        ranks = check_number_of_processes(self.runtime)
        self.fabric = Fabric(
            accelerator=self.runtime.accelerator,
            devices=self.runtime.devices,
            num_nodes=self.runtime.nodes,
            precision=self.runtime.precision,  # type: ignore[arg-type]
            strategy="ddp" if ranks > 1 else "auto",
        )
        launch(self.fabric)
        self._stopping = False
        self._losses: dict[str, Tensor] = {}
        self._figures: dict[str, Any] = {}
        self._lr_factor = 1.0
        (self.folder / "state").mkdir(parents=True, exist_ok=True)

    # -- processes ---------------------------------------------------------------------------------------------------

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.fabric.is_global_zero

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.fabric.device

    @property
    def _workers(self) -> int:
        if self.runtime.workers >= 0:
            return self.runtime.workers
        return min(8, max(1, cores() // self.runtime.devices - 1))

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Model and optimiser on the device, wrapped for the processes and the precision of the run."""
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        wrapped: tuple[nn.Module, torch.optim.Optimizer] = self.fabric.setup(model, optimizer)
        return wrapped

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """SIGTERM, as schedulers send it, is remembered and obeyed between two steps, when the state is whole."""

        def note(*_: object) -> None:
            self._stopping = True

        try:
            before = signal.signal(signal.SIGTERM, note)
        except ValueError:  # not the main thread of the process: signals stay as they are
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _asked_to_stop(self) -> bool:
        if self.fabric.world_size == 1:
            return self._stopping
        # One process may have got the signal alone; all must leave at the same step.
        asked: Any = self.fabric.all_reduce(torch.tensor(float(self._stopping), device=self.device), reduce_op="sum")
        return bool(asked > 0)

    # -- training steps ----------------------------------------------------------------------------------------------

    def steps(
        self,
        stage: str,
        data: Any,
        steps: int,
        batch: int,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        collate: Callable[[list[Any]], Any] | None = None,
        **others: nn.Module,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (step, batch) for the steps this stage still owes; afterwards model and `others` hold the stage's final weights.

        A finished stage yields nothing. `others` are further modules whose weights belong to the state (an EMA teacher).
        """
        modules = {"model": model, **others}
        if self.dry:
            steps, batch = min(steps, DRY_STEPS), min(batch, DRY_BATCH * self.fabric.world_size)
        state = Checkpoints(self.folder / "state" / stage)
        start, seconds, done = state.restore(modules, optimizer)
        if done:
            return
        self._cut_log(stage, start)
        loader = self._loader(stage, data, steps, batch, start, collate)
        clock = Clock(seconds, start)
        with self._stoppable(), self._progress(stage, steps, start, unit="steps") as advance:
            for step, items in enumerate(loader, start):
                torch.manual_seed(seed_of(self.runtime.seed, stage, step, self.fabric.global_rank))
                yield step, self.fabric.to_device(items)
                advance(self._log_step(stage, step + 1, steps, batch, clock))
                stop = self._asked_to_stop()
                if step + 1 < steps and (stop or (step + 1) % self.runtime.save_every == 0):
                    self._save(state, step + 1, clock, modules, optimizer)
                if stop and step + 1 < steps:
                    raise Stopped
        self._save(state, steps, clock, modules, optimizer, done=True)
        state.restore(modules, None)  # every process holds the first one's batch-norm statistics from here on
        self.log(stage=stage, event="done", seconds=round(clock.seconds, 2), peak_memory=peak_memory())

    def _loader(
        self, stage: str, data: Any, steps: int, batch: int, start: int, collate: Callable[[list[Any]], Any] | None
    ) -> Any:
        if len(data) == 0:
            raise ValueError(f"stage {stage}: the data set is empty; `frugalseg check DATA` says why")
        seed = seed_of(self.runtime.seed, stage)
        sampler = StepSampler(
            len(data), batch, steps, start=start, seed=seed, rank=self.fabric.global_rank, ranks=self.fabric.world_size
        )
        return DataLoader(
            SeededDataset(data, seed),
            batch_sampler=sampler,
            collate_fn=collate or _as_list,
            num_workers=self._workers,
            generator=torch.Generator().manual_seed(0),
            worker_init_fn=_ignore_signals,
            pin_memory=self.device.type == "cuda",
        )

    def update(
        self,
        losses: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        lr_factor: float = 1.0,
        figures: Mapping[str, Any] | None = None,
    ) -> None:
        """One optimiser step on the sum of the losses, with every learning rate at `lr_factor` times its first value.

        figures: further numbers of this step for the log; they are no losses.

        Raises:
            Diverged: a loss is not finite; the state on disk is the last good one.
        """
        total = torch.stack([*losses.values()]).sum()
        self._losses, self._lr_factor = {name: value.detach() for name, value in losses.items()}, lr_factor
        self._figures = dict(figures or {})
        if not torch.isfinite(total):
            values = ", ".join(f"{name}={value.item():.4g}" for name, value in self._losses.items())
            raise Diverged(
                f"the loss is not a number: {values}. Try a lower learning rate (lr, head_lr); the last checkpoint is kept."
            )
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_factor
        self.fabric.backward(total)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    # -- work between the stages -------------------------------------------------------------------------------------

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """A JSON value that is computed once in the life of a run, by the first process, and read from disk ever after."""
        path = self.folder / "state" / f"{name}.json"
        if self.main and not path.exists():
            write_json(path, compute())
        self.fabric.barrier()
        return json.loads(path.read_text())

    def expect(self, name: str, value: Any) -> None:
        """Hold the run to what it was started with.

        Raises:
            ValueError: the folder's run was started with another value.
        """
        before = self.once(name, lambda: value)
        if before != value:
            raise ValueError(
                f"{self.folder} belongs to another run: its {name} is {before}, now it is {value}. Give the run another --name."
            )

    def seed(self, *parts: object) -> None:
        """Seed torch for something that happens once, such as drawing a network's first weights."""
        torch.manual_seed(seed_of(self.runtime.seed, *parts))

    def each(self, name: str, data: Any, compute: Callable[[int, Any], dict[str, np.ndarray]]) -> ArrayStore:
        """Arrays for every item of `data`, one file each, computed once, shared among the processes, resumable between items."""
        return self.stream(name, data, lambda items: (compute(index, item) for index, item in items))

    def stream(
        self, name: str, data: Any, compute: Callable[[Iterable[tuple[int, Any]]], Iterable[dict[str, np.ndarray]]]
    ) -> ArrayStore:
        """`each` for what takes several items at a time: `compute` gives the arrays of each (index, item), in their order."""
        store = ArrayStore(self.folder / "state" / name)
        missing = [index for index in range(len(data)) if index not in store]
        self.fabric.barrier()  # every process has listed the same work before any does a part of it
        share = missing[self.fabric.global_rank :: self.fabric.world_size]
        begin = time.perf_counter()
        with self._stoppable(), self._progress(name, len(share)) as advance:
            for index, arrays in zip(share, compute(self._items(data, share)), strict=True):
                store.write(index, arrays)
                advance()
                if self._stopping:
                    raise Stopped
        self.fabric.barrier()
        if missing:
            seconds = round(time.perf_counter() - begin, 2)
            self.log(stage=name, event="done", seconds=seconds, items=len(missing), peak_memory=peak_memory())
        return store

    def _items(self, data: Any, indices: Sequence[int]) -> Iterable[tuple[int, Any]]:
        """(index, item) of these indices, read by worker processes."""
        workers = self._workers if indices else 0
        return DataLoader(IndexedDataset(data, indices), batch_size=None, num_workers=workers, worker_init_fn=_ignore_signals)

    def save_model(self, model: nn.Module, metadata: dict[str, Any] | None = None, name: str = "last") -> Path:
        """Write weights/<name>.safetensors with what is needed to load it again in its header.

        metadata: what the header says; None takes the method of the run and what the model says of itself.
        """
        if metadata is None:
            metadata = {"method": self.method, **cast(Network, model).metadata()}
        path = self.folder / "weights" / f"{name}.safetensors"
        if self.main:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_weights(path, model.state_dict(), metadata)
        self.fabric.barrier()
        return path

    # -- logs --------------------------------------------------------------------------------------------------------

    def log(self, **fields: Any) -> None:
        """Append one JSON line to log.jsonl."""
        if self.main:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(fields) + "\n")

    def logged(self, stage: str) -> list[dict[str, Any]]:
        """The lines of one stage, oldest first."""
        return [line for line in read_log(self.folder) if line.get("stage") == stage]

    def _cut_log(self, stage: str, start: int) -> None:
        """Steps after the checkpoint will be run, and logged, again."""
        path = self.folder / "log.jsonl"
        if not self.main or not path.exists():
            return
        kept = [line for line in read_log(self.folder) if line.get("stage") != stage or line.get("step", 0) <= start]
        write(path, "".join(json.dumps(line) + "\n" for line in kept))

    def _log_step(self, stage: str, step: int, steps: int, batch: int, clock: Clock) -> str:
        """Log the step if it is one to be logged; gives its losses in words, else nothing."""
        if step % self.runtime.log_every and step != steps:
            return ""
        losses = {name: float(value) for name, value in self._losses.items()}
        speed = round(batch * clock.lap(step), 2)
        self.log(
            stage=stage,
            step=step,
            steps=steps,
            time=round(time.time(), 2),
            images_per_second=speed,
            losses=losses,
            lr=self._lr_factor,
            **({"figures": {name: float(value) for name, value in self._figures.items()}} if self._figures else {}),
        )
        return " ".join(f"{name} {value:.3f}" for name, value in losses.items())

    def _progress(self, name: str, total: int, done: int = 0, unit: str = "images") -> AbstractContextManager[Advance]:
        return progress(name, total, done=done, unit=unit, quiet=self.runtime.quiet or not self.main)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save(
        self, state: Checkpoints, step: int, clock: Clock, modules: dict[str, nn.Module], optimizer: Any, done: bool = False
    ) -> None:
        if self.main:
            state.save(step, clock.seconds, modules, None if done else optimizer, done)
        self.fabric.barrier()


def _ignore_signals(worker: int) -> None:
    """DataLoader workers ignore SIGTERM and SIGINT, which schedulers and terminals send to a whole process group.

    The parent shuts them down at a step boundary. A worker that ended by itself would make the parent wait for its data forever.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _as_list(items: list[Any]) -> list[Any]:
    return items
