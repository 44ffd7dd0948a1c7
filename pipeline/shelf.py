"""Shelf: what one slab has decoded of the source's chunks and others will want, in bounded memory.

      ┌───┬───────┬───┐   A slab reads out to whole chunks: those along its border (▒) are its neighbours' as well,
      │ ▒ │   ▒   │ ▒ │   and of chunks that are many sections deep other sections may be wanted, too. Whoever decodes
      ├───┼───────┼───┤   such a chunk leaves here what others want of it. What was not asked for longest goes first.
      │ ▒ │  own  │ ▒ │
      └───┴───────┴───┘   A shelf is of one run: the next one makes its own. What may be absent is never kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from itertools import product
from threading import Event, Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.memory import READING
from pipeline.volume import Volume

Voxels = NDArray[Any]
Columns = frozenset[tuple[int, int]]  # (y, x) of chunks


class Kept(NamedTuple):
    """What is kept of one chunk."""

    sections: tuple[int, ...]  # ascending
    voxels: Voxels  # (sections, y, x), cut to the volume


class Rectangle(NamedTuple):
    """Chunks of some layers and columns, half-open."""

    z: tuple[int, int]
    y: tuple[int, int]
    x: tuple[int, int]


class Shelf:
    """Reads of one volume, by many threads."""

    def __init__(self, volume: Volume, limit: int) -> None:
        """limit: bytes to keep at most; 0 keeps nothing."""
        self.volume, self.limit, self.held = volume, limit, 0
        self._kept: OrderedDict[ZYX, Kept] = OrderedDict()  # by chunk, the longest not asked for first
        self._coming: dict[ZYX, Event] = {}  # chunks that somebody reads right now
        self._lock = Lock()

    def read(self, box: Box, own: Box, also: Collection[int] = ()) -> Voxels:
        """The voxels of a box, as `Volume.read`. own: where (y, x) nobody else reads; also: sections that others want.

        Raises as `Volume.read`.
        """
        order = _Order(self.volume, box, frozenset(also))
        shared = order.chunks - order.inside(own)
        if not shared or not self.limit:
            return self.volume.read(box)
        out = np.empty(box.shape, self.volume.dtype)
        here, mine, others = self._claim(shared, order, out)
        try:
            self._fetch(order.chunks - here - others.keys(), mine, order, out)
        finally:
            self._release(mine)
        for event in others.values():  # after one's own are there for them: nobody waits in a ring
            event.wait()
        late, _, _ = self._claim(others, order, out, claim=False)
        self._fetch(others.keys() - late, frozenset(), order, out)
        return out

    def _claim(
        self, chunks: Iterable[ZYX], order: _Order, out: Voxels, *, claim: bool = True
    ) -> tuple[set[ZYX], frozenset[ZYX], dict[ZYX, Event]]:
        """Of these chunks: what was here, and is put into place; those that the caller is to read; those that somebody
        else reads."""
        found, mine, others = dict[ZYX, Kept](), set[ZYX](), dict[ZYX, Event]()
        with self._lock:
            for chunk in chunks:
                kept = self._kept.get(chunk)
                if kept is not None and order.sees(chunk[0]) <= set(kept.sections):
                    self._kept.move_to_end(chunk)
                    found[chunk] = kept
                elif chunk in self._coming:
                    others[chunk] = self._coming[chunk]
                elif claim:
                    self._coming[chunk] = Event()
                    mine.add(chunk)
        here = set(found)
        while found:  # at once: what goes from the shelf meanwhile is not to be held on to
            order.place(*found.popitem(), out)
        return here, frozenset(mine), others

    def _fetch(self, chunks: Collection[ZYX], keep: Collection[ZYX], order: _Order, out: Voxels) -> None:
        for some in _rectangles(chunks):
            for part in order.parts(some):
                box = order.box(part)
                voxels = self.volume.read(box)
                here = box & order.wanted
                out[here.within(order.wanted)] = voxels[here.within(box)]
                for chunk in product(range(*part.z), range(*part.y), range(*part.x)):
                    if chunk in keep:
                        self._keep(chunk, order.cut(chunk, voxels, box))

    def _keep(self, chunk: ZYX, kept: Kept) -> None:
        if (kept.voxels == self.volume.fill_value).all():
            return  # it may be absent, and there by the time that the next one asks: he shall not take this for tissue
        with self._lock:
            if (before := self._kept.pop(chunk, None)) is not None:
                self.held -= before.voxels.nbytes
            if kept.voxels.nbytes > self.limit:
                return  # it alone would take the place of all others, and more
            while self.held + kept.voxels.nbytes > self.limit:
                self.held -= self._kept.popitem(last=False)[1].voxels.nbytes
            self._kept[chunk] = kept
            self.held += kept.voxels.nbytes

    def _release(self, chunks: Iterable[ZYX]) -> None:
        with self._lock:
            for chunk in chunks:
                self._coming.pop(chunk).set()


class _Order:
    """What one slab wants: a box, and of the same chunks the sections that others will want. Arithmetic."""

    def __init__(self, volume: Volume, wanted: Box, also: frozenset[int]) -> None:
        self.wanted, self.grid, self.whole = wanted, volume.chunks, Box.of(volume.shape)
        self._itemsize = volume.dtype.itemsize
        spans = zip(wanted.start, wanted.stop, self.grid, strict=True)
        layers, rows, columns = (range(a // g, -(-b // g)) for a, b, g in spans)
        self.chunks = frozenset(product(layers, rows, columns))
        deep, mine = self.grid[0], range(wanted.start[0], wanted.stop[0])
        self._sees = {z: {s for s in mine if s // deep == z} for z in layers}
        self._also = {z: {s for s in also if s // deep == z} for z in layers}

    def sees(self, layer: int) -> set[int]:
        """The sections of the box in a layer of chunks."""
        return self._sees[layer]

    def inside(self, own: Box) -> set[ZYX]:
        """The chunks of which nobody else will want anything."""
        (_, y0, x0), (_, y1, x1) = own.start, own.stop
        (_, high, wide), (_, far, right) = self.grid, self.whole.stop
        rows = {y for _, y, _ in self.chunks if y0 <= y * high and min(y * high + high, far) <= y1}
        columns = {x for _, _, x in self.chunks if x0 <= x * wide and min(x * wide + wide, right) <= x1}
        return {c for c in self.chunks if c[1] in rows and c[2] in columns and not self._also[c[0]]}

    def box(self, part: Rectangle) -> Box:
        """Whole chunks, but of their sections those between the first and the last that anybody wants."""
        sections = [s for z in range(*part.z) for s in self._sees[z] | self._also[z]]
        start, stop = ([i * g for i, g in zip(ends, self.grid, strict=True)] for ends in zip(*part, strict=True))
        return Box((min(sections), start[1], start[2]), (max(sections) + 1, stop[1], stop[2])) & self.whole

    def parts(self, some: Rectangle) -> Iterator[Rectangle]:
        """A rectangle, in halves where it is too large to be read at once."""
        (z, y, x), size = some, self.box(some).size * self._itemsize
        if size > READING and z[1] - z[0] > 1:
            middle = sum(z) // 2
            halves = some._replace(z=(z[0], middle)), some._replace(z=(middle, z[1]))
        elif size > READING and y[1] - y[0] > 1:
            middle = sum(y) // 2
            halves = some._replace(y=(y[0], middle)), some._replace(y=(middle, y[1]))
        elif size > READING and x[1] - x[0] > 1:
            middle = sum(x) // 2
            halves = some._replace(x=(x[0], middle)), some._replace(x=(middle, x[1]))
        else:
            yield some
            return
        for half in halves:
            yield from self.parts(half)

    def cut(self, chunk: ZYX, voxels: Voxels, box: Box) -> Kept:
        """What is to be kept of a chunk, of the voxels of a box."""
        _, y, x = self._at(chunk).within(box)
        sections = tuple(sorted(self._sees[chunk[0]] | self._also[chunk[0]]))
        return Kept(sections, voxels[[s - box.start[0] for s in sections], y, x])  # a copy: it outlives the voxels

    def place(self, chunk: ZYX, kept: Kept, out: Voxels) -> None:
        """Put what is wanted of a chunk into the voxels of the box."""
        there = self._at(chunk)
        here = there & self.wanted
        deep, _, _ = here.shape
        first = kept.sections.index(here.start[0])
        _, y, x = here.within(there)
        out[here.within(self.wanted)] = kept.voxels[first : first + deep, y, x]

    def _at(self, chunk: ZYX) -> Box:
        (z, y, x), (deep, high, wide) = chunk, self.grid
        start = z * deep, y * high, x * wide
        return Box(start, (start[0] + deep, start[1] + high, start[2] + wide)) & self.whole


def _rectangles(chunks: Iterable[ZYX]) -> Iterator[Rectangle]:
    """All of these chunks, in few rectangles: equal rows together, and equal layers."""
    layers: dict[int, set[tuple[int, int]]] = {}
    for z, y, x in chunks:
        layers.setdefault(z, set()).add((y, x))
    for deep, columns in _alike(layers):
        rows: dict[int, set[int]] = {}
        for y, x in columns:
            rows.setdefault(y, set()).add(x)
        for high, some in _alike(rows):
            for wide, _ in _alike(dict.fromkeys(some)):
                yield Rectangle(deep, high, wide)


def _alike(found: dict[int, Any]) -> Iterator[tuple[tuple[int, int], Any]]:
    """Numbers that follow each other and have the same, as half-open spans, and what they have."""
    first: int | None = None
    for n in sorted(found):
        if first is None:
            first = n
        if n + 1 not in found or found[n + 1] != found[n]:
            yield (first, n + 1), found[n]
            first = None
