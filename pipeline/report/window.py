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
DEEP = 6  # sections that a cut shows on both sides of a defect


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
    intact: bool  # nothing in the window is labelled


@dataclass(frozen=True)
class View:
    """What is shown of one defect: sections of a window, and a cut along z. All are of the volume's type."""

    box: Box  # of the section shown
    before: tuple[Section | None, Section | None]  # next to the defect, and one further; None: there is none
    after: tuple[Section | None, Section | None]
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

    def mended(self, box: Box) -> tuple[Voxels, U8]:
        """Voxels as the merged volume has them, and labels: so an overlay that nobody merged is shown too."""
        labels = self.labels.read(box)
        return np.where(synthetic(labels), self.overlay.read(box), self.source.read(box)), labels

    def view(self, flag: Flag, chunks: Sequence[Box], edge: int) -> View:
        """What is shown of a flag, in windows of about `edge` px. chunks: see `densest`."""
        z, y, x = densest(flag, chunks, self.labels)
        box = lateral(flag.box.with_z(z, z + 1), (y, x), self.source.shape, edge)
        z0, z1 = flag.box.start[0], flag.box.stop[0]
        (restored, labels), before, after = self.mended(box), (z0 - 1, z0 - 2), (z1, z1 + 1)
        row = _fullest(labels[0], y - box.start[1])
        first, last = max(0, z0 - DEEP, z - 2 * DEEP), min(self.source.shape[0], z1 + DEEP, z + 2 * DEEP)
        cut = Box((first, box.start[1] + row, box.start[2]), (last, box.start[1] + row + 1, box.stop[2]))
        cut_restored, cut_labels = self.mended(cut)
        return View(
            box,
            (self._section(box, before[0]), self._section(box, before[1])),
            (self._section(box, after[0]), self._section(box, after[1])),
            self.source.read(box)[0], restored[0], labels[0],
            None if self.uncertainty is None else self.uncertainty.read(box)[0],
            cut, self.source.read(cut)[:, 0], cut_restored[:, 0], cut_labels[:, 0],
        )  # fmt: skip

    def _section(self, box: Box, z: int) -> Section | None:
        """The window in another section of the source; None beyond the volume, and where the store lacks it."""
        if not 0 <= z < self.source.shape[0]:
            return None
        there = box.with_z(z, z + 1)
        gone = sum((hole & there).size for hole in self.source.absent(there))
        if gone == there.size:
            return None
        return Section(z, self.source.read(there)[0], not gone and not self.labels.read(there).any())


def _fullest(labels: U8, otherwise: int) -> int:
    """The row with the most labelled voxels; near the middle of several alike."""
    counts = (labels > 0).sum(axis=1)
    if not counts.any():
        return int(np.clip(otherwise, 0, len(labels) - 1))
    best = np.flatnonzero(counts == counts.max())
    return int(best[len(best) // 2])
