"""Pace: how fast slabs come back, and what follows: how many to have in flight, and which have taken too long."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Hashable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

PER_WORKER = 3  # slabs in flight: one is read, one restored, one written; a stop has few more than these to finish
AHEAD_S = 0.5  # where slabs are quicker than the way to a worker and back, so much work is on its way
MOST_PER_WORKER = 192
PARCELS = 6  # of them, in flight for each worker: to send one and to fetch it costs 0.6 ms, whatever it holds
LATE = 3.0  # times the median: a slab that takes longer gets a copy on another worker
LATE_S = 30.0  # but none that takes less than this: a copy costs a slab's work
ENOUGH = 8  # finished slabs before a rate or a median means anything
KEPT = 999  # finished slabs that are looked back on


class Pace:
    """The last finished slabs: when each came back, and how long after it was sent. Seconds of one clock."""

    def __init__(self) -> None:
        self._came: deque[float] = deque(maxlen=KEPT)
        self._took: deque[float] = deque(maxlen=KEPT)
        self._sorted: list[float] = []
        self._since = math.inf  # when the first of them was sent

    def done(self, now: float, took: float) -> None:
        """One slab came back."""
        self._since = self._came[0] if len(self._came) == KEPT else min(self._since, now - took)
        if len(self._took) == KEPT:
            self._sorted.pop(bisect_left(self._sorted, self._took[0]))
        self._came.append(now)
        self._took.append(took)
        insort(self._sorted, took)

    def window(self, workers: int) -> int:
        """Slabs to have in flight."""
        ahead = math.ceil(AHEAD_S * self._a_second())
        return max(PER_WORKER * workers, min(MOST_PER_WORKER * workers, ahead))

    def together(self, workers: int) -> int:
        """Slabs to send to a worker in one parcel: more than one where it has many in flight, being so quick."""
        return max(1, self.window(workers) // (PARCELS * workers))

    def _a_second(self) -> float:
        """Slabs that come back in a second, from all workers; 0 where too few have to tell."""
        span = self._came[-1] - self._since if len(self._came) >= ENOUGH else 0.0
        return len(self._came) / span if span > 0 else 0.0

    @property
    def limit_s(self) -> float:
        """A slab that has been away for longer is late."""
        if len(self._sorted) < ENOUGH:
            return math.inf
        return max(LATE_S, LATE * self._sorted[len(self._sorted) // 2])

    def late(self, sent: Mapping[K, float], now: float) -> list[K]:
        """Which of those sent are late, longest away first."""
        limit = self.limit_s
        return sorted((s for s, when in sent.items() if now - when > limit), key=lambda s: sent[s])
