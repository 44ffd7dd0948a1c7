"""What the lanes of one process share: memory, the restorer, and the end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import gap
from pipeline.lanes import EXIT_CODE, Budget, Exit, Turn, ends_process
from tests.jobs import ROOT, build
from tests.toys import Copier


class StickyDeviceError(RuntimeError):
    """As a restorer has it: known by its name alone."""


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError("no room"), "memory"),
        (OutOfMemoryError("CUDA out of memory"), "memory"),
        (StickyDeviceError("an illegal memory access"), "device"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),
        (ValueError("CUDA error is what the label says"), ""),
        (RuntimeError("no such luck"), ""),
        (OSError("disk"), ""),
    ],
)
def test_which_errors_end_a_process(error: Exception, kind: str) -> None:
    assert ends_process(error) == kind


def hold_many(budget: Budget, sizes: list[int], most: int) -> tuple[int, int]:
    """Most bytes and most slabs that were held at once; the first wait until so many slabs are."""
    seen: list[tuple[int, int]] = []
    met = threading.Event()

    def one(size: int) -> None:
        with budget.hold(size):
            seen.append((budget.used, budget.held))
            if len(seen) >= most:
                met.set()
            assert met.wait(120)
            time.sleep(0.02)  # for one more, which must not come

    with ThreadPoolExecutor(len(sizes)) as pool:
        list(pool.map(one, sizes))
    assert len(seen) == len(sizes)
    assert (budget.used, budget.held) == (0, 0)
    return max(s[0] for s in seen), max(s[1] for s in seen)


def test_no_more_bytes_are_in_hand_than_the_budget_allows() -> None:
    assert hold_many(Budget(100), [40, 40, 40, 40], 2) == (80, 2)
    assert hold_many(Budget(0), [40, 40, 40], 3) == (120, 3), "0 bounds nothing"


def test_one_slab_is_always_let_in() -> None:
    assert hold_many(Budget(100), [500, 500], 1) == (500, 1)


def test_a_big_slab_is_not_passed_by_small_ones_for_ever() -> None:
    budget, order, held, go = Budget(100), [], threading.Event(), threading.Event()

    def one(size: int) -> None:
        with budget.hold(size):
            order.append(size)
            held.set()
            assert go.wait(120)

    threads = [threading.Thread(target=one, args=(size,), daemon=True) for size in (60, 100, 30, 30)]
    threads[0].start()
    assert held.wait(120)
    threads[1].start()
    while not budget._door.locked():  # until the big one waits at it
        time.sleep(0.001)
    for thread in threads[2:]:
        thread.start()
    time.sleep(0.05)  # for the small ones to slip past
    go.set()
    for thread in threads:
        thread.join()
    assert order == [60, 100, 30, 30]


def test_a_slab_that_fails_gives_its_bytes_back() -> None:
    budget = Budget(10)
    with pytest.raises(KeyError), budget.hold(10):
        raise KeyError
    assert (budget.used, budget.held) == (0, 0)


def test_an_ordinary_error_gives_the_turn_to_the_next() -> None:
    exit = Exit()
    turn = Turn(exit)
    with pytest.raises(ArithmeticError), turn:
        raise ArithmeticError
    with turn:
        pass
    assert not exit.reason


DYING = """
import threading, time
from pipeline import lanes
from pipeline.lanes import Exit, Turn
lanes.GRACE_S = 3600  # who waits for lanes that wait for it never ends
exit = Exit()
turn = Turn(exit)
has_turn, wants_turn, at_work, told, comes = (threading.Event() for _ in range(5))

def fails():
    with exit.lane():
        try:
            with turn:
                has_turn.set()
                wants_turn.wait()
                at_work.wait()
                raise MemoryError("no room")
        except MemoryError:
            print("told", flush=True)
            told.set()

def waits():  # for its turn: it must not meet the same error
    has_turn.wait()
    with exit.lane():
        wants_turn.set()
        with turn:
            print("restored after the error", flush=True)

def writes():
    with exit.lane():
        at_work.set()
        comes.wait()
        print("written", flush=True)

def late():
    told.wait()
    comes.set()
    with exit.lane():
        print("began after the error", flush=True)

for work in (fails, waits, writes, late):
    threading.Thread(target=work).start()
threading.Event().wait()
"""


def test_a_process_ends_after_its_lanes_have_and_nobody_begins_anew() -> None:
    process = subprocess.run([sys.executable, "-c", DYING], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert process.returncode == EXIT_CODE
    assert process.stdout.split() == ["told", "written"]
    assert "this worker's process ends: MemoryError: no room" in process.stderr


class Waiting(Copier):
    """At its first tile waits until somebody makes the second one ready."""

    ready, waited = threading.Event(), threading.Event()

    def restore(self, window, known, targets, origin):
        assert Waiting.ready.wait(120), "nobody made the next batch ready while this one was restored"
        Waiting.waited.set()
        return super().restore(window, known, targets, origin)


def test_the_next_batch_is_made_ready_while_the_restorer_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, window, made = build(tmp_path), gap._window, []

    def counted(*given):
        made.append(1)
        if len(made) == 2:
            Waiting.ready.set()
        return window(*given)

    monkeypatch.setattr(gap, "_window", counted)
    summary = job.run(recipe={"restorer": "tests.test_lanes:Waiting"}, certificate=0, output={"mode": "overlay"})
    assert Waiting.waited.is_set() and summary["done"] == summary["slabs"]
