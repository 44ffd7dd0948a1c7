"""Shift: the slabs of one run in the hands of its crew: kept, restored, given up, measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import certificate, review
from pipeline.attempts import PASSING, Attempts, in_words
from pipeline.cluster import memory_per_process, threads_per_worker, visible_gpus
from pipeline.crew import Crew
from pipeline.errors import StoreLockedError
from pipeline.ids import Ids, column
from pipeline.job import Proposal, bound, open_job, recipe_of
from pipeline.kin import kin
from pipeline.ledger import Ledger
from pipeline.lock import still_held
from pipeline.memory import for_slabs, of_shelf
from pipeline.plan import Slab
from pipeline.restorer import Needs
from pipeline.review import Order
from pipeline.selftest import golden
from pipeline.slabs import Slabs
from pipeline.walk import walk
from pipeline.worker import Leave, Post, Probe, Recheck, Task

PACK_EVERY = 8192  # slabs: so few files lie about however long a run takes


@dataclass(frozen=True)
class Shift:
    """What a crew does for one run."""

    crew: Crew
    proposal: Proposal
    ledger: Ledger
    run: str
    lock: str  # of the run: its workers look for it before they write

    def post(self, *, anything: bool, attempt: int = 0) -> Post:
        """What the workers must know. The golden tile is made for those on other hosts or devices than this process,
        if there is anything to restore."""
        site, header = self.proposal.config.site, self.proposal.plan.header
        needs, recipe = Needs.parse(header["restorer"], "the plan"), recipe_of(self.proposal.plan, attempt)
        limit, threads = memory_per_process(site), threads_per_worker(site)
        gpu = site.gpus > 0 or (site.kind == "cuda" and visible_gpus()[0] > 0)
        tested = anything and site.kind != "local"
        return Post(
            self.proposal.config.output.path,
            self.proposal.plan.hash,
            threads=threads,
            memory=for_slabs(limit, needs, self.proposal.source.piece_bytes),
            shelf=of_shelf(limit) if len(self.proposal.plan.slabs) > 1 else 0,
            device="cuda" if gpu else "",
            golden=golden(recipe, self.proposal.source.voxel_nm, threads) if tested else "",
            lock=self.lock,
            expendable=site.workers > 0,
            attempt=attempt,
        )

    def keep(self, redo: set[str]) -> int:
        """Slabs whose chunks of the source were written anew and hold what they held stay done, under their new ids."""
        plan, out = self.proposal.plan, self.proposal.config.output.path
        count, table = 0, review.read(out)
        known = {new: old for new, old in kin(plan, bound(plan), self.ledger).items() if old not in redo}
        if again := {new: table[old] for new, old in known.items() if old in table and new not in table}:
            review.write(out, table | again)
        again_read = (s for s in plan.slabs if s.id in known)
        task, attempts = Recheck(self.post(anything=False)), self._attempts()
        for read in self.crew.work(again_read, task, attempts) if known else ():
            record = self.ledger.get(known[read["slab"]])
            if record["inputs_sha256"] == read["inputs_sha256"]:
                count += self.ledger.commit({**record, "slab": read["slab"]})
        return count

    def work_off(self, todo: Slabs) -> Counter[str]:
        """Restore the slabs; returns bytes_read and bytes_written."""
        moved, hope = Counter[str](), len(todo) < len(self.proposal.plan.slabs)
        for attempt, slabs, orders in _by_attempt(todo, review.read(self.proposal.config.output.path)):
            moved += self._attempted(slabs, self.post(anything=True, attempt=attempt), orders, hope=hope)
        self.ledger.pack()
        return moved

    def _attempted(
        self, todo: Sequence[Slab], post: Post, orders: dict[str, Order], *, hope: bool
    ) -> Counter[str]:
        """Restore slabs. Those that were given up are left as they are, quarantined like what is not fit to keep; where
        the cause may pass, their records say so, and the next run tries again."""
        attempts = self._attempts(hope=hope)
        moved = self._told(todo, Task(post, self.run, orders), attempts)
        if attempts.given_up and not self.crew.stopped():
            why = {slab.id: f"given up: {failure.words}" for slab, failure in attempts.given_up}
            passing = [slab.id for slab, failure in attempts.given_up if failure.cause in PASSING]
            orders = {**orders, **{i: {**orders.get(i, {}), "may_pass": True} for i in passing}}
            last, left = self._attempts(), [slab for slab, _ in attempts.given_up]
            moved += self._told(left, Leave(post, self.run, why, orders), last)
            last.finish(strict=True)
        return moved

    def _told(self, todo: Sequence[Slab], task: Task | Leave, attempts: Attempts) -> Counter[str]:
        moved: Counter[str] = Counter()
        for number, done in enumerate(self.crew.work(todo, task, attempts) if todo else (), 1):
            if number % PACK_EVERY == 0:
                self.ledger.pack()
            moved.update(bytes_read=done["bytes_read"], bytes_written=done["bytes_written"])
            self.crew.tell({"kind": "slab", **done})
        return moved

    def certify(self, *, anything: bool) -> None:
        """Measure on intact sections, unless that was done under this plan. Whatever fails is told, and fails no run.

        anything: whether something was restored.
        """
        plan, out, asked = self.proposal.plan, self.proposal.config.output.path, self.proposal.config.certificate
        if not asked or certificate.is_current(out, bound(plan), asked):
            return
        try:
            made = self._measured(self.post(anything=anything), asked)
        except StoreLockedError:
            raise
        except Exception as error:
            made = certificate.summarise(bound(plan), asked, [], in_words(error), failed=True)
        if made is not None:
            certificate.write(out, made)

    def _measured(self, post: Post, asked: int) -> dict[str, Any] | None:
        """The certificate; None where one was asked to stop."""
        plan, out, rows = self.proposal.plan, self.proposal.config.output.path, list[dict[str, Any]]()
        slabs, why = certificate.probes(open_job(out, plan.hash, post.threads), asked)
        attempts = self._attempts()
        for row in self.crew.work(slabs, Probe(post), attempts) if slabs else ():
            rows.append(row)
            self.crew.tell({"kind": "certificate", "done": len(rows), "of": len(slabs)})
        attempts.finish(strict=True)
        still_held(out, post.lock)
        return certificate.summarise(bound(plan), asked, rows, why) if len(rows) == len(slabs) else None

    def _attempts(self, *, hope: bool = False) -> Attempts:
        return Attempts(self.crew.site.attempts, self.crew.tell, hope)


def in_order(todo: Slabs, proposal: Proposal) -> Slabs:
    """So that slabs that read the same chunks come one after another."""
    site, source = proposal.config.site, proposal.source
    return walk(todo, source.chunks, source.dtype.itemsize, of_shelf(memory_per_process(site)))


def _by_attempt(todo: Slabs, table: dict[str, Order]) -> Iterator[tuple[int, Sequence[Slab], dict[str, Order]]]:
    """The slabs of each attempt together, for an attempt has a seed of its own; with what their records say of it."""
    again = [slab for slab in todo if slab.id in table] if table else []
    rest = todo.but(Ids.of(column(slab.id for slab in again)))
    if len(rest):
        yield 0, rest, {}
    for attempt in sorted({table[slab.id]["attempt"] for slab in again}):
        slabs = [slab for slab in again if table[slab.id]["attempt"] == attempt]
        yield attempt, slabs, {slab.id: {k: table[slab.id][k] for k in review.TOLD} for slab in slabs}
