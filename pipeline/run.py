"""Run: drive the pending slabs of a plan through a bounded window of tasks, certify, then merge.

The run emits events (small dicts with a `kind`); whoever called it decides what people see.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import certificate, failpoint
from pipeline.attempts import Attempts, OnEvent, in_words
from pipeline.box import ZYX, Box
from pipeline.cluster import memory_per_worker, reap, threads_per_worker, visible_gpus
from pipeline.crew import Crew
from pipeline.errors import Interrupted, PlanChangedError, StoreLockedError, UsageError
from pipeline.ids import Ids
from pipeline.job import Proposal, bound, current_plan, install, make_store, open_job, try_weights
from pipeline.kin import kin
from pipeline.ledger import Ledger, sweep
from pipeline.lock import StoreLock, still_held
from pipeline.merge import forget_merge, merge, read_merge, source_manifest
from pipeline.plan import Slab
from pipeline.recipe import Recipe
from pipeline.restorer import Needs
from pipeline.runlog import RunLog
from pipeline.seal import Seal
from pipeline.selftest import golden
from pipeline.store import (
    drop_uncertainty,
    has_uncertainty,
    is_store,
    open_labels,
    open_overlay,
    open_uncertainty,
    sweep_beside,
    update_attrs,
)
from pipeline.summary import summarise
from pipeline.volume import Volume
from pipeline.worker import Leave, Post, Probe, Recheck, Task, budget

PACK_EVERY = 8192  # slabs: so few files lie about however long a run takes
TOGETHER = 4096  # records that are looked at at once
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
    if not is_store(out):
        try_weights(proposal)
    make_store(proposal)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(3).hex()}"
    with (
        StoreLock(out) as lock,
        RunLog(out, run_id, config, on_event) as tell,
        Seal(out, tell, lock.held),
    ):
        sweep_beside(out)
        ledger = Ledger(out, lock.held)
        if asked := failpoint.armed():
            tell({"kind": "warning", "text": f"this run is made to fail: {failpoint.ENV}={asked}"})
        named = _named(redo, ledger)
        grown = open_overlay(out).shape[0] < proposal.source.shape[0]  # its last chunks may well be new
        install(proposal)
        if not grown and _source_moved_on(proposal):
            tell(
                {
                    "kind": "warning",
                    "text": "chunks of the source changed since the last merge; if nobody meant that, stop",
                }
            )
        for spoiled in ledger.packs.discard_damaged():
            tell({"kind": "warning", "text": f"{spoiled} is not what was written; its slabs are done again"})
        ledger.pack()  # what a run that was killed left
        reap(config.site)  # jobs of a driver that was killed, before anything that they wrote is judged
        sweep(out)
        with Crew(config.site, tell, lambda: stop.requested) as crew:
            kept = _keep(crew, proposal, _post(proposal, lock.name, anything=False), ledger, named)
            if stop.requested:
                raise Interrupted("stopped before the first slab", where=out, why="asked to", do=GO_ON)
            retired = _supersede(proposal, ledger, run_id, named) - kept
            todo = plan.slabs.but(ledger.done())
            lock.held()
            if todo or retired or kept:
                forget_merge(out)  # until it is merged again, the merged volume is not the overlay's
            begun = {"slabs": len(plan.slabs), "todo": len(todo), "retired": retired, "kept": kept}
            tell({"kind": "begin", "run": run_id, **begun})
            post = _post(proposal, lock.name, anything=bool(todo))
            moved = _work_off(todo, crew, post, run_id, ledger, hope=len(todo) < len(plan.slabs))
            ledger.pack()
            if not stop.requested:
                _certify(crew, proposal, post)
        if stop.requested:
            raise Interrupted(
                f"stopped with {len(plan.slabs) - len(plan.slabs.but(ledger.done()))} of {len(plan.slabs)} slabs done",
                where=out,
                why="asked to",
                do=GO_ON,
            )
        if config.output.mode == "volume":
            moved += _merge(proposal, tell, stop, lock)
        summary = summarise(plan, ledger, run_id, out, moved, time.perf_counter() - began)
        tell({"kind": "end", **summary})
    return summary


def _keep(crew: Crew, proposal: Proposal, post: Post, ledger: Ledger, redo: set[str]) -> int:
    """Slabs whose chunks of the source were written anew and hold what they held stay done, under their new ids."""
    plan, count = proposal.plan, 0
    known = {new: old for new, old in kin(plan, bound(plan), ledger).items() if old not in redo}
    attempts = Attempts(crew.site.attempts, crew.tell)
    for read in crew.work((s for s in plan.slabs if s.id in known), Recheck(post), attempts) if known else ():
        record = ledger.get(known[read["slab"]])
        if record["inputs_sha256"] == read["inputs_sha256"]:
            count += ledger.commit({**record, "slab": read["slab"]})
    return count


def _post(proposal: Proposal, lock: str, *, anything: bool) -> Post:
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
        lock=lock,
        expendable=site.workers > 0,
    )


def _work_off(
    todo: Sequence[Slab], crew: Crew, post: Post, run_id: str, ledger: Ledger, *, hope: bool
) -> Counter[str]:
    """Restore the slabs. Those that were given up are left as they are, quarantined like what is not fit to keep."""
    attempts = Attempts(crew.site.attempts, crew.tell, hope)
    moved = _told(crew, todo, Task(post, run_id), attempts, ledger)
    if attempts.given_up and not crew.stopped():
        why = {slab.id: failure.words for slab, failure in attempts.given_up}
        last = Attempts(crew.site.attempts, crew.tell)
        moved += _told(crew, [slab for slab, _ in attempts.given_up], Leave(post, run_id, why), last, ledger)
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
    stale = redo | set(_stale(ledger, Ids.of(plan.slabs.ids), arrays))
    ledger.retire(stale)
    kept = _places(proposal, ledger)
    for path, record in ledger.retiring():
        at = _code(record["write"][0], proposal.source.shape)
        still = kept[np.searchsorted(kept, at)] == at  # the slab has another id by now, and these are its chunks
        for start, stop, *_ in () if still else record["chunks"]:
            for array in arrays:
                array.erase(Box(tuple(start), tuple(stop)) & Box.of(array.shape))
        ledger.finish_retiring(path, run_id)
    if not certificate.is_current(out, bound(plan)):
        certificate.forget(out)
    update_attrs(out, zmend={"head": plan.hash, "weights": plan.header["restorer"]["digest"]})
    if not proposal.config.recipe.uncertainty:
        drop_uncertainty(out, proposal.source, mode=proposal.config.output.mode)
    return len(stale)


def _places(proposal: Proposal, ledger: Ledger) -> NDArray[np.int64]:
    """Where the slabs of the plan begin that have a record, ascending; then a number beyond them all."""
    slabs = proposal.plan.slabs
    begin = slabs.boxes[ledger.done().at(slabs.ids) >= 0, :3].astype(np.int64)
    _, y, x = proposal.source.shape
    return np.append(np.sort((begin[:, 0] * y + begin[:, 1]) * x + begin[:, 2]), np.iinfo(np.int64).max)


def _source_moved_on(proposal: Proposal) -> bool:
    """Whether the source's chunks are other than the last merge saw them."""
    merged = read_merge(proposal.config.output.path)
    return merged is not None and merged["source_manifest"] != source_manifest(proposal.source)


