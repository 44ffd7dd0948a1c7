"""Merge: blend the overlay back into a full volume. Touched chunks are rewritten once, all others linked or copied.

A merged voxel is the overlay's where its label is 1, 2, 3 or 5, and the source's bit for bit everywhere else. Coarser
levels change only where a voxel's footprint holds a changed voxel. Nothing is written in place: a chunk that is a hard
link to the source never changes the source. Killed anywhere and run again, the bytes are the same. Of a source that is
not Zarr all chunks count as touched: they become Zarr by being rewritten.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice, pairwise
from math import prod
from time import monotonic
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.blend import LEFT, ORIGINAL, RESTORED, UNCERTAIN, synthetic
from pipeline.box import ZYX, Box
from pipeline.clone import Clone, bring
from pipeline.cost import MERGING
from pipeline.errors import MissingChunkError, VolumeError
from pipeline.failpoint import reach
from pipeline.files import PROBES, Files
from pipeline.lanes import Budget, memory_here
from pipeline.memory import MERGED, of_cell
from pipeline.objects import Stored
from pipeline.store import adopt, open_labels, open_overlay
from pipeline.volume import Volume, Voxels, sha256

Mask = NDArray[np.bool_]
Progress = Callable[[int, int], None]
Fence = Callable[[], None]
T = TypeVar("T")
R = TypeVar("R")

SHARE = 4  # of the memory here its chunks in flight may take one in so many
FLUSH_S = 10.0  # how much rewriting a kill may cost
JOURNAL = "zmend/merge.json"
BATCH = 64  # links per task: a link is cheaper than handing it to a thread


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did. Counts are over all levels; voxels are those of the mended level, labelled as restored."""

    chunks_rewritten: int
    chunks_linked: int
    chunks_copied: int  # reflinked ones included
    voxels_changed: int
    bytes_read: int
    bytes_written: int
    levels: int


@dataclass(frozen=True)
class _Level:
    """One level of the pyramid: what it is, and what it is made from."""

    source: Volume
    out: Volume
    step: ZYX  # voxels of the next finer level in one voxel
    ratio: ZYX  # voxels of the mended level in one voxel
    extent: ZYX  # voxels of the mended level that this level has footprints for
    finer: _Level | None


@dataclass
class _Target:
    """An array to bring up to date: the image at a level, or the labels at a coarser level."""

    name: str
    level: _Level
    out: Volume
    is_image: bool
    touched: dict[ZYX, list[Box]] = field(default_factory=lambda: defaultdict(list))  # cell: label chunks over it
    done: dict[str, list[Any]] = field(default_factory=dict)  # cell: [inputs, size, ETag or mtime_ns] when written
    laid: list[Box] = field(default_factory=list)  # written, and not durable yet

    def touches(self, labels: Voxels) -> Mask:
        """Which labels make a chunk of this array differ from the source's (labels: from an absent one)."""
        return synthetic(labels) if self.is_image else labels > 0


