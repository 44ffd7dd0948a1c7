"""Ids: a million slabs' ids as sixteen bytes each, sorted: 16 MB, and a search takes microseconds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

WIDTH = 16  # bytes; an id is their 32 hexadecimal digits
_ID = re.compile(r"[0-9a-f]{32}")


def is_id(text: str) -> bool:
    """Whether this is an id as slabs have it."""
    return _ID.fullmatch(text) is not None


def column(ids: Iterable[str]) -> NDArray[np.bytes_]:
    """(n,) S16 of ids, in their order."""
    return np.frombuffer(bytes.fromhex("".join(ids)), f"S{WIDTH}")


def order(raw: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """(n,) indices that sort a column; equal ones keep their order."""
    first, second = np.frombuffer(raw.tobytes(), ">u8").astype(np.uint64).reshape(-1, 2).T
    at = np.argsort(first)  # numbers are sorted faster than bytes, and one half nearly always tells
    return np.lexsort((second, first)) if (first[at[1:]] == first[at[:-1]]).any() else at


def last_of_each(ascending: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """(n,) of a sorted column, which are the last ones of those that equal them."""
    both = _halves(ascending)
    return np.append((both[1:] != both[:-1]).any(1), True)[: len(ascending)]


class Ids:
    """A set of ids."""

    def __init__(self, ascending: NDArray[np.bytes_]) -> None:
        self.raw = ascending  # (n,) S16, distinct, sorted

    @staticmethod
    def of(raw: NDArray[np.bytes_]) -> Ids:
        """Of distinct ones, in any order."""
        return Ids(raw[order(raw)])

    def plus(self, raw: NDArray[np.bytes_]) -> Ids:
        """These, and those of a column of distinct ones; quick where it holds few."""
        new = Ids.of(raw[self.at(raw) < 0])
        return Ids(np.insert(self.raw, np.searchsorted(self.raw, new.raw), new.raw)) if new else self

    @cached_property
    def _sorted_heads(self) -> NDArray[np.uint64]:
        """Made once: for a million ids that takes longer than ten thousand searches."""
        return _heads(self.raw)

    @cached_property
    def _halves(self) -> NDArray[np.uint64]:
        return _halves(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.raw), 4096):
            text = self.raw[start : start + 4096].tobytes().hex()
            yield from (text[i : i + 2 * WIDTH] for i in range(0, len(text), 2 * WIDTH))

    def __contains__(self, slab_id: str) -> bool:
        return self.find(slab_id) is not None

    def holds(self, others: Ids) -> bool:
        """Whether all others are here, too."""
        return bool((self._at(others.raw) >= 0).all()) if len(self) else not len(others)

    def find(self, slab_id: str) -> int | None:
        """Where an id stands among the sorted ones, or None."""
        if not is_id(slab_id):
            return None
        (at,) = self.at(column([slab_id]))
        return int(at) if at >= 0 else None

    def at(self, raw: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """(n,) where each id of a column stands, -1 for those that are not here."""
        if not len(self.raw):
            return np.full(len(raw), -1)
        by = np.argsort(_heads(raw))  # in their order they are found several times as fast
        found = np.empty(len(raw), np.int64)
        found[by] = self._at(raw[by])
        return found

    def _at(self, raw: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """`at` of ids whose first halves ascend."""
        at = np.minimum(np.searchsorted(self._sorted_heads, _heads(raw)), len(self.raw) - 1)
        mine, others = self._halves, _halves(raw)
        alike = mine[at, 0] == others[:, 0]
        same = alike & (mine[at, 1] == others[:, 1])
        twins = np.flatnonzero(alike & ~same)  # alike in the first half
        if len(twins):
            at[twins] = np.minimum(np.searchsorted(self.raw, raw[twins]), len(self.raw) - 1)
            same[twins] = (mine[at[twins]] == others[twins]).all(1)
        return np.where(same, at, -1)


def _halves(raw: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """(n, 2) both halves, as they lie: whether two are equal is seen faster than of bytes."""
    return np.ascontiguousarray(raw).view(np.uint64).reshape(-1, 2)


def _heads(raw: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """The first eight bytes of each, as a number that sorts like them."""
    return np.frombuffer(raw.tobytes(), ">u8")[::2].astype(np.uint64)
