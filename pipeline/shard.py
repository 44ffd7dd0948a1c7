"""Shard: which inner chunks a stored shard has, and where, as its index says (Zarr v3, `sharding_indexed`)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from google_crc32c import value as crc32c  # zarr depends on it for the same job
from numpy.typing import NDArray

from pipeline.box import ZYX
from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.objects import Stored

NOWHERE = 2**64 - 1  # what the index says of an inner chunk that is not there
CRC_BYTES = 4
Ranges = NDArray[np.uint64]  # (*counts, 2) in the stored order of axes: offset and length of each inner chunk, bytes


def present_in(files: Files, shard: Stored, counts: tuple[int, ...], *, at: str, crc: bool) -> NDArray[np.bool_]:
    """Whether each of `counts` inner chunks is there, bool in the stored order of axes. `at`: "start" or "end" of the
    object; `crc`: the index ends with a checksum.

    Raises VolumeError where the index is damaged or cut short, OSError as `Files.read` does.
    """
    return np.asarray(ranges(files, shard, counts, at=at, crc=crc)[..., 0] != NOWHERE)


def ranges(files: Files, shard: Stored, counts: tuple[int, ...], *, at: str, crc: bool) -> Ranges:
    """Where each of `counts` inner chunks lies in the object. Raises as `present_in`."""
    raw = _index(files, shard, index_bytes(counts, crc=crc), at)
    if (found := parse(raw, counts, crc=crc)) is None:
        raise VolumeError(
            "the index of a shard is damaged or cut short",
            where=f"{files.uri}/{shard.key}",
            do="fetch or write this object again",
        )
    return found


def parse(raw: bytes, counts: tuple[int, ...], *, crc: bool) -> Ranges | None:
    """An index; None where it is damaged or cut short."""
    size = 16 * math.prod(counts)
    if len(raw) != size + CRC_BYTES * crc or (crc and crc32c(raw[:size]) != int.from_bytes(raw[size:], "little")):
        return None
    return np.frombuffer(raw[:size], "<u8").reshape(*counts, 2)


def index_bytes(counts: tuple[int, ...], *, crc: bool) -> int:
    """How long an index is."""
    return 16 * math.prod(counts) + CRC_BYTES * crc


def splice(raw: bytes, counts: ZYX, changed: Mapping[ZYX, bytes], *, at: str, crc: bool) -> bytes | None:
    """A shard like this one (b"": one that has nothing), but with other inner chunks, which are given encoded.

    All others are taken over as they lie, in their order: nothing is decoded. None where the index is damaged.
    """
    size = index_bytes(counts, crc=crc)
    index = parse(raw[:size] if at == "start" else raw[-size:], counts, crc=crc) if raw else None
    if raw and (index is None or not _inside(index, len(raw))):
        return None
    old = {} if index is None else {i: index[i] for i in np.ndindex(counts) if index[i][0] != NOWHERE}
    order = [*sorted(old, key=lambda i: int(old[i][0])), *sorted(set(changed) - set(old))]
    made = np.full((*counts, 2), NOWHERE, "<u8")
    parts, end = [], size if at == "start" else 0
    for i in order:
        part = changed[i] if i in changed else raw[int(old[i][0]) : int(old[i][0] + old[i][1])]
        made[i] = end, len(part)
        parts.append(part)
        end += len(part)
    told = made.tobytes()
    told += crc32c(told).to_bytes(CRC_BYTES, "little") if crc else b""
    return b"".join([told, *parts] if at == "start" else [*parts, told])


def _inside(index: Ranges, size: int) -> bool:
    there = index[index[..., 0] != NOWHERE]
    return bool((there <= size).all() and (there.sum(axis=-1) <= size).all())


def _index(files: Files, shard: Stored, size: int, at: str) -> bytes:
    start = max(0, shard.size - size) if at == "end" else 0
    raw = files.read(shard.key, start, min(start + size, shard.size)) or b""
    # A web server may ignore the range and send all of it.
    return raw[start : start + size] if len(raw) > size else raw
