"""Verify: is the store what its records say? Every check reads the disk again and trusts nothing that the run said."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import certificate
from pipeline.blend import LEFT, RESTORED, UNCERTAIN, refused, synthetic
from pipeline.box import ZYX, Box
from pipeline.errors import PlanChangedError, VolumeError, ZmendError
from pipeline.files import Files
from pipeline.flags import flagged
from pipeline.job import current_plan, open_job
from pipeline.lock import holder
from pipeline.merge import audit, read_merge, source_manifest
from pipeline.plan import Plan, Slab
from pipeline.slab import Job, chunks, compute
from pipeline.store import has_uncertainty, misdescribed, open_merged, read_attrs
from pipeline.volume import Volume

SHOWN = 5  # findings named per check; the rest is counted


@dataclass
class Check:
    """One question and its answer."""

    name: str
    findings: list[str] = field(default_factory=list)
    detail: str = ""
    early: str = ""  # why nothing is wrong but that the run has not ended

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        more = [f"and {len(self.findings) - SHOWN} more"] if len(self.findings) > SHOWN else []
        return {
            "name": self.name,
            "ok": not self.findings,
            "detail": self.detail,
            "findings": self.findings[:SHOWN] + more,
        }


def verify(
    out: str,
    *,
    replay: int = 0,
    seed: int = 0,
    threads: int = 4,
    on_check: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Run every check and return {"ok", "checks", "voxels_changed_outside_mask", …}. Writes nothing.

    replay: this many finished slabs, drawn with `seed`, are computed anew and compared bit for bit.
    """
    try:
        read_attrs(out)
        plan = current_plan(out)
        open_job.cache_clear()  # what was opened before is not what lies there now
        job = open_job(out, plan.hash)
        merged = _merged(out)
    except (PlanChangedError, VolumeError, ValueError) as e:
        if "plans" not in ((Files(out) / "zmend").names() or ()):
            raise  # no store of ours: a wrong path, not a failed proof
        return _unopened(out, e, on_check)
    records, spoiled = _records(plan, job)
    tally: Counter[str] = Counter()
    steps: dict[str, Callable[[], Check]] = {
        "structure": lambda: _structure(out, job, merged),
        "finished": lambda: _finished(out, plan, records, spoiled, job, merged is not None),
        "inputs": lambda: _inputs(plan, job),
        "digests": lambda: _digests(records, job, threads, tally),
        "lineage": lambda: _lineage(plan, records, job),
        "certificate": lambda: _certificate(out, job, recompute=replay > 0),
    }
    if merged is not None and read_merge(out) is not None:  # else it is no volume yet, which "finished" says
        steps["identity"] = lambda: _identity(merged, job, threads, tally)
        steps["pyramid"] = lambda: _pyramid(out, job, threads)
    if replay:
        steps["replay"] = lambda: _replay(plan, records, job, replay, seed)
    answers = []
    for name, step in steps.items():
        answers.append(_answer(name, step))
        on_check(answers[-1].document())
    return {
        "ok": not any(a.findings for a in answers),
        "unfinished": _unfinished(answers),
        "checks": [a.document() for a in answers],
        "output": out,
        "plan": plan.hash,
        "slabs": len(plan.slabs),
        "voxels_compared": tally["compared"],
        "voxels_changed_outside_mask": tally["changed"] if "identity" in steps else None,
        "voxels_synthetic": tally["synthetic"],
        "voxels_uncertain": tally["uncertain"],
        "voxels_left": tally["left"],
        "replayed": min(replay, len(records)),
    }


def _unfinished(answers: list[Check]) -> str:
    """What the run still has to do, where that is all that is wrong."""
    failed = [a for a in answers if a.findings]
    early = next((a.early for a in failed if a.name == "finished"), "")
    return early if all(a.early for a in failed) else ""


