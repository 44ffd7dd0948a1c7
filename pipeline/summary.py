"""Summary: what a store says of the run in it; what a run says of the machine it ran on."""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib import metadata
from typing import Any

from pipeline.blend import RESTORED, UNCERTAIN
from pipeline.certificate import brief
from pipeline.files import Files
from pipeline.ids import Ids
from pipeline.job import current_plan
from pipeline.ledger import Ledger
from pipeline.lock import holder
from pipeline.merge import read_merge
from pipeline.plan import Plan


def summarise(plan: Plan, ledger: Ledger, run_id: str, out: str, moved: Counter[str], seconds: float) -> dict[str, Any]:
    """The final word of a run, in a stable form."""
    done = quarantined = voxels = uncertain = 0
    left: list[dict[str, Any]] = []
    wanted = Ids.of(plan.slabs.ids)
    for slab_id, record in ledger.records():
        if slab_id not in wanted:
            continue
        record = record or ledger.get(slab_id)  # which says what is wrong with it
        quarantined += record["status"] == "quarantined"
        done += record["status"] == "done"
        voxels += sum(record["voxels"].get(str(label), 0) for label in RESTORED)
        uncertain += record["voxels"].get(str(UNCERTAIN), 0)
        left += record["left"]
    return {
        "run": run_id,
        "slabs": len(plan.slabs),
        "done": done,
        "quarantined": quarantined,
        "not_restorable": _by_run(left),
        "voxels_restored": voxels,
        "voxels_uncertain": uncertain,
        "certificate": brief(out),
        "bytes_read": moved["bytes_read"],
        "bytes_written": moved["bytes_written"],
        "seconds": round(seconds, 3),
        "output": out,
        "plan": plan.hash,
    }


def _by_run(left: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a run of sections and reason, over all slabs."""
    groups: dict[tuple[int, int, str], int] = Counter()
    for part in left:
        groups[(*part["z"], part["why"])] += part["voxels"]
    return [{"z": [z0, z1], "voxels": n, "why": why} for (z0, z1, why), n in sorted(groups.items())]


def status(out: str) -> dict[str, Any]:
    """How far the plan in force has come. Raises PlanChangedError where no run has begun."""
    plan, ledger = current_plan(out), Ledger(out)
    began = (Files(out) / "zmend/runs").names()
    found = summarise(plan, ledger, began[-1] if began else "", out, Counter(), 0.0)
    waiting = len(plan.slabs) - found["done"] - found["quarantined"]
    left_out = ("bytes_read", "bytes_written", "seconds")
    return {
        **{k: v for k, v in found.items() if k not in left_out},
        "pending": waiting,
        "merged": read_merge(out) is not None,
        "locked": bool(holder(out)),
    }


def environment() -> dict[str, Any]:
    """What this run ran on: packages, Python, processor. No host names or paths."""
    packages = {}
    for name in ("zmend", "dask", "distributed", "numcodecs", "numpy", "scipy", "torch", "zarr"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "absent"
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": packages,
    }
