"""Flight: the slabs that workers have in hand, and the copies of those that are late. Only this and `crew` await."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

from pipeline.attempts import Failure
from pipeline.plan import Slab

GATHER_S = 20.0  # for results of a few hundred bytes; what has not come by then is on a worker that is gone
TOGETHER_S = 0.02  # what comes within so little of another is fetched with it: many cost as much as one
CUT_OFF = Failure("cut off", "the scheduler could not be reached any more")
NUMBER, ME = count(), uuid4().hex[:12]  # no key twice: who still knows it answers with what it was
LOST_RESULT = "what the worker had just finished cannot be had from it: it died, or does not answer"


@dataclass(frozen=True)
class Attempt:
    """A task that never raises: a failure is told as data, judged where the error's own package is at hand."""

    task: Callable[[list[Any]], Any]

    def __call__(self, row: list[Any]) -> Any:
        from distributed import get_worker

        try:
            return self.task(row)
        except Exception as error:
            return Failure.of(error, get_worker().address)


@dataclass(frozen=True, slots=True)
class Trip:
    """One slab sent to the workers, once."""

    slab: Slab
    future: Any
    sent: float


class Flight:
    """Slabs in the hands of the workers. At most two copies of each."""

    def __init__(self, client: Any, task: Callable[[list[Any]], Any]) -> None:
        from distributed import as_completed

        self._client, self._attempt = client, Attempt(task)
        self._done = as_completed(loop=client.loop)
        self._trips: dict[Any, Trip] = {}  # by key
        self._keys: dict[str, list[Any]] = {}  # of a slab: one, or two where it has a copy

    def __len__(self) -> int:
        return len(self._keys)

    def send(self, slabs: Iterable[Slab], avoid: Mapping[str, str], workers: Sequence[str], now: float) -> None:
        """Send slabs on their way; one that failed on a worker goes to another, if there is one."""
        free: list[Slab] = []
        for slab in slabs:
            others = [w for w in workers if w != avoid.get(slab.id)] if slab.id in avoid else []
            if others:
                self._map([slab], now, workers=others, allow_other_workers=True)
            else:
                free.append(slab)
        self._map(free, now)

    def _map(self, slabs: Sequence[Slab], now: float, **where: Any) -> None:
        if not slabs:
            return
        keys = [(f"slab-{next(NUMBER)}-{ME}", s.id) for s in slabs]
        rows = [s.row() for s in slabs]
        futures = self._client.map(self._attempt, rows, key=keys, retries=0, pure=False, **where)
        for slab, key, future in zip(slabs, keys, futures, strict=True):
            self._trips[key] = Trip(slab, future, now)
            self._keys.setdefault(slab.id, []).append(key)
        self._done.update(futures)

    def alone(self) -> dict[str, float]:
        """Slabs without a copy, and when they were sent."""
        return {s: self._trips[keys[0]].sent for s, keys in self._keys.items() if len(keys) == 1}

    def copy(self, late: Sequence[str], workers: Sequence[str], now: float) -> Iterator[tuple[Slab, str]]:
        """Send copies of slabs to workers that do not have them. Yields the slab, and who is slow."""
        if not late:
            return
        try:
            holders = {key: worker for worker, keys in self._client.processing().items() for key in keys}
        except OSError:  # the scheduler went away this very moment
            return
        for slab_id in late:
            (key,) = self._keys[slab_id]
            slow = holders.get(key, "")
            self._map([self._trips[key].slab], now, workers=[w for w in workers if w != slow])
            yield self._trips[key].slab, slow

    def land(self, patience_s: float) -> Iterator[tuple[Slab, float, Any]]:
        """Slabs that came back, waiting so long for the first: the slab, s since it was sent, result or Failure."""
        if not self._trips:
            time.sleep(patience_s)
            return
        with self._done.thread_condition:
            ready = self._done.thread_condition.wait_for(self._done.has_ready, patience_s)
        if ready:
            time.sleep(TOGETHER_S)
        keys = [f.key for f in self._done.next_batch(block=False) if f.key in self._trips]
        now = time.monotonic()
        for key, outcome in zip(keys, self._outcomes([self._trips[k].future for k in keys]), strict=True):
            trip = self._trips.pop(key, None)
            if trip is None:  # its copy came in this very batch
                continue
            others = [k for k in self._keys.pop(trip.slab.id) if k != key]
            if others and isinstance(outcome, Failure) and outcome.cause != "fatal":
                self._keys[trip.slab.id] = others  # the copy may make it
                continue
            for k in others:  # who was first counts
                self._client.cancel([self._trips.pop(k).future])
            yield trip.slab, now - trip.sent, outcome

    def _outcomes(self, futures: list[Any]) -> list[Any]:
        """Results, or what failed. In one go for those that finished; nothing is kept once it is here."""
        finished = [f for f in futures if f.status == "finished"]
        results = dict(zip((f.key for f in finished), self._gather(finished), strict=True))
        return [results[f.key] if f.key in results else self._failure(f) for f in futures]

    def _gather(self, futures: list[Any]) -> list[Any]:
        if not futures:
            return []
        coming = asyncio.run_coroutine_threadsafe(
            self._client.gather(futures, asynchronous=True), self._client.loop.asyncio_loop
        )
        try:
            return list(coming.result(GATHER_S))
        except Exception:
            coming.cancel()
            if len(futures) > 1:
                return [r for f in futures for r in self._gather([f])]
            return [Failure("lost", LOST_RESULT) if self._client.status == "running" else CUT_OFF]

    def _failure(self, future: Any) -> Failure:
        """Of a slab whose worker could not even tell: it died, was taken away, or cannot be reached any more."""
        if self._client.status != "running":
            return CUT_OFF
        if future.status not in ("error", "cancelled"):
            return Failure("lost", f"the slab was {future.status}")
        try:
            future.result(GATHER_S)
        except Exception as error:
            cut_off = getattr(error, "reason", "") == "scheduler-connection-lost"  # and it was found again
            return CUT_OFF if cut_off else Failure.of(error)
        raise AssertionError("it has failed")
