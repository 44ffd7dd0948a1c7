"""Kinds of fault: each plays one on a stage, as its random numbers have it, and says what came of it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from tests.faults import rivals, rot
from tests.faults.harness import Outcome, Stage, compared, ended, settled, strike, tail, visit

Play = Callable[[Stage, random.Random, Outcome], Outcome]


def at_a_point(deed: str, codes: set[int], *points: str) -> Play:
    """A deed the nth time that the run comes by a point."""

    def play(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
        point, nth = visit(stage, rng, *points)
        outcome.what = f"{point}={deed}@{nth}"
        code = stage.run(faults=outcome.what)
        return _ended(stage, outcome, code, codes)

    return play


def by_chance(deed: str, codes: set[int], *points: str) -> Play:
    """A deed at one visit in some, at one point or at several."""

    def play(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
        chosen = rng.sample(points, rng.randint(1, len(points)))
        outcome.what = ",".join(f"{p}={deed}@p{rng.choice([0.03, 0.1, 0.3])}" for p in chosen)
        code = stage.run(faults=outcome.what, seed=outcome.seed)
        return _ended(stage, outcome, code, codes)

    return play


def _ended(stage: Stage, outcome: Outcome, code: int, codes: set[int]) -> Outcome:
    """The faulted run has ended with `code`, which is one of `codes`, or 0."""
    outcome.struck = stage.struck > 0
    if code not in codes | {0}:
        outcome.wrong.append(f"exit code {code}, not of {sorted(codes)}: {tail(stage)}")
    return settled(outcome, stage)


def signalled(number: int, codes: set[int]) -> Play:
    """A signal at a random moment, to the whole process group."""

    def play(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
        delay = rng.random() * 0.6 * stage.world.undisturbed.took_s  # the first run of all is a slow one
        outcome.what = f"signal {number} after {delay:.3f} s"
        process = stage.start()
        time.sleep(0.02 + delay)
        if outcome_in_time := process.is_alive():
            strike(process, number)
        code = ended(process)
        outcome.struck = outcome_in_time
        if code not in codes | {0}:
            outcome.wrong.append(f"exit code {code}: {tail(stage)}")
        return settled(outcome, stage)

    return play


def power_cut(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """The power fails: what was not synced is there, or is not, or is torn."""
    point, nth = visit(stage, rng)
    outcome.what = f"power cut at {point} {nth}"
    stage.run(faults=f"{point}=kill@{nth}", power=outcome.seed)
    outcome.struck = stage.struck > 0
    return settled(outcome, stage)


def power_cut_at_the_end(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """The power fails when all is done: nothing may be lost any more."""
    outcome.what, outcome.struck = "power cut after the end", True
    stage.run(power=outcome.seed)
    lost = [w for w in compared(stage) if "zmend/lock" not in w]  # a lock of before the cut holds nobody up
    outcome.wrong += [f"after the end: {w}" for w in lost]
    return outcome if outcome.wrong else settled(outcome, stage)


IO = ("read", "restore", "write", "readback", "fsync", "record", "merge", "pyramid")
KINDS: dict[str, tuple[int, Play]] = {  # weight among the quick ones
    "kill at a failpoint": (10, at_a_point("kill", {-9})),
    "kill at any moment": (6, signalled(signal.SIGKILL, {-9})),
    "kill while merging": (5, at_a_point("kill", {-9}, "merge", "pyramid", "attrs")),
    "terminate": (6, signalled(signal.SIGTERM, {75, -15})),
    "EIO, once": (4, at_a_point("eio", {7})),
    "EIO, again and again": (5, by_chance("eio", {1, 4, 7}, *IO)),
    "disk full": (6, by_chance("enospc", {7}, *IO, "attrs", "pack")),
    "read-only": (4, at_a_point("erofs", {7})),
    "out of memory": (3, by_chance("memory", {1, 4, 7}, "read", "restore", "write")),
    "torn write": (5, at_a_point("tear", {-9}, "fsync")),
    "lost write": (5, at_a_point("lose", {-9}, "fsync")),
    "power cut": (10, power_cut),
    "power cut at the end": (2, power_cut_at_the_end),
    "rot: output": (6, rot.in_store(rot.chunk)),
    "rot: record": (4, rot.in_store(rot.record)),
    "rot: document": (4, rot.in_store(rot.document)),
    "rot: input": (5, rot.in_source),
    "rot: input behind a link": (3, rot.behind_a_link),
    "rot: weights": (4, rot.in_weights),
    "rot: plan or flags in mid-run": (3, rot.in_mid_run),
    "mad restorer": (4, rot.in_mood),
    "zombie": (6, rivals.zombie),
    "two drivers": (3, rivals.two_drivers),
    "locks": (3, rivals.locks),
    "clock jumps": (3, rivals.clock),
}
