"""Window: the few voxels of a defect that are shown, however large it is, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.blend import synthetic
from pipeline.box import ZYX, Box
from pipeline.flags import Flag
from pipeline.volume import Volume

U8: TypeAlias = NDArray[np.uint8]
Voxels: TypeAlias = NDArray[Any]
MARGIN = 32  # px of intact tissue around a small defect
WIDEST = 2  # a defect wider than a picture is shown this much smaller at most; then a part of it is shown
LOOKS = 16  # chunks of a defect that are looked at for the one that shows most of it
REACH = 8  # sections on both sides of the one that is shown, in which intact ones are looked for
DEEP = 6  # sections that a cut shows on both sides


def lateral(box: Box, centre: tuple[int, int], shape: ZYX, edge: int) -> Box:
    """A window around a defect's box, or a part of it around `centre` (y, x): at most WIDEST × edge px each way.

    At least `edge` px wide where the volume is; the sections of `box`.
    """
    spans = []
    for axis in (1, 2):
        start, stop, n = box.start[axis], box.stop[axis], shape[axis]
        wide = min(n, max(edge, min(stop - start + 2 * MARGIN, WIDEST * edge)))
        middle = (start + stop) // 2 if stop - start + 2 * MARGIN <= wide else centre[axis - 1]
        low = min(max(0, middle - wide // 2), n - wide)
        spans.append((low, low + wide))
    (y0, y1), (x0, x1) = spans
    return Box((box.start[0], y0, x0), (box.stop[0], y1, x1))


def densest(flag: Flag, chunks: Sequence[Box], labels: Volume) -> ZYX:
    """A voxel (z, y, x) in the thick of a flag's labelled voxels; the middle of its box where that is not known.

    chunks: of the labels, that records say were written. Few are looked at: a box may be a whole section of a petabyte.
    """
    z, y, x = ((a + b) // 2 for a, b in zip(flag.box.start, flag.box.stop, strict=True))
    best, most = (z, y, x), 0
    if flag.whole and not flag.mask:
        return best
    parts = [part for chunk in chunks if (part := chunk & flag.box).size]
    for part in parts[:: -(-len(parts) // LOOKS) or 1]:
        seen = labels.read(part) > 0
        if (count := int(seen.sum())) > most:
            most, best = count, _middle(seen, part)
    return best


def _middle(seen: NDArray[np.bool_], box: Box) -> ZYX:
    z, y, x = (int(np.median(i)) + s for i, s in zip(np.nonzero(seen), box.start, strict=True))
    return z, y, x


@dataclass(frozen=True)
class Section:
    """The window in a section near a defect."""

    z: int
    image: Voxels  # (Y, X)
    intact: bool  # nothing in the window is labelled or absent, and the flag does not speak of it


Pair = tuple[Section | None, Section | None]  # the section next to a defect, and the one further; None: there is none


@dataclass(frozen=True)
class View:
    """What is shown of one defect: sections of a window, and a cut along z. All are of the volume's type."""

    box: Box  # of the section shown
    before: Pair
    after: Pair
    damaged: Voxels  # (Y, X)
    restored: Voxels
    labels: U8
    counts: U8 | None  # spread, as stored; None where no ensemble was drawn
    cut: Box  # one row of several sections
    cut_damaged: Voxels  # (Z, X) of it, in the source
    cut_restored: Voxels
    cut_labels: U8


@dataclass(frozen=True)
class Store:
    """The arrays of a store that a page reads."""

    source: Volume
    overlay: Volume
    labels: Volume
    uncertainty: Volume | None

    def view(self, flag: Flag, chunks: Sequence[Box], edge: int) -> View:
        """What is shown of a flag, in windows of about `edge` px. chunks: see `densest`."""
        z, y, x = densest(flag, chunks, self.labels)
        box = lateral(flag.box.with_z(z, z + 1), (y, x), self.source.shape, edge)
        block = Block.of(self, box.with_z(max(0, z - REACH), min(self.source.shape[0], z + REACH + 1)), flag)
        first, last = max(block.z, z - DEEP), min(block.z + len(block.labels), z + DEEP + 1)
        at, row = z - block.z, _fullest(block.labels[z - block.z], y - box.start[1])
        line = slice(first - block.z, last - block.z), row
        return View(
            box, block.beside(z, -1), block.beside(z, 1), block.source[at], block.mended[at], block.labels[at],
            None if self.uncertainty is None else self.uncertainty.read(box)[0],
            Box((first, box.start[1] + row, box.start[2]), (last, box.start[1] + row + 1, box.stop[2])),
            block.source[line], block.mended[line], block.labels[line],
        )  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A window in all sections around a defect, read at once: chunks are deep. All (Z, Y, X)."""

    z: int  # of the first section
    source: Voxels
    mended: Voxels  # as the merged volume has them: so an overlay that nobody merged is shown too
    labels: U8
    there: list[bool]  # whether the source holds the section, or a part of it
    intact: list[bool]

    @staticmethod
    def of(store: Store, box: Box, flag: Flag) -> Block:
        """Read it."""
        source, labels = store.source.read(box), store.labels.read(box)
        mended = np.where(synthetic(labels), store.overlay.read(box), source)
        gone = np.zeros(box.shape[0], np.int64)
        for hole in store.source.absent(box):
            z, y, x = (hole & box).within(box)
            gone[z] += (y.stop - y.start) * (x.stop - x.start)
        meant = [flag.box.start[0] <= z < flag.box.stop[0] for z in range(box.start[0], box.stop[0])]
        intact = ~labels.any(axis=(1, 2)) & (gone == 0) & ~np.array(meant)
        return Block(box.start[0], source, mended, labels, (gone < source[0].size).tolist(), intact.tolist())

    def beside(self, z: int, by: int) -> Pair:
        """The nearest intact section before (by -1) or after (1), and the one beyond; failing that, the nearest."""
        steps = range(z + by, self.z - 1 if by < 0 else self.z + len(self.intact), by)
        near = next((i for i in steps if self.intact[i - self.z]), z + by)
        return self._section(near), self._section(near + by)

    def _section(self, z: int) -> Section | None:
        at = z - self.z
        if not 0 <= at < len(self.there) or not self.there[at]:
            return None
        return Section(z, self.source[at], self.intact[at])


def _fullest(labels: U8, otherwise: int) -> int:
    """The row with the most labelled voxels; near the middle of several alike."""
    counts = (labels > 0).sum(axis=1)
    if not counts.any():
        return int(np.clip(otherwise, 0, len(labels) - 1))
    best = np.flatnonzero(counts == counts.max())
    return int(best[len(best) // 2])
