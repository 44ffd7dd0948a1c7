"""Slab: one unit of work from read to record. `compute` decides every voxel; `restore` writes what it decided.

read box + flags → tiles of the global grid → gaps in each tile → fixed-size batches → restorer
→ seat in the section around → paste → whole chunks of the overlay, read back, hashed → record, last
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from pipeline import blend
from pipeline.box import Box
from pipeline.errors import RestorerError
from pipeline.failpoint import reach
from pipeline.flags import Flags, MaskReader, flagged
from pipeline.lanes import go_on
from pipeline.lattice import Geometry
from pipeline.ledger import Ledger
from pipeline.plan import Slab, refusal, runs
from pipeline.recipe import Recipe
from pipeline.restorer import Needs, Restorer, SpreadRestorer
from pipeline.shelf import Shelf
from pipeline.threads import CORES, in_order
from pipeline.volume import Volume, Written, voxels_sha256

U8: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
F32: TypeAlias = NDArray[np.float32]
I64: TypeAlias = NDArray[np.int64]
Voxels: TypeAlias = NDArray[Any]
T = TypeVar("T")
ABSENT = (
    "a neighbouring section has no chunk here in the source, so nothing vouches for its voxels"
    " (if chunks are absent on purpose, as around the tissue, set volume.missing_chunks: background)"
)


@dataclass(frozen=True)
class Job:
    """What all slabs of a run share. Opened once in each worker."""

    source: Volume
    overlay: Volume
    labels: Volume
    ledger: Ledger
    flags: Flags
    read_mask: MaskReader
    restorer: Restorer
    needs: Needs
    recipe: Recipe
    bound: dict[str, Any]  # that every record carries: digests of plan, recipe, weights, flags; seed, attempt
    uncertainty: Volume | None = None  # where the spread goes, if the recipe asks for it
    absent_is_unknown: bool = True
    shelf: Shelf | None = None  # what slabs share of what they read, if anything
    # One computation at a time in a process, so that reading and writing of other slabs overlap with it.
    compute_lock: AbstractContextManager[Any] = field(default_factory=threading.Lock)

    @property
    def intensity(self) -> tuple[float, float]:
        """The values that are 0 and 1 for the restorer."""
        info = np.iinfo(self.source.dtype)
        return self.recipe.intensity or (float(info.min), float(info.max))


@dataclass(frozen=True, slots=True)
class Gap:
    """A run of sections with unknown voxels in one tile, between clean ones. Sections count from the volume's first."""

    tile: Box  # the core, one cell of the global grid
    targets: tuple[int, int]
    window: tuple[int, int]  # targets and the clean sections used


@dataclass(frozen=True, slots=True)
class Content:
    """What one chunk of the overlay, the labels and the uncertainty is to hold. All (z, y, x) of the box."""

    box: Box
    sections: Voxels
    labels: U8
    counts: U8 | None  # None: no spread is asked for, or nothing was restored here

    def digests(self) -> list[str]:
        """What a record says of the chunk once it is written."""
        return [voxels_sha256(a) for a in (self.sections, self.labels, self.counts) if a is not None]


@dataclass
class Result:
    """Every voxel that a slab decides, before anything is written."""

    sections: Voxels  # (z, y, x) of the write box: restored where labelled synthetic, else the source
    labels: U8
    counts: U8  # spread of the ensemble as blend.to_counts has it: 0 where not restored, or where none was drawn
    inputs_sha256: str
    left: list[dict[str, Any]] = field(default_factory=list)  # flagged voxels that could not be restored, and why
    quarantined: str = ""


def compute(slab: Slab, job: Job) -> Result:
    """Decide every voxel of the write box. Reads only; depends on nothing but the job and the slab's read box."""
    return decide(look(slab, job), job)


