"""Two per cent of sections flagged, linear restorer: zmend beside what one would write without it.

The peer is `da.map_overlap(…).to_zarr`: every block is read with its neighbours, flagged planes are interpolated, and
the whole volume is written anew. Both run in processes of their own, interleaved, `ROUNDS` times; bytes are what the
operating system counted (rchar, wchar of /proc/self/io, children included), medians are reported.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHAPE, CHUNKS = (100, 1536, 1536), (20, 256, 256)
FLAGGED = (31, 67)
ROUNDS = 3
COUNTED = ("wall_s", "cpu_s", "read_mb", "written_mb", "peak_mb")


def measure() -> dict[str, Any]:
    """Rounds of both; returns medians of each quantity and how many times zmend's the peer's is."""
    with tempfile.TemporaryDirectory() as folder:
        _make(Path(folder))
        runs: dict[str, list[dict[str, float]]] = {"zmend": [], "map_overlap": []}
        for number in range(ROUNDS):
            for name, found in runs.items():
                found.append(_child(name, Path(folder), number))
        difference = _compare(Path(folder))
    medians = {n: {k: round(statistics.median(r[k] for r in found), 3) for k in COUNTED} for n, found in runs.items()}
    ratio = {k: round(medians["map_overlap"][k] / medians["zmend"][k], 2) for k in COUNTED}
    return {
        "shape": SHAPE,
        "chunks": CHUNKS,
        "flagged": FLAGGED,
        "rounds": ROUNDS,
        "medians": medians,
        "peer_over_zmend": ratio,
        "largest_difference": difference,
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| | " + " | ".join(COUNTED) + " |", "|---" * (len(COUNTED) + 1) + "|"]
    rows = {**found["medians"], "peer ÷ zmend": found["peer_over_zmend"]}
    lines += [f"| {n} | " + " | ".join(str(r[k]) for k in COUNTED) + " |" for n, r in rows.items()]
    what = f"{found['shape']} uint8, chunks {found['chunks']}, sections {found['flagged']} missing; medians of {found['rounds']}. "
    return (
        what
        + f"Restored voxels differ by {found['largest_difference']} grey levels at most.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _make(folder: Path) -> None:
    from pipeline.box import Box
    from pipeline.phantom import phantom
    from pipeline.volume import Volume

    tissue = np.tile(phantom((20, 384, 384)), (5, 4, 4))
    tissue[list(FLAGGED)] = 0
    Volume.create(str(folder / "raw.zarr"), shape=SHAPE, dtype=np.uint8, chunks=CHUNKS, voxel_nm=(45.0, 4.6, 4.6))
    Volume.open(str(folder / "raw.zarr"), writable=True).write(Box.of(SHAPE), tissue)
    (folder / "flags.csv").write_text("".join(f"{z}\n" for z in FLAGGED))


def _child(name: str, folder: Path, number: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.end_to_end", name, str(folder), str(number)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _zmend(folder: Path, out: str) -> None:
    from pipeline.config import check
    from pipeline.job import propose
    from pipeline.run import run

    run(propose(check({
        "volume": {"path": str(folder / "raw.zarr")}, "flags": str(folder / "flags.csv"), "output": {"path": out},
        "recipe": {"restorer": "linear"}, "site": {"workers": 0, "slab_px": "whole"},
    })))  # fmt: skip


def _map_overlap(folder: Path, out: str) -> None:
    import dask.array as da

    def fill(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        made = block.copy()
        first = block_info[0]["chunk-location"][0] * CHUNKS[0] - 1
        for z in FLAGGED:
            d = z - first
            if 1 <= d < len(block) - 1:
                made[d] = np.rint((block[d - 1].astype(np.float32) + block[d + 1]) / 2)
        return made

    volume = da.from_zarr(str(folder / "raw.zarr"))
    mended = da.map_overlap(
        fill, volume, depth={0: 1, 1: 0, 2: 0}, boundary="nearest", dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )
    da.to_zarr(mended, out, overwrite=True)


def _compare(folder: Path) -> int:
    """Largest difference in grey levels; 1 where a mean of two integers is a tie that floats round either way."""
    from pipeline.box import Box
    from pipeline.volume import Volume

    box = Box((FLAGGED[0], 0, 0), (FLAGGED[0] + 1, *SHAPE[1:]))
    ours, theirs = (
        Volume.open(str(folder / p), voxel_nm=(45.0, 4.6, 4.6)).read(box)
        for p in ("zmend0.zarr/0", "map_overlap0.zarr")
    )
    return int(np.abs(ours.astype(int) - theirs).max())


def _io() -> tuple[int, int]:
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]), int(counts["wchar"])


def _peak_kib() -> int:
    # Not ru_maxrss: that remembers the parent that this process was forked from.
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1])


def _main(name: str, folder: str, number: str) -> None:
    work = {"zmend": _zmend, "map_overlap": _map_overlap}[name]
    for module in ("dask.array", "pipeline.run"):  # both pay for imports before the clock starts
        importlib.import_module(module)

    (r0, w0), began, cpu = _io(), time.perf_counter(), time.process_time()
    work(Path(folder), str(Path(folder) / f"{name}{number}.zarr"))
    (r1, w1), peak = _io(), _peak_kib()
    found = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu, "read_mb": (r1 - r0) / 1e6,
             "written_mb": (w1 - w0) / 1e6, "peak_mb": peak / 1024}  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
