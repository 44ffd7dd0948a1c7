"""Defects: every flag that is to be restored, the slabs that do it, and what their records say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.blend import LEFT, RESTORED, UNCERTAIN
from pipeline.box import Box
from pipeline.flags import Flag, Flags
from pipeline.ids import Ids
from pipeline.ledger import Ledger
from pipeline.plan import Plan, Slab

PENDING, DONE, QUARANTINED = range(3)
MOST_REASONS = 20  # that the page tells of what was left


@dataclass
class Tally:
    """What all records of a plan say, a row a slab in the plan's order."""

    status: NDArray[np.uint8]  # PENDING, DONE, QUARANTINED
    voxels: NDArray[np.int64]  # (n, 6) by label; column 0 is unused
    seconds: NDArray[np.float64]  # to compute and to write
    bytes_read: int = 0
    bytes_written: int = 0
    left: Counter[str] = field(default_factory=Counter)  # voxels left as they were, by reason
    spoiled: int = 0  # records that cannot be trusted

    @staticmethod
    def of(plan: Plan, ledger: Ledger) -> Tally:
        """Goes through every record once."""
        n, wanted = len(plan.slabs), Ids.of(plan.slabs.ids)
        place = np.empty(n, np.int64)
        place[wanted.at(plan.slabs.ids)] = np.arange(n)
        tally = Tally(np.zeros(n, np.uint8), np.zeros((n, 6), np.int64), np.zeros(n))
        for slab_id, record in ledger.records():
            at = wanted.find(slab_id)
            if at is not None:
                tally._add(int(place[at]), record)
        return tally

    def _add(self, row: int, record: dict[str, Any] | None) -> None:
        if record is None:
            self.spoiled += 1
            return
        self.status[row] = QUARANTINED if record["status"] == "quarantined" else DONE
        self.voxels[row] = [0, *(record["voxels"].get(str(label), 0) for label in range(1, 6))]
        self.seconds[row] = sum(record["seconds"])
        self.bytes_read += record["bytes_read"]
        self.bytes_written += record["bytes_written"]
        for part in record["left"]:
            self.left[part["why"]] += part["voxels"]

    def reasons(self) -> list[tuple[str, int]]:
        """Why voxels were left as they were, the most first."""
        return self.left.most_common(MOST_REASONS)

    def count(self, *labels: int, rows: NDArray[np.int64] | None = None) -> int:
        """Voxels of these labels, of all slabs or of some."""
        return int((self.voxels if rows is None else self.voxels[rows])[:, labels].sum())


@dataclass(frozen=True, eq=False)
class Defect:
    """One flag to restore. `number` counts the plan's flags from 1: it names the defect in pages and verdicts."""

    number: int
    flag: Flag
    rows: NDArray[np.int64]  # of the plan's slabs that share a voxel with the flag's box
    made: int  # voxels restored in these slabs; they may belong to other flags too
    left: int  # voxels left as they were
    uncertain: int
    pending: int  # slabs without a record
    quarantined: int

    @property
    def worry(self) -> tuple[float, ...]:
        """Larger is worse: what is not done, what was left, what the ensemble disagrees on; then by size."""
        touched = max(1, self.made + self.left)
        return self.pending > 0, self.left / touched, self.uncertain / touched, self.made

    def slabs(self, plan: Plan) -> list[tuple[Slab, Box]]:
        """Each slab, and the part of the flag's box that it writes."""
        found = (plan.slabs[int(row)] for row in self.rows)
        return [(slab, slab.write & self.flag.box) for slab in found]


def defects(flags: Flags, plan: Plan, tally: Tally) -> list[Defect]:
    """Every restorable flag, the most worrying first."""
    search = _Search(plan.slabs.boxes)
    found = [_defect(n, flag, search, tally) for n, flag in enumerate(flags, 1) if flag.restorable]
    return sorted(found, key=lambda d: (*(-w for w in d.worry), d.number))


def _defect(number: int, flag: Flag, search: _Search, tally: Tally) -> Defect:
    rows = search.touching(flag.box)
    status = tally.status[rows]
    return Defect(
        number, flag, rows, tally.count(*RESTORED, rows=rows), tally.count(LEFT, rows=rows),
        tally.count(UNCERTAIN, rows=rows), int((status == PENDING).sum()), int((status == QUARANTINED).sum()),
    )  # fmt: skip


class _Search:
    """Slabs by place: sorted by their first section, so that a flag looks at few of a million."""

    def __init__(self, boxes: NDArray[np.int32]) -> None:
        self.order = np.argsort(boxes[:, 0], kind="stable")
        self.boxes = boxes[self.order, :6]
        self.first = self.boxes[:, 0]
        self.deep = int((self.boxes[:, 3] - self.first).max(initial=1))

    def touching(self, box: Box) -> NDArray[np.int64]:
        """Rows of the slabs whose write box shares a voxel with `box`, in the plan's order."""
        low, high = np.searchsorted(self.first, [box.start[0] - self.deep + 1, box.stop[0]])
        near = self.boxes[low:high]
        hit = ((near[:, :3] < np.array(box.stop)) & (near[:, 3:] > np.array(box.start))).all(axis=1)
        return np.sort(self.order[low:high][hit])


def sections(ranges: Sequence[tuple[int, int]]) -> str:
    """Sections as people write them: 7, or 10–12 (both are meant)."""
    return ", ".join(str(a) if b - a == 1 else f"{a}–{b - 1}" for a, b in ranges)
