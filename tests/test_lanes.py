"""What the lanes of one process share: memory, the restorer, and the end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import slab
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


def hold_many(budget: Budget, sizes: list[int], each_s: float = 0.02) -> tuple[int, int]:
    """Most bytes and most slabs that were held at once."""
    seen: list[tuple[int, int]] = []

    def one(size: int) -> None:
        with budget.hold(size):
            seen.append((budget.used, budget.held))
            time.sleep(each_s)

    with ThreadPoolExecutor(len(sizes)) as pool:
        list(pool.map(one, sizes))
    assert len(seen) == len(sizes)
    assert (budget.used, budget.held) == (0, 0)
    return max(s[0] for s in seen), max(s[1] for s in seen)


def test_no_more_bytes_are_in_hand_than_the_budget_allows() -> None:
    assert hold_many(Budget(100), [40, 40, 40, 40]) == (80, 2)
    assert hold_many(Budget(0), [40, 40, 40]) == (120, 3), "0 bounds nothing"


def test_one_slab_is_always_let_in() -> None:
    assert hold_many(Budget(100), [500, 500]) == (500, 1)


def test_a_big_slab_is_not_passed_by_small_ones_for_ever() -> None:
    budget, order = Budget(100), []

    def one(size: int) -> None:
        with budget.hold(size):
            order.append(size)
            time.sleep(0.05)

    threads = [threading.Thread(target=one, args=(size,)) for size in (60, 100, 30, 30)]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
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
import sys, threading, time
from pipeline.lanes import Exit, Turn
exit, said = Exit(), []
turn = Turn(exit)

def fails():
    with exit.lane():
        try:
            with turn:
                time.sleep(0.2)
                raise MemoryError("no room")
        except MemoryError:
            print("told", flush=True)

def waits():  # for its turn: it must not meet the same error
    with exit.lane(), turn:
        print("restored after the error", flush=True)

def writes():
    with exit.lane():
        time.sleep(0.8)
        print("written", flush=True)

def late():
    time.sleep(0.4)
    with exit.lane():
        print("began after the error", flush=True)

for work in (fails, waits, writes, late):
    threading.Thread(target=work).start()
    time.sleep(0.05)
time.sleep(60)
"""


def test_a_process_ends_after_its_lanes_have_and_nobody_begins_anew() -> None:
    began = time.monotonic()
    process = subprocess.run([sys.executable, "-c", DYING], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert process.returncode == EXIT_CODE
    assert process.stdout.split() == ["told", "written"]
    assert "this worker's process ends: MemoryError: no room" in process.stderr
    assert time.monotonic() - began < 15, "it does not wait for lanes that wait for it"


class Waiting(Copier):
    """At its first tile waits until somebody makes the second one ready."""

    ready, waited = threading.Event(), threading.Event()

    def restore(self, window, known, targets, origin):
        assert Waiting.ready.wait(120), "nobody made the next batch ready while this one was restored"
        Waiting.waited.set()
        return super().restore(window, known, targets, origin)


def test_the_next_batch_is_made_ready_while_the_restorer_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, window, made = build(tmp_path), slab._window, []

    def counted(*given):
        made.append(1)
        if len(made) == 2:
            Waiting.ready.set()
        return window(*given)

    monkeypatch.setattr(slab, "_window", counted)
    summary = job.run(recipe={"restorer": "tests.test_lanes:Waiting"}, certificate=0, output={"mode": "overlay"})
    assert Waiting.waited.is_set() and summary["done"] == summary["slabs"]
