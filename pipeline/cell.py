"""Cell: one tile of a scan over a run of sections, looked at from end to end.

It is read with the sections around that its findings depend on, a few at a time, each once, and made smaller at once:
memory grows neither with the volume nor with the cell. Its masks are whole chunks of its own.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import cv2
import numpy as np

from pipeline.box import ZYX, Box
from pipeline.detect import judge, margin
from pipeline.lanes import go_on
from pipeline.look import Look, read, scan_shape
from pipeline.maskfile import TILE, bits, write_masks
from pipeline.plan import Slab, runs
from pipeline.threads import mapped
from pipeline.view import Finding, Moves, Section, View
from pipeline.volume import Volume

DEEP = 512  # sections of a cell: those around it are read twice
BLOCK = 48  # of them are judged at once, and lie in memory with those around


def cells(shape: ZYX, stale: Sequence[int], today: Sequence[str], least: int) -> Iterator[Slab]:
    """Tiles of the scan over runs of stale sections, as slabs: their write boxes are in pixels of the scan.

    An id is of the place and of what the sections look like today, so that an answer of an earlier day is not taken.
    What is left at an edge, where it is narrower than `least`, belongs to the tile beside it.
    """
    spans = ((a, min(a + DEEP, z1)) for z0, z1 in runs(stale) for a in range(z0, z1, DEEP))
    ys, xs = (_tiles(n, least) for n in shape[1:])
    for (z0, z1), (y0, y1), (x0, x1) in product(spans, ys, xs):
        write = Box((z0, y0, x0), (z1, y1, x1))
        name = f"{write} {' '.join(today[z0:z1])}"
        yield Slab(hashlib.sha256(name.encode()).hexdigest()[:32], write, write)


def _tiles(length: int, least: int) -> list[tuple[int, int]]:
    """Where an axis is cut: at whole chunks of the masks, or at its end."""
    starts = [a for a in range(0, length, TILE) if a == 0 or length - a >= least]
    return list(zip(starts, [*starts[1:], length], strict=True))


@dataclass(frozen=True)
class Task:
    """Looks at one cell; travels to workers."""

    look: Look

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        cv2.setNumThreads(1)  # the site says how many work at once
        cell = Slab.of(row)
        source, box = self.look.open(), cell.write
        answer: dict[str, Any] = {"slab": cell.id, "findings": [], "jumps": [], "bytes_read": 0}
        masks = Volume.open(self.look.masks, writable=True)
        for core, view in _views(source, self.look, box):
            go_on()  # a cell may take a minute: who stops at once does not wait for it
            first = view.first
            found, jumps = judge(view, range(core.start - first, core.stop - first), mapped(self.look.threads))
            here = [replace(f, z=f.z + first) for f in found]
            write_masks(masks, self.look, here, box.with_z(core.start, core.stop))
            answer["findings"] += [_row(f, bit, box) for f, bit in zip(here, bits(here), strict=True)]
            answer["jumps"] += [[j.z + first, *j.move] for j in jumps]
        answer["bytes_read"] = source.bytes_read
        return answer


def _views(source: Volume, look: Look, box: Box) -> Iterator[tuple[range, View]]:
    """Blocks of the sections of a box, each with a view of it and of what is around."""
    around = margin(look.thresholds)
    deep = box.grow(around, 0, 0) & Box.of(scan_shape(source.shape, look.factor))
    pieces = _measured(source, look, deep)
    sections, first, moves = deque[Section](), deep.start[0], Moves()
    for a in range(box.start[0], box.stop[0], BLOCK):
        core = range(a, min(a + BLOCK, box.stop[0]))
        while first < max(core.start - around, deep.start[0]):
            sections.popleft()
            first += 1
        while first + len(sections) < min(core.stop + around, deep.stop[0]):
            sections.append(next(pieces))
        moves = {pair: move for pair, move in moves.items() if pair[0] >= first}
        yield core, View(list(sections), look.thresholds, first, moves)


def _measured(source: Volume, look: Look, deep: Box) -> Iterator[Section]:
    """The sections of a box, read as deep as chunks are."""
    step = source.chunks[0]
    for z in range(deep.start[0] // step * step, deep.stop[0], step):
        piece = deep.with_z(max(z, deep.start[0]), min(z + step, deep.stop[0]))
        seen = zip(*read(source, look, piece), strict=True)
        yield from mapped(look.threads)(lambda one: Section.of(*one, look.thresholds), seen)


def _row(finding: Finding, bit: int, box: Box) -> dict[str, Any]:
    """A finding as it travels; the box (y0, y1, x0, x1) in pixels of the scan, of the mask where there is one."""
    y0, x0 = box.start[1:]
    part = [y0, box.stop[1], x0, box.stop[2]]
    if finding.mask is not None:
        ys, xs = np.flatnonzero(finding.mask.any(1)), np.flatnonzero(finding.mask.any(0))
        part = [y0 + ys[0], y0 + ys[-1] + 1, x0 + xs[0], x0 + xs[-1] + 1]
    return {
        "z": finding.z, "class": finding.kind, "score": round(finding.score, 2), "reason": finding.reason,
        "masked": finding.mask is not None, "bit": bit, "box": [int(v) for v in part],
    }  # fmt: skip
