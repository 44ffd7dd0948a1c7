"""Revert: the volume as a run found it, byte for byte. What that run and later ones made is kept in its turn.

    find     what was in force before the run, and what must come back for it: read, hashed, held against the source
    retire   what was made since; its chunks are kept
    return   the chunks and records of before
    merge    where there is a merged volume

Nothing is touched before everything that must come back is known to be there. A revert is a run: it is in the log, it
notes what it found, and can itself be reverted. Killed, the same command goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline import review, signature
from pipeline.attempts import OnEvent
from pipeline.clone import Clone
from pipeline.errors import RevertError, UsageError
from pipeline.files import Files
from pipeline.force import Survey, erase, retire, survey
from pipeline.foundation import adopt, drop_uncertainty, sweep_beside
from pipeline.ids import Ids
from pipeline.job import empty, keep_plan, of_source, open_job
from pipeline.journal import forget_merge, read_merge
from pipeline.kept import Kept
from pipeline.ledger import Ledger, sweep
from pipeline.lock import StoreLock
from pipeline.merge import merge
from pipeline.plan import Plan
from pipeline.planfile import current_plan, plan_path, read_plan
from pipeline.runlog import RunLog, new_name
from pipeline.seal import Seal
from pipeline.sight import Job, look
from pipeline.state import BESIDE, State, changing, found_by, run_called
from pipeline.store import has_merged, made_arrays, update_attrs

Json = dict[str, Any]


@dataclass(frozen=True)
class _Change:
    """What a revert does."""

    plan: Plan  # that will be in force
    beside: State  # whose documents will be there
    names: tuple[str, ...]  # of those documents
    stale: set[str]  # slabs whose records go
    back: list[Json]  # records that come


def revert(
    out: str, run: str, *, slabs: Sequence[str] = (), clone: Clone = "auto", on_event: OnEvent = lambda _: None
) -> Json:
    """Bring back what was in force before a run (or the first characters of its name), and return what was done.

    slabs: only these (ids, or how they begin) are brought back; they must be slabs of the plan in force.
    Raises UsageError for a run or slab that the store does not know, RevertError where the state is not to be had.
    """
    began, name = time.perf_counter(), run_called(out, run)
    asked = {"revert": name, "slabs": list(slabs)}
    with (
        StoreLock(out) as lock,
        RunLog(out, run_id := new_name(out), asked, on_event) as tell,
        Seal(out, tell, lock.held),
    ):
        sweep_beside(out)
        sweep(out)
        ledger = Ledger(out, lock.held)
        for spoiled in ledger.packs.discard_damaged():
            tell({"kind": "warning", "text": f"{spoiled} is not what was written; its slabs must be done again"})
        seen = survey(ledger, made_arrays(out))
        job, change = _find(out, name, slabs, ledger, seen)
        tell({"kind": "begin", "run": run_id, "slabs": len(change.plan.slabs), "todo": len(change.back),
              "retired": len(change.stale)})  # fmt: skip
        _act(out, change, seen, ledger, job, run_id, lock, tell)
        summary = _summary(out, name, run_id, change, whole=not slabs)
        if summary["merged"]:
            tell({"kind": "merge", "done": 0, "of": 0})
            merge(
                job.source,
                out,
                clone=clone,
                progress=lambda done, of: tell({"kind": "merge", "done": done, "of": of}),
                fence=lock.held,
            )
        summary["seconds"] = round(time.perf_counter() - began, 3)
        tell({"kind": "end", **summary})
    return summary


def would_revert(out: str, run: str, *, slabs: Sequence[str] = ()) -> Json:
    """What a revert would do, in its words, having looked at all that it looks at; raises what it would. The store is
    as it was afterwards."""
    began, name = time.perf_counter(), run_called(out, run)
    made = Files(out) / "zmend/plans", Files(out) / "zmend/flags"  # where a plan is made for a revert
    with StoreLock(out):
        ledger, before = Ledger(out), [set(folder.names() or ()) for folder in made]
        seen = survey(ledger, made_arrays(out), doubtful=lambda _: None)
        try:
            _, change = _find(out, name, slabs, ledger, seen)
            found = _summary(out, name, "", change, whole=not slabs)
        finally:
            for folder, names in zip(made, before, strict=True):
                for new in set(folder.names() or ()) - names:
                    folder.delete(new)
    return {**found, "dry_run": True, "seconds": round(time.perf_counter() - began, 3)}


def _summary(out: str, name: str, run_id: str, change: _Change, *, whole: bool) -> Json:
    """What a revert does, in a stable form. whole: of all slabs, and so of later runs too."""
    merged = has_merged(out) and (change.stale or change.back or read_merge(out) is None)
    return {
        "run": run_id,
        "reverted": [n for n in changing(out) if name <= n and n != run_id] if whole else [name],
        "plan": change.plan.hash,
        "slabs": len(change.plan.slabs),
        "brought_back": len(change.back),
        "retired": len(change.stale),
        "merged": bool(merged),
        "dry_run": False,
        "output": out,
        "seconds": 0.0,
    }


# --- what must come and go


def _find(out: str, run: str, slabs: Sequence[str], ledger: Ledger, seen: Survey) -> tuple[Job, _Change]:
    """What is to be done, and that it can be. Reads; touches nothing but the plans' folder."""
    then, now = found_by(out, run), State.now(out, seen.made)
    here, names = now.records(), tuple(BESIDE)
    if slabs:
        named = _named(out, run, slabs, then, now)
        plan, wanted = current_plan(out), here | named
        then, names = replace(then, beside=_mixed(then, now, named)), ("review", "signature")
    else:
        plan, wanted = _plan(out, run, then), then.records()
        if plan.hash != then.head:  # the source has grown: the others are bound to the plan before it did
            then = replace(then, beside={k: v for k, v in then.beside.items() if k == "review"})
    open_job.cache_clear()  # what was opened before is not what lies there now
    job = open_job(out, plan.hash, spread=False)
    stale = {i for i, made_by in here.items() if wanted.get(i) != made_by} | seen.broken
    missing = {i: made_by for i, made_by in wanted.items() if here.get(i) != made_by}
    return job, _Change(plan, then, names, stale, _back(out, missing, ledger, plan, job))