def merge(
    source: Volume,
    out: str,
    *,
    clone: Clone = "auto",
    progress: Progress | None = None,
    threads: int = MERGING,
    fence: Fence = lambda: None,
    anew: bool = False,
) -> Merged:
    """Bring the merged volume in `out` up to date with its overlay, labels and source.

    clone: how untouched chunks come over: "link" hard-links, "copy" copies, "auto" takes the first that works of link,
    reflink, copy. progress: called with (touched chunks done, of). threads: reading and writing at once. fence: called
    before whatever is written; raises where the store is another run's by now. anew: nothing that is there is believed,
    all chunks are written or brought again.
    Raises VolumeError (store of another source, levels that are not whole multiples, links that do not work) and
    MissingChunkError (labels that tell of restored voxels which the overlay lacks), both before any chunk is written.
    """
    fence()
    check_mergeable(source, clone)
    adopt(out, source, mode="volume")
    levels = _levels(source, out)
    targets = list(_targets(levels, out))
    work = _Work(open_overlay(out), open_labels(out), targets, progress or (lambda done, of: None), fence)
    volumes = [work.overlay, work.labels, *(v.source for v in levels), *(t.out for t in targets)]
    read, written = _moved(volumes)
    manifests, tally, local = [], work.tally, Files(out).local is not None
    with ThreadPoolExecutor(threads if local else max(threads, PROBES)) as pool:
        work.find_touched(pool)
        for target in targets if source.foreign else ():
            _touch_all(target)
        journal = _Journal(out, targets, fence, anew)
        journal.put()  # from here to the end the store says that it is not merged
        for target in targets:
            work.rewrite(target, pool, threads, journal)
            if target.is_image:
                manifests.append(_clone(target, clone, pool, tally, fence, anew))
            else:
                fence()
                _erase_stale(target)
    if (tally["linked"] or tally["copied"]) and local:
        os.sync()  # they are not synced one by one; the journal must not be ahead of them
    journal.manifest = manifests[0]
    journal.put()
    now_read, now_written = _moved(volumes)
    return Merged(
        chunks_rewritten=tally["rewritten"],
        chunks_linked=tally["linked"],
        chunks_copied=tally["copied"],
        voxels_changed=tally["changed"],
        bytes_read=now_read - read + tally["bytes"],
        bytes_written=now_written - written + tally["bytes"],
        levels=len(levels),
    )


def source_manifest(source: Volume) -> str:
    """sha256 over name, size and time of every chunk object of the source's level. Reads no data."""
    digest = hashlib.sha256()
    for _, stored in source.objects():
        digest.update(_line(stored))
    return digest.hexdigest()


def read_merge(out: str) -> dict[str, Any] | None:
    """What the last merge that ended noted (`source_manifest`, chunks touched), or None if none has."""
    noted = _noted(Files(out))
    return noted if noted.get("source_manifest") else None


def forget_merge(out: str) -> None:
    """Note that the merged volume is behind the overlay. What the last merge touched stays known."""
    files = Files(out)
    noted = _noted(files)
    if noted.get("source_manifest"):
        files.keep(JOURNAL, json.dumps({**noted, "source_manifest": ""}).encode())


def _noted(files: Files) -> dict[str, Any]:
    """The journal; one that cannot be read counts as none: all is merged anew."""
    try:
        noted = json.loads(files.read(JOURNAL) or b"{}")
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}


def check_mergeable(source: Volume, clone: Clone = "auto") -> None:
    """Raises VolumeError where no merged volume can be made: better said before anything is restored.

    That is of a source whose coarser levels are not whole multiples, and links to chunks that are not Zarr.
    """
    if source.foreign and clone == "link":
        raise VolumeError(
            f"no links can be made to a source that is {source.foreign}",
            where=source.uri,
            why="its chunks are not Zarr: a merged volume holds all of them, written anew",
            do="set  output: {clone: auto}, or  output: {mode: overlay}, which needs no copy of the source",
        )
    levels = source.pyramid()
    for fine, coarse in pairwise(levels):
        _step(fine, coarse)


def _line(stored: Stored) -> bytes:
    return f"{stored.key}\t{stored.size}\t{stored.mtime_ns}\t{stored.etag}\n".encode()


def _moved(volumes: Sequence[Volume]) -> tuple[int, int]:
    return sum(v.bytes_read for v in volumes), sum(v.bytes_written for v in volumes)


# --- the pyramid


def _levels(source: Volume, out: str) -> list[_Level]:
    levels: list[_Level] = []
    for i, theirs in enumerate(source.pyramid()):
        step = (1, 1, 1) if not levels else _step(levels[-1].source, theirs)
        ratio = step if not levels else _times(levels[-1].ratio, step)
        covered = _times(theirs.shape, ratio)
        extent = covered if not levels else _zyx(min(a, b) for a, b in zip(levels[-1].extent, covered, strict=True))
        ours = Volume.open(out, level=i, writable=True)
        levels.append(_Level(theirs, ours, step, ratio, extent, levels[-1] if levels else None))
    return levels


