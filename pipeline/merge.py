"""Merge: blend the overlay back into a full volume. Touched chunks are rewritten once, all others linked or copied.

A merged voxel is the overlay's where its label is 1, 2 or 3, and the source's bit for bit everywhere else. Coarser
levels change only where a voxel's footprint holds a changed voxel. Nothing is written in place: a chunk that is a hard
link to the source never changes the source. Killed anywhere and run again, the bytes are the same.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TypeVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.errors import MissingChunkError, VolumeError
from pipeline.store import adopt, open_labels, open_overlay
from pipeline.volume import Files, Stored, Volume, Voxels, sha256

Clone = Literal["auto", "link", "copy"]
Mask = NDArray[np.bool_]
Progress = Callable[[int, int], None]
T = TypeVar("T")
R = TypeVar("R")

FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file, copy on write
MEMORY_BYTES = 4 << 30  # what the chunks in flight may hold together
FLUSH_S = 10.0  # how much rewriting a kill may cost
BATCH = 64  # links per task: a link is cheaper than handing it to a thread


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did. Counts are over all levels; voxels are those of the mended level, labelled 1 to 3."""

    chunks_rewritten: int
    chunks_linked: int
    chunks_copied: int  # reflinked ones included
    voxels_changed: int
    bytes_read: int
    bytes_written: int
    levels: int


@dataclass
class _Level:
    """One level of the pyramid: what it is made from, and which of its chunks are touched."""

    source: Volume
    out: Volume
    step: ZYX  # voxels of the next finer level in one voxel
    ratio: ZYX  # voxels of the mended level in one voxel
    extent: ZYX  # voxels of the mended level that this level has footprints for
    finer: _Level | None
    touched: dict[ZYX, list[Box]] = field(default_factory=lambda: defaultdict(list))  # cell: label chunks over it
    done: dict[str, list[Any]] = field(default_factory=dict)  # cell: [inputs, size, mtime_ns] when it was written


def merge(
    source: Volume, out: str, *, clone: Clone = "auto", progress: Progress | None = None, threads: int = 4
) -> Merged:
    """Bring the merged volume in `out` up to date with its overlay, labels and source.

    clone: how untouched chunks come over: "link" hard-links, "copy" copies, "auto" takes the first that works of link,
    reflink, copy. progress: called with (touched chunks done, of). threads: reading and writing at once.
    Raises VolumeError (store of another source, levels that are not whole multiples, links that do not work) and
    MissingChunkError (labels that tell of restored voxels which the overlay lacks), both before any chunk is written.
    """
    adopt(out, source, mode="volume")
    levels = _levels(source, out)
    overlay, labels = open_overlay(out), open_labels(out)
    before = _moved(levels, overlay, labels)
    tally: Counter[str] = Counter(changed=0)
    with ThreadPoolExecutor(threads) as pool:
        marks = _find_touched(levels, overlay, labels, pool, tally)
        journal = _Journal(out, levels)
        journal.put()  # from here to the end the store says that it is not merged
        work = _Work(levels, overlay, labels, marks, journal, progress or (lambda done, of: None), tally)
        manifests = []
        for level in levels:
            work.rewrite(level, pool, threads)
            manifests.append(_clone_level(level, clone, pool, tally))
    if tally["copied"]:
        os.sync()  # copies are not synced one by one; the journal must not be ahead of them
    journal.manifest = manifests[0]
    journal.put()
    read, written = (a - b for a, b in zip(_moved(levels, overlay, labels), before, strict=True))
    moved = read + tally["bytes"], written + tally["bytes"]
    return Merged(tally["rewritten"], tally["linked"], tally["copied"], tally["changed"], *moved, len(levels))


def source_manifest(source: Volume) -> str:
    """sha256 over name, size and time of every chunk object of the source's level. Reads no data."""
    digest = hashlib.sha256()
    for _, stored in source.objects():
        digest.update(_line(stored))
    return digest.hexdigest()


def read_merge(out: str) -> dict[str, Any] | None:
    """What the last merge that ended noted (`source_manifest`, chunks touched), or None if none has."""
    raw = Files(out).read("zmend/merge.json")
    noted: dict[str, Any] = {} if raw is None else json.loads(raw)
    return noted if noted.get("source_manifest") else None


