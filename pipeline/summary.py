"""Summary: what a store says of the run in it; what a run says of the machine it ran on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.blend import RESTORED, UNCERTAIN
from pipeline.certificate import brief
from pipeline.files import Files
from pipeline.ids import Ids
from pipeline.journal import read_merge
from pipeline.ledger import Ledger
from pipeline.lock import holder
from pipeline.planfile import current_path, read_ids
from pipeline.review import left_by_review
from pipeline.signature import said
from pipeline.store import has_merged


def summarise(
    plan: str, slabs: NDArray[np.bytes_], ledger: Ledger, run_id: str, out: str, moved: Counter[str], seconds: float
) -> dict[str, Any]:
    """The final word of a run, in a stable form. plan: its hash; slabs: (n,) S16, their ids."""
    done = quarantined = left_out = voxels = uncertain = 0
    left = Counter[tuple[int, int, str]]()  # voxels, by run of sections and reason
    wanted = Ids.of(slabs)
    others = not wanted.holds(ledger.done())  # a run was killed while it changed plans
    for rows in ledger.rows(lambda i: i in wanted and ledger.get(i)):  # which says what is wrong with it
        for shared, alike in (rows.of_ids(wanted) if others else rows).each_kind():
            reviewed = left_by_review(shared)  # somebody meant it: no fault of the run
            left_out += len(alike) * reviewed
            quarantined += len(alike) * (shared["status"] == "quarantined" and not reviewed)
            done += len(alike) * (shared["status"] == "done")
            voxels += int(alike.voxels[:, [label - 1 for label in RESTORED]].sum())
            uncertain += int(alike.voxels[:, UNCERTAIN - 1].sum())
            for part in shared["left"]:
                left[(*part["z"], part["why"])] += part["voxels"] * len(alike)
    return {
        "run": run_id,
        "slabs": len(slabs),
        "done": done,
        "quarantined": quarantined,
        "left_out": left_out,
        "not_restorable": [{"z": [z0, z1], "voxels": n, "why": why} for (z0, z1, why), n in sorted(left.items())],
        "voxels_restored": voxels,
        "voxels_uncertain": uncertain,
        "certificate": brief(out),
        "bytes_read": moved["bytes_read"],
        "bytes_written": moved["bytes_written"],
        "seconds": round(seconds, 3),
        "output": out,
        "plan": plan,
    }


def status(out: str) -> dict[str, Any]:
    """How far the plan in force has come. Raises PlanChangedError where no run has begun."""
    ledger = Ledger(out)
    with ThreadPoolExecutor(1) as pool:  # of a million slabs each of the two takes half a second, much of it C
        reading = pool.submit(read_ids, current_path(out))
        ledger.done()
        plan, slabs = reading.result()
    began = (Files(out) / "zmend/runs").names()
    found = summarise(plan, slabs, ledger, began[-1] if began else "", out, Counter(), 0.0)
    waiting = len(slabs) - found["done"] - found["quarantined"] - found["left_out"]
    not_told = ("bytes_read", "bytes_written", "seconds")
    return {
        **{k: v for k, v in found.items() if k not in not_told},
        "pending": waiting,
        "merged": (merged := read_merge(out) is not None),
        "behind": has_merged(out) and not merged,
        "signed": said(out),
        "locked": bool(holder(out)),
    }


# Whatever can change a byte that a run writes, or where it runs.
PACKAGES = (
    *("zmend", "dask", "dask-cuda", "dask-jobqueue", "distributed", "google-crc32c", "numcodecs", "numpy", "obstore"),
    *("opencv-python-headless", "pyarrow", "safetensors", "scikit-image", "scipy", "torch", "zarr"),
)


def environment() -> dict[str, Any]:
    """What this run was driven from: packages, Python, processor, GPUs and driver. No host names or paths.

    `determinism`: how equal the voxels of an equal recipe come out here. `bitwise` on CPUs, however the work is cut;
    `device` where GPUs restore: bit for bit on one kind of GPU with one driver, elsewhere to the last grey levels.
    """
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = _version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "absent"
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": packages,
        "gpus": (gpus := _gpus()),
        "determinism": "device" if gpus else "bitwise",
    }


def _version(name: str) -> str:
    """As `metadata.version`, which first understands all that a package tells of itself: pages, mostly."""
    found = metadata.distribution(name)
    told = re.search(r"^Version: *(.*?) *$", (found.read_text("METADATA") or "").partition("\n\n")[0], re.M)
    return told[1] if told else found.version


def _gpus() -> list[dict[str, str]]:
    """Name and driver of each GPU here, as nvidia-smi tells; none where it is absent or does not answer."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.rpartition(",") for line in told.splitlines() if "," in line)
    return [{"name": name.strip(), "driver": driver.strip()} for name, _, driver in rows]
