"""Prune: throw away kept chunks that no revert of the last runs needs. Records and what runs found stay: history does.

A run that is older than those cannot be reverted any more, and says so. What is in force is never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.errors import PlanChangedError
from pipeline.kept import Kept
from pipeline.ledger import Ledger
from pipeline.lock import StoreLock
from pipeline.seal import broken
from pipeline.state import changing, found_by
from pipeline.store import made_arrays

Json = dict[str, Any]
Place = tuple[str, tuple[int, ...]]  # a run, and where a slab of it begins: a run makes a place once


def prune(out: str, reverts: int, *, dry: bool = False) -> Json:
    """Keep what is needed to revert the last so many runs that changed something; returns what went. dry: would go.

    Raises PlanChangedError where a run was killed, which may want any of it, and RevertError where what one of those
    runs found cannot be trusted.
    """
    with StoreLock(out) as lock:
        if broken(out):
            raise PlanChangedError(
                "a run or a revert was killed here",
                where=out,
                why="what it was bringing back may be what would be thrown away",
                do="run the same command again to its end, then prune",
            )
        runs = changing(out)
        ledger, kept = Ledger(out, lock.held), _kept(out, lock)
        needed = _needed(out, runs[len(runs) - min(reverts, len(runs)) :], ledger)
        sizes: list[int] = []
        for record in _unneeded(ledger, needed):
            sizes += kept.held(record)
            if not dry:
                kept.drop(record)
        if not dry:
            kept.clear_empty()
    left = min(reverts, len(runs))
    return {"output": out, "reverts": left, "chunks": len(sizes), "bytes": sum(sizes), "dry_run": dry}


class _All:
    """Every slab."""

    def __contains__(self, slab_id: object) -> bool:
        return True


def _history(ledger: Ledger) -> Iterator[Json]:
    return ledger.history(_All())


def _kept(out: str, lock: StoreLock) -> Kept:
    arrays = made_arrays(out)
    like = arrays.get("uncertainty", arrays["labels"])  # the spread's array may be gone; it is like the labels'
    return Kept(out, {**arrays, "uncertainty": like}, lock.held)


def _needed(out: str, runs: Sequence[str], ledger: Ledger) -> set[Place]:
    """Where slabs lay in what these runs found, each with the run that had made it."""
    wanted = {pair for run in runs for pair in found_by(out, run).records().items()}
    return {_place(record) for record in _history(ledger) if (record["slab"], record["run"]) in wanted}


def _unneeded(ledger: Ledger, needed: set[Place]) -> Iterator[Json]:
    """Retired records of which nothing must be kept; one for each place, which may have had several ids."""
    seen = set(needed)
    for record in _history(ledger):
        if _place(record) not in seen:
            seen.add(_place(record))
            yield record


def _place(record: Json) -> Place:
    return str(record["run"]), tuple(record["write"][0])
