"""Flight: the slabs that workers have in hand, and the copies of those that are late. Only this and `crew` await."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

from pipeline.attempts import Failure
from pipeline.plan import Slab

GATHER_S = 20.0  # for results of a few hundred bytes; what has not come by then is on a worker that is gone
TOGETHER_S = 0.005  # what comes within so little of another is fetched with it: many cost as much as one
CUT_OFF = Failure("cut off", "the scheduler could not be reached any more")
NUMBER, ME = count(), uuid4().hex[:12]  # no key twice: who still knows it answers with what it was
PARCEL_S = 1.0  # after which a worker begins no further slab of a parcel
LOST_RESULT = "what the worker had just finished cannot be had from it: it died, or does not answer"


@dataclass(frozen=True, slots=True)
class Undone:
    """Of a slab that came back as it went, through no fault of its own that one knows of."""

    by_itself: bool  # is how it is to go again: a worker died with the parcel that it was in


@dataclass(frozen=True)
class Attempt:
    """The task on one slab after another, up to the first that fails, for then the process may be of no use, and no
    longer than PARCEL_S: those that one knows were quick, these may not be. It never raises: a failure is told as data,
    judged where the error's own package is at hand."""

    task: Callable[[list[Any]], Any]

    def __call__(self, parcel: Parcel) -> list[Any]:
        from distributed import get_worker

        outcomes: list[Any] = []
        end = time.monotonic() + PARCEL_S
        for row in parcel.rows:
            if outcomes and time.monotonic() > end:
                break
            try:
                outcomes.append(self.task(row))
            except Exception as error:
                return [*outcomes, Failure.of(error, get_worker().address)]
        return outcomes


@dataclass(frozen=True, slots=True)
class Parcel:
    """Slabs that travel together, as rows. No list: dask would look through it for what it must wait for."""

    rows: list[list[Any]]


@dataclass(frozen=True, slots=True)
class Trip:
    """Slabs sent to a worker together, once."""

    slabs: Sequence[Slab]
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

    def send(self, fresh: Sequence[Slab], together: int, now: float) -> None:
        """Send slabs on their way, so many together."""
        self._map([fresh[n : n + together] for n in range(0, len(fresh), together)], now)

    def send_again(self, slab: Slab, avoid: str, workers: Sequence[str], now: float) -> None:
        """Send a slab that came back, by itself; not to a worker that is to be avoided, if there is another."""
        others = [w for w in workers if w != avoid] if avoid else []
        self._map([[slab]], now, **({"workers": others, "allow_other_workers": True} if others else {}))

    def _map(self, parcels: Sequence[Sequence[Slab]], now: float, **where: Any) -> None:
        if not parcels:
            return
        keys = [(f"slab-{next(NUMBER)}-{ME}", slabs[0].id) for slabs in parcels]
        rows = [Parcel([slab.row() for slab in slabs]) for slabs in parcels]
        futures = self._client.map(self._attempt, rows, key=keys, retries=0, pure=False, **where)
        for slabs, key, future in zip(parcels, keys, futures, strict=True):
            self._trips[key] = Trip(slabs, future, now)
            for slab in slabs:
                self._keys.setdefault(slab.id, []).append(key)
        self._done.update(futures)

    def alone(self) -> dict[Any, float]:
        """Parcels, by key, that hold a slab of which there is no copy, and when they were sent."""
        return {key: trip.sent for key, trip in self._trips.items() if self._without_copy(key, trip)}

    def _without_copy(self, key: Any, trip: Trip) -> list[Slab]:
        return [slab for slab in trip.slabs if self._keys.get(slab.id) == [key]]

    def copy(self, late: Sequence[Any], workers: Sequence[str], now: float) -> Iterator[tuple[Slab, str]]:
        """Send copies of what parcels hold to workers that do not have them. Yields each slab, and who is slow."""
        if not late:
            return
        try:
            holders = {key: worker for worker, keys in self._client.processing().items() for key in keys}
        except OSError:  # the scheduler went away this very moment
            return
        for key in late:
            slow, slabs = holders.get(key, ""), self._without_copy(key, self._trips[key])
            self._map([[slab] for slab in slabs], now, workers=[w for w in workers if w != slow])
            yield from ((slab, slow) for slab in slabs)

    def land(self, patience_s: float) -> Iterator[tuple[Slab, float, Any]]:
        """Slabs that came back, waiting so long for the first: the slab, s since it was sent, and a result,
        Failure or Undone."""
        if not self._trips:
            time.sleep(patience_s)
            return
        with self._done.thread_condition:
            ready = self._done.thread_condition.wait_for(self._done.has_ready, patience_s)
        if ready:
            time.sleep(TOGETHER_S)
        keys = [f.key for f in self._done.next_batch(block=False) if f.key in self._trips]
        now = time.monotonic()
        for key, outcomes in zip(keys, self._outcomes([self._trips[k] for k in keys]), strict=True):
            trip = self._trips.pop(key, None)
            if trip is None:  # copies of all that it held came in this very batch
                continue
            not_begun = [Undone(by_itself=False)] * (len(trip.slabs) - len(outcomes))
            for slab, outcome in zip(trip.slabs, [*outcomes, *not_begun], strict=True):
                held = self._keys.get(slab.id, [])
                if key not in held:  # its copy was first
                    continue
                held.remove(key)
                if held and _may_heal(outcome):
                    continue  # the copy may make it
                del self._keys[slab.id]
                for other in held:
                    self._give_up(other)
                yield slab, now - trip.sent, outcome

    def _give_up(self, key: Any) -> None:
        """Call a trip back of which nothing is wanted any more."""
        if not any(key in self._keys.get(slab.id, ()) for slab in self._trips[key].slabs):
            self._client.cancel([self._trips.pop(key).future])

    def _outcomes(self, trips: Sequence[Trip]) -> list[list[Any]]:
        """Results, or what failed. In one go for those that finished; nothing is kept once it is here."""
        finished = [trip.future for trip in trips if trip.future.status == "finished"]
        results = dict(zip((f.key for f in finished), self._gather(finished), strict=True))
        return [self._outcome(trip, results.get(trip.future.key)) for trip in trips]

    def _outcome(self, trip: Trip, result: list[Any] | Failure | None) -> list[Any]:
        """Of each of its slabs; of fewer where the others were not begun."""
        if isinstance(result, list):
            return result
        failure = result or self._failure(trip.future)
        if failure.cause == "lost" and len(trip.slabs) > 1:  # whose fault it was, nobody can tell yet
            return [Undone(by_itself=True)] * len(trip.slabs)
        return [failure] * len(trip.slabs)

    def _gather(self, futures: list[Any]) -> list[list[Any] | Failure]:
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


def _may_heal(outcome: Any) -> bool:
    """Whether another attempt may end otherwise."""
    return isinstance(outcome, Undone) or (isinstance(outcome, Failure) and outcome.cause != "fatal")
