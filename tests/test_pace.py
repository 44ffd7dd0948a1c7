"""How many slabs are in flight, and which are late: arithmetic on made-up times."""

from __future__ import annotations

import math
import random
import statistics

from pipeline.pace import ENOUGH, KEPT, LATE_S, Pace


def paced(*took: float, every: float = 10.0) -> Pace:
    pace = Pace()
    for n, seconds in enumerate(took):
        pace.done(n * every, seconds)
    return pace


def test_three_slabs_a_worker_are_in_flight() -> None:
    assert [Pace().window(n) for n in (1, 2, 16)] == [3, 6, 48]
    assert paced(*[30.0] * 20).window(4) == 12


def test_quick_slabs_fill_the_way_to_the_workers() -> None:
    assert paced(*[0.01] * 100, every=0.01).window(2) == 50
    assert paced(*[0.01] * 100, every=1e-6).window(2) == 384, "and there is a bound"


def test_quick_slabs_travel_together_and_others_alone() -> None:
    assert Pace().together(1) == 1
    assert paced(*[30.0] * 20).together(4) == 1
    assert paced(*[0.01] * 100, every=0.01).together(2) == 50 // 12, "six parcels of them for each"
    assert paced(*[0.01] * 100, every=1e-6).together(2) == 32, "and there is a bound"
    assert paced(*[0.01] * 7, every=1e-6).together(2) == 1, "a few say nothing yet"


def test_slabs_that_come_back_at_one_moment_are_no_quick_ones() -> None:
    """Sixteen workers that began at once end at once; the time that they took counts, not the moment between."""
    pace = paced(*[0.5] * 48, every=0.0)
    assert pace.window(16) == 48
    assert pace.together(16) == 1


def test_late_is_three_times_the_median_and_never_less_than_half_a_minute() -> None:
    assert paced(*[20.0] * (ENOUGH - 1)).limit_s == math.inf
    assert paced(*[20.0] * ENOUGH).limit_s == 60.0
    assert paced(*[1.0] * ENOUGH).limit_s == LATE_S
    assert paced(*[20.0] * ENOUGH).late({"a": 0.0, "b": 39.0, "c": 41.0}, 100.0) == ["a", "b"]


def test_the_median_is_of_the_last_slabs() -> None:
    rng, pace = random.Random(1), Pace()
    times = [rng.uniform(20, 90) for _ in range(KEPT + 700)]
    for n, took in enumerate(times):
        pace.done(float(n), took)
    assert pace.limit_s == 3 * statistics.median(times[-KEPT:])
