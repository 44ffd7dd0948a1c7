"""Run: drive the pending slabs of a plan through a bounded window of tasks, certify, then merge.

The run emits events (small dicts with a `kind`); whoever called it decides what people see.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import certificate, failpoint, review, signature
from pipeline.attempts import PASSING, Attempts, OnEvent, in_words
from pipeline.cluster import memory_per_worker, reap, threads_per_worker, visible_gpus
from pipeline.crew import Crew
from pipeline.errors import Interrupted, StoreLockedError
from pipeline.forecast import forecast
from pipeline.ids import Ids, column
from pipeline.job import Proposal, bound, install, make_store, open_job, recipe_of, try_weights
from pipeline.kin import kin
from pipeline.ledger import Ledger, sweep
from pipeline.lock import StoreLock, still_held
from pipeline.merge import forget_merge, merge, read_merge, source_manifest
from pipeline.plan import Slab
from pipeline.restorer import Needs
from pipeline.review import Order
from pipeline.runlog import RunLog, new_name
from pipeline.seal import Seal
from pipeline.selftest import golden
from pipeline.slabs import Slabs
from pipeline.store import has_merged, is_store, open_overlay, sweep_beside
from pipeline.summary import summarise
from pipeline.takeover import find, named, ordered, supersede
from pipeline.verdicts import Verdicts
from pipeline.worker import Leave, Post, Probe, Recheck, Task, budget

PACK_EVERY = 8192  # slabs: so few files lie about however long a run takes
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
    stop, began = stop or Stop(), time.perf_counter()
    config, plan, out = proposal.config, proposal.plan, proposal.config.output.path
    key = signature.private_key(sign) if sign else None
    try_weights(proposal, loaded=not is_store(out))
    make_store(proposal)
    with (
        StoreLock(out) as lock,
        RunLog(out, run_id := new_name(out), config, on_event) as tell,
        Seal(out, tell, lock.held),
    ):
        sweep_beside(out)
        ledger = Ledger(out, lock.held)
        if asked := failpoint.armed():
            tell({"kind": "warning", "text": f"this run is made to fail: {failpoint.ENV}={asked}"})
        again = named(redo, ledger)
        grown = open_overlay(out).shape[0] < proposal.source.shape[0]  # its last chunks may well be new
        install(proposal)
        if not grown and _source_moved_on(proposal):
            tell(
                {
                    "kind": "warning",
                    "text": "chunks of the source changed since the last merge; if nobody meant that, stop",
                }
            )
        _clear_up(proposal, ledger, tell)
        orders = ordered(out, run_id, ledger, verdicts, tell) if verdicts else {}
        seen, stale = find(proposal, ledger, run_id, again, orders)
        with Crew(config.site, tell, lambda: stop.requested) as crew:
            kept = _keep(crew, proposal, _post(proposal, lock.name, anything=False), ledger, again)
            if stop.requested:
                raise Interrupted("stopped before the first slab", where=out, why="asked to", do=GO_ON)
            supersede(proposal, ledger, run_id, seen, stale, lock, tell)
            retired, todo = len(stale) - kept, plan.slabs.but(ledger.done())
            lock.held()
            if todo or retired or kept:
                forget_merge(out)  # until it is merged again, the merged volume is not the overlay's
            begun = {"slabs": len(plan.slabs), "todo": len(todo), "retired": retired, "kept": kept}
            expected = forecast(proposal, len(todo) / max(1, len(plan.slabs)))
            tell({"kind": "begin", "run": run_id, **begun, "forecast": expected})
            if verdicts:
                _tell_besides(todo, set(review.read(out)), tell)
            moved, hope = Counter[str](), len(todo) < len(plan.slabs)
            for attempt, slabs, told in _by_attempt(todo, review.read(out)):
                post = _post(proposal, lock.name, anything=True, attempt=attempt)
                moved += _work_off(slabs, crew, post, run_id, ledger, told, hope=hope)
            ledger.pack()
            if not stop.requested:
                _certify(crew, proposal, _post(proposal, lock.name, anything=bool(todo)))
                signature.recertified(out, run_id, tell)
        if stop.requested:
            raise Interrupted(
                f"stopped with {len(plan.slabs) - len(plan.slabs.but(ledger.done()))} of {len(plan.slabs)} slabs done",
                where=out,
                why="asked to",
                do=GO_ON,
            )
        if config.output.mode == "volume" or has_merged(out):  # else its voxels would not be what its labels say
            moved += _merge(proposal, tell, stop, lock)
        lock.held()
        if key is not None:
            signature.sign(out, key)
        summary = summarise(plan.hash, plan.slabs.ids, ledger, run_id, out, moved, time.perf_counter() - began)
        tell({"kind": "end", **summary})
    return summary


def _clear_up(proposal: Proposal, ledger: Ledger, tell: OnEvent) -> None:
    """Put right what a run that was killed has left, before anything is judged."""
    for spoiled in ledger.packs.discard_damaged():
        tell({"kind": "warning", "text": f"{spoiled} is not what was written; its slabs are done again"})
    ledger.pack()
    reap(proposal.config.site)  # jobs of a driver that was killed
    sweep(proposal.config.output.path)


def _tell_besides(todo: Slabs, ordered: set[str], tell: OnEvent) -> None:
    """That slabs are done which nobody rejected: the plan asks for them, and a store holds one whole plan."""
    if besides := sum(slab.id not in ordered for slab in todo):
        tell({"kind": "warning", "text": f"{besides} slabs are done besides those that were rejected: {WANTING}"})


def _keep(crew: Crew, proposal: Proposal, post: Post, ledger: Ledger, redo: set[str]) -> int:
    """Slabs whose chunks of the source were written anew and hold what they held stay done, under their new ids."""
    plan, count, table = proposal.plan, 0, review.read(proposal.config.output.path)
    known = {new: old for new, old in kin(plan, bound(plan), ledger).items() if old not in redo}
    if again := {new: table[old] for new, old in known.items() if old in table and new not in table}:
        review.write(proposal.config.output.path, table | again)
    attempts = Attempts(crew.site.attempts, crew.tell)
    for read in crew.work((s for s in plan.slabs if s.id in known), Recheck(post), attempts) if known else ():
        record = ledger.get(known[read["slab"]])
        if record["inputs_sha256"] == read["inputs_sha256"]:
            count += ledger.commit({**record, "slab": read["slab"]})
    return count


def _by_attempt(todo: Slabs, table: dict[str, Order]) -> Iterator[tuple[int, Sequence[Slab], dict[str, Order]]]:
    """The slabs of each attempt together, for an attempt has a seed of its own; with what their records say of it."""
    again = [slab for slab in todo if slab.id in table] if table else []
    rest = todo.but(Ids.of(column(slab.id for slab in again)))
    if len(rest):
        yield 0, rest, {}
    for attempt in sorted({table[slab.id]["attempt"] for slab in again}):
        slabs = [slab for slab in again if table[slab.id]["attempt"] == attempt]
        yield attempt, slabs, {slab.id: {k: table[slab.id][k] for k in review.TOLD} for slab in slabs}


def _post(proposal: Proposal, lock: str, *, anything: bool, attempt: int = 0) -> Post:
    """What the workers must know. The golden tile is made for those on other hosts or devices than this process,
    if there is anything to restore."""
    site, header = proposal.config.site, proposal.plan.header
    needs, recipe = Needs.parse(header["restorer"], "the plan"), recipe_of(proposal.plan, attempt)
    threads, gpu = threads_per_worker(site), site.gpus > 0 or (site.kind == "cuda" and visible_gpus()[0] > 0)
    tested = anything and site.kind != "local"
    return Post(
        proposal.config.output.path,
        proposal.plan.hash,
        threads=threads,
        memory=budget(memory_per_worker(site), needs) if site.workers else 0,
        device="cuda" if gpu else "",
        golden=golden(recipe, proposal.source.voxel_nm, threads) if tested else "",
        lock=lock,
        expendable=site.workers > 0,
        attempt=attempt,
    )


def _work_off(
    todo: Sequence[Slab],
    crew: Crew,
    post: Post,
    run_id: str,
    ledger: Ledger,
    orders: dict[str, Order],
    *,
    hope: bool,
) -> Counter[str]:
    """Restore the slabs. Those that were given up are left as they are, quarantined like what is not fit to keep; where
    the cause may pass, their records say so, and the next run tries again."""
    attempts = Attempts(crew.site.attempts, crew.tell, hope)
    moved = _told(crew, todo, Task(post, run_id, orders), attempts, ledger)
    if attempts.given_up and not crew.stopped():
        why = {slab.id: f"given up: {failure.words}" for slab, failure in attempts.given_up}
        passing = [slab.id for slab, failure in attempts.given_up if failure.cause in PASSING]
        orders = {**orders, **{i: {**orders.get(i, {}), "may_pass": True} for i in passing}}
        last = Attempts(crew.site.attempts, crew.tell)
        moved += _told(crew, [slab for slab, _ in attempts.given_up], Leave(post, run_id, why, orders), last, ledger)
        last.finish(strict=True)
    return moved


def _told(
    crew: Crew, todo: Sequence[Slab], task: Task | Leave, attempts: Attempts, ledger: Ledger
) -> Counter[str]:
    moved: Counter[str] = Counter()
    for number, done in enumerate(crew.work(todo, task, attempts) if todo else (), 1):
        if number % PACK_EVERY == 0:
            ledger.pack()
        moved.update(bytes_read=done["bytes_read"], bytes_written=done["bytes_written"])
        crew.tell({"kind": "slab", **done})
    return moved


def _certify(crew: Crew, proposal: Proposal, post: Post) -> None:
    """Measure on intact sections, unless that was done under this plan. Whatever fails is told, and fails no run."""
    plan, out, asked = proposal.plan, proposal.config.output.path, proposal.config.certificate
    if not asked or certificate.is_current(out, bound(plan), asked):
        return
    task, rows = Probe(post), []
    try:
        slabs, why = certificate.probes(open_job(out, plan.hash, post.threads), asked)
        attempts = Attempts(crew.site.attempts, crew.tell)
        for row in crew.work(slabs, task, attempts) if slabs else ():
            rows.append(row)
            crew.tell({"kind": "certificate", "done": len(rows), "of": len(slabs)})
        attempts.finish(strict=True)
        still_held(out, post.lock)
        if len(rows) == len(slabs):  # else asked to stop
            certificate.write(out, certificate.summarise(bound(plan), asked, rows, why))
    except StoreLockedError:
        raise
    except Exception as error:
        certificate.write(out, certificate.summarise(bound(plan), asked, [], in_words(error), failed=True))


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
