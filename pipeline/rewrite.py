"""Rewrite: the chunks of a merge that differ from the source's, found by their labels and each written once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np

from pipeline.blend import synthetic
from pipeline.box import ZYX, Box
from pipeline.errors import MissingChunkError
from pipeline.failpoint import reach
from pipeline.journal import Fence, Journal, as_it_lies, name_of
from pipeline.lanes import Budget, memory_here
from pipeline.memory import MERGED, of_cell
from pipeline.pyramid import NOTHING, RANKS, Level, Mask, averaged, coarser, footprint, labels_of, rank_under, zyx
from pipeline.target import Target, cells_of
from pipeline.threads import as_done
from pipeline.volume import Volume, Voxels, sha256

Progress = Callable[[int, int], None]
SHARE = 4  # of the memory here its chunks in flight may take one in so many
FLUSH_S = 10.0  # how much rewriting a kill may cost


@dataclass
class Work:
    """Finding and rewriting the touched chunks."""

    overlay: Volume
    labels: Volume
    targets: Sequence[Target]
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
        for box, changed, cells, mark in as_done(pool, self._look, chunks):
            self.tally["changed"] += changed
            self.marks[box] = mark
            for target, touched in zip(self.targets, cells, strict=True):
                for cell in touched:
                    target.touched[cell].append(box)

    def _look(self, box: Box) -> tuple[Box, int, list[list[ZYX]], str]:
        labels = self.labels.read(box)
        mask = synthetic(labels)
        _check_overlay(self.overlay, box, mask)
        cells = [list(cells_of(t, box, t.touches(labels))) for t in self.targets]
        return box, int(mask.sum()), cells, sha256([v.inputs(box) for v in (self.overlay, self.labels)])[:16]

    def rewrite(self, target: Target, pool: ThreadPoolExecutor, threads: int, journal: Journal) -> None:
        """Write every touched chunk of a target that is not up to date."""
        of = sum(len(t.touched) for t in self.targets)
        for group in as_done(pool, lambda cells: self._group(target, cells), self._groups(target), threads):
            for cell, noted in group:
                if target.done.get(name_of(cell)) != noted:
                    self.tally["rewritten"] += target.is_image
                    target.laid.append(target.out.box(cell))
                target.done[name_of(cell)] = noted
            self.told += len(group)
            self.progress(self.told, of)
            if monotonic() - journal.written > FLUSH_S:
                journal.put()

    def _groups(self, target: Target) -> Iterable[list[ZYX]]:
        """Touched cells that share overlay chunks: each chunk of the overlay is then read once, not once a cell."""
        groups: dict[ZYX, list[ZYX]] = defaultdict(list)
        ratio, chunks = target.level.ratio, self.labels.chunks
        for cell in sorted(target.touched):
            start = target.out.box(cell).start
            lateral = (a * r // c for a, r, c in zip(start[1:], ratio[1:], chunks[1:], strict=True))
            groups[zyx((cell[0], *lateral))].append(cell)
        return groups.values()

    def _group(self, target: Target, cells: list[ZYX]) -> list[tuple[ZYX, list[Any]]]:
        seen: dict[Box, tuple[Mask, Voxels]] = {}
        with self.room.hold(self._bytes(target, cells)):
            return [(cell, self._one(target, cell, seen)) for cell in cells]

    def _bytes(self, target: Target, cells: list[ZYX]) -> int:
        """What a group takes at most, however little of it is to be written."""
        out, finer = target.out, target.level.finer
        if finer is not None:
            return of_cell(out.grain, out.dtype.itemsize, finer=finer.out.grain)
        sections = len({chunk.start[0] for cell in cells for chunk in target.touched[cell]})
        return of_cell(out.grain, out.dtype.itemsize, label=self.labels.chunks, sections=sections)

    def _one(self, target: Target, cell: ZYX, seen: dict[Box, tuple[Mask, Voxels]]) -> list[Any]:
        box, chunks = target.out.box(cell), target.touched[cell]
        inputs = self._inputs(target, box, chunks)
        reach("pyramid" if target.level.finer else "merge", f"{target.name} {box}")
        if target.done.get(name_of(cell)) != as_it_lies(target.out, cell, inputs):
            self.fence()
            if target.level.finer is not None or self._graft(target, box, chunks, seen) is None:
                target.out.lay(box, self._made(target, box, chunks, seen))
        return as_it_lies(target.out, cell, inputs)

    def _inputs(self, target: Target, box: Box, chunks: list[Box]) -> str:
        """What a chunk is made from, short."""
        level, beside = target.level, []
        if target.is_image:
            beside = [level.source.inputs(box)]
            finer = level.finer
            beside += [finer.out.inputs(footprint(box, level.step, finer.out.shape))] if finer is not None else []
        return sha256([beside, sorted((str(c), self.marks[c]) for c in chunks)])[:16]

    def _made(self, target: Target, box: Box, chunks: list[Box], seen: dict[Box, tuple[Mask, Voxels]]) -> Voxels:
        """What a chunk must hold: (z, y, x) voxels or labels of `box`."""
        level = target.level
        if level.finer is None:
            return self._base(level, box, chunks, seen)
        ranks = self._ranks(level, box, chunks)
        return averaged(level, box, ranks < RANKS) if target.is_image else labels_of(ranks)

    def _graft(
        self, target: Target, box: Box, chunks: list[Box], seen: dict[Box, tuple[Mask, Voxels]]
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

    def _base(self, level: Level, box: Box, chunks: list[Box], seen: dict[Box, tuple[Mask, Voxels]]) -> Voxels:
        made = level.source.read(box)
        for chunk in chunks:
            mask, restored = (a[(chunk & box).within(chunk)] for a in self._seen(chunk, seen))
            made[(chunk & box).within(box)][mask] = restored[mask]
        return made

    def _ranks(self, level: Level, box: Box, chunks: list[Box]) -> Voxels:
        ranks = np.full(box.shape, NOTHING, np.uint8)
        under = footprint(box, level.ratio, level.extent)
        for part in (chunk & under for chunk in chunks):
            here = ranks[coarser(part, level.ratio).within(box)]
            np.minimum(here, rank_under(self.labels.read(part), part, level.ratio), out=here)
        return ranks


def _check_overlay(overlay: Volume, box: Box, mask: Mask) -> None:
    for hole in overlay.absent(box) if mask.any() else ():
        if mask[hole.within(box)].any():
            raise MissingChunkError(
                f"labels tell of restored voxels in {hole}, but the overlay has no such chunk",
                where=overlay.uri,
                why="a chunk was deleted, or a run was killed between the two writes and not resumed",
                do="run zmend run again: it restores what has no record",
            )
