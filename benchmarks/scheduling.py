"""The driver alone: slabs that do nothing, and slabs that sleep, through a crew, beside plain dask and daisy.

Slabs that take no time travel in parcels; `crew, one by one` is what they cost where they take so long that they do not.

Each measurement is a process of its own, since memory's high-water mark never falls. Driver and scheduler are one
process here, as on a laptop; workers are others. Set DAISY_PYTHON to an interpreter that has daisy to measure it too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SIZES = tuple(int(n) for n in os.environ.get("SCHEDULING_SIZES", "1000,10000,30000").split(","))
PLAIN_UP_TO = int(os.environ.get("PLAIN_UP_TO", 100_000))  # plain dask keeps all that it is given: a million take 9 GB
WORKERS = 2
SLEEP_S, PER_WORKER = 0.5, 20
WAYS = ("crew", "crew, one by one", "map in a window", "map", "daisy")


class Noop:
    """A slab that takes no time."""

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        return {"slab": row[0]}


_LOCK = threading.Lock()


class Sleeper:
    """A slab whose restorer takes SLEEP_S; one at a time in a process, as on a GPU."""

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        with _LOCK:
            time.sleep(SLEEP_S)
        return {"slab": row[0]}


def slabs(n: int) -> Iterator[Any]:
    """n slabs, made when they are wanted."""
    from pipeline.box import Box
    from pipeline.plan import Slab

    for i in range(n):
        box = Box((i, 0, 0), (i + 1, 4096, 4096))
        yield Slab(f"{i:032x}", box, box)


def _memory(what: str) -> float:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(what))
    return int(line.split()[1]) / 1024  # MiB


def _crew(n: int, workers: int, task: Any) -> dict[str, float]:
    from pipeline.attempts import Attempts
    from pipeline.crew import Crew
    from pipeline.site import Site

    site = Site.model_validate({"workers": workers, "threads": 1})
    with Crew(site, lambda _: None, lambda: False) as crew:

        def work(count: int) -> Iterator[Any]:
            return crew.work(slabs(count), task, Attempts(site.attempts, lambda _: None))

        return _timed(work, n, 20 * workers)


def _plain(n: int, workers: int, task: Any, window: int) -> dict[str, float]:
    from distributed import as_completed

    from pipeline.cluster import connect
    from pipeline.site import Site

    with connect(Site.model_validate({"workers": workers, "threads": 1})) as client:

        def send(found: list[Any]) -> list[Any]:
            return list(client.map(task, [s.row() for s in found], key=[("plain", s.id) for s in found], pure=False))

        def work(count: int) -> Iterator[Any]:
            todo = slabs(count)
            done = as_completed(send([s for _, s in zip(range(window or count), todo, strict=False)]), loop=client.loop)
            for batch in done.batches():
                yield from client.gather(batch)
                done.update(send([s for _, s in zip(range(len(batch)), todo, strict=False)]))

        return _timed(work, n, 20 * workers)


def _timed(work: Callable[[int], Iterator[Any]], n: int, warm: int) -> dict[str, float]:
    for _ in work(warm):  # the cluster is there, code is loaded
        pass
    before, wall, cpu = _memory("VmRSS"), time.perf_counter(), time.process_time()
    coming = work(n)
    next(coming)
    first = time.perf_counter() - wall
    for count, _ in enumerate(coming, 2):
        if count % 50_000 == 0:
            told = f"{count}: {time.perf_counter() - wall:.0f} s, high water {_memory('VmHWM') - before:+.1f} MiB\n"
            sys.stderr.write(told)
    assert count == n
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "us_per_slab": round(wall / n * 1e6),
        "driver_scheduler_cpu_us": round(cpu / n * 1e6),
        "first_s": round(first, 3),
        "growth_mib": round(_memory("VmHWM") - before, 1),
        "wall_s": round(wall, 2),
    }


_DAISY = """
import sys, time, json, daisy
n, workers = int(sys.argv[1]), int(sys.argv[2])
def process(block): pass
if __name__ == '__main__':
    task = daisy.Task('noop', daisy.Roi((0,), (n,)), daisy.Roi((0,), (1,)), daisy.Roi((0,), (1,)), process,
                      num_workers=workers, read_write_conflict=False)
    wall, cpu = time.perf_counter(), time.process_time()
    daisy.run_blockwise([task])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rss = [x for x in open('/proc/self/status') if x.startswith('VmHWM')][0].split()[1]
    print(json.dumps({'us_per_slab': round(wall / n * 1e6), 'driver_scheduler_cpu_us': round(cpu / n * 1e6),
                      'hwm_mib': round(int(rss) / 1024, 1), 'wall_s': round(wall, 2), 'version': getattr(daisy, '__version__', '?')}))
