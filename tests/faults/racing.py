"""One of several processes that commit records, or fight over a lock, all at once.

    python -m tests.faults.racing records PLACE ME SLABS     a line for each slab: who, its number, whether ours was kept
    python -m tests.faults.racing lock PLACE ME TURNS        a line for each turn in which we held the lock
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from pipeline.errors import StoreLockedError
from pipeline.files import Files
from pipeline.ledger import Ledger
from pipeline.lock import KEY, StoreLock


def slab_id(number: int) -> str:
    return f"{number * 0x9E3779B1 % 2**32:08x}{number:024x}"


def record(number: int, me: int) -> dict:
    chunk = [[0, 0, 0], [1, 8, 8], f"{me:064x}", f"{number:064x}"]
    return {"slab": slab_id(number), "by": me, "chunks": [chunk], "note": "x" * (97 * me % 400)}


def commit_all(place: str, me: int, slabs: int) -> None:
    """Every slab is tried by every process: half of them nearly in step, half in an order of each one's own, so that
    whoever is ahead does not win them all.
    """
    ledger, rng = Ledger(place), random.Random(me)
    order = list(range(slabs))
    for start in range(0, slabs // 2, 8):
        order[start : start + 8] = rng.sample(order[start : start + 8], len(order[start : start + 8]))
    late = order[slabs // 2 :]
    order = order[: slabs // 2] + rng.sample(late, len(late))
    for number in order:
        time.sleep(rng.random() * 0.03)  # whoever lost a close one waits before it asks again: none runs away meanwhile
        print(me, number, int(ledger.commit(record(number, me))))


def fight(place: str, me: int, turns: int) -> None:
    """Hold the lock if it can be had; every other holder dies with it in hand, as far as others can tell."""
    rng = random.Random(me)
    inside = Path(place) / "inside" if "://" not in place else None
    held = 0
    while held < turns:
        lock = StoreLock(place)
        mortal = rng.random() < 0.7
        try:
            lock.__enter__()
        except StoreLockedError:
            time.sleep(rng.random() * 0.002)
            continue
        held += 1
        if mortal:  # what lies there is now that of a process which does not live
            Files(place).put(KEY, json.dumps({**json.loads(lock._mine), "started": "never"}).encode())
            print(me, "died", lock.name)
            continue
        if inside is not None:
            inside.mkdir()  # fails where another living one is inside
        time.sleep(rng.random() * 0.004)
        mine = Files(place).read(KEY) == lock._mine
        if inside is not None:
            inside.rmdir()
        lock.__exit__(None, None, None)
        print(me, "kept" if mine else "lost", lock.name)


def main() -> None:
    what, place, me, count = sys.argv[1:]
    Files(place).stat("anything")  # what is slow the first time is done
    print("ready", flush=True)
    sys.stdin.readline()  # all begin at once
    {"records": commit_all, "lock": fight}[what](place, int(me), int(count))


if __name__ == "__main__":
    main()
