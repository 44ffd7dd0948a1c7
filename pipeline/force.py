"""Force: which records count. What counts no more is kept with its chunks; chunks that no record names are erased.

    survey     what lies there: records, their chunks, chunks of nobody (one pass over all records)
    retire     take records out of force, their chunks with them; killed at any point, the next run goes on
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.ids import Ids
from pipeline.kept import Kept
from pipeline.ledger import Ledger
from pipeline.volume import Volume

TOGETHER = 4096  # records that are looked at at once


@dataclass
class Survey:
    """What a pass over all records finds."""

    made: dict[str, bytes] = field(default_factory=dict)  # run: ids of its whole records, sixteen bytes each
    broken: set[str] = field(default_factory=set)  # ids of records of which a chunk is gone
    attempts: dict[str, int] = field(default_factory=dict)  # of the slabs that were rejected before
    passing: set[str] = field(default_factory=set)  # ids of slabs that were given up for what may have passed
    strays: list[list[Box]] = field(default_factory=list)  # of each array, the chunks that no record names

    @property
    def ids(self) -> Ids:
        """Of the records that are whole."""
        return Ids.of(np.frombuffer(b"".join(self.made.values()), "S16"))


def survey(ledger: Ledger, arrays: Mapping[str, Volume]) -> Survey:
    """Look at every record, and at which chunks exist. A record that cannot be trusted is put aside."""
    shape = next(iter(arrays.values())).shape
    here = [_Present(array) for array in arrays.values()]
    found, records = Survey(), ledger.records()
    made: dict[str, bytearray] = {}
    while some := list(islice(records, TOGETHER)):
        for slab_id in (i for i, record in some if record is None):
            ledger.discard(slab_id)  # nothing is left to retire
        known = [(i, record) for i, record in some if record is not None]
        broken = _broken([(i, r["chunks"]) for i, r in known], here, shape)
        for slab_id, record in known:
            if slab_id not in broken:
                found.attempts |= {slab_id: record["attempt"]} if "attempt" in record else {}
                found.passing |= {slab_id} if record.get("may_pass") else set()
                made.setdefault(record["run"], bytearray()).extend(bytes.fromhex(slab_id))
        found.broken |= broken
    for _, record in ledger.retiring():  # a run was killed over it: its chunks are still to be kept
        _broken([(record["slab"], record["chunks"])], here, shape)
    found.made = {run: bytes(ids) for run, ids in made.items()}
    found.strays = [p.unnamed() for p in here]
    return found


def retire(ledger: Ledger, stale: Iterable[str], kept: Kept, run: str) -> None:
    """Take records out of force, and what a killed run began to: their chunks are kept, then they become history.

    For a place at which no slab will be made before this has ended.
    """
    ledger.retire(stale)
    if next(ledger.retiring(), None) is None:
        return
    shape = next(iter(kept.arrays.values())).shape
    now = np.array([_code(r["write"][0], shape) for _, r in ledger.records() if r is not None], np.int64)
    now.sort()
    for name, record in ledger.retiring():
        at = int(np.searchsorted(now, _code(record["write"][0], shape)))
        if at == len(now) or now[at] != _code(record["write"][0], shape):
            kept.take(record)
        ledger.finish_retiring(name, run)  # else its slab has another id by now, and these are its chunks


def erase(strays: Sequence[Sequence[Box]], arrays: Mapping[str, Volume]) -> None:
    """Remove chunks that no record names: a run was killed before it could, and a merge would believe them."""
    for array, boxes in zip(arrays.values(), strays, strict=True):
        for box in boxes:
            array.erase(box)


class _Present:
    """The chunks of one array that exist, and those of them that a record names."""

    def __init__(self, array: Volume) -> None:
        self.array = array
        starts = ([i * g for i, g in zip(cell, array.grain, strict=True)] for cell, _ in array.objects())
        codes = np.fromiter((_code(start, array.shape) for start in starts), np.int64)  # no boxes: there are millions
        self.codes = np.sort(codes)
        self.named = np.zeros(len(codes), bool)

    def name(self, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark chunks as named; which of them exist."""
        if not len(self.codes):
            return np.zeros(len(codes), bool)
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        there: NDArray[np.bool_] = self.codes[at] == codes
        self.named[at[there]] = True
        return there

    def unnamed(self) -> list[Box]:
        """The chunks that no record names."""
        _, y, x = self.array.shape
        starts = ((c // (y * x), c // x % y, c % x) for c in self.codes[~self.named].tolist())
        return [self.array.box(tuple(a // g for a, g in zip(s, self.array.grain, strict=True))) for s in starts]


def _broken(known: Sequence[tuple[str, list[Any]]], here: Sequence[_Present], shape: ZYX) -> set[str]:
    """Ids of records that tell of chunks which do not exist.

    here: the chunks of overlay, labels and uncertainty, in the order of a record's digests.
    """
    broken = {i for i, chunks in known if any(len(c) - 2 > len(here) for c in chunks)}
    for level, present in enumerate(here):
        told = [(i, _code(c[0], shape)) for i, chunks in known for c in chunks if len(c) - 2 > level]
        there = present.name(np.array([code for _, code in told], np.int64))
        broken.update(told[int(n)][0] for n in np.flatnonzero(~there))
    return broken


def _code(start: Sequence[int], shape: ZYX) -> int:
    """One number for a chunk's first voxel."""
    return (int(start[0]) * shape[1] + int(start[1])) * shape[2] + int(start[2])