def _unopened(out: str, error: Exception, on_check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The verdict on a store that cannot even be opened as a whole."""
    check = Check("structure", [_first(error)], "the store cannot be opened").document()
    on_check(check)
    return {
        "ok": False,
        "unfinished": "",
        "checks": [check],
        "output": out,
        "plan": "",
        "slabs": 0,
        "voxels_compared": 0,
        "voxels_changed_outside_mask": None,
        "voxels_synthetic": 0,
        "voxels_uncertain": 0,
        "voxels_left": 0,
        "replayed": 0,
    }


def _records(plan: Plan, job: Job) -> tuple[dict[str, Any], list[str]]:
    """The records of the plan's slabs by id, and what is wrong with those that cannot be trusted."""
    records, spoiled = {}, []
    for slab in plan.slabs:
        if not job.ledger.has(slab.id):
            continue
        try:
            records[slab.id] = job.ledger.get(slab.id)
        except VolumeError as e:
            spoiled.append(f"slab {slab.id}: {e.what}: {e.why}")
    return records, spoiled


def _answer(name: str, step: Callable[[], Check]) -> Check:
    """The step's answer; that a file cannot be read at all is an answer too."""
    try:
        return step()
    except Exception as e:  # a store that was tampered with fails in any way there is; each of them is an answer
        return Check(name, [f"{_first(e)} ({type(e).__name__})"], "could not be carried out")


def _first(error: BaseException) -> str:
    return str(error).splitlines()[0]


def _merged(out: str) -> Volume | None:
    """The merged volume; None in a store that was asked to stop before the merge and never got one."""
    try:
        return open_merged(out)
    except VolumeError:
        if read_attrs(out)["zmend"].get("mode") == "overlay" and Files(out).stat("zmend/merge.json") is None:
            return None
        raise


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


def _finished(out: str, plan: Plan, records: dict[str, Any], spoiled: list[str], job: Job, volume_mode: bool) -> Check:
    """Every slab has its record, and the merge came after the last of them."""
    check = Check("finished", list(spoiled))
    merge = read_merge(out) if volume_mode else None
    late = [f"slab {s.id} {s.write} has no record: run again" for s in _waiting(plan, records)]
    if volume_mode and merge is None:
        late.append("the overlay was never merged: run again, or zmend merge")
    if who := holder(out):
        late.insert(0, f"{who} is at work here: verify when it has ended")
    if late and not spoiled and merge is None:  # once merged, every slab had its record
        check.early = f"the run has not ended, {len(records)} of {len(plan.slabs)} slabs are done"
    check.findings += late + job.ledger.packs.faults()
    if merge is not None and merge["source_manifest"] != source_manifest(job.source):
        check.findings.append(
            "chunks of the source differ from those merged: it was changed (then run again), or somebody wrote "
            "a linked chunk of the output in place (then bring the source back from a copy first)"
        )
    check.detail = f"{len(records)} of {len(plan.slabs)} slabs"
    return check


def _waiting(plan: Plan, records: dict[str, Any]) -> list[Slab]:
    return [s for s in plan.slabs if s.id not in records]


def _inputs(plan: Plan, job: Job) -> Check:
    """The source still is what the plan was made for."""
    check = Check("inputs")
    if job.source.fingerprint() != plan.header["source"]["fingerprint"]:
        check.findings.append("the source's metadata changed since the plan")
    check.detail = f"source {plan.header['source']['fingerprint'][:12]}, weights {job.needs.digest[:12]}"
    return check


def _digests(records: dict[str, Any], job: Job, threads: int, tally: Counter[str]) -> Check:
    """Every chunk that a record names is there and hashes to what the record says; labels add up."""
    check = Check("digests")
    work = [(slab, Box(tuple(c[0]), tuple(c[1])), c[2:]) for slab, r in records.items() for c in r["chunks"]]

    def look(item: tuple[str, Box, list[str]]) -> tuple[str, list[str], Counter[int]]:
        slab, box, said = item
        arrays = {"overlay": job.overlay, "label": job.labels}
        if job.uncertainty is not None and len(said) > len(arrays):
            arrays["uncertainty"] = job.uncertainty
        try:
            seen = {name: array.read(box) for name, array in arrays.items()}
        except (ZmendError, OSError) as e:
            return slab, [f"slab {slab}: {_first(e)}"], Counter()
        marks = seen["label"]
        wrong = _unflagged(box, marks, job) + _unlike(box, marks, seen.get("uncertainty"), job)
        wrong += [f"slab {slab}, chunk {box} has {len(said)} digests"] * (len(said) != len(arrays))
        wrong += [
            f"slab {slab}, {name} chunk {box} is not what was written"
            for (name, array), digest in zip(seen.items(), said, strict=False)
            if sha256(array.tobytes()).hexdigest() != digest
        ]
        values, counts = np.unique(marks, return_counts=True)
        return slab, wrong, Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    sums: dict[str, Counter[int]] = {slab: Counter() for slab in records}
    with ThreadPoolExecutor(threads) as pool:
        for slab, wrong, counts in pool.map(look, work):
            check.findings += wrong
            sums[slab] += counts
    for slab, record in records.items():
        if Counter({int(k): n for k, n in record["voxels"].items()}) != Counter({**sums[slab], 0: 0}):
            check.findings.append(f"slab {slab} recorded {record['voxels']} voxels, its labels hold {dict(sums[slab])}")
        tally["synthetic"] += sum(sums[slab][v] for v in RESTORED)
        tally["uncertain"] += sums[slab][UNCERTAIN]
        tally["left"] += sums[slab][LEFT]
    check.detail = f"{len(work)} chunks read back and hashed"
    return check


def _unflagged(box: Box, marks: NDArray[Any], job: Job) -> list[str]:
    """Labelled voxels that no flag tells of."""
    beyond = int(((marks > 0) & (flagged(job.flags.touching(box), box, job.read_mask) == 0)).sum())
    return [f"{beyond} labelled voxels in {box} are not flagged"] if beyond else []


def _unlike(box: Box, marks: NDArray[Any], counts: NDArray[Any] | None, job: Job) -> list[str]:
    """Where labels and spread contradict each other: spread where nothing was restored, label 5 on the wrong side."""
    spread = np.zeros(marks.shape, np.uint8) if counts is None else counts
    made = synthetic(marks)
    beyond = int(((spread > 0) & ~made).sum())
    wrong = int((made & ((marks == UNCERTAIN) != refused(spread, job.recipe.refuse_above))).sum())
    said = [f"{beyond} voxels in {box} have a spread, and were not restored"] if beyond else []
    said += [f"{wrong} voxels in {box} are labelled uncertain, or are not, against their spread"] if wrong else []
    lost = job.uncertainty is not None and counts is None and bool(made.any())
    return said + [f"the restored voxels in {box} have no spread on record"] * lost


def _lineage(plan: Plan, records: dict[str, Any], job: Job) -> Check:
    """Each synthetic voxel has exactly one current record, and each record the plan's weights, flags and recipe."""
    check = Check("lineage")
    owner: dict[Box, str] = {}
    spread: set[Box] = set()
    found: list[Box] = []
    for slab, record in records.items():
        for c in record["chunks"]:
            box = Box(tuple(c[0]), tuple(c[1]))
            if box in owner:
                check.findings.append(f"chunk {box} has two records: {owner[box]} and {slab}")
            owner[box] = slab
            spread |= {box} if len(c) > 4 else set()
        if any(record[k] != job.bound[k] for k in ("recipe", "weights", "restorer", "seed")):
            check.findings.append(f"slab {slab} was made with another recipe or other weights")
        if Slab.of([slab, *record["write"], *record["read"]]) not in plan.slabs:
            check.findings.append(f"slab {slab} was made for another place than the plan's")
    for array, name, known in (
        (job.labels, "label", owner.keys()),
        (job.overlay, "overlay", owner.keys()),
        (job.uncertainty, "uncertainty", spread),
    ):
        strays = [box for box in array.present() if box not in known] if array is not None else []
        check.findings += [f"{name} chunk {box} has no record" for box in strays]
        found += strays
    places = [s.write for s in _waiting(plan, records)]
    if found and len(found) == len(check.findings) and all(any((b & w).size for w in places) for b in found):
        check.early = "slabs were stopped half-way"
    check.findings += [f"records {a} and {b} overlap" for a, b in _overlaps(plan.slabs)]
    check.detail = f"{len(owner)} chunks, each of one record"
    return check


def _overlaps(slabs: Sequence[Slab]) -> Iterator[tuple[str, str]]:
    by_run: dict[tuple[int, int], list[Slab]] = {}
    for s in slabs:
        by_run.setdefault((s.write.start[1], s.write.start[2]), []).append(s)
    for group in by_run.values():
        ordered = sorted(group, key=lambda s: s.write.start[0])
        yield from ((a.id, b.id) for a, b in pairwise(ordered) if (a.write & b.write).size)


def _identity(merged: Volume, job: Job, threads: int, tally: Counter[str]) -> Check:
    """Outside the mask the merged volume is the source, voxel for voxel; inside it is the overlay."""
    check = Check("identity")
    whole = Box.of(job.source.shape)

    def look(cell: Box) -> tuple[int, int, str]:
        box = cell & whole
        try:
            source, made, marks = job.source.read(box), merged.read(box), job.labels.read(box)
            kept = ~synthetic(marks)
            astray = int(((job.overlay.read(box) != made) & ~kept).sum()) if not kept.all() else 0
        except (ZmendError, OSError) as e:
            return 0, 0, _first(e)
        changed = int(((source != made) & kept).sum())
        said = f"{changed} voxels outside the mask differ from the source in {box}" if changed else ""
        return (
            changed,
            int(kept.sum()),
            said or (f"{astray} synthetic voxels are not the overlay's in {box}" if astray else ""),
        )

    with ThreadPoolExecutor(threads) as pool:
        for changed, kept, finding in pool.map(look, whole.cells(_coarse_grain(job.source))):
            tally.update(changed=changed, compared=kept)
            check.findings += [finding] if finding else []
    check.detail = f"{tally['compared']} voxels outside the mask compared, {tally['changed']} differ"
    return check


def _pyramid(out: str, job: Job, threads: int) -> Check:
    """Coarser levels, voxels and labels, are what the mended level makes of them, and the source's elsewhere."""
    check, coarser = Check("pyramid"), job.source.pyramid()[1:]
    with ThreadPoolExecutor(threads) as pool:
        for i, source in enumerate(coarser, start=1):
            whole = Box.of(source.shape)
            boxes = [cell & whole for cell in whole.cells(_coarse_grain(source))]
            wrong = list(pool.map(lambda box, i=i: audit(job.source, out, i, box), boxes))
            for what, count in (("voxels", sum(w[0] for w in wrong)), ("labels", sum(w[1] for w in wrong))):
                check.findings += [f"{count} {what} of level {i} are not what is under them"] if count else []
    check.detail = f"{len(coarser)} coarser levels computed anew"
    return check


def _coarse_grain(volume: Volume) -> ZYX:
    """Whole chunks, and not too small a bite."""
    z, y, x = volume.grain
    return z, -(-512 // y) * y, -(-512 // x) * x


def _certificate(out: str, job: Job, *, recompute: bool) -> Check:
    """The certificate is of the plan in force and says what its tiles say; computed anew, they come out the same."""
    found = certificate.read(out)
    check = Check("certificate", detail=certificate.sentence(found))
    if found is None:
        return check
    failed = found["status"] == "failed"
    if found["bound"] != job.bound:
        check.findings.append("it belongs to another plan than the one in force: run again")
    again = certificate.summarise(found["bound"], found["asked"], found["tiles"], found["why"], failed=failed)
    check.findings += ["its means are not those of its tiles"] if again != found else []
    if recompute and not check.findings and not failed:
        check.findings += _recomputed(found, job)
        check.detail += "; computed anew"
    return check


def _recomputed(found: dict[str, Any], job: Job) -> Iterator[str]:
    slabs, _ = certificate.probes(job, found["asked"])
    rows = [json.loads(json.dumps(certificate.measure(slab, job))) for slab in slabs]
    said = {json.dumps([r["z"], r["box"]]): r for r in found["tiles"]}
    now = {json.dumps([r["z"], r["box"]]): r for r in rows}
    if said.keys() != now.keys():
        yield "other tiles would be measured now: the source or the flags changed"
        return
    for at, row in now.items():
        if row["inputs_sha256"] != said[at]["inputs_sha256"]:
            yield f"tile {at}: its inputs are not the inputs that were read then"
        elif not certificate.alike(row, said[at]):
            yield f"tile {at} comes out differently"


def _replay(plan: Plan, records: dict[str, Any], job: Job, count: int, seed: int) -> Check:
    """Slabs drawn at random, computed anew from the source, are bit for bit what the store holds."""
    check = Check("replay")
    # What was given up made the restorer fail: that it would again proves nothing.
    slabs = [s for s in plan.slabs if s.id in records and not records[s.id].get("given_up")]
    drawn = random.Random(seed).sample(slabs, min(count, len(slabs)))
    for slab in drawn:
        check.findings += _replayed(slab, records[slab.id], job)
    check.detail = f"{len(drawn)} slabs computed anew (draw seed {seed})"
    return check


def _replayed(slab: Slab, record: dict[str, Any], job: Job) -> list[str]:
    result = compute(slab, job)
    if result.inputs_sha256 != record["inputs_sha256"]:
        return [f"slab {slab.id}: its inputs are not the inputs that were read then"]
    made = {content.box: content.digests() for content in chunks(slab, job, result)}
    said = {Box(tuple(c[0]), tuple(c[1])): c[2:] for c in record["chunks"]}
    return [
        f"slab {slab.id}: chunk {b} comes out differently"
        for b in made.keys() | said.keys()
        if made.get(b) != said.get(b)
    ]
