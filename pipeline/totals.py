"""Totals: what the slabs of a plan add up to: voxels, bytes, memory, seconds. Arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import product

from pipeline.box import ZYX, Box
from pipeline.flags import Flag
from pipeline.lattice import Geometry, Lattice, Part, Piece
from pipeline.restorer import Needs


def totals(parts: Iterable[Part], geometry: Geometry, chunk: ZYX, itemsize: int, draws: int = 0) -> dict[str, int]:
    """Slabs, flagged voxels (an upper bound where masks are used), bytes, peak memory and seconds of one worker.

    Parts come as `plan.parts` yields them: of two pieces with the same lateral corner the one further along z is the
    later. draws: of the ensemble, on top of restoring once; 0 where no spread is asked for.
    """
    count = voxels = read = memory = 0
    merged = Merged(chunk, geometry.shape)
    for p in parts:
        merged.add(p)
        voxels += _flagged_voxels(p)
        if isinstance(p, Lattice):
            count, read = count + len(p), read + p.chunked(chunk, geometry.shape[0])
        else:
            count, read = count + 1, read + chunked(p.read, chunk, geometry.shape)
        memory = max(memory, *(bytes_in_hand(some.read, some.write, itemsize, draws) for some in _sizes(p)))
    n = geometry.needs
    return {
        "slabs": count,
        "voxels": voxels,
        "bytes_to_read": read * itemsize,
        "bytes_to_write": voxels * (itemsize + 1 + bool(draws)),  # the restored voxel, its label, its spread
        "bytes_to_merge": 2 * merged.voxels * itemsize,  # each touched chunk of the source, read and written
        "peak_memory_bytes": memory + bytes_of_restorer(n) if count else 0,
        "seconds": round(n.seconds(voxels, draws)),
    }


class Merged:
    """Counts the voxels of all chunks that are touched, each chunk once."""

    def __init__(self, chunk: ZYX, shape: ZYX) -> None:
        self.voxels = 0
        self._chunk, self._shape = chunk, shape
        self._floor = 0  # the section up to which chunks are counted, everywhere
        self._reached: dict[tuple[int, ...], int] = {}  # and where it is further: by lateral corner

    def add(self, part: Part) -> None:
        """Touch what is written."""
        for stretch in part.stretches if isinstance(part, Lattice) else ():
            self._all_over(part, stretch.span.start, stretch.span.stop)  # type: ignore[arg-type]
        if isinstance(part, Piece):
            self._piece(part)

    def _piece(self, piece: Piece) -> None:
        write, corner = piece.write, piece.write.start[1:]
        fresh = max(self._down(write.start[0]), self._floor, self._reached.get(corner, 0))
        if fresh < write.stop[0]:  # else all of its chunks were counted with the piece before it
            self.voxels += chunked(write.with_z(fresh, write.stop[0]), self._chunk, self._shape)
            self._reached[corner] = self._up(write.stop[0])

    def _all_over(self, lattice: Lattice, z0: int, z1: int) -> None:
        fresh = max(self._down(z0), self._floor)
        ahead = {corner: z for corner, z in self._reached.items() if z > fresh}
        for y, x in product(lattice.y.spans, lattice.x.spans) if ahead else ():
            at = max(fresh, ahead.get((y.start, x.start), 0))
            if at < z1:
                self.voxels += chunked(Box((at, y.start, x.start), (z1, y.stop, x.stop)), self._chunk, self._shape)
        if not ahead and fresh < z1:
            area = lattice.y.chunked(self._chunk[1], read=False) * lattice.x.chunked(self._chunk[2], read=False)
            self.voxels += (min(self._up(z1), self._shape[0]) - fresh) * area
        self._floor = max(fresh, self._up(z1))
        self._reached = {corner: z for corner, z in ahead.items() if z > self._floor}

    def _down(self, z: int) -> int:
        return z // self._chunk[0] * self._chunk[0]

    def _up(self, z: int) -> int:
        return -(-z // self._chunk[0]) * self._chunk[0]


def bytes_in_hand(read: Box, write: Box, itemsize: int, draws: int = 0) -> int:
    """Memory that one slab takes, beside the restorer: what it sees (voxels, flags, two doubts) and what it decides."""
    return read.size * (itemsize + 3) + write.size * (itemsize + 2 + bool(draws))


def bytes_of_restorer(needs: Needs) -> int:
    """Memory that a restorer takes, once in a process: its own, and a batch of the deepest windows (8 float32 each)."""
    window = (needs.max_gap + 2 * needs.context) * (needs.tile + 2 * needs.halo) ** 2
    return needs.batch * window * 4 * 8 + needs.memory_bytes


def chunked(box: Box, chunk: ZYX, shape: ZYX) -> int:
    """Voxels of the whole chunks under a box. The lateral part repeats for every section, so it is remembered."""
    z0, z1 = box.start[0] // chunk[0] * chunk[0], min(-(-box.stop[0] // chunk[0]) * chunk[0], shape[0])
    return (z1 - z0) * _chunked_area(box.start[1:], box.stop[1:], chunk[1:], shape[1:])


@lru_cache(maxsize=65536)
def _chunked_area(start: tuple[int, ...], stop: tuple[int, ...], chunk: tuple[int, ...], shape: tuple[int, ...]) -> int:
    spans = zip(start, stop, chunk, shape, strict=True)
    y, x = (min(-(-b // c) * c, n) - a // c * c for a, b, c, n in spans)
    return y * x


def _sizes(part: Part) -> Iterable[Piece]:
    """Pieces of which one is the largest."""
    if isinstance(part, Piece):
        return (part,)
    return Lattice(part.y.sizes(), part.x.sizes(), part.stretches).pieces()


def _flagged_voxels(part: Part) -> int:
    if isinstance(part, Lattice):
        deep = sum(_layers(flags, z.start, z.stop) for z, flags in part.stretches)
        return int(deep * part.y.voxels(read=False).sum() * part.x.voxels(read=False).sum())
    first, last = part.write.start[0], part.write.stop[0]
    area = part.write.size // (last - first)
    mine = [f for f in part.flags if f.restorable and f.box.start[0] < last and first < f.box.stop[0]]
    if all(f.whole for f in mine):
        return area * _layers(mine, first, last)
    layers = (part.write.with_z(z, z + 1) for z in range(first, last))
    return sum(min(area, sum((f.box & layer).size for f in mine)) for layer in layers)


def _layers(flags: Iterable[Flag], first: int, last: int) -> int:
    """Sections of [first, last) that a restorable flag has."""
    spans = [(max(first, f.box.start[0]), min(last, f.box.stop[0])) for f in flags if f.restorable]
    return len({z for start, stop in spans for z in range(start, stop)})
