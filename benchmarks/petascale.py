"""The page docs/petascale.md, written from what was measured: benchmarks/results/*.json and pipeline/rates.json.

    python -m benchmarks.petascale        writes the page anew; a test holds the page to this
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.cost import Rates
from pipeline.paper import CHUNK, paper_plan
from pipeline.rates import shipped
from pipeline.show import size, spell

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs/petascale.md"
SHAPE, FLAGGED, SLAB_PX, PACE, WORKERS = (25_000, 200_000, 200_000), 0.02, 8192, 60.0, 1000
DEPTHS = (1, 8, 64)


def figures() -> dict[str, Any]:
    """Everything that the page tells, as numbers."""
    z, y, x = SHAPE
    counted = paper_plan(SHAPE, FLAGGED, SLAB_PX, PACE, WORKERS, shipped())
    driver = next(r for r in reversed(_result("scheduling")["rows"]) if r["way"] == "crew, one by one")
    restorer, overlap = _result("restorer"), _result("overlap")["rows"]
    quick, slow = (next(r for r in overlap if r["restorer"] == f"as a GPU of {p} Mpx/s" and r["lanes"] > 1) for p in (60, 1))
    f, voxels, rates = FLAGGED, z * y * x, shipped().rates
    slabs = counted["slabs"]
    return {
        "voxels": voxels,
        "sections": counted["sections_flagged"],
        "slabs": slabs,
        "restored": counted["voxels"],
        "read": counted["bytes_to_read"],
        "written": counted["cost"]["bytes_written"],
        "halo": counted["halo_overhead"],
        "memory": counted["peak_memory_bytes"],
        "call_s": rates.call(1),
        "core_hours": counted["cost"]["worker_hours"],
        "cpu_wall_s": counted["cost"]["wall_s"],
        "gpu_restoring_hours": counted["voxels"] / (PACE * 1e6) / 3600,
        "gpu_hours": counted["gpu_cost"]["worker_hours"],
        "gpu_wall_s": counted["gpu_cost"]["wall_s"],
        "slab_beside_s": beside_s(rates, counted["bytes_to_read"] / counted["slabs"]),
        "beside_cpu_s_mpx": quick["cpu_s_per_mpx"],
        "quick_busy": quick["busy"],
        "slow_busy": slow["busy"],
        "gpu_cores": quick["cpu_s_per_mpx"] * PACE,
        "driver_us": driver["us_per_slab"],
        "driver_slabs": driver["slabs"],
        "driver_s": driver["us_per_slab"] * slabs / 1e6,
        "busiest_workers": 1e6 / driver["us_per_slab"],  # with slabs of a second
        "merge": {depth: (1 - (1 - f) ** depth) for depth in DEPTHS},  # of the volume: chunks with a flagged section
        "emdiffuse_over_ours": restorer["emdiffuse_over_ours"],
        "measured": shipped().measured,
        "machine": shipped().machine,
    }


def beside_s(rates: Rates, read_bytes: float) -> float:
    """Seconds of a slab on one core besides the restorer: read, hashed, written, recorded."""
    chunks = (SLAB_PX // CHUNK[1]) ** 2
    return read_bytes * (rates.read_s_byte + rates.see_s_byte) + chunks * rates.write_s_chunk + rates.record_s


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())[name]
    return found


def page(f: dict[str, Any]) -> str:
    """The page with those figures."""
    z, y, x = SHAPE
    rows = "\n".join(
        f"| {depth} | {share:.1%} | {size(share * f['voxels'])} | {share / FLAGGED:.1f} × |" for depth, share in f["merge"].items()
    )
    return f"""# A petabyte

What the main job costs for {z:,} × {y:,} × {x:,} voxels, of whose sections {FLAGGED:.0%} are missing. This page is written by
`python -m benchmarks.petascale` from what was measured (`benchmarks/results`, `pipeline/rates.json`), and a test holds it to that.
Nothing here was run at that size: counts are the plan's own, seconds are those of one machine, multiplied. What is assumed says so.
For your own site measure there: `zmend plan zmend.yaml --calibrate`; on paper: `zmend plan --shape {z},{y},{x} --flagged {FLAGGED}`.

## What is done
| | |
|---|---|
| volume | {size(f["voxels"])}, {f["voxels"]:.3g} voxels of one byte |
| flagged | {f["sections"]:,} sections, {f["restored"]:.3g} voxels |
| slabs | {f["slabs"]:,} of {SLAB_PX:,} × {SLAB_PX:,} px, at most {size(f["memory"])} in a worker |
| read | {size(f["read"])}: of each flagged section two clean ones a side, and halos; before compression |
| written | {size(f["written"])}: the overlay; labels compress to next to nothing |

The overlay holds the restored sections alone, so that a petabyte with {FLAGGED:.0%} missing writes {f["written"] / f["voxels"]:.1%} of itself. A merged volume is another matter:
a chunk that holds a flagged section is written anew, whole. That share is 1 − (1 − {FLAGGED})^depth for sections that lie apart:

| sections in a chunk | chunks rewritten | bytes | of the restored |
|---|---|---|---|
{rows}

So at this size `output: {{mode: overlay}}` is the way, and readers lay it over the source. A merge is one process with a few threads.

## Hours
| | restoring | all of it | on {WORKERS:,} workers |
|---|---|---|---|
| measured: a core of this machine a worker | {f["call_s"]:.2g} s a tile | {f["core_hours"]:,.0f} core-hours | {spell(f["cpu_wall_s"])} |
| **assumed**: GPUs that restore {PACE:g} Mpx/s, with cores that keep up | {f["gpu_restoring_hours"]:,.0f} GPU-hours | {f["gpu_hours"]:,.0f} GPU-hours | {spell(f["gpu_wall_s"])} |

Measured {f["measured"]}: {f["machine"]}. Without GPUs a petabyte is out of reach: the restorer needs them. A slab takes {f["slab_beside_s"]:.1f} s of a core to be read, hashed, written
and recorded, and its tiles are cut out and put back: {f["beside_cpu_s_mpx"]:.2f} core-seconds a megapixel in all, so that a GPU of {PACE:g} Mpx/s wants {f["gpu_cores"]:.0f} cores beside it, or waits. On the
two busy cores of this machine a stand-in for such a GPU was at work {f["quick_busy"]:.0%} of the time, one of 1 Mpx/s {f["slow_busy"]:.0%} (`benchmarks/results/overlap.md`). Tiles and halos make the
network compute {f["halo"]:.0%} more pixels than it restores; the pace that is assumed is of restored ones.

A diffusion model of EMDiffuse's size with 200 steps takes {f["emdiffuse_over_ours"]:g} times the operations of ours on the same pixels (`benchmarks/results/restorer.md`).

## The driver
A slab costs driver and scheduler {f["driver_us"]:,} µs (measured over {f["driver_slabs"]:,} slabs that do nothing): {spell(f["driver_s"])} for all of them, beside the workers.
That is {f["driver_s"] / f["gpu_wall_s"]:.0%} of the time on {WORKERS:,} GPUs, and {f["driver_s"] / f["cpu_wall_s"]:.2%} of that on as many cores. With slabs that take a second a driver keeps
{f["busiest_workers"]:,.0f} workers busy; with more, take larger slabs (`site.slab_px`).
"""


if __name__ == "__main__":
    PAGE.write_text(page(figures()))
