"""Worker: what travels to a worker, and what it does there with one slab.

The first task of a process opens the job and tests the process; the verdict holds for the process's life.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import certificate
from pipeline.errors import InputError, UnfitWorkerError
from pipeline.job import open_job
from pipeline.lanes import Budget, Exit, Turn, ends_process
from pipeline.lock import still_held
from pipeline.memory import of_decoding, of_slab
from pipeline.plan import Slab
from pipeline.selftest import fault
from pipeline.shelf import Shelf
from pipeline.sight import Job, look
from pipeline.slab import leave, restore

_ANSWER = ("slab", "status", "voxels", "bytes_read", "bytes_written", "seconds", "write")


@dataclass(frozen=True)
class Post:
    """What every worker of a run must know; with a slab's row, a few hundred bytes on the wire."""

    out: str
    plan: str
    threads: int = 0  # CPU threads of the restorer
    memory: int = 0  # bytes that the slabs in hand in one process may take together; 0: not bounded
    shelf: int = 0  # bytes of what they leave for each other of what they have read
    device: str = ""  # the kind that the site gives each worker; "": whichever is there
    golden: str = ""  # what the test tile must be like; see selftest
    lock: str = ""  # of the run: nothing is written after it is gone; "": not asked for
    attempt: int = 0  # which the slabs are at; each has a seed of its own
    expendable: bool = False  # the process is a worker's, and may be ended; else it is the driver's own


@dataclass(frozen=True)
class Bench:
    """What the lanes of one process share: the job, and whose turn it is."""

    job: Job
    budget: Budget
    exit: Exit

    @contextmanager
    def place_for(self, slab: Slab) -> Iterator[Job]:
        """Wait until the slab fits into memory beside those in hand."""
        source, draws = self.job.source, self.job.recipe.uncertainty
        with self.budget.hold(of_slab(slab.read, slab.write, source.chunks, source.dtype.itemsize, draws)):
            yield self.job


_OPENING = threading.Lock()  # the lanes of a process share one job: one model in memory
_EXIT = Exit()
_benches: dict[Post, Bench | UnfitWorkerError] = {}


def bench(post: Post) -> Bench:
    """The job, opened and tested once in a process. Raises UnfitWorkerError, the same one from then on."""
    with _OPENING:
        if post not in _benches:
            _benches.clear()  # one run at a time; an earlier one's model is not kept in memory
            _benches[post] = _fit(post)
        found = _benches[post]
    if isinstance(found, UnfitWorkerError):
        raise found
    return found


def put_away() -> None:
    """Let go of the job: what it holds (source, shelf) takes no room beside what comes after it."""
    with _OPENING:
        _benches.clear()


def _fit(post: Post) -> Bench | UnfitWorkerError:
    try:
        job = open_job(post.out, post.plan, post.threads, post.attempt)
    except (InputError, ImportError) as error:
        if not post.expendable:
            raise
        return _unfit(f"{error}")  # the driver has opened all this, so that this host differs
    why = fault(job.restorer, job.needs, device=post.device, golden=post.golden)
    if why:
        return _unfit(why)
    job.source.bound(Budget(of_decoding(job.source.piece_bytes)))
    shared = replace(job, compute_lock=Turn(_EXIT if post.expendable else None), shelf=Shelf(job.source, post.shelf))
    return Bench(shared, Budget(post.memory), _EXIT)


def _unfit(why: str) -> UnfitWorkerError:
    return UnfitWorkerError(
        "a worker is not fit for this run",
        where=_here(),
        why=why,
        do="`zmend doctor --site` on that host tells more; finished slabs are kept, and others do this worker's",
    )


def _here() -> str:
    """This process, for people."""
    return f"{socket.gethostname()}, process {os.getpid()}"


@dataclass(frozen=True)
class Task:
    """Restores a slab."""

    post: Post
    run: str
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)  # what the record of a slab says besides, by its id

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        slab, clock = Slab.of(row), Clock()
        with _lane(self.post), bench(self.post).place_for(slab) as job:
            record = restore(slab, job, run=self.run, on_step=_fenced(clock, self.post), **self.orders.get(slab.id, {}))
        return {**{k: record[k] for k in _ANSWER}, "stages": clock.stages, "worker": _here()}


@dataclass(frozen=True)
class Leave:
    """Leaves a slab that was given up as it is, and records that."""

    post: Post
    run: str
    why: dict[str, str]  # by the slab's id
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        slab, clock = Slab.of(row), Clock()
        with _lane(self.post), bench(self.post).place_for(slab) as job:
            more = self.orders.get(slab.id, {})
            record = leave(slab, job, self.why[slab.id], run=self.run, on_step=_fenced(clock, self.post), **more)
        return {**{k: record[k] for k in _ANSWER}, "stages": clock.stages, "worker": _here()}


@dataclass(frozen=True)
class Recheck:
    """Reads what a slab reads, and says what it holds; nothing is restored."""

    post: Post

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        slab = Slab.of(row)
        with _lane(self.post), bench(self.post).place_for(slab) as job:
            return {"slab": slab.id, "inputs_sha256": look(slab, job).inputs_sha256}


@dataclass(frozen=True)
class Probe:
    """Measures how well a tile of an intact section is restored."""

    post: Post

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        slab = Slab.of(row)
        with _lane(self.post), bench(self.post).place_for(slab) as job:
            return certificate.measure(slab, job)


@contextmanager
def _lane(post: Post) -> Iterator[None]:
    """One slab at work. An error after which the process must end is told in words that the driver can read."""
    if not post.expendable:
        yield
        return
    with _EXIT.lane():
        try:
            yield
        except Exception as error:
            kind = ends_process(error)
            if not kind:
                raise
            said = f"{type(error).__name__}: {error}"
            _EXIT.begin(said)
            # Plain ones: the driver need not import torch to read them, nor what they hold on to.
            raise (MemoryError(said) if kind == "memory" else RuntimeError(said)) from None


def _fenced(clock: Clock, post: Post) -> Callable[[str], None]:
    """The clock, which also sees to it before each chunk and the record that the store is still this run's."""

    def step(name: str) -> None:
        if name != "chunk":
            clock(name)
        if post.lock and name in ("chunk", "record"):
            still_held(post.out, post.lock)

    return step


class Clock:
    """Seconds that a slab spent in each stage: place (of its own making), read, wait, restore, write, record."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, float]] = [("place", time.perf_counter())]

    def __call__(self, step: str) -> None:
        self._marks.append((step, time.perf_counter()))

    @property
    def stages(self) -> dict[str, float]:
        """Milliseconds are enough to see where a slab's time goes."""
        ends = [at for _, at in self._marks[1:]] + [time.perf_counter()]
        return {step: round(end - at, 3) for (step, at), end in zip(self._marks, ends, strict=True)}
