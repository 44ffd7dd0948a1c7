"""Packs: the records of a store that were put together into files, so that a million are known in seconds.

packs/00000007-<sha256>.parquet     named after what it holds; it names the sha256 of the one before it

A pack is created whole and never changed. The last row that names a slab counts: a record is in force until a later
row withdraws it, or tells it anew. A pack that does not hash to its name is not believed: its slabs are not done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from pipeline.failpoint import reach
from pipeline.files import Files
from pipeline.ids import WIDTH, Ids, last_of_each, order
from pipeline.packfile import Json, Row, decode, encode, previous, read_ids, read_rows, write
from pipeline.rows import Rows, of_pack

ROWS = 8192  # of one pack, at most
PLACES = 1 << 32  # a pack's number times this, and a row's: one number for a place, which is sorted faster than two
FIRST = "0" * 64  # what the first pack names as the one before it


class Packs:
    """The packed records of one store. One process writes: the holder of the store's lock."""

    def __init__(self, records: Files, fence: Callable[[], None] = lambda: None) -> None:
        self._records, self.files, self._fence = records, records / "packs", fence
        self._names: list[str] | None = None  # None: not read yet
        self._ids, self._at = Ids(np.empty(0, f"S{WIDTH}")), np.empty(0, np.int64)
        self.damaged: list[str] = []  # names of those that are not what they are named after
        self._rows = lru_cache(maxsize=4)(self._read_rows)

    @property
    def ids(self) -> Ids:
        """Of all records in force."""
        self._listed()
        return self._ids

    def get(self, slab_id: str) -> Json | None:
        """A record in force, or None."""
        at = self.ids.find(slab_id)
        if at is None:
            return None
        pack, row = divmod(int(self._at[at]), PLACES)
        return decode(self._rows(self._listed()[pack])[row])

    def records(self) -> Iterator[Json]:
        """Every record in force, in the order in which they were packed."""
        for name, at in self._in_force():
            found = self._read_rows(name)
            yield from (decode(found[row]) for row in at.tolist())

    def rows(self) -> Iterator[Rows]:
        """Every record in force, as columns, pack by pack."""
        yield from (of_pack(self._raw(name), at) for name, at in self._in_force())

    def _in_force(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each pack that has any, and which of its rows are records in force, ascending."""
        names, places = list(self._listed()), np.sort(self._at)
        ends = np.searchsorted(places, np.arange(len(names) + 1) * PLACES)
        for name, start, stop in zip(names, ends[:-1], ends[1:], strict=True):
            if start < stop:
                yield name, places[start:stop] % PLACES

    def append(self, records: Iterable[Json], withdrawn: Iterable[str] = ()) -> None:
        """Add records, and take others out of force. Durable when it returns; a kill before leaves whole packs only."""
        rows: list[Row | str] = [*(encode(r) for r in records), *withdrawn]
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            number, before = self._end()
            raw = write([r for r in part if isinstance(r, dict)], [r for r in part if isinstance(r, str)], before)
            reach("pack", f"pack {number}")
            self._fence()
            self.files.create(f"{number:08d}-{sha256(raw).hexdigest()}.parquet", raw)
            self._names = None

    def discard_damaged(self) -> list[str]:
        """Put packs that cannot be believed aside; returns their names."""
        self._listed()
        for name in self.damaged:
            self._fence()
            self._records.move(f"packs/{name}", f"spoiled/{name}")
        self._names = None
        return self.damaged

    def faults(self) -> list[str]:
        """What is wrong with the packs: damaged ones, and links that are missing from the chain."""
        names = self._listed()
        found = [f"pack {name[:17]}… does not hash to its name: run again" for name in self.damaged]
        before = FIRST
        for number, name in enumerate(self._history()):
            known = name in names and name not in self.damaged
            if int(name[:8]) != number or (known and previous(self._raw(name)) != before):
                found.append(f"pack {name[:17]}… does not follow the one before it")
            before = name[9:73]
        return found

    def _end(self) -> tuple[int, str]:
        """Number of the next pack, and the sha256 of the last one."""
        history = self._history()
        return (int(history[-1][:8]) + 1, history[-1][9:73]) if history else (0, FIRST)

    def _history(self) -> list[str]:
        """All packs that there ever were, in order."""
        return sorted({*self._listed(), *_packs((self._records / "spoiled").names())})

    def _listed(self) -> list[str]:
        if self._names is None:
            self._load()
        return self._names or []

    def _load(self) -> None:
        """Read which slabs are in force. Every byte is hashed."""
        names = _packs(self.files.names())
        parts, self.damaged = [], []
        for n, name in enumerate(names):
            raw = self._raw(name)
            if sha256(raw).hexdigest() == name[9:73]:
                parts.append((n, *read_ids(raw)))
            else:
                self.damaged.append(name)
        self._ids, self._at = in_force(parts)
        self._names = names
        self._rows.cache_clear()

    def _raw(self, name: str) -> bytes:
        return self.files.read(name) or b""

    def _read_rows(self, name: str) -> list[Row]:
        return read_rows(self._raw(name))


def in_force(parts: Sequence[tuple[int, NDArray[np.bytes_], NDArray[np.bool_]]]) -> tuple[Ids, NDArray[np.int64]]:
    """The ids whose last row is a record, sorted, and the place of each: its pack times PLACES, and its row there.

    parts: of each pack in order its number, the ids of its rows (S16), and whether each row withdraws.
    """
    raw = np.frombuffer(b"".join(ids.tobytes() for _, ids, _ in parts), f"S{WIDTH}")
    at = np.concatenate([np.empty(0, np.int64)] + [n * PLACES + np.arange(len(ids)) for n, ids, _ in parts])
    gone = np.concatenate([np.empty(0, bool)] + [withdrawn for _, _, withdrawn in parts])
    by_id = order(raw)
    raw, at, gone = raw[by_id], at[by_id], gone[by_id]
    there = last_of_each(raw) & ~gone  # equal ids stand in the order in which they were written
    return (Ids(raw), at) if there.all() else (Ids(raw[there]), at[there])


def _packs(names: Sequence[str] | None) -> list[str]:
    return sorted(n for n in names or () if n.endswith(".parquet") and not n.startswith("."))
