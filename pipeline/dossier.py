"""Dossier: all that a store knows of one slab: flags, plan, every attempt, its record, what became of it since."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline.account import events
from pipeline.blend import synthetic
from pipeline.box import Box
from pipeline.check import first
from pipeline.errors import UsageError, VolumeError, ZmendError
from pipeline.files import Files
from pipeline.flags import flagged
from pipeline.job import open_job
from pipeline.journal import read_merge
from pipeline.ledger import Ledger
from pipeline.plan import Plan, Slab
from pipeline.planfile import current_plan
from pipeline.review import read as reviews
from pipeline.sight import Job, look
from pipeline.store import made_arrays, open_merged
from pipeline.volume import voxels_sha256

Json = dict[str, Any]
SAID = (
    *("status", "run", "plan", "weights", "restorer", "recipe", "seed", "flags", "inputs_sha256", "voxels", "left"),
    *("quarantined", "bytes_read", "bytes_written", "seconds", "attempt", "rejected", "verdicts", "given_up"),
)
TOLD = ("slab", "failure", "straggler")  # events of a run's log that speak of one slab
BEFORE = ("slab", "run", "plan", "status", "seed", "attempt", "rejected")  # of records out of force
LISTED = 5  # slabs, where a name is that of several


def dossier(out: str, called: str) -> Json:
    """One slab's story, JSON-ready. `called`: the slab's id, how that begins, or a voxel `z,y,x` of the mended level.

    Reads what the slab read and wrote, and every run's log; writes nothing. `doubts` says what does not fit together.
    Raises UsageError where no slab, or more than one, is called so, VolumeError and PlanChangedError where the store
    cannot be read.
    """
    plan = current_plan(out)
    number = _number(plan, called)
    slab, ledger = plan.slabs[number], Ledger(out)
    open_job.cache_clear()  # what was opened before is not what lies there now
    job = open_job(out, plan.hash)
    record, doubts = _record(slab, ledger)
    chunks = [] if record is None else _chunks(record, out)
    inputs, merged = _inputs(slab, record, job), _merged(slab, out) if record else None
    told: Json = {
        "output": out,
        "slab": slab.id,
        "plan": {"hash": plan.hash, "number": number + 1, "of": len(plan.slabs)},
        "write": [list(slab.write.start), list(slab.write.stop)],
        "read": [list(slab.read.start), list(slab.read.stop)],
        "flags": _flags(slab, job),
        "state": "pending" if record is None else record["status"],
        "attempts": _attempts(out, slab.id),
        "record": None if record is None else {k: record[k] for k in SAID if k in record},
        "inputs_match": inputs,
        "chunks": chunks,
        "merged": merged,
        "verdict": reviews(out).get(slab.id),
        "history": _history(slab, ledger, out),
    }
    doubts += ["what it was made from has changed since, or cannot be read"] if record and inputs is not True else []
    doubts += [f"chunk {_words(c['box'])} is not what was written" for c in chunks if not c["as_written"]]
    doubts += ["the merged volume does not hold what was restored here"] if merged is False else []
    return {**told, "doubts": doubts, "ok": not doubts}


def _number(plan: Plan, called: str) -> int:
    """Where the slab stands in the plan."""
    found = _at_voxel(plan, called) if "," in called else _beginning_with(plan, called.lower())
    if len(found) == 1:
        return int(found[0])
    some = ", ".join(plan.slabs[int(i)].id[:12] for i in found[:LISTED])
    how_many = f"{len(found)} slabs are" if len(found) else "no slab of the plan in force is"
    raise UsageError(
        f"{how_many} called '{called}'",
        why="" if len(found) else "nothing is flagged there, or another plan had it",
        do=f"give more of its id: {some}" if len(found) else "zmend plan CONFIG --explain --json lists slabs; or z,y,x",
    )


def _at_voxel(plan: Plan, called: str) -> list[int]:
    try:
        z, y, x = (int(v) for v in called.split(","))
    except ValueError as e:
        raise UsageError(f"'{called}' is not a voxel", do="give three integers z,y,x: 812,4096,20480") from e
    boxes = plan.slabs.boxes
    inside = ((boxes[:, :3] <= (z, y, x)) & (boxes[:, 3:6] > (z, y, x))).all(axis=1)
    return [int(i) for i in np.flatnonzero(inside)]


def _beginning_with(plan: Plan, prefix: str) -> list[int]:
    """A million ids are looked through as bytes; an odd last digit is looked at in those few that are left."""
    if not prefix or len(prefix) > 32 or any(c not in "0123456789abcdef" for c in prefix):
        return []
    raw = np.frombuffer(plan.slabs.ids.tobytes(), np.uint8).reshape(-1, 16)
    whole = np.frombuffer(bytes.fromhex(prefix[: len(prefix) // 2 * 2]), np.uint8)
    same = (raw[:, : len(whole)] == whole).all(axis=1)
    if len(prefix) % 2:
        same &= (raw[:, len(whole)] >> 4) == int(prefix[-1], 16)
    return [int(i) for i in np.flatnonzero(same)]


def _record(slab: Slab, ledger: Ledger) -> tuple[Json | None, list[str]]:
    if not ledger.has(slab.id):
        return None, []
    try:
        return ledger.get(slab.id), []
    except VolumeError as e:
        return None, [f"its record cannot be trusted: {e.why}"]


def _flags(slab: Slab, job: Job) -> list[Json]:
    """The flags that reach into the write box, and how many of its voxels each covers."""
    found = []
    for f in job.flags.touching(slab.write):
        voxels = int((flagged([f], slab.write, job.read_mask) > 0).sum())
        about = {"class": f.kind, "box": [list(f.box.start), list(f.box.stop)], "mask": f.mask}
        found.append(about | {"source": f.source, "note": f.note, "voxels": voxels})
    return found


def _attempts(out: str, slab_id: str) -> list[Json]:
    """What the logs of all runs say of the slab, in order: failures, copies, and how it ended."""
    runs = Files(out) / "zmend/runs"
    return [
        {"run": name} | {k: v for k, v in event.items() if k not in ("slab", "write")}
        for name in sorted(runs.names() or ())
        for event in events(runs / name, about=slab_id)
        if event.get("kind") in TOLD and event.get("slab") == slab_id
    ]


def _chunks(record: Json, out: str) -> list[Json]:
    """Each chunk of the record, and whether overlay, labels and spread still are what was written."""
    arrays, found = list(made_arrays(out).values()), []
    for start, stop, *digests in record["chunks"]:
        box = Box(tuple(start), tuple(stop))
        try:
            same = [voxels_sha256(a.read(box)) for a in arrays[: len(digests)]] == digests
        except (ZmendError, OSError):
            same = False
        found.append({"box": [start, stop], "as_written": same})
    return found


def _inputs(slab: Slab, record: Json | None, job: Job) -> bool | None:
    """Whether what it was made from still is what it was; None where it is not made, or that cannot be read."""
    if record is None:
        return None
    try:
        return bool(look(slab, job).inputs_sha256 == record["inputs_sha256"])
    except (ZmendError, OSError):
        return None


def _merged(slab: Slab, out: str) -> bool | None:
    """Whether the merged volume holds what was restored; None where there is none, or it waits for a merge."""
    if read_merge(out) is None:
        return None
    try:
        arrays = made_arrays(out)
        made = synthetic(arrays["labels"].read(slab.write))
        return bool((open_merged(out).read(slab.write) == arrays["overlay"].read(slab.write))[made].all())
    except (ZmendError, OSError):
        return False


def _history(slab: Slab, ledger: Ledger, out: str) -> list[Json]:
    """Records that were in force at its place, and the run that took each out of force."""
    files, found = ledger.files / "retired", []
    for name in files.names() or ():
        try:
            record = json.loads(files.read(name) or b"")
            if record["write"] == [list(slab.write.start), list(slab.write.stop)]:
                by = name.split(".")[1]
                found.append({k: record[k] for k in BEFORE if k in record} | {"retired_by": by, "why": _why(out, by)})
        except (ValueError, KeyError, TypeError, IndexError) as e:
            found.append({"slab": name.split(".")[0], "doubt": f"this retired record cannot be read: {first(e)}"})
    return sorted(found, key=lambda r: str(r.get("retired_by", "")))


def _why(out: str, run: str) -> str:
    """What a run was that took records out of force."""
    try:
        asked = json.loads((Files(out) / f"zmend/runs/{run}").read("config.json") or b"{}")
    except ValueError:
        asked = {}
    if "revert" in asked:
        return f"revert of {asked['revert']}"
    return "merge of what was accepted" if "merge" in asked else "made anew"


def _words(box: Any) -> str:
    return str(Box(tuple(box[0]), tuple(box[1])))