def _targets(levels: Sequence[_Level], out: str) -> Iterator[_Target]:
    for i, level in enumerate(levels):
        yield _Target(str(i), level, level.out, True)
        if level.finer is not None:
            yield _Target(f"labels/{i}", level, open_labels(out, i), False)


def _step(fine: Volume, coarse: Volume) -> ZYX:
    """Whole voxels of `fine` in one of `coarse`, per axis. Raises VolumeError where there is no such number."""
    found = []
    for axis, (n, m) in enumerate(zip(fine.shape, coarse.shape, strict=True)):
        known = fine.voxel_nm is not None and coarse.voxel_nm is not None
        told = [round(coarse.voxel_nm[axis] / fine.voxel_nm[axis])] if known else []  # type: ignore[index]
        fit = [s for s in (*told, round(n / m)) if s > 0 and m in (n // s, -(-n // s))]
        if not fit:
            raise VolumeError(
                f"level {coarse.level} is not level {fine.level} by whole factors",
                where=coarse.uri,
                why=f"shapes {fine.shape} and {coarse.shape}; a merge must know which voxels make up a coarser one",
                do="make a group whose levels are whole multiples, or name the array of the one level to mend",
            )
        found.append(fit[0])
    return _zyx(found)


def _times(a: ZYX, b: ZYX) -> ZYX:
    return _zyx(p * q for p, q in zip(a, b, strict=True))


def _zyx(values: Iterable[int]) -> ZYX:
    z, y, x = values
    return z, y, x


def _coarser(box: Box, ratio: ZYX) -> Box:
    """The coarse voxels whose footprints touch a box."""
    start = _zyx(a // r for a, r in zip(box.start, ratio, strict=True))
    return Box(start, _zyx(-(-b // r) for b, r in zip(box.stop, ratio, strict=True)))


def _footprint(box: Box, ratio: ZYX, extent: ZYX) -> Box:
    return Box(_times(box.start, ratio), _times(box.stop, ratio)) & Box.of(extent)


# Labels by how much they tell, the most telling first: a coarser voxel that holds one that is not to be trusted is not
# to be trusted.
TELLING = (UNCERTAIN, *(v for v in RESTORED if v != UNCERTAIN), LEFT, ORIGINAL)
RANKS = len(RESTORED)  # lower ranks are of restored voxels
NOTHING = np.uint8(len(TELLING) - 1)  # the rank of ORIGINAL
_RANK = np.array([TELLING.index(v) if v in TELLING else NOTHING for v in range(256)], np.uint8)  # by label


def labels_of(ranks: Voxels) -> Voxels:
    """The labels that ranks stand for. uint8 in and out."""
    return np.asarray(np.array(TELLING, np.uint8)[ranks])


def rank_under(labels: Voxels, box: Box, ratio: ZYX) -> Voxels:
    """Coarser labels as ranks: the place in TELLING of the most telling label of each footprint.

    `labels` (z, y, x) uint8 lie at `box`; the result (z, y, x) uint8 at the coarse box over it.
    """
    coarse, ranks = _coarser(box, ratio), _RANK[labels]
    for axis, (a, r) in enumerate(zip(box.start, ratio, strict=True)):
        cuts = [max(0, i * r - a) for i in range(coarse.start[axis], coarse.stop[axis])]
        ranks = np.minimum.reduceat(ranks, cuts, axis)
    return ranks


def mean_under(fine: Voxels, step: ZYX) -> Voxels:
    """Means over footprints of `step` voxels, cut at the far edge, halves rounded up. (z, y, x) in and out."""
    wide = np.uint32 if prod(step) * int(np.iinfo(fine.dtype).max) < 1 << 30 else np.uint64
    total: Voxels = fine.astype(wide)
    count: Voxels = np.ones((1, 1, 1), wide)
    for axis, s in enumerate(step):
        cuts = np.arange(0, fine.shape[axis], s)
        total = np.add.reduceat(total, cuts, axis)
        size = np.diff(np.append(cuts, fine.shape[axis])).astype(wide)
        count = count * size.reshape([-1 if a == axis else 1 for a in range(3)])
    made: Voxels = ((2 * total + count) // (2 * count)).astype(fine.dtype)
    return made


def audit(source: Volume, out: str, level: int, box: Box) -> tuple[int, int]:
    """How many voxels, and how many labels, of `box` of a coarser level are not what they must be.

    A label must be the most telling one under it; a voxel the mean of the finer merged level where that label says
    that something under it is synthetic, else the source's. Computed anew from the mended level's labels.
    """
    this = _levels(source, out)[level]
    under = _footprint(box, this.ratio, this.extent)
    ranks = np.full(box.shape, NOTHING, np.uint8)
    if under.size:
        ranks[_coarser(under, this.ratio).within(box)] = rank_under(open_labels(out).read(under), under, this.ratio)
    made = ranks < RANKS
    voxels = _coarse(this, box, made) if made.any() else this.source.read(box)
    wrong = this.out.read(box) != voxels, open_labels(out, level).read(box) != labels_of(ranks)
    return int(wrong[0].sum()), int(wrong[1].sum())


# --- rewriting


def _touch_all(target: _Target) -> None:
    """Of a source that is not Zarr nothing can be brought as it lies: every chunk that is there is written anew."""
    source, sharded = target.level.source, target.level.source.layout.index_at is not None
    for box in source.present() if target.is_image else ():
        holes = source.absent(box) if sharded else ()
        for chunk in (c & box for c in box.cells(source.chunks)):
            if chunk not in holes:
                target.touched[_zyx(a // c for a, c in zip(chunk.start, source.chunks, strict=True))]


class _Journal:
    """zmend/merge.json: which touched chunks are written, from which inputs; so that a second merge skips them."""

    def __init__(self, out: str, targets: Sequence[_Target], fence: Fence, anew: bool) -> None:
        self.files, self.targets, self.manifest, self.fence = Files(out), targets, "", fence
        self.written = monotonic()
        before = {} if anew else _noted(self.files).get("touched", {})
        for target in targets:
            target.done = {k: v for k, v in before.get(target.name, {}).items() if _cell(k) in target.touched}

    def put(self) -> None:
        """Write it; without a manifest it says that a merge is under way. It is never ahead of what is durable."""
        for target in self.targets:
            target.out.settle(target.laid)
            target.laid.clear()
        touched = {t.name: dict(sorted(t.done.items())) for t in self.targets}
        noted = {"schema": "zmend-merge/1", "source_manifest": self.manifest, "touched": touched}
        reach("merge", JOURNAL)
        self.fence()
        self.files.keep(JOURNAL, json.dumps(noted).encode())
        self.written = monotonic()


def _name(cell: ZYX) -> str:
    return ".".join(map(str, cell))


def _cell(name: str) -> ZYX:
    return _zyx(map(int, name.split(".")))


@dataclass
class _Work:
    """Finding and rewriting the touched chunks."""

    overlay: Volume
    labels: Volume
    targets: Sequence[_Target]
    progress: Progress
    fence: Fence
    tally: Counter[str] = field(default_factory=Counter)
    marks: dict[Box, str] = field(default_factory=dict)  # label chunk: fingerprint of it and of the overlay's
    told: int = 0
    room: Budget = field(default_factory=lambda: Budget(min(MERGED, memory_here() // SHARE or MERGED)))

    def find_touched(self, pool: ThreadPoolExecutor) -> None:
        """Note which cells of every target the labels touch. Reads the label chunks that exist, and no others."""
        chunks = (
            c & Box.of(self.labels.shape) for shard in self.labels.present() for c in shard.cells(self.labels.chunks)
        )
        for box, changed, cells, mark in _spread(pool, self._look, chunks):
            self.tally["changed"] += changed
            self.marks[box] = mark
            for target, touched in zip(self.targets, cells, strict=True):
                for cell in touched:
                    target.touched[cell].append(box)

    def _look(self, box: Box) -> tuple[Box, int, list[list[ZYX]], str]:
        labels = self.labels.read(box)
        mask = synthetic(labels)
        _check_overlay(self.overlay, box, mask)
        cells = [list(_cells(t, box, t.touches(labels))) for t in self.targets]
        return box, int(mask.sum()), cells, sha256([v.inputs(box) for v in (self.overlay, self.labels)])[:16]

    def rewrite(self, target: _Target, pool: ThreadPoolExecutor, threads: int, journal: _Journal) -> None:
        """Write every touched chunk of a target that is not up to date."""
        of = sum(len(t.touched) for t in self.targets)
        for group in _spread(pool, lambda cells: self._group(target, cells), self._groups(target), threads):
            for cell, noted in group:
                if target.done.get(_name(cell)) != noted:
                    self.tally["rewritten"] += target.is_image
                    target.laid.append(target.out.box(cell))
                target.done[_name(cell)] = noted
            self.told += len(group)
            self.progress(self.told, of)
            if monotonic() - journal.written > FLUSH_S:
                journal.put()

    def _groups(self, target: _Target) -> Iterable[list[ZYX]]:
        """Touched cells that share overlay chunks: each chunk of the overlay is then read once, not once a cell."""
        groups: dict[ZYX, list[ZYX]] = defaultdict(list)
        ratio, chunks = target.level.ratio, self.labels.chunks
        for cell in sorted(target.touched):
            start = target.out.box(cell).start
            lateral = (a * r // c for a, r, c in zip(start[1:], ratio[1:], chunks[1:], strict=True))
            groups[_zyx((cell[0], *lateral))].append(cell)
        return groups.values()

    def _group(self, target: _Target, cells: list[ZYX]) -> list[tuple[ZYX, list[Any]]]:
        seen: dict[Box, tuple[Mask, Voxels]] = {}
        with self.room.hold(self._bytes(target, cells)):
            return [(cell, self._one(target, cell, seen)) for cell in cells]

    def _bytes(self, target: _Target, cells: list[ZYX]) -> int:
        """What a group takes at most, however little of it is to be written."""
        out, finer = target.out, target.level.finer
        if finer is not None:
            return of_cell(out.grain, out.dtype.itemsize, finer=finer.out.grain)
        sections = len({chunk.start[0] for cell in cells for chunk in target.touched[cell]})
        return of_cell(out.grain, out.dtype.itemsize, label=self.labels.chunks, sections=sections)

    def _one(self, target: _Target, cell: ZYX, seen: dict[Box, tuple[Mask, Voxels]]) -> list[Any]:
        box, chunks = target.out.box(cell), target.touched[cell]
        inputs = self._inputs(target, box, chunks)
        reach("pyramid" if target.level.finer else "merge", f"{target.name} {box}")
        if target.done.get(_name(cell)) != _now(target.out, cell, inputs):
            self.fence()
            if target.level.finer is not None or self._graft(target, box, chunks, seen) is None:
                target.out.lay(box, self._made(target, box, chunks, seen))
        return _now(target.out, cell, inputs)

    def _inputs(self, target: _Target, box: Box, chunks: list[Box]) -> str:
        """What a chunk is made from, short."""
        level, beside = target.level, []
        if target.is_image:
            beside = [level.source.inputs(box)]
            finer = level.finer
            beside += [finer.out.inputs(_footprint(box, level.step, finer.out.shape))] if finer is not None else []
        return sha256([beside, sorted((str(c), self.marks[c]) for c in chunks)])[:16]

    def _made(self, target: _Target, box: Box, chunks: list[Box], seen: dict[Box, tuple[Mask, Voxels]]) -> Voxels:
        """What a chunk must hold: (z, y, x) voxels or labels of `box`."""
        level = target.level
        if level.finer is None:
            return self._base(level, box, chunks, seen)
        ranks = self._ranks(level, box, chunks)
        return _coarse(level, box, ranks < RANKS) if target.is_image else labels_of(ranks)

    def _graft(
        self, target: _Target, box: Box, chunks: list[Box], seen: dict[Box, tuple[Mask, Voxels]]
    ) -> int | None:
        """Write a shard whose chunks are the source's as they lie, but those with restored voxels."""
        source = target.level.source
        if source.chunks == source.grain or source.foreign:
            return None
        changed = {}
        for cell in {c for chunk in chunks for c in (chunk & box).cells(source.chunks)}:
            part, over = cell & box, [chunk for chunk in chunks if (chunk & cell).size]
            if any(self._seen(c, seen)[0][(c & part).within(c)].any() for c in over):
                changed[part] = self._base(target.level, part, over, seen)
        return target.out.graft(box, source, changed)

    def _seen(self, chunk: Box, seen: dict[Box, tuple[Mask, Voxels]]) -> tuple[Mask, Voxels]:
        """Where a chunk of the labels tells of restored voxels, and those."""
        if chunk not in seen:
            seen[chunk] = synthetic(self.labels.read(chunk)), self.overlay.read(chunk)
        return seen[chunk]

    def _base(self, level: _Level, box: Box, chunks: list[Box], seen: dict[Box, tuple[Mask, Voxels]]) -> Voxels:
        made = level.source.read(box)
        for chunk in chunks:
            mask, restored = (a[(chunk & box).within(chunk)] for a in self._seen(chunk, seen))
            made[(chunk & box).within(box)][mask] = restored[mask]
        return made

    def _ranks(self, level: _Level, box: Box, chunks: list[Box]) -> Voxels:
        ranks = np.full(box.shape, NOTHING, np.uint8)
        under = _footprint(box, level.ratio, level.extent)
        for part in (chunk & under for chunk in chunks):
            here = ranks[_coarser(part, level.ratio).within(box)]
            np.minimum(here, rank_under(self.labels.read(part), part, level.ratio), out=here)
        return ranks


def _coarse(level: _Level, box: Box, mask: Mask) -> Voxels:
    """The source's voxels, but means over the finer merged level where `mask`; only what lies under it is read."""
    assert level.finer is not None
    made = level.source.read(box)
    if not mask.any():
        return made
    for part in box.cells(_under(level)):
        inner = (part & box).within(box)
        if mask[inner].any():
            _average(level, part & box, made[inner], mask[inner])
    return made


def _under(level: _Level) -> ZYX:
    """The voxels of a level under which lies one cell of the finer one; all, where steps go across its cells."""
    assert level.finer is not None
    cell, step = level.finer.out.grain, level.step
    fits = not any(c % s for c, s in zip(cell, step, strict=True))
    return _zyx(c // s for c, s in zip(cell, step, strict=True)) if fits else level.out.shape


def _average(level: _Level, box: Box, made: Voxels, mask: Mask) -> None:
    """Put means over the finer level where `mask`, both (z, y, x) of a box, section by section."""
    assert level.finer is not None
    spans = [np.flatnonzero(mask.any(tuple(b for b in range(3) if b != a))) for a in range(3)]
    low = _zyx(o + int(s[0]) for o, s in zip(box.start, spans, strict=True))
    part = Box(low, _zyx(o + int(s[-1]) + 1 for o, s in zip(box.start, spans, strict=True)))
    under, inner, deep = _footprint(part, level.step, level.finer.out.shape), part.within(box), level.step[0]
    fine = level.finer.out.read(under)
    for z, (section, wanted) in enumerate(zip(made[inner], mask[inner], strict=True)):
        if wanted.any():
            section[wanted] = mean_under(fine[z * deep : (z + 1) * deep], level.step)[0][wanted]


def _check_overlay(overlay: Volume, box: Box, mask: Mask) -> None:
    for hole in overlay.absent(box) if mask.any() else ():
        if mask[hole.within(box)].any():
            raise MissingChunkError(
                f"labels tell of restored voxels in {hole}, but the overlay has no such chunk",
                where=overlay.uri,
                why="a chunk was deleted, or a run was killed between the two writes and not resumed",
                do="run zmend run again: it restores what has no record",
            )


def _cells(target: _Target, box: Box, mask: Mask) -> Iterator[ZYX]:
    """The cells of a target whose footprints hold a True voxel of `mask`, which lies at `box`."""
    if not mask.any():
        return
    level, grain = target.level, target.out.grain
    for cell in _coarser(box, level.ratio).cells(grain):
        here = _footprint(cell, level.ratio, level.extent) & box
        if here.size and mask[here.within(box)].any():
            yield _zyx(a // g for a, g in zip(cell.start, grain, strict=True))


def _now(volume: Volume, cell: ZYX, inputs: str) -> list[Any]:
    stored = volume.files.stat(volume.key(cell))
    return [inputs, *((stored.size, stored.etag or stored.mtime_ns) if stored else (0, 0))]


def _spread(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], window: int = 16) -> Iterator[R]:
    """`map` over threads with a bounded number in flight: the items of a petabyte do not fit in memory."""
    waiting, rest = set[Future[R]](), iter(items)
    try:
        while True:
            waiting |= {pool.submit(work, item) for item in islice(rest, window - len(waiting))}
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (f.result() for f in finished)
    finally:
        for future in waiting:
            future.cancel()


# --- cloning


def _clone(
    target: _Target, clone: Clone, pool: ThreadPoolExecutor, tally: Counter[str], fence: Fence, anew: bool
) -> str:
    """Link or copy every chunk that is not touched, remove what the source lacks; returns the source's manifest."""
    level, digest, kept = target.level, hashlib.sha256(), 0

    def untouched() -> Iterator[Stored]:
        nonlocal kept
        for cell, stored in level.source.objects():
            digest.update(_line(stored))
            if cell not in target.touched:
                kept += 1
                yield stored

    rest = untouched()
    size = BATCH if level.out.files.local is not None else 1
    batches = iter(lambda: list(islice(rest, size)), [])
    for counts in _spread(pool, lambda batch: _clone_batch(level, batch, clone, fence, anew), batches):
        tally.update(counts)
    fence()
    _sweep(target, kept)
    return digest.hexdigest()


def _clone_batch(level: _Level, batch: list[Stored], clone: Clone, fence: Fence, anew: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    reach("merge", f"{len(batch)} chunks of level {level.out.level}")
    fence()
    for stored, how in bring(level.source.files, level.out.files, batch, clone, anew=anew):
        counts[how] += 1
        counts["bytes"] += stored.size if how == "copied" else 0
    return counts


def _sweep(target: _Target, kept: int) -> None:
    """Remove what killed writers left, and chunks that neither the source has nor the overlay touches."""
    source, files, mine = target.level.source, target.out.files, 0
    for stored in files.walk():
        if stored.key.endswith(".partial"):
            files.delete(stored.key)
        cell = target.out.cell(stored.key)
        mine += cell is not None and cell not in target.touched
    if mine == kept:
        return
    for cell, stored in target.out.objects():
        if cell not in target.touched and source.files.stat(source.key(cell)) is None:
            files.delete(stored.key)


def _erase_stale(target: _Target) -> None:
    """Remove coarser label chunks under which no label is left, and what killed writers left."""
    target.out.files.sweep()
    for cell, stored in target.out.objects():
        if cell not in target.touched:
            target.out.files.delete(stored.key)
