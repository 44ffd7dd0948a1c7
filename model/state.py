"""State of an interrupted training on disk: one safetensors file, whole or not there, and never unpickled.

safetensors loads flipped bits without a word, so the file holds a digest of its own tensors. A training that goes on
from a damaged state would end in weights that nobody can explain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class StateError(ValueError):
    """A state cannot be gone on from."""


def write(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
    """Write beside `path`, then rename: a kill leaves the old state whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, ready = path.with_suffix(".partial"), {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
    save_file(ready, part, {**meta, "sha256": _digest(ready)})
    part.replace(path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write` wrote, on the CPU. Raises StateError."""
    try:
        with safe_open(path, framework="pt") as file:
            meta, tensors = dict(file.metadata() or {}), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise refused(path, str(error)) from error
    if meta.get("sha256", said := _digest(tensors)) != said:
        raise refused(path, "its tensors are not those that were saved")
    return tensors, meta


def refused(path: Path, why: str) -> StateError:
    return StateError(
        f"{path} is damaged ({why}): put a copy of it back, or remove it to train from the beginning (rm {path})"
    )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
