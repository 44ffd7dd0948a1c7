"""Several processes commit records, and fight over a lock, at once: on a disk, and on a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline import lock as lock_module
from pipeline.errors import StoreLockedError
from pipeline.files import Files
from pipeline.ledger import Ledger
from pipeline.lock import KEY, StoreLock
from tests.faults import racing
from tests.jobs import ROOT
from tests.s3.conftest import Server

RACERS = 5
SLABS = 200  # 1,000 commits


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "out")
    else:
        real: Server = request.getfixturevalue("s3")
        yield f"s3://{real.bucket()}/a/out"


def raced(what: str, place: str, count: int) -> list[list[str]]:
    """What each of the racing processes printed, word by word."""
    words = [sys.executable, "-m", "tests.faults.racing", what, place]
    racers = [
        subprocess.Popen([*words, str(me), str(count)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for me in range(RACERS)
    ]
    try:
        for racer in racers:
            assert racer.stdout and racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin
            racer.stdin.write("go\n")
            racer.stdin.flush()
        ended = [racer.communicate(timeout=250) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert [r.returncode for r in racers] == [0] * RACERS, "".join(err for _, err in ended)
    return [line.split() for out, _ in ended for line in out.splitlines()]


def test_of_a_thousand_commits_each_slab_keeps_one_whole_and_the_others_are_told(place: str) -> None:
    """Every slab is committed by every process: one of them is told that its record is the one, and it is."""
    won: dict[int, list[int]] = {number: [] for number in range(SLABS)}
    told = 0
    for me, number, kept in (map(int, words) for words in raced("records", place, SLABS)):
        told += 1
        won[number] += [me] * kept
    assert told == RACERS * SLABS
    assert {len(winners) for winners in won.values()} == {1}, "0 doubled, 0 lost"
    ledger = Ledger(place)
    assert ledger.ids() == {racing.slab_id(n) for n in range(SLABS)}
    for number, (winner,) in won.items():
        found = ledger.get(racing.slab_id(number))
        assert {k: found[k] for k in racing.record(number, winner)} == racing.record(number, winner)
    assert len(Counter(w for (w,) in won.values())) > 1, "they did meet"
    assert [s.key for s in Files(place).walk() if s.key.endswith(".partial")] == []


def test_a_lock_that_its_holders_die_with_is_never_held_by_two_that_live(tmp_path: Path) -> None:
    said = raced("lock", str(tmp_path), 40)
    ends = Counter(end for _, end, _ in said)
    assert ends["lost"] == 0 and ends["kept"] > 0 and ends["died"] > 0, ends
    assert len(said) == 40 * RACERS
    assert {p.name for p in (tmp_path / "zmend").iterdir()} <= {"lock"}, "no guard is left"


def dead(name: str) -> bytes:
    me = lock_module._me()
    return json.dumps({**me, "lock": name, "started": "never"}).encode()


METHODS = ("read", "create", "put", "keep", "delete")  # what a lock asks of its place


@pytest.mark.parametrize("step", range(6))
def test_of_three_parties_over_a_dead_lock_one_holds_the_store(step: int, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before A's request number `step` B wants the dead one's lock, and before each later one C does."""
    Files(place).create(KEY, dead("old"))
    a, b, c = StoreLock(place), StoreLock(place), StoreLock(place)
    real, others, count = {name: getattr(Files, name) for name in METHODS}, [b, c, c, c, c, c, c, c, c, c], [0]
    holders: list[StoreLock] = []

    def enter(who: StoreLock) -> None:
        with suppress(StoreLockedError):
            holders.append(who.__enter__())

    def before_a(method):
        def act(self, *args):
            count[0] += 1
            if count[0] > step:
                for name in METHODS:
                    setattr(Files, name, real[name])
                enter(others.pop(0))
                for name in METHODS:
                    setattr(Files, name, before_a(real[name]))
            return method(self, *args)

        return act

    with monkeypatch.context() as patched:
        for name in METHODS:
            patched.setattr(Files, name, before_a(real[name]))
        enter(a)
    assert count[0] > step, "they met"
    (holder,) = holders
    assert Files(place).read(KEY) == holder._mine
    with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"), StoreLock(place):
        pass


def test_whoever_was_killed_while_it_took_a_lock_over_is_evicted_itself(place: str) -> None:
    files, old = Files(place), dead("old")
    files.create(KEY, old)
    guard = f"{KEY}.{lock_module.sha256(old).hexdigest()[:16]}"
    files.create(guard, dead("killed in the middle"))
    with StoreLock(place) as lock:
        assert lock.taken_over and files.read(KEY) == lock._mine
        assert files.stat(guard) is None
    assert files.stat(KEY) is None
