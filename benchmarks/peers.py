"""What one would write without zmend: the same two sections restored the same way, with dask or with daisy.

Each way reads RAW and writes OUT; the file runs in an interpreter that has the peer, and imports nothing of zmend's.

map_overlap     da.map_overlap(…).to_zarr: every block with its neighbours, the whole volume anew
daisy whole     blockwise over the whole volume, context read only where something is flagged
daisy patch     the array is copied as files, then the blocks that hold flagged sections are rewritten in place
daisy sections  the flagged sections alone, into an array of one-section chunks; the volume itself is not mended
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

LATERAL, DEEP = 1024, 16  # voxels of a block, in whole chunks


def restored(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The section between two."""
    return np.rint((before.astype(np.float32) + after) / 2).astype(np.uint8)


def mended(raw: Any, box: tuple[slice, ...], flagged: tuple[int, ...]) -> np.ndarray:
    """The voxels of a box, its flagged sections restored; sections around it are read only if they are needed."""
    z, *lateral = box
    mine = [f for f in flagged if z.start <= f < z.stop]
    low, high = min([z.start, *(f - 1 for f in mine)]), max([z.stop, *(f + 2 for f in mine)])
    seen = np.asarray(raw[(slice(low, high), *lateral)])
    for f in mine:
        seen[f - low] = restored(seen[f - low - 1], seen[f - low + 1])
    return seen[z.start - low : z.stop - low]


def map_overlap(raw: str, out: str, flagged: tuple[int, ...], workers: int) -> None:
    import dask.array as da

    volume = da.from_zarr(raw)
    deep = volume.chunks[0][0]

    def fill(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        made = block.copy()
        first = block_info[0]["chunk-location"][0] * deep - 1
        for d in (z - first for z in flagged):
            if 1 <= d < len(block) - 1:
                made[d] = restored(block[d - 1], block[d + 1])
        return made

    kinds = {"dtype": np.uint8, "meta": np.empty((0, 0, 0), np.uint8)}
    done = da.map_overlap(fill, volume, depth={0: 1, 1: 0, 2: 0}, boundary="nearest", **kinds)
    target = _like(raw, out)
    if target.shards is not None:  # blocks that are whole shards: no two may write one
        done = done.rechunk(target.shards)
    da.to_zarr(done, target)


def _like(raw: str, out: str, **other: Any) -> Any:
    """A new array like another one."""
    old = zarr.open_array(raw, mode="r")
    kinds = {"shape": old.shape, "dtype": old.dtype, "chunks": old.chunks, "shards": old.shards,
             "compressors": old.compressors, "overwrite": True}  # fmt: skip
    return zarr.create_array(out, **(kinds | other))


def _blocks(
    name: str, start: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, ...], work: Any, workers: int
) -> None:
    import daisy

    one = daisy.Roi((0, 0, 0), block)
    task = daisy.Task(name, daisy.Roi(start, shape), one, one, work, num_workers=max(1, workers),
                      read_write_conflict=False, fit="shrink")  # fmt: skip
    quiet = {"progress": False, "summary": False, "block_tracking": False}
    assert daisy.run_blockwise(task, multiprocessing=workers > 0, **quiet)


def _box(block: Any) -> tuple[slice, ...]:
    roi = block.write_roi
    return tuple(slice(int(a), int(a) + int(n)) for a, n in zip(roi.offset, roi.shape, strict=True))


def _over_all(raw: str, out: str, flagged: tuple[int, ...], workers: int, *, every: bool) -> None:
    like = zarr.open_array(raw, mode="r")
    grain = like.shards or like.chunks
    deep = grain[0] if not every else -(-max(grain[0], DEEP) // grain[0]) * grain[0]
    lateral = [-(-min(LATERAL, n) // g) * g for g, n in zip(grain[1:], like.shape[1:], strict=True)]

    def work(block: Any) -> None:
        box = _box(block)
        if every or any(box[0].start <= f < box[0].stop for f in flagged):
            zarr.open_array(out, mode="r+")[box] = mended(zarr.open_array(raw, mode="r"), box, flagged)

    layers = [0] if every else sorted({f // deep * deep for f in flagged})
    for z in layers:  # a task each: nobody goes through the blocks where nothing is to be done
        shape = (like.shape[0] if every else min(deep, like.shape[0] - z), *like.shape[1:])
        _blocks(f"volume{z}", (z, 0, 0), shape, (deep, *lateral), work, workers)


def daisy_whole(raw: str, out: str, flagged: tuple[int, ...], workers: int) -> None:
    _like(raw, out)
    _over_all(raw, out, flagged, workers, every=True)


def daisy_patch(raw: str, out: str, flagged: tuple[int, ...], workers: int) -> None:
    shutil.copytree(raw, out)
    _over_all(raw, out, flagged, workers, every=False)


def daisy_sections(raw: str, out: str, flagged: tuple[int, ...], workers: int) -> None:
    shape = zarr.open_array(raw, mode="r").shape
    edge = min(LATERAL, *shape[1:])
    _like(raw, out, chunks=(1, edge, edge), shards=None)

    def work(block: Any) -> None:
        box = _box(block)
        zarr.open_array(out, mode="r+")[box] = mended(zarr.open_array(raw, mode="r"), box, flagged)

    for f in flagged:
        _blocks(f"section{f}", (f, 0, 0), (1, *shape[1:]), (1, edge, edge), work, workers)


WAYS: dict[str, Callable[[str, str, tuple[int, ...], int], None]] = {
    "map_overlap": map_overlap,
    "daisy whole": daisy_whole,
    "daisy patch": daisy_patch,
    "daisy sections": daisy_sections,
}

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks.meter import child

    child(WAYS)
