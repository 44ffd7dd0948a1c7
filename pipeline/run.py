"""Run: drive the pending slabs of a plan through a bounded window of tasks, certify, then merge.

The run emits events (small dicts with a `kind`); whoever called it decides what people see.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import certificate
from pipeline.attempts import Attempts, OnEvent, in_words
from pipeline.box import Box
from pipeline.cluster import memory_per_worker, threads_per_worker, visible_gpus
from pipeline.crew import Crew
from pipeline.errors import Interrupted, PlanChangedError, UsageError, VolumeError
from pipeline.job import Proposal, bound, current_plan, install, make_store, open_job
from pipeline.ledger import Ledger, sweep
from pipeline.lock import StoreLock
from pipeline.merge import forget_merge, merge, read_merge, source_manifest
from pipeline.plan import Slab
from pipeline.recipe import Recipe
from pipeline.restorer import Needs
from pipeline.runlog import RunLog
from pipeline.selftest import golden
from pipeline.store import (
    drop_uncertainty,
    has_uncertainty,
    open_labels,
    open_overlay,
    open_uncertainty,
    update_attrs,
)
from pipeline.summary import summarise
from pipeline.worker import Leave, Post, Probe, Task, budget

GO_ON = "run the same command again to go on"


@dataclass
class Stop:
    """Whether the user asked to stop; set from a signal handler, read between slabs."""

    requested: bool = False


def run(
    proposal: Proposal, *, on_event: OnEvent = lambda _: None, stop: Stop | None = None, redo: Sequence[str] = ()
) -> dict[str, Any]:
    """Do what the proposal says and return the summary. Raises ZmendError, of which Interrupted can be resumed.

    redo: ids of slabs (or the first characters of them) that are done again although they have a record.

    Done slabs stay done: running again does only what changed.
    """
    stop, began = stop or Stop(), time.perf_counter()
    config, plan, out = proposal.config, proposal.plan, proposal.config.output.path
    make_store(proposal)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(3).hex()}"
    ledger = Ledger(out)
    with StoreLock(out) as lock, RunLog(out, run_id, config, on_event) as tell:
        if lock.taken_over:
            sweep(out)
        named = _named(redo, ledger)
        install(proposal)
        if _source_moved_on(proposal):
            tell(
                {
                    "kind": "warning",
                    "text": "chunks of the source changed since the last merge; if nobody meant that, stop",
                }
            )
        retired = _supersede(proposal, ledger, run_id, named)
        done = ledger.ids()
        todo = [s for s in plan.slabs if s.id not in done]
        if todo or retired:
            forget_merge(out)  # until it is merged again, the merged volume is not the overlay's
        tell({"kind": "begin", "run": run_id, "slabs": len(plan.slabs), "todo": len(todo), "retired": retired})
        with Crew(config.site, tell, lambda: stop.requested) as crew:
            post = _post(proposal, anything=bool(todo))
            moved = _work_off(todo, crew, post, run_id, hope=len(todo) < len(plan.slabs))
            if not stop.requested:
                _certify(crew, proposal, post)
        if stop.requested:
            raise Interrupted(
                f"stopped with {len(ledger.ids() & {s.id for s in plan.slabs})} of {len(plan.slabs)} slabs done",
                where=out,
                why="asked to",
                do=GO_ON,
            )
        if config.output.mode == "volume":
            moved += _merge(proposal, tell, stop)
        summary = summarise(plan, ledger, run_id, out, moved, time.perf_counter() - began)
        tell({"kind": "end", **summary})
    return summary


def _post(proposal: Proposal, *, anything: bool) -> Post:
    """What the workers must know. The golden tile is made for those on other hosts or devices than this process,
    if there is anything to restore."""
    site, header = proposal.config.site, proposal.plan.header
    needs, recipe = Needs.parse(header["restorer"], "the plan"), Recipe.model_validate(header["recipe"])
    threads, gpu = threads_per_worker(site), site.gpus > 0 or (site.kind == "cuda" and visible_gpus()[0] > 0)
    tested = anything and site.kind != "local"
    return Post(
        proposal.config.output.path,
        proposal.plan.hash,
        threads=threads,
        memory=budget(memory_per_worker(site), needs) if site.workers else 0,
        device="cuda" if gpu else "",
        golden=golden(recipe, proposal.source.voxel_nm, threads) if tested else "",
        expendable=site.workers > 0,
    )


def _work_off(todo: Sequence[Slab], crew: Crew, post: Post, run_id: str, *, hope: bool) -> Counter[str]:
    """Restore the slabs. Those that were given up are left as they are, quarantined like what is not fit to keep."""
    attempts = Attempts(crew.site.attempts, crew.tell, hope)
    moved = _told(crew, todo, Task(post, run_id), attempts)
    if attempts.given_up and not crew.stopped():
        why = {slab.id: failure.words for slab, failure in attempts.given_up}
        last = Attempts(crew.site.attempts, crew.tell)
        moved += _told(crew, [slab for slab, _ in attempts.given_up], Leave(post, run_id, why), last)
        last.finish(strict=True)
    return moved


def _told(crew: Crew, todo: Sequence[Slab], task: Task | Leave, attempts: Attempts) -> Counter[str]:
    moved: Counter[str] = Counter()
    for done in crew.work(todo, task, attempts) if todo else ():
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
        if len(rows) == len(slabs):  # else asked to stop
            certificate.write(out, certificate.summarise(bound(plan), asked, rows, why))
    except Exception as error:
        certificate.write(out, certificate.summarise(bound(plan), asked, [], in_words(error), failed=True))


def _named(prefixes: Sequence[str], ledger: Ledger) -> set[str]:
    """The recorded slabs whose ids begin so. Raises UsageError for one that names none."""
    named = {p: {i for i in ledger.ids() if i.startswith(p)} for p in prefixes}
    for prefix, found in named.items():
        if not found or not prefix:
            raise UsageError(f"no finished slab is called '{prefix}'", do="zmend verify names the slabs that it doubts")
    return set().union(*named.values())


def _supersede(proposal: Proposal, ledger: Ledger, run_id: str, redo: set[str]) -> int:
    """Put the plan in force: retire the records of other plans and erase the chunks that they wrote."""
    plan, out = proposal.plan, proposal.config.output.path
    arrays = [open_overlay(out), open_labels(out), *([open_uncertainty(out)] if has_uncertainty(out) else [])]
    here = [set(array.present()) for array in arrays]
    wanted = {s.id for s in plan.slabs}
    stale = redo | {i for i in ledger.ids() if i not in wanted or not _whole(ledger, i, here)}
    ledger.retire(stale)
    for path, record in ledger.retiring():
        for start, stop, *_ in record["chunks"]:
            for array in arrays:
                array.erase(Box(tuple(start), tuple(stop)) & Box.of(array.shape))
        ledger.finish_retiring(path, run_id)
    if not certificate.is_current(out, bound(plan)):
        certificate.forget(out)
    update_attrs(out, zmend={"head": plan.hash, "weights": plan.header["restorer"]["digest"]})
    if not proposal.config.recipe.uncertainty:
        drop_uncertainty(out, proposal.source, mode=proposal.config.output.mode)
    return len(stale)


def _source_moved_on(proposal: Proposal) -> bool:
    """Whether the source's chunks are other than the last merge saw them."""
    merged = read_merge(proposal.config.output.path)
    return merged is not None and merged["source_manifest"] != source_manifest(proposal.source)


