"""Scan beside a bare read of the same chunks: megabytes a second, seconds of CPU a gigabyte, and memory, as the volume
grows.

Both run on two processes, but a scan of up to 2 GB does with two threads. The bare read decodes every chunk once and
drops it; the scan's time holds the start of Python and of its workers too. CPU is that of all processes together: on a
machine that others use it says more than time. Memory is the largest resident set of any one of them. Real tissue,
there and back in z.

    ZMEND_STACKS=folder of npz files SCAN_MB=100,1000,10000 python -m benchmarks scanning
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SIZES = tuple(int(mb) for mb in os.environ.get("SCAN_MB", "100,1000").split(","))
CHUNKS, EDGE, WORKERS, ROUNDS = (32, 256, 256), 1024, 2, 3
VOXEL_NM = (47.5, 4.6, 4.6)


def ready() -> bool:
    """Whether there are stacks to measure on."""
    return "ZMEND_STACKS" in os.environ


def measure() -> dict[str, Any]:
    """Rounds of both, interleaved, at each size."""
    rows = []
    for megabytes in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "raw.zarr"
            shape = _make(path, megabytes)
            rounds = [(*_read(path), *_scan(path, Path(folder) / f"{n}.csv")) for n in range(ROUNDS if megabytes < 5000 else 1)]
        size = shape[0] * shape[1] * shape[2] / 1e6
        read, read_cpu, scan, scan_cpu = (statistics.median(r[i] for r in rounds) for i in range(4))
        ratios, of_cpu = (sorted(r[i] / r[2 + i] for r in rounds) for i in (0, 1))
        rows.append(
            {
                "megabytes": round(size), "shape": list(shape), "read_mb_s": round(size / read), "scan_mb_s": round(size / scan),
                "scan_over_read": round(statistics.median(ratios), 3), "least": round(ratios[0], 3), "most": round(ratios[-1], 3),
                "read_cpu_s_gb": round(1e3 * read_cpu / size, 2), "scan_cpu_s_gb": round(1e3 * scan_cpu / size, 2),
                "cpu_scan_over_read": round(statistics.median(of_cpu), 3), "peak_mib": round(max(r[4] for r in rounds)),
            }
        )  # fmt: skip
    return {"chunks": CHUNKS, "workers": WORKERS, "rounds": ROUNDS, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    names = list(found["rows"][0])
    lines = [
        f"Chunks {found['chunks']}, zstd, {found['workers']} processes, medians of {found['rounds']} rounds (one from 5 GB on).",
        "", "| " + " | ".join(names) + " |", "|---" * len(names) + "|",
    ]  # fmt: skip
    return "\n".join(lines + ["| " + " | ".join(str(row[k]) for k in names) + " |" for row in found["rows"]]) + "\n"


def _make(path: Path, megabytes: int) -> tuple[int, int, int]:
    from pipeline.box import Box
    from pipeline.volume import Volume

    with np.load(Path(os.environ["ZMEND_STACKS"]) / "vnc_stack1.npz") as file:
        raw = file["raw"]
    order = [*range(len(raw)), *range(len(raw) - 2, 0, -1)]
    depth = min(512, max(64, megabytes // CHUNKS[0] * CHUNKS[0]))
    tiles = max(1, round(megabytes / depth))
    shape = (depth, EDGE, EDGE * tiles)
    volume = Volume.create(str(path), shape=shape, dtype=np.uint8, chunks=CHUNKS, voxel_nm=VOXEL_NM)
    for z in range(0, depth, CHUNKS[0]):
        slices = raw[[order[k % len(order)] for k in range(z, z + CHUNKS[0])]]
        for x in range(tiles):
            volume.write(Box((z, 0, x * EDGE), (z + CHUNKS[0], EDGE, (x + 1) * EDGE)), np.roll(slices, 97 * x, 2))
    return shape


def _cpu() -> float:
    """Seconds, of children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _read(path: Path) -> tuple[float, float]:
    """Seconds, and those of CPU."""
    began, cpu = time.perf_counter(), _cpu()
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(_share, [str(path)] * WORKERS, range(WORKERS)))
    return time.perf_counter() - began, _cpu() - cpu


def _share(path: str, which: int) -> None:
    from pipeline.box import Box
    from pipeline.volume import Volume

    volume = Volume.open(path)
    for number, box in enumerate(Box.of(volume.shape).cells((CHUNKS[0], EDGE, EDGE))):
        if number % WORKERS == which:
            volume.read(box)


def _scan(path: Path, out: Path) -> tuple[float, float, float]:
    """Seconds, those of CPU, and MiB of the largest process."""
    began, cpu, peak = time.perf_counter(), _cpu(), 0
    command = [sys.executable, "-m", "pipeline", "scan", str(path), "--out", str(out), "--workers", str(WORKERS)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as scan:
        family = psutil.Process(scan.pid)
        while scan.poll() is None:
            for process in [family, *family.children(recursive=True)]:
                try:
                    peak = max(peak, process.memory_info().rss)
                except psutil.Error:  # it has just ended
                    continue
            time.sleep(0.2)
    if scan.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {scan.returncode}")
    return time.perf_counter() - began, _cpu() - cpu, peak / 2**20
