"""Coder: the chunks of an array, read and written without zarr where their codecs are few and well known.

zarr takes each chunk through an event loop and several threads: of chunks of a megabyte that is a third of the time,
of small ones more. What is here makes the same bytes and the same voxels (tests hold it to that). Whatever it does not
know, and whatever fails, is left to zarr, which also finds the words; but for what unpacks to too much.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from pipeline import unpack
from pipeline.box import ZYX, Box
from pipeline.files import Files
from pipeline.layout import Layout
from pipeline.ome import ZYX_NAMES, Json
from pipeline.shard import CRC_BYTES, NOWHERE, ranges
from pipeline.threads import each

Voxels = NDArray[Any]
Key = Callable[[ZYX], str]  # of a grain cell: the key of its object
Room = Callable[[int], AbstractContextManager[object]]
AT_ONCE = 8 << 20  # bytes of a shard that one thread reads
AS_STORED = {"<u2": "uint16", "|u1": "uint8", "<u1": "uint8"}  # Zarr v2


class UnreadableError(Exception):
    """Not what it should be. Never leaves `Volume`, which asks zarr then."""


@dataclass(frozen=True)
class Step:
    """One codec of bytes."""

    decode: unpack.Unpack
    encode: Callable[[Any], Any] | None  # None: zarr is to write
    more: int = 0  # bytes that it adds


@dataclass(frozen=True)
class _Part:
    """A piece of an object, and the chunks in it, each with its bytes [start, stop) from the piece's first on."""

    key: str
    start: int
    stop: int | None  # None: all of it
    chunks: tuple[tuple[Box, int, int], ...]


