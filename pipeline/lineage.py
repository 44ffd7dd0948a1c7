"""Lineage: from every synthetic voxel to one record, and from there to plan, weights and inputs that still match."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.box import ZYX, Box
from pipeline.check import Check, first
from pipeline.errors import VolumeError, ZmendError
from pipeline.ids import WIDTH, Ids
from pipeline.job import made_as
from pipeline.journal import read_merge, source_manifest
from pipeline.ledger import Ledger
from pipeline.lock import holder
from pipeline.plan import Plan, Slab
from pipeline.restorer import proven
from pipeline.seal import broken, changed, documents
from pipeline.sight import Job, look
from pipeline.slabs import Slabs
from pipeline.volume import Volume


class Records(Mapping[str, dict[str, Any]]):
    """The records of slabs, by id. Each is read when it is asked for: a million would take gigabytes."""

    def __init__(self, ledger: Ledger, slabs: Slabs) -> None:
        self.slabs = slabs  # that have one
        self._ledger, self._ids = ledger, Ids.of(slabs.ids)

    def __len__(self) -> int:
        return len(self.slabs)

    def __iter__(self) -> Iterator[str]:
        return (slab.id for slab in self.slabs)

    def __contains__(self, slab_id: object) -> bool:
        return slab_id in self._ids if isinstance(slab_id, str) else False

    def __getitem__(self, slab_id: str) -> dict[str, Any]:
        return self._ledger.get(slab_id)


def records(plan: Plan, job: Job) -> tuple[Records, list[str]]:
    """The records of the plan's slabs, and what is wrong with those that cannot be trusted."""
    good, spoiled = np.zeros(len(plan.slabs), bool), []
    for n, slab in enumerate(plan.slabs):
        if not job.ledger.has(slab.id):
            continue
        try:
            job.ledger.get(slab.id)
            good[n] = True
        except VolumeError as e:
            spoiled.append(f"slab {slab.id}: {e.what}: {e.why}")
    return Records(job.ledger, Slabs(plan.slabs.ids[good], plan.slabs.boxes[good])), spoiled


BEHIND = "the merged volume is not what the overlay holds"


def finished(out: str, plan: Plan, records: Records, spoiled: list[str], job: Job, volume_mode: bool) -> Check:
    """Every slab has its record, and the merge came after the last of them."""
    check = Check("finished", list(spoiled))
    merge = read_merge(out) if volume_mode else None
    late = [f"slab {s.id} {s.write} has no record: run again" for s in _waiting(plan, records)]
    if volume_mode and merge is None:
        late.append(f"{BEHIND}: zmend merge, or run again")
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


def lineage(plan: Plan, records: Records, job: Job) -> Check:
    """Each synthetic voxel has exactly one current record, and each record the plan's weights, flags and recipe."""
    check, known = Check("lineage"), _Chunks(job.labels)
    for slab, record in records.items():
        odd = known.add(slab, record["chunks"])
        check.findings += [f"slab {slab} tells of {box}, which is no chunk" for box in odd]
        if not made_as(record, job.bound):
            check.findings.append(f"slab {slab} was made with another recipe or other weights")
        if Slab.of([slab, *record["write"], *record["read"]]) not in plan.slabs:
            check.findings.append(f"slab {slab} was made for another place than the plan's")
    check.findings += [f"chunk {box} has two records: {a} and {b}" for box, a, b in known.twice()]
    found: list[Box] = []
    for volume, name in ((job.labels, "label"), (job.overlay, "overlay"), (job.uncertainty, "uncertainty")):
        strays = known.strays(volume, spread=name == "uncertainty") if volume is not None else []
        check.findings += [f"{name} chunk {box} has no record" for box in strays]
        found += strays
    places = [s.write for s in _waiting(plan, records)] if found else []
    if found and len(found) == len(check.findings) and all(any((b & w).size for w in places) for b in found):
        check.early = "slabs were stopped half-way"
    check.findings += [f"records {a} and {b} overlap" for a, b in _overlaps(plan.slabs)]
    check.detail = f"{len(known)} chunks, each of one record"
    return check


