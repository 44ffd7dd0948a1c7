"""Crew: the workers of one run, and the bounded window of slabs that they have in hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from pipeline.attempts import Attempts, Failure, OnEvent, Verdict
from pipeline.cluster import connect, cut_off, present
from pipeline.errors import UnfitError
from pipeline.flight import Flight, Undone
from pipeline.lanes import LANES, halted
from pipeline.pace import Pace
from pipeline.plan import Slab
from pipeline.queue import Queue
from pipeline.site import Site

TICK_S = 0.5  # how often, at least, one looks at what no slab tells: workers, stops, slabs that are late
LOOK_S = 1.0  # how often workers are counted and named

Task = Callable[[list[Any]], dict[str, Any]]


@contextmanager
def _lanes() -> Iterator[ThreadPoolExecutor]:
    """Threads of this process that work as those of a worker do. Who is interrupted does not wait for whole slabs."""
    with ThreadPoolExecutor(LANES, "lane") as pool:
        try:
            yield pool
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            with halted():
                pool.shutdown(cancel_futures=True)
            raise


class Crew:
    """The workers of one run: this process, or a cluster that starts with the first task and ends with the `with`."""

    def __init__(self, site: Site, tell: OnEvent, stopped: Callable[[], bool]) -> None:
        self.site, self.tell, self.stopped = site, tell, stopped
        self._ends, self._client = ExitStack(), None

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def work(self, todo: Iterable[Slab], task: Task, attempts: Attempts) -> Iterator[dict[str, Any]]:
        """What the task makes of each slab's row, as it comes; nothing new is begun once asked to stop.

        `todo` is drawn from as the work goes on. Slabs that failed for good are in `attempts.given_up`; raises what
        trying again cannot mend, and where nothing succeeded.
        """
        queue = Queue(todo)
        yield from self._here(queue, task, attempts) if self.site.workers == 0 else self._there(queue, task, attempts)
        attempts.finish()

    def _here(self, queue: Queue, task: Task, attempts: Attempts) -> Iterator[dict[str, Any]]:
        hands: dict[Future[dict[str, Any]], Slab] = {}
        with _lanes() as pool:
            while hands or (queue and not self.stopped()):
                now = time.monotonic()
                for slab in queue.draw(LANES - len(hands), now) if not self.stopped() else ():
                    hands[pool.submit(task, slab.row())] = slab
                patience = TICK_S if len(hands) == LANES else min(TICK_S, queue.wait_s(now))
                if not hands:
                    time.sleep(patience)
                for done in wait(hands, patience, FIRST_COMPLETED).done:
                    slab = hands.pop(done)
                    if (error := done.exception()) is not None:
                        queue.settle(slab, attempts.judge(slab, Failure.of(error)), time.monotonic())
                    else:
                        attempts.success(slab, empty=_empty(done.result()))
                        queue.settle(slab)
                        yield done.result()

    def _there(self, queue: Queue, task: Task, attempts: Attempts) -> Iterator[dict[str, Any]]:
        client, pace = self._connected(), Pace()
        flight, roll = Flight(client, task), Roll(client, self.site, self.tell)
        while flight or (queue and not self.stopped()):
            now = time.monotonic()
            roll.look(now)
            if self.stopped() and not roll.workers:
                return  # what was sent is in nobody's hand: it would wait for workers that are still in a queue
            if not self.stopped() and not roll.cut_off:
                _send(flight, queue, pace, roll.workers, now)
            if not roll.cut_off:  # who is asked to stop would wait for a worker that hangs, too
                self._copy_late(flight, pace, roll, now)
            for slab, took, outcome in flight.land(min(TICK_S, queue.wait_s(now))):
                if isinstance(outcome, Undone):
                    queue.put_back(slab, by_itself=outcome.by_itself)
                elif isinstance(outcome, Failure):
                    verdict = attempts.judge(slab, outcome)
                    roll.dismiss(outcome, verdict)
                    queue.settle(slab, verdict, time.monotonic())
                else:
                    pace.done(time.monotonic(), took)
                    attempts.success(slab, empty=_empty(outcome))
                    queue.settle(slab)
                    yield outcome

    def _copy_late(self, flight: Flight, pace: Pace, roll: Roll, now: float) -> None:
        """What takes far longer than others is begun on another worker too: the first to finish counts."""
        if roll.looked != now or len(roll.workers) < 2:
            return
        for slab, worker in flight.copy(pace.late(flight.alone(), now)[: len(roll.workers)], roll.workers, now):
            self.tell({"kind": "straggler", "slab": slab.id, "worker": worker, "limit_s": round(pace.limit_s, 1)})

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._ends.enter_context(connect(self.site, self.tell))
        return self._client


def _send(flight: Flight, queue: Queue, pace: Pace, workers: tuple[str, ...], now: float) -> None:
    """Fill the window. What came back undone goes by itself: it may take along those that it travels with."""
    fresh, number = list[Slab](), max(1, len(workers))
    for slab in queue.draw(pace.window(number) - len(flight), now):
        if slab.id in queue.back:
            flight.send_again(slab, queue.back[slab.id], workers, now)
        else:
            fresh.append(slab)
    flight.send(fresh, pace.together(number), now)


def _empty(outcome: dict[str, Any]) -> bool:
    """Whether a slab held nothing to restore: a part of a tile that its flag's mask leaves out."""
    return "voxels" in outcome and not any(outcome["voxels"].values())


class Roll:
    """The workers that there are now."""

    def __init__(self, client: Any, site: Site, tell: OnEvent) -> None:
        self.workers: tuple[str, ...] = ()  # their addresses
        self.cut_off = False  # from the scheduler, and so from all of them
        self._client, self._site, self._tell = client, site, tell
        self.looked, self._seen, self._unfit = -LOOK_S, time.monotonic(), ""

    def look(self, now: float) -> None:
        """Ask who is there, now and then. Raises UnfitError where nobody has been there for too long, or ever will."""
        self._find_scheduler()
        if now - self.looked >= LOOK_S or self.cut_off:
            self.looked = now
            self.workers = () if self.cut_off else present(self._client)
        self._seen = now if self.workers or self.cut_off else self._seen
        replaced = self._site.kind == "slurm"  # elsewhere nobody comes for one that was sent away
        if now - self._seen > self._site.alone_s or (self._unfit and not self.workers and not replaced):
            raise UnfitError(
                "no worker is left",
                why=self._unfit
                or f"none has been there for {self._site.alone_s:.0f} s: out of memory, or killed from outside",
                do="give them more memory or take fewer (site.workers), and run again: finished slabs are kept",
            )

    def _find_scheduler(self) -> None:
        name, before = self._site.address or self._site.scheduler_file, self.cut_off
        self.cut_off = cut_off(self._client, name)
        if self.cut_off and not before:
            self._tell({"kind": "warning", "text": f"the scheduler does not answer, and is waited for: {name}"})

    def dismiss(self, failure: Failure, verdict: Verdict) -> None:
        """Send a worker away that cannot do any slab, and say so."""
        if not verdict.dismiss or failure.worker not in self.workers:
            return
        self._unfit = failure.words
        self.workers = tuple(w for w in self.workers if w != failure.worker)
        self._client.retire_workers([failure.worker], close_workers=True)
        self._tell({"kind": "worker_left", "worker": failure.worker, "why": failure.words})
