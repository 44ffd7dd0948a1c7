"""Slab: one unit of work from read to record. `compute` decides every voxel; `restore` writes what it decided.

read box + flags → tiles of the global grid → gaps in each tile → fixed-size batches → restorer
→ seat in the section around → paste → whole chunks of the overlay, read back, hashed → record, last
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, TypeVar, cast

import numpy as np

from pipeline import blend
from pipeline.box import Box
from pipeline.errors import RestorerError
from pipeline.failpoint import reach
from pipeline.gap import F32, Batch, batched, shown
from pipeline.lanes import go_on
from pipeline.outcome import Content, Result, chunks, counted, grouped, left_out
from pipeline.patch import keep
from pipeline.plan import Slab
from pipeline.restorer import SpreadRestorer
from pipeline.sight import Job, Scene, look
from pipeline.threads import CORES, in_order
from pipeline.volume import Volume, Written, voxels_sha256

T = TypeVar("T")


def compute(slab: Slab, job: Job) -> Result:
    """Decide every voxel of the write box. Reads only; depends on nothing but the job and the slab's read box."""
    return decide(look(slab, job), job)


def decide(scene: Scene, job: Job, on_turn: Callable[[], None] = lambda: None) -> Result:
    """Every voxel of the scene's write box. Reads nothing, and leaves the scene as it is.

    on_turn is called when it is this slab's turn at the restorer.
    """
    inside, shape = scene.slab.write.within(scene.slab.read), scene.slab.write.shape
    labels, counts = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    result = Result(scene.data[inside].copy(), labels, counts, scene.inputs_sha256)
    batches = batched(scene, job, result)
    with ThreadPoolExecutor(1, "ready") as ahead, ThreadPoolExecutor(1, "keep") as behind:
        ready = _begun(in_order(ahead, lambda gaps: shown(gaps, scene, job), batches, 1))
        with job.compute_lock:
            on_turn()
            reach("restore", scene.slab.id)
            made = ((batch, _predict(job, batch)) for batch in ready)
            kept = _behind(behind, lambda one: keep(*one, scene, job, result), made)
        for one in kept:
            one.result()
    if (nothing := result.labels == blend.ORIGINAL).any():  # whatever was flagged and not restored is labelled so
        np.copyto(result.labels, blend.LEFT, where=nothing & (scene.flag[inside] > 0))
    return result


def _begun(items: Iterator[Batch]) -> Iterator[Batch]:
    """The same, of which the first is made at once: before it is this slab's turn."""
    return chain(list(islice(items, 1)), items)


def _behind(pool: ThreadPoolExecutor, work: Callable[[T], object], items: Iterable[T]) -> list[Future[object]]:
    """Do the work on each item while the next is made, never more than one item behind. What is not waited for yet."""
    waiting: list[Future[object]] = []
    for item in items:
        for one in waiting:
            one.result()
        waiting = [pool.submit(work, item)]
    return waiting


def _predict(job: Job, batch: Batch) -> tuple[F32, F32]:
    """The restorer's answer and the spread of its ensemble, both (B, D, H, W); no spread where none is asked for."""
    go_on()
    draws, window = job.recipe.uncertainty, batch.window
    given = window, batch.known, batch.targets, batch.origin
    if not draws:
        return job.restorer.restore(*given), np.broadcast_to(np.float32(0), window.shape)
    made, spread = cast(SpreadRestorer, job.restorer).restore_with_spread(*given, draws)
    if made.shape != window.shape or spread.shape != window.shape:
        raise RestorerError(
            "the restorer breaks its contract",
            where=f"{job.needs.name}.restore_with_spread",
            why=f"it was given windows {window.shape} and returned {made.shape} voxels, {spread.shape} spreads",
            do="return both with the shape of the window; set recipe.uncertainty: 0 meanwhile",
        )
    return made, spread


