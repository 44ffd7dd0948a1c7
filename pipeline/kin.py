"""Kin: slabs of a plan whose place has a record that was made alike; only what they read may have changed.

A slab's id covers sizes and times of the chunks that it reads, which is cheap. A chunk that was written anew, as the
last ones are whenever sections are appended, gives another id although it may hold what it held. The digest in the
record is the judge: who finds it again keeps the slab, under its new id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.ids import Ids
from pipeline.job import made_as
from pipeline.ledger import Ledger
from pipeline.plan import Plan

Boxes = tuple[tuple[int, ...], ...]


def kin(plan: Plan, bound: Mapping[str, Any], ledger: Ledger) -> dict[str, str]:
    """For slabs of the plan that have no record: the id of the record in force with their boxes, recipe and weights.

    bound: what the plan's records say of where they come from.
    """
    wanted = Ids.of(plan.slabs.ids)
    formers: dict[Boxes, str] = {}
    for rows in ledger.rows():
        for shared, alike in rows.take(wanted.at(rows.ids) < 0).each_kind():
            if _alike(shared, bound):
                write, read = (alike.boxes(name, shared) for name in ("write", "read"))
                formers |= {(*w, *r): i for w, r, i in zip(write, read, alike.names(), strict=True)}
    if not formers:
        return {}
    pending = plan.slabs.but(ledger.done())
    pairs = ((s.id, formers.get((s.write.start, s.write.stop, s.read.start, s.read.stop))) for s in pending)
    return {new: old for new, old in pairs if old is not None}


def _alike(record: Mapping[str, Any], bound: Mapping[str, Any]) -> bool:
    """Whether equal inputs would give equal voxels. What workers failed on is tried again; a reviewer's word stays."""
    return made_as(record, bound) and (not record.get("given_up") or "verdicts" in record)
