"""Run: drive the pending slabs of a plan through a bounded window of tasks, then merge.

The run emits events (small dicts with a `kind`); whoever called it decides what people see.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.box import Box
from pipeline.cluster import connect, threads_per_worker
from pipeline.config import Config, Site
from pipeline.errors import (
    InputError,
    Interrupted,
    PlanChangedError,
    StoreLockedError,
    UsageError,
    VolumeError,
    ZmendError,
)
from pipeline.job import Proposal, current_plan, install, make_store, open_job
from pipeline.ledger import Ledger, sweep
from pipeline.lock import StoreLock
from pipeline.merge import forget_merge, merge, read_merge, source_manifest
from pipeline.plan import Plan, Slab
from pipeline.slab import restore
from pipeline.store import open_labels, open_overlay, update_attrs
from pipeline.summary import environment, summarise

OnEvent = Callable[[dict[str, Any]], None]
WINDOW = 3  # slabs in flight per worker: two at work, one waiting; a stop has no more than these to finish
GO_ON = "run the same command again to go on"
HOPELESS = 10  # failures without a single success: everything fails alike, so stop


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
    with StoreLock(out) as lock:
        if lock.taken_over:
            sweep(out)
        named = _named(redo, ledger)
        install(proposal)
        tell = _logged(out, run_id, config, on_event)
        if _source_moved_on(proposal):
            tell(
                {
                    "kind": "warning",
                    "text": "chunks of the source changed since the last merge; if nobody meant that, stop",
                }
            )
        retired = _supersede(plan, ledger, out, run_id, named)
        todo = [s for s in plan.slabs if not ledger.has(s.id)]
        if todo or retired:
            forget_merge(out)  # until it is merged again, the merged volume is not the overlay's
        tell({"kind": "begin", "run": run_id, "slabs": len(plan.slabs), "todo": len(todo), "retired": retired})
        moved = _work_off(todo, plan, config, run_id, tell, stop)
        if stop.requested:
            raise Interrupted(
                f"stopped with {sum(ledger.has(s.id) for s in plan.slabs)} of {len(plan.slabs)} slabs done",
                where=out,
                why="asked to",
                do=GO_ON,
            )
        if config.output.mode == "volume":
            moved += _merge(proposal, tell, stop)
        summary = summarise(plan, ledger, run_id, out, moved, time.perf_counter() - began)
        tell({"kind": "end", **summary})
    return summary


def _work_off(todo: list[Slab], plan: Plan, config: Config, run_id: str, tell: OnEvent, stop: Stop) -> Counter[str]:
    moved: Counter[str] = Counter()
    if not todo:
        return moved
    site, out = config.site, config.output.path
    task = Task(out, plan.hash, threads_per_worker(site), run_id)
    results = _serial(todo, task, site, tell, stop) if site.workers == 0 else _dask(todo, task, site, tell, stop)
    for done in results:
        moved.update(bytes_read=done["bytes_read"], bytes_written=done["bytes_written"])
        tell({"kind": "slab", **done})
    return moved


@dataclass(frozen=True)
class Task:
    """What a worker runs; with a slab's row, a few hundred bytes on the wire."""

    out: str
    plan: str
    threads: int
    run: str

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        with _OPENING:
            job = open_job(self.out, self.plan, self.threads)
        record = restore(Slab.of(row), job, run=self.run)
        return {k: record[k] for k in ("slab", "status", "voxels", "bytes_read", "bytes_written", "seconds", "write")}


_OPENING = threading.Lock()  # two threads of a worker share one job: one model in memory, one lock around it


@dataclass
class Attempts:
    """Counts failures and decides: try again, go on without, or stop."""

    allowed: int
    tell: OnEvent
    succeeded: bool = False

    def __post_init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.lost: list[tuple[Slab, BaseException]] = []

    def again(self, slab: Slab, error: BaseException) -> bool:
        """Whether to try the slab once more. Raises what trying again cannot mend."""
        if isinstance(error, InputError | StoreLockedError):
            raise error
        self.count[slab.id] += 1
        self.tell({"kind": "failure", "slab": slab.id, "attempt": self.count[slab.id], "error": in_words(error)})
        if not self.succeeded and self.count.total() >= HOPELESS:
            raise self._error(slab, error, f"{HOPELESS} failures and no success: everything fails alike")
        if self.count[slab.id] < self.allowed:
            return True
        self.lost.append((slab, error))
        return False

    def finish(self) -> None:
        """Raises for the first slab that was given up, if any."""
        if self.lost:
            slab, error = self.lost[0]
            raise self._error(slab, error, f"{len(self.lost)} slabs failed {self.allowed} times each") from error

    def _error(self, slab: Slab, error: BaseException, what: str) -> ZmendError:
        return ZmendError(
            what,
            where=f"slab {slab.id} {slab.write}",
            why=in_words(error),
            do="mend the cause and run again: finished slabs are kept; -vv shows the traceback",
        )


