"""Two per cent of sections flagged, linear restorer: zmend beside what one would write without it, on four layouts.

Each way runs in a process of its own, all ways interleaved, `ROUNDS` times; a small job of the same kind goes before,
so that imports do not count (`start_s` says how long both take). Bytes are what the operating system counted, children
included; the source lies in its page cache. `durable_s` is until the disk has everything. zmend hashes and reads back
what it writes, labels and records it; the peers do nothing of that. It makes no certificate here: nor do they.

Set DAISY_PYTHON to an interpreter that has daisy and zarr, to measure daisy too: with workers, and in one process.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import tissue
from benchmarks.meter import COUNTED, child, markdown, measured, medians, ratios, spread

EDGE = int(os.environ.get("END_TO_END_EDGE", "2048"))
DEPTH, FLAGGED = 100, (24, 72)
EDGES = {tissue.LAYOUTS[0].name: 2 * EDGE}  # where least is moved, more is needed to see past what every run costs
TINY, TINY_FLAGGED = (8, 128, 128), (3,)
ROUNDS = int(os.environ.get("END_TO_END_ROUNDS", "3"))
WORKERS = 2
MENDED = ("zmend", "map_overlap", "daisy whole", "daisy patch")  # whole volumes; the others restored sections alone
PEERS = {
    "map_overlap": 0,
    "daisy whole": WORKERS,
    "daisy patch": WORKERS,
    "daisy patch, one process": 0,
    "daisy sections": WORKERS,
    "daisy sections, one process": 0,
}


def zmend(mode: str, workers: int, raw: str, out: str, flagged: list[int]) -> None:
    """The command's work, from configuration to summary."""
    from pipeline.config import check
    from pipeline.job import propose
    from pipeline.run import run

    run(propose(check({
        "volume": {"path": raw}, "flags": tissue.flags(Path(f"{out}.csv"), tuple(flagged)),
        "output": {"path": out, "mode": mode}, "recipe": {"restorer": "linear"}, "certificate": 0,
        "site": {"workers": workers, "slab_px": "whole"},
    })))  # fmt: skip


OURS = {
    "zmend": partial(zmend, "volume", 0),
    "zmend, 2 workers": partial(zmend, "volume", WORKERS),
    "zmend overlay": partial(zmend, "overlay", 0),
}


def measure() -> dict[str, Any]:
    """Every way, on every layout."""
    found = {}
    for layout in tissue.LAYOUTS:
        with TemporaryDirectory() as folder:
            edge = EDGES.get(layout.name, EDGE)
            tissue.make(f"{folder}/raw.zarr", (DEPTH, edge, edge), layout, FLAGGED)
            tissue.make(f"{folder}/tiny.zarr", TINY, layout, TINY_FLAGGED)
            found[layout.name] = {"shape": (DEPTH, edge, edge), **_rounds(Path(folder))}
    return {"flagged": FLAGGED, "tissue": tissue.what(), "rounds": ROUNDS, "layouts": found}


def _rounds(folder: Path) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, float]]] = {}
    for number in range(ROUNDS):
        for way in (*OURS, *PEERS):
            if (one := _one(way, folder)) is not None:
                rounds.setdefault(way, []).append(one)
                sys.stderr.write(f"{number} {way}: {one}\n")
    difference = _compare(folder, list(rounds))
    ours = {way: "zmend" if way.startswith(MENDED) else "zmend overlay" for way in rounds if way not in OURS}
    times = {
        way: {what: spread(ratios(rounds[way], rounds[our], what)) for what in ("wall_s", "cpu_s", "moved_mb")}
        for way, our in ours.items()
    }
    return {
        "medians": {way: medians(some) for way, some in rounds.items()},
        "peer_over_zmend": times,
        "largest_difference": difference,
    }


def _one(way: str, folder: Path) -> dict[str, float] | None:
    out = {n: str(folder / f"{n}-{way.replace(' ', '-')}.zarr") for n in ("tiny", "raw")}
    for path in out.values():
        shutil.rmtree(path, ignore_errors=True)
    rows = [(str(folder / f"{n}.zarr"), out[n], flagged) for n, flagged in (("tiny", TINY_FLAGGED), ("raw", FLAGGED))]
    if way in OURS:
        found = measured([sys.executable, "-m", "benchmarks.end_to_end"], way=way, tiny=rows[0], job=rows[1])
    else:
        python = os.environ.get("DAISY_PYTHON") if way.startswith("daisy") else sys.executable
        if not python:
            return None
        name, workers = way.removesuffix(", one process"), PEERS[way]
        tiny, job = ((*row, workers) for row in rows)
        found = measured([python, str(Path(__file__).with_name("peers.py"))], way=name, tiny=tiny, job=job)
    return {**found, "moved_mb": found["read_mb"] + found["written_mb"]}


def _compare(folder: Path, ways: list[str]) -> int:
    """Largest difference in grey levels; 1 where a mean of two integers is a tie that floats round either way."""
    import numpy as np

    from pipeline.box import Box
    from pipeline.volume import Volume

    def section(way: str, z: int) -> Any:
        name = str(folder / f"raw-{way.replace(' ', '-')}.zarr")
        inside = {"zmend overlay": "/zmend/overlay"}.get(way, "/0" if way in OURS else "")
        volume = Volume.open(name + inside, voxel_nm=tissue.VOXEL_NM)
        return volume.read(Box((z, 0, 0), (z + 1, *volume.shape[1:]))).astype(np.int64)

    truth = {z: section("zmend", z) for z in FLAGGED}
    return max(int(np.abs(section(way, z) - truth[z]).max()) for way in ways for z in FLAGGED)


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    what = f"uint8 ({found['tissue']}), sections {found['flagged']} missing; medians of {found['rounds']}."
    parts = [what + "\n"]
    for layout, row in found["layouts"].items():
        kinds = (*COUNTED, "moved_mb")
        times = row["peer_over_zmend"]
        rows = [[way, *(f"{some[k]:.4g}" for k in kinds)] for way, some in row["medians"].items()]
        parts.append(f"## {layout}, {row['shape']}\n\n" + markdown(["", *kinds], rows))
        parts.append(f"Restored voxels differ by {row['largest_difference']} grey levels at most. Peer ÷ zmend, median (least–most):\n")
        against = [[way, "zmend" if way.startswith(MENDED) else "zmend overlay", *some.values()] for way, some in times.items()]
        parts.append(markdown(["peer", "beside", "wall", "CPU", "bytes moved"], against))
    return "\n".join(parts)


if __name__ == "__main__":
    child(OURS)
