"""Lattice: the slabs of a run of sections that are flagged all over, as one thing. All lateral cells have the same
stretches of sections there, so that a million slabs are added up without looking at each, and named in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.flags import Flag
from pipeline.ids import WIDTH
from pipeline.restorer import Needs

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the cutting depends on."""

    shape: ZYX
    cell: ZYX  # (most sections of a slab, lateral edges of a slab)
    needs: Needs

    @property
    def reach(self) -> tuple[int, int, int]:
        """How far from a slab a flag can change what the slab does: the rest of a border tile, and the halo."""
        lateral = self.needs.tile + self.needs.halo
        return self.needs.max_gap - 1 + self.needs.context, lateral, lateral

    def read_box(self, write: Box, chain: tuple[int, int]) -> Box:
        """Whole tiles around the write box, the halo, and the context next to the chain of flagged sections."""
        tile, halo = self.needs.tile, self.needs.halo
        wide = write.aligned((1, tile, tile)).grow(0, halo, halo)
        return wide.with_z(*self.read_z(write.start[0], write.stop[0], chain)) & Box.of(self.shape)

    def own_box(self, write: Box) -> Box:
        """Where (y, x) of what a slab reads no other slab of the same sections reads; z as written."""
        tile, halo, (_, far, right) = self.needs.tile, self.needs.halo, self.shape
        (z0, y0, x0), (z1, y1, x1) = write.start, write.stop
        top, left = (-(-a // tile) * tile + halo if a else 0 for a in (y0, x0))
        bottom, end = (b // tile * tile - halo if b < n else n for b, n in ((y1, far), (x1, right)))
        return Box((z0, top, left), (z1, bottom, end))

    def read_z(self, start: int, stop: int, chain: tuple[int, int]) -> tuple[int, int]:
        """The sections of the read box of a slab that writes [start, stop)."""
        deep = self.reach[0]  # a gap that runs further than this is not restorable, so need not be seen whole
        context = self.needs.context
        return max(0, chain[0] - context, start - deep), min(self.shape[0], chain[1] + context, stop + deep)


@dataclass(frozen=True, slots=True)
class Piece:
    """A slab before it has a name: where, and the flags that its read box touches."""

    write: Box
    read: Box
    flags: tuple[Flag, ...]


class Span(NamedTuple):
    """What a slab writes and reads along one axis, half-open."""

    start: int
    stop: int
    read_start: int
    read_stop: int


class Stretch(NamedTuple):
    """Sections that a slab writes and reads, and the flags that it sees."""

    span: Span
    flags: tuple[Flag, ...]


@dataclass(frozen=True, eq=False)
class Axis:
    """The spans of slabs along y or x, and how many voxels there are."""

    length: int
    spans: tuple[Span, ...]

    @staticmethod
    def of(length: int, edge: int, tile: int, halo: int) -> Axis:
        """Cells of an edge from 0 on, which read whole tiles and a halo."""
        ends = [(a, min(a + edge, length)) for a in range(0, length, edge)]
        wide = [(a // tile * tile - halo, -(-b // tile) * tile + halo) for a, b in ends]
        return Axis(length, tuple(Span(*e, max(0, a), min(length, b)) for e, (a, b) in zip(ends, wide, strict=True)))

    @cached_property
    def columns(self) -> Counts:
        """(n, 4) the spans."""
        return np.array(self.spans, np.int64)

    def _ends(self, *, read: bool) -> tuple[Counts, Counts]:
        return self.columns[:, 2 * read], self.columns[:, 2 * read + 1]

    def chunked(self, chunk: int, *, read: bool) -> int:
        """Voxels of the whole chunks under what is written, or read; those under two spans count twice."""
        start, stop = self._ends(read=read)
        return int((np.minimum(-(-stop // chunk) * chunk, self.length) - start // chunk * chunk).sum())

    def cells(self, grid: int) -> Counts:
        """(n,) cells of a grid that each span writes to."""
        start, stop = self._ends(read=False)
        return -(-stop // grid) - start // grid

    def voxels(self, *, read: bool) -> Counts:
        """(n,) that each span writes, or reads."""
        start, stop = self._ends(read=read)
        return stop - start

    def sizes(self) -> Axis:
        """One span of each size that there is."""
        some = {(s.stop - s.start, s.read_stop - s.read_start): s for s in self.spans}
        return Axis(self.length, tuple(some.values()))

    def under(self, grid: int) -> tuple[list[int], list[Span]]:
        """Of each span which of those that read other cells of a grid it is like; and one of each of these."""
        seen: dict[tuple[int, int], int] = {}
        kinds = [(s.read_start // grid, -(-s.read_stop // grid)) for s in self.spans]
        like = [seen.setdefault(kind, len(seen)) for kind in kinds]
        return like, [self.spans[like.index(n)] for n in range(len(seen))]


@dataclass(frozen=True, eq=False)
class Lattice:
    """Every cell of y and x, times every stretch, in (y, x, z) order."""

    y: Axis
    x: Axis
    stretches: tuple[Stretch, ...]

    def __len__(self) -> int:
        return len(self.y.spans) * len(self.x.spans) * len(self.stretches)

    def pieces(self) -> Iterator[Piece]:
        """One by one."""
        for y, x, (z, flags) in product(self.y.spans, self.x.spans, self.stretches):
            yield Piece(*_boxes(z, y, x), flags)

    def chunked(self, chunk: ZYX, depth: int) -> int:
        """Voxels of the whole chunks under each read box, of a volume of so many sections."""
        axes = Axis(depth, tuple(s.span for s in self.stretches)), self.y, self.x
        return prod(axis.chunked(c, read=True) for axis, c in zip(axes, chunk, strict=True))

    def boxes(self) -> NDArray[np.int32]:
        """(n, 12) as `Slabs` has them."""
        if max(self.y.length, self.x.length, *(s.span.read_stop for s in self.stretches)) >= 1 << 31:
            raise OverflowError("a box beyond 2^31")
        z = np.array([s.span for s in self.stretches], np.int32)
        y, x = (axis.columns.astype(np.int32) for axis in (self.y, self.x))
        grid = np.empty((len(y), len(x), len(z), 4, 3), np.int32)  # (y, x, z, corner, axis)
        grid[..., 0], grid[..., 1], grid[..., 2] = z, y[:, None, None], x[None, :, None]
        return grid.reshape(-1, 12)

    def ids(self, key: str, grain: tuple[int, int], inputs: Callable[[Box], str]) -> bytearray:
        """The ids of all, 16 bytes each: what `plan.name` makes of each piece.

        inputs: fingerprints a read box; in the same sections, boxes that touch the same cells of `grain` (y, x) have
        the same.
        """
        (like_y, some_y), (like_x, some_x) = self.y.under(grain[0]), self.x.under(grain[1])
        whole = [[[inputs(_boxes(s.span, y, x)[1]) for s in self.stretches] for x in some_x] for y in some_y]
        forms = [_form(key, s) for s in self.stretches]
        found, columns = bytearray(), list(zip(_texts(self.x, "%d]"), like_x, strict=True))
        for y, at_y in zip(_texts(self.y, "%d,"), like_y, strict=True):
            for x, at_x in columns:
                corners = (y[0] + x[0], y[1] + x[1], y[2] + x[2], y[3] + x[3])
                for (form, flags), print_ in zip(forms, whole[at_y][at_x], strict=True):
                    text = form % (*corners, *corners[2:] * flags, print_)
                    found += sha256(text.encode()).digest()[:WIDTH]
        return found


Part = Piece | Lattice


def _boxes(z: Span, y: Span, x: Span) -> tuple[Box, Box]:
    """What is written, and what is read."""
    write = Box((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
    return write, Box((z.read_start, y.read_start, x.read_start), (z.read_stop, y.read_stop, x.read_stop))


def _texts(axis: Axis, form: str) -> list[tuple[str, ...]]:
    return [tuple(form % n for n in span) for span in axis.spans]


def _form(key: str, stretch: Stretch) -> tuple[str, int]:
    """The document that is hashed to a slab's id, with holes for the rest of each corner, and how many flags it names.

    Holes: write start and stop, read start and stop, the last two again for each flag, and the inputs' fingerprint.
    """
    (z0, z1, r0, r1), flags = stretch
    seen = (
        f'[[{max(f.box.start[0], r0)},%s,[{min(f.box.stop[0], r1)},%s,{str(not f.restorable).lower()},true,""]'
        for f in flags
    )
    return f'["{key}",[{z0},%s,[{z1},%s,[{r0},%s,[{r1},%s,[{",".join(seen)}],"%s"]', len(flags)
