"""Play many seeded faults, and say what came of them: python -m tests.faults --count 1000 --seed 1.

One fault is one number: the same number is the same fault. To see one again: --count 1 --seed NUMBER.

what may happen                                              is played by
killed: a driver, at any moment and at every failpoint       kill at a failpoint, kill at any moment, driver killed
killed: worker, scheduler, merge                             worker killed, scheduler killed, kill while merging
asked to end, with grace                                     terminate; tests/slurm for USR1 and preemption
full disk, EIO, read-only                                    disk full, EIO once, EIO again and again, read-only
torn and truncated chunks, lost writes                       torn write, lost write, power cut, power cut at the end
bits flipped: output, record, documents (plan, flags, ...)   rot: output, rot: record, rot: document, rot: plan or flags in mid-run
bits flipped: input, weights; input missing                  rot: input, rot: input behind a link, rot: weights
NaN, constant, out of range; a poison slab                   mad restorer; tests/test_crew.py for slabs that kill
out of memory                                                out of memory, worker out of memory
hung worker, zombie commits                                  hung worker, worker sleeps, zombie worker, zombie
locks, stale and live; two drivers                           locks, two drivers; races: tests/faults/racing.py
clocks that jump                                             clock jumps, clock set (libfaketime)
S3 errors; a network that is cut                             S3 errors, network cut (a network namespace)
one byte changed by someone                                  tests/faults/tampering.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.clusters import KINDS as SLOW
from tests.faults.harness import Outcome, Stage, World
from tests.faults.kinds import KINDS as QUICK

KINDS = QUICK | {name: (1, play) for name, play in SLOW.items()}  # with weights


NOTE = """One number is one fault. *Struck*: it happened (a kill may come too late). *Identical*: after the next run every chunk, document
and record is that of an undisturbed run, and exit codes were those promised. Rot counts as identical when it was found and mended as advised, or
refused until the file was put back. *In hand*: without a record when the fault came, so rightly done again."""


def worlds(folder: Path) -> list[World]:
    """Different enough that no step of the protocol is left out."""
    return [
        World(folder / "plain", "plain").make(),
        World(folder / "packs", "packs", patches={"pipeline.ledger.PACK_AT": 4, "pipeline.shift.PACK_EVERY": 4}).make(),
        World(folder / "zarr2", "zarr2", zarr_format=2, parts={"certificate": 1}).make(),
    ]


def play(number: int, stages: list[World], kinds: list[str], keep: bool = False) -> Outcome:
    """The fault of that number."""
    rng = random.Random(number)
    name = rng.choices(kinds, [KINDS[k][0] for k in kinds])[0]
    stage, began = Stage(rng.choice(stages), f"fault{number}"), time.monotonic()
    outcome = Outcome(name, number, slabs=len(stage.world.slabs))
    try:
        return KINDS[name][1](stage, rng, outcome)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome.wrong.append(f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}")
        return outcome
    finally:
        outcome.took_s = round(time.monotonic() - began, 2)
        if not keep:
            stage.remove()


def faults(numbers: Sequence[int], kinds: list[str], folder: Path, keep: bool = False) -> Iterator[Outcome]:
    made = worlds(folder) if numbers else []
    yield from (play(number, made, kinds, keep) for number in numbers)


def noted(file: str | None, numbers: Container[int]) -> list[Outcome]:
    """What came of those of the faults that were played before, each once: of one played again the last."""
    lines = Path(file).read_text().splitlines() if file and Path(file).exists() else []
    found = {o.seed: o for o in (Outcome(**json.loads(line)) for line in lines)}
    return [found[n] for n in sorted(found) if n in numbers]


def table(outcomes: list[Outcome]) -> str:
    """kind, faults, how many of them struck, identical stores, work done twice, time; then those that were not as promised."""
    rows = ["| kind | faults | struck | identical | finished slabs restored again | slabs in hand restored again | s a fault |", "|---|---|---|---|---|---|---|"]
    for kind in [*sorted({o.kind for o in outcomes}), "all"]:
        mine = [o for o in outcomes if kind in (o.kind, "all")]
        cells: list[Any] = [len(mine), sum(o.struck for o in mine), sum(not o.wrong for o in mine), sum(o.again for o in mine), sum(o.in_hand for o in mine)]
        cells.append(f"{sum(o.took_s for o in mine) / max(1, len(mine)):.1f}")
        rows.append(f"| {kind} | " + " | ".join(map(str, cells)) + " |")
    done = max(1, sum(o.slabs for o in outcomes))
    again, in_hand = (sum(getattr(o, name) for o in outcomes) for name in ("again", "in_hand"))
    rows += ["", f"Extra work: {again / done:.2%} of {done} slabs; with those in hand at the fault {(again + in_hand) / done:.2%}."]
    bad = [o for o in outcomes if o.wrong or o.again]
    return "\n".join([*rows, "", "Not as promised:" if bad else "All were as promised.", *(f"- seed {o.seed}, {o.kind}: {o.what}: {o.wrong[:3]}" for o in bad)])


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").partition("\n\nwhat may")[0])
    words.add_argument("--count", type=int, default=1000)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--kind", action="append", choices=sorted(KINDS), help="only this kind; may be given again")
    words.add_argument("--quick", action="store_true", help="only the kinds without clusters")
    words.add_argument("--slow", action="store_true", help="only those with clusters")
    words.add_argument("--out", metavar="FILE", help="note each outcome there too, a JSON line each; what is noted there is not played again")
    words.add_argument("--report", metavar="FILE", help="write the table there, with machine and date")
    words.add_argument("--keep", metavar="FOLDER", help="keep what was made there")
    asked = words.parse_args()
    every, began = range(asked.seed, asked.seed + asked.count), time.monotonic()
    outcomes = noted(asked.out, every)
    left = sorted(set(every) - {o.seed for o in outcomes})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(asked.keep or temporary)
        for outcome in faults(left, asked.kind or list(QUICK if asked.quick else SLOW if asked.slow else KINDS), folder, bool(asked.keep)):
            outcomes.append(outcome)
            if asked.out:
                with Path(asked.out).open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
            if outcome.wrong or outcome.again:
                print(f"seed {outcome.seed} {outcome.kind}: {outcome.what}: {outcome.again} again; " + json.dumps(outcome.wrong[:6]), flush=True)
            if len(outcomes) % 50 == 0:
                print(f"{len(outcomes)} faults, {time.monotonic() - began:.0f} s", flush=True)
    seeds = f"Seeds {asked.seed} to {asked.seed + asked.count - 1}, {sum(o.took_s for o in outcomes):.0f} s."
    print(f"\n{seeds}\n\n{table(outcomes)}")
    if asked.report:
        command = " ".join(["python -m tests.faults", *sys.argv[1:]])
        where = f"{os.cpu_count()} CPUs, {platform.machine()}"
        Path(asked.report).parent.mkdir(parents=True, exist_ok=True)
        Path(asked.report).write_text(f"# faults, {time.strftime('%Y-%m-%d')}\n\n`{command}` on {where}.\n\n{seeds} {NOTE}\n\n{table(outcomes)}\n")
    sys.exit(any(o.wrong or o.again for o in outcomes))


if __name__ == "__main__":
    main()