@dataclass(frozen=True)
class Scene:
    """What a slab sees: voxels, flags (0, 1 whole section, 2 region) and doubts, all of its read box."""

    slab: Slab
    data: Voxels
    flag: U8
    unknown: Mask
    absent: Mask

    @property
    def inputs_sha256(self) -> str:
        """Of everything that was read. Part by part: a slab's voxels are hundreds of megabytes, not to be copied."""
        seen = hashlib.sha256()
        holes = np.packbits(self.absent) if self.absent.any() else np.zeros(-(-self.absent.size // 8), np.uint8)
        for part in (self.data, self.flag, holes):
            seen.update(np.ascontiguousarray(part).data)
        return seen.hexdigest()

    def view(self, box: Box) -> tuple[slice, slice, slice]:
        """Slices of the part of `box` that lies in the read box."""
        return (box & self.slab.read).within(self.slab.read)


def look(slab: Slab, job: Job) -> Scene:
    """Read the slab's read box, and what the flags say of it."""
    reach("read", slab.id)
    data = _read(slab, job)
    flag = flagged(job.flags.touching(slab.read), slab.read, job.read_mask)
    absent = _absent(slab.read, job)
    # An absent chunk that nobody flagged stays as it is, but vouches for nothing.
    return Scene(slab, data, flag, (flag > 0) | absent, absent)


def _read(slab: Slab, job: Job) -> Voxels:
    if job.shelf is None:
        return job.source.read(slab.read)
    own = Geometry(job.source.shape, (1, 1, 1), job.needs).own_box(slab.write)
    return job.shelf.read(slab.read, own, _wanted_besides(slab, job))


def _wanted_besides(slab: Slab, job: Job) -> set[int]:
    """Sections that slabs of other sections want of the chunks that this one reads: a hint, that may well be wrong."""
    context, (first, *_), (last, *_) = job.needs.context, slab.write.start, slab.write.stop
    layers = slab.read.aligned((job.source.chunks[0], 1, 1)) & Box.of(job.source.shape)
    near = (f.box for f in job.flags.touching(layers.grow(context, 0, 0)) if f.restorable)
    others = [(b.start[0], b.stop[0]) for b in near if b.start[0] < first or b.stop[0] > last]
    seen = ((max(a - context, layers.start[0]), min(b + context, layers.stop[0])) for a, b in others)
    return {z for a, b in seen for z in range(a, b)}


def decide(scene: Scene, job: Job, on_turn: Callable[[], None] = lambda: None) -> Result:
    """Every voxel of the scene's write box. Reads nothing, and leaves the scene as it is.

    on_turn is called when it is this slab's turn at the restorer.
    """
    inside, shape = scene.slab.write.within(scene.slab.read), scene.slab.write.shape
    labels, counts = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    result = Result(scene.data[inside].copy(), labels, counts, scene.inputs_sha256)
    batches = _batches(scene, job, result)
    with ThreadPoolExecutor(1, "ready") as ahead, ThreadPoolExecutor(1, "keep") as behind:
        ready = _begun(in_order(ahead, lambda gaps: _ready(gaps, scene, job), batches, 1))
        with job.compute_lock:
            on_turn()
            reach("restore", scene.slab.id)
            made = ((batch, _predict(job, batch)) for batch in ready)
            kept = _behind(behind, lambda one: _keep(*one, scene, job, result), made)
        for one in kept:
            one.result()
    if (nothing := result.labels == blend.ORIGINAL).any():  # whatever was flagged and not restored is labelled so
        np.copyto(result.labels, blend.LEFT, where=nothing & (scene.flag[inside] > 0))
    return result


def _absent(box: Box, job: Job) -> Mask:
    mask = np.zeros(box.shape, bool)
    if job.absent_is_unknown:
        for hole in job.source.absent(box):
            mask[(hole & box).within(box)] = True
    return mask


@dataclass(frozen=True, slots=True)
class Batch:
    """Gaps of one shape, and what the restorer sees of them: made while it is busy with those before."""

    gaps: Sequence[Gap]
    window: F32  # (B, D, H, W)
    known: Mask  # (B, D, H, W)
    origin: I64  # (B, 3)

    @property
    def targets(self) -> tuple[int, int]:
        """The sections to restore, along D."""
        first, last = (z - self.gaps[0].window[0] for z in self.gaps[0].targets)
        return first, last


def _batches(scene: Scene, job: Job, result: Result) -> list[list[Gap]]:
    """The gaps of a scene in the order and in the batches in which they are restored."""
    groups: dict[tuple[int, int, int], list[Gap]] = defaultdict(list)
    for gap in _gaps(scene, job, result):
        before = gap.targets[0] - gap.window[0]
        groups[before, gap.targets[1] - gap.targets[0], gap.window[1] - gap.targets[1]].append(gap)
    size = job.recipe.batch
    return [gaps[i : i + size] for _, gaps in sorted(groups.items()) for i in range(0, len(gaps), size)]


def _ready(gaps: Sequence[Gap], scene: Scene, job: Job) -> Batch:
    windows, known = zip(*(_window(g, scene, job) for g in gaps), strict=True)
    origin = np.array([_origin(g, job.needs) for g in gaps], np.int64)
    return Batch(gaps, _stacked(list(windows)), _stacked(list(known)), origin)


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


def _keep(batch: Batch, made: tuple[F32, F32], scene: Scene, job: Job, result: Result) -> None:
    """Put what is fit of a batch into the result."""
    for gap, window, known, prediction, spread in zip(batch.gaps, batch.window, batch.known, *made, strict=True):
        why = _fault(gap, window, known, prediction) or (job.recipe.uncertainty and _unsure(gap, spread))
        if why:
            _quarantine(gap, scene, why, result)
        else:
            _paste(gap, scene, job, window, known, prediction, spread, result)


def _stacked(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One array of them all; of a single one a view."""
    return np.stack(parts) if len(parts) > 1 else parts[0][None]


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


def _gaps(scene: Scene, job: Job, result: Result) -> Iterator[Gap]:
    """The gaps of every tile that has flagged voxels in the write box; notes those that cannot be restored."""
    write, needs = scene.slab.write, job.needs
    for tile in write.cells((write.stop[0], needs.tile, needs.tile)):
        core = tile.with_z(write.start[0], write.stop[0]) & write
        if not (scene.flag[scene.view(core)] > 0).any():
            continue
        flagged, clean = _sections(scene, _padded(tile, needs))
        for run in runs(flagged):
            mine = core.with_z(max(run[0], write.start[0]), min(run[1], write.stop[0]))
            wanted = int((scene.flag[scene.view(mine)] > 0).sum()) if mine.size else 0
            if not wanted:
                continue
            window = _with_context(run, clean, needs.context)
            why = refusal(run, Geometry(job.source.shape, (1, 1, 1), needs)) or _blind(run, window, needs)
            if why:
                result.left.append(_left(mine, wanted, why))
            else:
                yield Gap(tile, run, window)


def _sections(scene: Scene, padded: Box) -> tuple[list[int], set[int]]:
    """The sections of the read box with flagged voxels in a tile's window, and those that are clean throughout it.

    Absent chunks make a section neither: it is no gap to restore, and it vouches for nothing. Counting them as gaps
    would let the result depend on how far the read box happens to reach.
    """
    first, last = scene.slab.read.start[0], scene.slab.read.stop[0]
    view = scene.view(padded.with_z(first, last))
    flagged = (scene.flag[view] > 0).any(axis=(1, 2))  # (sections,)
    unclean = flagged | scene.absent[view].any(axis=(1, 2))
    return [first + int(i) for i in np.flatnonzero(flagged)], {first + int(i) for i in np.flatnonzero(~unclean)}


def _with_context(run: tuple[int, int], clean: set[int], context: int) -> tuple[int, int]:
    """As many clean sections on each side as there are without a break, up to `context`."""
    first, last = run
    while first - 1 in clean and run[0] - first < context:
        first -= 1
    while last in clean and last - run[1] < context:
        last += 1
    return first, last


def _blind(run: tuple[int, int], window: tuple[int, int], needs: Needs) -> str:
    """Why a gap has too few clean neighbours, or nothing."""
    sides = (window[0] < run[0]) + (window[1] > run[1])
    return "" if sides == 2 or (sides == 1 and needs.one_sided) else ABSENT


def _padded(tile: Box, needs: Needs) -> Box:
    return tile.grow(0, needs.halo, needs.halo)


def _origin(gap: Gap, needs: Needs) -> tuple[int, int, int]:
    return gap.window[0], gap.tile.start[1] - needs.halo, gap.tile.start[2] - needs.halo


def _window(gap: Gap, scene: Scene, job: Job) -> tuple[F32, Mask]:
    """What the restorer sees of one gap: (D, H, W) voxels in [0, 1] and where they are known.

    Beyond the edge of the volume the tissue is mirrored. Only what lies in the tile's own window is mirrored,
    never what the slab happens to hold besides: so the result does not depend on how the volume is cut.
    """
    box = _padded(gap.tile, job.needs).with_z(*gap.window)
    inner = box & Box.of(job.source.shape)
    margin = [(a - b, d - c) for b, a, c, d in zip(box.start, inner.start, inner.stop, box.stop, strict=True)]
    voxels = scene.data[scene.view(box)]
    known = ~scene.unknown[scene.view(box)]
    known[: gap.targets[0] - gap.window[0]] = True  # clean by construction
    known[gap.targets[1] - gap.window[0] :] = True
    if any(map(any, margin)):
        voxels, known = (np.pad(a, margin, mode="symmetric") for a in (voxels, known))
    return blend.to_unit(voxels, *job.intensity), known


def _fault(gap: Gap, window: F32, known: Mask, prediction: F32) -> str:
    """Why a gap's prediction is not fit to be written, or nothing. Looks at the tile's whole window, never at the
    slab's part of it: the verdict must not depend on how the volume is cut."""
    first, last = (z - gap.window[0] for z in gap.targets)
    neighbours = [window[d] for d in (first - 1, last) if 0 <= d < len(window)]
    faults = (blend.fault(prediction[d], ~known[d], neighbours) for d in range(first, last))
    return next(filter(None, faults), "")


def _unsure(gap: Gap, spread: F32) -> str:
    """Why the spread of a gap's ensemble is not fit to be written, or nothing."""
    return blend.spread_fault(spread[gap.targets[0] - gap.window[0] : gap.targets[1] - gap.window[0]])


def _quarantine(gap: Gap, scene: Scene, why: str, result: Result) -> None:
    """Leave the tile's flagged voxels as they were, and say so."""
    write = scene.slab.write
    mine = gap.tile.with_z(max(gap.targets[0], write.start[0]), min(gap.targets[1], write.stop[0])) & write
    result.left.append(_left(mine, int((scene.flag[scene.view(mine)] > 0).sum()), f"quarantined: {why}"))
    result.quarantined = result.quarantined or f"{mine}: {why}"


def _paste(
    gap: Gap, scene: Scene, job: Job, window: F32, known: Mask, prediction: F32, spread: F32, result: Result
) -> None:
    """Seat and cast the prediction, and put the tile's flagged voxels in their place, with the ensemble's spread."""
    write = scene.slab.write
    box = _padded(gap.tile, job.needs).with_z(*gap.window)
    for z in range(max(gap.targets[0], write.start[0]), min(gap.targets[1], write.stop[0])):
        d = z - gap.window[0]
        core = gap.tile.with_z(z, z + 1) & write
        inside = core.within(box.with_z(z, z + 1))[1:]
        wanted = scene.flag[scene.view(core)][0]
        unknown = ~known[d]
        seated, band = blend.seat(prediction[d], window[d], unknown, job.recipe.feather_px)
        made = blend.to_dtype(seated[inside], *job.intensity, job.source.dtype)
        label = wanted.copy()  # flags are told in the words of labels: 1 a whole section, 2 a region
        if band.any():
            label[(wanted == 2) & band[inside]] = blend.FEATHER
        here, asked = core.within(write), wanted > 0
        if job.recipe.uncertainty:
            counts = blend.to_counts(spread[d][inside])
            label[blend.refused(counts, job.recipe.refuse_above)] = blend.UNCERTAIN
            np.copyto(result.counts[here][0], counts, where=asked)
        everywhere: Any = True if asked.all() else asked  # a plain copy is several times quicker
        np.copyto(result.sections[here][0], made, where=everywhere)
        np.copyto(result.labels[here][0], label, where=everywhere)


assert (blend.SYNTHESISED, blend.REPAIRED) == (1, 2)


def _left(box: Box, voxels: int, why: str) -> dict[str, Any]:
    return {"z": [box.start[0], box.stop[0]], "box": [box.start[1:], box.stop[1:]], "voxels": voxels, "why": why}


def chunks(slab: Slab, job: Job, result: Result) -> Iterator[Content]:
    """The overlay's chunks that hold labelled voxels. All others are not written."""
    for cell in slab.write.cells(job.overlay.grain):
        box = cell & slab.write
        here = box.within(slab.write)
        labels = result.labels[here]
        if labels.any():
            spread = job.uncertainty is not None and blend.synthetic(labels).any()
            yield Content(box, result.sections[here], labels, result.counts[here] if spread else None)


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
        left=[_left(slab.write, int(flagged.sum()), why)],
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
        "voxels": _counted(result.labels),
        "left": _grouped(result.left),
        "quarantined": result.quarantined,
        "chunks": [[box.start, box.stop, *(w.sha256 for w in parts)] for box, parts in written],
        "bytes_read": _chunk_bytes(slab.read, job.source),
        "bytes_written": sum(w.bytes for _, parts in written for w in parts),
        "seconds": [round(computed - began, 3), round(time.perf_counter() - computed, 3)],
        **more,
    }
    job.ledger.commit(record)
    return record


def _counted(labels: U8) -> dict[str, int]:
    """Voxels by label; once all are found there is no looking for the others."""
    found, left = {}, labels.size
    for label in range(1, 6):
        found[str(label)] = int(np.count_nonzero(labels == label)) if left else 0
        left -= found[str(label)]
    return found


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


def _grouped(left: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a run of sections and reason, rather than one a tile."""
    groups: dict[tuple[int, int, str], dict[str, Any]] = {}
    for part in left:
        key = (*part["z"], part["why"])
        whole = groups.setdefault(key, {**part, "voxels": 0})
        (y0, x0), (y1, x1) = whole["box"]
        (v0, u0), (v1, u1) = part["box"]
        whole["box"] = [(min(y0, v0), min(x0, u0)), (max(y1, v1), max(x1, u1))]
        whole["voxels"] += part["voxels"]
    return list(groups.values())