def _line(stored: Stored) -> bytes:
    return f"{stored.key}\t{stored.size}\t{stored.mtime_ns}\t{stored.etag}\n".encode()


def _moved(levels: Sequence[_Level], *others: Volume) -> tuple[int, int]:
    volumes = [v for level in levels for v in (level.source, level.out)] + list(others)
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


def any_under(mask: Mask, box: Box, ratio: ZYX) -> Mask:
    """Which coarse voxels hold a True voxel: `mask` (z, y, x) lies at `box`; the result at the coarse box over it."""
    coarse = _coarser(box, ratio)
    for axis, (a, r) in enumerate(zip(box.start, ratio, strict=True)):
        cuts = [max(0, i * r - a) for i in range(coarse.start[axis], coarse.stop[axis])]
        mask = np.logical_or.reduceat(mask, cuts, axis)
    return mask


def mean_under(fine: Voxels, step: ZYX) -> Voxels:
    """Means over footprints of `step` voxels, cut at the far edge, halves rounded up. (z, y, x) in and out."""
    total, count = fine.astype(np.uint64), np.ones((1, 1, 1), np.uint64)
    for axis, s in enumerate(step):
        cuts = np.arange(0, fine.shape[axis], s)
        total = np.add.reduceat(total, cuts, axis)
        size = np.diff(np.append(cuts, fine.shape[axis])).astype(np.uint64)
        count = count * size.reshape([-1 if a == axis else 1 for a in range(3)])
    return ((2 * total + count) // (2 * count)).astype(fine.dtype)


# --- what is touched


def _changed(labels: Voxels) -> Mask:
    return np.asarray((labels >= 1) & (labels <= 3))


def _find_touched(
    levels: Sequence[_Level], overlay: Volume, labels: Volume, pool: ThreadPoolExecutor, tally: Counter[str]
) -> dict[Box, str]:
    """Note in every level which cells hold changed voxels, from the label chunks that exist. Returns their inputs."""

    def look(box: Box) -> tuple[Box, int, list[list[ZYX]], str]:
        mask = _changed(labels.read(box))
        if not mask.any():
            return box, 0, [], ""
        _check_overlay(overlay, box, mask)
        return box, int(mask.sum()), [list(_cells(v, box, mask)) for v in levels], _inputs(box, overlay, labels)

    chunks = (c & Box.of(labels.shape) for present in labels.present() for c in present.cells(labels.chunks))
    marks = {}
    for box, changed, cells, inputs in _spread(pool, look, chunks):
        tally["changed"] += changed
        marks[box] = inputs
        for level, touched in zip(levels, cells or [[]] * len(levels), strict=True):
            for cell in touched:
                level.touched[cell].append(box)
    return marks


def _inputs(box: Box, *volumes: Volume) -> str:
    return sha256([v.inputs(box) for v in volumes])[:16]


def _check_overlay(overlay: Volume, box: Box, mask: Mask) -> None:
    for hole in overlay.absent(box):
        if mask[hole.within(box)].any():
            raise MissingChunkError(
                f"labels tell of restored voxels in {hole}, but the overlay has no such chunk",
                where=overlay.uri,
                why="a chunk was deleted, or a run was killed between the two writes and not resumed",
                do="run zmend run again: it restores what has no record",
            )


def _cells(level: _Level, box: Box, mask: Mask) -> Iterator[ZYX]:
    for cell in _coarser(box, level.ratio).cells(level.out.grain):
        here = _footprint(cell, level.ratio, level.extent) & box
        if here.size and mask[here.within(box)].any():
            yield _zyx(a // g for a, g in zip(cell.start, level.out.grain, strict=True))


# --- rewriting


class _Journal:
    """zmend/merge.json: which touched chunks are written, from which inputs; so that a second merge skips them."""

    def __init__(self, out: str, levels: Sequence[_Level]) -> None:
        self.files, self.levels, self.manifest = Files(out), levels, ""
        self.flushed = monotonic()
        raw = self.files.read("zmend/merge.json")
        before = [] if raw is None else json.loads(raw)["touched"]
        for level, done in zip(levels, before, strict=False):
            level.done = {k: v for k, v in done.items() if _cell(k) in level.touched}

    def flush(self) -> None:
        if monotonic() - self.flushed > FLUSH_S:
            self.put()

    def put(self) -> None:
        """Write it; without a manifest it says that a merge is under way."""
        touched = [dict(sorted(v.done.items())) for v in self.levels]
        noted = {"schema": "zmend-merge/1", "source_manifest": self.manifest, "touched": touched}
        self.files.put("zmend/merge.json", json.dumps(noted).encode())
        self.flushed = monotonic()


def _name(cell: ZYX) -> str:
    return ".".join(map(str, cell))


def _cell(name: str) -> ZYX:
    return _zyx(map(int, name.split(".")))


@dataclass
class _Work:
    """The rewriting of touched chunks."""

    levels: Sequence[_Level]
    overlay: Volume
    labels: Volume
    marks: dict[Box, str]
    journal: _Journal
    progress: Progress
    tally: Counter[str]
    told: int = 0

    def rewrite(self, level: _Level, pool: ThreadPoolExecutor, threads: int) -> None:
        """Write every touched chunk of a level that is not up to date."""
        itemsize, grain = level.out.dtype.itemsize, level.out.grain
        window = max(1, min(threads, MEMORY_BYTES // (4 * itemsize * grain[0] * grain[1] * grain[2])))
        for group in _spread(pool, lambda cells: self._group(level, cells), self._groups(level), window):
            for cell, noted in group:
                self.tally["rewritten"] += level.done.get(_name(cell)) != noted
                level.done[_name(cell)] = noted
            self.told += len(group)
            self.progress(self.told, sum(len(v.touched) for v in self.levels))
            self.journal.flush()

    def _groups(self, level: _Level) -> Iterable[list[ZYX]]:
        """Touched cells that share overlay chunks: each chunk of the overlay is then read once, not once a cell."""
        groups: dict[ZYX, list[ZYX]] = defaultdict(list)
        for cell in sorted(level.touched):
            start = level.out.box(cell).start
            lateral = (a * r // c for a, r, c in zip(start[1:], level.ratio[1:], self.labels.chunks[1:], strict=True))
            groups[_zyx((cell[0], *lateral))].append(cell)
        return groups.values()

    def _group(self, level: _Level, cells: list[ZYX]) -> list[tuple[ZYX, list[Any]]]:
        seen: dict[Box, tuple[Mask, Voxels]] = {}
        return [(cell, self._one(level, cell, seen)) for cell in cells]

    def _one(self, level: _Level, cell: ZYX, seen: dict[Box, tuple[Mask, Voxels]]) -> list[Any]:
        box, boxes = level.out.box(cell), level.touched[cell]
        inputs = self._inputs(level, box, boxes)
        noted = level.done.get(_name(cell))
        if noted is None or noted != _now(level.out, cell, inputs):
            made = self._base(level, box, boxes, seen) if level.finer is None else self._coarse(level, box, boxes)
            level.out.write(box, made)
        return _now(level.out, cell, inputs)

    def _inputs(self, level: _Level, box: Box, boxes: list[Box]) -> str:
        below = []
        if level.finer is not None:
            below = [level.finer.out.inputs(_footprint(box, level.step, level.finer.out.shape))]
        return sha256([level.source.inputs(box), below, sorted((str(b), self.marks[b]) for b in boxes)])[:16]

    def _base(self, level: _Level, box: Box, boxes: list[Box], seen: dict[Box, tuple[Mask, Voxels]]) -> Voxels:
        made = level.source.read(box)
        for chunk in boxes:
            if chunk not in seen:
                seen[chunk] = _changed(self.labels.read(chunk)), self.overlay.read(chunk)
            mask, restored = (a[(chunk & box).within(chunk)] for a in seen[chunk])
            made[(chunk & box).within(box)][mask] = restored[mask]
        return made

    def _coarse(self, level: _Level, box: Box, boxes: list[Box]) -> Voxels:
        assert level.finer is not None
        made, mask = level.source.read(box), np.zeros(box.shape, np.bool_)
        under = _footprint(box, level.ratio, level.extent)
        for part in (chunk & under for chunk in boxes):
            here = _coarser(part, level.ratio).within(box)
            mask[here] |= any_under(_changed(self.labels.read(part)), part, level.ratio)
        spans = [np.flatnonzero(mask.any(tuple(b for b in range(3) if b != a))) for a in range(3)]
        low = _zyx(o + int(s[0]) for o, s in zip(box.start, spans, strict=True))
        part = Box(low, _zyx(o + int(s[-1]) + 1 for o, s in zip(box.start, spans, strict=True)))
        mean = mean_under(level.finer.out.read(_footprint(part, level.step, level.finer.out.shape)), level.step)
        inner = part.within(box)
        made[inner][mask[inner]] = mean[mask[inner]]
        return made


def _now(volume: Volume, cell: ZYX, inputs: str) -> list[Any]:
    stored = volume.files.stat(volume.key(cell))
    return [inputs, *((stored.size, stored.mtime_ns) if stored else (0, 0))]


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


def _clone_level(level: _Level, clone: Clone, pool: ThreadPoolExecutor, tally: Counter[str]) -> str:
    """Link or copy every chunk that is not touched, remove what the source lacks; returns the source's manifest."""
    digest, kept = hashlib.sha256(), 0

    def untouched() -> Iterator[Stored]:
        nonlocal kept
        for cell, stored in level.source.objects():
            digest.update(_line(stored))
            if cell not in level.touched:
                kept += 1
                yield stored

    rest = untouched()
    batches = iter(lambda: list(islice(rest, BATCH)), [])
    for counts in _spread(pool, lambda batch: _clone_batch(level, batch, clone), batches):
        tally.update(counts)
    _sweep(level, kept)
    return digest.hexdigest()


def _clone_batch(level: _Level, batch: list[Stored], clone: Clone) -> Counter[str]:
    counts: Counter[str] = Counter()
    for stored in batch:
        there = level.out.files.stat(stored.key)
        # A link shares size and time with its source, a copy is given the source's time.
        if there is None or not stored.mtime_ns or there[1:] != (stored.size, stored.mtime_ns, ""):
            how = _bring(level.source.files, Path(level.out.files.uri) / stored.key, stored, clone)
            counts[how] += 1
            counts["bytes"] += stored.size if how == "copied" else 0
    return counts


def _bring(source: Files, target: Path, stored: Stored, clone: Clone) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.partial")
    try:
        how = _into(source, temporary, stored, clone)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)  # a rename onto a link of the same file leaves both names
    return how


def _into(source: Files, target: Path, stored: Stored, clone: Clone) -> str:
    origin = None if source.local is None else (source.local / stored.key).resolve()  # a link to a symlink would dangle
    if origin is not None and clone != "copy" and _linked(origin, target, clone):
        return "linked"
    if origin is None:
        target.write_bytes(source.read(stored.key) or b"")
    elif clone != "auto" or not _reflinked(origin, target):
        shutil.copyfile(origin, target)
    if stored.mtime_ns:
        os.utime(target, ns=(stored.mtime_ns, stored.mtime_ns))
    return "copied"


def _linked(origin: Path, target: Path, clone: Clone) -> bool:
    try:
        target.hardlink_to(origin)
        return True
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES, errno.ENOSYS):
            raise
        if clone == "auto":
            return False
        raise VolumeError(
            "chunks cannot be hard-linked",
            where=f"{origin} to {target}",
            why=str(error),
            do="put the output on the source's file system, or say clone: auto or copy",
        ) from error


def _reflinked(origin: Path, target: Path) -> bool:
    with suppress(OSError), origin.open("rb") as theirs, target.open("wb") as ours:
        fcntl.ioctl(ours, FICLONE, theirs.fileno())
        return True
    return False


def _sweep(level: _Level, kept: int) -> None:
    """Remove what killed writers left, and chunks that neither the source has nor the overlay touches."""
    mine = 0
    for stored in level.out.files.walk():
        if stored.key.endswith(".partial"):
            level.out.files.delete(stored.key)
        cell = level.out.cell(stored.key)
        mine += cell is not None and cell not in level.touched
    if mine != kept:
        for cell, stored in level.out.objects():
            if cell not in level.touched and level.source.files.stat(level.source.key(cell)) is None:
                level.out.files.delete(stored.key)