def _whole(ledger: Ledger, slab_id: str, here: list[set[Box]]) -> bool:
    """Whether all chunks that a record tells of exist. What lost one is done again, like what was never done.

    here: the chunks of overlay, labels and uncertainty, in the order of a record's digests.
    """
    try:
        record = ledger.get(slab_id)
    except VolumeError:
        ledger.discard(slab_id)
        return True  # nothing is left to retire
    return all(
        len(c) - 2 <= len(here) and all(Box(tuple(c[0]), tuple(c[1])) in there for there in here[: len(c) - 2])
        for c in record["chunks"]
    )


def _merge(proposal: Proposal, tell: OnEvent, stop: Stop) -> Counter[str]:
    def progress(done: int, of: int) -> None:
        if stop.requested:
            raise Interrupted(f"stopped while merging: {done} of {of} chunks done", where=out, why="asked to", do=GO_ON)
        tell({"kind": "merge", "done": done, "of": of})

    out = proposal.config.output.path
    tell({"kind": "merge", "done": 0, "of": 0})
    merged = merge(proposal.source, out, clone=proposal.config.output.clone, progress=progress)
    return Counter(bytes_read=merged.bytes_read, bytes_written=merged.bytes_written)


def remerge(out: str, config_clone: str = "auto", on_event: OnEvent = lambda _: None) -> dict[str, Any]:
    """Blend the overlay of a finished store back into a full volume. Raises PlanChangedError, StoreLockedError."""
    plan = current_plan(out)
    missing = {s.id for s in plan.slabs} - Ledger(out).ids()
    if missing:
        raise PlanChangedError(
            f"{len(missing)} of {len(plan.slabs)} slabs are not restored yet",
            where=out,
            why="the run that restores them has not ended",
            do="run it to its end first: zmend run zmend.yaml",
        )
    job = open_job(out, plan.hash)
    with StoreLock(out):
        merged = merge(
            job.source,
            out,
            clone=config_clone,  # type: ignore[arg-type]
            progress=lambda done, of: on_event({"kind": "merge", "done": done, "of": of}),
        )
    return {
        "output": out,
        "chunks_rewritten": merged.chunks_rewritten,
        "chunks_linked": merged.chunks_linked,
        "chunks_copied": merged.chunks_copied,
        "voxels_changed": merged.voxels_changed,
        "bytes_read": merged.bytes_read,
        "bytes_written": merged.bytes_written,
    }
