"""Replay: what a run made is made anew, slabs and certificate, and compared bit for bit."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline import certificate
from pipeline.box import Box
from pipeline.check import Check
from pipeline.outcome import chunks
from pipeline.plan import Plan, Slab
from pipeline.sight import Job
from pipeline.slab import compute


def replay_slabs(
    plan: Plan, records: Mapping[str, Any], attempt: Callable[[int], Job], count: int, seed: int
) -> Check:
    """Slabs drawn at random, computed anew from the source, are bit for bit what the store holds.

    attempt: opens the job of slabs that were rejected so often.
    """
    check = Check("replay")
    # What was given up made the restorer fail: that it would again proves nothing.
    rows = [n for n, s in enumerate(plan.slabs) if s.id in records and not records[s.id].get("given_up")]
    drawn = [plan.slabs[n] for n in random.Random(seed).sample(rows, min(count, len(rows)))]
    for slab in drawn:
        check.findings += _replayed(slab, records[slab.id], attempt(records[slab.id].get("attempt", 0)))
    check.detail = f"{len(drawn)} slabs computed anew (draw seed {seed})"
    return check


def _replayed(slab: Slab, record: dict[str, Any], job: Job) -> list[str]:
    result = compute(slab, job)
    if result.inputs_sha256 != record["inputs_sha256"]:
        return [f"slab {slab.id}: its inputs are not the inputs that were read then"]
    made = {content.box: content.digests() for content in chunks(slab, job, result)}
    said = {Box(tuple(c[0]), tuple(c[1])): c[2:] for c in record["chunks"]}
    return [
        f"slab {slab.id}: chunk {b} comes out differently"
        for b in made.keys() | said.keys()
        if made.get(b) != said.get(b)
    ]


def certified(out: str, job: Job, *, recompute: bool) -> Check:
    """The certificate is of the plan in force and says what its tiles say; computed anew, they come out the same."""
    found = certificate.read(out)
    check = Check("certificate", detail=certificate.sentence(found))
    if found is None:
        return check
    failed = found["status"] == "failed"
    if found["bound"] != job.bound:
        check.findings.append("it belongs to another plan than the one in force: run again")
    again = certificate.summarise(found["bound"], found["asked"], found["tiles"], found["why"], failed=failed)
    check.findings += ["its means are not those of its tiles"] if again != found else []
    if recompute and not check.findings and not failed:
        check.findings += _recomputed(found, job)
        check.detail += "; computed anew"
    return check


def _recomputed(found: dict[str, Any], job: Job) -> Iterator[str]:
    slabs, _ = certificate.probes(job, found["asked"])
    rows = [json.loads(json.dumps(certificate.measure(slab, job))) for slab in slabs]
    said = {json.dumps([r["z"], r["box"]]): r for r in found["tiles"]}
    now = {json.dumps([r["z"], r["box"]]): r for r in rows}
    if said.keys() != now.keys():
        yield "other tiles would be measured now: the source or the flags changed"
        return
    for at, row in now.items():
        if row["inputs_sha256"] != said[at]["inputs_sha256"]:
            yield f"tile {at}: its inputs are not the inputs that were read then"
        elif not certificate.alike(row, said[at]):
            yield f"tile {at} comes out differently"
