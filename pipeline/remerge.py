"""Remerge: the overlay of a finished store into its full volume, all of it or what a reviewer accepted.

What was not accepted is left as it was: source voxels, label 4, a record that says why. Its restoration is kept, and a
revert brings it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline import review, signature, verdicts
from pipeline.attempts import OnEvent
from pipeline.clone import Clone
from pipeline.errors import PlanChangedError, VerdictError
from pipeline.files import Files
from pipeline.force import erase, retire, survey
from pipeline.job import open_job
from pipeline.journal import forget_merge
from pipeline.kept import Kept
from pipeline.ledger import Ledger, sweep
from pipeline.lock import StoreLock
from pipeline.merge import check_mergeable, merge
from pipeline.plan import Plan, Slab
from pipeline.planfile import current_plan
from pipeline.review import REJECTED, left_by_review
from pipeline.runlog import RunLog, new_name
from pipeline.seal import Seal
from pipeline.slab import leave
from pipeline.state import State
from pipeline.store import made_arrays


def remerge(
    out: str, clone: Clone = "auto", on_event: OnEvent = lambda _: None, *, accepted: str = "", anew: bool = False
) -> dict[str, Any]:
    """Blend the overlay of a finished store back into a full volume.

    anew: whatever is there of it already is made again: where rot in it does not show by size and time.
    accepted: a file of verdicts; slabs that it does not accept are left as they were.
    Raises PlanChangedError where slabs are not restored yet, StoreLockedError, VerdictError, also where slabs are
    accepted that an earlier review left out: a merge cannot bring back what is not in force.
    """
    plan = current_plan(out)
    judged = verdicts.read(accepted, plan.slabs) if accepted else None
    missing = [s for s in plan.slabs.but(Ledger(out).done()) if judged is None or s.id in judged.accepted]
    if missing:
        raise PlanChangedError(
            f"{len(missing)} of {len(plan.slabs)} slabs are not restored yet",
            where=out,
            why="the run that restores them has not ended",
            do="run it to its end first: zmend run zmend.yaml",
        )
    if judged is not None:
        _check_there(out, accepted, judged)
    job = open_job(out, plan.hash)
    check_mergeable(job.source)
    with StoreLock(out) as lock, Seal(out, on_event, lock.held):
        sweep(out)
        left = _leave_out(out, plan, judged, lock, on_event) if judged else {}
        merged = merge(
            job.source,
            out,
            clone=clone,
            progress=lambda done, of: on_event({"kind": "merge", "done": done, "of": of}),
            fence=lock.held,
            anew=anew,
        )
    return left | {
        "output": out,
        "chunks_rewritten": merged.chunks_rewritten,
        "chunks_linked": merged.chunks_linked,
        "chunks_copied": merged.chunks_copied,
        "voxels_changed": merged.voxels_changed,
        "bytes_read": merged.bytes_read,
        "bytes_written": merged.bytes_written,
    }


def _check_there(out: str, path: str, judged: verdicts.Verdicts) -> None:
    """What is accepted must be in force, not left as it was by an earlier review."""
    kinds = (kind for rows in Ledger(out).rows() for kind in rows.each_kind())
    runs = {i: shared["run"] for shared, alike in kinds if left_by_review(shared) for i in alike.names()}
    if lost := sorted(judged.accepted & runs.keys()):
        first = min(runs[i] for i in lost)
        raise VerdictError(
            f"{len(lost)} of {len(judged.accepted)} accepted slabs were left out by run {first} or later",
            where=path,
            why="they were not accepted then: the source's voxels are in force there, and the restored ones are kept",
            do=f"bring them back, then merge: zmend run {out} --revert {first} (one alone: --slab {lost[0][:12]})",
        )


def _leave_out(
    out: str, plan: Plan, judged: verdicts.Verdicts, lock: StoreLock, on_event: OnEvent
) -> dict[str, Any]:
    """Leave all slabs that were not accepted; a run of its own, which can be reverted."""
    run_id = new_name(out)
    ledger, arrays, files = Ledger(out, lock.held), made_arrays(out), Files(out)
    seen, unwanted = survey(ledger, arrays), {s.id: s for s in _unwanted(plan, judged, ledger)}
    with RunLog(out, run_id, {"merge": "accepted", "verdicts": judged.digest}, on_event) as tell:
        count = len(unwanted)
        tell({"kind": "begin", "run": run_id, "slabs": len(plan.slabs), "todo": count, "retired": count})
        if unwanted:
            State.now(out, seen.made).keep(out, run_id)
            files.put(f"zmend/runs/{run_id}/verdicts.csv", judged.text)
            signature.take_away(out, run_id, tell)
            forget_merge(out)
        retire(ledger, unwanted, Kept(out, arrays, lock.held), run_id)
        erase(seen.strays, arrays)
        orders = review.read(out)
        for slab in unwanted.values():
            order = orders.get(slab.id, {"attempt": 0})
            note = judged.rejected.get(slab.id, "not accepted")
            lock.held()
            more: dict[str, Any] = {"rejected": note, "verdicts": judged.digest}
            leave(slab, open_job(out, plan.hash, attempt=order["attempt"]), f"{REJECTED}{note}", run=run_id, **more)
        ledger.pack()
        tell({"kind": "end", "run": run_id, "slabs_left_out": len(unwanted)})
    return {"run": run_id, "slabs_accepted": len(judged.accepted), "slabs_left_out": len(unwanted)}


def _unwanted(plan: Plan, judged: verdicts.Verdicts, ledger: Ledger) -> Iterator[Slab]:
    """The slabs that were not accepted, but for those that are left as they were already."""
    kinds = (alike for rows in ledger.rows() for alike in rows.each_kind())
    left = {i for shared, alike in kinds if shared.get("given_up") for i in alike.names()}
    return (s for s in plan.slabs if s.id not in judged.accepted and s.id not in left)
