"""Precomputed: how the chunks of a Neuroglancer volume lie: one an object, or thousands in a shard.

A shard (`neuroglancer_uint64_sharded_v1`) begins with an index of its minishards, each of which has an index of the
chunks that it holds. A chunk's number interleaves the bits of its place in the grid (x, y, z), an axis taking part for
as long as it has bits left; the lowest bits are its place in the minishard, then come minishard and shard. So a shard
is a box of chunks, a power of two of them along each axis. Pure but for `present`, which reads indices and no voxels.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import VolumeError
from pipeline.files import PROBES, Files
from pipeline.layout import Layout
from pipeline.objects import Stored
from pipeline.ome import Json

SPAN = re.compile(r"(\d+)-(\d+)_(\d+)-(\d+)_(\d+)-(\d+)")
SHARD = re.compile(r"([0-9a-f]{1,16})\.shard")
ENTRY = 16  # bytes of a minishard in the index of a shard
MOST_INDEX_BYTES = 64 << 20  # of one shard; larger is taken for damage

Numbers = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class PrecomputedLayout(Layout):
    """Chunks are named after the voxels that they hold, counted from the dataset's origin: `64-128_0-64_0-16`."""

    offset: tuple[int, ...] = (0, 0, 0)  # of voxel 0 from that origin: x, y, z

    def key(self, index: Sequence[int]) -> str:
        parts = zip(index[:3], self.grain[:3], self.shape[:3], self.offset, strict=True)
        return "_".join(f"{o + i * g}-{o + min((i + 1) * g, n)}" for i, g, n, o in parts)

    def index(self, key: str) -> tuple[int, ...] | None:
        if (found := SPAN.fullmatch(key)) is None:
            return None
        starts = map(int, found.groups()[::2])
        index = (*((a - o) // g for a, o, g in zip(starts, self.offset, self.grain[:3], strict=True)), 0)
        inside = all(0 <= i * g < n for i, g, n in zip(index, self.grain, self.shape, strict=True))
        return index if inside and self.key(index) == key else None


@dataclass(frozen=True, slots=True)
class ShardedLayout(Layout):
    """Shards are named after their number; one is a grain cell. Indices are (x, y, z, channel)."""

    axes: tuple[int, ...] = ()  # of which axis each bit of a chunk's number is, the lowest first
    minishard: tuple[int, int] = (0, 0)  # the bits, from and to, that tell the minishard; higher ones tell the shard
    digits: int = 0  # of a shard's name
    gzip: bool = False  # whether indices of minishards are compressed

    def key(self, index: Sequence[int]) -> str:
        first = [i * (g // c) for i, g, c in zip(index[:3], self.grain, self.chunks, strict=False)]
        return f"{number(first, self.axes) >> self.minishard[1]:0{self.digits}x}.shard"

    def index(self, key: str) -> tuple[int, ...] | None:
        if (found := SHARD.fullmatch(key)) is None:
            return None
        first = place(int(found[1], 16) << self.minishard[1], self.axes)
        index = (*(i // (g // c) for i, g, c in zip(first, self.grain, self.chunks, strict=False)), 0)
        inside = all(i * g < n for i, g, n in zip(index, self.grain, self.shape, strict=True))
        return index if inside and self.key(index) == key else None


def number(index: Sequence[int], axes: Sequence[int]) -> int:
    """The number of the chunk at a place in the grid (x, y, z): its compressed Morton code."""
    rest, made = list(index), 0
    for bit, axis in enumerate(axes):
        made |= (rest[axis] & 1) << bit
        rest[axis] >>= 1
    return made


def place(code: int, axes: Sequence[int]) -> tuple[int, int, int]:
    """The place in the grid (x, y, z) of the chunk with this number."""
    found, bits = [0, 0, 0], [0, 0, 0]
    for bit, axis in enumerate(axes):
        found[axis] |= (code >> bit & 1) << bits[axis]
        bits[axis] += 1
    x, y, z = found
    return x, y, z


def layout_of_scale(layout: Layout, scale: Json) -> Layout:
    """The layout with the names that this scale of an `info` gives to its objects. Raises VolumeError (sharding)."""
    own = {f.name: getattr(layout, f.name) for f in fields(Layout)}
    if scale.get("sharding") is None:
        return PrecomputedLayout(**own, offset=tuple(scale.get("voxel_offset", (0, 0, 0))))
    told = scale["sharding"]
    low = int(told.get("preshift_bits", 0))
    high = low + int(told["minishard_bits"])
    counts = [-(-n // c) for n, c in zip(layout.shape[:3], layout.chunks, strict=False)]
    axes = tuple(axis for bit in range(64) for axis in range(3) if 1 << bit < counts[axis])
    _check(told, bits=len(axes), room=high + int(told["shard_bits"]))
    grain = tuple(c << axes[:high].count(axis) for axis, c in enumerate(layout.chunks[:3]))
    own |= {"grain": (*grain, layout.chunks[3]), "index_at": "minishards"}
    digits, packed = -(-int(told["shard_bits"]) // 4), told.get("minishard_index_encoding", "raw") == "gzip"
    return ShardedLayout(**own, axes=axes, minishard=(low, high), digits=digits, gzip=packed)


def _check(told: Json, *, bits: int, room: int) -> None:
    """What a shard holds must be a box: else it could not be said which shard belongs to which part of the volume."""
    if not all(0 <= int(told.get(f"{part}_bits", 0)) <= 64 for part in ("preshift", "minishard", "shard")):
        raise ValueError("sharding: more bits than a number has")
    known = told["@type"] == "neuroglancer_uint64_sharded_v1"
    if not known or told.get("hash", "identity") != "identity" or room < bits:
        raise VolumeError(
            "this kind of precomputed shards is not read",
            why=f"only those whose chunks are neighbours are: type neuroglancer_uint64_sharded_v1, hash identity, bits "
            f"for all chunks; here type {told['@type']}, hash {told.get('hash', 'identity')}, {room} bits of {bits}",
            do="rewrite the volume with hash identity (igneous and tensorstore do), or as OME-Zarr",
        )


def present(files: Files, shard: Stored, layout: ShardedLayout, chunks: Sequence[Sequence[int]]) -> list[bool]:
    """Whether a shard holds the chunks at these places of the grid (x, y, z, channel), all of which belong into it.

    Reads the index of the shard, and those of the minishards in question. Raises VolumeError where they are damaged.
    """
    low, high = layout.minishard
    numbers = [number(c, layout.axes) for c in chunks]
    minishard = [n >> low & (1 << high - low) - 1 for n in numbers]
    spans = _spans(files, shard, 1 << high - low)
    wanted = [m for m in sorted(set(minishard)) if spans[m][0] < spans[m][1]]
    read = _minishard, repeat(files), repeat(shard), [spans[m] for m in wanted], repeat(layout.gzip)
    if files.local is not None or len(wanted) < 2:
        held = list(map(*read))
    else:
        with ThreadPoolExecutor(PROBES) as pool:
            held = list(pool.map(*read))
    there = {m: set(ids.tolist()) for m, ids in zip(wanted, held, strict=True)}
    return [n in there.get(m, ()) for n, m in zip(numbers, minishard, strict=True)]


def _spans(files: Files, shard: Stored, count: int) -> list[tuple[int, int]]:
    """Where the index of each minishard lies in the object; [a, a) where it has no chunks."""
    size = ENTRY * count
    raw = _bytes(files, shard, 0, size) if size <= min(shard.size, MOST_INDEX_BYTES) else b""
    spans = np.frombuffer(raw, "<u8").reshape(-1, 2).astype(object) + size  # not to overflow
    if len(spans) != count or any(not a <= b <= shard.size for a, b in spans):
        raise _damaged(files, shard)
    return [(int(a), int(b)) for a, b in spans]


def _minishard(files: Files, shard: Stored, span: tuple[int, int], gzip: bool) -> Numbers:
    """The numbers of the chunks that a minishard holds: three rows (numbers, places, sizes), told as differences."""
    raw = _bytes(files, shard, *span)
    try:
        raw = _unpacked(raw) if gzip else raw
    except zlib.error as error:
        raise _damaged(files, shard) from error
    if len(raw) % 24 or not raw:
        raise _damaged(files, shard)
    return np.asarray(np.cumsum(np.frombuffer(raw, "<u8").reshape(3, -1)[0], dtype=np.uint64))


def _unpacked(raw: bytes) -> bytes:
    """Of gzip, up to a bound: a few bytes may stand for gigabytes."""
    unpacker = zlib.decompressobj(wbits=31)
    made = unpacker.decompress(raw, MOST_INDEX_BYTES)
    return made if unpacker.eof else b""


def _bytes(files: Files, shard: Stored, start: int, stop: int) -> bytes:
    raw = files.read(shard.key, start, stop) or b""
    return raw[start:stop] if len(raw) > stop - start else raw  # a web server may ignore the range and send all of it


def _damaged(files: Files, shard: Stored) -> VolumeError:
    what, do = "the index of a shard is damaged or cut short", "fetch or write this object again"
    return VolumeError(what, where=f"{files.uri}/{shard.key}", do=do)
