"""Pyramid: how the coarser levels of an image follow from the one that is mended. Voxels are means, labels the most
telling ones; levels change only where a voxel's footprint holds a changed voxel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from pipeline.blend import LEFT, ORIGINAL, RESTORED, UNCERTAIN
from pipeline.box import ZYX, Box
from pipeline.errors import VolumeError
from pipeline.store import open_labels
from pipeline.volume import Volume, Voxels

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Level:
    """One level of the pyramid: what it is, and what it is made from."""

    source: Volume
    out: Volume
    step: ZYX  # voxels of the next finer level in one voxel
    ratio: ZYX  # voxels of the mended level in one voxel
    extent: ZYX  # voxels of the mended level that this level has footprints for
    finer: Level | None


def open_levels(source: Volume, out: str) -> list[Level]:
    """Of the source and of the store, the mended one first. Raises VolumeError as `step_between`."""
    levels: list[Level] = []
    for i, theirs in enumerate(source.pyramid()):
        step = (1, 1, 1) if not levels else step_between(levels[-1].source, theirs)
        ratio = step if not levels else _times(levels[-1].ratio, step)
        covered = _times(theirs.shape, ratio)
        extent = covered if not levels else zyx(min(a, b) for a, b in zip(levels[-1].extent, covered, strict=True))
        ours = Volume.open(out, level=i, writable=True)
        levels.append(Level(theirs, ours, step, ratio, extent, levels[-1] if levels else None))
    return levels


def step_between(fine: Volume, coarse: Volume) -> ZYX:
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
    return zyx(found)


def _times(a: ZYX, b: ZYX) -> ZYX:
    return zyx(p * q for p, q in zip(a, b, strict=True))


def zyx(values: Iterable[int]) -> ZYX:
    """Three of them, as a tuple."""
    z, y, x = values
    return z, y, x


def coarser(box: Box, ratio: ZYX) -> Box:
    """The coarse voxels whose footprints touch a box."""
    start = zyx(a // r for a, r in zip(box.start, ratio, strict=True))
    return Box(start, zyx(-(-b // r) for b, r in zip(box.stop, ratio, strict=True)))


def footprint(box: Box, ratio: ZYX, extent: ZYX) -> Box:
    """The fine voxels under a box of coarse ones, of a volume of that extent."""
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
    coarse, ranks = coarser(box, ratio), _RANK[labels]
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


def averaged(level: Level, box: Box, mask: Mask) -> Voxels:
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


def _under(level: Level) -> ZYX:
    """The voxels of a level under which lies one cell of the finer one; all, where steps go across its cells."""
    assert level.finer is not None
    cell, step = level.finer.out.grain, level.step
    fits = not any(c % s for c, s in zip(cell, step, strict=True))
    return zyx(c // s for c, s in zip(cell, step, strict=True)) if fits else level.out.shape


def _average(level: Level, box: Box, made: Voxels, mask: Mask) -> None:
    """Put means over the finer level where `mask`, both (z, y, x) of a box, section by section."""
    assert level.finer is not None
    spans = [np.flatnonzero(mask.any(tuple(b for b in range(3) if b != a))) for a in range(3)]
    low = zyx(o + int(s[0]) for o, s in zip(box.start, spans, strict=True))
    part = Box(low, zyx(o + int(s[-1]) + 1 for o, s in zip(box.start, spans, strict=True)))
    under, inner, deep = footprint(part, level.step, level.finer.out.shape), part.within(box), level.step[0]
    fine = level.finer.out.read(under)
    for z, (section, wanted) in enumerate(zip(made[inner], mask[inner], strict=True)):
        if wanted.any():
            section[wanted] = mean_under(fine[z * deep : (z + 1) * deep], level.step)[0][wanted]


def audit(source: Volume, out: str, level: int, box: Box) -> tuple[int, int]:
    """How many voxels, and how many labels, of `box` of a coarser level are not what they must be.

    A label must be the most telling one under it; a voxel the mean of the finer merged level where that label says
    that something under it is synthetic, else the source's. Computed anew from the mended level's labels.
    """
    this = open_levels(source, out)[level]
    under = footprint(box, this.ratio, this.extent)
    ranks = np.full(box.shape, NOTHING, np.uint8)
    if under.size:
        ranks[coarser(under, this.ratio).within(box)] = rank_under(open_labels(out).read(under), under, this.ratio)
    made = ranks < RANKS
    voxels = averaged(this, box, made) if made.any() else this.source.read(box)
    wrong = this.out.read(box) != voxels, open_labels(out, level).read(box) != labels_of(ranks)
    return int(wrong[0].sum()), int(wrong[1].sum())
