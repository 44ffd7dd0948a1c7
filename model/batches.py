"""Batch: how many windows a network call should hold on this device. Measured once, when a run is planned.

The batch is in the recipe, since it moves the last bits of a voxel: workers never choose their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from model.guard import DeviceMemoryError

MOST = 64  # windows; beyond that a call takes seconds, and what waits for it waits too long
ENOUGH = 0.95  # of the best throughput: a smaller batch that comes so close needs less memory and pads less
REPEATS = 3


def best(seconds_of: Callable[[int], float], most: int = MOST) -> int:
    """The batch to use, of 1, 2, 4, … `most`. seconds_of(n): what one call with n windows takes; may not fit."""
    return choose(dict(_measured(seconds_of, most)))


def choose(seconds: Mapping[int, float]) -> int:
    """The smallest batch whose throughput is nearly the best; 1 where nothing could be measured."""
    rate = {n: n / took for n, took in seconds.items()}
    return min((n for n in rate if rate[n] >= ENOUGH * max(rate.values())), default=1)


def _measured(seconds_of: Callable[[int], float], most: int) -> Iterator[tuple[int, float]]:
    n = 1
    while n <= most:
        try:
            yield n, seconds_of(n)
        except DeviceMemoryError:
            return
        n *= 2


def median_seconds(call: Callable[[], object]) -> float:
    """Of a few calls after one that warms up. The call must wait for its device."""
    call()
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return sorted(took)[REPEATS // 2]
