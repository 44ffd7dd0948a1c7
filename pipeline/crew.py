"""Crew: the workers of one run, and the bounded window of slabs that they have in hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from pipeline.attempts import Attempts, OnEvent
from pipeline.cluster import connect
from pipeline.errors import UnfitError
from pipeline.plan import Slab
from pipeline.site import Site

WINDOW = 3  # slabs in flight per worker: two at work, one waiting; a stop has no more than these to finish
ALONE_S = 60.0  # without any worker; a nanny gives up on one that dies again and again
POLL_S = 0.01


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

    def work(self, todo: Iterable[Slab], task: Callable[[list[Any]], dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """What the task makes of each slab's row, as it comes; nothing new is begun once asked to stop.

        Raises what trying again cannot mend, and for what failed too often.
        """
        attempts = Attempts(self.site.attempts, self.tell)
        yield from self._here(todo, task, attempts) if self.site.workers == 0 else self._there(todo, task, attempts)
        attempts.finish()

    def _here(self, todo: Iterable[Slab], task: Callable[[list[Any]], Any], attempts: Attempts) -> Iterator[Any]:
        queue = list(reversed(list(todo)))
        while queue and not self.stopped():
            slab = queue.pop()
            try:
                yield task(slab.row())
                attempts.succeeded = True
            except Exception as error:
                if attempts.again(slab, error):
                    queue.append(slab)

    def _there(self, todo: Iterable[Slab], task: Callable[[list[Any]], Any], attempts: Attempts) -> Iterator[Any]:
        from distributed import as_completed

        client, pending = self._connected(), iter(todo)
        flying: dict[str, Slab] = {}
        done = as_completed(loop=client.loop)

        def send(slab: Slab) -> None:
            key = f"slab-{slab.id}-{attempts.count[slab.id]}"
            flying[key] = slab
            done.add(client.submit(task, slab.row(), key=key, retries=0, pure=False))

        def refill() -> None:
            while len(flying) < WINDOW * self.site.workers and not self.stopped():
                slab = next(pending, None)
                if slab is None:
                    return
                send(slab)

        refill()
        while flying:
            future = self._next(done, client)
            slab, error = flying.pop(future.key), future.exception()
            if error is None:
                attempts.succeeded = True
                yield future.result()
            elif attempts.again(slab, error) and not self.stopped():
                send(slab)
            future.release()  # a result that is kept would be computed again when its worker dies
            refill()

    @staticmethod
    def _next(done: Any, client: Any) -> Any:
        """The next future that is done. Raises UnfitError where no worker is left to do any: nobody would ever be."""
        seen = time.monotonic()
        while not done.has_ready():
            time.sleep(POLL_S)
            seen = time.monotonic() if client.cluster.scheduler.workers else seen
            if time.monotonic() - seen > ALONE_S:
                raise UnfitError(
                    "no worker is left",
                    why=f"each died, and none has come back for {ALONE_S:.0f} s: out of memory, or killed from outside",
                    do="give them more memory or take fewer (site.workers), and run again: finished slabs are kept",
                )
        return next(done)

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._ends.enter_context(connect(self.site))
        return self._client
