"""Shard: which inner chunks a stored shard has, as its index says (Zarr v3, `sharding_indexed`). Decodes no voxels."""

from __future__ import annotations

import math

import numpy as np
from google_crc32c import value as crc32c  # zarr depends on it for the same job
from numpy.typing import NDArray

from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.objects import Stored

NOWHERE = 2**64 - 1  # what the index says of an inner chunk that is not there


def present_in(files: Files, shard: Stored, counts: tuple[int, ...], *, at: str, crc: bool) -> NDArray[np.bool_]:
    """Whether each of `counts` inner chunks is there, bool in the stored order of axes. `at`: "start" or "end" of the
    object; `crc`: the index ends with a checksum.

    Raises VolumeError where the index is damaged or cut short, OSError as `Files.read` does.
    """
    size = 16 * math.prod(counts)
    raw = _index(files, shard, size + 4 * crc, at)
    if len(raw) != size + 4 * crc or (crc and crc32c(raw[:size]) != int.from_bytes(raw[size:], "little")):
        raise VolumeError(
            "the index of a shard is damaged or cut short",
            where=f"{files.uri}/{shard.key}",
            do="fetch or write this object again",
        )
    offsets = np.frombuffer(raw[:size], "<u8").reshape(*counts, 2)[..., 0]
    return np.asarray(offsets != NOWHERE)


def _index(files: Files, shard: Stored, size: int, at: str) -> bytes:
    start = max(0, shard.size - size) if at == "end" else 0
    raw = files.read(shard.key, start, min(start + size, shard.size)) or b""
    # A web server may ignore the range and send all of it.
    return raw[start : start + size] if len(raw) > size else raw
