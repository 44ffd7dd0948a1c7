"""Trial: what a worker measures of itself for a calibration, by doing to a part of a slab what it does to slabs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.box import Box
from pipeline.certificate import measure, probes
from pipeline.flags import Flag, Flags
from pipeline.lattice import Geometry
from pipeline.ledger import Ledger
from pipeline.plan import Slab
from pipeline.recipe import Recipe
from pipeline.restorer import load
from pipeline.sight import Job, look
from pipeline.slab import decide
from pipeline.store import has_uncertainty, open_labels, open_overlay, open_uncertainty
from pipeline.volume import Volume, Voxels

ENOUGH_S = 1.0  # of rounds, after the first two
ROUNDS = 9
READ_PX = 2048  # of a slab's read box
CHUNKS = 8  # of the overlay

Json = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """Measures, given the row of a slab. Nothing but the scratch store is written."""

    out: str  # the scratch store
    source: tuple[str, int, Any]  # address, level, voxel size
    recipe: str  # JSON
    threads: int
    gaps: tuple[int, ...]  # sections of those that are restored

    def __call__(self, row: list[Any]) -> Json:
        slab, began = Slab.of(row), time.perf_counter()
        job = self._job()
        calls, busy = {}, 0.0
        for n, gap in enumerate(self.gaps):
            tiles = _tiles(slab, gap, job)
            scene = look(tiles, hidden := _hidden(job, tiles))
            if n == 0:
                decide(scene, hidden)  # weights are loaded, memory is had
                open_s = time.perf_counter() - began
            hashing = min(_seconds(lambda s=scene: s.inputs_sha256, 3))  # type: ignore[misc]
            rounds, cores = _cores(lambda s=scene, j=hidden: list(_rounds(lambda: decide(s, j))))  # type: ignore[misc]
            _, one = _cores(lambda s=scene: [s.inputs_sha256 for _ in range(9)])  # type: ignore[misc]
            busy = max(busy, cores / one)  # of a machine that others use too, even one thread does not get a whole core
            calls[gap] = [max(1e-9, s - hashing) for s in rounds]
        return {
            "calls": calls,
            "call_cores": min(busy, float(self.threads)),
            "cores": float(self.threads),
            "open_s": max(0.0, open_s - calls[self.gaps[0]][0]),
            **_probing(_tiles(slab, 1, job), job, calls[min(calls)][-1]),
            **_reading(slab, job),
            **_writing(slab, job),
        }

    def _job(self) -> Job:
        uri, level, voxel_nm = self.source
        recipe = Recipe.model_validate_json(self.recipe)
        source = Volume.open(uri, level=level, voxel_nm=voxel_nm)
        restorer, needs = load(recipe, source.voxel_nm, threads=self.threads)
        return Job(
            source=source,
            overlay=open_overlay(self.out),
            labels=open_labels(self.out),
            uncertainty=open_uncertainty(self.out) if has_uncertainty(self.out) else None,
            ledger=Ledger(self.out),
            flags=Flags.of([]),
            read_mask=_no_mask,
            restorer=restorer,
            needs=needs,
            recipe=recipe,
            bound={},
            absent_is_unknown=False,
        )


def _no_mask(uri: str, box: Box) -> Any:
    raise AssertionError("a trial has no masks")


def _tiles(slab: Slab, gap: int, job: Job) -> Slab:
    """A batch of tiles in the middle of a slab, with a gap of so many sections, as a slab of its own."""
    shape, tile, batch = job.source.shape, job.needs.tile, job.recipe.batch
    (z, y0, x0), (_, y1, x1) = slab.write.start, slab.write.stop
    y, x = (y0 + y1) // 2, (x0 + x1) // 2
    first = max(1, min(z, shape[0] - 1 - gap))
    row = Box((first, y, x), (first + gap, y + 1, x + 1)).aligned((1, tile, tile))
    write = Box(row.start, (row.stop[0], row.stop[1], row.start[2] + tile * batch)) & Box.of(shape)
    read = Geometry(shape, (gap, tile, tile), job.needs).read_box(write, (first, first + gap))
    return Slab(slab.id, write, read)


def _hidden(job: Job, slab: Slab) -> Job:
    gap = Box.of(job.source.shape).with_z(slab.write.start[0], slab.write.stop[0])
    return replace(job, flags=Flags.of([Flag(gap, "missing", whole=True)]))


def _rounds(work: Callable[[], object]) -> Iterator[float]:
    """Seconds of two rounds at least, and of more while they are quick."""
    spent, n = 0.0, 0
    while n < 2 or (spent < ENOUGH_S and n < ROUNDS):
        (took,) = _seconds(work, 1)
        spent, n = spent + took, n + 1
        yield took


def _cores(work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work returns, and how many cores it kept busy."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    return found, max(1e-3, time.process_time() - cpu) / max(1e-3, time.perf_counter() - wall)


def _seconds(work: Callable[[], object], n: int) -> list[float]:
    found = []
    for _ in range(n):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def _probing(slab: Slab, job: Job, call_s: float) -> Json:
    """Seconds of a tile of the certificate besides the restorer's call, and of choosing one."""
    began = time.perf_counter()
    found, _ = probes(_hidden(job, slab), 1)
    chosen_s = time.perf_counter() - began
    if not found:
        return {"probe_s": 0.0, "choose_s": 0.0}
    (took,) = _seconds(lambda: measure(found[0], job), 1)
    return {"probe_s": max(0.0, took - call_s), "choose_s": chosen_s / len(found)}


