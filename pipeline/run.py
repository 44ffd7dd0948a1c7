"""Run: drive the pending slabs of a plan through a bounded window of tasks, certify, then merge.

The run emits events (small dicts with a `kind`); whoever called it decides what people see.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import failpoint, review, signature
from pipeline.attempts import OnEvent
from pipeline.cluster import reap
from pipeline.crew import Crew
from pipeline.errors import Interrupted
from pipeline.force import Survey
from pipeline.forecast import forecast
from pipeline.foundation import sweep_beside
from pipeline.job import Proposal, install, make_store, try_weights
from pipeline.journal import forget_merge, read_merge, source_manifest
from pipeline.ledger import Ledger, sweep
from pipeline.lock import StoreLock
from pipeline.merge import merge
from pipeline.runlog import RunLog, new_name
from pipeline.seal import Seal
from pipeline.shift import Shift, in_order
from pipeline.slabs import Slabs
from pipeline.store import has_merged, is_store, open_overlay
from pipeline.summary import summarise
from pipeline.takeover import find, named, ordered, supersede
from pipeline.verdicts import Verdicts
from pipeline.worker import put_away

WANTING = "configuration or flags ask for them, and no run has done them yet"
GO_ON = "run the same command again to go on"


@dataclass
class Stop:
    """Whether the user asked to stop; set from a signal handler, read between slabs."""

    requested: bool = False


def run(
    proposal: Proposal,
    *,
    on_event: OnEvent = lambda _: None,
    stop: Stop | None = None,
    redo: Sequence[str] = (),
    verdicts: Verdicts | None = None,
    sign: str = "",
) -> dict[str, Any]:
    """Do what the proposal says and return the summary. Raises ZmendError, of which Interrupted can be resumed.

    redo: ids of slabs (or the first characters of them) that are done again although they have a record.
    verdicts: of a review; the slabs that it rejects are done again with a seed of their own.
    sign: a file with the private key that signs what is in force at the end.

    Done slabs stay done: running again does only what changed.
    """
    began, out = time.perf_counter(), proposal.config.output.path
    key = signature.private_key(sign) if sign else None
    try_weights(proposal, loaded=not is_store(out))
    make_store(proposal)
    with (
        StoreLock(out) as lock,
        RunLog(out, run_id := new_name(out), proposal.config, on_event) as tell,
        Seal(out, tell, lock.held),
    ):
        this = _Run(proposal, run_id, lock, Ledger(out, lock.held), tell, stop or Stop())
        found = this.prepare(redo, verdicts)
        this.restore(found)
        this.merge()
        lock.held()
        if key is not None:
            signature.sign(out, key)
        ids, took = proposal.plan.slabs.ids, time.perf_counter() - began
        summary = summarise(proposal.plan.hash, ids, this.ledger, run_id, out, this.moved, took)
        tell({"kind": "end", **summary})
    return summary


@dataclass(frozen=True)
class _Found:
    """What is in the store before anything is done: see `takeover.find`."""

    seen: Survey
    stale: set[str]
    redo: set[str]  # asked for by name
    reviewed: bool


@dataclass
class _Run:
    """The steps of one run, while its lock is held."""

    proposal: Proposal
    name: str
    lock: StoreLock
    ledger: Ledger
    tell: OnEvent
    stop: Stop
    moved: Counter[str] = field(default_factory=Counter)  # bytes_read, bytes_written

    @property
    def out(self) -> str:
        """The store."""
        return self.proposal.config.output.path

    def prepare(self, redo: Sequence[str], verdicts: Verdicts | None) -> _Found:
        """Put right what killed runs left, install the plan, and see what is there already."""
        sweep_beside(self.out)
        if asked := failpoint.armed():
            self.warn(f"this run is made to fail: {failpoint.ENV}={asked}")
        again = named(redo, self.ledger)
        grown = open_overlay(self.out).shape[0] < self.proposal.source.shape[0]  # its last chunks may well be new
        install(self.proposal)
        if not grown and _source_moved_on(self.proposal):
            self.warn("chunks of the source changed since the last merge; if nobody meant that, stop")
        _clear_up(self.proposal, self.ledger, self.tell)
        orders = ordered(self.out, self.name, self.ledger, verdicts, self.tell) if verdicts else {}
        seen, stale = find(self.proposal, self.ledger, self.name, again, orders)
        return _Found(seen, stale, again, bool(verdicts))

    def restore(self, found: _Found) -> None:
        """Everything that needs workers: what is known already is kept, what is not is restored, and measured."""
        with Crew(self.proposal.config.site, self.tell, lambda: self.stop.requested) as crew:
            shift = Shift(crew, self.proposal, self.ledger, self.name, self.lock.name)
            kept = shift.keep(found.redo)
            if self.stop.requested:
                raise Interrupted("stopped before the first slab", where=self.out, why="asked to", do=GO_ON)
            todo = self.take_over(found, kept)
            if found.reviewed:
                _tell_besides(todo, set(review.read(self.out)), self.tell)
            self.moved += shift.work_off(todo)
            if not self.stop.requested:
                shift.certify(anything=bool(todo))
                signature.recertified(self.out, self.name, self.tell)
        put_away()  # the merge needs the room
        if self.stop.requested:
            raise self.interrupted()

    def take_over(self, found: _Found, kept: int) -> Slabs:
        """Bring the plan in force, and say what is left to do. kept: slabs that stay done under new ids."""
        plan = self.proposal.plan
        supersede(self.proposal, self.ledger, self.name, found.seen, found.stale, self.lock, self.tell)
        retired, todo = len(found.stale) - kept, in_order(plan.slabs.but(self.ledger.done()), self.proposal)
        self.lock.held()
        if todo or retired or kept:
            forget_merge(self.out)  # until it is merged again, the merged volume is not the overlay's
        begun = {"slabs": len(plan.slabs), "todo": len(todo), "retired": retired, "kept": kept}
        expected = forecast(self.proposal, len(todo) / max(1, len(plan.slabs)))
        home = self.proposal.at_home
        self.tell({"kind": "begin", "run": self.name, **begun, "at_home": home, "forecast": expected})
        return todo

    def merge(self) -> None:
        """Bring the merged volume up to date, if there is one: its voxels must be what its labels say."""
        if self.proposal.config.output.mode == "volume" or has_merged(self.out):
            self.moved += _merge(self.proposal, self.tell, self.stop, self.lock)

    def warn(self, text: str) -> None:
        """Tell of what somebody may not have meant."""
        self.tell({"kind": "warning", "text": text})

    def interrupted(self) -> Interrupted:
        """How far one has come."""
        slabs = self.proposal.plan.slabs
        done = len(slabs) - len(slabs.but(self.ledger.done()))
        what = f"stopped with {done} of {len(slabs)} slabs done"
        return Interrupted(what, where=self.out, why="asked to", do=GO_ON)


def _clear_up(proposal: Proposal, ledger: Ledger, tell: OnEvent) -> None:
    """Put right what a run that was killed has left, before anything is judged."""
    for spoiled in ledger.packs.discard_damaged():
        tell({"kind": "warning", "text": f"{spoiled} is not what was written; its slabs are done again"})
    ledger.pack()
    reap(proposal.config.site)  # jobs of a driver that was killed
    sweep(proposal.config.output.path, surveyed=True)


def _tell_besides(todo: Slabs, ordered: set[str], tell: OnEvent) -> None:
    """That slabs are done which nobody rejected: the plan asks for them, and a store holds one whole plan."""
    if besides := sum(slab.id not in ordered for slab in todo):
        tell({"kind": "warning", "text": f"{besides} slabs are done besides those that were rejected: {WANTING}"})


def _source_moved_on(proposal: Proposal) -> bool:
    """Whether the source's chunks are other than the last merge saw them."""
    merged = read_merge(proposal.config.output.path)
    return merged is not None and merged["source_manifest"] != source_manifest(proposal.source)


def _merge(proposal: Proposal, tell: OnEvent, stop: Stop, lock: StoreLock) -> Counter[str]:
    def progress(done: int, of: int) -> None:
        if stop.requested:
            raise Interrupted(f"stopped while merging: {done} of {of} chunks done", where=out, why="asked to", do=GO_ON)
        tell({"kind": "merge", "done": done, "of": of})

    out = proposal.config.output.path
    tell({"kind": "merge", "done": 0, "of": 0})
    merged = merge(proposal.source, out, clone=proposal.config.output.clone, progress=progress, fence=lock.held)
    return Counter(bytes_read=merged.bytes_read, bytes_written=merged.bytes_written)
