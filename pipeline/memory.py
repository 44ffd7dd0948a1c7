"""Memory: what one process of a run holds at most, besides Python and its libraries. Arithmetic.

    restoring   the restorer │ up to three slabs in hand │ what slabs leave each other (shelf) │ chunks being decoded
    merging     chunks being made, as many at once as fit │ chunks being decoded
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from pipeline.box import ZYX, Box
from pipeline.cost import MERGING
from pipeline.lanes import LANES
from pipeline.restorer import Needs

DECODING = 256 << 20  # bytes of pieces of the source that are decoded at the same time; a larger one goes alone
TOGETHER = 32  # pieces that are decoded at the same time at most
READING = 64 << 20  # bytes that a slab reads in one go, beside what it holds anyway; of a larger chunk all at once
SHELF = 512 << 20  # of what slabs leave each other: eight of 4096 px, on chunks of 1024 px, leave that to the next row
MERGED = 1 << 30  # of a merge's chunks in flight; a larger one goes alone


def of_slab(read: Box, write: Box, chunk: ZYX, itemsize: int, draws: int = 0) -> int:
    """What one slab takes, beside the restorer: what it sees (voxels, flags, absent chunks) and what it decides; while
    it reads, what is read in one go. chunk: (z, y, x) of the source, which is decoded whole."""
    seen, decided = read.size * (itemsize + 2), write.size * (itemsize + 2 + bool(draws))
    under = read.aligned(chunk).size * itemsize
    return max(seen + decided, read.size * itemsize + min(under, max(READING, prod(chunk) * itemsize)))


def of_restorer(needs: Needs) -> int:
    """What a restorer takes, once in a process: its own, and a batch of the deepest windows (8 float32 each)."""
    window = (needs.max_gap + 2 * needs.context) * (needs.tile + 2 * needs.halo) ** 2
    return needs.batch * window * 4 * 8 + needs.memory_bytes


def of_decoding(piece: int) -> int:
    """What decoding takes, whatever slab asks for it. piece: `Volume.piece_bytes`."""
    return max(piece, min(DECODING, TOGETHER * piece))


def of_shelf(limit: int) -> int:
    """For what slabs leave each other, of all that a process may take; little where that is not known."""
    return min(SHELF, limit // 8) if limit else SHELF // 4


def at_most(slab: int, slabs: int, shared: int, needs: Needs, piece: int) -> int:
    """What restoring takes where nothing holds it back. slab: the largest of so many; shared: bytes that they may leave
    each other."""
    return of_restorer(needs) + min(LANES, slabs) * slab + min(SHELF, shared) + of_decoding(piece)


def at_least(slab: int, needs: Needs, piece: int) -> int:
    """What a process must have for one slab after the other."""
    return of_restorer(needs) + slab + piece


def for_slabs(limit: int, needs: Needs, piece: int) -> int:
    """For the slabs in hand, of all that a process may take; 0, not bounded, where that is not known.

    A fifth is left to Python and its libraries.
    """
    return max(1, limit * 4 // 5 - of_restorer(needs) - of_shelf(limit) - of_decoding(piece)) if limit else 0


def within(limit: int, sums: Mapping[str, int], needs: Needs, piece: int) -> int:
    """What restoring takes of a process that may take so much (0: not known). sums: of a plan's totals."""
    most, least = sums["peak_memory_bytes"], sums["least_memory_bytes"]
    if not limit or not most:
        return most
    beside = of_restorer(needs) + of_shelf(limit) + of_decoding(piece)
    return min(most, max(least + of_shelf(limit), beside + for_slabs(limit, needs, piece)))


def of_cell(cell: ZYX, itemsize: int, *, finer: ZYX | None = None, label: ZYX = (1, 1, 1), sections: int = 0) -> int:
    """What a merge takes to make a cell: made, encoded, read back and decoded, and a byte to tell what is synthetic.

    finer: of a coarser level the cell of the level above it, read and averaged, section by section; else restored
    sections, so many at most under chunks of labels and overlay of such a size, are held with where they are.
    """
    own = prod(cell) * (4 * itemsize + 1)
    if finer is not None:
        return own + prod(finer) * (itemsize + 1) + prod(finer[1:]) * 16
    y, x = (-(-a // b) * b for a, b in zip(cell[1:], label[1:], strict=True))
    return own + sections * y * x * (itemsize + 1)


def of_merge(cells: Sequence[tuple[int, int]]) -> int:
    """What a merge takes. cells: of each array what its largest takes (`of_cell`), and how many there are."""
    return max((max(one, min(MERGED, one * min(MERGING, count))) for one, count in cells), default=0)
