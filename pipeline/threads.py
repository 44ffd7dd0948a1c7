"""Threads: work spread over them, a bounded number of items in flight: those of a petabyte do not fit into memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
