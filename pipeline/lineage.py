"""Lineage: from every synthetic voxel to one record, and from there to plan, weights and inputs that still match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from pipeline.box import Box
from pipeline.check import Check, first
from pipeline.errors import VolumeError, ZmendError
from pipeline.lock import holder
from pipeline.merge import read_merge, source_manifest
from pipeline.plan import Plan, Slab
from pipeline.restorer import proven
from pipeline.seal import broken, changed, documents
from pipeline.slab import Job, look


def records(plan: Plan, job: Job) -> tuple[dict[str, Any], list[str]]:
    """The records of the plan's slabs by id, and what is wrong with those that cannot be trusted."""
    records, spoiled = {}, []
    for slab in plan.slabs:
        if not job.ledger.has(slab.id):
            continue
        try:
            records[slab.id] = job.ledger.get(slab.id)
        except VolumeError as e:
            spoiled.append(f"slab {slab.id}: {e.what}: {e.why}")
    return records, spoiled


def finished(out: str, plan: Plan, records: dict[str, Any], spoiled: list[str], job: Job, volume_mode: bool) -> Check:
    """Every slab has its record, and the merge came after the last of them."""
    check = Check("finished", list(spoiled))
    merge = read_merge(out) if volume_mode else None
    late = [f"slab {s.id} {s.write} has no record: run again" for s in _waiting(plan, records)]
    if volume_mode and merge is None:
        late.append("the overlay was never merged: run again, or zmend merge")
    if who := holder(out):
        late.insert(0, f"{who} is at work here: verify when it has ended")
    if not late and broken(out):
        late.append("its last run was killed before it sealed the store: run again")
        check.early = "the run has not ended"
    if late and not spoiled and merge is None:  # once merged, every slab had its record
        check.early = f"the run has not ended, {len(records)} of {len(plan.slabs)} slabs are done"
    check.findings += late + job.ledger.packs.faults()
    if merge is not None and merge["source_manifest"] != source_manifest(job.source):
        check.findings.append(
            "chunks of the source differ from those merged: it was changed (then run again), or somebody wrote "
            "a linked chunk of the output in place (then bring the source back from a copy first)"
        )
    check.detail = f"{len(records)} of {len(plan.slabs)} slabs"
    return check


def sealed(out: str) -> Check:
    """No document differs from when the store was sealed, in any byte."""
    check = Check("seal", [f"{key} is not what it was when the store was sealed" for key in changed(out)])
    check.detail = f"{len(documents(out))} documents"
    return check


def inputs(plan: Plan, job: Job) -> Check:
    """The source still is what the plan was made for, and the weights are what their digest says."""
    check = Check("inputs")
    if job.source.fingerprint() != plan.header["source"]["fingerprint"]:
        check.findings.append("the source's metadata changed since the plan")
    if (refused := proven(job.restorer)) is not None:
        check.findings.append(f"the weights: {refused}")
    check.detail = f"source {plan.header['source']['fingerprint'][:12]}, weights {job.needs.digest[:12]}"
    return check


def lineage(plan: Plan, records: dict[str, Any], job: Job) -> Check:
    """Each synthetic voxel has exactly one current record, and each record the plan's weights, flags and recipe."""
    check = Check("lineage")
    owner: dict[Box, str] = {}
    spread: set[Box] = set()
    found: list[Box] = []
    for slab, record in records.items():
        for c in record["chunks"]:
            box = Box(tuple(c[0]), tuple(c[1]))
            if box in owner:
                check.findings.append(f"chunk {box} has two records: {owner[box]} and {slab}")
            owner[box] = slab
            spread |= {box} if len(c) > 4 else set()
        if any(record[k] != job.bound[k] for k in ("recipe", "weights", "restorer", "seed")):
            check.findings.append(f"slab {slab} was made with another recipe or other weights")
        if Slab.of([slab, *record["write"], *record["read"]]) not in plan.slabs:
            check.findings.append(f"slab {slab} was made for another place than the plan's")
    for array, name, known in (
        (job.labels, "label", owner.keys()),
        (job.overlay, "overlay", owner.keys()),
        (job.uncertainty, "uncertainty", spread),
    ):
        strays = [box for box in array.present() if box not in known] if array is not None else []
        check.findings += [f"{name} chunk {box} has no record" for box in strays]
        found += strays
    places = [s.write for s in _waiting(plan, records)]
    if found and len(found) == len(check.findings) and all(any((b & w).size for w in places) for b in found):
        check.early = "slabs were stopped half-way"
    check.findings += [f"records {a} and {b} overlap" for a, b in _overlaps(plan.slabs)]
    check.detail = f"{len(owner)} chunks, each of one record"
    return check


def _overlaps(slabs: Sequence[Slab]) -> Iterator[tuple[str, str]]:
    by_run: dict[tuple[int, int], list[Slab]] = {}
    for s in slabs:
        by_run.setdefault((s.write.start[1], s.write.start[2]), []).append(s)
    for group in by_run.values():
        ordered = sorted(group, key=lambda s: s.write.start[0])
        yield from ((a.id, b.id) for a, b in pairwise(ordered) if (a.write & b.write).size)


def _waiting(plan: Plan, records: dict[str, Any]) -> list[Slab]:
    return [s for s in plan.slabs if s.id not in records]


def sources(plan: Plan, records: dict[str, Any], job: Job) -> Check:
    """What each slab was made from (voxels, flags, masks) is read again, and is still what its record says."""
    check = Check("sources")
    slabs = [s for s in plan.slabs if s.id in records]
    for slab in slabs:
        try:
            matches = look(slab, job).inputs_sha256 == records[slab.id]["inputs_sha256"]
            check.findings += [] if matches else [f"slab {slab.id}: its inputs are not the inputs that were read then"]
        except (ZmendError, OSError) as e:
            check.findings.append(f"slab {slab.id}: {first(e)}")
    check.detail = f"the inputs of {len(slabs)} slabs read again and hashed"
    return check
