"""Device: where torch computes. A name that means nothing here is refused in words, before anything is spent."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HELP = "cpu, cuda, cuda:1, or auto: a GPU if there is one"


class DeviceError(ValueError):
    """There is no such device, or not here."""


def check(name: str) -> None:
    """Whether a device may be called so; costs nothing. Raises DeviceError."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise DeviceError(f"device {name!r} is unknown; the devices are {HELP}")


def resolve(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The device to compute on: `cpu` or `cuda:N`. Raises DeviceError.

    Of the processes that torchrun starts on one machine each takes a GPU of its own (LOCAL_RANK).
    """
    import torch  # seconds: only when there is work

    check(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return choose(name, count, int(environ.get("LOCAL_RANK", "0")))


def choose(name: str, gpus: int, local_rank: int = 0) -> str:
    """`name` on a machine with so many GPUs, in the process of that rank on it."""
    if name == "cpu" or (name == "auto" and not gpus):
        return "cpu"
    _, _, number = name.partition(":")
    at = int(number or local_rank)
    if at < gpus:
        return f"cuda:{at}"
    if not gpus:
        raise DeviceError(
            f"device {name}: torch finds no CUDA device here; use cpu (slower), or a machine with an NVIDIA "
            "GPU, its driver and a torch built for CUDA (zmend doctor shows what is here)"
        )
    asked = f"device {name}" if number else f"process {local_rank} of this machine"
    raise DeviceError(f"{asked} has no GPU of its own: there are {gpus}, numbered from 0; start fewer, or name another")


def use_threads(count: int) -> None:
    """Let torch compute with so many CPU threads; 0 leaves its own number. Raises DeviceError."""
    import torch

    if count < 0:
        raise DeviceError(f"--threads {count} must be 0 (torch's own number) or more")
    if count:
        torch.set_num_threads(count)