"""


def _one(way: str, n: int) -> dict[str, float] | None:
    """One measurement in a process of its own; None where it cannot be had."""
    if way == "daisy":
        python = os.environ.get("DAISY_PYTHON")
        command = [python, "-c", _DAISY, str(n), str(WORKERS)] if python else []
    else:
        command = [sys.executable, "-m", "benchmarks.scheduling", way, str(n), str(WORKERS), "Noop"]
        command = [] if way == "map" and n > PLAIN_UP_TO else command
    if not command:
        return None
    with TemporaryDirectory() as aside:  # daisy leaves logs where it runs
        where = aside if way == "daisy" else None
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=where)
    if done.returncode:
        sys.stderr.write(f"{way}, {n}: {done.stderr[-400:]}\n")
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure() -> dict[str, Any]:
    """Every way at every size, interleaved; then what sixteen workers make of slabs that sleep, against one."""
    rows = []
    for n in SIZES:
        for way in WAYS:
            if (found := _one(way, n)) is not None:
                rows.append({"slabs": n, "way": way, **found})
                sys.stderr.write(f"{rows[-1]}\n")
    return {"workers": WORKERS, "rows": rows, "scaling": scaling()}


def scaling() -> list[dict[str, Any]]:
    """Slabs a second of 1, 4 and 16 workers, and the share of as many times one worker's ideal."""
    rows = []
    for workers in (1, 4, 16):
        n = PER_WORKER * workers
        command = [sys.executable, "-m", "benchmarks.scheduling", "crew", str(n), str(workers), "Sleeper"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        wall = json.loads(done.stdout.splitlines()[-1])["wall_s"]
        rows.append({"workers": workers, "slabs": n, "wall_s": wall, "efficiency": round(SLEEP_S * PER_WORKER / wall, 3)})
    return rows


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    columns = ("us_per_slab", "driver_scheduler_cpu_us", "first_s", "growth_mib", "wall_s")
    lines = ["| slabs | way | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    lines += [f"| {r['slabs']:,} | {r['way']} | " + " | ".join(str(r.get(c, "")) for c in columns) + " |" for r in found["rows"]]
    what = f"Slabs that do nothing, {found['workers']} worker processes; driver and scheduler are one process.\n\n"
    sleep = "\n\nSlabs that sleep {} s, one at a time in a process:\n\n| workers | slabs | wall_s | efficiency |\n|---|---|---|---|\n"
    rows = [f"| {r['workers']} | {r['slabs']} | {r['wall_s']} | {r['efficiency']} |" for r in found["scaling"]]
    return what + "\n".join(lines) + sleep.format(SLEEP_S) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    way, n, workers, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    from benchmarks import scheduling  # so that workers find the task by its name
    from pipeline import pace

    task = getattr(scheduling, kind)()
    if way == "crew, one by one":
        pace.PARCELS = sys.maxsize
    window = {"map": 0, "map in a window": 64 * workers}
    made = _plain(n, workers, task, window[way]) if way in window else _crew(n, workers, task)
    print(json.dumps(made))
