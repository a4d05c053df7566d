"""How a training runs, whatever is trained: seed, processes, precision, logging, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """Settings of the engine.

    Args:
        seed: everything random is a function of it; two runs with the same seed on a CPU give the same weights.
        devices: processes on this machine (GPUs, or CPU processes).
        nodes: machines; with more than one, start by torchrun or SLURM.
        accelerator: "auto", "cpu", "gpu" or "mps".
        precision: "32-true", "bf16-mixed" or "16-mixed".
        workers: processes that read images for each training process; -1 takes what the machine has to spare.
        log_every: steps between two lines of log.jsonl.
        save_every: steps between two checkpoints; a stopped run goes on from the last one.
        out: the folder that holds all runs.
        name: the run's folder below out/<method>/; empty takes the data's name and a hash of data and settings.
        quiet: do not show the progress.
    """

    seed: int = 0
    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"
    precision: str = "32-true"
    workers: int = -1
    log_every: int = 10
    save_every: int = 200
    out: str = "runs"
    name: str = ""
    quiet: bool = False
