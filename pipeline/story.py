"""Story: all that a store knows of one voxel: what it is, who says that it was damaged, what made it, and from what."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.blend import LEFT, ORIGINAL, UNCERTAIN
from pipeline.box import ZYX, Box
from pipeline.check import first
from pipeline.errors import UsageError, VolumeError, ZmendError
from pipeline.files import Files
from pipeline.flags import flagged
from pipeline.job import made_as, open_job
from pipeline.ledger import Ledger
from pipeline.plan import Plan, Slab
from pipeline.planfile import current_plan
from pipeline.recipe import GREY_PER_COUNT
from pipeline.sight import Job, look
from pipeline.store import open_merged
from pipeline.volume import Volume, voxels_sha256

Json = dict[str, Any]
WORDS = (
    "original: no record may touch it",
    "synthesised: its whole section was flagged",
    "repaired: it lies in a flagged region",
    "feather band: made, and shifted to meet the known voxels at the rim of a flagged region",
    "left as it was: flagged, but not restored",
    "restored, but the ensemble disagrees: do not trust it",
)
TOLD = ("slab", "status", "run", "plan", "weights", "restorer", "recipe", "seed", "flags", "inputs_sha256")
REVIEWED = ("attempt", "rejected", "verdicts")  # of a slab that was made again after a review


def story(out: str, at: ZYX) -> Json:
    """One voxel's story, JSON-ready. `at` is (z, y, x) at the mended level. Reads; writes nothing.

    `doubts` says what does not fit together; `ok` is that nothing does not.
    Raises UsageError for a voxel beyond the volume, VolumeError and PlanChangedError where the store cannot be opened.
    """
    plan = current_plan(out)
    open_job.cache_clear()  # what was opened before is not what lies there now
    job = open_job(out, plan.hash)
    _check_inside(at, job)
    voxel = Box(at, (at[0] + 1, at[1] + 1, at[2] + 1))
    label = int(job.labels.read(voxel)[0, 0, 0])
    slab = _slab_at(plan, at)
    record, doubts = _record(slab, job)
    chunk = _chunk_at(record, at)
    told: Json = {
        "output": out,
        "at": list(at),
        "label": label,
        "meaning": WORDS[label] if label < len(WORDS) else "no label that zmend knows",
        "value": _value(out, voxel, label, job),
        "source_value": int(job.source.read(voxel)[0, 0, 0]),
        "flags": _flags(voxel, job),
        "uncertainty": _uncertainty(voxel, job),
        "record": None,
        "why_left": _why_left(record, at) if label == LEFT else "",
        "inputs_match": None,
        "chunk_matches": None,
        "history": _history(out, at),
    }
    if label == ORIGINAL:
        doubts = _doubts_of_an_original(told, voxel, job)
    elif record is not None and slab is not None:
        told["record"] = {k: record[k] for k in (*TOLD, "write", "read", *(k for k in REVIEWED if k in record))}
        told["inputs_match"] = _inputs_match(slab, record, job)
        told["chunk_matches"] = chunk is not None and _chunk_matches(chunk, job)
        doubts += _doubts_of_a_record(told, record, slab, job)
    else:
        doubts += ["its label says that zmend touched it, and no record of the plan does"] * (not doubts)
    return {**told, "doubts": doubts, "ok": not doubts}


def _check_inside(at: ZYX, job: Job) -> None:
    if all(0 <= n < size for n, size in zip(at, job.source.shape, strict=True)):
        return
    raise UsageError(
        f"voxel {','.join(map(str, at))} lies outside the volume",
        where=job.source.uri,
        why=f"the volume is {job.source.shape} (z, y, x), counted from 0",
        do="check the coordinates, their order (z, y, x) and the level of the pyramid that they are of",
    )


def _slab_at(plan: Plan, at: ZYX) -> Slab | None:
    """The slab whose write box holds the voxel; write boxes are disjoint."""
    boxes, here = plan.slabs.boxes, np.array(at)
    found = np.flatnonzero(((boxes[:, :3] <= here) & (here < boxes[:, 3:6])).all(axis=1))
    return plan.slabs[int(found[0])] if len(found) else None


def _record(slab: Slab | None, job: Job) -> tuple[Json | None, list[str]]:
    """The slab's record, if it has one that can be trusted, and what is wrong with one that cannot."""
    if slab is None or not job.ledger.has(slab.id):
        return None, []
    try:
        return job.ledger.get(slab.id), []
    except VolumeError as e:
        return None, [f"the record of slab {slab.id} cannot be trusted: {e.why}"]


def _chunk_at(record: Json | None, at: ZYX) -> list[Any] | None:
    """The record's chunk that holds the voxel: [start, stop, digests…]."""
    chunks = record["chunks"] if record else []
    return next((c for c in chunks if _holds(c, at)), None)


