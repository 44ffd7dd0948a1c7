"""Explain: why each slab of a proposal would be done, or not, beside what the store holds. Reads; writes nothing.

A slab without a record is held against the record that lies where it lies: what made that one, which flags it saw, how
far it read. What is left when all of that is the same is what was read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.box import Box
from pipeline.errors import ZmendError
from pipeline.flags import Flags
from pipeline.ids import Ids
from pipeline.job import Proposal, bound, read_flags
from pipeline.ledger import Ledger
from pipeline.plan import Plan, Slab
from pipeline.planfile import current_plan, plan_path, read_plan
from pipeline.recipe import reseeded
from pipeline.store import has_uncertainty, is_store, open_labels, open_overlay, open_uncertainty

Reason = tuple[str, str]  # one of REASONS, and what people may want to know besides
REASONS = (
    "unchanged",
    "first run",
    "not done yet",
    "new section",
    "newly flagged",
    "flags changed",
    "neighbour changed",
    "source replaced",
    "recipe changed",
    "weights changed",
    "cut anew",
    "record spoiled",
    "chunks lost",
    "failed before",
)


def explain(proposal: Proposal) -> dict[str, Any]:
    """Counts by reason, a row for each slab, and the places whose flags were taken back; JSON-ready."""
    out, plan = proposal.config.output.path, proposal.plan
    former = Former.of(proposal) if is_store(out) else None
    reasons = ((slab, former.reason(slab) if former else ("first run", "")) for slab in plan.slabs)
    rows = [{"slab": s.id, "write": [s.write.start, s.write.stop], "why": w, "detail": d} for s, (w, d) in reasons]
    counts = Counter(row["why"] for row in rows)
    return {
        "slabs": len(rows),
        "todo": len(rows) - counts["unchanged"],
        "counts": {why: counts[why] for why in REASONS if counts[why]},
        "taken_back": former.left_over() if former else [],
        "rows": rows,
    }


@dataclass(frozen=True, slots=True)
class Made:
    """Of a record in force that the plan does not share: what was done where, and from what."""

    write: Box
    read: Box
    plan: str
    bound: tuple[str, ...]  # recipe, restorer, weights, seed

    @staticmethod
    def of(record: dict[str, Any]) -> Made:
        write, read = (Box(tuple(record[k][0]), tuple(record[k][1])) for k in ("write", "read"))
        return Made(write, read, record["plan"], _bound(record))


@dataclass
class Former:
    """What a store holds now, as far as it tells why slabs of another plan would be done."""

    proposal: Proposal
    ledger: Ledger
    done: set[str] = field(default_factory=set)  # with a record that can be trusted
    spoiled: set[str] = field(default_factory=set)
    passing: dict[str, str] = field(default_factory=dict)  # given up for what may have passed, and why
    lost: set[str] = field(default_factory=set)  # with a record, and without all of its chunks
    made: dict[int, list[Made]] = field(default_factory=lambda: defaultdict(list))  # by section
    used: set[Made] = field(default_factory=set)
    plans: dict[str, Plan | None] = field(default_factory=dict)
    flags: dict[str, Flags | None] = field(default_factory=dict)

    @staticmethod
    def of(proposal: Proposal) -> Former:
        self = Former(proposal, Ledger(proposal.config.output.path))
        wanted, arrays = Ids.of(proposal.plan.slabs.ids), _present(proposal.config.output.path)
        for slab_id, record in self.ledger.records():
            if record is None:
                self.spoiled.add(slab_id)
            elif slab_id not in wanted:
                one = Made.of(record)
                for z in range(one.write.start[0], one.write.stop[0]):
                    self.made[z].append(one)
            else:
                whole = all(tuple(c[0]) in there for c in record["chunks"] for there in arrays[: len(c) - 2])
                (self.done if whole else self.lost).add(slab_id)
                self.passing |= {slab_id: record["quarantined"]} if record.get("may_pass") else {}
        return self

    @cached_property
    def head(self) -> Plan | None:
        """The plan in force; none in a store in which no run has begun, or whose plan was spoiled."""
        try:
            return current_plan(self.proposal.config.output.path)
        except ZmendError:
            return None

    @cached_property
    def planned(self) -> Ids:
        return Ids.of(self.head.slabs.ids if self.head else self.proposal.plan.slabs.ids[:0])

    def reason(self, slab: Slab) -> Reason:
        """Why a slab of the proposal is done, or is not."""
        if slab.id in self.passing:
            return "failed before", self.passing[slab.id]
        if slab.id in self.done:
            return "unchanged", ""
        if slab.id in self.spoiled:
            return "record spoiled", "its record is not what was written"
        if slab.id in self.lost:
            return "chunks lost", "chunks that its record tells of are gone"
        sections = range(slab.write.start[0], slab.write.stop[0])
        here = [m for z in sections for m in self.made.get(z, ()) if (m.write & slab.write).size]
        self.used.update(here)
        same = next((m for m in here if m.write == slab.write), here[0] if here else None)
        return self._none_before(slab) if same is None else self._since(slab, same)

    def left_over(self) -> list[list[int]]:
        """Sections [z0, z1) of slabs that were done and are wanted no more."""
        gone = {m for made in self.made.values() for m in made} - self.used
        return [list(z) for z in sorted({(m.write.start[0], m.write.stop[0]) for m in gone})]

    def _none_before(self, slab: Slab) -> Reason:
        depth = self.head.header["source"]["shape"][0] if self.head else 0
        if slab.id in self.planned:
            return "not done yet", "a run was interrupted before it"
        if slab.write.stop[0] > depth:
            return "new section", f"the volume had {depth} sections"
        return "newly flagged", ""

    def _since(self, slab: Slab, made: Made) -> Reason:
        """What is other than when the record at its place was made, the furthest-reaching first."""
        now = bound(self.proposal.plan)
        if made.bound != _bound(now):
            return self._recipe(made, now["weights"])
        then = self._flags(made.plan)
        if then is None:
            return "flags changed", "the flags of then are not in the store any more"
        both = _around(made.write, slab.write)
        if _seen(then, both) != _seen(self.proposal.flags, both):
            return "flags changed", ""
        if made.write != slab.write:
            return "cut anew", f"it was {made.write}"
        around = _changed(then, self.proposal.flags, _around(made.read, slab.read))
        if around:
            return "neighbour changed", f"flags of section {', '.join(map(str, around))}"
        if made.read != slab.read:
            return "neighbour changed", f"it reads {slab.read} now, and read {made.read}"
        return "source replaced", "chunks that it reads were written anew; it stays if they hold what they held"

    def _recipe(self, made: Made, weights: str) -> Reason:
        before, now = self._plan(made.plan), self.proposal.plan.header["recipe"]
        then = before.header["recipe"] if before else {}
        fields = [k for k in sorted({**then, **now}) if then.get(k) != now.get(k)] if before else []
        if made.bound[2] != weights and set(fields) <= {"weights"}:
            return "weights changed", f"{made.bound[2][:12]} then, {weights[:12]} now"
        return "recipe changed", ", ".join(fields) or "the recipe of then is not in the store any more"

    def _plan(self, plan: str) -> Plan | None:
        if plan not in self.plans:
            try:
                self.plans[plan] = read_plan(plan_path(self.proposal.config.output.path, plan), slabs=False)
            except ZmendError:
                self.plans[plan] = None
        return self.plans[plan]

    def _flags(self, plan: str) -> Flags | None:
        if plan not in self.flags:
            found = self._plan(plan)
            try:
                out, shape = self.proposal.config.output.path, self.proposal.source.shape
                self.flags[plan] = read_flags(out, found, shape) if found else None
            except ZmendError:
                self.flags[plan] = None
        return self.flags[plan]


def _bound(said: dict[str, Any]) -> tuple[str, ...]:
    seed = reseeded(said["seed"], -said.get("attempt", 0))  # of the first attempt
    return said["recipe"], said["restorer"], said["weights"], str(seed)


def _present(out: str) -> list[set[tuple[int, ...]]]:
    """Where chunks of overlay, labels and uncertainty start, in the order of a record's digests."""
    arrays = [open_overlay(out), open_labels(out), *([open_uncertainty(out)] if has_uncertainty(out) else [])]
    return [{box.start for box in array.present()} for array in arrays]


def _around(one: Box, two: Box) -> Box:
    """The smallest box that holds both."""
    low, high = (zip(one.start, two.start, strict=True), zip(one.stop, two.stop, strict=True))
    return Box(tuple(map(min, low)), tuple(map(max, high)))  # type: ignore[arg-type]


def _seen(flags: Flags, box: Box) -> list[Any]:
    """What flags say of a box, as a slab's id has it."""
    near = flags.touching(box)
    return sorted(((f.box & box).start, (f.box & box).stop, not f.restorable, f.whole, f.mask) for f in near)


def _changed(then: Flags, now: Flags, box: Box) -> list[int]:
    """The sections of a box of which flags say something else now."""
    layers: Iterator[Box] = (box.with_z(z, z + 1) for z in range(box.start[0], box.stop[0]))
    return [layer.start[0] for layer in layers if _seen(then, layer) != _seen(now, layer)]