def _plan(out: str, run: str, then: State) -> Plan:
    """The plan that was in force, of the source as it is now; before the first one, a plan that asks for nothing."""
    plan = read_plan(plan_path(out, then.head)) if then.head else empty(current_plan(out))
    if set(Ids.of(plan.slabs.ids)) != then.records().keys():
        whole = [n for n in changing(out) if n < run]
        raise RevertError(
            f"run {run} found a store in which work was under way",
            where=out,
            why=f"{len(then.records())} of {len(plan.slabs)} slabs were done: it went on with what was interrupted",
            do=f"revert the run that was interrupted: {whole[-1]}" if whole else "revert an earlier run",
        )
    plan = of_source(plan)
    keep_plan(out, plan)
    return plan


def _named(out: str, run: str, prefixes: Sequence[str], then: State, now: State) -> dict[str, str]:
    """The run that had made each of the named slabs. Raises UsageError for one that is not in both states."""
    before, here, named = then.records(), now.records(), dict[str, str]()
    for prefix in prefixes:
        found = {i for i in here if prefix and i.startswith(prefix)}
        if not found & before.keys():
            raise UsageError(
                f"slab '{prefix}' is not one that run {run} found, or is none of the plan in force",
                where=out,
                why="another plan has other slabs; one slab alone can go back to an earlier attempt at the same plan",
                do=f"revert the whole run: zmend run {out} --revert {run}",
            )
        named |= {i: before[i] for i in found & before.keys()}
    return named


def _mixed(then: State, now: State, named: dict[str, str]) -> dict[str, str]:
    """The review as it is now, but for the named slabs as it was."""
    was, table = (json.loads(s.beside.get("review", '{"slabs": {}}'))["slabs"] for s in (then, now))
    table = {i: o for i, o in table.items() if i not in named} | {i: o for i, o in was.items() if i in named}
    return {"review": review.text(table)} if table else {}


def _back(out: str, missing: dict[str, str], ledger: Ledger, plan: Plan, job: Job) -> list[Json]:
    """The records that must come back. Raises RevertError unless each is there, whole, and made from the source as
    it is now."""
    arrays = made_arrays(out)
    like = arrays.get("uncertainty", arrays["labels"])  # the spread's array may be gone; it is like the labels'
    kept = Kept(out, {**arrays, "uncertainty": like})
    found = dict[str, Json]()
    for record in ledger.history(missing):
        if record["run"] == missing[record["slab"]]:
            found[record["slab"]] = record
    lost = [f"the record of slab {i} by run {run} is gone" for i, run in missing.items() if i not in found]
    for record in found.values():
        lost += kept.faults(record)
    if lost:
        raise RevertError(
            f"{len(lost)} parts of that state are lost, the first: {lost[0]}",
            where=f"{out}/zmend",
            why="what was kept of earlier runs was removed or changed",
            do="run with the configuration of then: zmend/runs/RUN/config.json; what is the same comes out the same",
        )
    _check_source(found, plan, job)
    return [found[i] for i in sorted(found)]


def _check_source(found: dict[str, Json], plan: Plan, job: Job) -> None:
    for slab in (s for s in plan.slabs if s.id in found):
        if look(slab, job).inputs_sha256 != found[slab.id]["inputs_sha256"]:
            raise RevertError(
                f"the source, or a mask, is not what slab {slab.id} was made from",
                where=f"{job.source.uri} {slab.read}",
                why="it was changed since: around what would come back, the volume is no longer what it was",
                do="bring the source back as it was, then revert",
            )


# --- doing it


def _act(
    out: str, change: _Change, seen: Survey, ledger: Ledger, job: Job, run_id: str, lock: StoreLock, tell: OnEvent
) -> None:
    """Killed anywhere in here, the same revert goes on."""
    arrays = made_arrays(out)
    now = State.now(out, seen.made)
    if change.stale or change.back or now.head != change.plan.hash:
        now.keep(out, run_id)
        forget_merge(out)
    lock.held()
    if "signature" not in change.beside.beside:
        signature.take_away(out, run_id, tell)
    change.beside.put_beside(out, change.names)
    kept = Kept(out, arrays, lock.held)
    for record in change.back:
        kept.hold(record)
    retire(ledger, change.stale, kept, run_id)
    erase(seen.strays, arrays)
    _shape(out, job)
    kept = Kept(out, made_arrays(out), lock.held)
    for record in change.back:
        kept.give(record)
        ledger.commit(record)
        kept.drop(record)
    ledger.pack()
    lock.held()
    update_attrs(out, zmend={"head": change.plan.hash, "weights": change.plan.header["restorer"]["digest"]})


def _shape(out: str, job: Job) -> None:
    """Give the store the arrays that the plan has."""
    mode = "volume" if has_merged(out) else "overlay"
    if job.recipe.uncertainty:
        adopt(out, job.source, mode=mode, spread=True)  # type: ignore[arg-type]
    else:
        drop_uncertainty(out, job.source, mode=mode)  # type: ignore[arg-type]
