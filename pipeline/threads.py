"""Threads: work spread over them, a bounded number of items in flight: those of a petabyte do not fit into memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import lru_cache, partial
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
WINDOW = 16  # items in flight


def in_order(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], window: int = WINDOW) -> Iterator[R]:
    """The pool's `map`, which would take all items at once. Results come in the order of the items."""
    rest = iter(items)
    waiting: deque[Future[R]] = deque(pool.submit(work, item) for item in islice(rest, window))
    try:
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(rest, 1))
            yield done
    finally:
        for future in waiting:
            future.cancel()


def as_done(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], window: int = WINDOW) -> Iterator[R]:
    """The same in the order in which results come."""
    waiting, rest = set[Future[R]](), iter(items)
    try:
        while True:
            waiting |= {pool.submit(work, item) for item in islice(rest, window - len(waiting))}
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (f.result() for f in finished)
    finally:
        for future in waiting:
            future.cancel()


def each(work: Callable[[T], object], items: Sequence[T]) -> None:
    """Do the work on every item, on all cores; returns when all is done. Raises the first error. It must not call
    `each` itself: the threads are shared, and would wait for each other."""
    if len(items) < 2 or CORES < 2:
        for item in items:
            work(item)
        return
    deque(_cores(os.getpid()).map(work, items), maxlen=0)


def mapped(threads: int) -> Callable[[Callable[[T], R], Iterable[T]], Iterator[R]]:
    """A `map` that is done by this thread alone, or, where it may take several, on all cores, few items ahead. As with
    `each`, what it is to do must call neither."""
    return map if threads < 2 else partial(in_order, _cores(os.getpid()))


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _cores(process: int) -> ThreadPoolExecutor:
    """The threads of this process: one that was forked has none of those that its parent had."""
    return ThreadPoolExecutor(CORES, thread_name_prefix="codec")
