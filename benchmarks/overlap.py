"""How busy the restorer is kept: slabs read, restored and written in the lanes of one worker, and one after another.

The very task of a worker, in as many threads as it has lanes, or in one. `diffusion` is the restorer that ships, on this
machine's cores; `as a GPU` takes no core, but as long as a GPU of that pace would, so that all else must keep up.
Busy is the share of the time from the first restoration to the end of the last one in which a call of the restorer is
under way: what an endless run would have. Rounds are interleaved; medians.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from model.restorer import DiffusionRestorer

CASES: dict[str, dict[str, Any]] = {
    "diffusion": {"restorer": "benchmarks.overlap:Diffusion", "edge": 512, "slab_px": 256, "rounds": 1, "batch": 1},
    **{
        f"as a GPU of {pace} Mpx/s": {"restorer": "benchmarks.overlap:Paced", "edge": 2048, "slab_px": 512, "rounds": 3,
                                      "batch": 16, "options": {"pace": pace}}
        for pace in (1, 60)
    },
}  # fmt: skip


class Clocked:
    """Notes when a restorer is called, and for how long."""

    calls: ClassVar[list[tuple[float, float]]] = []

    @staticmethod
    @contextmanager
    def call() -> Any:
        began = time.perf_counter()
        yield
        Clocked.calls.append((began, time.perf_counter()))


class Diffusion(DiffusionRestorer):
    """The restorer that ships."""

    def restore(self, *given: Any) -> Any:
        with Clocked.call():
            return super().restore(*given)


class Paced:
    """Has the tiles and halos of the restorer that ships, and a GPU's pace; what it returns is the neighbours' mean."""

    def __init__(self, *, pace: float, **given: Any) -> None:
        self.pace = pace
        self.declared = DiffusionRestorer(voxel_nm=(47.5, 4.6, 4.6), batch=given["batch"]).needs

    @property
    def needs(self) -> Mapping[str, object]:
        return {**self.declared, "name": "paced", "spread": False}

    def restore(self, window: Any, known: Any, targets: tuple[int, int], origin: Any) -> Any:
        tile = int(self.declared["tile"])  # type: ignore[call-overload]
        with Clocked.call():
            time.sleep(len(window) * tile**2 / 1e6 / self.pace)
        return window  # of a hidden section: what was there; no pixel is computed


def measure() -> dict[str, Any]:
    """Both restorers, in lanes and one after another."""
    from benchmarks import tissue
    from pipeline.lanes import LANES

    rows = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            _make(Path(folder), case["edge"])
            found: dict[int, list[dict[str, float]]] = {LANES: [], 1: []}
            for number in range(case["rounds"]):
                for lanes, runs in found.items():
                    runs.append(_run(Path(folder), case, lanes, f"{lanes}-{number}"))
        for lanes, runs in found.items():
            middle = {k: round(statistics.median(r[k] for r in runs), 3) for k in runs[0]}
            rows.append({"restorer": name, "lanes": lanes, "slab_px": case["slab_px"], "rounds": len(runs), **middle})
    return {"threads": os.cpu_count() or 1, "volume": tissue.what(), "rows": rows}


def _make(folder: Path, edge: int) -> None:
    from benchmarks import tissue

    tissue.make(str(folder / "raw.zarr"), (9, edge, edge), tissue.LAYOUTS[0], (4,))
    tissue.flags(folder / "flags.csv", (4,))


def _run(folder: Path, case: dict[str, Any], lanes: int, name: str) -> dict[str, float]:
    from pipeline.config import check
    from pipeline.job import install, make_store, propose
    from pipeline.lock import StoreLock
    from pipeline.worker import Post, Task, bench

    out = str(folder / f"{name}.zarr")
    made = propose(check({
        "volume": {"path": str(folder / "raw.zarr")}, "flags": str(folder / "flags.csv"),
        "output": {"path": out, "mode": "overlay", "chunk_px": min(1024, case["slab_px"])},
        "recipe": {k: case[k] for k in ("restorer", "batch", "options") if k in case}, "site": {"workers": 0, "slab_px": case["slab_px"]},
    }))  # fmt: skip
    make_store(made)
    with StoreLock(out):
        install(made)
    task = Task(post := Post(out, made.plan.hash, threads=os.cpu_count() or 1), "a run")
    bench(post)  # loaded, and tested
    Clocked.calls.clear()
    began, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(lanes) as pool:
        voxels = sum(sum(done["voxels"].values()) for done in pool.map(task, [s.row() for s in made.plan.slabs]))
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    pace = {"mpx_s": voxels / 1e6 / wall, "cpu_s_per_mpx": cpu / (voxels / 1e6)}
    return busy(Clocked.calls) | {"slabs": len(made.plan.slabs), "wall_s": wall, **pace}


def busy(calls: list[tuple[float, float]]) -> dict[str, float]:
    """Share of the time between the first call's begin and the last one's end that calls take. They do not overlap."""
    first, last = min(a for a, _ in calls), max(b for _, b in calls)
    return {"busy": sum(b - a for a, b in calls) / (last - first), "restoring_s": sum(b - a for a, b in calls)}


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    columns = ("restorer", "lanes", "slab_px", "slabs", "rounds", "wall_s", "restoring_s", "busy", "mpx_s", "cpu_s_per_mpx")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(str(r[c]) for c in columns) + " |" for r in found["rows"]]
    what = (
        f"One process, {found['threads']} cores, {found['volume']}. Busy: of the time from the first call of the restorer to the end of the last. "
        "`as a GPU` sleeps as long as one of that pace would work, 16 tiles in a call; all else is real.\n\n"
    )
    return what + "\n".join(lines) + "\n"
