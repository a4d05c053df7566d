"""Weights from and to files: no code in a file is ever run, nothing is loaded or left out in silence, no good file is lost.

Read: safetensors, and torch's own format through its reader for tensors alone. Written: safetensors with JSON metadata.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from frugalseg.errors import FrugalsegError

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts put the weights
BODY = "backbone.body."  # before the names of a backbone's own layers in the files of most methods
OFFLINE = "Without a network: fetch the file elsewhere and type --weights FILE, or --weights null to start from random numbers"
PREFIXES = ("module.", "_orig_mod.")  # put before every name by data parallel training and by torch.compile


class WeightsError(FrugalsegError, ValueError):
    """A file of weights that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Report:
    """What became of every tensor of the module and of the file. Prints as a summary."""

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # in the module, not in the file: they keep their values
    unexpected: tuple[str, ...]  # in the file, not in the module: not used
    mismatched: tuple[str, ...]  # in both, of another shape or kind, as "name: got …, expected …": not used

    @property
    def share(self) -> float:
        """Loaded share of the module's tensors."""
        return len(self.loaded) / max(1, len(self.loaded) + len(self.missing) + len(self.mismatched))

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.mismatched)
        lines = [f"{self.source}: loaded {len(self.loaded)} of {total} tensors"]
        for kind in ("missing", "unexpected", "mismatched"):
            names = getattr(self, kind)
            if names:
                lines.append(f"  {len(names)} {kind}: {'; '.join(names[:5])}{'; …' if len(names) > 5 else ''}")
        return "\n".join(lines)


def load_weights(
    module: nn.Module, source: str | Path, *, prefixes: Mapping[str, str] | None = None, least: float = 1.0
) -> Report:
    """Copy the tensors of a file into a module and say what became of each.

    source: safetensors or a torch state dict, also inside {"state_dict": …} and from parallel training.
    prefixes: beginnings of names in the file -> beginnings in the module, such as {"encoder.": ""}; the longest that fits counts.
    least: share of the module's tensors that the file must hold; below 1 a new head may keep its values.
    Raises WeightsError, with the module untouched: a file that cannot be read, weights that are not finite, or too few of them.
    """
    tensors = _renamed(source, _unwrapped(source, _read(Path(source))), prefixes or {})
    current = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    # Batch norm's step counters change nothing in a prediction and are absent from files of before 2018.
    expected = {name for name in current if not name.endswith("num_batches_tracked")}
    fitting = {
        name: tensors[name].to(current[name].dtype)
        for name in current.keys() & tensors.keys()
        if _fits(tensors[name], current[name])
    }
    report = Report(
        source=str(source),
        loaded=tuple(sorted(fitting.keys() & expected)),
        missing=tuple(sorted(expected - tensors.keys())),
        unexpected=tuple(sorted(tensors.keys() - current.keys())),
        mismatched=tuple(
            f"{name}: got {_kind(tensors[name])}, expected {_kind(current[name])}"
            for name in sorted((expected & tensors.keys()) - fitting.keys())
        ),
    )
    if report.share < least:
        raise WeightsError(f"{report}\nexpected at least {least:.0%} of the module's tensors; {_advice(current, tensors)}")
    broken = sorted(name for name, value in fitting.items() if not torch.isfinite(value).all())
    if broken:
        raise WeightsError(
            f"{source}: NaN or infinity in {', '.join(broken[:5])} ({len(broken)} tensors); take an earlier checkpoint"
        )
    module.load_state_dict(fitting, strict=False)
    return report


