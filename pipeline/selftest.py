"""Self-test: what the process of a worker shows before its first slab: its device, and one tile that is known.

A restorer whose voxels may depend on the hardware says so by having a method `device` (and an option of that name):
its golden tile is made once, on the driver's CPU, and each worker must come close to it. All others compute the same
bytes wherever they run, which the digest of the plan vouches for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.recipe import Recipe
from pipeline.restorer import NM, Needs, Restorer, load, proven

U8: TypeAlias = NDArray[np.uint8]
SAMPLES = 64  # voxels of the golden tile that are compared: few enough to travel with every slab
GREY = 1  # levels of 255: what rounding may change in any voxel on one kind of device, and on average on another
CPU = "cpu"


@runtime_checkable
class OnDevice(Protocol):
    """A restorer whose voxels may depend on the hardware, by less than a grey level. It takes an option `device`."""

    def device(self) -> str:
        """The kind of device that it computes on here: cpu, cuda. Raises where the one it was told is not here."""


def golden(recipe: Recipe, voxel_nm: NM | None, threads: int = 0) -> str:
    """What every worker's tile must be like, as hex, made on this process's CPU; nothing where there is no need."""
    restorer, _ = load(recipe, voxel_nm)
    if not isinstance(restorer, OnDevice):
        return ""
    alone = recipe.model_copy(update={"options": {**recipe.options, "device": CPU}, "batch": 1})
    restorer, needs = load(alone, voxel_nm, threads=threads)
    try:
        return sample(restorer, needs).tobytes().hex()
    except ImportError:  # a driver without torch vouches for nothing; its workers still show device and numbers
        return ""


def sample(restorer: Restorer, needs: Needs) -> U8:
    """Grey levels of some voxels of the fixed tile, restored. Raises ArithmeticError where one is no number."""
    window, known, targets = tile(needs)
    made = restorer.restore(window, known, targets, np.zeros((1, 3), np.int64))[0, targets[0]]
    if not np.isfinite(made).all():
        raise ArithmeticError(f"{np.count_nonzero(~np.isfinite(made))} voxels of the test tile are no numbers")
    inner = made[needs.halo // 4 :, needs.halo // 4 :].ravel()
    at = np.linspace(0, inner.size - 1, SAMPLES).astype(int)
    levels: U8 = np.rint(255 * inner[at].clip(0, 1)).astype(np.uint8)
    return levels


def tile(needs: Needs) -> tuple[Any, Any, tuple[int, int]]:
    """A small window (1, 3, E, E) of waves that drift from section to section, its middle section unknown."""
    edge = -(-64 // needs.stride) * needs.stride
    z, y, x = np.ogrid[0:3, 0:edge, 0:edge]
    waves = np.sin(0.31 * y + 0.7 * z) * np.cos(0.23 * x - 0.4 * z) + np.sin(0.11 * (x + y) + z)
    window = (0.5 + 0.22 * waves).astype(np.float32)[None]  # (1, 3, E, E) in 0.06 .. 0.94
    known = np.ones(window.shape, bool)
    known[:, 1] = False
    return window, known, (1, 2)


def fault(restorer: Restorer, needs: Needs, *, device: str, golden: str) -> str:
    """Why this process is not fit to restore, or nothing. Memory that is short is no such reason: MemoryError passes.

    device: the kind that the site gives its workers, "" for any. golden: see `golden`; "" compares nothing.
    """
    if (refused := proven(restorer)) is not None:
        return f"the weights are refused: {refused}"
    if not isinstance(restorer, OnDevice):
        return ""
    try:
        here = cast(OnDevice, restorer).device()
        if device and here != device:
            return f"the site gives each worker a {device} device, but this process sees none and would use the {here}"
        made = sample(restorer, needs)
    except MemoryError:
        raise
    except Exception as error:  # drivers, kernels and libraries fail in any way they like
        return f"the test tile failed: {type(error).__name__}: {error}"
    return far_off(made, np.frombuffer(bytes.fromhex(golden), np.uint8), alike=here == CPU) if golden else ""


def far_off(made: U8, wanted: U8, *, alike: bool) -> str:
    """Whether a tile is not the golden one. alike: made on the kind of device that made the golden one.

    There every voxel must come as close as rounding allows. Another kind may compute in another precision: it must be
    that close on average, which garbage, other weights or other noise are not by far.
    """
    off = np.abs(made.astype(int) - wanted)
    measure: Callable[[Any], float] = np.max if alike else np.mean
    if measure(off) <= GREY:
        return ""
    return f"its test tile is off by {off.mean():.1f} grey levels on average, {off.max()} at most"
