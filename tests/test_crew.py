"""Crews of real processes: killed, slow, late, unfit; and slabs that heal, poison or murder."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.scheduler import TaskGroup
from distributed.utils import key_split

from pipeline import cluster, crew, flight, pace
from pipeline.attempts import Attempts
from pipeline.box import Box
from pipeline.crew import Crew, Roll
from pipeline.errors import UnfitError, ZmendError
from pipeline.flight import Attempt, Flight, Parcel, Undone
from pipeline.lanes import LANES, HaltError, go_on
from pipeline.plan import Slab
from pipeline.queue import Queue
from pipeline.site import Site
from tests import toys


class Slabs:
    """Slabs that count how many were drawn."""

    def __init__(self, n: int) -> None:
        self.n, self.drawn = n, 0

    def __iter__(self) -> Iterator[Slab]:
        for n in range(self.n):
            self.drawn += 1
            box = Box((n, 0, 0), (n + 1, 8, 8))
            yield Slab(f"{n:032x}", box, box)


class Run:
    """One run of a crew, and everything it told."""

    def __init__(self, task: toys.Echo, n: int, *, workers: int = 2, stop_after: int = 10**9, **budgets: int) -> None:
        self.site = Site.model_validate({"workers": workers, "threads": 1, "attempts": budgets})
        self.task, self.slabs, self.stop_after = task, Slabs(n), stop_after
        self.events: list[dict[str, Any]] = []
        self.done: list[dict[str, Any]] = []
        self.attempts = Attempts(self.site.attempts, self.events.append)
        self.crew = Crew(self.site, self.events.append, lambda: len(self.done) >= self.stop_after)

    def __call__(self, meanwhile: Any = lambda run: None) -> Run:
        with self.crew:
            for found in self.crew.work(self.slabs, self.task, self.attempts):
                self.done.append(found)
                meanwhile(self)
        return self

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["kind"] == kind]

    def once_each(self, but: int = -1) -> bool:
        return Counter(d["slab"] for d in self.done) == {f"{n:032x}": 1 for n in range(self.slabs.n) if n != but}


both = pytest.mark.parametrize("workers", [0, 2])


@both
def test_every_slab_is_done_once_and_drawn_only_when_wanted(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "AHEAD_S", 0.0)  # these slabs are quick ones, real ones are not
    ahead = []
    run = Run(toys.Echo(seconds=0.02), 40, workers=workers)(lambda r: ahead.append(r.slabs.drawn - len(r.done)))
    assert run.once_each()
    assert max(ahead) <= 3 * max(1, workers) + 1, "a generator is not run ahead of the window"
    assert not run.events


@both
def test_a_stop_finishes_what_is_in_hand_and_draws_nothing_more(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "AHEAD_S", 0.0)
    run = Run(toys.Echo(seconds=0.05), 1000, workers=workers, stop_after=4)()
    assert 4 <= len(run.done) <= 4 + 2 * 3 * max(1, workers)
    assert run.slabs.drawn - len(run.done) <= 1, "what was drawn is done, but for the one that was looked at"


@both
def test_a_transient_failure_heals(workers: int, tmp_path: Path) -> None:
    began = time.monotonic()
    run = Run(toys.Heals(str(tmp_path), victim=3), 12, workers=workers)()
    assert run.once_each()
    failures = run.kinds("failure")
    assert [(f["cause"], f["attempt"], f["again"]) for f in failures] == [("transient", 1, True), ("transient", 2, True)]
    assert time.monotonic() - began >= sum(f["delay_s"] for f in failures), "it did wait"
    assert run.done[-1]["slab"] == f"{3:032x}", "others went on meanwhile"


def test_a_poison_slab_is_given_up_after_two_workers_and_the_run_goes_on(tmp_path: Path) -> None:
    run = Run(toys.Poisoned(str(tmp_path), victim=5), 20, error=9)()
    assert run.once_each(but=5)
    ((slab, failure),) = run.attempts.given_up
    assert slab.id == f"{5:032x}"
    assert "bad tile" in failure.words
    assert "in strike" in failure.trace
    assert len(list(tmp_path.iterdir())) == 2, "two processes tried"
    assert [f["again"] for f in run.kinds("failure")] == [True, False]


def test_a_worker_that_is_killed_is_replaced_and_its_slabs_done(tmp_path: Path) -> None:
    def kill(run: Run) -> None:
        if len(run.done) == 6:
            os.kill(run.done[-1]["pid"], 9)
        if len({d["pid"] for d in run.done}) == 3:
            run.stop_after = 0

    run = Run(toys.Echo(seconds=0.1), 5000)(kill)
    assert run.stop_after == 0, "a third process came"
    assert not run.attempts.given_up
    done = Counter(d["slab"] for d in run.done)
    assert sorted(done) == [f"{n:032x}" for n in range(len(done))], "none is missing"
    assert max(done.values()) == 1


def test_what_came_home_is_not_done_again_when_its_worker_dies(tmp_path: Path) -> None:
    """dask computes anew whatever a client still holds of a dead worker, though what it wrote is on the disk."""
    home: set[str] = set()

    def kill(run: Run) -> None:
        if len(run.done) == 20:
            home.update(d["slab"] for d in run.done)
            for pid in {d["pid"] for d in run.done}:
                os.kill(pid, 9)

    run = Run(toys.Tallied(str(tmp_path), seconds=0.05), 60)(kill)
    assert run.once_each()
    times = Counter(mark.name.partition(".")[0] for mark in tmp_path.iterdir())
    assert {times[slab] for slab in home} == {1}


def test_a_slab_that_kills_workers_is_given_up_and_takes_no_innocents_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cluster.SETTINGS, "distributed.scheduler.allowed-failures", 0)
    run = Run(toys.Murderous(str(tmp_path), victim=4, seconds=0.02), 40, workers=1, lost=3)()
    assert run.once_each(but=4)
    assert [s.id for s, _ in run.attempts.given_up] == [f"{4:032x}"]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_straggler_gets_a_copy_on_another_worker_and_the_first_to_finish_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LATE_S", 1.5)
    began = time.monotonic()
    run = Run(toys.Slowed(str(tmp_path), victim=2, seconds=0.05), 30)()
    assert run.once_each()
    (event,) = run.kinds("straggler")
    assert event["slab"] == f"{2:032x}"
    assert event["worker"].startswith("tcp://")
    assert time.monotonic() - began < 60, "nobody waits for the slow one"


def test_a_worker_that_comes_late_gets_work() -> None:
    def scale(run: Run) -> None:
        if len(run.done) == 5:
            run.crew._client.cluster.scale(2)
        first = run.done[0]["pid"]
        if sum(d["pid"] != first for d in run.done) == 100:
            run.stop_after = 0

    run = Run(toys.Echo(seconds=0.05), 5000, workers=1)(scale)
    since = [d["pid"] for d in run.done[next(i for i, d in enumerate(run.done) if d["pid"] != run.done[0]["pid"]) :]]
    assert run.stop_after == 0, "it got a hundred"
    assert len(since) < 400, "and not only what the first left over"


def test_no_worker_gets_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """dask gives tasks of one big group to one worker as long as there are any at hand (`is_rootish`): slabs that are
    sent together would all go to one, and others would run dry. So each is a group of its own.
    """
    monkeypatch.setattr(pace, "AHEAD_S", 0.0)
    most, groups = [], set()

    def look(run: Run) -> None:
        scheduler = run.crew._client.cluster.scheduler
        most.append(max(len(ws.processing) for ws in scheduler.workers.values()))
        groups.update(len(ts.group) for ts in list(scheduler.tasks.values()))

    run = Run(toys.Echo(seconds=0.3), 90, workers=3)(look)
    assert run.once_each()
    assert groups == {1}
    assert max(most) <= pace.PER_WORKER + 1, most


def test_an_unfit_worker_leaves_and_the_other_does_its_slabs(tmp_path: Path) -> None:
    run = Run(toys.Stranger(str(tmp_path), seconds=0.02), 30, error=1)()
    assert run.once_each()
    (left,) = run.kinds("worker_left")
    assert "no GPU here" in left["why"]
    assert {d["pid"] for d in run.done}.isdisjoint({int((tmp_path / "pid").read_text())})


def test_where_every_worker_is_unfit_the_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="no worker is left") as e:
        Run(toys.Stranger(str(tmp_path)), 5, workers=1)()
    assert "no GPU here" in e.value.why


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    run = Run(toys.Unpicklable(victim=1), 8)()
    assert run.once_each(but=1)
    assert run.attempts.given_up[0][1].words == "Odd: this and that"


def test_everything_fails_alike_and_the_run_stops(tmp_path: Path) -> None:
    class All(toys.Poisoned):
        def __call__(self, row: Any) -> Any:
            raise ArithmeticError("no such luck")

    with pytest.raises(ZmendError, match="everything fails alike") as e:
        Run(All(str(tmp_path)), 1000, workers=0)()
    assert "no such luck" in e.value.why


def here(n: int, task: Any) -> Iterator[dict[str, Any]]:
    """Slabs worked off in this process."""
    site = Site.model_validate({"workers": 0})
    with Crew(site, lambda _: None, lambda: False) as crew_:
        yield from crew_.work(Slabs(n), task, Attempts(site.attempts, lambda _: None))


def test_this_process_has_as_many_lanes_as_a_worker() -> None:
    meet = threading.Barrier(LANES)
    found = list(here(2 * LANES, lambda row: {"slab": row[0], "met": meet.wait(60) >= 0}))
    assert len({one["slab"] for one in found}) == 2 * LANES


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
def test_who_is_interrupted_does_not_wait_for_whole_slabs(kind: type[BaseException]) -> None:
    halted: list[str] = []
    begun = threading.Barrier(LANES)

    def task(row: list[Any]) -> dict[str, Any]:
        begun.wait(60)
        while int(row[0], 16):  # all but the first take for ever
            try:
                go_on()
            except HaltError:
                halted.append(row[0])
                raise
            time.sleep(0.01)
        return {"slab": row[0]}

    work = here(9, task)
    next(work)
    with pytest.raises(kind):
        work.throw(kind())
    assert len(halted) == LANES - 1
    go_on()  # and the next run is not stopped


def test_nobody_waits_for_workers_that_are_all_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "present", lambda client: ())
    roll = Roll(SimpleNamespace(status="running"), Site.model_validate({"workers": 1, "patience_s": 30}), lambda event: None)
    began = time.monotonic()
    roll.look(began + 1)
    with pytest.raises(UnfitError, match="no worker is left") as e:
        roll.look(began + 40)
    assert "run again: finished slabs are kept" in e.value.do


def test_a_waiting_queue_costs_no_cpu() -> None:
    run = Run(toys.Echo(seconds=2.0), 6)
    with run.crew:
        for _ in run.crew.work(Slabs(2), toys.Echo(), run.attempts):
            pass  # the cluster is there
        began = time.process_time()
        for found in run.crew.work(run.slabs, run.task, run.attempts):
            run.done.append(found)
        spent = time.process_time() - began
    assert len(run.done) == 6
    assert spent < 0.5, "driver and scheduler, of two seconds and more"


def test_the_queue_holds_back_until_a_delay_is_over() -> None:
    from pipeline.attempts import Verdict

    one, two, three = list(Slabs(3))
    queue = Queue([one, two])
    assert list(queue.draw(1, 0.0)) == [one]
    queue.settle(one, Verdict(True, delay_s=5.0), 10.0)
    assert list(queue.draw(3, 14.0)) == [two]
    assert queue and queue.wait_s(14.0) == 1.0
    assert list(queue.draw(3, 15.0)) == [one]
    for slab in (one, two, three):
        queue.settle(slab, Verdict(True, alone=True), 16.0)
    assert list(queue.draw(3, 16.0)) == [one], "those that workers died under go one at a time"
    assert not list(queue.draw(3, 16.0))
    queue.settle(one)
    assert list(queue.draw(3, 16.0)) == [two]


def test_a_slab_that_is_sent_again_for_something_else_does_not_bring_what_it_brought_before() -> None:
    """It did: keys were numbered from 0 for each kind of work, and a scheduler that has a key's result answers with it."""
    site = Site(workers=1)
    with cluster.connect(site) as client:
        before, after = (Flight(client, toys.Echo()) for _ in range(2))
        before.send(list(Slabs(1)), 1, 0.0)
        while not (trip := next(iter(before._trips.values()))).future.done():
            time.sleep(0.01)
        after.send(list(Slabs(1)), 1, 0.0)
        (again,) = after._trips.values()
        assert again.future.key != trip.future.key
        assert key_split(again.future.key) == key_split(trip.future.key) == "slab", "dask learns how long slabs take"
        assert next(after.land(20))[2]["slab"] == next(before.land(20))[2]["slab"]


