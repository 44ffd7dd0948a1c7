"""Workload: counts what the pieces of a plan will ask of the restorer and of the stores. Arithmetic; nothing is read.

A gap is counted as a slab would find it: a run of sections with flagged voxels in one tile's window, if any of them
lies in the slab. A mask counts as its box, so that there may be less to do, never more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.cost import TILES, Load
from pipeline.flags import Flag
from pipeline.lattice import Geometry, Lattice, Part, Piece
from pipeline.plan import refusal, runs
from pipeline.totals import chunked
from pipeline.touched import Touched

Marks = NDArray[np.bool_]


class Workload:
    """Adds up pieces, in any order."""

    def __init__(
        self,
        geometry: Geometry,
        runs: Sequence[tuple[int, int]],
        *,
        batch: int,
        chunk: ZYX,
        cell: ZYX,
        grain: ZYX,
        itemsize: int,
        draws: int,
    ) -> None:
        """runs: `Flags.runs`; chunk: of the source, as it is decoded; cell: of the source, as it is written (a shard,
        or the chunk); grain: of the overlay, as it is written."""
        self.geometry, self.batch, self.chunk, self.cell, self.grain = geometry, max(1, batch), chunk, cell, grain
        self.itemsize, self.draws = itemsize, draws
        self.calls = Counter[int]()
        self.slabs = self.read = self.seen = self.write_chunks = 0
        self.touched = Touched(geometry.shape, cell, runs)

    def add(self, part: Part) -> None:
        """One more slab, or a lattice of them."""
        self.touched.add(part)
        if isinstance(part, Lattice):
            self._lattice(part)
        else:
            self._piece(part)

    def _lattice(self, lattice: Lattice) -> None:
        """What `_piece` makes of all its pieces."""
        y, x, tile, geometry = lattice.y, lattice.x, self.geometry.needs.tile, self.geometry
        self.slabs += len(lattice)
        self.read += lattice.chunked(self.chunk, geometry.shape[0])
        deep = sum(s.span.read_stop - s.span.read_start for s in lattice.stretches)
        self.seen += int(deep * y.voxels(read=True).sum() * x.voxels(read=True).sum())
        chunks = int(y.cells(self.grain[1]).sum() * x.cells(self.grain[2]).sum())
        tiles = Counter(np.outer(y.cells(tile), x.cells(tile)).ravel().tolist())  # slabs, by how many tiles each has
        for (z0, z1, *_), flags in lattice.stretches:
            restorable = tuple((f.box.start[0], f.box.stop[0]) for f in flags if f.restorable)
            gaps, layers = _along_z(restorable, z0, z1, geometry)
            self.write_chunks += layers * chunks
            for length, count in gaps.items():
                self.calls[length] += sum(-(-count * t // self.batch) * slabs for t, slabs in tiles.items())

    def _piece(self, piece: Piece) -> None:
        self.slabs += 1
        self.read += chunked(piece.read, self.chunk, self.geometry.shape)
        self.seen += piece.read.size
        flags = [f for f in piece.flags if f.restorable]
        whole = all(f.whole for f in flags)
        gaps, chunks = self._whole(piece, flags) if whole else self._parts(piece, flags)
        self.write_chunks += chunks
        for length, count in gaps.items():
            self.calls[length] += -(-count // self.batch)

    def load(self, *, levels: Sequence[tuple[ZYX, ZYX]] = (), sections: int = 0, anew: bool = False) -> Load:
        """All of it. levels: shape and written cell of each level that a merge makes, the mended one first; of coarser
        ones as many cells are taken to change as they are smaller; all, where a merge writes `anew`. sections: that the
        certificate hides."""
        tile, (_, y, x) = self.geometry.needs.tile, self.geometry.shape
        probes = sections * min(TILES, _size(_count((1, y, x), (1, tile, tile)))) if self.slabs else 0
        voxels, finest = _size(self.grain), _size(self.geometry.shape)
        parts = [(_size(shape) / finest, _size(cell), _size(_count(shape, cell))) for shape, cell in levels]
        touched = [cells if anew else round(self.touched.count * share) for share, _, cells in parts]
        return Load(
            slabs=self.slabs,
            calls=dict(self.calls),
            read_bytes=self.read * self.itemsize,
            seen_bytes=self.seen * self.itemsize,
            write_chunks=self.write_chunks,
            write_bytes=self.write_chunks * voxels * (self.itemsize + bool(self.draws)),
            merge_chunks=sum(touched),
            merge_bytes=sum(n * size for n, (_, size, _) in zip(touched, parts, strict=True)) * self.itemsize,
            link_chunks=sum(cells for _, _, cells in parts) - sum(touched),
            probe_calls=probes,
        )

    def _whole(self, piece: Piece, flags: Sequence[Flag]) -> tuple[Mapping[int, int], int]:
        """Gaps by their length, and chunks: every flagged section is flagged all over."""
        (z0, *_), (z1, *_), tile = piece.write.start, piece.write.stop, self.geometry.needs.tile
        lateral = piece.write.start[1:], piece.write.stop[1:]
        gaps, layers = _along_z(tuple((f.box.start[0], f.box.stop[0]) for f in flags), z0, z1, self.geometry)
        tiles = _cells(*lateral, (tile, tile))
        return {length: n * tiles for length, n in gaps.items()}, layers * _cells(*lateral, self.grain[1:])

    def _parts(self, piece: Piece, flags: Sequence[Flag]) -> tuple[Mapping[int, int], int]:
        """The same where some are flagged in part, tile by tile."""
        needs, write = self.geometry.needs, piece.write
        grid, lateral = (1, needs.tile, needs.tile), write.with_z(piece.read.start[0], piece.read.stop[0])
        tiles = lateral.aligned(grid)
        own = _marks(flags, tiles, grid, lateral, 0)
        seen = _marks(flags, tiles, grid, tiles.grow(0, needs.halo, needs.halo), needs.halo)
        chunks = _marks(flags, lateral.aligned(edge := (1, *self.grain[1:])), edge, lateral, 0)
        inside = slice(write.start[0] - piece.read.start[0], write.stop[0] - piece.read.start[0])
        own[: inside.start] = own[inside.stop :] = False
        gaps = Counter[int]()
        for y, x in np.argwhere(own.any(axis=0)):
            for first, last in runs(np.flatnonzero(seen[:, y, x]).tolist()):
                run = (first + piece.read.start[0], last + piece.read.start[0])
                if own[first:last, y, x].any() and not refusal(run, self.geometry):
                    gaps[last - first] += 1
        return gaps, int(chunks[inside].sum())


def _marks(flags: Sequence[Flag], around: Box, grid: ZYX, window: Box, margin: int) -> Marks:
    """Which cells of a lateral grid in `around`, each grown by a margin, hold flagged voxels of a window: (z, y, x)."""
    (z0, y0, x0), (_, gy, gx) = around.start, grid
    marks = np.zeros((around.shape[0], around.shape[1] // gy, around.shape[2] // gx), bool)
    for flag in flags:
        near = flag.box & window
        if near.size:
            (a, b, c), (d, e, f) = near.start, near.stop
            y = slice(max(0, (b - margin - y0) // gy), -(-(e + margin - y0) // gy))
            x = slice(max(0, (c - margin - x0) // gx), -(-(f + margin - x0) // gx))
            marks[a - z0 : d - z0, y, x] = True
    return marks


def _size(shape: ZYX) -> int:
    return shape[0] * shape[1] * shape[2]


def _count(shape: ZYX, cell: ZYX) -> ZYX:
    z, y, x = (-(-n // c) for n, c in zip(shape, cell, strict=True))
    return z, y, x


@lru_cache(maxsize=1024)
def _along_z(spans: tuple[tuple[int, int], ...], z0: int, z1: int, geometry: Geometry) -> tuple[Counter[int], int]:
    """Gaps by their length, of one tile, and flagged sections of [z0, z1): spans of them are flagged all over."""
    flagged = sorted({z for first, last in spans for z in range(first, last)})
    mine = [r for r in runs(flagged) if r[0] < z1 and z0 < r[1]]
    gaps = Counter(r[1] - r[0] for r in mine if not refusal(r, geometry))
    return gaps, sum(z0 <= z < z1 for z in flagged)


@lru_cache(maxsize=65536)
def _cells(start: tuple[int, ...], stop: tuple[int, ...], grid: tuple[int, ...]) -> int:
    """Cells of a lateral grid that touch a window."""
    y, x = (-(-b // g) - a // g for a, b, g in zip(start, stop, grid, strict=True))
    return y * x
