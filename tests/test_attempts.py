"""What follows from a failure: a table of causes, budgets, delays and stops. Nothing here waits or starts a worker."""

from __future__ import annotations

import errno
import pickle
from typing import Any, get_args

import pytest

from pipeline.attempts import AGREE, CAP_S, HOPELESS, PASSING, Attempts, Cause, Failure, Verdict, backoff_s, cause_of
from pipeline.box import Box
from pipeline.errors import InputError, PlanChangedError, StoreLockedError, UnfitError, UnfitWorkerError, ZmendError
from pipeline.plan import Slab
from pipeline.site import Budgets

BUDGETS = Budgets.model_validate({})


def slab(n: int = 0) -> Slab:
    box = Box((n, 0, 0), (n + 1, 8, 8))
    return Slab(f"{n:032x}", box, box)


def fresh(**budgets: int) -> Attempts:
    return Attempts(Budgets.model_validate(budgets), lambda _: None)


def named(name: str, base: type[Exception] = Exception) -> Exception:
    return type(name, (base,), {})("x")


def http(status: int) -> Exception:
    error = Exception("server")
    error.status = status  # type: ignore[attr-defined]
    return error


def aws(status: int) -> Exception:
    error = Exception("SlowDown")
    error.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (InputError("x"), "fatal"),
        (PlanChangedError("x"), "fatal"),
        (StoreLockedError("x"), "fatal"),
        (OSError(errno.ENOSPC, "No space left on device"), "fatal"),
        (OSError(errno.EROFS, "Read-only file system"), "fatal"),
        (OSError(errno.EIO, "Input/output error"), "transient"),
        (OSError("no answer"), "transient"),
        (TimeoutError("slow"), "transient"),
        (ConnectionResetError("gone"), "transient"),
        (http(503), "transient"),
        (http(429), "transient"),
        (aws(503), "transient"),
        (http(404), "error"),
        (aws(403), "error"),
        (PermissionError(errno.EACCES, "denied"), "error"),
        (named("KilledWorker"), "lost"),
        (named("CancelledError"), "lost"),
        (MemoryError("x"), "memory"),
        (named("Exhausted", MemoryError), "memory"),
        (named("OutOfMemoryError", RuntimeError), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "memory"),
        (UnfitWorkerError("x"), "unfit"),
        (UnfitError("x"), "error"),
        (ArithmeticError("x"), "error"),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{type(v).__name__}-{v}"[:40],
)
def test_every_error_has_a_cause(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause


@pytest.mark.parametrize(("cause", "tries"), [("transient", 8), ("lost", 5), ("memory", 3), ("error", 3)])
def test_each_cause_has_its_own_budget(cause: Any, tries: int) -> None:
    attempts = fresh()
    verdicts = []
    for _ in range(tries):
        attempts.success(slab(99))
        verdicts.append(attempts.judge(slab(), Failure(cause, "x", "w1")).again)
    assert verdicts == [True] * (tries - 1) + [False]
    assert [(s.id, f.cause) for s, f in attempts.given_up] == [(slab().id, cause)]


def test_what_may_have_passed_by_the_next_run_and_what_is_the_slabs_own() -> None:
    assert {cause: cause in PASSING for cause in get_args(Cause)} == {
        "transient": True, "lost": True, "memory": True, "error": False,
        "fatal": False, "cut off": False, "unfit": False,  # for which no slab is ever given up
    }  # fmt: skip


def test_causes_are_counted_apart() -> None:
    attempts = fresh(transient=2, lost=2, memory=2, error=2)
    attempts.success(slab(9))
    assert all(attempts.judge(slab(), Failure(c, "x", "w")).again for c in ("transient", "lost", "memory", "error"))
    assert not attempts.judge(slab(), Failure("memory", "x", "w")).again


def test_a_slab_on_which_two_workers_agree_is_given_up() -> None:
    attempts = fresh(error=9)
    attempts.success(slab(9))
    assert attempts.judge(slab(), Failure("error", "ValueError: bad tile 7 at 0x7f3a", "tcp://a:1")) == Verdict(True, avoid="tcp://a:1")
    assert attempts.judge(slab(), Failure("error", "KeyError: other", "tcp://b:1")).again, "another failure is no agreement"
    assert attempts.judge(slab(), Failure("error", "ValueError: bad tile 7 at 0x7f3b", "tcp://a:1")).again, "the same worker is no second"
    assert not attempts.judge(slab(), Failure("error", "ValueError: bad tile 7 at 0x11aa", "tcp://b:1")).again
    assert AGREE == 2


def test_what_passes_waits_longer_and_longer_and_alike_each_time() -> None:
    attempts = fresh(transient=20)
    waits = [attempts.judge(slab(), Failure("transient", "x")).delay_s for _ in range(10)]
    attempts = fresh(transient=20)
    assert waits == [attempts.judge(slab(), Failure("transient", "x")).delay_s for _ in range(10)], "no dice"
    for n, wait in enumerate(waits):
        assert 0.5 * min(CAP_S, 2**n) <= wait < min(CAP_S, 2**n)
    assert len({backoff_s(slab(n).id, 1) for n in range(50)}) > 25, "slabs that failed at once do not return at once"


def test_lost_slabs_go_at_once_and_alone() -> None:
    assert fresh().judge(slab(), Failure("lost", "x")) == Verdict(True, alone=True)


def test_an_unfit_worker_leaves_and_its_slab_is_not_charged() -> None:
    attempts = fresh(error=1)
    attempts.success(slab(9))
    for n in range(HOPELESS - 1):
        assert attempts.judge(slab(), Failure("unfit", "no GPU", f"w{n}")) == Verdict(True, avoid=f"w{n}", dismiss=True)
    with pytest.raises(UnfitError, match="10 workers were not fit, one after the other") as e:
        attempts.judge(slab(), Failure("unfit", "no GPU", "w10"))
    assert e.value.why == "no GPU"


def test_success_clears_a_slab() -> None:
    attempts = fresh(error=2)
    for _ in range(5):
        assert attempts.judge(slab(), Failure("error", "x", "w")).again
        attempts.success(slab())


def test_fatal_stops_with_the_error_itself() -> None:
    error = PlanChangedError("the weights are others", do="install them")
    with pytest.raises(PlanChangedError, match="the weights are others") as e:
        fresh().judge(slab(), pickle.loads(pickle.dumps(Failure.of(error, "w1"))))
    assert "on worker w1" in e.value.__notes__[0]
    with pytest.raises(UnfitError, match="the disk is full, or cannot be written on") as full:
        fresh().judge(slab(), Failure.of(OSError(errno.ENOSPC, "No space left on device")))
    assert "No space left" in full.value.why


def test_ten_failures_without_a_success_stop() -> None:
    attempts = fresh()
    with pytest.raises(ZmendError, match="10 failures and no success: everything fails alike") as e:
        for n in range(HOPELESS):
            assert len(attempts.given_up) == 0
            attempts.judge(slab(n), Failure("error", "no such luck", "w"))
    assert n == HOPELESS - 1
    assert "run again: finished slabs are kept" in e.value.do


def test_an_outage_at_the_start_does_not_stop() -> None:
    attempts = fresh()
    for n in range(100):
        assert attempts.judge(slab(n), Failure("transient", "503")).again


def test_an_outage_that_does_not_pass_does() -> None:
    """The first two failures of a slab may be of the outage; from the third on each counts."""
    attempts = fresh()
    for n in range(5):
        for _ in range(AGREE):
            attempts.judge(slab(n), Failure("transient", "503"))
    with pytest.raises(ZmendError, match="10 failures and no success"):
        for more in range(1, 99):
            attempts.judge(slab(more % 5), Failure("transient", "503"))
    assert more == HOPELESS


def test_ten_slabs_given_up_in_a_row_stop_even_late() -> None:
    attempts = fresh(error=1)
    attempts.success(slab(99))
    for n in range(HOPELESS - 1):
        attempts.judge(slab(n), Failure("error", "x"))
    attempts.success(slab(98))
    for n in range(HOPELESS - 1):
        attempts.judge(slab(n), Failure("error", "x"))
    with pytest.raises(ZmendError, match="10 slabs were given up, one after the other"):
        attempts.judge(slab(50), Failure("error", "x"))


def test_a_slab_without_anything_to_restore_says_nothing_of_the_others() -> None:
    attempts = fresh(error=9)
    for n in range(HOPELESS - 1):
        attempts.judge(slab(n), Failure("error", "x"))
        attempts.success(slab(90 + n), empty=True)
    with pytest.raises(ZmendError, match="10 failures and no success"):
        attempts.judge(slab(50), Failure("error", "x"))


@pytest.mark.parametrize(("hope", "succeeded", "strict", "stops"), [(0, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 1, 1)])
def test_a_run_in_which_nothing_came_of_anything_fails(hope: int, succeeded: int, strict: int, stops: int) -> None:
    attempts = Attempts(Budgets.model_validate({"error": 1}), lambda _: None, hope=bool(hope))
    if succeeded:
        attempts.success(slab(1))
    attempts.judge(slab(), Failure("error", "no such luck"))
    if stops:
        with pytest.raises(ZmendError, match="1 slabs failed"):
            attempts.finish(strict=bool(strict))
    else:
        attempts.finish(strict=bool(strict))


def test_a_failure_tells_what_people_need() -> None:
    events: list[dict[str, Any]] = []
    Attempts(BUDGETS, events.append).judge(slab(), Failure.of(OSError("no answer"), "tcp://a:1"))
    (event,) = events
    assert {k: event[k] for k in ("kind", "cause", "attempt", "error", "worker", "again")} == {
        "kind": "failure", "cause": "transient", "attempt": 1, "error": "OSError: no answer", "worker": "tcp://a:1", "again": True,
    }  # fmt: skip
    assert 0.5 <= event["delay_s"] < 1


def test_to_be_cut_off_from_the_scheduler_is_no_failure() -> None:
    """All slabs in flight come back at once: ten of them would be taken for a run in which everything fails alike."""
    told: list[dict[str, Any]] = []
    attempts = Attempts(BUDGETS, told.append)
    for n in range(50):
        assert attempts.judge(slab(n % 5), Failure("cut off", "x")) == Verdict(True)
    assert told == [] and attempts.given_up == []
