"""Cluster: where slabs are worked on, and what to do when one fails. Only this module and `run` may know dask."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pipeline.config import Site
from pipeline.errors import InputError, StoreLockedError, UnfitError, ZmendError
from pipeline.plan import Slab

OnEvent = Callable[[dict[str, Any]], None]
WINDOW = 3  # slabs in flight per worker: two at work, one waiting; a stop has no more than these to finish
ALONE_S = 60.0  # without any worker; a nanny gives up on one that dies again and again
POLL_S = 0.01
HOPELESS = 10  # failures without a single success: everything fails alike, so stop
SETTINGS = {
    # Our window bounds what is in flight; the scheduler's own queue would only add 470 µs a task to that.
    "distributed.scheduler.worker-saturation": "inf",
    # When a worker dies, every slab that it held is suspected, most of them wrongly: they go elsewhere at once,
    # and only one that has seen four workers die comes back to us as a failure.
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.work-stealing": False,
    # Per-task logs are what grows in a run of a million slabs.
    "distributed.admin.log-length": 200,
    "distributed.admin.low-level-log-length": 200,
    # Slabs are big and few: a worker that pauses at 80 % of memory would never go on.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.comm.timeouts.connect": "60s",
}


def threads_per_worker(site: Site) -> int:
    """CPU threads that the restorer of one worker may use; dask's nanny would leave it a single one."""
    return site.threads or max(1, (os.cpu_count() or 1) // max(1, site.workers))


@contextmanager
def connect(site: Site) -> Iterator[Any]:
    """A dask client on the cluster that the site describes; all of it is gone when the `with` ends."""
    import dask
    from distributed import Client, LocalCluster

    # Two slabs in a worker: while one computes, the other reads or writes. The restorer itself is behind a lock.
    with dask.config.set(SETTINGS):
        with _workers_ignore_interrupts():
            cluster = LocalCluster(
                n_workers=site.workers,
                threads_per_worker=2,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # on loopback, any free port: two runs on one host do not quarrel
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _workers_ignore_interrupts() -> Iterator[None]:
    """A terminal sends Ctrl-C to every process of the group, but only the driver decides: children inherit "ignore"."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class Attempts:
    """Counts failures and decides: try again, go on without, or stop."""

    allowed: int
    tell: OnEvent
    succeeded: bool = False

    def __post_init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.lost: list[tuple[Slab, BaseException]] = []

    def again(self, slab: Slab, error: BaseException) -> bool:
        """Whether to try the slab once more. Raises what trying again cannot mend."""
        if isinstance(error, InputError | StoreLockedError):
            raise error
        self.count[slab.id] += 1
        self.tell({"kind": "failure", "slab": slab.id, "attempt": self.count[slab.id], "error": in_words(error)})
        if not self.succeeded and self.count.total() >= HOPELESS:
            raise self._error(slab, error, f"{HOPELESS} failures and no success: everything fails alike")
        if self.count[slab.id] < self.allowed:
            return True
        self.lost.append((slab, error))
        return False

    def finish(self) -> None:
        """Raises for the first slab that was given up, if any."""
        if self.lost:
            slab, error = self.lost[0]
            raise self._error(slab, error, f"{len(self.lost)} slabs failed {self.allowed} times each") from error

    def _error(self, slab: Slab, error: BaseException, what: str) -> ZmendError:
        return ZmendError(
            what,
            where=f"slab {slab.id} {slab.write}",
            why=in_words(error),
            do="mend the cause and run again: finished slabs are kept; -vv shows the traceback",
        )


def in_words(error: BaseException) -> str:
    """An error as people read it."""
    if type(error).__name__ == "KilledWorker":
        return "the worker died again and again while it held this slab: out of memory, or killed from outside"
    return f"{type(error).__name__}: {error}"


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