def landed(flight: Flight) -> dict[str, Any]:
    """Everything that comes back, by slab."""
    found: dict[str, Any] = {}
    while flight:
        for slab, _, outcome in flight.land(20):
            assert slab.id not in found, "once"
            found[slab.id] = outcome
    return found


def test_slabs_that_a_parcel_had_not_begun_when_one_failed_are_not_blamed(tmp_path: Path) -> None:
    with cluster.connect(Site(workers=1)) as client:
        flight = Flight(client, toys.Poisoned(str(tmp_path), victim=5))
        flight.send(list(Slabs(10)), 4, 0.0)
        assert len(flight) == 10
        assert [len(trip.slabs) for trip in flight._trips.values()] == [4, 4, 2]
        found = landed(flight)
    by_number = {int(slab, 16): outcome for slab, outcome in found.items()}
    assert by_number[5].cause == "error"
    assert by_number[6] == by_number[7] == Undone(by_itself=False)
    assert [by_number[n]["slab"] for n in (0, 1, 2, 3, 4, 8, 9)] == [f"{n:032x}" for n in (0, 1, 2, 3, 4, 8, 9)]
    assert len(by_number) == 10


def test_slabs_that_turn_out_to_be_slow_do_not_wait_for_each_other_in_a_parcel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "PARCEL_S", 0.0)
    attempt = Attempt(toys.Echo(seconds=0.01))
    assert [o["slab"] for o in attempt(Parcel([slab.row() for slab in Slabs(5)]))] == [f"{0:032x}"], "one at least"


