"""Unpack: what codecs compressed, and never more of it than there must be: a few bytes can fill a machine's memory."""

from __future__ import annotations

import gzip as _gzip
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np

MAGIC = b"\x28\xb5\x2f\xfd"  # of a zstd frame
Unpack = Callable[[Any, int], Any]  # bytes, and how many they must unpack to


class TooMuchError(Exception):
    """Bytes unpack to more than they may: nobody is to try it another way."""


def zstd(raw: Any, size: int) -> Any:
    """The content of a zstd frame. Raises TooMuchError, or what the codec raises."""
    from numcodecs import Zstd  # type: ignore[import-untyped]  # a fifth of a second: who asks for no voxels is spared it

    head = bytes(raw[:18])
    said = _content_size(head)
    if said is None and head[:4] == MAGIC:
        try:
            return Zstd().decode(raw, out=np.empty(size, np.uint8))
        except RuntimeError as error:
            raise TooMuchError(f"it is not the {size} bytes that it must be: {error}") from error
    _bound(said or 0, size)
    return Zstd().decode(raw)


def blosc(raw: Any, size: int) -> Any:
    """The content of a blosc buffer. Raises TooMuchError, or what the codec raises."""
    from numcodecs import Blosc

    _bound(int.from_bytes(bytes(raw[4:8]), "little"), size)
    return Blosc().decode(raw)


def gzip(raw: Any, size: int) -> Any:
    """The content of a gzip file. Raises TooMuchError, or what the codec raises."""
    found = _gzip.GzipFile(fileobj=BytesIO(raw)).read(size + 1)
    if len(found) > size:
        raise TooMuchError(f"it unpacks to more than {size} bytes")
    return found


def _bound(said: int, size: int) -> None:
    if said > size:
        raise TooMuchError(f"it unpacks to {said} bytes instead of {size}")


def _content_size(head: bytes) -> int | None:
    """What a zstd frame says of its size (RFC 8878, 3.1.1.1); None where it says nothing, or is no frame."""
    if len(head) < 5 or head[:4] != MAGIC:
        return None
    single, kind = head[4] >> 5 & 1, head[4] >> 6
    width = (single, 2, 4, 8)[kind]
    start = 5 + (not single) + (0, 1, 2, 4)[head[4] & 3]  # behind the window and the dictionary's number
    said = int.from_bytes(head[start : start + width], "little") + 256 * (width == 2)
    return said if width else None
