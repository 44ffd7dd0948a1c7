"""Columns of a volume, and the boxes of intact sections in them: which ones training learns from. Pure.

A volume is cut evenly into columns; in each the runs of intact sections are cut into boxes. Which come first is a
function of the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.plan import runs

U8: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
Intact: TypeAlias = Callable[[Box], Mask]  # column -> (sections,): which of them may be learnt from

LEAST = 7  # sections: two clean ones, a gap of up to three, two clean ones, as training cuts its windows
DEPTH = 12  # sections of a box, if there are as many
SLOT = 96  # sections of a column; a run is not followed beyond it
EDGES = (512, 384, 256, 192, 128)  # px of a box: the first that leaves ENOUGH boxes, and twice the crop each
ENOUGH = 16
LOOKS = 4096  # columns that are looked at, at least, before the volume counts as having nothing more
KEPT = 8  # one box of so many is kept for validation
BLANK = (2, 0.5)  # a section is background where more than half of it lies within 2 of 255 greys of its median


@dataclass(frozen=True, slots=True)
class Columns:
    """A volume cut evenly into columns, with nothing left over."""

    spans: tuple[tuple[tuple[int, int], ...], ...]  # of z, y and x

    @staticmethod
    def of(shape: ZYX, crop: int) -> Columns:
        boxes = max(1, shape[0] // DEPTH)
        edges = [e for e in EDGES if e >= 2 * crop] or [2 * crop]
        parts = [[max(1, min(round(n / e), n // crop)) for n in shape[1:]] for e in edges]
        y, x = next(((y, x) for y, x in parts if boxes * y * x >= ENOUGH), parts[-1])
        return Columns((_cut(0, shape[0], max(1, shape[0] // SLOT)), _cut(0, shape[1], y), _cut(0, shape[2], x)))

    def __len__(self) -> int:
        z, y, x = map(len, self.spans)
        return z * y * x

    def __getitem__(self, number: int) -> Box:
        rest, x = divmod(number, len(self.spans[2]))
        z, y = divmod(rest, len(self.spans[1]))
        (z0, z1), (y0, y1), (x0, x1) = self.spans[0][z], self.spans[1][y], self.spans[2][x]
        return Box((z0, y0, x0), (z1, y1, x1))


def _cut(start: int, stop: int, parts: int) -> tuple[tuple[int, int], ...]:
    """A range in so many parts of equal length, give or take one."""
    ends = [start + (stop - start) * i // parts for i in range(parts + 1)]
    return tuple(pairwise(ends))


def boxes_of(column: Box, intact: Mask) -> list[Box]:
    """The runs of intact sections of a column, cut into boxes of LEAST sections or more, about DEPTH."""
    first = column.start[0]
    spans = ((a, b, min(-(-(b - a) // DEPTH), (b - a) // LEAST)) for a, b in runs(np.flatnonzero(intact).tolist()))
    return [column.with_z(first + c, first + d) for a, b, parts in spans if parts for c, d in _cut(a, b, parts)]


def choose(shape: ZYX, crop: int, seed: int, wanted: int, intact: Intact) -> Iterator[Box]:
    """Boxes to learn from, in the order to take them; the same for the same arguments, and no two share a voxel.

    Columns come in random order with a box each, then again with their second, and so on: so the first few boxes
    already come from all over the volume, and a small volume is used up.
    """
    columns, rng = Columns.of(shape, crop), np.random.default_rng([seed, 5])
    looks = min(len(columns), max(LOOKS, KEPT * wanted))
    waiting: list[list[Box]] = []
    for number in rng.choice(len(columns), looks, replace=False).tolist():
        column = columns[number]
        boxes = boxes_of(column, intact(column))
        if boxes:
            waiting.append([boxes[i] for i in rng.permutation(len(boxes))])
            yield waiting[-1].pop()
    while waiting := [w for w in waiting if w]:
        yield from (w.pop() for w in waiting)


def textured(grey: U8) -> tuple[int, int]:
    """The longest run of sections of a box (z, y, x) that are not mostly one grey; (0, 0) where there is none."""
    off = [np.abs(section - np.median(section)) for section in grey.astype(np.float32)]
    good = [i for i, section in enumerate(off) if (section <= BLANK[0]).mean() <= BLANK[1]]
    return max(runs(good), key=lambda r: r[1] - r[0], default=(0, 0))


def kept(count: int) -> int:
    """How many of so many boxes, the last ones along z, are kept for validation."""
    return count // KEPT or int(count >= KEPT // 2)