def test_a_worker_that_dies_with_a_parcel_leaves_no_blame_on_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each goes again by itself; who kills a second worker then is known."""
    monkeypatch.setitem(cluster.SETTINGS, "distributed.scheduler.allowed-failures", 0)
    with cluster.connect(Site(workers=1)) as client:
        trip = Flight(client, toys.Murderous(str(tmp_path), victim=1))
        trip.send(list(Slabs(3)), 3, 0.0)
        assert set(landed(trip).values()) == {Undone(by_itself=True)}
    queue, (one, two) = Queue([]), Slabs(2)
    queue.put_back(one, by_itself=True)
    queue.put_back(two, by_itself=False)
    assert [slab.id for slab in queue.draw(9, 0.0)] == [one.id, two.id]
    assert list(queue.back) == [one.id]
    queue.settle(one)
    assert not queue.back


def test_a_late_slab_of_a_parcel_gets_a_copy_and_its_companions_come_once(tmp_path: Path) -> None:
    with cluster.connect(Site(workers=2)) as client:
        flight = Flight(client, toys.Slowed(str(tmp_path), victim=1))
        flight.send(list(Slabs(3)), 3, 0.0)
        while not (tmp_path / "slow").exists():
            time.sleep(0.01)
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        ((late, sent),) = flight.alone().items()
        assert sent == 0.0
        copied = list(flight.copy([late], workers, 0.0))
        assert [int(slab.id, 16) for slab, _ in copied] == [0, 1, 2], "nobody knows which of them it hangs at"
        assert {slow for _, slow in copied} < set(workers)
        assert not flight.alone()
        assert sorted(landed(flight)) == [f"{n:032x}" for n in range(3)]
        assert not flight._trips, "the parcel is called back"


def test_who_stops_does_not_wait_for_a_worker_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Late slabs got no copies once a stop was asked for: it never came."""
    monkeypatch.setattr(pace, "LATE_S", 1.5)
    hung: list[int] = []

    def hang(run: Run) -> None:
        if not hung and len({d["pid"] for d in run.done}) == 2:
            hung.append(run.done[-1]["pid"])
            os.kill(hung[0], signal.SIGSTOP)
        if hung and len(run.done) > 40:
            run.stop_after = 0

    began, run = time.monotonic(), Run(toys.Echo(str(tmp_path), seconds=0.05), 5000)
    try:
        run(hang)
    finally:
        for pid in hung:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert hung
    assert run.kinds("straggler")
    assert run.slabs.drawn - len(run.done) <= 200
    assert time.monotonic() - began < 100