def _stale(ledger: Ledger, wanted: Ids, arrays: Sequence[Volume]) -> Iterator[str]:
    """Records that the plan does not share, and those whose chunks are not all there: what lost one is done again."""
    here = [np.sort(np.fromiter((_code(b.start, a.shape) for b in a.present()), np.int64)) for a in arrays]
    records = ledger.records()
    while some := list(islice(records, TOGETHER)):
        for slab_id in (i for i, record in some if record is None):
            ledger.discard(slab_id)  # nothing is left to retire
        known = [(i, record["chunks"]) for i, record in some if record is not None]
        yield from (i for i, _ in known if i not in wanted)
        yield from _broken(known, here, arrays[0].shape)


def _broken(known: Sequence[tuple[str, list[Any]]], here: Sequence[NDArray[np.int64]], shape: ZYX) -> set[str]:
    """Ids of records that tell of chunks which do not exist.

    here: where chunks of overlay, labels and uncertainty start, in the order of a record's digests.
    """
    broken = {i for i, chunks in known if any(len(c) - 2 > len(here) for c in chunks)}
    for level, there in enumerate(here):
        told = [(i, _code(c[0], shape)) for i, chunks in known for c in chunks if len(c) - 2 > level]
        absent = ~np.isin(np.array([code for _, code in told], np.int64), there)
        broken.update(told[int(n)][0] for n in np.flatnonzero(absent))
    return broken


def _code(start: Sequence[int], shape: ZYX) -> int:
    """One number for a chunk's first voxel."""
    return (int(start[0]) * shape[1] + int(start[1])) * shape[2] + int(start[2])


def _merge(proposal: Proposal, tell: OnEvent, stop: Stop, lock: StoreLock) -> Counter[str]:
    def progress(done: int, of: int) -> None:
        if stop.requested:
            raise Interrupted(f"stopped while merging: {done} of {of} chunks done", where=out, why="asked to", do=GO_ON)
        tell({"kind": "merge", "done": done, "of": of})

    out = proposal.config.output.path
    tell({"kind": "merge", "done": 0, "of": 0})
    merged = merge(proposal.source, out, clone=proposal.config.output.clone, progress=progress, fence=lock.held)
    return Counter(bytes_read=merged.bytes_read, bytes_written=merged.bytes_written)


def remerge(out: str, config_clone: str = "auto", on_event: OnEvent = lambda _: None) -> dict[str, Any]:
    """Blend the overlay of a finished store back into a full volume. Raises PlanChangedError, StoreLockedError."""
    plan = current_plan(out)
    missing = plan.slabs.but(Ledger(out).done())
    if missing:
        raise PlanChangedError(
            f"{len(missing)} of {len(plan.slabs)} slabs are not restored yet",
            where=out,
            why="the run that restores them has not ended",
            do="run it to its end first: zmend run zmend.yaml",
        )
    job = open_job(out, plan.hash)
    with StoreLock(out) as lock, Seal(out, on_event, lock.held):
        merged = merge(
            job.source,
            out,
            clone=config_clone,  # type: ignore[arg-type]
            progress=lambda done, of: on_event({"kind": "merge", "done": done, "of": of}),
            fence=lock.held,
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
