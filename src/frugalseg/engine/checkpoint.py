"""What a run keeps on disk between two steps. Everything is written under a temporary name, synced, then renamed: a crash or a
full disk leaves the last good state, never half of a new one. Tensors are safetensors, the rest is JSON; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from frugalseg.files import DiskError, write_json


class Checkpoints:
    """The state of one training stage: a folder per checkpoint, of which the newest whole one counts.

    `step00000200/` holds a safetensors file per module, the optimiser's tensors and `meta.json`; a finished stage keeps weights
    only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def newest(self) -> Path | None:
        """The folder of the newest checkpoint, or None."""
        return max(self.folder.glob("step*"), default=None)

    def restore(self, modules: dict[str, nn.Module], optimizer: Any | None) -> tuple[int, float, bool]:
        """Load the newest checkpoint; give its (step, seconds of training so far, whether the stage is finished)."""
        newest = self.newest()
        if newest is None:
            return 0, 0.0, False
        meta = json.loads((newest / "meta.json").read_text())
        for name, module in modules.items():
            module.load_state_dict(load_file(newest / f"{name}.safetensors"))
        if optimizer is not None and not meta["done"]:
            optimizer.load_state_dict(_join(load_file(newest / "optimizer.safetensors"), meta["optimizer"]))
            _match_layout(getattr(optimizer, "optimizer", optimizer))  # what Fabric wraps
        return meta["step"], meta["seconds"], meta["done"]

    def save(self, step: int, seconds: float, modules: dict[str, nn.Module], optimizer: Any | None, done: bool) -> None:
        """Write the checkpoint of `step` and then drop older ones.

        Raises:
            DiskError: it could not be written; the older one is kept.
        """
        final, temporary = self.folder / f"step{step:08d}", self.folder / f".tmp{os.getpid()}"
        meta: dict[str, Any] = {"step": step, "seconds": seconds, "done": done}
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name, module in modules.items():
                _save_tensors(module.state_dict(), temporary / f"{name}.safetensors")
            if optimizer is not None:
                tensors, meta["optimizer"] = _split(optimizer.state_dict())
                _save_tensors(tensors, temporary / "optimizer.safetensors")
            write_json(temporary / "meta.json", meta)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise DiskError(
                f"could not write the checkpoint {final}: {error.strerror or error}. The last good one is kept: free some "
                "space, then give the same command again to go on from it."
            ) from error
        for older in [*self.folder.glob("step*"), *self.folder.glob(".tmp*")]:  # and what killed processes left behind
            if older != final:
                shutil.rmtree(older, ignore_errors=True)


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the memory layout of their parameters: files store no strides, but fused optimisers need equal ones."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    # safetensors keeps neither aliases nor strides: each tensor becomes a dense copy of its own.
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _split(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors, for safetensors, and the rest, for JSON."""
    tensors = {
        f"{index}/{key}": value for index, slot in state["state"].items() for key, value in slot.items() if torch.is_tensor(value)
    }
    plain = {
        str(index): {key: value for key, value in slot.items() if not torch.is_tensor(value)}
        for index, slot in state["state"].items()
    }
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def _join(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(slot) for index, slot in rest["state"].items()}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        state[int(index)][key] = tensor
    return {"state": state, "param_groups": rest["param_groups"]}
