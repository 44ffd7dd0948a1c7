"""Kinds of fault in which somebody else is there: a zombie, a second driver, a lock that is stale or is not; and clocks."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from pipeline.lock import _me, _started
from tests.faults.harness import Outcome, Stage, ended, settled, stopped, tail, visit

THREADS = 4  # of a merge


def zombie(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """A driver is stopped in the middle of a step, taken for dead, and wakes when another run has ended: it writes nothing.

    Only what each of its threads was about to write, one file and the same bytes, may land.
    """
    point, nth = visit(stage, rng, "read", "restore", "write", "readback", "fsync", "record", "pack", "merge", "pyramid", "attrs")
    outcome.what = f"{point}=stop@{nth}"
    process = stage.start(faults=outcome.what)
    outcome.struck = stopped(process)
    held = f'"pid": {process.pid},' in _read(stage.out / "zmend/lock")
    (stage.out / "zmend/lock").unlink(missing_ok=True)
    settled(outcome, stage)
    outcome.wrong = [w for w in outcome.wrong if ".partial" not in w]  # its own; when it has woken there must be none
    before = tree(stage.out)
    if process.is_alive():
        os.kill(process.pid, signal.SIGCONT)
    code = ended(process)
    if outcome.struck and code not in (0, 6):
        outcome.wrong.append(f"exit code {code}: {tail(stage)}")
    landed = [name for name, what in tree(stage.out).items() if before.get(name) != what]
    outcome.what += f", woke: {code}, wrote {landed}"
    if held and (code == 0 or len(landed) > THREADS):
        outcome.wrong.append(f"the zombie wrote {landed}")
    return settled(outcome, stage)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def tree(out: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file, but for the logs."""
    files = [p for p in out.rglob("*") if p.is_file() and not p.is_relative_to(out / "zmend/runs")]
    return {p.relative_to(out).as_posix(): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


def two_drivers(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """Two runs at once, from nothing or after a kill: one works, the other says so, or comes after it."""
    if rng.random() < 0.5:
        point, nth = visit(stage, rng)
        stage.run(faults=f"{point}=kill@{nth}")
    gap = rng.random() * stage.world.undisturbed.took_s * rng.choice([0, 0.1, 0.5])
    outcome.what, outcome.struck = f"two drivers, {gap:.3f} s apart", True
    first = stage.start()
    time.sleep(gap)
    second = stage.start()
    codes = {ended(first), ended(second)}
    if not codes <= {0, 6} or codes == {6}:
        outcome.wrong.append(f"exit codes {codes}: {tail(stage)}")
    return settled(outcome, stage)


def locks(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """A lock lies there: of a dead process, of one whose number was given to another, of a living one, of another host."""
    if rng.random() < 0.7:
        point, nth = visit(stage, rng, "record", "merge")
        stage.run(faults=f"{point}=kill@{nth}")
    else:
        stage.settle()
    outcome.struck, outcome.what = True, rng.choice(["dead", "reused", "boot", "alive", "elsewhere", "garbage"])
    lock, other = stage.out / "zmend/lock", subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = {**_me(), "pid": other.pid, "started": _started(other.pid)}
    told = {
        "dead": {**holder, "pid": 2**22 + 1},
        "reused": {**holder, "started": holder["started"] + "1"},
        "boot": {**holder, "started": "another boot:" + str(holder["started"]).partition(":")[2]},
        "alive": holder,
        "elsewhere": {**holder, "host": socket.gethostname() + "-2"},
    }.get(outcome.what)
    lock.write_text(json.dumps(told) if told else rng.choice(["", "{", "[]", "\x00" * 40]))
    before = tree(stage.out)
    refused = outcome.what in ("alive", "elsewhere", "garbage")
    if refused:
        code = stage.run()
        if code != 6 or tree(stage.out) != before:
            outcome.wrong.append(f"a lock that holds ended with {code}: {tail(stage)}")
        lock.unlink()
    other.communicate(b"\n")
    return settled(outcome, stage)


class Jumping:
    """A clock that is set forth and back, by hours and years, while a run is under way."""

    def __init__(self) -> None:
        self._real, self._rng = time.time, random.Random(os.getpid())

    def __call__(self) -> float:
        return self._real() + self._rng.choice([-1e9, -7200.0, -1.0, 0.0, 1.0, 7200.0, 1e9])


class Calendar(Jumping):
    """What `strftime` makes of such a clock."""

    def __init__(self) -> None:
        super().__init__()
        self._format, self._local = time.strftime, time.localtime

    def __call__(self, text: str, *when: time.struct_time) -> str:  # type: ignore[override]
        return self._format(text, *(when or (self._local(super().__call__()),)))


def clock(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """The clock jumps, in the run that is killed and in the next."""
    point, nth = visit(stage, rng)
    outcome.what = f"jumping clock, {point}=kill@{nth}"
    stage.patches = {"time.time": Jumping, "time.strftime": Calendar}
    stage.run(faults=f"{point}=kill@{nth}")
    outcome.struck = stage.struck > 0
    return settled(outcome, stage)