@dataclass(frozen=True)
class Coder:
    """How voxels become bytes, and back. Boxes, shapes and arrays are (z, y, x)."""

    chunks: ZYX
    grain: ZYX
    dtype: np.dtype[Any]
    fill_value: int
    steps: tuple[Step, ...]  # in the order in which they encode
    index_at: str | None
    index_crc: bool
    form: str = ""  # the same of two arrays: the encoded chunks of one may stand in the other

    @property
    def writes(self) -> bool:
        """Whether `encode` makes what zarr would."""
        return all(step.encode for step in self.steps)

    @property
    def counts(self) -> ZYX:
        """Inner chunks of a shard; of what is not sharded one."""
        z, y, x = (g // c for g, c in zip(self.grain, self.chunks, strict=True))
        return z, y, x

    def inner(self, chunk: Box) -> ZYX:
        """Which inner chunk of its shard a chunk is."""
        z, y, x = (i % n for i, n in zip(index_of(chunk, self.chunks), self.counts, strict=True))
        return z, y, x

    @property
    def piece_bytes(self) -> int:
        """What one piece takes while it is decoded: as it is stored, and the voxels of a chunk."""
        chunk = math.prod(self.chunks) * self.dtype.itemsize
        return chunk + (chunk if self.index_at is None else max(chunk, AT_ONCE))

    def read(self, files: Files, key: Key, box: Box, out: Voxels, room: Room = lambda _: nullcontext()) -> int:
        """Fill `out` with the voxels of a box, absent chunks with the fill value; returns how many bytes were read.

        room: entered for so many bytes before each piece. Raises UnreadableError, OSError, or whatever a codec raises.
        """
        moved: list[int] = []

        def one(part: _Part) -> None:
            with room(self.piece_bytes):
                raw = files.read(part.key, part.start, part.stop)
                moved.append(0 if raw is None else len(raw))
                for chunk, start, stop in part.chunks:
                    self._place(None if raw is None else memoryview(raw)[start : stop or None], chunk, box, out)

        parts = [p for cell in box.cells(self.grain) for p in self._parts(files, key, cell, box, out, moved)]
        each(one, parts)
        return sum(moved)

    def _parts(self, files: Files, key: Key, cell: Box, box: Box, out: Voxels, moved: list[int]) -> Iterator[_Part]:
        """What is to be read of one object. What it lacks is filled at once."""
        name = key(index_of(cell, self.grain))
        if self.index_at is None:
            yield _Part(name, 0, None, ((cell, 0, 0),))  # 0: to the end
            return
        stored, missing, found = files.stat(name), [], []
        index = None if stored is None else ranges(files, stored, self.counts, at=self.index_at, crc=self.index_crc)
        moved.append(0 if index is None else index.nbytes + CRC_BYTES * self.index_crc)
        for chunk in (cell & box).cells(self.chunks):
            at = self.inner(chunk)
            if index is None or index[at][0] == NOWHERE:
                missing.append(chunk)
            else:
                start, length = map(int, index[at])
                found.append((chunk, start, start + length))
        for chunk in missing:
            out[(chunk & box).within(box)] = self.fill_value
        yield from _together(name, sorted(found, key=lambda f: f[1]))

    def _place(self, raw: Any, chunk: Box, box: Box, out: Voxels) -> None:
        part = chunk & box
        out[part.within(box)] = self.fill_value if raw is None else self.decode(raw)[part.within(chunk)]

    def decode(self, raw: Any) -> Voxels:
        """The voxels of a chunk, whole. Raises UnreadableError, TooMuchError or whatever a codec raises."""
        size = math.prod(self.chunks) * self.dtype.itemsize
        for n, step in reversed([*enumerate(self.steps)]):
            raw = step.decode(raw, size + sum(s.more for s in self.steps[:n]))
        found = np.frombuffer(raw, self.dtype)
        if found.size != math.prod(self.chunks):
            raise UnreadableError(f"{found.size} voxels instead of {self.chunks}")
        return found.reshape(self.chunks)

    def encode(self, voxels: Voxels) -> bytes:
        """The bytes of a chunk. One that the volume's edge cuts is filled up."""
        whole = voxels
        if voxels.shape != self.chunks:
            whole = np.full(self.chunks, self.fill_value, self.dtype)
            whole[tuple(map(slice, voxels.shape))] = voxels
        raw: Any = np.ascontiguousarray(whole)
        for step in self.steps:
            assert step.encode is not None  # `writes` was asked
            raw = step.encode(raw)
        return bytes(raw)


def index_of(cell: Box, grid: ZYX) -> ZYX:
    """Which cell of a grid a box begins in."""
    z, y, x = (a // g for a, g in zip(cell.start, grid, strict=True))
    return z, y, x


def _together(key: str, found: list[tuple[Box, int, int]]) -> Iterator[_Part]:
    """Chunks that lie one behind the other in an object are read at once."""
    some: list[tuple[Box, int, int]] = []
    for one in found:
        if some and (one[1] != some[-1][2] or one[2] - some[0][1] > AT_ONCE):
            yield _piece(key, some)
            some = []
        some.append(one)
    if some:
        yield _piece(key, some)


def _piece(key: str, found: list[tuple[Box, int, int]]) -> _Part:
    first = found[0][1]
    return _Part(key, first, found[-1][2], tuple((chunk, start - first, stop - first) for chunk, start, stop in found))


# --- which arrays


def coder_of(doc: Json, layout: Layout) -> Coder | None:
    """How the chunks of this array are to be read; None where zarr must do it."""
    extra = len(layout.dims) - 3
    plain = layout.dims[extra:] == ZYX_NAMES and layout.chunks[:extra] == layout.grain[:extra] == (1,) * extra
    steps = _steps_3(doc) if layout.zarr_format == 3 else _steps_2(doc)
    if steps is None or not plain or layout.dtype not in ("uint8", "uint16"):
        return None
    z, y, x = layout.chunks[extra:]
    deep, high, wide = layout.grain[extra:]
    parts = (layout.index_at, layout.index_crc, _form(doc))
    return Coder((z, y, x), (deep, high, wide), np.dtype(layout.dtype), layout.fill_value, steps, *parts)


def _form(doc: Json) -> str:
    kinds = ("zarr_format", "data_type", "dtype", "chunk_grid", "chunks", "codecs", "compressor", "fill_value")
    return json.dumps({k: doc[k] for k in kinds if k in doc}, sort_keys=True)


def _steps_3(doc: Json) -> tuple[Step, ...] | None:
    codecs = doc["codecs"]
    if not all(isinstance(codec, dict) for codec in codecs):  # names alone are allowed, too
        return None
    if codecs[0]["name"] == "sharding_indexed":
        codecs = codecs[0]["configuration"]["codecs"]
    first, *rest = codecs
    little = first.get("configuration", {}).get("endian", "little") == "little" or doc["data_type"] == "uint8"
    if first["name"] != "bytes" or not little:
        return None
    return _all([_step(c["name"], c.get("configuration", {})) for c in rest])


def _steps_2(doc: Json) -> tuple[Step, ...] | None:
    if doc.get("filters") or doc.get("order", "C") != "C" or doc["dtype"] not in AS_STORED:
        return None
    compressor = doc.get("compressor")
    # zstd with a checksum, as `Blind` has it
    return _all([] if compressor is None else [_step(compressor.get("id", ""), {**compressor, "checksum": True})])


def _all(steps: list[Step | None]) -> tuple[Step, ...] | None:
    found = [s for s in steps if s is not None]
    packed = sum(not s.more for s in found)  # of what was packed twice nobody knows how much the first made of it
    return tuple(found) if len(found) == len(steps) and packed < 2 else None


def _step(name: str, settings: Json) -> Step | None:
    if name == "zstd":
        from numcodecs import Zstd  # type: ignore[import-untyped]  # see `unpack`

        codec = Zstd(level=settings.get("level", 0), checksum=bool(settings.get("checksum", False)))
        return Step(unpack.zstd, codec.encode)
    if name == "crc32c":
        return Step(_checked, lambda raw: bytes(raw) + crc32c(bytes(raw)).to_bytes(CRC_BYTES, "little"), CRC_BYTES)
    reading = {"blosc": unpack.blosc, "gzip": unpack.gzip}.get(name)
    return None if reading is None else Step(reading, None)


def _checked(raw: Any, size: int) -> Any:
    body = raw[:-CRC_BYTES]
    if len(raw) < CRC_BYTES or crc32c(bytes(body)) != int.from_bytes(raw[-CRC_BYTES:], "little"):
        raise UnreadableError("its checksum is another")
    return body
