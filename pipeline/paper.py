"""Paper: a plan of a volume that need not exist, by the very code that plans real ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.box import ZYX, Box
from pipeline.cost import cost
from pipeline.flags import Flag, Flags
from pipeline.lanes import LANES
from pipeline.lattice import Geometry, Part
from pipeline.plan import not_restorable, parts
from pipeline.rates import Calibration, told
from pipeline.recipe import Recipe
from pipeline.restorer import Needs
from pipeline.restorer import load as load_restorer
from pipeline.totals import totals
from pipeline.workload import Workload

TYPICAL_NM = (45.0, 8.0, 8.0)  # the level that consumers segment at
CHUNK = (1, 1024, 1024)


def paper_plan(
    shape: ZYX,
    flagged: float,
    slab_px: int,
    pace_mpx_s: float,
    workers: int = 1000,
    measured: Calibration | None = None,
) -> dict[str, Any]:
    """Count slabs, bytes, memory and GPU-hours for `shape` (z, y, x) uint8 voxels with whole sections missing.

    flagged: share of sections. pace_mpx_s: megapixels that one GPU restores in a second. measured: on some machine;
    `cost` is of so many workers like those, `gpu_cost` the same with restorers of that pace; both are of an overlay,
    and `merge_s` is what a merge would take besides, in the driver alone.
    """
    began = time.perf_counter()
    _, needs = load_restorer(Recipe.model_validate({}), TYPICAL_NM)
    count = round(shape[0] * flagged)
    flags = Flags.of(_spread(shape, count))
    geometry = Geometry(shape, (8, slab_px, slab_px), needs)
    grids = {"chunk": CHUNK, "cell": CHUNK, "grain": CHUNK}
    work = Workload(geometry, flags.runs(), batch=needs.batch, **grids, itemsize=1, draws=0)
    sums = totals(_shown(parts(flags, geometry), work), geometry, CHUNK, 1)
    load, merged = work.load(), work.load(levels=[(shape, CHUNK)])
    return {
        "shape": list(shape),
        "bytes": Box.of(shape).size,
        "sections_flagged": count,
        "slab_px": slab_px,
        **sums,
        "bytes_to_merge": 2 * work.touched.voxels,
        "gpu_hours": round(sums["voxels"] / (pace_mpx_s * 1e6) / 3600, 2),
        "pace_mpx_s": pace_mpx_s,
        "halo_overhead": round(overhead(needs, slab_px), 4),
        "cost": told(load, measured, workers, gpu=False),
        "gpu_cost": told(load, measured and at_pace(measured, needs, pace_mpx_s), workers, gpu=True),
        "merge_s": measured and round(cost(merged, measured.rates, workers).merge_s),
        "not_restorable": not_restorable(flags, geometry),
        "planning_seconds": round(time.perf_counter() - began, 2),
        "planning_peak_mib": _peak_mib(),
    }


def at_pace(measured: Calibration, needs: Needs, pace_mpx_s: float) -> Calibration:
    """The same machine with a GPU of a certain pace for each worker, and cores that keep up with it."""
    call_s = {1: needs.tile**2 * needs.batch / (pace_mpx_s * 1e6)}
    return replace(measured, rates=replace(measured.rates, call_s=call_s, call_cores=1.0, cores=float(LANES)))


def _shown(found: Iterator[Part], work: Workload) -> Iterator[Part]:
    for part in found:
        work.add(part)
        yield part


def overhead(needs: Needs, slab_px: int) -> float:
    """Extra pixels that slabs compute: whole tiles at their borders, the halo around each tile."""
    tiles = -(-slab_px // needs.tile)
    return (tiles * (needs.tile + 2 * needs.halo) / slab_px) ** 2 - 1


def _spread(shape: ZYX, count: int) -> Iterator[Flag]:
    """`count` sections, evenly spread, never the first or the last."""
    for i in range(count):
        z = min(max(1, (2 * i + 1) * shape[0] // (2 * count)), max(0, shape[0] - 2))
        yield Flag(Box((z, 0, 0), (z + 1, *shape[1:])), "missing", whole=True)


def _peak_mib() -> int:
    # Not ru_maxrss: that remembers the parent that this process was forked from.
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) // 1024
