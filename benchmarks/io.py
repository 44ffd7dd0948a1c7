"""Reading a box and writing an overlay's sections: zmend's volumes beside tensorstore, zarr-python and a file copy.

One process, one thread's worth of work each, interleaved; medians of MB of voxels a second, wall and per CPU second.
The copy moves the same chunk files and decodes nothing: no way to voxels can be quicker. zmend's write is held against the
others' bare one: it also reads back, compares and syncs. So its parts are told: `put` is the writing alone.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import tissue
from benchmarks.meter import markdown

EDGE = int(os.environ.get("IO_EDGE", "2048"))
DEEP = 16  # sections that are read: chunks 64 deep are decoded whole, whatever the way
ROUNDS = int(os.environ.get("IO_ROUNDS", "5"))
Way = Callable[[], object]


def measure() -> dict[str, Any]:
    """Reading on each layout, writing sections, and what codecs would cost."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        reading = [_reading(layout, folder) for layout in tissue.LAYOUTS]
        return {"tissue": tissue.what(), "rounds": ROUNDS, "reading": reading, "writing": _writing(folder), "codecs": _codecs()}


def _rounds(ways: dict[str, Way], voxels: int) -> dict[str, dict[str, float]]:
    """MB/s of every way, by wall and by CPU time; each went once before."""
    took: dict[str, list[tuple[float, float]]] = {n: [] for n in ways}
    for number in range(ROUNDS + 1):
        for way, work in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            if number:
                took[way].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        way: {
            "mb_s": round(voxels / 1e6 / statistics.median(w for w, _ in some)),
            "mb_cpu_s": round(voxels / 1e6 / max(1e-6, statistics.median(c for _, c in some))),
        }
        for way, some in took.items()
    }


def _tensorstore(path: str, *, writable: bool = False) -> Any:
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    return tensorstore.open(spec, read=True, write=writable).result()


def _reading(layout: tissue.Layout, folder: Path) -> dict[str, Any]:
    import zarr

    from pipeline.box import Box

    path = str(folder / f"{layout.chunks[0]}-{layout.shards is not None}.zarr")
    ours = tissue.make(path, (max(64, DEEP), EDGE, EDGE), layout)
    theirs, python = _tensorstore(path), zarr.open_array(path, mode="r")
    box = Box((16, 0, 0), (16 + DEEP, EDGE, EDGE))
    view = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
    want = ours.read(box)
    ways: dict[str, Way] = {
        "zmend": lambda: ours.read(box),
        "tensorstore": lambda: theirs[view].read().result(),
        "zarr-python": lambda: python[view],
    }
    assert all(np.array_equal(np.asarray(work()), want) for work in ways.values())
    found = _rounds(ways, box.size)
    shutil.rmtree(path)
    return {"layout": layout.name, "ways": found, **_beside(found, "tensorstore")}


def _beside(found: dict[str, dict[str, float]], peer: str) -> dict[str, float]:
    ours = found["zmend"]
    return {f"zmend_over_{peer}_{k}": round(ours[k] / found[peer][k], 2) for k in ours}


def _writing(folder: Path) -> dict[str, Any]:
    """Sections in chunks of (1, 1024, 1024), as the overlay has them, again and again to the same place."""
    import zarr

    from pipeline.box import Box

    shape, layout = (4, EDGE, EDGE), tissue.LAYOUTS[0]
    volumes = {n: tissue.make(str(folder / n), shape, layout) for n in ("ours", "put", "theirs", "python")}
    ours, put = volumes["ours"], volumes["put"]
    theirs, python = _tensorstore(str(folder / "theirs"), writable=True), zarr.open_array(folder / "python", mode="r+")
    data, box = np.stack([tissue.sections(z, shape) for z in range(4)]), Box.of(shape)
    copy = folder / "copy"

    def copied() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / "ours", copy)

    ways: dict[str, Way] = {
        "zmend": lambda: put._put(box, data),
        "zmend, read back": lambda: ours.lay(box, data),
        "zmend, read back, durable, hashed": lambda: ours.write(box, data),
        "tensorstore (which syncs)": lambda: theirs.write(data).result(),
        "zarr-python": lambda: python.__setitem__(slice(None), data),
        "file copy": copied,
    }
    found = _rounds(ways, box.size)
    return {"ways": found, **_beside(found, "tensorstore (which syncs)")}


def _codecs() -> list[dict[str, Any]]:
    """A section's chunk by codecs that an overlay could have: how small, how quick."""
    from numcodecs import Blosc, Delta, GZip, Zstd

    chunk = np.ascontiguousarray(tissue.sections(3, (1, 1024, 1024)))[None]
    kinds: dict[str, list[Any]] = {f"zstd {n}": [Zstd(level=n, checksum=True)] for n in (1, 3, 9)}
    kinds |= {f"blosc {c} {n}": [Blosc(cname=c, clevel=5, shuffle=s)] for c in ("lz4", "zstd") for n, s in (("plain", 0), ("bitshuffle", 2))}
    kinds |= {"delta x, zstd 1": [Delta("u1"), Zstd(level=1)], "gzip 1": [GZip(level=1)]}
    rows = []
    for name, codecs in kinds.items():
        raw: Any = chunk
        for codec in codecs:
            raw = codec.encode(raw)
        made, steps = bytes(raw), [c.encode for c in codecs]
        back = [c.decode for c in reversed(codecs)]
        found = _rounds({"encode": lambda s=steps: _through(chunk, s), "decode": lambda b=back, m=made: _through(m, b)}, chunk.size)
        rows.append({"codec": name, "ratio": round(chunk.nbytes / len(made), 3), **{f"{k}_mb_cpu_s": v["mb_cpu_s"] for k, v in found.items()}})
    return rows


def _through(raw: Any, steps: list[Any]) -> Any:
    for step in steps:
        raw = step(raw)
    return raw


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    kinds = ("mb_s", "mb_cpu_s")
    parts = [f"{found['tissue']}; MB of voxels a second, by wall and by CPU time; medians of {found['rounds']}, interleaved.\n"]
    rows = [[r["layout"], way, *(v[k] for k in kinds)] for r in found["reading"] for way, v in r["ways"].items()]
    parts.append(f"## Reading {DEEP} sections\n\n" + markdown(["layout", "way", *kinds], rows))
    rows = [[r["layout"], *(v for k, v in r.items() if k.startswith("zmend_over"))] for r in found["reading"]]
    parts.append(markdown(["zmend ÷ tensorstore", *kinds], rows))
    rows = [[way, *(v[k] for k in kinds)] for way, v in found["writing"]["ways"].items()]
    parts.append("## Writing sections, chunks 1 deep\n\n" + markdown(["way", *kinds], rows))
    columns = list(found["codecs"][0])
    parts.append("## Codecs, one chunk\n\n" + markdown(columns, [[r[c] for c in columns] for r in found["codecs"]]))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(table(measure()))
