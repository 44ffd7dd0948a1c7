"""Slabs: the unit of work, and a million of them in as little room as 64 bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.box import Box
from pipeline.ids import WIDTH, Ids, column, order

TOGETHER = 4096  # slabs that are made at once when one goes through them
JSON_ROW = f'["%s", {", ".join(["[%d, %d, %d]"] * 4)}]'


@dataclass(frozen=True, slots=True)
class Slab:
    """The unit of work. `id` names its whole content: inputs, flags, recipe, weights. Equal id, equal voxels."""

    id: str
    write: Box
    read: Box

    def row(self) -> list[Any]:
        """A compact, JSON-ready form: [id, write start, write stop, read start, read stop]."""
        return [self.id, self.write.start, self.write.stop, self.read.start, self.read.stop]

    @staticmethod
    def of(row: Sequence[Any]) -> Slab:
        """The slab of a row."""
        w0, w1, r0, r1 = (tuple(v) for v in row[1:])
        return Slab(row[0], Box(w0, w1), Box(r0, r1))


class Slabs(Sequence[Slab]):
    """Slabs in order, kept as columns: each is made when it is looked at."""

    def __init__(self, ids: NDArray[np.bytes_], boxes: NDArray[np.int32]) -> None:
        self.ids = ids  # (n,) S16
        self.boxes = boxes  # (n, 12) write start, write stop, read start, read stop, each (z, y, x)

    @staticmethod
    def of(slabs: Iterable[Slab]) -> Slabs:
        """Of slabs one by one. Raises ValueError for an id that is none, OverflowError for a box beyond 2^31."""
        columns = Columns()
        for slab in slabs:
            columns.add(slab)
        return columns.slabs()

    @staticmethod
    def joined(parts: Sequence[Slabs]) -> Slabs:
        """One after another; at least one."""
        return Slabs(np.concatenate([p.ids for p in parts]), np.concatenate([p.boxes for p in parts]))

    @staticmethod
    def parse(rows: bytes) -> Slabs:
        """Of what `blocks("", ",")` makes. It is not checked whether brackets are where they should be: who must know
        that compares hashes. Raises ValueError for what cannot be rows.
        """
        from pyarrow import csv, int32

        names = [f"{n:02}" for n in range(12)]
        types = {"column_types": dict.fromkeys(names, int32()), "include_columns": names, "null_values": []}
        table = csv.read_csv(
            BytesIO(rows.replace(b"]],[", b"\n").translate(None, b'[]"')),
            csv.ReadOptions(use_threads=False, column_names=["id", *names]),
            convert_options=csv.ConvertOptions(**types),
        )
        ids = ids_in(rows)
        if len(ids) != len(table):
            raise ValueError(f"{len(ids)} ids in {len(table)} rows")
        return Slabs(ids, np.stack([table[n].to_numpy() for n in names], 1))

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Slab]:
        return (Slab.of(row) for row in self.rows())

    @overload
    def __getitem__(self, at: int) -> Slab: ...
    @overload
    def __getitem__(self, at: slice | NDArray[np.int64]) -> Slabs: ...
    def __getitem__(self, at: int | slice | NDArray[np.int64]) -> Slab | Slabs:
        if isinstance(at, (slice, np.ndarray)):
            return Slabs(self.ids[at], self.boxes[at])
        one = range(len(self))[at]
        return Slab.of(next(self[one : one + 1].rows()))

    def __contains__(self, slab: object) -> bool:
        return isinstance(slab, Slab) and any(self[int(i)] == slab for i in self._places(slab.id))

    @cached_property
    def _sorted(self) -> tuple[Ids, NDArray[np.int64]]:
        """The ids in ascending order, and where each stands here."""
        at = order(self.ids)
        return Ids(self.ids[at]), at

    def _places(self, slab_id: str) -> NDArray[np.int64]:
        ids, at = self._sorted
        first, last = (np.searchsorted(ids.raw, column([slab_id]), side) for side in ("left", "right"))
        return at[int(first[0]) : int(last[0])]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Slabs):
            return NotImplemented
        return np.array_equal(self.ids, other.ids) and np.array_equal(self.boxes, other.boxes)

    __hash__ = None  # type: ignore[assignment]

    def rows(self) -> Iterator[list[Any]]:
        """The row of each slab."""
        for start in range(0, len(self), TOGETHER):
            text = self.ids[start : start + TOGETHER].tobytes().hex()
            boxes = self.boxes[start : start + TOGETHER].tolist()
            for i, b in enumerate(boxes):
                yield [text[32 * i : 32 * i + 32], b[0:3], b[3:6], b[6:9], b[9:12]]

    def blocks(self, space: str = " ", between: str = ",\n") -> Iterator[str]:
        """Each slab's row as JSON, thousands of rows in one text. space: after commas; between: what joins rows."""
        row = JSON_ROW.replace(" ", space)
        for start in range(0, len(self), TOGETHER):
            ids, boxes = self.ids[start : start + TOGETHER], self.boxes[start : start + TOGETHER]
            cells = np.empty((len(ids), 13), object)
            cells[:, 0], cells[:, 1:] = list(Ids(ids)), boxes
            yield between.join([row] * len(ids)) % tuple(cells.ravel().tolist())  # thrice as fast as an encoder

    def but(self, done: Ids) -> Slabs:
        """Those that are not done."""
        left = done.at(self.ids) < 0
        return Slabs(self.ids[left], self.boxes[left])


class Columns:
    """Slabs that are still being named."""

    def __init__(self) -> None:
        self._ids, self._boxes = bytearray(), array("i")

    def add(self, slab: Slab) -> None:
        """One more. Raises ValueError for an id that is none, OverflowError for a box beyond 2^31."""
        self._ids += _sixteen(slab.id)
        for corner in slab.row()[1:]:
            self._boxes.extend(corner)

    def extend(self, ids: bytes | bytearray, boxes: NDArray[np.int32]) -> None:
        """More of them: sixteen bytes each, and (n, 12) as `Slabs` has them."""
        self._ids += ids
        self._boxes.frombytes(boxes.tobytes())

    def slabs(self) -> Slabs:
        """All of them."""
        boxes = np.frombuffer(self._boxes, np.int32) if self._boxes else np.empty(0, np.int32)
        return Slabs(np.frombuffer(bytes(self._ids), f"S{WIDTH}"), boxes.reshape(-1, 12))


def ids_in(lines: bytes) -> NDArray[np.bytes_]:
    """(n,) S16, the ids of what `blocks` makes, without looking at the boxes. Raises ValueError for what has none."""
    text = np.frombuffer(lines, np.uint8)
    quotes = np.flatnonzero(text == ord('"'))
    first, last = quotes[::2] + 1, quotes[1::2]
    if len(first) != len(last) or (last - first != 2 * WIDTH).any():
        raise ValueError("an id has not 32 digits")
    if not len(first):
        return column([])
    anywhere = np.ndarray(len(lines) - 2 * WIDTH + 1, f"S{2 * WIDTH}", lines, strides=(1,))  # what begins at each byte
    return column([anywhere[first].tobytes().decode()])


def _sixteens(ids: Sequence[str]) -> NDArray[np.bytes_]:
    raw = column(ids)
    if len(raw) != len(ids):
        raise ValueError("an id has not 32 digits")
    return raw


def _sixteen(slab_id: str) -> bytes:
    raw = bytes.fromhex(slab_id)
    if len(raw) != WIDTH:
        raise ValueError(f"no id of a slab: {slab_id}")
    return raw