def _reading(slab: Slab, job: Job) -> Json:
    """Seconds a byte, of a part of the slab: decoded ones of reading, those of the box of hashing."""
    (z0, y, x), (z1, *_) = slab.read.start, slab.read.stop
    part = Box((z0, y, x), (z1, y + READ_PX, x + READ_PX)) & slab.read
    few = Slab(slab.id, part, part)
    decoded = (part.aligned(job.source.chunks) & Box.of(job.source.shape)).size * job.source.dtype.itemsize
    scene = look(few, job)
    read_s = min(_seconds(lambda: look(few, job), 2))
    see_s = min(_seconds(lambda: scene.inputs_sha256, 2))
    return {"read_s_byte": read_s / decoded, "see_s_byte": see_s / scene.data.nbytes}


def _tissue(box: Box, read: Box, source: Volume) -> Voxels:
    """What lies at a box, of the section with the most grey levels: what is missing is black, and quick to encode."""
    there = source.read(box.with_z(read.start[0], read.stop[0]))
    z = max(range(len(there)), key=lambda z: len(np.unique(there[z, ::4, ::4])))
    return there[z : z + 1]


def _writing(slab: Slab, job: Job) -> Json:
    """Seconds of a chunk of all arrays of the overlay, of reading one of them, and of a record."""
    arrays = [a for a in (job.overlay, job.labels, job.uncertainty) if a is not None]
    section = slab.write.with_z(slab.write.start[0], slab.write.start[0] + 1)
    cells = [c & Box.of(job.source.shape) for c in section.cells(job.overlay.grain)][: CHUNKS + 1]
    voxels = {box: _tissue(box, slab.read, job.source) for box in cells}
    sizes: list[int] = []

    def write(boxes: list[Box]) -> None:
        for box in boxes:
            sizes.append(arrays[0].lay(box, voxels[box]))
            for array in arrays[1:]:
                array.lay(box, (voxels[box] > 0).astype("uint8"))
        for array in arrays:
            array.settle(boxes)

    write(cells[:1])  # folders are made, code is loaded
    rest = cells[1:] or cells
    (took,) = _seconds(lambda: write(rest), 1)
    (looked,) = _seconds(lambda: [a.read(box) for box in rest for a in arrays[:2]], 1)
    record = {"slab": slab.id, "chunks": [[[0, 0, 0], [1, 1, 1], "0" * 64, "0" * 64]] * len(cells)}
    (record_s,) = _seconds(lambda: job.ledger.commit(record), 1)
    raw = sum(v.nbytes for v in voxels.values()) if len(cells) > 1 else 2 * voxels[cells[0]].nbytes  # written twice
    return {
        "write_s_chunk": took / len(rest),
        "look_s_chunk": looked / len(rest),
        "record_s": record_s,
        "made": sum(sizes) / raw,
    }
