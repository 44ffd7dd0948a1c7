"""Verify: is the store what its records say? Every check reads the disk again and trusts nothing that the run said.

Levels, each with all before it; LEVELS says which checks are whose:

structure   documents, shapes, OME attributes, the seal; every slab has its record; the source's metadata, the weights;
            reads no voxels
digests     every chunk that a record names is read and hashed, and held against flags and spread
identity    outside the mask the merged volume is the source, voxel for voxel; coarser levels computed anew
lineage     every synthetic voxel has one record, and its plan, weights and inputs still match; the certificate too
replay      slabs drawn at random, and the certificate, are made anew
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from pipeline import digests, identity, lineage, signature
from pipeline.check import Check, answer, first
from pipeline.errors import PlanChangedError, VolumeError
from pipeline.files import Files
from pipeline.foundation import misdescribed
from pipeline.job import open_job
from pipeline.journal import read_merge
from pipeline.planfile import current_plan
from pipeline.replay import certified, replay_slabs
from pipeline.sight import Job
from pipeline.store import has_uncertainty, open_merged, read_attrs
from pipeline.volume import Volume

Level = Literal["structure", "digests", "identity", "lineage", "replay"]
LEVELS: dict[Level, tuple[str, ...]] = {
    "structure": ("structure", "seal", "finished", "inputs"),
    "digests": ("digests",),
    "identity": ("identity", "pyramid"),
    "lineage": ("lineage", "sources", "certificate", "signature"),
    "replay": ("replay",),
}
REPLAYED = 3  # slabs, where the level is replay and nobody says how many


def asked_for(level: Level) -> set[str]:
    """The names of the checks of a level and of all below it."""
    order = list(LEVELS)
    return {name for each in order[: order.index(level) + 1] for name in LEVELS[each]}


def verify(
    out: str,
    *,
    level: Level = "lineage",
    replay: int = 0,
    seed: int = 0,
    threads: int = 4,
    public: str = "",
    on_check: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the checks of a level and return {"ok", "checks", "voxels_changed_outside_mask", …}. Writes nothing.

    replay: this many finished slabs, drawn with `seed`, are computed anew and compared bit for bit; more than none
    means the level `replay`. public: the key (hexadecimal)
    that the store must be signed with. Counts that the level does not look at are None.
    """
    level = "replay" if replay else level
    replay = replay or (REPLAYED if level == "replay" else 0)
    try:
        read_attrs(out)
        plan = current_plan(out)
        open_job.cache_clear()  # what was opened before is not what lies there now
        job = open_job(out, plan.hash)
        merged = _merged(out)
    except (PlanChangedError, VolumeError, ValueError) as e:
        if "plans" not in ((Files(out) / "zmend").names() or ()):
            raise  # no store of ours: a wrong path, not a failed proof
        check = Check("structure", [first(e)], "the store cannot be opened")
        on_check(check.document())
        return _report(out, level, [check], Counter(), set())
    records, spoiled = lineage.records(plan, job)
    tally: Counter[str] = Counter()
    steps: dict[str, Callable[[], Check]] = {
        "structure": lambda: _structure(out, job, merged),
        "seal": lambda: lineage.sealed(out),
        "finished": lambda: lineage.finished(out, plan, records, spoiled, job, merged is not None),
        "inputs": lambda: lineage.inputs(plan, job),
        "digests": lambda: digests.digests(records, job, threads, tally),
        "lineage": lambda: lineage.lineage(plan, records, job),
        "sources": lambda: lineage.sources(records, job),
        "certificate": lambda: certified(out, job, recompute=replay > 0),
        "replay": lambda: replay_slabs(plan, records, lambda n: open_job(out, plan.hash, attempt=n), replay, seed),
    }
    if public or Files(out).stat(signature.KEY) is not None or signature.taken_by(out):
        steps["signature"] = lambda: _signature(out, public)
    if merged is not None and read_merge(out) is not None:  # else it is no volume yet, which "finished" says
        steps["identity"] = lambda: identity.identity(merged, job, threads, tally)
        steps["pyramid"] = lambda: identity.pyramid(out, job, threads)
    names = [name for each in LEVELS.values() for name in each if name in steps and name in asked_for(level)]
    answers = []
    for name in names:
        answers.append(answer(name, steps[name]))
        on_check(answers[-1].document())
    found = _report(out, level, answers, tally, set(names))
    return {**found, "plan": plan.hash, "slabs": len(plan.slabs), "replayed": min(replay, len(records))}


def _report(out: str, level: Level, answers: list[Check], tally: Counter[str], names: set[str]) -> dict[str, Any]:
    """The verdict. A count is None, not 0, where its check was not carried out: nobody looked."""
    ended = {a.name for a in answers if a.detail != "could not be carried out"} & names
    counts = {"identity": ("compared", "changed"), "digests": ("synthetic", "uncertain", "left")}
    known = {k: tally[k] if name in ended else None for name, keys in counts.items() for k in keys}
    return {
        "ok": not any(a.findings for a in answers),
        "level": level,
        "unfinished": _unfinished(answers),
        "checks": [a.document() for a in answers],
        "output": out,
        "plan": "",
        "slabs": 0,
        "voxels_compared": known["compared"],
        "voxels_changed_outside_mask": known["changed"],
        "voxels_synthetic": known["synthetic"],
        "voxels_uncertain": known["uncertain"],
        "voxels_left": known["left"],
        "replayed": 0,
    }


def _unfinished(answers: list[Check]) -> str:
    """What the run still has to do, where that is all that is wrong."""
    failed = [a for a in answers if a.findings]
    early = next((a.early for a in failed if a.name == "finished"), "")
    return early if all(a.early for a in failed) else ""


def _merged(out: str) -> Volume | None:
    """The merged volume; None in a store that was asked to stop before the merge and never got one."""
    try:
        return open_merged(out)
    except VolumeError:
        if read_attrs(out)["zmend"].get("mode") == "overlay" and Files(out).stat("zmend/merge.json") is None:
            return None
        raise


def _signature(out: str, public: str) -> Check:
    """The store is signed, and is what was signed; with a key, by its owner. Told where it no longer is."""
    if not public and (run := signature.taken_by(out)):
        return Check("signature", [], f"none: run {run} took it away; {signature.AGAIN}")
    said = f"by the owner of {public[:16]}…" if public else "by whoever made it: --key FILE says who it must be"
    return Check("signature", signature.faults(out, public), f"{signature.covered(out)}, not what runs told: {said}")


def _structure(out: str, job: Job, merged: Volume | None) -> Check:
    """Shapes, dtypes and chunk depths are those of the source."""
    check, source = Check("structure"), job.source
    arrays = [("zmend/overlay", job.overlay, source.dtype), ("labels/synthetic", job.labels, np.dtype(np.uint8))]
    arrays += [("zmend/uncertainty", job.uncertainty, np.dtype(np.uint8))] if job.uncertainty is not None else []
    arrays += [("the merged volume", merged, source.dtype)] if merged is not None else []
    for name, array, dtype in arrays:
        if array.shape != source.shape or array.dtype != dtype:
            check.findings.append(f"{name} is {array.dtype} {array.shape}, the source {dtype} {source.shape}")
    if job.uncertainty is None and has_uncertainty(out):
        check.findings.append("zmend/uncertainty is there, though the recipe asks for none: run again")
    check.findings += [
        f"the OME attributes of {group} are not what they must be" for group in misdescribed(out, source)
    ]
    check.detail = f"{len(arrays)} arrays of {source.shape}"
    return check
