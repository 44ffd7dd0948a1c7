"""Force: which records count. What counts no more is kept with its chunks; chunks that no record names are erased.

    survey     what lies there: records, their chunks, chunks of nobody (one pass over all records)
    retire     take records out of force, their chunks with them; killed at any point, the next run goes on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.ids import Ids
from pipeline.kept import Kept
from pipeline.ledger import Ledger
from pipeline.rows import Rows, of_records
from pipeline.volume import Volume


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


def survey(
    ledger: Ledger, arrays: Mapping[str, Volume], doubtful: Callable[[str], object] | None = None
) -> Survey:
    """Look at every record, and at which chunks exist. A record that cannot be trusted is put aside, and what is
    half-made among the chunks is removed, unless `doubtful` is to hear of such ids instead."""
    shape = next(iter(arrays.values())).shape
    here = [_Present(array, sweep=doubtful is None) for array in arrays.values()]
    found = Survey()
    made: dict[str, bytearray] = {}
    for rows in ledger.rows(doubtful or ledger.discard):  # of one that cannot be trusted nothing is left to retire
        for shared, alike in rows.each_kind():
            whole = _whole(shared, alike, here, shape)
            found.broken.update(alike.take(~whole).names())
            alike = alike.take(whole)
            if "attempt" in shared:
                found.attempts |= dict.fromkeys(alike.names(), int(shared["attempt"]))
            found.passing.update(alike.names() if shared.get("may_pass") else ())
            made.setdefault(shared["run"], bytearray()).extend(alike.ids.tobytes())
    for shared, alike in of_records(record for _, record in ledger.retiring()).each_kind():
        _whole(shared, alike, here, shape)  # a run was killed over it: its chunks are still to be kept
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
    now = np.sort(np.concatenate([np.empty(0, np.int64), *(rows.codes(shape) for rows in ledger.rows())]))
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

    def __init__(self, array: Volume, *, sweep: bool) -> None:
        self.array = array
        z, y, x = (array.cells(sweep=sweep) * np.array(array.grain)).T  # no boxes: there are millions
        codes = (z * array.shape[1] + y) * array.shape[2] + x
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


def _whole(shared: Mapping[str, Any], alike: Rows, here: Sequence[_Present], shape: ZYX) -> NDArray[np.bool_]:
    """Of records of one kind, which ones tell of no chunk that does not exist.

    here: the chunks of overlay, labels and uncertainty, in the order of a record's digests.
    """
    whole = np.full(len(alike), all(count <= len(here) for *_, count in shared["chunks"]))
    for start, _, count in shared["chunks"]:
        codes = alike.codes(shape, start)
        for present in here[:count]:
            whole &= present.name(codes)
    return whole


def _code(start: Sequence[int], shape: ZYX) -> int:
    """One number for a chunk's first voxel."""
    return (int(start[0]) * shape[1] + int(start[1])) * shape[2] + int(start[2])