class _Chunks:
    """Whose each chunk is, as the records say: a chunk is told by its first voxel, and takes 25 bytes."""

    def __init__(self, grid: Volume) -> None:
        self._grid, self._starts, self._ids, self._spread = grid, array("q"), bytearray(), bytearray()

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, slab: str, chunks: list[Any]) -> list[Box]:
        """The chunks that a record tells of; returns the boxes that are none."""
        boxes = [Box(tuple(c[0]), tuple(c[1])) for c in chunks]
        self._starts.extend(self._code(box.start) for box in boxes)
        self._ids += bytes.fromhex(slab) * len(boxes)
        self._spread += bytes(len(c) > 4 for c in chunks)
        return [box for box in boxes if not self._is_one(box)]

    def _is_one(self, box: Box) -> bool:
        inside = box.size and box in Box.of(self._grid.shape)
        return bool(inside) and [self._grid.box(cell) for cell in self._cells(box)] == [box]

    def _cells(self, box: Box) -> list[ZYX]:
        grain = self._grid.grain
        starts = (cell.start for cell in box.cells(grain))
        return [(z // grain[0], y // grain[1], x // grain[2]) for z, y, x in starts]

    def twice(self) -> Iterator[tuple[Box, str, str]]:
        """Chunks of two records, and those two."""
        starts = np.frombuffer(self._starts, np.int64) if self._starts else np.empty(0, np.int64)
        order = np.argsort(starts, kind="stable")
        for at in np.flatnonzero(starts[order][1:] == starts[order][:-1]):
            one, two = (int(order[at + i]) for i in (0, 1))
            yield self._box(int(starts[one])), self._owner(one), self._owner(two)

    def strays(self, volume: Volume, *, spread: bool) -> list[Box]:
        """The chunks of an array that no record tells of. spread: it is the uncertainty's, which not every slab has."""
        known = np.frombuffer(self._starts, np.int64) if self._starts else np.empty(0, np.int64)
        known = known[np.frombuffer(self._spread, bool)] if spread and len(known) else known
        z, y, x = (volume.cells() * np.array(volume.grain)).T
        there = (z * volume.shape[1] + y) * volume.shape[2] + x
        return [self._box(int(code)) for code in there[~np.isin(there, known)]]

    def _owner(self, n: int) -> str:
        return self._ids[WIDTH * n : WIDTH * (n + 1)].hex()

    def _code(self, start: Sequence[int]) -> int:
        _, y, x = self._grid.shape
        return (int(start[0]) * y + int(start[1])) * x + int(start[2])

    def _box(self, code: int) -> Box:
        (rest, x), grain = divmod(code, self._grid.shape[2]), self._grid.grain
        z, y = divmod(rest, self._grid.shape[1])
        return self._grid.box((z // grain[0], y // grain[1], x // grain[2]))


def _overlaps(slabs: Slabs) -> Iterator[tuple[str, str]]:
    """Slabs over the same lateral cell that share sections."""
    z, y, x, stop = slabs.boxes[:, 0], slabs.boxes[:, 1], slabs.boxes[:, 2], slabs.boxes[:, 3]
    order = np.lexsort((z, x, y))
    one, two = order[:-1], order[1:]
    shared = (y[one] == y[two]) & (x[one] == x[two]) & (stop[one] > z[two])
    yield from ((slabs[int(a)].id, slabs[int(b)].id) for a, b in zip(one[shared], two[shared], strict=True))


def _waiting(plan: Plan, records: Records) -> Slabs:
    return plan.slabs.but(Ids.of(records.slabs.ids))


def sources(records: Records, job: Job) -> Check:
    """What each slab was made from (voxels, flags, masks) is read again, and is still what its record says."""
    check = Check("sources")
    for slab in records.slabs:
        try:
            matches = look(slab, job).inputs_sha256 == records[slab.id]["inputs_sha256"]
            check.findings += [] if matches else [f"slab {slab.id}: its inputs are not the inputs that were read then"]
        except (ZmendError, OSError) as e:
            check.findings.append(f"slab {slab.id}: {first(e)}")
    check.detail = f"the inputs of {len(records)} slabs read again and hashed"
    return check
