"""Totals: what the slabs of a plan add up to: voxels, bytes, memory, seconds. Arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import prod

from pipeline.box import ZYX, Box
from pipeline.flags import Flag
from pipeline.lattice import Geometry, Lattice, Part, Piece
from pipeline.memory import at_least, at_most, of_slab


def totals(
    parts: Iterable[Part], geometry: Geometry, chunk: ZYX, itemsize: int, draws: int = 0, piece: int = 0
) -> dict[str, int]:
    """Slabs, flagged voxels (an upper bound where masks are used), bytes, peak memory and seconds of one worker.

    draws: of the ensemble, on top of restoring once; 0 where no spread is asked for. piece: bytes that one thread takes
    while it decodes (`Volume.piece_bytes`); 0: a chunk as it is stored, and its voxels.
    """
    count = voxels = read = shared = memory = 0
    sheet = (1, *chunk[1:])  # of a chunk only the sections that are wanted are left to others
    for p in parts:
        voxels += _flagged_voxels(p)
        if isinstance(p, Lattice):
            count, read = count + len(p), read + p.chunked(chunk, geometry.shape[0])
            shared += p.chunked(sheet, geometry.shape[0])
        else:
            count, read = count + 1, read + chunked(p.read, chunk, geometry.shape)
            shared += chunked(p.read, sheet, geometry.shape)
        memory = max(memory, *(of_slab(some.read, some.write, chunk, itemsize, draws) for some in _sizes(p)))
    n, piece = geometry.needs, piece or 2 * prod(chunk) * itemsize
    return {
        "slabs": count,
        "voxels": voxels,
        "bytes_to_read": read * itemsize,
        "bytes_to_write": voxels * (itemsize + 1 + bool(draws)),  # the restored voxel, its label, its spread
        "peak_memory_bytes": at_most(memory, count, shared * itemsize if count > 1 else 0, n, piece) if count else 0,
        "least_memory_bytes": at_least(memory, n, piece) if count else 0,
        "seconds": round(n.seconds(voxels, draws)),
    }


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