def in_words(error: BaseException) -> str:
    """An error as people read it."""
    if type(error).__name__ == "KilledWorker":
        return "the worker died again and again while it held this slab: out of memory, or killed from outside"
    return f"{type(error).__name__}: {error}"


def _serial(todo: Iterable[Slab], task: Task, site: Site, tell: OnEvent, stop: Stop) -> Iterator[dict[str, Any]]:
    attempts = Attempts(site.attempts, tell)
    queue = list(reversed(list(todo)))
    while queue and not stop.requested:
        slab = queue.pop()
        try:
            yield task(slab.row())
            attempts.succeeded = True
        except Exception as error:
            if attempts.again(slab, error):
                queue.append(slab)
    attempts.finish()


def _dask(todo: Iterable[Slab], task: Task, site: Site, tell: OnEvent, stop: Stop) -> Iterator[dict[str, Any]]:
    from distributed import as_completed

    with connect(site) as client:
        attempts, pending = Attempts(site.attempts, tell), iter(todo)
        flying: dict[str, Slab] = {}
        done = as_completed(loop=client.loop)

        def send(slab: Slab) -> None:
            key = f"slab-{slab.id}-{attempts.count[slab.id]}"
            flying[key] = slab
            done.add(client.submit(task, slab.row(), key=key, retries=0, pure=False))

        def refill() -> None:
            while len(flying) < WINDOW * site.workers and not stop.requested:
                slab = next(pending, None)
                if slab is None:
                    return
                send(slab)

        refill()
        while flying:
            future = next(done)
            slab, error = flying.pop(future.key), future.exception()
            if error is None:
                attempts.succeeded = True
                yield future.result()
            elif attempts.again(slab, error) and not stop.requested:
                send(slab)
            future.release()  # a result that is kept would be computed again when its worker dies
            refill()
        attempts.finish()


def _named(prefixes: Sequence[str], ledger: Ledger) -> set[str]:
    """The recorded slabs whose ids begin so. Raises UsageError for one that names none."""
    named = {p: {i for i in ledger.ids() if i.startswith(p)} for p in prefixes}
    for prefix, found in named.items():
        if not found or not prefix:
            raise UsageError(f"no finished slab is called '{prefix}'", do="zmend verify names the slabs that it doubts")
    return set().union(*named.values())


def _supersede(plan: Plan, ledger: Ledger, out: str, run_id: str, redo: set[str]) -> int:
    """Put the plan in force: retire the records of other plans and erase the chunks that they wrote."""
    overlay, labels = open_overlay(out), open_labels(out)
    here = set(overlay.present()) & set(labels.present())
    wanted = {s.id for s in plan.slabs}
    stale = redo | {i for i in ledger.ids() if i not in wanted or not _whole(ledger, i, here)}
    ledger.retire(stale)
    for path, record in ledger.retiring():
        for start, stop, *_ in record["chunks"]:
            for array in (overlay, labels):
                array.erase(Box(tuple(start), tuple(stop)) & Box.of(array.shape))
        ledger.finish_retiring(path, run_id)
    update_attrs(out, zmend={"head": plan.hash, "weights": plan.header["restorer"]["digest"]})
    return len(stale)


def _source_moved_on(proposal: Proposal) -> bool:
    """Whether the source's chunks are other than the last merge saw them."""
    merged = read_merge(proposal.config.output.path)
    return merged is not None and merged["source_manifest"] != source_manifest(proposal.source)


def _whole(ledger: Ledger, slab_id: str, here: set[Box]) -> bool:
    """Whether all chunks that a record tells of exist. What lost one is done again, like what was never done."""
    try:
        record = ledger.get(slab_id)
    except VolumeError:
        ledger.discard(slab_id)
        return True  # nothing is left to retire
    return all(Box(tuple(c[0]), tuple(c[1])) in here for c in record["chunks"])


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
    missing = [s.id for s in plan.slabs if not Ledger(out).has(s.id)]
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


def _logged(out: str, run_id: str, config: Config, on_event: OnEvent) -> OnEvent:
    """Events go to the caller, and to zmend/runs/<id>/log.jsonl beside the configuration and the environment."""
    folder = Path(out) / "zmend" / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json(indent=1))
    (folder / "environment.json").write_text(json.dumps(environment(), indent=1))
    log = folder / "log.jsonl"

    def tell(event: dict[str, Any]) -> None:
        with log.open("a") as f:
            f.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **event}) + "\n")
        on_event(event)

    return tell