def restore(
    slab: Slab, job: Job, *, run: str, on_step: Callable[[str], None] = lambda _: None, **more: Any
) -> dict[str, Any]:
    """Compute, write, record. Returns the record; on_step is told read|wait|restore|write|record as each begins,
    and chunk before each chunk of an array.

    more: what the record says besides.
    """
    began = time.perf_counter()
    if (record := job.ledger.loose(slab.id)) is not None:  # by a copy, or before a worker died with the answer
        return record
    on_step("read")
    scene = look(slab, job)
    on_step("wait")
    result = decide(scene, job, lambda: on_step("restore"))
    del scene  # as large as the read box, and not needed to write
    return _store(slab, job, result, run=run, on_step=on_step, began=began, **more)


def leave(
    slab: Slab, job: Job, why: str, *, run: str, on_step: Callable[[str], None] = lambda _: None, **more: Any
) -> dict[str, Any]:
    """Leave a slab that was given up as it is: source voxels, label 4 where flagged, and a record that says why."""
    began = time.perf_counter()
    on_step("read")
    scene = look(slab, job)
    flagged = scene.flag[scene.view(slab.write)] > 0
    result = Result(
        scene.data[scene.view(slab.write)].copy(),
        labels=np.where(flagged, blend.LEFT, blend.ORIGINAL).astype(np.uint8),
        counts=np.zeros(slab.write.shape, np.uint8),
        inputs_sha256=scene.inputs_sha256,
        left=[left_out(slab.write, int(flagged.sum()), why)],
        quarantined=f"{slab.write}: {why}",
    )
    return _store(slab, job, result, run=run, on_step=on_step, began=began, given_up=True, **more)


def _store(
    slab: Slab, job: Job, result: Result, *, run: str, on_step: Callable[[str], None], began: float, **more: Any
) -> dict[str, Any]:
    """Write what was decided, then the record."""
    computed = time.perf_counter()
    on_step("write")
    with ThreadPoolExecutor(CORES, "write") as pool:
        written = list(in_order(pool, lambda c: (c.box, _write(c, job, on_step)), chunks(slab, job, result)))
    _settle(job, [(box, len(parts)) for box, parts in written])
    on_step("record")
    record = {
        **job.bound,
        "slab": slab.id,
        "status": "quarantined" if result.quarantined else "done",
        "run": run,
        "write": [slab.write.start, slab.write.stop],
        "read": [slab.read.start, slab.read.stop],
        "inputs_sha256": result.inputs_sha256,
        "voxels": counted(result.labels),
        "left": grouped(result.left),
        "quarantined": result.quarantined,
        "chunks": [[box.start, box.stop, *(w.sha256 for w in parts)] for box, parts in written],
        "bytes_read": _chunk_bytes(slab.read, job.source),
        "bytes_written": sum(w.bytes for _, parts in written for w in parts),
        "seconds": [round(computed - began, 3), round(time.perf_counter() - computed, 3)],
        **more,
    }
    job.ledger.commit(record)
    return record


def _write(content: Content, job: Job, on_step: Callable[[str], None]) -> list[Written]:
    """Overlay, labels and, where voxels were restored and a spread is asked for, the spread."""
    parts = [(job.overlay, content.sections), (job.labels, content.labels)]
    if job.uncertainty is not None and content.counts is not None:
        parts.append((job.uncertainty, content.counts))
    written = []
    for array, voxels in parts:
        on_step("chunk")
        written.append(Written(array.lay(content.box, voxels), voxels_sha256(voxels)))  # as it was read back
    return written


def _settle(job: Job, written: list[tuple[Box, int]]) -> None:
    """All that a slab wrote survives a power cut from here on. written: boxes, and in how many arrays."""
    job.overlay.settle([box for box, _ in written])
    job.labels.settle([box for box, _ in written])
    if job.uncertainty is not None:
        job.uncertainty.settle([box for box, arrays in written if arrays > 2])


def _chunk_bytes(box: Box, volume: Volume) -> int:
    """What must be decoded to read a box: whole chunks, before compression. The plan counts alike."""
    return (box.aligned(volume.chunks) & Box.of(volume.shape)).size * volume.dtype.itemsize