@pytest.mark.parametrize("kind", [toys.Echo, toys.Poisoned])
def test_a_worker_that_is_killed_over_parcels_costs_no_slab(kind: type[toys.Echo], tmp_path: Path) -> None:
    """Thousands of quick slabs travel in parcels; one of them may fail wherever it is tried."""

    def kill(run: Run) -> None:
        if len(run.done) == 3000:
            os.kill(run.done[-1]["pid"], 9)

    run = Run(kind(str(tmp_path), victim=700), 6000, error=9, lost=9)(kill)
    assert run.once_each(but=700 if kind is toys.Poisoned else -1)
    assert len(run.attempts.given_up) == (kind is toys.Poisoned)
    blamed = {f["cause"] for f in run.kinds("failure") if f["slab"] != f"{700:032x}"}
    assert blamed <= {"lost"}


def test_of_slabs_that_are_done_the_scheduler_keeps_nothing() -> None:
    """It kept 2 kB of each: its groups, in a span and in a computation, for pages that show them."""
    with cluster.connect(Site(workers=1)) as client:
        flight = Flight(client, toys.Echo())
        flight.send(list(Slabs(60)), 1, 0.0)
        while flight:
            assert all(outcome["slab"] for *_, outcome in flight.land(20))
        while sum(type(thing) is TaskGroup for thing in gc.get_objects()) > 3:  # isinstance would wake lazy modules
            time.sleep(0.05)
            gc.collect()
