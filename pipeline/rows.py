"""Rows: thousands of records as columns. Records of a run are alike but for where they are and what was counted, so
whoever goes through all of them looks once at what a kind of them shares, and at numbers for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX
from pipeline.ids import Ids, column
from pipeline.packfile import LONGS, Json, Row, common, encode, sixteens, table, told_from

VOXELS = LONGS[2:]  # of label 1, 2, …


@dataclass(frozen=True, eq=False)
class Rows:
    """Records in any number. `kinds` holds what those of one kind share; its boxes are told from a record's corner."""

    ids: NDArray[np.bytes_]  # (n,) S16
    corner: NDArray[np.int64]  # (n, 3) first voxel of the write box (z, y, x)
    voxels: NDArray[np.int64]  # (n, 5) of label 1 to 5
    kind: NDArray[np.int64]  # (n,) which of `kinds`
    kinds: list[Json]  # as records, but `chunks` are [start, stop, number of digests]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: NDArray[Any]) -> Rows:
        """Some of them: a mask, or where they stand."""
        return replace(self, **{k: getattr(self, k)[which] for k in ("ids", "corner", "voxels", "kind")})

    def of_ids(self, wanted: Ids) -> Rows:
        """Those of a set."""
        return self.take(wanted.at(self.ids) >= 0)

    def each_kind(self) -> Iterator[tuple[Json, Rows]]:
        """The records of each kind that there is one of, with what they share."""
        counts = np.bincount(self.kind, minlength=len(self.kinds))
        for n in np.flatnonzero(counts).tolist():
            yield self.kinds[n], self if counts[n] == len(self) else self.take(self.kind == n)

    def names(self) -> list[str]:
        """Each one's id."""
        return list(Ids(self.ids))

    def boxes(self, name: str, shared: Json) -> Iterator[tuple[tuple[int, ...], ...]]:
        """The `write` or `read` box of each, which must be of one kind: (start, stop)."""
        (z0, y0, x0), (z1, y1, x1) = shared[name]
        for z, y, x in self.corner.tolist():
            yield (z0 + z, y0 + y, x0 + x), (z1 + z, y1 + y, x1 + x)

    def codes(self, shape: ZYX, start: Iterable[int] = (0, 0, 0)) -> NDArray[np.int64]:
        """(n,) one number for a voxel of each: the one so far from its corner."""
        z, y, x = (self.corner + np.array(list(start), np.int64)).T
        return np.asarray((z * shape[1] + y) * shape[2] + x)


def of_records(records: Iterable[Json]) -> Rows:
    """Of records one by one."""
    rows = [encode(record) for record in records]
    texts = list(dict.fromkeys(row["rest"] for row in rows))
    number = {text: n for n, text in enumerate(texts)}
    return _made(
        column(row["slab"] for row in rows),
        np.array([[_int(row, k) for k in "zyx"] for row in rows], np.int64).reshape(-1, 3),
        np.array([[_int(row, k) for k in VOXELS] for row in rows], np.int64).reshape(-1, len(VOXELS)),
        np.array([number[row["rest"]] for row in rows], np.int64),
        texts,
        np.array(["z" not in row for row in rows], bool),
    )


def of_pack(raw: bytes, at: NDArray[np.int64]) -> Rows:
    """Of the bytes of a pack, the rows that stand there, in ascending order. They must be records."""
    import pyarrow as pa

    found = table(raw, ["slab", "z", "y", "x", *VOXELS, "rest"], ["rest"])
    if len(at) < len(found):
        found = found.take(pa.array(at))
    if not len(found):
        return of_records(())
    rest = found["rest"].unify_dictionaries().combine_chunks()

    def numbers(names: Iterable[str]) -> NDArray[np.int64]:
        columns = [found[name] for name in names]
        whole = (c.fill_null(0) if c.null_count else c for c in columns)
        return np.stack([c.to_numpy() for c in whole], 1).astype(np.int64, copy=False)

    return _made(
        sixteens(found["slab"]),
        numbers("zyx"),
        numbers(VOXELS),
        rest.indices.to_numpy().astype(np.int64),
        rest.dictionary.to_pylist(),
        found["z"].is_null().to_numpy(),
    )


def _int(row: Row, name: str) -> int:
    return int(row.get(name) or 0)


def _made(
    ids: NDArray[np.bytes_],
    corner: NDArray[np.int64],
    voxels: NDArray[np.int64],
    kind: NDArray[np.int64],
    texts: list[str],
    odd: NDArray[np.bool_],
) -> Rows:
    """odd: which rows are records as they are, unlike others."""
    kinds = [common(text) for text in texts]
    for row in np.flatnonzero(odd):
        record = kinds[kind[row]]
        corner[row] = record["write"][0]
        voxels[row] = [record["voxels"].get(k.removeprefix("voxels_"), 0) for k in VOXELS]
        kinds[kind[row]] = {**record, **told_from(record)}
    return Rows(ids, corner, voxels, kind, kinds)
