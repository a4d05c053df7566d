"""The processes of a parallel training: started by the first one, or met when torchrun or SLURM has started them."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from frugalseg.recipes.runtime import Runtime

LAUNCHER = "FRUGALSEG_LAUNCHER"  # the environment variable that tells a process which one started it


def check_number_of_processes(runtime: Runtime) -> int:
    """How many processes train together. Raises ValueError where torchrun has started another number of them.

    Each would think itself the only one and overwrite the files of the others.
    """
    wanted = runtime.devices * runtime.nodes
    started = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else wanted
    if started != wanted:
        settings = f"devices={runtime.devices} x nodes={runtime.nodes}"
        raise ValueError(f"torchrun started {started} processes, but {settings}: add --devices or --nodes")
    return wanted


def launch(fabric: Any) -> None:
    """Start the other processes, or meet those that are there.

    A process that this one starts ends with it, even while it waits to meet it or works for the two of them.
    """
    launcher = int(os.environ.pop(LAUNCHER, 0))
    if launcher:
        threading.Thread(target=_exit_with, args=(launcher,), daemon=True).start()
    else:
        os.environ[LAUNCHER] = str(os.getpid())
    fabric.launch()
    os.environ.pop(LAUNCHER, None)


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # nothing is lost: what is on disk is whole