def _holds(corners: Any, at: ZYX) -> bool:
    return all(a <= n < b for a, n, b in zip(corners[0], at, corners[1], strict=True))


def _value(out: str, voxel: Box, label: int, job: Job) -> int:
    """The merged volume's; in a store without one the overlay's, where the voxel was touched, else the source's."""
    try:
        volume: Volume = open_merged(out)
    except VolumeError:
        volume = job.source if label == ORIGINAL else job.overlay
    return int(volume.read(voxel)[0, 0, 0])


def _flags(voxel: Box, job: Job) -> list[Json]:
    """The flags that cover the voxel, masks looked into, in the words of who set them."""
    # Each alone, as if it were to be restored: what do_not_touch says against the others is seen in the label.
    covering = (
        f for f in job.flags.touching(voxel) if flagged([replace(f, kind="damaged")], voxel, job.read_mask).any()
    )
    return [
        {"class": f.kind, "box": [list(f.box.start), list(f.box.stop)]}
        | {"mask": f.mask, "source": f.source, "note": f.note}
        for f in covering
    ]


def _uncertainty(voxel: Box, job: Job) -> Json | None:
    """The spread of the ensemble; None where the recipe draws none."""
    if job.uncertainty is None:
        return None
    counts = int(job.uncertainty.read(voxel)[0, 0, 0])
    return {"counts": counts, "grey_levels": counts * GREY_PER_COUNT, "refuse_above": job.recipe.refuse_above}


def _why_left(record: Json | None, at: ZYX) -> str:
    """Why a flagged voxel was not restored, in the record's words."""
    for part in record["left"] if record else []:
        (y0, x0), (y1, x1) = part["box"]
        if _holds([[part["z"][0], y0, x0], [part["z"][1], y1, x1]], at):
            return str(part["why"])
    return ""


def _inputs_match(slab: Slab, record: Json, job: Job) -> bool | None:
    """Whether what the slab was made from still is what it was; None where that cannot be read."""
    try:
        return bool(look(slab, job).inputs_sha256 == record["inputs_sha256"])
    except (ZmendError, OSError):
        return None


def _chunk_matches(chunk: list[Any], job: Job) -> bool:
    """Whether the chunk of the voxel still is what was written: overlay, labels and, where there is one, spread."""
    box = Box(tuple(chunk[0]), tuple(chunk[1]))
    arrays = [job.overlay, job.labels, *([job.uncertainty] if job.uncertainty is not None else [])]
    try:
        return [voxels_sha256(a.read(box)) for a in arrays[: len(chunk) - 2]] == chunk[2:]
    except (ZmendError, OSError):
        return False


def _doubts_of_an_original(told: Json, voxel: Box, job: Job) -> list[str]:
    waiting = bool(flagged(job.flags.touching(voxel), voxel, job.read_mask).any())
    return _true(
        {
            "it is not the source's, though no label says that it was touched": told["value"] != told["source_value"],
            "it is flagged, and nothing has been done about it: run again": waiting,
        }
    )


def _doubts_of_a_record(told: Json, record: Json, slab: Slab, job: Job) -> list[str]:
    label = told["label"]
    placed = Slab.of([slab.id, *record["write"], *record["read"]]) == slab
    return _true(
        {
            "its record was made with another recipe or other weights": not made_as(record, job.bound),
            "its record was made for another place than the plan's": not placed,
            "what it was made from has changed since": told["inputs_match"] is False,
            "what it was made from cannot be read": told["inputs_match"] is None,
            "its chunk is not what was written": not told["chunk_matches"],
            "it was left as it was, and is not the source's": label == LEFT and told["value"] != told["source_value"],
            "no flag covers it": not told["flags"],
            "its label speaks of an ensemble, and there is none": label == UNCERTAIN and not told["uncertainty"],
        }
    )


def _true(doubts: dict[str, bool]) -> list[str]:
    return [words for words, holds in doubts.items() if holds]


def _history(out: str, at: ZYX) -> list[Json]:
    """Retired records whose slab held the voxel, and the run that retired each. Reads every retired record."""
    files = Ledger(out).files / "retired"
    return [told for name in files.names() or () if (told := _retired(files, name, at)) is not None]


def _retired(files: Files, name: str, at: ZYX) -> Json | None:
    try:
        record = json.loads(files.read(name) or b"")
        touched = _chunk_at(record, at) is not None
        return {k: record[k] for k in TOLD} | {"retired_by": name.split(".")[1]} if touched else None
    except (ValueError, KeyError, TypeError, IndexError) as e:
        return {"slab": name.split(".")[0], "doubt": f"this retired record cannot be read: {first(e)}"}