def save_weights(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors and JSON-able metadata as safetensors, whole or not at all: the old file stays until the new one is on disk.

    OSError if the disk is full or read-only, with the old file as it was; TypeError for what is no tensor or no JSON.
    """
    path = Path(path)
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise TypeError(f"{path}: state holds {wrong[:5]} that are no tensors; put plain values into metadata")
    header = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    # Private row-major copies: the format knows neither shared memory, nor views, nor channels_last.
    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask allows; safetensors alone would hide the file from colleagues
        save_file(tensors, temporary, metadata=header)
        temporary.chmod(mode)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        size = sum(value.nbytes for value in tensors.values()) / 1e6
        kept = "; the file that was there is kept" if path.exists() else ""
        raise OSError(
            f"cannot write {size:.1f} MB of weights to {path}: {error}{kept}; free space there or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and metadata of a file by `save_weights`. Metadata of others that is no JSON stays a string.

    WeightsError for a file that is missing, empty, truncated or of another format.
    """
    path = Path(path)
    if not _is_safetensors(path):
        raise WeightsError(f"{path}: not a safetensors file; give a file that training wrote, such as weights/last.safetensors")
    try:
        while True:  # safetensors opens a file twice: a save in between would give one step's metadata and another's tensors
            before = path.stat()
            with safe_open(path, framework="pt") as file:
                metadata = {key: _json(text) for key, text in (file.metadata() or {}).items()}
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
            after = path.stat()
            if (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
                return tensors, metadata
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: truncated or damaged safetensors file ({error}); copy or download it again") from error


def weights_file(source: str | Path) -> Path:
    """The file itself, or the last weights in a run folder."""
    return Path(source) / "weights" / "last.safetensors" if Path(source).is_dir() else Path(source)


def backbone_in(source: str | Path) -> tuple[str, dict[str, Any]]:
    """What stands before the backbone's names in a file that a training here wrote, and that training's settings.

    "" and no settings for files of others. Raises WeightsError for a run without a backbone that could be taken over.
    """
    path = weights_file(source)
    if not _is_safetensors(path):
        return "", {}
    tensors, metadata = read_weights(path)
    if "method" not in metadata:
        return "", {}
    heads = {name[: name.index(BODY) + len(BODY)] for name in tensors if BODY in name}
    if len(heads) != 1:
        raise WeightsError(f"{path}: a run of {metadata['method']} has {len(heads)} backbones, expected one to start from")
    return heads.pop(), metadata.get("config", {})


def names_before(file: Path, normalize: str) -> str:
    """What stands before the backbone's names in the file. Raises ValueError where a run saw its images in another range."""
    head, settings = backbone_in(file)
    trained_with = settings.get("normalize", normalize)
    if trained_with != normalize:
        raise ValueError(
            f"normalize: got {normalize!r}, but {file} was trained with {trained_with!r}; type normalize={trained_with}"
        )
    return head


@contextmanager
def explain_other_backbone(name: str, file: Path) -> Iterator[None]:
    """Weights that do not fit because the run they are from has another network are told with what to type."""
    try:
        yield
    except WeightsError:
        theirs = backbone_in(file)[1].get("backbone", name)
        if theirs == name:
            raise
        raise WeightsError(f"weights: {file} is of the backbone {theirs}, got {name}; type --backbone {theirs}") from None


def _read(path: Path) -> Any:
    if _is_safetensors(path):
        return read_weights(path)[0]
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises a dozen kinds for damaged files
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            reason = f"holds {foreign[1]}, and nothing but tensors is ever loaded; ask its author for the state_dict alone"
        else:
            reason = (
                f"neither safetensors nor a torch state dict, or truncated ({type(error).__name__}); copy or download it again"
            )
        raise WeightsError(f"{path}: {reason}") from error


def _is_safetensors(path: Path) -> bool:
    """By content, because names lie: 8 bytes of header length, then a JSON object."""
    if not path.is_file():
        raise WeightsError(
            f"{path}: {'a folder' if path.is_dir() else 'no such file'}; give a run folder, or a .safetensors, .pth or .pt file"
        )
    with path.open("rb") as file:
        head = file.read(9)
    if not head:
        raise WeightsError(f"{path}: the file is empty; copy or download it again")
    return head[8:] == b"{" or (path.suffix == ".safetensors" and len(head) < 9)


def _unwrapped(source: str | Path, content: Any) -> dict[str, Tensor]:
    """The flat mapping name -> tensor inside what a training script saved, without the prefixes that wrappers add."""
    for _ in range(4):  # as deep as scripts nest; a file may hold a mapping that contains itself
        inner = (
            [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)] if isinstance(content, Mapping) else []
        )
        content = inner[0] if inner else content
    entries = content if isinstance(content, Mapping) else {}
    tensors = {str(name): value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        got = f"a mapping of {list(entries)[:5]}" if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(f"{source}: got {got}, expected names with tensors, at the top or under one of {WRAPPERS}")
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _renamed(source: str | Path, tensors: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in tensors.items():
        prefix = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=None)
        name = name if prefix is None else prefixes[prefix] + name.removeprefix(prefix)
        if name in renamed:
            raise WeightsError(f"{source}: prefixes={dict(prefixes)} gives two tensors the name {name!r}; leave out one of them")
        renamed[name] = value
    return renamed


def _fits(value: Tensor, current: Tensor) -> bool:
    return value.shape == current.shape and value.is_floating_point() == current.is_floating_point()


def _kind(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _advice(ours_names: Collection[str], theirs_names: Collection[str]) -> str:
    """The prefix that would make most names meet, if one would."""
    changes = Counter(
        [(head, "") for head in _heads(theirs_names, ours_names)] + [("", head) for head in _heads(ours_names, theirs_names)]
    )
    if not changes:
        return "check that the file belongs to this architecture, or allow a smaller share with least=…"
    ((theirs, ours), count), *_ = changes.most_common(1)
    return f"{count} names would fit with prefixes={{{theirs!r}: {ours!r}}}"


def _heads(names: Collection[str], others: Collection[str]) -> list[str]:
    """What `names` have before names of `others`."""
    cuts = [(name, dot.end()) for name in names if name not in others for dot in re.finditer(r"\.", name)]
    return [name[:cut] for name, cut in cuts if name[cut:] in others]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _sync(path: Path) -> None:
    """Wait until the file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
