"""Queue: the slabs of a run that wait: those never sent, drawn only when wanted, and those that must be tried again."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count

from pipeline.attempts import Verdict
from pipeline.plan import Slab


class Queue:
    """First what waited out its delay, then one that workers died under, then fresh ones. Times in s of one clock."""

    def __init__(self, todo: Iterable[Slab]) -> None:
        self.back: dict[str, str] = {}  # slabs that came back undone, by id: the worker that each is to avoid, or ""
        self._fresh = iter(todo)
        self._returned: deque[Slab] = deque()  # as they went; before the fresh ones
        self._later: list[tuple[float, int, Slab]] = []  # when, tie, slab
        self._tie = count()
        # Those that workers died under go one at a time: else the guilty takes the same innocents along each time.
        self._suspects: list[Slab] = []
        self._tried: str = ""  # the suspect in flight

    def __bool__(self) -> bool:
        """Whether anything waits."""
        if self._later or self._suspects or self._returned:
            return True
        first = next(self._fresh, None)
        if first is not None:
            self._returned.append(first)
        return first is not None

    def draw(self, wanted: int, now: float) -> Iterator[Slab]:
        """Up to so many slabs that may go now."""
        for _ in range(wanted):
            slab = self._next(now)
            if slab is None:
                return
            yield slab

    def _next(self, now: float) -> Slab | None:
        if self._later and self._later[0][0] <= now:
            return heapq.heappop(self._later)[2]
        if self._suspects and not self._tried:
            slab = self._suspects.pop(0)
            self._tried = slab.id
            return slab
        return self._returned.popleft() if self._returned else next(self._fresh, None)

    def settle(self, slab: Slab, verdict: Verdict | None = None, now: float = 0.0) -> None:
        """A slab came back: done (no verdict), or as the verdict says."""
        if slab.id == self._tried:
            self._tried = ""
        self.back.pop(slab.id, None)
        if verdict is None or not verdict.again:
            return
        self.back[slab.id] = verdict.avoid
        if verdict.alone:
            self._suspects.append(slab)
        else:
            heapq.heappush(self._later, (now + verdict.delay_s, next(self._tie), slab))

    def put_back(self, slab: Slab, *, by_itself: bool) -> None:
        """A slab came back as it went, and no fault of its own is known. by_itself: it is not to go with others."""
        self.settle(slab)
        if by_itself:
            self.back[slab.id] = ""
        self._returned.append(slab)

    def wait_s(self, now: float) -> float:
        """Until the next slab's delay is over; for ever where none waits so."""
        return max(0.001, self._later[0][0] - now) if self._later else math.inf
