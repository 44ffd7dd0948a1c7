"""Work over threads: in order, a few items ahead, and none begun after a failure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.threads import in_order


def test_results_come_in_order_and_items_are_drawn_as_they_are_wanted() -> None:
    drawn, ahead = 0, []

    def items() -> Iterator[int]:
        nonlocal drawn
        for n in range(100):
            drawn += 1
            yield n

    def work(n: int) -> int:
        time.sleep(0.002 * (n % 3))
        return n * n

    with ThreadPoolExecutor(4) as pool:
        for n, found in enumerate(in_order(pool, work, items(), window=8)):
            assert found == n * n
            ahead.append(drawn - n)
    assert n == 99
    assert max(ahead) <= 9
    with ThreadPoolExecutor(1) as pool:
        assert list(in_order(pool, work, [])) == []


def test_a_failure_ends_it() -> None:
    begun = []

    def work(n: int) -> int:
        begun.append(n)
        return 1 // n

    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        list(in_order(pool, work, [3, 0, *range(1, 100)], window=2))
    assert len(begun) <= 5
