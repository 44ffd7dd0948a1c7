"""Bytes that a restore and a merge move, as the operating system counts them, against the least that could do.

    restore   reads  the stored chunks (of a shard: its inner chunks and index) under the slabs' read boxes, each once
              writes the stored chunks of overlay and labels
    merge     reads  the source's stored chunks that a restored voxel lies in, overlay and labels, each once
              writes the chunks that take their place

What is written is also read back once, on purpose: that is told apart and left out of the ratio. Documents (metadata,
plan, flags, records, logs) are in what is counted and not in the least.
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
from benchmarks.end_to_end import TINY, TINY_FLAGGED
from benchmarks.meter import child, markdown, measured

EDGE = int(os.environ.get("BYTES_EDGE", "2048"))
SHAPE, FLAGGED = (100, EDGE, EDGE), (24, 28, 72)  # of which two lie in the same chunks, where these are deep
SLABS = ("whole", 1024)  # lateral edges of a slab: the second shows what borders cost


def restore(slab_px: Any, raw: str, out: str, flagged: list[int]) -> None:
    """A run that stops before the merge."""
    from pipeline.config import check
    from pipeline.job import propose
    from pipeline.run import run

    run(propose(check({
        "volume": {"path": raw}, "flags": tissue.flags(Path(f"{out}.csv"), tuple(flagged)),
        "output": {"path": out, "mode": "overlay"}, "recipe": {"restorer": "linear"}, "certificate": 0,
        "site": {"workers": 0, "slab_px": slab_px},
    })))  # fmt: skip


def merge(raw: str, out: str, flagged: list[int]) -> None:
    """The merge that comes after it."""
    from pipeline.merge import merge
    from pipeline.volume import Volume

    merge(Volume.open(raw), out)


STAGES = {f"restore {s}": partial(restore, s) for s in SLABS} | {"merge": merge}


def measure() -> dict[str, Any]:
    """Each stage on each layout, once: bytes do not vary."""
    rows = []
    for layout in tissue.LAYOUTS:
        with TemporaryDirectory() as name:
            folder = Path(name)
            tissue.make(f"{folder}/raw.zarr", SHAPE, layout, FLAGGED)
            tissue.make(f"{folder}/tiny.zarr", TINY, layout, TINY_FLAGGED)
            for slab_px in SLABS:
                for made in ("raw", "tiny"):
                    shutil.rmtree(folder / f"{made}-out.zarr", ignore_errors=True)
                for stage in (f"restore {slab_px}", "merge"):
                    counted = _stage(stage, folder)
                    rows.append({"layout": layout.name, "slab_px": slab_px, **_row(stage, folder, counted)})
                    sys.stderr.write(f"{rows[-1]}\n")
    return {"shape": SHAPE, "flagged": FLAGGED, "tissue": tissue.what(), "rows": rows}


def _stage(stage: str, folder: Path) -> dict[str, float]:
    jobs = {n: (str(folder / f"{n}.zarr"), str(folder / f"{n}-out.zarr"), f) for n, f in (("tiny", TINY_FLAGGED), ("raw", FLAGGED))}
    return measured([sys.executable, "-m", "benchmarks.bytes_moved"], way=stage, tiny=jobs["tiny"], job=jobs["raw"])


def _row(stage: str, folder: Path, counted: dict[str, float]) -> dict[str, Any]:
    least_read, least_written = (_merging if stage == "merge" else _restoring)(folder)
    read = counted["read_mb"] - least_written  # what was written is read back
    return {
        "stage": stage.split()[0],
        "read_mb": round(read, 2),
        "least_read_mb": round(least_read, 2),
        "read_ratio": round(read / least_read, 3),
        "written_mb": round(counted["written_mb"], 2),
        "least_written_mb": round(least_written, 2),
        "written_ratio": round(counted["written_mb"] / least_written, 3),
        "read_back_mb": round(least_written, 2),
    }


def _restoring(folder: Path) -> tuple[float, float]:
    from pipeline.planfile import current_plan
    from pipeline.volume import Volume

    source, out = Volume.open(folder / "raw.zarr"), str(folder / "raw-out.zarr")
    under = {c for slab in current_plan(out).slabs for c in slab.read.cells(source.chunks)}
    return _stored_mb(source, under), _made_mb(out)


def _merging(folder: Path) -> tuple[float, float]:
    from pipeline.store import open_labels
    from pipeline.volume import Volume

    source, out = Volume.open(folder / "raw.zarr"), str(folder / "raw-out.zarr")
    merged = Volume.open(out)
    cells = {cell for box in open_labels(out).present() for cell in box.cells(source.grain)}
    touched = [tuple(a // g for a, g in zip(c.start, source.grain, strict=True)) for c in cells]
    sizes = [[s.size for s in v.files.stats([v.key(c) for c in touched]) if s] for v in (source, merged)]
    return sum(sizes[0]) / 1e6 + _made_mb(out), sum(sizes[1]) / 1e6


def _made_mb(out: str) -> float:
    from pipeline.store import made_arrays

    return sum(s.size for array in made_arrays(out).values() for _, s in array.objects()) / 1e6


def _stored_mb(volume: Any, cells: set[Any]) -> float:
    """Stored bytes of chunks, MB; of a sharded volume of inner chunks, with the index of each shard that they are in."""
    import numpy as np

    found, shards = 0, {c.aligned(volume.grain) for c in cells}
    for shard in shards:
        cell = tuple(a // g for a, g in zip(shard.start, volume.grain, strict=True))
        stored = volume.files.stat(volume.key(cell))
        if stored is None:
            continue
        if volume.layout.index_at is None:
            found += stored.size
            continue
        counts = tuple(g // c for g, c in zip(volume.grain, volume.chunks, strict=True))
        size = 16 * int(np.prod(counts))
        raw = volume.files.read(stored.key, stored.size - size - 4, stored.size - 4) or b""
        lengths = np.frombuffer(raw, "<u8").reshape(*counts, 2)[..., 1]
        inside = [c for c in cells if c in shard]
        found += size + 4
        for c in inside:
            at = tuple((a - s) // g for a, s, g in zip(c.start, shard.start, volume.chunks, strict=True))
            found += int(lengths[at]) if lengths[at] != 2**64 - 1 else 0
    return found / 1e6


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    columns = list(found["rows"][0])
    what = f"{found['shape']} uint8 ({found['tissue']}), sections {found['flagged']} missing. What is read back is left out of `read_mb`.\n\n"
    return what + markdown(columns, [[row[c] for c in columns] for row in found["rows"]])


if __name__ == "__main__":
    child(STAGES)
