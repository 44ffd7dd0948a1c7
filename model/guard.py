"""Guard: what is done when a device fails, so that callers need no torch to tell one failure from another.

DeviceMemoryError (MemoryError)     the batch did not fit, twice; the second time with all caches freed
StickyDeviceError (RuntimeError)    the device's context is broken: every call from now on fails; end the process

Neither batch nor tile is ever made smaller: both are in the recipe, and change bits.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
_CPU_EXHAUSTED = ("can't allocate memory", "not enough memory")  # DefaultCPUAllocator raises a RuntimeError
_GPU_EXHAUSTED = "out of memory"  # cuBLAS and cuDNN say so in an AcceleratorError, too


class DeviceMemoryError(MemoryError):
    """What was asked for does not fit into the device's memory."""


class StickyDeviceError(RuntimeError):
    """The device answers no more; only a new process gets a new context."""


def guarded(work: Callable[[], T], what: str) -> T:
    """What `work` returns. Where memory is short it is tried once more, with all caches freed. `what`: for messages.

    Raises DeviceMemoryError or StickyDeviceError; all other errors pass.
    """
    with suppress(DeviceMemoryError):
        return _once(work, what)
    # Here the failed attempt's frames are gone, and with them the tensors that they held.
    _free()
    return _once(work, what)


def _once(work: Callable[[], T], what: str) -> T:
    try:
        return work()
    except Exception as error:
        text = " ".join(str(error).split())
        match _kind(error):
            case "memory":
                raise DeviceMemoryError(
                    f"{what} does not fit into memory, twice ({text}). A smaller recipe.batch needs less, and is "
                    "another recipe: restored voxels may differ in their last bits"
                ) from error
            case "sticky":
                said = f"the device failed with {what}; to this process it is lost ({text})"
                raise StickyDeviceError(said) from error
        raise


def _kind(error: Exception) -> str:
    """memory, sticky or nothing."""
    import torch

    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "memory"
    if not isinstance(error, RuntimeError):
        return ""
    if any(words in text for words in _CPU_EXHAUSTED):
        return "memory"
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in text or "CUBLAS_STATUS" in text:
        return "memory" if _GPU_EXHAUSTED in text or "ALLOC_FAILED" in text else "sticky"
    return ""


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
