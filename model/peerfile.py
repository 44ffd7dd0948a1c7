"""A learned peer on disk: KIND.safetensors and, beside it, KIND.json (a `Record`). Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import CheckpointError, sha256_of
from model.peernets import KINDS, Config, Peer

SCHEMA = "zmend-peer-1"


@dataclass(frozen=True, slots=True)
class Record:
    """What a peer's weights are. One JSON object beside them."""

    kind: str  # key of peernets.KINDS
    config: Mapping[str, Any]  # of peernets.Config
    data: Sequence[str]  # names of the stacks it was trained on
    seed: int
    size: int  # windows a batch
    crop: int  # pixels a side
    steps: int  # done
    minutes: float  # spent training
    finished: bool  # False: saved on the way, the learning rate had not come down
    parameters: int = 0
    sha256: str = ""  # of the safetensors file, hex
    schema: str = SCHEMA


def save(folder: Path, weights: Mapping[str, Tensor], record: Record) -> None:
    """Write KIND.safetensors and KIND.json beside their places, then rename both: a kill leaves the ones before."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.kind}.safetensors"
    parts = path.with_suffix(".partial"), path.with_suffix(".json.partial")
    save_file({k: v.detach().float().cpu().contiguous() for k, v in weights.items()}, parts[0])
    parts[0].chmod(0o644)  # safetensors makes it private
    count = sum(v.numel() for v in weights.values())
    record = replace(record, parameters=count, sha256=sha256_of(parts[0]))
    parts[1].write_text(json.dumps(asdict(record), indent=1) + "\n")
    parts[0].replace(path)
    parts[1].replace(path.with_suffix(".json"))


def read_record(path: Path) -> Record:
    """The record beside the weights file `path`. Raises CheckpointError."""
    beside = path.with_suffix(".json")
    try:
        record = Record(**json.loads(beside.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{beside}: not the record of a peer ({error}); train it again") from error
    if record.schema != SCHEMA or record.kind not in KINDS:
        raise CheckpointError(f"{beside}: schema {record.schema!r}, kind {record.kind!r}; this zmend reads {SCHEMA!r}")
    return record


def load_network(path: Path) -> Peer:
    """A peer with its weights, in evaluation mode, on the CPU. Refuses what its record does not say, and NaN."""
    record = read_record(path)
    if sha256_of(path) != record.sha256:
        raise CheckpointError(f"{path}: sha256 is not the one in its record: damaged or replaced; train it again")
    tensors = load_file(path)
    bad = sorted(k for k, v in tensors.items() if not bool(torch.isfinite(v).all()))
    if bad:
        raise CheckpointError(f"{path}: {len(bad)} tensors hold NaN or infinity (first: {bad[0]}); train it again")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.config.items()}
    network = KINDS[record.kind](Config(**values))
    network.load_state_dict(tensors)
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
